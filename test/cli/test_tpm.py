#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""VTPMs: their rules, and what becomes of what they remember.  The emulator's file is written by the test."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *


def contents(d, vm):
    return d.sql(f"SELECT contents FROM VTPM WHERE VM = (SELECT ref FROM VM WHERE uuid = '{vm}')")


def file_of(d, vm):
    return os.path.join(d.state, 'run', vm, 'tpm', 'state', 'tpm2-00.permall')


def write(d, vm, word):
    with open(file_of(d, vm), 'wb') as f:
        f.write(word)


def read(d, vm):
    with open(file_of(d, vm), 'rb') as f:
        return f.read()


def text(word):
    return [word.hex()]


def test_rules():
    with in_common() as d:
        vm = d.vm('vm')
        assert contents(d, vm) == []
        vtpm = d.xe('vtpm-create', vm_uuid=vm)
        assert d.list('vtpm', vm_uuid=vm) == [vtpm] and d.get('vtpm', vtpm, 'allowed-operations') == 'destroy'
        assert d.get('vm', vm, 'vtpms') == vtpm
        assert 'contents' not in d.xe('vtpm-param-list', uuid=vtpm)
        d.fails('vtpm-create', vm_uuid=vm, says='this many virtual TPMs')
        snap = d.snapshot(vm)
        d.fails('vtpm-create', vm_uuid=snap, says='snapshot')
        d.xe('vm-start', uuid=vm)
        d.fails('vtpm-destroy', '--force', uuid=vtpm, says='power state')
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.fails('vtpm-destroy', '--force', uuid=d.list('vtpm', vm_uuid=snap)[0], says='snapshot')
        d.xe('vtpm-destroy', '--force', uuid=vtpm)
        assert d.list('vtpm', vm_uuid=vm) == []
        d.xe('vm-param-set', 'platform:vtpm=true', uuid=vm)
        d.xe('vm-start', uuid=vm)
        assert len(d.list('vtpm', vm_uuid=vm)) == 1
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-uninstall', '--force', uuid=vm)
        assert d.list('vtpm') == [] and not os.path.exists(os.path.join(d.state, 'run', vm))


def test_remembers():
    with Daemon('fake') as d:
        vm = d.vm('vm')
        d.xe('vtpm-create', vm_uuid=vm)
        d.xe('vm-start', uuid=vm)
        write(d, vm, b'one')
        snap = d.snapshot(vm)
        assert contents(d, snap) == text(b'one')
        write(d, vm, b'two')
        d.kill()
        os.unlink(os.path.join(d.state, 'run', vm, 'fake.json'))     # the VM ends with the daemon
        d.start()
        d.wait_state(vm, 'halted')
        assert contents(d, vm) == text(b'two')
        copy = d.xe('vm-clone', uuid=vm, new_name_label='copy')
        whole = d.xe('vm-copy', uuid=vm, new_name_label='whole')
        assert contents(d, copy) == contents(d, whole) == text(b'two')
        d.xe('snapshot-revert', uuid=snap)
        assert contents(d, vm) == text(b'one')
        d.xe('vm-start', uuid=vm)
        assert read(d, vm) == b'one'
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert contents(d, vm) == text(b'one')


def test_a_unique_one_stays():
    with in_common() as d:
        vm = d.vm('vm')
        d.xe('vtpm-create', vm_uuid=vm, is_unique='true')
        d.xe('vm-start', uuid=vm)
        write(d, vm, b'mine')
        snap = d.snapshot(vm)
        assert contents(d, snap) == ['']
        d.xe('snapshot-revert', uuid=snap)
        assert contents(d, vm) == text(b'mine'), 'a revert made it forget'
        assert contents(d, d.xe('vm-clone', uuid=vm, new_name_label='copy')) == ['']


def test_what_is_not_its_file():
    with in_common() as d:
        vm = d.vm('vm')
        d.xe('vtpm-create', vm_uuid=vm)
        d.xe('vm-start', uuid=vm)
        write(d, vm, b'good')
        d.xe('vm-shutdown', '--force', uuid=vm)
        secret = os.path.join(d.state, 'secret')
        with open(secret, 'w') as f:
            f.write('secret')

        def giant(path):
            with open(path, 'wb') as f:
                f.truncate(1 << 40)

        for spoil in (lambda p: os.symlink(secret, p), lambda p: os.link(secret, p), os.mkfifo, os.mkdir, giant,
                      lambda p: open(p, 'w').close(), lambda p: None):
            d.xe('vm-start', uuid=vm)
            assert read(d, vm) == b'good'
            os.unlink(file_of(d, vm))
            spoil(file_of(d, vm))
            d.xe('vm-shutdown', '--force', uuid=vm)
            assert d.state_of(vm) == 'halted' and contents(d, vm) == text(b'good')


main(globals())
