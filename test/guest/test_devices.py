#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Devices: they come and go while the guest runs, stand where they stood, and rows tell the truth."""
import os, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden


def wait_for(what, seconds=20):
    end = time.time() + seconds * SLOW
    while not what():
        assert time.time() < end, 'it did not come about'
        time.sleep(0.1)


def block_devices(s):
    return set(s.ask('shell ls /sys/block').replace('\\n', ' ').split())


def add_disk(d, vm, device, size='64MiB'):
    vdi = d.vdi(size, f'plugged {device}')
    return d.xe('vbd-create', vm_uuid=vm, vdi_uuid=vdi, device=device), vdi


def attached(d, vbd):
    return d.get('vbd', vbd, 'currently-attached') == 'true'


def test_a_disk_comes_and_goes():
    with golden() as (d, vm, s):
        vbd, vdi = add_disk(d, vm, 5)
        assert not attached(d, vbd)
        d.xe('vbd-plug', uuid=vbd)
        assert attached(d, vbd)
        d.fails('vbd-plug', uuid=vbd, says='attached already')
        wait_for(lambda: 'vdb' in block_devices(s))
        assert vdi[:20] in s.ask('shell cat /sys/block/vdb/serial')
        s.ask('rescan')
        wrote = s.fields('write b file 4')['sum']

        # It is in snapshots, and survives the daemon.
        snap = d.snapshot(vm)
        assert len(d.list('vbd', vm_uuid=snap)) == 2
        d.restart()
        assert attached(d, vbd)
        assert s.fields('sum b file')['sum'] == wrote

        s.ask('eject b')
        d.xe('vbd-unplug', uuid=vbd)
        assert not attached(d, vbd) and 'vdb' not in block_devices(s)
        d.fails('vbd-unplug', uuid=vbd, says='not attached')
        location = d.sql(f"SELECT location FROM VDI WHERE uuid = '{vdi}'")[0]
        assert not [f for f in open_files(d.guests()[vm]) if location in f], 'the image is still open'
        d.xe('vbd-plug', uuid=vbd)
        wait_for(lambda: 'vdb' in block_devices(s))
        s.ask('rescan')
        assert s.fields('sum b file')['sum'] == wrote
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert not attached(d, vbd)
        d.check()


def test_an_interface_comes_and_goes():
    with golden() as (d, vm, s):
        vif = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=3)
        mac = d.get('vif', vif, 'MAC')
        d.xe('vif-plug', uuid=vif)
        wait_for(lambda: 'eth1' in s.ask('shell ls /sys/class/net'))
        assert mac in s.ask('shell cat /sys/class/net/eth1/address')
        d.xe('vif-unplug', uuid=vif)
        assert 'eth1' not in s.ask('shell ls /sys/class/net')
        assert d.get('vif', vif, 'currently-attached') == 'false'
        d.xe('vif-plug', uuid=vif)
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert d.get('vif', vif, 'currently-attached') == 'false'


def test_a_guest_that_does_not_let_go():
    """A machine without a system never answers: the drive stays attached.  Its reset lets go of it, long
    after the call has failed, and that is seen too."""
    with Daemon(delays={'detach': 0.2}) as d:
        vm = d.vm('empty', disks=1, memory='64MiB')
        d.xe('vm-start', uuid=vm)
        time.sleep(3 * SLOW)
        vbd, vdi = add_disk(d, vm, 7)
        d.xe('vbd-plug', uuid=vbd)
        begin = time.time()
        d.fails('vbd-unplug', uuid=vbd, says='did not let go')
        assert 3.9 < time.time() - begin < 20 * SLOW
        assert attached(d, vbd)
        d.fails('vdi-destroy', uuid=vdi)
        d.xe('vm-reboot', '--force', uuid=vm)
        wait_for(lambda: not attached(d, vbd))
        d.xe('vm-pause', uuid=vm)
        d.fails('vbd-plug', uuid=vbd, says='power state')
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()


def test_emulated_devices():
    """platform:devices=ahci: nothing that needs a driver of its own; no hot plug of drives."""
    with Daemon() as d:
        # It boots: its devices are others.
        vm = guest_vm(d, disks=2, start=False)
        d.xe('vm-param-set', 'platform:devices=ahci', uuid=vm)
        with d.boot(vm) as s:
            found = block_devices(s)
            assert {'sda', 'sdb'} <= found and 'vda' not in found, found
            assert 'e1000e' in s.ask('shell readlink /sys/class/net/eth0/device/driver')
            vbd, _ = add_disk(d, vm, 2)
            d.fails('vbd-plug', uuid=vbd, says='SATA')
            assert not attached(d, vbd)
        d.xe('vm-shutdown', uuid=vm)
        with d.boot(vm) as s:
            assert attached(d, vbd) and 'sdc' in block_devices(s)
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-param-set', 'platform:devices=nonsense', uuid=vm)
        d.fails('vm-start', uuid=vm, says='nonsense')
        d.check()


def test_what_comes_fits_the_machine_that_runs():
    """Another platform:devices is for the next start: in a machine of virtio devices virtio devices come and go."""
    with golden() as (d, vm, s):
        d.xe('vm-param-set', 'platform:devices=ahci', uuid=vm)
        vbd, _ = add_disk(d, vm, 5)
        vif = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=3)
        d.xe('vbd-plug', uuid=vbd)
        d.xe('vif-plug', uuid=vif)
        wait_for(lambda: 'vdb' in block_devices(s))
        wait_for(lambda: 'virtio' in s.ask('shell readlink /sys/class/net/eth1/device/driver || true'))
        d.xe('vif-unplug', uuid=vif)
        d.xe('vbd-unplug', uuid=vbd)
        assert 'vdb' not in block_devices(s)
        d.check()


def test_an_address_is_the_positions():
    """What is plugged stands where it would stand had it been there at the start."""
    def address(s):
        return s.ask('shell readlink -f /sys/block/vdb/device').split('/virtio')[0]

    with golden() as (d, vm, s):
        vbd, _ = add_disk(d, vm, 9)
        d.xe('vbd-plug', uuid=vbd)
        wait_for(lambda: 'vdb' in block_devices(s))
        plugged = address(s)
        d.xe('vm-shutdown', '--force', uuid=vm)
        with d.boot(vm) as s:
            assert address(s) == plugged and 'pci' in plugged, plugged


def panic(s):
    """What a panicking guest prints must be read, or nobody be there: its port waits for a reader."""
    s.s.sendall(b'crash panic\n')
    time.sleep(0.3)
    s.close()


def test_actions_after():
    """Of a reboot and of a crash: the guest boots each time."""
    with Daemon() as d:
        vm = guest_vm(d, disks=1, start=False)

        d.xe('vm-param-set', 'actions-after-reboot=destroy', uuid=vm)
        with d.boot(vm) as s:
            s.s.sendall(b'reboot\n')
            d.wait_state(vm, 'halted', 30)
        d.xe('vm-param-set', 'actions-after-crash=preserve', uuid=vm)
        with d.boot(vm) as s:
            pid = d.guests()[vm]
            panic(s)
            d.wait_state(vm, 'paused', 30)
            assert d.guests()[vm] == pid
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-param-set', 'actions-after-crash=restart', uuid=vm)
        with d.boot(vm) as s:
            pid = d.guests()[vm]
            panic(s)
            wait_for(lambda: d.guests().get(vm) not in (None, pid), 60)
            d.wait_state(vm, 'running', 30)
        assert 'VM_CRASHED' in d.list('message', 'name')
        d.xe('vm-shutdown', '--force', uuid=vm)
        time.sleep(1)
        assert d.state_of(vm) == 'halted', 'a VM that the user shut down was started again'


def test_auto_poweron():
    """VMs with the key start after the host's boot, and only then."""
    with Daemon() as d:
        vm = guest_vm(d, disks=1, start=False)
        other = guest_vm(d, 'other', disks=1, start=False)
        d.xe('vm-param-set', 'other-config:auto_poweron=true', uuid=vm)
        d.xe('pool-param-set', 'other-config:auto_poweron=true', uuid=d.list('pool')[0])
        d.restart()
        time.sleep(1)
        assert d.state_of(vm) == 'halted', 'the daemon was started again, not the host'
        d.stop()
        d.sql_write("UPDATE host SET boot_id = 'of another boot'")
        d.start()
        d.wait_state(vm, 'running', 30)
        assert d.state_of(other) == 'halted'


def test_twenty_at_once():
    with Daemon() as d:
        vms = [guest_vm(d, f'vm{i}', disks=1, size='64MiB', memory='96MiB', start=False) for i in range(20)]
        ran = [d.begin('vm-start', f'uuid={vm}') for vm in vms]
        assert [p.wait(120 * SLOW) for p in ran] == [0] * 20
        assert all(d.state_of(vm) == 'running' for vm in vms) and len(d.guests()) == 20
        d.restart()
        assert all(d.state_of(vm) == 'running' for vm in vms)
        d.xe('vm-shutdown', '--force', '--multiple')
        assert not d.guests()
        d.check()


main(globals())
