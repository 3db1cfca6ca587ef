#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A stock Debian, on a UEFI disk and on a BIOS disk, lives the life of a VM: installed from its
template, changed, broken and reverted, cloned; it reads a CD, and uses disks and network
interfaces that come and go.  Minutes under TCG."""
import os, re, shutil, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from debian import *

SECURE_BOOT = '/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c'
TEXT = 'read from a CD'


def mac(d, vm):
    return d.get('vif', d.list('vif', vm_uuid=vm)[0], 'MAC')


def check_firmware(s, kind):
    s.run('test {}-d /sys/firmware/efi'.format('' if kind == 'uefi' else '! '))


def check_identity(d, vm, s):
    assert s.run('cat /sys/class/dmi/id/product_uuid').lower() == vm
    assert mac(d, vm) in s.run('cat /sys/class/net/*/address')


def check_network(s, name=None):
    """An address by DHCP, and somebody on the other side; through the interface of that name.  Networks
    without a bridge are alike, and a second interface may get no default route beside the first's."""
    dev, interface = (f'dev {name}', f'-I {name}') if name else ('', '')
    s.until(f'ip -4 -o addr show {dev} scope global | grep -q inet')
    s.until('ip -4 route show default | grep -q via')       # a moment after the address
    gateway = s.run("ip -4 route show default | sed 's/.*via \\([^ ]*\\).*/\\1/;q'")
    s.until(f'ping -c 1 -W 2 {interface} {gateway}')


def check_agent(d, vm):
    end = time.time() + 120 * SLOW
    while 'ip' not in d.get('vm', vm, 'networks'):
        assert time.time() < end, 'the guest agent was not heard'
        time.sleep(1)
    assert 'debian' in d.get('vm', vm, 'os-version').lower()


def check_revert(d, vm, s):
    """What was broken is whole again, what was done before the snapshot is there."""
    s.run('echo kept >/root/state && sync')
    programs = s.run('ls /usr/bin | wc -l')
    identity = s.run('cat /etc/machine-id')
    snap = d.snapshot(vm, 'good')
    s.run('rm -rf /root/state /boot/vmlinuz* /usr/bin')
    s.run('ls /usr/bin', status=127)
    s.close()
    d.xe('snapshot-revert', snapshot_uuid=snap)
    assert d.state_of(vm) == 'halted'
    s = start(d, vm)
    check_network(s)
    assert s.run('cat /root/state') == 'kept'
    assert s.run('ls /usr/bin | wc -l') == programs and s.run('cat /etc/machine-id') == identity
    return s


def check_clone(d, vm, kind):
    copy = d.xe('vm-clone', uuid=vm, new_name_label=f'copy of {kind}')
    assert mac(d, copy) != mac(d, vm)
    with start(d, copy) as s:
        check_firmware(s, kind)
        check_identity(d, copy, s)
        check_network(s)
        assert s.run('cat /root/state') == 'kept'
        s.run('echo changed >/root/state && sync')
    d.xe('vm-shutdown', uuid=copy)
    d.xe('vm-uninstall', '--force', uuid=copy)


def make_cd(folder):
    os.mkdir(folder)
    content = os.path.join(folder, 'content')
    os.mkdir(content)
    with open(os.path.join(content, 'text'), 'w') as f:
        f.write(TEXT + '\n')
    subprocess.run(['xorriso', '-as', 'mkisofs', '-quiet', '-R', '-V', 'TEST', '-o',
                    os.path.join(folder, 'test.iso'), content], check=True,
                   stderr=subprocess.DEVNULL)


def check_cd(d, vm, s):
    folder = os.path.join(d.state, 'discs')
    if not os.path.exists(folder):
        make_cd(folder)
        d.xe('sr-create', name_label='discs', type='iso', content_type='iso',
             **{'device-config:location': folder})
    s.close()
    d.xe('vm-shutdown', uuid=vm)
    d.xe('vm-cd-add', uuid=vm, cd_name='test.iso', device=3)
    s = start(d, vm)
    s.run('mount -o ro /dev/sr0 /mnt')
    assert s.run('cat /mnt/text') == TEXT
    s.run('touch /mnt/text', status=1)
    s.run('umount /mnt')
    d.xe('vm-cd-eject', uuid=vm)
    s.run('mount -o ro /dev/sr0 /mnt', status=32)
    d.xe('vm-cd-insert', uuid=vm, cd_name='test.iso')
    s.until('mount -o ro /dev/sr0 /mnt')
    assert s.run('cat /mnt/text') == TEXT
    s.run('umount /mnt')
    return s


def check_disk_plug(d, vm, s):
    vdi = d.vdi('128MiB', 'plugged')
    vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=vdi, device=1)
    d.xe('vbd-plug', uuid=vbd)
    assert d.get('vbd', vbd, 'currently-attached') == 'true'
    node = f'/dev/disk/by-id/virtio-{vdi[:20]}'
    s.until(f'test -b {node}')
    s.run(f'mkfs.ext4 -q {node} && mount {node} /mnt && echo plugged >/mnt/text && sync')
    s.run('umount /mnt')
    d.xe('vbd-unplug', uuid=vbd)
    assert d.get('vbd', vbd, 'currently-attached') == 'false'
    s.until(f'test ! -e {node}')
    d.xe('vbd-plug', uuid=vbd)
    s.until(f'test -b {node}')
    assert s.run(f'mount {node} /mnt && cat /mnt/text && umount /mnt') == 'plugged'
    d.xe('vbd-unplug', uuid=vbd)
    d.xe('vdi-destroy', uuid=vdi)


def check_nic_plug(d, vm, s):
    names = set(s.run('ls /sys/class/net').split())
    vif = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=1)
    d.xe('vif-plug', uuid=vif)
    assert d.get('vif', vif, 'currently-attached') == 'true'
    s.until(f'grep -q {d.get("vif", vif, "MAC")} /sys/class/net/*/address')
    name, = set(s.run('ls /sys/class/net').split()) - names
    check_network(s, name)
    assert s.run(f'cat /sys/class/net/{name}/carrier') == '1'
    d.xe('vif-unplug', uuid=vif)
    assert d.get('vif', vif, 'currently-attached') == 'false'
    s.until(f'test ! -e /sys/class/net/{name}')
    d.xe('vif-destroy', uuid=vif)
    check_network(s)


def timed(check, *args):
    begin = time.time()
    result = check(*args)
    print(f'  {check.__name__}: {time.time() - begin:.1f} s', flush=True)
    return result


def lives(kind):
    with Daemon() as d:
        vm = timed(install, d, kind)
        s = start(d, vm)
        check_firmware(s, kind)
        check_identity(d, vm, s)
        timed(check_network, s)
        timed(check_agent, d, vm)
        timed(check_disk_plug, d, vm, s)
        timed(check_nic_plug, d, vm, s)
        s = timed(check_revert, d, vm, s)
        check_identity(d, vm, s)
        s = timed(check_cd, d, vm, s)
        s.close()
        d.xe('vm-shutdown', uuid=vm)
        timed(check_clone, d, vm, kind)
        with start(d, vm) as s:
            assert s.run('cat /root/state') == 'kept', 'the clone wrote to its original'
        d.xe('vm-shutdown', uuid=vm)
        d.check()


def test_uefi():
    lives('uefi')


def test_bios():
    lives('bios')


def test_secure_boot():
    with Daemon() as d:
        vm = install(d, 'uefi')
        d.xe('vm-param-set', 'platform:secureboot=true', uuid=vm)
        with start(d, vm) as s:
            assert s.run(f'od -An -t u1 -j 4 {SECURE_BOOT}') == '1'
            check_network(s)
        d.xe('vm-shutdown', uuid=vm)
        d.check()


if __name__ == '__main__':
    main(globals())
