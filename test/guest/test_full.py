#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A full file system in the middle of each operation: SR_BACKEND_FAILURE_44's words, nothing lost, the
guest runs on, or is paused with the reason told, and never sees a corrupt disk."""
import os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from full import Full

SOON = {'full-wait': 0.2, 'timer-full': 0.2}
NO_SPACE = 'not enough space'


def test_every_operation():
    with Full(200) as full, golden('two', sr=full, delays=SOON) as (d, vm, serial):
        sr = d.sr()
        d.xe('sr-param-set', 'name-label=small', uuid=sr)
        serial.ask('mark kept')
        snap = d.snapshot(vm, 'good')
        disks = d.disks(vm)
        full.fill()
        volumes = d.volumes(full.folder)

        d.fails('vm-snapshot', uuid=vm, new_name_label='bad', says=NO_SPACE)
        d.fails('snapshot-clone', uuid=snap, new_name_label='bad', says=NO_SPACE)
        d.fails('snapshot-revert', uuid=snap, says=NO_SPACE)
        d.fails('vdi-create', sr_uuid=sr, name_label='bad', virtual_size='1GiB', says=NO_SPACE)
        assert d.volumes(full.folder) == volumes, 'a half-made volume was left'
        assert d.state_of(vm) == 'running' and d.disks(vm) == disks
        d.check()

        # A delete needs no space.
        d.xe('snapshot-uninstall', '--force', uuid=snap)
        d.check()

        # The guest writes until nothing is left: it stops, and goes on when there is room.
        serial.s.sendall(b'write a big 30 7\n')
        d.wait_state(vm, 'paused', 60)
        told, = d.list('message', name='VM_PAUSED_STORAGE_FULL')
        body = d.get('message', told, 'body')
        assert f"SR 'small' (uuid: {sr}) is full" in body and 'goes on by itself' in body, body
        d.restart()
        time.sleep(2)
        assert d.state_of(vm) == 'paused', 'it went on without room'
        assert d.list('message', name='VM_PAUSED_STORAGE_FULL') == [told], 'told again and again'
        full.free()
        d.wait_state(vm, 'running', 30)                 # by itself
        assert len(d.list('message', name='VM_RESUMED_STORAGE_ROOM')) == 1
        while not serial.line().startswith('OK write'):
            pass
        written = serial.fields('sum a big')
        status = serial.fields('status')
        assert status['a.errors'] == '0' and status['a.state'] == 'rw', status
        d.snapshot(vm, 'good again')
        d.xe('vm-shutdown', uuid=vm)
        with d.boot(vm) as s:
            assert s.fields('sum a big') == written
            assert 'kept' in s.fields('marks')['a']
        d.xe('vm-shutdown', '--force', uuid=vm)
        full.fill()
        d.fails('vm-clone', uuid=vm, new_name_label='bad', says=NO_SPACE)
        d.fails('vm-snapshot', uuid=vm, new_name_label='bad', says=NO_SPACE)
        full.free()
        image = os.path.join(d.state, 'raw')
        with open(image, 'wb') as f:
            f.write(os.urandom(100 << 20))
        target = d.vdi('100MiB', sr=sr)
        full.fill()
        d.fails('vdi-import', uuid=target, filename=image)
        full.free()
        d.check()
        d.xe('vm-shutdown', '--force', uuid=vm) if d.state_of(vm) != 'halted' else None
        d.stop()

def test_a_guest_that_stands():
    """While it stands it can be reverted, shut down, and its snapshots deleted; one that a user paused
    stays so when there is room."""
    with Full(200) as full, golden(sr=full, delays=SOON) as (d, vm, serial):
        serial.ask('mark kept')
        first, second = d.snapshot(vm, 'first'), d.snapshot(vm, 'second')
        serial.s.sendall(b'write a big 60 7\n')
        full.fill()
        d.wait_state(vm, 'paused', 60)
        serial.close()
        d.xe('snapshot-uninstall', '--force', uuid=second)
        full.free(1 << 20)                              # too little to go on with, enough for a layer
        d.xe('snapshot-revert', uuid=first)
        assert d.state_of(vm) == 'halted'
        full.free()
        with d.boot(vm) as serial:
            assert 'kept' in serial.fields('marks')['a']
            serial.s.sendall(b'write a big 60 8\n')
            full.fill()
            d.wait_state(vm, 'paused', 60)
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert d.state_of(vm) == 'halted'
        full.free()
        d.boot(vm).close()
        d.xe('vm-pause', uuid=vm)
        full.fill()
        full.free()
        time.sleep(2)
        assert d.state_of(vm) == 'paused', "a user's pause was ended"
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()
        d.stop()


main(globals())
