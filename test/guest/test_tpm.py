#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A virtual TPM in a real guest: what it remembers goes along with snapshots, reverts and copies."""
import os, signal, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from tpm import *


def contents(d, vm):
    """What the row of the VM's or the snapshot's TPM holds."""
    hex_, = d.sql(f"SELECT contents FROM VTPM WHERE VM = (SELECT ref FROM VM WHERE uuid = '{vm}')")
    return bytes.fromhex(hex_)


def test_it_remembers():
    with golden('tpm') as (d, vm, s):
        tpm = Tpm(s)
        tpm.define()
        tpm.write('before')
        snap = d.snapshot(vm)
        tpm.write('after')
        qemu = d.guests()[vm]
        users = {os.stat(f'/proc/{pid}').st_uid for pid in [qemu, *emulators(d, vm)]}
        assert len(emulators(d, vm)) == 1 and len(users) == 1 and users != {0}, users
        d.restart()
        assert tpm.read() == 'after', 'the TPM outlives the daemon'
        s.close()
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert not emulators(d, vm)
        with d.boot(vm) as s:
            assert Tpm(s).read() == 'after'
            Tpm(s).write('killed')
            os.kill(d.guests()[vm], signal.SIGKILL)
        d.wait_state(vm, 'halted')
        assert not emulators(d, vm)
        with d.boot(vm) as s:
            assert Tpm(s).read() == 'killed'
        d.xe('snapshot-revert', uuid=snap)
        with d.boot(vm) as s:
            assert Tpm(s).read() == 'before', 'the TPM is not of the snapshot'
        copy = d.xe('vm-install', template=snap, new_name_label='copy')
        with d.boot(copy) as s:
            assert Tpm(s).read() == 'before'
            Tpm(s).write('copy')
        with Serial(d, vm) as s:
            assert Tpm(s).read() == 'before', 'the two have one TPM'
        d.xe('vm-shutdown', '--force', '--multiple')
        d.check()


def test_it_comes_back_from_memory():
    """Its registers and what it remembers are those of then: after a sleep, after a revert, after another one, and where
    the VM has lost its TPM since."""
    with golden('tpm') as (d, vm, s):
        Tpm(s).define()
        Tpm(s).write('then')
        Tpm(s).extend(16, 1)
        then = Tpm(s).register(16)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')

        def is_of_then(s):
            assert Tpm(s).register(16) == then and Tpm(s).read() == 'then', (Tpm(s).register(16), Tpm(s).read())
            assert len(emulators(d, vm)) == 1 and list(emulators(d, vm).values())[0] == os.stat(f'/proc/{d.guests()[vm]}').st_uid

        for _ in range(2):
            d.xe('vm-suspend', uuid=vm)
            assert not emulators(d, vm) and b'then' in contents(d, vm)
            d.restart()
            d.xe('vm-resume', uuid=vm)
            s.close()
            s = again(d, vm)
            is_of_then(s)
        for before in ('running', 'running', 'suspended', 'halted', 'without'):
            Tpm(s).extend(16, 2)
            Tpm(s).write('since')
            assert Tpm(s).register(16) != then
            s.close()
            if before == 'suspended':
                d.xe('vm-suspend', uuid=vm)
            if before in ('halted', 'without'):
                d.xe('vm-shutdown', '--force', uuid=vm)
            if before == 'without':
                d.xe('vtpm-destroy', '--force', uuid=d.list('vtpm', vm_uuid=vm)[0])
            d.xe('snapshot-revert', uuid=snap, resume='true')
            s = again(d, vm)
            is_of_then(s)
        s.close()
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert b'then' in contents(d, vm) and b'since' not in contents(d, vm)
        d.check()


def test_what_is_written_while_memory_is_saved():
    """It is not in the checkpoint: neither in its memory nor in what a start without that would find."""
    with golden('tpm') as (d, vm, s):
        Tpm(s).define()
        Tpm(s).write('then')
        s.fill(64)
        results, late = [], []
        t = threading.Thread(target=lambda: results.append(d.run('vm-checkpoint', uuid=vm, new_name_label='c')))
        t.start()
        wait_for(lambda: 'memory is being sent' in d.log())
        while t.is_alive():
            Tpm(s).write('late')
            late.append(t.is_alive())
        t.join()
        assert results[0][0] == 0 and late.count(True) >= 1, (results, late)
        snap = results[0][1].strip()
        assert b'then' in contents(d, snap) and b'late' not in contents(d, snap)
        s.close()
        d.xe('snapshot-revert', uuid=snap, resume='true')
        s = again(d, vm)
        assert Tpm(s).read() == 'then'
        s.close()


def test_left_alone():
    """The daemon dies between the start of the emulator and that of QEMU, at a start and when the VM comes back: the next
    daemon ends the emulator, which would wait for ever."""
    with Daemon() as d:
        vm = d.vm(memory='64MiB')
        d.xe('vtpm-create', vm_uuid=vm)
        for verb, state in (('vm-start', 'halted'), ('vm-resume', 'suspended')):
            left = 0
            for n in range(1, 60):
                d.kill()
                d.start(env={'STILLFRAME_CRASH_AT': str(n)})
                if d.run(verb, uuid=vm)[0] == 0:
                    break
                d.process.wait(30)
                left += bool(emulators(d, vm)) and not d.guests()
                d.start()
                d.check()
                if d.state_of(vm) == 'running':
                    break
                assert d.state_of(vm) == state and not emulators(d, vm) and not d.guests(), f'{verb}, point {n}'
            assert left, f'{verb}: at no point there was an emulator alone'
            d.kill()
            d.start()
            d.xe('vm-suspend', uuid=vm)
        d.check()


main(globals())
