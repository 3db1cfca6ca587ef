#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""VMs and snapshots deleted with all that is theirs: all of it goes, or nothing does."""
import json, os, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *


def owned(d, vm):
    for vbd in d.list('vbd', vm_uuid=vm):
        d.xe('vbd-param-set', 'other-config:owner=', uuid=vbd)
    return vm


def stays(d, *words, says):
    """It is refused, and all is as it was."""
    before, files = rows(d), d.volumes()
    d.fails(*words, says=says)
    d.wait_quiet()
    assert rows(d) == before and d.volumes() == files, rows(d) ^ before


def test_all_of_it_goes():
    """Of a VM that runs, with a checkpoint and a snapshot; what others use, and what is not its own, stays."""
    with in_common() as d:
        vm = owned(d, d.vm('vm', 2, '1MiB'))
        other, shared, mine = d.vm('other'), d.vdi('1MiB', 'shared'), d.vdi('1MiB', 'not owned')
        for disk, position in ((shared, 2), (mine, 3)):
            d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=position)
        d.xe('vbd-param-set', 'other-config:owner=', uuid=d.list('vbd', vm_uuid=vm, vdi_uuid=shared)[0])
        d.xe('vbd-create', vm_uuid=other, vdi_uuid=shared, device=0)
        d.snapshot(vm)
        d.xe('vm-start', uuid=vm)
        d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        assert vm in d.fakes()
        d.xe('vm-uninstall', '--force', uuid=vm)
        assert vm not in d.fakes() and not os.path.exists(os.path.join(d.state, 'run', vm))
        d.wait_quiet()
        assert d.list('vm') == [other] and not d.list('snapshot')
        assert set(d.list('vdi', managed='true')) == {shared, mine}
        d.check()


def test_a_storage_that_is_away():
    with in_common() as d:
        folder = d.folder_for('away')
        sr = d.xe('sr-create', name_label='away', type='file', **{'device-config:location': folder})
        pbd = d.list('pbd', sr_uuid=sr)[0]
        vm = d.vm('vm', 1, '1MiB')
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi('1MiB', 'second', sr), device=1)
        owned(d, vm)
        snap = d.snapshot(vm)
        d.wait_quiet()
        d.xe('pbd-unplug', uuid=pbd)
        for words in (('snapshot-uninstall', f'uuid={snap}', '--force'), ('vm-uninstall', f'uuid={vm}', '--force')):
            stays(d, *words, says='not attached')
        d.xe('pbd-plug', uuid=pbd)
        d.xe('vm-uninstall', '--force', uuid=vm)
        d.wait_quiet()
        assert not d.list('vdi', sr_uuid=sr)
        d.xe('sr-destroy', uuid=sr)


def test_what_is_protected():
    """A snapshot that must not be destroyed keeps its VM and the other snapshots."""
    with in_common() as d:
        vm = owned(d, d.vm('vm', 1, '1MiB'))
        snaps = [d.snapshot(vm, name) for name in ('first', 'second')]
        d.xe('vm-start', uuid=vm)
        for uuid, operation in ((snaps[0], 'destroy'), (snaps[1], 'destroy'), (vm, 'destroy'), (vm, 'hard_shutdown')):
            d.xe('vm-param-set' if uuid == vm else 'snapshot-param-set', f'blocked-operations:{operation}=keep this', uuid=uuid)
            stays(d, 'vm-uninstall', f'uuid={vm}', '--force', says='keep this')
            assert d.state_of(vm) == 'running' and vm in d.fakes()
            d.xe('vm-param-remove' if uuid == vm else 'snapshot-param-remove', uuid=uuid, param_name='blocked-operations',
                 param_key=operation)
        d.xe('vm-uninstall', '--force', uuid=vm)


def test_a_disk_that_is_busy():
    """It is exported for longer than anybody waits: nothing is deleted, and the export comes to its end."""
    with Daemon('fake', delays={'operation-patience': 0.02}) as d:
        vm = owned(d, d.vm('vm', 2, '8MiB'))
        snap = d.snapshot(vm)
        for of, uninstall in ((snap, ('snapshot-uninstall', f'uuid={snap}', '--force')),
                              (vm, ('vm-uninstall', f'uuid={vm}', '--force'))):
            p = d.begin('vdi-export', f'uuid={d.disks(of)["1"]}', 'filename=', stdout=subprocess.PIPE)
            begun = p.stdout.read(4096)
            d.pending('VDI.export_raw')
            before = rows(d)
            d.fails(*uninstall, says='copy')
            assert rows(d) == before, rows(d) ^ before
            rest = p.stdout.read()
            assert p.wait(60) == 0 and len(begun + rest) == 8 << 20


main(globals())
