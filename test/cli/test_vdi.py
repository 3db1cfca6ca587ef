#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Disks by themselves: snapshots, clones and copies of one, of halted, running and no VMs."""
import json, os, subprocess, sys, uuid
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

MIB = 1 << 20


def put(d, disk, content):
    path = os.path.join(d.state, 'in')
    with open(path, 'wb') as f:
        f.write(content)
    d.xe('vdi-import', uuid=disk, filename=path, format='raw')


def content(d, disk):
    path = os.path.join(d.state, 'out')
    if os.path.exists(path):
        os.unlink(path)
    d.xe('vdi-export', uuid=disk, filename=path)
    with open(path, 'rb') as f:
        return f.read()


def place(d, disk):
    return d.get('vdi', disk, 'location')


def image(d, disk, folder='sr'):
    """What qemu-img says of the disk's volume."""
    path = os.path.join(d.state, folder, place(d, disk) + '.qcow2')
    return json.loads(subprocess.run(['qemu-img', 'info', '-U', '--output=json', path], check=True,
                                     capture_output=True).stdout)


def stands_on(d, disk):
    return image(d, disk).get('backing-filename', '').replace('.qcow2', '')


def chain(d, vm, device='disk-0'):
    """What the fake VM has open for the disk, without the v of a node's name."""
    with open(os.path.join(d.state, 'run', vm, 'fake.json')) as f:
        return [node[1:] for node in json.load(f)['chains'][device]]


def allowed(d, disk):
    return d.get('vdi', disk, 'allowed-operations').split('; ')


def test_snapshot_of_a_disk():
    with in_common() as d:
        disk = d.vdi('1MiB', 'mine')
        d.xe('vdi-param-set', 'other-config:a=b', uuid=disk)
        put(d, disk, b'before')
        below = place(d, disk)
        snap = d.xe('vdi-snapshot', uuid=disk)
        for name, value in (('is-a-snapshot', 'true'), ('snapshot-of', disk), ('name-label', 'mine'),
                            ('managed', 'true'), ('location', below), ('other-config', 'a: b')):
            assert d.get('vdi', snap, name) == value, name
        assert d.get('vdi', disk, 'snapshots') == snap
        assert d.get('vdi', disk, 'is-a-snapshot') == 'false'
        assert d.get('vdi', snap, 'snapshot-time') != d.get('vdi', disk, 'snapshot-time')
        assert stands_on(d, disk) == below
        put(d, disk, b'after!')
        assert content(d, snap)[:6] == b'before' and content(d, disk)[:6] == b'after!'
        d.fails('vdi-import', uuid=snap, filename=os.path.join(d.state, 'in'), says='VDI_READONLY')

        second = d.xe('vdi-snapshot', uuid=snap)            # of a snapshot: a layer over it
        assert stands_on(d, second) == below and d.get('vdi', second, 'snapshot-of') == snap
        assert content(d, second)[:6] == b'before'
        d.check()
        for v in (second, snap, disk):
            d.xe('vdi-destroy', uuid=v)
        assert d.volumes() == []
        d.check()


def test_clone_of_a_disk():
    with in_common() as d:
        disk = d.vdi('1MiB', 'mine')
        put(d, disk, b'before')
        below = place(d, disk)
        clone = d.xe('vdi-clone', uuid=disk, new_name_label='other', new_name_description='told')
        assert d.get('vdi', clone, 'name-label') == 'other'
        assert d.get('vdi', clone, 'name-description') == 'told'
        assert d.get('vdi', clone, 'is-a-snapshot') == 'false'
        assert stands_on(d, clone) == below and stands_on(d, disk) == below
        assert d.list('vdi', location=below, managed='false'), 'what both stand on is hidden'
        put(d, clone, b'clone!')
        put(d, disk, b'after!')
        assert content(d, clone)[:6] == b'clone!' and content(d, disk)[:6] == b'after!'
        base, = d.list('vdi', managed='false')
        d.fails('vdi-clone', uuid=base, says='layer below others')
        assert allowed(d, base) == ['']

        snap = d.xe('vdi-snapshot', uuid=disk)
        there = place(d, disk)
        of_snap = d.xe('vdi-clone', uuid=snap)
        assert d.get('vdi', of_snap, 'name-label') == 'mine'
        assert place(d, disk) == there, 'a snapshot is frozen already: its disk needs no new layer'
        assert d.get('vdi', of_snap, 'snapshot-of') == '<not in database>'
        put(d, of_snap, b'third!')
        assert content(d, snap)[:6] == b'after!'
        d.check()
        for v in (clone, of_snap, snap, disk):
            d.xe('vdi-destroy', uuid=v)
        assert d.volumes() == []


def test_copy_of_a_disk():
    with Daemon('fake') as d:
        folder = d.folder_for('second')
        sr = d.xe('sr-create', 'type=file', f'device-config:location={folder}', name_label='second')
        disk = d.vdi('1MiB', 'mine')
        put(d, disk, b'before')
        snap = d.xe('vdi-snapshot', uuid=disk)
        put(d, disk, b'after!')
        here, there = d.xe('vdi-copy', uuid=disk), d.xe('vdi-copy', uuid=snap, sr_uuid=sr)
        assert d.get('vdi', there, 'sr-uuid') == sr and d.get('vdi', here, 'sr-uuid') == d.get('vdi', disk, 'sr-uuid')
        assert stands_on(d, here) == '' and 'backing-filename' not in image(d, there, 'sr/second')
        assert d.get('vdi', there, 'is-a-snapshot') == 'false'
        d.xe('vdi-destroy', uuid=disk)
        d.xe('vdi-destroy', uuid=snap)
        assert content(d, here)[:6] == b'after!' and content(d, there)[:6] == b'before'
        isos = d.isos(a=b'x' * 4096)
        d.fails('vdi-copy', uuid=here, sr_uuid=isos, says='CD images')
        d.fails('vdi-copy', uuid=here, base_vdi_uuid=there, says='base_vdi')
        d.check()


def test_copy_onto_a_disk():
    """Zeros are written over too, also where they are holes; what is behind the end stays."""
    with in_common() as d:
        disk, onto, small = d.vdi('1MiB'), d.vdi('2MiB', 'onto'), d.vdi('512KiB')
        put(d, disk, b'here')
        put(d, onto, b'x' * (2 * MIB))
        snap = d.xe('vdi-snapshot', uuid=onto)
        assert d.xe('vdi-copy', uuid=disk, into_vdi_uuid=onto) == onto
        assert content(d, onto) == b'here' + bytes(MIB - 4) + b'x' * MIB
        assert content(d, snap) == b'x' * (2 * MIB), 'the layer below was written'
        assert d.get('vdi', onto, 'name-label') == 'onto'
        d.fails('vdi-copy', uuid=disk, into_vdi_uuid=snap, says='is a snapshot')
        d.fails('vdi-copy', uuid=disk, into_vdi_uuid=small, says='smaller')
        d.fails('vdi-copy', uuid=disk, into_vdi_uuid=disk, says='running')
        vm = d.vm()
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=onto, device=0)
        d.xe('vm-start', uuid=vm)
        d.fails('vdi-copy', uuid=disk, into_vdi_uuid=onto, says='in use')
        d.check()


def test_a_running_vm():
    """The guest goes on with the overlay, and its other disks are left alone."""
    with in_common() as d:
        vm = d.vm(disks=2, size='1MiB')
        disks = d.disks(vm)
        d.xe('vm-start', uuid=vm)
        below, other = place(d, disks['0']), place(d, disks['1'])
        snap = d.xe('vdi-snapshot', uuid=disks['0'])
        assert place(d, snap) == below and chain(d, vm) == [below, place(d, disks['0'])]
        assert chain(d, vm, 'disk-1') == [other] == [place(d, disks['1'])]
        middle = place(d, disks['0'])
        clone = d.xe('vdi-clone', uuid=disks['0'])
        assert stands_on(d, clone) == middle and chain(d, vm) == [below, middle, place(d, disks['0'])]
        d.xe('vm-pause', uuid=vm)
        d.xe('vdi-snapshot', uuid=disks['0'])
        assert d.get('vm', vm, 'power-state') == 'paused'
        d.fails('vdi-copy', uuid=disks['0'], says='in use')
        d.fails('vdi-destroy', uuid=disks['0'], says='in use')
        d.xe('vdi-copy', uuid=snap)
        d.check()
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-start', uuid=vm)
        assert chain(d, vm)[-1] == place(d, disks['0'])


def test_what_is_allowed():
    with in_common() as d:
        vm = d.vm(disks=1)
        disk = d.disks(vm)['0']
        assert allowed(d, disk)[:3] == ['snapshot', 'clone', 'copy'] and 'destroy' in allowed(d, disk)
        snap = d.xe('vdi-snapshot', uuid=disk)
        assert allowed(d, snap) == ['snapshot', 'clone', 'copy', 'destroy']
        d.xe('vm-start', uuid=vm)
        assert allowed(d, disk)[:2] == ['snapshot', 'clone']
        assert 'destroy' not in allowed(d, disk) and 'copy' not in allowed(d, disk)
        shared = d.xe('vdi-create', 'sharable=true', sr_uuid=d.sr(), name_label='s', virtual_size='1MiB')
        assert 'snapshot' not in allowed(d, shared) and 'copy' in allowed(d, shared)
        d.fails('vdi-snapshot', uuid=shared, says='sharable')
        d.fails('vdi-clone', uuid=shared, says='sharable')
        d.xe('vm-param-set', 'blocked-operations:snapshot=no', uuid=vm)
        d.fails('vdi-snapshot', uuid=disk, says='blocked')
        d.check()


def size(d, disk):
    """As the row, and as the volume says."""
    said, has = int(d.get('vdi', disk, 'virtual-size')), image(d, disk)['virtual-size']
    assert said == has, f'the row says {said}, the volume has {has}'
    return said


def test_resize():
    with Daemon('fake') as d:
        disk = d.vdi('1MiB')
        put(d, disk, b'x' * MIB)
        snap = d.xe('vdi-snapshot', uuid=disk)
        d.xe('vdi-resize', uuid=disk, disk_size='3MiB')
        assert size(d, disk) == 3 * MIB and size(d, snap) == MIB
        assert content(d, disk) == b'x' * MIB + bytes(2 * MIB)
        d.fails('vdi-resize', uuid=disk, disk_size='2MiB', says='shrinking not allowed')
        d.fails('vdi-resize', uuid=disk, disk_size='65TiB', says='Invalid size')
        d.fails('vdi-resize', uuid=disk, disk_size='-1', says='size')
        d.fails('vdi-resize', uuid=snap, disk_size='3MiB', says='is a snapshot')
        d.xe('vdi-resize', uuid=disk, disk_size='3MiB')
        d.xe('vdi-resize', uuid=disk, disk_size=str(4 * MIB + 1))
        assert size(d, disk) == 4 * MIB + 512, 'up to the sector'
        clone = d.xe('vdi-clone', uuid=disk)
        base, = d.list('vdi', managed='false')
        d.fails('vdi-resize', uuid=base, disk_size='8MiB', says='layer below')
        d.xe('vdi-resize', uuid=clone, disk_size='1TiB')
        assert size(d, clone) == 1 << 40 and size(d, disk) == 4 * MIB + 512
        assert int(d.get('vdi', clone, 'physical-utilisation')) < 2 * MIB, 'growth is sparse'
        isos = d.isos(a=b'x' * 4096)
        d.fails('vdi-resize', uuid=d.list('vdi', sr_uuid=isos)[0], disk_size='1MiB')
        d.check()


def test_resize_of_a_running_vm():
    with Daemon('fake') as d:
        vm = d.vm(disks=1, size='1MiB')
        disk = d.disks(vm)['0']
        assert 'resize' in allowed(d, disk)
        d.xe('vm-start', uuid=vm)
        assert 'resize_online' in allowed(d, disk) and 'resize' not in allowed(d, disk)
        d.xe('vdi-resize', 'online=true', uuid=disk, disk_size='2MiB')
        snap = d.xe('vdi-snapshot', uuid=disk)
        d.xe('vdi-resize', uuid=disk, disk_size='3MiB')
        assert size(d, disk) == 3 * MIB and size(d, snap) == 2 * MIB
        assert f'fake resize vm={vm} node=v{place(d, disk)} size={3 * MIB}' in d.log()
        d.restart(env={'STILLFRAME_FAKE': 'fail=resize'})
        d.fails('vdi-resize', uuid=disk, disk_size='4MiB', says='made to fail')
        assert size(d, disk) == 3 * MIB
        d.check()
        d.restart()
        d.xe('vm-suspend', uuid=vm)                 # the guest knows the size that it went to sleep with
        d.fails('vdi-resize', uuid=disk, disk_size='4MiB', says='halted, running, paused')
        d.xe('vm-resume', uuid=vm)

        # It is the snapshot's size again, and grows anew; what two have open does not.
        whole = d.snapshot(vm)
        d.xe('vdi-resize', uuid=disk, disk_size='5MiB')
        d.xe('snapshot-revert', uuid=whole)
        assert size(d, disk) == 3 * MIB
        shared = d.xe('vdi-create', 'sharable=true', sr_uuid=d.sr(), name_label='s', virtual_size='1MiB')
        other = d.vm('other')
        for v in (vm, other):
            d.xe('vbd-create', vm_uuid=v, vdi_uuid=shared, device=5)
            d.xe('vm-start', uuid=v)
        d.fails('vdi-resize', uuid=shared, disk_size='4MiB', says='in use')
        d.xe('vm-shutdown', '--force', uuid=other)
        d.xe('vdi-resize', uuid=shared, disk_size='4MiB')
        assert size(d, shared) == 4 * MIB
        d.check()


RAW = 'Raw VDI, snapshot or clone not permitted'
QCOW2 = b'QFI\xfb' + (3).to_bytes(4, 'big') + bytes(4096)


def raw_disk(d, size='1MiB', name='raw', sr=None):
    return d.xe('vdi-create', 'sm-config:type=raw', sr_uuid=sr or d.sr(), name_label=name, virtual_size=size)


def raw_file(d, disk, folder='sr'):
    return os.path.join(d.state, folder, place(d, disk) + '.raw')


def test_raw():
    """A disk without a format: its file is what the guest sees, whatever that looks like."""
    with Daemon('fake') as d:
        disk = raw_disk(d)
        assert d.volumes() == [place(d, disk) + '.raw']
        assert d.get('vdi', disk, 'sm-config') == 'type: raw; vdi_type: raw'
        assert int(d.get('vdi', disk, 'physical-utilisation')) == 0
        put(d, disk, QCOW2)
        with open(raw_file(d, disk), 'rb') as f:
            assert f.read() == QCOW2 + bytes(MIB - len(QCOW2)) == content(d, disk)
        d.xe('vdi-resize', uuid=disk, disk_size='3MiB')
        assert int(d.get('vdi', disk, 'virtual-size')) == 3 * MIB == os.stat(raw_file(d, disk)).st_size
        assert content(d, disk) == QCOW2 + bytes(3 * MIB - len(QCOW2))
        assert int(d.get('vdi', disk, 'physical-utilisation')) < 64 << 10, 'zeros take no room'
        d.fails('vdi-resize', uuid=disk, disk_size='2MiB', says='shrinking')

        copy = d.xe('vdi-copy', uuid=disk)                  # ordinary, and back
        assert image(d, copy)['format'] == 'qcow2' and content(d, copy) == content(d, disk)
        assert d.get('vdi', copy, 'sm-config') == 'vdi_type: qcow2'
        assert 'snapshot' in allowed(d, copy)
        put(d, copy, b'from above')
        d.xe('vdi-copy', uuid=copy, into_vdi_uuid=disk)
        assert content(d, disk) == content(d, copy) and content(d, disk)[:10] == b'from above'
        with open(raw_file(d, disk), 'rb') as f:
            assert f.read() == content(d, copy)
        onto = raw_disk(d, '4MiB')
        d.xe('vdi-copy', uuid=disk, into_vdi_uuid=onto)
        assert content(d, onto)[:3 * MIB] == content(d, disk)
        d.check()
        for v in (disk, copy, onto):
            d.xe('vdi-destroy', uuid=v)
        assert d.volumes() == []
        d.fails('vdi-create', 'sm-config:type=raw', sr_uuid=d.isos(a=b'x' * 4096), name_label='x',
                virtual_size='1MiB')


def test_raw_takes_no_layers():
    with Daemon('fake') as d:
        vm = d.vm(disks=2, size='1MiB')
        raw = raw_disk(d)
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=raw, device=5)
        disks = d.disks(vm)
        before = d.volumes(), {disk: place(d, disk) for disk in disks.values()}
        assert allowed(d, raw) == ['copy', 'resize', 'resize_online', 'destroy', 'forget']

        def refused():
            d.fails('vdi-snapshot', uuid=raw, says=RAW)
            d.fails('vdi-clone', uuid=raw, says=RAW)
            d.fails('vm-snapshot', uuid=vm, new_name_label='s', says=RAW)
            assert (d.volumes(), {disk: place(d, disk) for disk in d.disks(vm).values()}) == before
            assert d.list('snapshot') == []
            d.check()

        refused()
        d.fails('vm-clone', uuid=vm, new_name_label='c', says=RAW)
        d.xe('vdi-param-set', 'name-label=other', uuid=raw)
        d.xe('vm-start', uuid=vm)
        assert chain(d, vm, 'disk-5') == [place(d, raw)]
        assert allowed(d, raw) == ['resize_online']
        refused()
        d.xe('vdi-resize', uuid=raw, disk_size='2MiB')
        assert os.stat(raw_file(d, raw)).st_size == 2 * MIB == int(d.get('vdi', raw, 'virtual-size'))
        vbd = d.list('vbd', vdi_uuid=raw)[0]
        d.xe('vbd-unplug', uuid=vbd)
        d.xe('vbd-plug', uuid=vbd)
        d.restart()
        refused()
        d.xe('vm-snapshot', uuid=vm, new_name_label='s', ignore_vdi_uuids=raw)
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('snapshot-uninstall', '--force', uuid=d.list('snapshot')[0])
        copy = d.xe('vm-copy', uuid=vm, new_name_label='copy', sr_uuid=d.sr())
        assert all(d.get('vdi', v, 'sm-config') == 'vdi_type: qcow2' for v in d.disks(copy).values())
        d.xe('vm-snapshot', uuid=copy, new_name_label='s')
        d.check()


def test_raw_is_found_again():
    with Daemon('fake') as d:
        folder = d.folder_for('two')
        sr = d.xe('sr-create', name_label='two', type='file', **{'device-config:location': folder})
        disk = raw_disk(d, sr=sr)
        put(d, disk, QCOW2)
        location = place(d, disk)
        d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=sr)[0])
        d.xe('sr-forget', uuid=sr)
        d.xe('sr-introduce', uuid=sr, name_label='again', type='file')
        d.xe('pbd-plug', uuid=d.xe('pbd-create', sr_uuid=sr, host_uuid=d.list('host')[0],
                                   **{'device-config:location': folder}))
        found, = d.list('vdi', sr_uuid=sr)
        assert place(d, found) == location and int(d.get('vdi', found, 'virtual-size')) == MIB
        assert d.get('vdi', found, 'sm-config') == 'type: raw; vdi_type: raw'
        assert content(d, found)[:len(QCOW2)] == QCOW2
        d.fails('vdi-snapshot', uuid=found, says=RAW)
        with open(os.path.join(folder, 'b' * 24 + '.raw'), 'wb') as f:
            f.write(b'x' * 777)             # no whole sectors: somebody else's
        d.xe('sr-scan', uuid=sr)
        assert d.list('vdi', sr_uuid=sr) == [found]


def test_forget_and_introduce():
    """The record goes, the volume stays, and comes back with the uuid that the client names; what shares layers is kept."""
    with Daemon('fake') as d:
        sr = d.sr()
        disk = d.xe('vdi-create', sr_uuid=sr, name_label='data', virtual_size=2 * MIB)
        put(d, disk, QCOW2)
        location, before = d.get('vdi', disk, 'location'), content(d, disk)
        again = lambda name, **kw: d.xe("vdi-introduce", uuid=name, sr_uuid=sr, type="user", location=location, **kw)
        d.fails('vdi-introduce', uuid=str(uuid.uuid4()), sr_uuid=sr, type='user', location=location, says='LOCATION_NOT_UNIQUE')
        d.xe('vdi-forget', uuid=disk)
        assert disk not in d.list('vdi') and location in ' '.join(d.volumes())
        d.fails('vdi-introduce', uuid='x', sr_uuid=sr, type='user', location=location, says='uuid')
        d.fails('vdi-introduce', uuid=disk, sr_uuid=sr, type='tape', location=location, says='tape')
        d.fails('vdi-introduce', uuid=disk, sr_uuid=sr, type='user', location='f' * 24, says='VDI_MISSING')
        assert again(disk, name_label='data again', **{'other-config:k': 'v'}) == disk
        assert d.get('vdi', disk, 'name-label') == 'data again' and d.get('vdi', disk, 'other-config') == 'k: v'
        assert content(d, disk) == before and int(d.get('vdi', disk, 'virtual-size')) == 2 * MIB
        d.fails('vdi-introduce', uuid=disk, sr_uuid=sr, type='user', location=location, says='DB_UNIQUENESS_CONSTRAINT_VIOLATION')
        d.xe('vdi-forget', uuid=disk)
        d.restart()
        d.xe('sr-scan', uuid=sr)
        disk, = [v for v in d.list('vdi', sr_uuid=sr) if d.get('vdi', v, 'location') == location]
        assert content(d, disk) == before
        snap = d.xe('vdi-snapshot', uuid=disk)
        for shared in (disk, snap):
            d.fails('vdi-forget', uuid=shared, says='shares layers')
        vm = d.vm(disks=1)
        d.xe('vm-start', uuid=vm)
        d.fails('vdi-forget', uuid=d.disks(vm)['0'], says='VDI_IN_USE')
        assert content(d, disk) == content(d, snap) == before
        d.check()


def test_faults():
    """The VMM refuses: nothing has happened."""
    for call in ('prepare', 'switch_disks'):
        with Daemon('fake') as d:
            vm = d.vm(disks=1)
            disk = d.disks(vm)['0']
            d.xe('vm-start', uuid=vm)
            before = place(d, disk), d.volumes()
            for command in ('vdi-snapshot', 'vdi-clone'):
                d.restart(env={'STILLFRAME_FAKE': f'fail={call}'})
                d.fails(command, uuid=disk, says='made to fail')
                assert (place(d, disk), d.volumes()) == before
                assert chain(d, vm) == [before[0]]
                d.restart()
                d.check()


main(globals())
