#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a revert touches, and what it leaves as it is; what is set aside by keep-current."""
import json, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *


def put(d, disk, byte):
    path = os.path.join(d.state, 'in')
    with open(path, 'wb') as f:
        f.write(byte * (1 << 20))
    d.xe('vdi-import', uuid=disk, filename=path)


def first(d, disk):
    """The disk's first byte, which all others are, too."""
    path = os.path.join(d.state, 'out')
    d.xe('vdi-export', uuid=disk, filename=path)
    with open(path, 'rb') as f:
        content = f.read()
    os.unlink(path)
    assert content == content[:1] * len(content)
    return content[:1]


def vm_with(d, contents, name='vm'):
    """A VM with a disk of 1 MiB for each byte, and these disks."""
    vm = d.vm(name, len(contents), '1MiB')
    disks = [d.disks(vm)[str(i)] for i in range(len(contents))]
    for disk, byte in zip(disks, contents):
        put(d, disk, bytes([byte]))
    return vm, disks


def drive(d, vm, disk):
    return d.list('vbd', vm_uuid=vm, vdi_uuid=disk)[0]


def revert(d, snap, *words):
    """What it says about disks."""
    status, out, err = d.run('snapshot-revert', *words, uuid=snap)
    assert status == 0, err
    return err


def names(d, of):
    """name -> first byte of each disk of a VM or a snapshot, by position."""
    return {position: first(d, disk) for position, disk in d.disks(of).items()}


def test_own_disks_keep_their_uuids():
    with in_common() as d:
        vm, disks = vm_with(d, b'ab')
        snap = d.snapshot(vm)
        for disk in disks:
            put(d, disk, b'x')
        assert 'disks' not in revert(d, snap)
        assert d.disks(vm) == {'0': disks[0], '1': disks[1]} and names(d, vm) == {'0': b'a', '1': b'b'}


def test_a_disk_that_was_given_away():
    """To another VM, which has written it since.  A new disk takes its place, each revert the same one."""
    with in_common() as d:
        vm, (system, data) = vm_with(d, b'ab')
        other = d.vm('other')
        snaps = [d.snapshot(vm), d.snapshot(vm)]
        d.xe('vbd-destroy', uuid=drive(d, vm, data))
        d.xe('vbd-create', vm_uuid=other, vdi_uuid=data, device=0)
        put(d, data, b'B')
        said = revert(d, snaps[0])
        assert data in said and 'left as they are' in said, said
        assert first(d, data) == b'B' and d.disks(other) == {'0': data}
        new = d.disks(vm)['1']
        assert new != data and first(d, new) == b'b' and d.disks(vm)['0'] == system
        put(d, new, b'n')
        assert data not in revert(d, snaps[1])
        assert d.disks(vm)['1'] == new and first(d, new) == b'b'
        assert first(d, data) == b'B'


def test_a_disk_that_was_put_aside():
    with in_common() as d:
        vm, (system, data) = vm_with(d, b'ab')
        snap = d.snapshot(vm)
        d.xe('vbd-destroy', uuid=drive(d, vm, data))
        put(d, data, b'k')
        for words in ((), ('keep-current=true',)):
            revert(d, snap, *words)
            assert first(d, data) == b'k' and data not in d.disks(vm).values()
            assert names(d, vm) == {'0': b'a', '1': b'b'}


def test_a_disk_that_is_shared():
    with in_common() as d:
        vm, (system, data) = vm_with(d, b'ab')
        other = d.vm('other')
        snap = d.snapshot(vm)
        d.xe('vbd-create', vm_uuid=other, vdi_uuid=data, device=0)
        put(d, data, b'S')
        assert data in revert(d, snap)
        assert first(d, data) == b'S' and data not in d.disks(vm).values()
        assert names(d, vm) == {'0': b'a', '1': b'b'}


def test_a_disk_of_a_vm_that_was_destroyed():
    with in_common() as d:
        vm, (disk,) = vm_with(d, b'a')
        other = d.vm('other')
        snap = d.snapshot(vm)
        d.xe('vm-destroy', uuid=vm)
        d.xe('vbd-create', vm_uuid=other, vdi_uuid=disk, device=0)
        put(d, disk, b'B')
        assert disk in revert(d, snap)
        assert first(d, disk) == b'B' and names(d, vm) == {'0': b'a'}


def test_a_disk_whose_drive_moved_within_the_vm():
    """It is the VM's own still."""
    with in_common() as d:
        vm, (system, data) = vm_with(d, b'ab')
        snap = d.snapshot(vm)
        d.xe('vbd-destroy', uuid=drive(d, vm, data))
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=data, device=5)
        put(d, data, b'x')
        revert(d, snap)
        assert d.disks(vm) == {'0': system, '1': data} and first(d, data) == b'b'


def test_what_is_detached_is_said():
    with in_common() as d:
        vm, (system, data) = vm_with(d, b'ab')
        snap = d.snapshot(vm, ignore_vdi_uuids=data)
        said = revert(d, snap)
        assert data in said and 'detached' in said and system not in said, said
        assert d.disks(vm) == {'0': system} and first(d, data) == b'b'
        message = d.sql("SELECT body FROM message WHERE name = 'VM_SNAPSHOT_REVERTED'")
        assert any(data in body for body in message), message
    with in_common() as d:
        vm, (system, data) = vm_with(d, b'ab')
        snap = d.snapshot(vm)
        d.xe('vdi-destroy', uuid=d.disks(snap)['1'])
        assert data in revert(d, snap) and first(d, data) == b'b'


def test_a_disk_whose_storage_was_forgotten_is_said():
    with in_common() as d:
        folder = d.folder_for('forgotten')
        sr = d.xe('sr-create', name_label='forgotten', type='file', **{'device-config:location': folder})
        vm, (system,) = vm_with(d, b'a')
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi('1MiB', 'away', sr), device=3)
        snap = d.snapshot(vm)
        d.wait_quiet()
        d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=sr)[0])
        d.xe('sr-forget', uuid=sr)
        assert 'without the disks at positions 3' in revert(d, snap)
        assert d.disks(vm) == {'0': system} and first(d, system) == b'a'


def test_who_owns_a_disk_stays_or_comes_back():
    """`owner` says which disks are deleted with their VM."""
    with in_common() as d:
        vm, (mine, theirs, gone) = vm_with(d, b'abc')
        owner = lambda disk: 'owner' in d.get('vbd', drive(d, vm, disk), 'other-config')
        assert not owner(mine) and not owner(theirs) and not owner(gone)
        d.xe('vbd-param-set', 'other-config:owner=', uuid=drive(d, vm, mine))
        snap = d.snapshot(vm)
        d.xe('vdi-destroy', uuid=gone)
        revert(d, snap)
        back, = set(d.disks(vm).values()) - {mine, theirs}
        assert owner(mine) and not owner(theirs) and not owner(back)
        d.xe('vbd-destroy', uuid=drive(d, vm, theirs))
        revert(d, snap)
        new, = set(d.disks(vm).values()) - {mine, back}
        assert owner(new), 'a disk that was made in the place of another is nobody\'s but the VM\'s'


def test_a_snapshot_cannot_be_edited():
    """But for its name, and what users note about it."""
    with in_common() as d:
        vm, _ = vm_with(d, b'a')
        d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)
        snap = d.snapshot(vm)
        for what in ('VCPUs-max=7', 'HVM-boot-policy=', 'platform:devices=ahci', 'PV-kernel=/boot/x',
                     'actions-after-crash=restart', 'affinity='):
            d.fails('snapshot-param-set', what, uuid=snap, says='snapshot')
        vbd, vif = d.list('vbd', vm_uuid=snap)[0], d.list('vif', vm_uuid=snap)[0]
        for what in ('userdevice=4', 'mode=RO', 'bootable=true', 'unpluggable=false'):
            d.fails('vbd-param-set', what, uuid=vbd, says='snapshot')
        d.fails('vif-param-set', 'locking-mode=disabled', uuid=vif, says='snapshot')
        for what in ('name-label=other', 'name-description=d', 'other-config:key=value', 'is-a-template=false'):
            d.xe('snapshot-param-set', what, uuid=snap)
        d.xe('vbd-param-set', 'other-config:key=value', uuid=vbd)
        assert snap not in d.list('vm') and snap in d.list('snapshot')
        d.xe('snapshot-revert', uuid=snap)
        assert d.get('vm', vm, 'VCPUs-max') == '1' and list(d.disks(vm)) == ['0']


# ---- keep-current ----

def kept(d, vm, before):
    new, = set(d.list('snapshot', snapshot_of=vm)) - set(before)
    return new


def test_keep_current():
    """Of a halted VM, and of one that runs: what it has, and disks that were attached since; nothing is copied."""
    with in_common() as d:
        for running in (False, True):
            vm, (system, data) = vm_with(d, b'ab', f'running {running}')
            snap = d.snapshot(vm)
            late = d.vdi('1MiB', 'late')
            for disk, byte in ((system, b'x'), (data, b'y'), (late, b'z')):
                put(d, disk, byte)
            d.xe('vbd-create', vm_uuid=vm, vdi_uuid=late, device=2)
            d.xe('vm-param-set', 'name-label=now', uuid=vm)
            if running:
                d.xe('vm-start', uuid=vm)
            assert late in revert(d, snap, 'keep-current=true')
            new = kept(d, vm, [snap])
            assert d.get('snapshot', new, 'name-label') == 'before revert to snap'
            assert names(d, new) == {'0': b'x', '1': b'y', '2': b'z'} and first(d, late) == b'z'
            assert names(d, vm) == {'0': b'a', '1': b'b'} and d.state_of(vm) == 'halted'
            assert not d.fakes() or vm not in d.fakes()
            revert(d, new)
            now = d.disks(vm)
            assert d.get('vm', vm, 'name-label') == 'now' and [now['0'], now['1']] == [system, data]
            assert now['2'] != late, 'it was put aside, and stays'
            assert names(d, vm) == {'0': b'x', '1': b'y', '2': b'z'}
            d.check()


def test_keep_current_of_a_suspended_vm():
    """Its memory is part of what it is now."""
    with in_common() as d:
        vm, _ = vm_with(d, b'a')
        snap = d.snapshot(vm)
        d.xe('vm-start', uuid=vm)
        d.xe('vm-suspend', uuid=vm)
        memory = d.memory_of(vm)
        revert(d, snap, 'keep-current=true')
        new = kept(d, vm, [snap])
        assert d.get('snapshot', new, 'power-state') == 'suspended' and d.memory_of(new) == memory
        assert d.state_of(vm) == 'halted' and os.path.exists(memory)
        d.xe('snapshot-revert', uuid=new, resume='true')
        assert d.state_of(vm) == 'running'
        d.check()


def test_keep_current_of_what_has_no_layers():
    """A raw disk's volume is left behind like any other, where the revert puts another in its place."""
    with in_common() as d:
        vm, _ = vm_with(d, b'a')
        snap = d.snapshot(vm)
        raw = d.xe('vdi-create', 'sm-config:type=raw', sr_uuid=d.sr(), name_label='raw', virtual_size='1MiB')
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=raw, device=1)
        before = rows(d)
        d.fails('snapshot-revert', 'keep-current=true', uuid=snap, says='a disk of this kind')
        assert rows(d) == before
        assert raw in revert(d, snap)


def test_a_failure_leaves_all_as_it_was():
    """The guest runs on, and nothing is set aside."""
    for fault in ('fail=pause', 'fail=top'):
        with Daemon('fake') as d:
            vm, disks = vm_with(d, b'a')
            snap = d.snapshot(vm)
            d.xe('vm-start', uuid=vm)
            d.restart(env={'STILLFRAME_FAKE': fault})
            before = rows(d)
            d.fails('snapshot-revert', 'keep-current=true', uuid=snap, says='made to fail')
            d.wait_quiet()
            assert rows(d) == before and d.state_of(vm) == 'running', rows(d) ^ before
            d.check()


def test_a_process_that_does_not_end():
    """The VM is what the snapshot is, and busy until the process of what it was has ended."""
    with Daemon('fake', delays={'operation-patience': 0.01}) as d:
        vm, _ = vm_with(d, b'a')
        snap = d.snapshot(vm)
        put(d, d.disks(vm)['0'], b'x')
        d.xe('vm-start', uuid=vm)
        d.restart(env={'STILLFRAME_FAKE': 'fail=stop'})
        revert(d, snap)
        assert d.state_of(vm) == 'halted' and vm in d.fakes()
        d.fails('vm-start', uuid=vm, says='reverting')
        d.kill()
        d.start()
        d.check()
        assert d.state_of(vm) == 'halted' and not d.fakes() and names(d, vm) == {'0': b'a'}
        d.xe('vm-start', uuid=vm)


def test_fields_of_then_refer_to_what_there_is():
    with in_common() as d:
        vm, _ = vm_with(d, b'a')
        folder = d.folder_for('second')
        sr = d.xe('sr-create', name_label='second', type='file', **{'device-config:location': folder})
        d.xe('vm-param-set', f'suspend-SR-uuid={sr}', uuid=vm)
        snap = d.snapshot(vm)
        d.xe('sr-destroy', uuid=sr)
        d.xe('snapshot-revert', uuid=snap)
        assert d.sql(f"SELECT suspend_SR FROM VM WHERE uuid = '{vm}'") == ['OpaqueRef:NULL']


main(globals())
