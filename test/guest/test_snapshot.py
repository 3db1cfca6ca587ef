#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots of real guests: one instant for all disks, content that never changes, and the way back."""
import hashlib, os, sys, tempfile
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden, plug


def checksum(d, vdi):
    with tempfile.TemporaryDirectory(dir=d.state) as folder:
        d.xe('vdi-export', uuid=vdi, filename=os.path.join(folder, 'i'))
        with open(os.path.join(folder, 'i'), 'rb') as f:
            return hashlib.file_digest(f, 'sha256').hexdigest()


def counters_of(d, vm):
    return {k: counter_of(d, v) for k, v in d.disks(vm).items()}


def test_one_instant():
    """20 snapshots of a guest that writes one counter to four disks without rest; of some of them (CLONES, in the
    environment) a clone boots."""
    with golden('two') as (d, vm, serial):
        for device in (2, 3):
            plug(d, vm, serial, '64MiB', device)
        serial.ask('count start')
        snaps = []
        for i in range(20):
            time.sleep(0.1)
            snaps.append(d.snapshot(vm, f'snap {i}'))
        assert serial.fields('status')['a.errors'] == '0'
        d.xe('vm-shutdown', '--force', uuid=vm)
        last = 0
        for snap in snaps:
            found = counters_of(d, snap)
            assert one_instant(found), f'torn: {found}'
            assert found['0'] > last, 'the counter stood still'
            last = found['0']
        for snap in snaps[::len(snaps) // int(os.environ.get('CLONES', '1'))]:
            clone = d.xe('snapshot-clone', uuid=snap, new_name_label='clone')
            d.xe('vm-param-set', uuid=clone, is_a_template='false')
            with d.boot(clone) as s:
                assert one_instant(s.counters()), s.counters()
            d.xe('vm-uninstall', '--force', uuid=clone)
        d.check()


def test_content_never_changes():
    """The disk of a snapshot is the same to the bit: while the guest writes, after a revert, and in a
    clone."""
    with golden() as (d, vm, serial):
        serial.ask('write a file 20 1')
        snap = d.snapshot(vm)
        disk = d.disks(snap)['0']
        first = checksum(d, disk)
        serial.ask('count start')
        serial.ask('write a file 40 2')
        time.sleep(float(os.environ.get('WRITE_SECONDS', '3')))
        assert checksum(d, disk) == first, 'guest writes reached the snapshot'
        clone = d.xe('snapshot-clone', uuid=snap, new_name_label='clone')
        assert checksum(d, d.disks(clone)['0']) == first, 'the clone differs'
        d.xe('snapshot-revert', uuid=snap)
        assert checksum(d, disk) == first, 'the revert changed the snapshot'
        assert checksum(d, d.disks(vm)['0']) == first, 'the reverted disk differs'
        d.boot(vm).close()
        assert checksum(d, disk) == first
        d.check()


def test_there_and_back():
    """The main job: snapshot, break, revert.  Disks keep their uuids, the configuration goes back, a disk
    attached since is detached, not deleted."""
    with golden('two') as (d, vm, s):
        s.ask('mark before')
        snap = d.snapshot(vm, 'before')
        s.ask('unmark before')
        s.ask('mark after')
        before = d.disks(vm)
        mac = d.get('vif', d.list('vif', vm_uuid=vm)[0], 'MAC')
        places = {v: d.get('vdi', v, 'location') for v in before.values()}
        d.xe('vm-shutdown', uuid=vm)
        later = d.vdi(name='later')
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=later, device=5)
        d.xe('vm-param-set', uuid=vm, name_label='renamed')
        d.xe('snapshot-revert', 'keep-current=true', uuid=snap)
        assert d.state_of(vm) == 'halted'
        assert d.get('vm', vm, 'name-label') == 'guest'
        assert d.disks(vm) == before, 'disks lost their uuids'
        assert all(d.get('vdi', v, 'location') != places[v] for v in before.values())
        assert d.get('vif', d.list('vif', vm_uuid=vm)[0], 'MAC') == mac
        assert later in d.list('vdi'), 'a disk attached since was deleted'
        kept = d.list('snapshot', name_label='before revert to before')
        assert len(kept) == 1 and len(d.disks(kept[0])) == 3
        with d.boot(vm) as s:
            assert s.fields('marks') == {'a': 'before', 'b': 'before'}, s.fields('marks')
        d.xe('snapshot-revert', uuid=kept[0])
        with d.boot(vm) as s:
            assert s.fields('marks')['a'] == 'after'
        d.check()


def test_paused_and_left_out():
    with golden('two') as (d, vm, s):
        s.close()
        d.xe('vm-pause', uuid=vm)
        disks = d.disks(vm)
        snap = d.snapshot(vm, 'paused', ignore_vdi_uuids=disks['1'])
        assert list(d.disks(snap)) == ['0']
        assert d.get('snapshot', snap, 'snapshot-info', 'power-state-at-snapshot') == 'Paused'
        assert d.state_of(vm) == 'paused'
        d.xe('vm-unpause', uuid=vm)
        with Serial(d, vm) as s:
            s.ask('mark running')
        d.check()


def test_space_comes_back():
    with golden() as (d, vm, s):
        d.snapshot(vm, 'one')
        s.ask('write a big 60')
        volumes = d.volumes()
        d.xe('vm-shutdown', uuid=vm)
        clone = d.xe('vm-clone', uuid=vm, new_name_label='clone')
        d.xe('vm-uninstall', '--force', uuid=clone)
        one = d.list('snapshot', name_label='one')[0]
        d.xe('snapshot-uninstall', '--force', uuid=one)     # below others: its data stays, hidden
        assert d.list('vdi', managed='false'), 'no hidden layer'
        with d.boot(vm) as s:
            s.ask('sum a big')
        for vbd in d.list('vbd', vm_uuid=vm):
            d.xe('vbd-param-set', 'other-config:owner=', uuid=vbd)     # as a wizard would
        d.xe('vm-uninstall', '--force', uuid=vm)
        assert d.volumes() == [], d.volumes()
        assert d.list('vdi') == []
        d.check()


main(globals())
