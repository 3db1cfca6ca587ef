#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Faults of the VMM, which real ones show too seldom: each call of the driver fails in turn."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *


def test_every_call_fails_once():
    for call in ('start', 'prepare', 'switch_disks', 'pause', 'stop'):
        with Daemon('fake') as d:
            vm = d.vm(disks=2)
            if call != 'start':
                d.xe('vm-start', uuid=vm)
                snap = d.snapshot(vm)
            volumes, disks = d.volumes(), d.disks(vm)
            d.restart(env={'STILLFRAME_FAKE': f'fail={call}'})
            state = d.state_of(vm)
            if call == 'start':
                d.fails('vm-start', uuid=vm)
            elif call == 'pause':
                d.fails('vm-pause', uuid=vm)
            elif call == 'stop':
                d.fails('vm-shutdown', '--force', uuid=vm)
            else:
                d.fails('vm-snapshot', uuid=vm, new_name_label='x')
            assert d.state_of(vm) == state and d.disks(vm) == disks
            assert d.volumes() == volumes, f'{call}: {set(d.volumes()) - set(volumes)}'
            d.restart()
            d.check()


def test_cancel():
    """A snapshot that hangs is cancelled, and leaves nothing behind."""
    with Daemon('fake', env={'STILLFRAME_FAKE': 'hang=prepare'}) as d:
        vm = d.vm(disks=1)
        d.xe('vm-start', uuid=vm)
        volumes = d.volumes()
        p = d.begin('vm-snapshot', f'uuid={vm}', 'new-name-label=x', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        task = d.pending('VM.snapshot')
        wait_for(lambda: 'fake prepare' in d.log())
        assert d.get('vm', vm, 'current-operations'), 'a running operation is not shown'
        d.xe('task-cancel', uuid=task)
        out, err = p.communicate(timeout=30 * SLOW)
        assert p.returncode == 1 and b'cancelled' in err, err
        assert task not in d.list('task')
        assert d.volumes() == volumes
        d.check()


def test_a_client_that_leaves_cancels():
    with Daemon('fake', env={'STILLFRAME_FAKE': 'hang=prepare'}) as d:
        vm = d.vm(disks=1)
        d.xe('vm-start', uuid=vm)
        p = d.begin('vm-snapshot', f'uuid={vm}', 'new-name-label=x', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        d.pending('VM.snapshot')
        p.kill()
        p.wait()
        wait_for(lambda: not d.list('task', status='pending'), why=lambda: 'the task goes on without its client')
        d.check()


def test_two_at_once():
    """Operations on the same disks, begun together: each comes through or is refused, and no layer loses what
    it stands on."""
    from concurrent.futures import ThreadPoolExecutor
    with Daemon('fake') as d, ThreadPoolExecutor(4) as pool:
        for i in range(4):
            vm = d.vm(f'vm {i}', disks=4)
            other = d.vm(f'other {i}')
            for device, disk in d.disks(vm).items():
                d.xe('vbd-create', vm_uuid=other, vdi_uuid=disk, device=device)
            snap = d.snapshot(vm)
            together = [
                [('snapshot-revert', {'uuid': snap}), ('vdi-destroy', {'uuid': d.disks(snap)['2']}),
                 ('vdi-destroy', {'uuid': d.disks(vm)['1']})],
                [('vm-snapshot', {'uuid': vm, 'new_name_label': 'x'}),
                 ('vm-snapshot', {'uuid': other, 'new_name_label': 'x'}),
                 ('vm-clone', {'uuid': other, 'new_name_label': 'x'})],
                [('snapshot-clone', {'uuid': snap, 'new_name_label': 'x'}),
                 ('snapshot-uninstall', {'uuid': snap, 'force': 'true'})],
            ]
            for commands in together:
                results = list(pool.map(lambda c: d.run(c[0], **c[1]), commands))
                assert any(r[0] == 0 for r in results), results
                d.check()


def test_a_shutdown_by_a_call_stays():
    with Daemon('fake') as d:
        vm = d.vm('vm')
        d.xe('vm-param-set', 'actions-after-shutdown=restart', uuid=vm)
        for _ in range(20):
            d.xe('vm-start', uuid=vm)
            d.xe('vm-shutdown', uuid=vm)
        time.sleep(0.5)
        assert d.state_of(vm) == 'halted' and 'will be started again' not in d.log()


def test_what_can_be_plugged():
    with Daemon('fake') as d:
        vm = d.vm('vm', disks=1)
        disk, = d.list('vbd', vm_uuid=vm)
        nic = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)

        def allowed():
            return [d.get(c, u, 'allowed-operations') for c, u in (('vbd', disk), ('vif', nic))]

        assert allowed() == ['attach', 'attach']
        d.xe('vm-start', uuid=vm)
        assert allowed() == ['unplug', 'unplug']
        d.xe('vbd-unplug', uuid=disk)
        d.xe('vif-unplug', uuid=nic)
        assert allowed() == ['plug', 'plug']
        d.xe('vbd-plug', uuid=disk)
        d.xe('vbd-param-set', 'unpluggable=false', uuid=disk)
        assert allowed() == ['', 'plug']
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-param-set', 'platform:devices=ahci', uuid=vm)
        d.xe('vbd-param-set', 'unpluggable=true', uuid=disk)
        d.xe('vm-start', uuid=vm)
        assert allowed() == ['', 'unplug'], 'SATA'


def test_what_comes_back_at_once_stays():
    """That a device has gone is heard of late, when another of its name is there already."""
    with Daemon('fake', env={'STILLFRAME_FAKE': 'late=present,late=unplugged'}) as d:
        vm = d.vm('vm', disks=1)
        disk, = d.list('vbd', vm_uuid=vm)
        nic = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=3)
        d.xe('vm-start', uuid=vm)
        for kind, uuid in ('vbd', disk), ('vif', nic):
            d.xe(f'{kind}-unplug', uuid=uuid)
            time.sleep(0.7)
            d.xe(f'{kind}-plug', uuid=uuid)
        time.sleep(1)
        said = d.fakes()[vm]
        assert said['nics'] == ['nic-3'] and 'disk-0' in said['chains'], said



def test_as_many_vms_as_there_are_numbers():
    """Each VM with a process has a number, and a user after it; the one too many is told so, at once."""
    need_root()
    with Daemon('fake', options=['--qemu-uids', '70000-70002']) as d:
        vms = [d.vm(f'vm{i}', disks=1) for i in range(3)]
        for vm in vms[:2]:
            d.xe('vm-start', uuid=vm)
        d.fails('vm-start', uuid=vms[2], says='--qemu-uids')
        assert d.state_of(vms[2]) == 'halted'
        d.xe('vm-suspend', uuid=vms[0])             # it has none while it sleeps
        d.xe('vm-start', uuid=vms[2])
        d.fails('vm-resume', uuid=vms[0], says='--qemu-uids')
        assert d.state_of(vms[0]) == 'suspended'
        d.xe('vm-shutdown', '--force', uuid=vms[1])
        d.xe('vm-resume', uuid=vms[0])
        d.check()


def test_logs_are_trimmed():
    """GUEST_LOG: what a guest says without end: the end of it is kept.  A link that stands there is not followed."""
    with Daemon('fake', delays={'timer-logs': 0.02}) as d:
        folder, other = (os.path.join(d.state, 'run', str(n)) for n in range(2))
        mine = os.path.join(d.state, 'mine')
        for path in (os.path.join(folder, 'serial.log'), mine):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, 'wb') as f:
                f.write(bytes(8 << 20) + b'x' * (1 << 20))
        os.mkdir(other)
        os.symlink(mine, os.path.join(other, 'serial.log'))
        wait_for(lambda: not os.path.getsize(os.path.join(folder, 'serial.log')))
        with open(os.path.join(folder, 'serial.log.old'), 'rb') as f:
            assert f.read() == b'x' * (1 << 20)
        time.sleep(0.5)
        assert os.path.getsize(mine) == 9 << 20


main(globals())
