#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What somebody needs is not written, resized, removed or attached by anybody else, whichever way the call comes; and
what is open is what the VMM says."""
import json, os, re, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *


def suspended(d):
    vm = d.vm('suspended', 1, '1MiB')
    d.xe('vm-start', uuid=vm)
    d.xe('vm-suspend', uuid=vm)
    return vm


def image_of(d, vm):
    """The VDI of its memory."""
    return d.sql(f"SELECT VDI.uuid FROM VDI JOIN VM ON VM.suspend_VDI = VDI.ref WHERE VM.uuid = '{vm}'")[0]


def store_of(d, vm):
    return d.sql(f"SELECT VDI.uuid FROM VDI JOIN VM ON VM.NVRAM_VDI = VDI.ref WHERE VM.uuid = '{vm}'")[0]


def file_of(d, disk):
    location, raw = d.sql(f"SELECT location || ' ' || raw FROM VDI WHERE uuid = '{disk}'")[0].split()
    return os.path.join(d.state, 'sr', location + ('.raw' if raw == 'true' else '.qcow2'))


def is_left_alone(d, disk):
    """Each way to the disk is refused, and its file is what it was."""
    with open(file_of(d, disk), 'rb') as f:
        before = f.read()
    zeros = os.path.join(d.state, 'zeros')
    with open(zeros, 'wb') as f:
        f.write(bytes(65536))
    other, small = d.vm('other'), d.vdi('64KiB', 'small')
    size = int(d.get('vdi', disk, 'virtual-size'))
    for words in (('vdi-import', f'uuid={disk}', f'filename={zeros}', 'format=raw'),
                  ('vdi-copy', f'uuid={small}', f'into-vdi-uuid={disk}'),
                  ('vdi-resize', f'uuid={disk}', f'disk-size={size + (1 << 20)}'),
                  ('vdi-destroy', f'uuid={disk}'), ('vdi-snapshot', f'uuid={disk}'), ('vdi-clone', f'uuid={disk}')):
        status, out, err = d.run(*words)
        assert status == 1 and re.search('in use|cannot be written|no layer|VDI_IN_USE|VDI_READONLY', err), f'{words}: {status} {err}'
    read_only = d.get('vdi', disk, 'read-only') == 'true' or d.sql(f"SELECT is_a_snapshot FROM VDI WHERE uuid = '{disk}'") == ['true']
    for mode in ('RO',) if read_only else ('RW', 'RO'):
        vbd = d.xe('vbd-create', vm_uuid=other, vdi_uuid=disk, device=0, mode=mode)     # a record, and nothing more
        for words in (('vm-start', f'uuid={other}'), ('vm-snapshot', f'uuid={other}', 'new-name-label=s'),
                      ('vm-clone', f'uuid={other}', 'new-name-label=c'), ('vm-copy', f'uuid={other}', 'new-name-label=c')):
            d.fails(*words, says='in use')
        d.xe('vbd-destroy', uuid=vbd)
    vbd = d.xe('vbd-create', vm_uuid=other, vdi_uuid=small, device=1)
    d.xe('vm-start', uuid=other)
    vbd = d.xe('vbd-create', vm_uuid=other, vdi_uuid=disk, device=2, mode='RO')
    d.fails('vbd-plug', uuid=vbd, says='in use')
    d.xe('vbd-destroy', uuid=vbd)
    with open(file_of(d, disk), 'rb') as f:
        assert f.read() == before
    for what in ('snapshot', 'clone', 'resize', 'destroy'):
        assert what not in d.get('vdi', disk, 'allowed-operations'), what
    d.xe('vm-uninstall', '--force', uuid=other)
    d.xe('vdi-destroy', uuid=small)


def test_the_memory_of_a_suspended_vm():
    with in_common() as d:
        vm = suspended(d)
        is_left_alone(d, image_of(d, vm))
        d.xe('vm-resume', uuid=vm)
        assert d.state_of(vm) == 'running'


def test_the_memory_of_a_checkpoint():
    """It may share its bytes with that of a VM that is suspended."""
    with in_common() as d:
        vm = suspended(d)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        is_left_alone(d, image_of(d, snap))
        is_left_alone(d, image_of(d, vm))
        d.xe('vm-resume', uuid=vm)
        d.xe('snapshot-revert', uuid=snap, resume='true')
        assert d.state_of(vm) == 'running'


def test_memory_goes_with_whom_it_belongs_to():
    """Deleted as a VM or a snapshot, not by itself; and nothing of it is left."""
    with in_common() as d:
        for command in ('snapshot-destroy', 'snapshot-uninstall'):
            vm = suspended(d)
            snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
            d.xe(command, *(['--force'] if 'uninstall' in command else []), uuid=snap)
            d.xe('vm-destroy', uuid=vm)
            d.wait_quiet()
            assert not d.sql("SELECT uuid FROM VDI WHERE type = 'suspend'"), command
            assert not [f for f in d.volumes() if f.endswith('.raw')], command


def test_the_store_of_uefi_variables():
    if not os.path.exists('/usr/share/OVMF/OVMF_CODE_4M.fd'):
        raise Skip('ovmf is not installed')
    with in_common() as d:
        vm = d.vm('uefi', 1, '1MiB')
        d.xe('vm-param-set', 'HVM-boot-params:firmware=uefi', uuid=vm)
        d.xe('vm-start', uuid=vm)
        is_left_alone(d, store_of(d, vm))
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.wait_quiet()
        is_left_alone(d, store_of(d, vm))
        snap = d.snapshot(vm)
        is_left_alone(d, store_of(d, snap))
        d.xe('vm-start', uuid=vm)


def test_a_vm_that_was_started_without_its_store():
    """The store is there, but its process has not opened it: a snapshot copies it, and does not switch it."""
    if not os.path.exists('/usr/share/OVMF/OVMF_CODE_4M.fd'):
        raise Skip('ovmf is not installed')
    with in_common() as d:
        vm = d.vm('once uefi', 1, '1MiB')
        d.xe('vm-param-set', 'HVM-boot-params:firmware=uefi', uuid=vm)
        d.xe('vm-start', uuid=vm)
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.wait_quiet()
        d.xe('vm-param-set', 'HVM-boot-params:firmware=bios', uuid=vm)
        d.xe('vm-start', uuid=vm)
        assert 'nvram' not in d.fakes()[vm]['chains']
        snaps = [d.snapshot(vm), d.xe('vm-checkpoint', uuid=vm, new_name_label='c')]
        d.xe('snapshot-uninstall', '--force', uuid=snaps[0])
        d.wait_quiet()
        d.xe('vm-param-set', 'HVM-boot-params:firmware=uefi', uuid=vm)      # and this is of the next start
        d.snapshot(vm)
        d.xe('snapshot-revert', uuid=snaps[1], resume='true')
        d.check()


def test_an_sr_that_is_needed():
    """One that holds nothing but a suspended VM's memory, and one whose snapshot a VM reads."""
    with in_common() as d:
        folder = d.folder_for('memory')
        sr = d.xe('sr-create', name_label='memory', type='file', **{'device-config:location': folder})
        pbd = d.list('pbd', sr_uuid=sr)[0]
        vm, reader = d.vm('vm'), d.vm('reader')
        d.xe('vm-param-set', f'suspend-SR-uuid={sr}', uuid=vm)
        d.xe('vm-start', uuid=vm)
        d.xe('vm-suspend', uuid=vm)
        d.fails('pbd-unplug', uuid=pbd, says='in use')
        d.xe('vm-resume', uuid=vm)
        snap = d.xe('vdi-snapshot', uuid=d.vdi('1MiB', 'kept', sr))
        d.xe('vbd-create', vm_uuid=reader, vdi_uuid=snap, device=0, mode='RO')
        d.xe('vm-start', uuid=reader)
        d.fails('pbd-unplug', uuid=pbd, says='in use')
        d.xe('vm-shutdown', '--force', uuid=reader)
        d.xe('pbd-unplug', uuid=pbd)
        d.xe('pbd-plug', uuid=pbd)
        d.xe('vm-uninstall', '--force', uuid=reader)
        d.xe('vm-uninstall', '--force', uuid=vm)
        for vdi in d.list('vdi', sr_uuid=sr):
            d.xe('vdi-destroy', uuid=vdi)
        d.wait_quiet()
        d.xe('sr-destroy', uuid=sr)


def test_memory_in_an_sr_that_was_forgotten():
    """What was taken with it is no memory any more, and refers to nothing."""
    with Daemon('fake') as d:
        sr = d.xe('sr-create', name_label='memory', type='file', **{'device-config:location': d.folder_for('memory')})
        vm = d.vm('vm', 1, '1MiB')
        d.xe('vm-param-set', f'suspend-SR-uuid={sr}', uuid=vm)
        d.xe('vm-start', uuid=vm)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        assert image_of(d, snap)
        d.wait_quiet()
        d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=sr)[0])
        d.xe('sr-forget', uuid=sr)
        assert d.sql(f"SELECT suspend_VDI FROM VM WHERE uuid = '{snap}'") == ['OpaqueRef:NULL']
        d.fails('snapshot-revert', uuid=snap, says='memory')
        assert d.state_of(vm) == 'running'


def test_a_disk_of_a_vm_that_reboots():
    """The VM is without a process for a moment, in which no other gets its disk."""
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        vm, others = d.vm('vm', 1, '1MiB'), [d.vm(f'other {i}') for i in range(4)]
        for other in others:
            d.xe('vbd-create', vm_uuid=other, vdi_uuid=d.disks(vm)['0'], device=0)
        d.xe('vm-start', uuid=vm)
        over, said = threading.Event(), set()

        def tries(ref):
            own = Session(Json(d.port, 2), d)
            while not over.is_set():
                said.add(own.refused('VM.start', ref, False, False)[0])
        threads = [threading.Thread(target=tries, args=(s.VM.get_by_uuid(other),)) for other in others]
        for t in threads:
            t.start()
        for _ in range(12):
            d.xe('vm-reboot', uuid=vm)
        over.set()
        for t in threads:
            t.join()
        assert said == {'VDI_IN_USE'} and d.state_of(vm) == 'running', said
        assert all(d.state_of(other) == 'halted' for other in others)


def test_how_a_disk_is_opened_is_fixed_while_somebody_has_it():
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        vm = d.vm('vm', 1, '1MiB')
        disk, vbd = s.VDI.get_by_uuid(d.disks(vm)['0']), d.list('vbd', vm_uuid=vm)[0]
        setters = ('VDI.set_read_only', 'VDI.set_sharable')
        d.xe('vm-start', uuid=vm)
        for setter in setters:
            assert s.refused(setter, disk, True) == ['VDI_IN_USE', disk, setter[4:]]
            s.call(setter, disk, False)         # what it is already
        for what in ('mode=RO', 'userdevice=4', 'type=CD'):
            d.fails('vbd-param-set', what, uuid=vbd)
        d.xe('vm-suspend', uuid=vm)
        assert s.refused(setters[0], disk, True)[0] == 'VDI_IN_USE'
        d.xe('vm-shutdown', '--force', uuid=vm)
        s.VDI.set_read_only(disk, True)
        d.fails('vm-start', uuid=vm, says='cannot be written')
        d.xe('vbd-param-set', 'mode=RO', uuid=vbd)
        d.fails('vbd-param-set', 'mode=RW', uuid=vbd, says='cannot be written')
        d.xe('vm-start', uuid=vm)
        frozen = s.VDI.get_by_uuid(d.disks(d.snapshot(vm))['0'])
        assert [s.refused(setter, frozen, change) for setter, change in zip(setters, (False, True))] == \
            [['VDI_READONLY', frozen]] * 2


def with_top(d, vm, node):
    """The VM has another node open than the record says."""
    path = os.path.join(d.state, 'run', vm, 'fake.json')
    with open(path) as f:
        state = json.load(f)
    chain = state['chains']['disk-0']
    chain[-1], before = node, chain[-1]
    with open(path, 'w') as f:
        json.dump(state, f)
    return before


def test_what_is_open_is_asked_of_the_vmm():
    """Where it is not what the record says nothing is done, and nothing left behind."""
    with in_common() as d:
        vm = d.vm('vm', 1, '1MiB')
        snap = d.snapshot(vm)
        d.xe('vm-start', uuid=vm)
        disk = d.disks(vm)['0']
        right = with_top(d, vm, 'vanother')
        before, files = rows(d), d.volumes()
        for words in (('vm-snapshot', f'uuid={vm}', 'new-name-label=s'), ('vm-checkpoint', f'uuid={vm}', 'new-name-label=c'),
                      ('vdi-snapshot', f'uuid={disk}'), ('vdi-clone', f'uuid={disk}'),
                      ('snapshot-revert', f'uuid={snap}'), ('snapshot-revert', f'uuid={snap}', 'keep-current=true')):
            d.fails(*words, says='vanother')
            d.wait_quiet(merged=False)
            assert rows(d) == before and d.volumes() == files, (words, rows(d) ^ before)
            assert d.state_of(vm) == 'running'
        with_top(d, vm, right)
        d.snapshot(vm)


main(globals())
