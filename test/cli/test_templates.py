#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Templates: those that come with the system, VMs installed from them, VMs made into templates; and full
copies of VMs and snapshots."""
import hashlib, os, sys
import xml.etree.ElementTree as ET
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

GIB = 1 << 30
NAMES = {'Debian Bullseye 11', 'Debian Bookworm 12', 'Debian Trixie 13', 'Ubuntu Focal Fossa 20.04',
         'Ubuntu Jammy Jellyfish 22.04', 'Ubuntu Noble Numbat 24.04', 'Rocky Linux 9', 'AlmaLinux 9',
         'Red Hat Enterprise Linux 9', 'SUSE Linux Enterprise 15 (64-bit)', 'Windows 10 (64-bit)', 'Windows 11',
         'Windows Server 2016 (64-bit)', 'Windows Server 2019 (64-bit)', 'Windows Server 2022 (64-bit)',
         'Windows Server 2025', 'Other install media'}


def template(d, name):
    found = d.list('template', name_label=name)
    assert len(found) == 1, f'{name}: {found}'
    return found[0]


def names(d):
    return {d.get('template', t, 'name-label') for t in d.list('template')}


def second_sr(d, name='second'):
    folder = d.folder_for(name)
    return d.xe('sr-create', name_label=name, type='file', **{'device-config:location': folder})


def content(d, vdi):
    """SHA-256 of what the disk holds."""
    out = os.path.join(d.state, 'out')
    d.xe('vdi-export', uuid=vdi, filename=out)
    with open(out, 'rb') as f:
        digest = hashlib.file_digest(f, 'sha256').hexdigest() if hasattr(hashlib, 'file_digest') \
            else hashlib.sha256(f.read()).hexdigest()
    os.unlink(out)
    return digest


def fill(d, vdi, *pieces, size):
    """Writes a whole image: random bytes at the given offsets, zeros elsewhere."""
    image = os.path.join(d.state, 'in')
    with open(image, 'wb') as f:
        f.truncate(size)
        for at, n in pieces:
            f.seek(at)
            f.write(os.urandom(n))
    d.xe('vdi-import', uuid=vdi, filename=image)
    os.unlink(image)


def allocated(d, vdi, folder='sr'):
    location = d.sql(f"SELECT location FROM VDI WHERE uuid = '{vdi}'")[0]
    return os.stat(os.path.join(d.state, folder, location + '.qcow2')).st_blocks * 512


# ---- what comes with the system ----

def test_there_are_templates():
    with in_common() as d:
        assert names(d) == NAMES
        assert d.list('vm') == [], 'templates are no VMs'
        one = template(d, 'Debian Bookworm 12')
        assert d.run('template-list', 'name-label=Debian Bookworm 12', 'params=name-label,reference-label')[1] == (
            'name-label ( RW)         : Debian Bookworm 12\n'
            '    reference-label ( RO): debian-12\n\n\n')
        for t in d.list('template'):
            assert d.get('template', t, 'is-default-template') == 'true'
            assert d.get('template', t, 'has-vendor-device') == 'false'
            assert d.get('template', t, 'reference-label')
            d.fails('template-uninstall', '--force', template_uuid=t, says='cannot be deleted')
            d.fails('vm-destroy', uuid=t, says='cannot be deleted')
        assert names(d) == NAMES
        for op in ('clone', 'copy', 'provision'):
            assert op in d.get('template', one, 'allowed-operations'), op
        for op in ('start', 'snapshot', 'destroy', 'revert'):
            assert op not in d.get('template', one, 'allowed-operations').split('; '), op
        d.check()


def test_what_templates_say():
    with in_common() as d:
        def of(name, field, key=None):
            return d.get('template', template(d, name), field, key)
        assert of('Debian Bookworm 12', 'HVM-boot-params', 'firmware') == 'uefi'
        assert of('Debian Bullseye 11', 'HVM-boot-params', 'firmware') == 'bios'
        assert of('Debian Bookworm 12', 'platform', 'devices') == 'virtio'
        assert of('Debian Bookworm 12', 'platform', 'secureboot') == 'auto'
        assert of('Debian Bookworm 12', 'other-config', 'install-distro') == 'debianlike'
        assert of('Windows Server 2022 (64-bit)', 'platform', 'devices') == 'ahci'
        assert 'vtpm' not in of('Windows Server 2022 (64-bit)', 'platform')
        assert of('Windows 11', 'platform', 'vtpm') == 'true'
        assert of('Windows 11', 'VCPUs-max') == '2'
        assert of('Windows 11', 'memory-static-max') == str(8 * GIB)
        assert of('Other install media', 'platform', 'devices') == 'virtio'
        assert of('Other install media', 'HVM-boot-params') == 'order: dc; firmware: bios' \
            or of('Other install media', 'HVM-boot-params') == 'firmware: bios; order: dc'
        assert 'disks' not in of('Other install media', 'other-config')


def test_recommendations():
    """The XML that XenCenter and Xen Orchestra draw their limits from, and the disks that they offer."""
    with in_common() as d:
        for t in d.list('template'):
            root = ET.fromstring(d.get('template', t, 'recommendations'))
            assert root.tag == 'restrictions' and all(e.tag == 'restriction' for e in root)
            said = {e.get('field') or e.get('property'): e.get('max') or e.get('min') or e.get('value') for e in root}
            ahci = d.get('template', t, 'platform', 'devices') == 'ahci'
            assert said['number-of-vbds'] == ('6' if ahci else '28') and said['number-of-vifs'] == '7'
            assert int(said['memory-static-min']) == int(d.get('template', t, 'memory-static-min'))
            assert int(said['memory-static-max']) >= int(d.get('template', t, 'memory-static-max'))
            assert int(said['vcpus-max']) >= int(d.get('template', t, 'VCPUs-max'))
            assert said['supports-uefi'] == 'yes' and said['supports-bios'] in ('yes', 'no')
            config = d.sql(f"SELECT other_config FROM VM WHERE uuid = '{t}'")[0]
            disks = json.loads(config).get('disks')
            if disks:
                disk, = ET.fromstring(disks)
                assert disk.tag == 'disk' and int(disk.get('size')) >= 8 * GIB
                assert (disk.get('device'), disk.get('sr'), disk.get('bootable'), disk.get('type')) \
                    == ('0', '', 'true', 'system')


def test_at_each_start():
    """Missing ones are made, changed ones left; those of an older version are written anew."""
    with Daemon('fake') as d:
        one, two, old = template(d, 'Windows 11'), template(d, 'Rocky Linux 9'), template(d, 'Other install media')
        d.xe('template-param-set', uuid=one, **{'name-label': 'Our desktops', 'VCPUs-max': '4'})
        d.restart()
        assert d.get('template', one, 'name-label') == 'Our desktops'
        assert d.get('template', one, 'VCPUs-max') == '4'
        assert len(d.list('template')) == len(NAMES)

        d.xe('template-param-set', uuid=one, user_version=0)        # as an older version left it
        d.stop()
        import sqlite3
        with sqlite3.connect(os.path.join(d.state, 'state.db')) as c:
            c.execute(f"DELETE FROM VM WHERE uuid = '{two}'")
            c.execute("UPDATE VM SET reference_label = '', user_version = '0', platform = '{}' "
                      f"WHERE uuid = '{old}'")
        c.close()
        d.start()
        assert names(d) == NAMES and len(d.list('template')) == len(NAMES)
        assert template(d, 'Windows 11') == one and d.get('template', one, 'VCPUs-max') == '2'
        assert template(d, 'Rocky Linux 9') != two
        assert template(d, 'Other install media') == old, 'it has another uuid after the upgrade'
        assert d.get('template', old, 'platform', 'devices') == 'virtio'
        d.check()


def test_a_shipped_one_taken_over():
    """is-a-template=false makes a VM of it, which can be deleted; the next start brings the template back."""
    with Daemon('fake') as d:
        one = template(d, 'AlmaLinux 9')
        d.xe('template-param-set', 'is-a-template=false', uuid=one)
        assert d.list('vm') == [one] and d.get('vm', one, 'is-default-template') == 'false'
        d.restart()
        assert template(d, 'AlmaLinux 9') != one
        d.xe('vm-uninstall', '--force', uuid=one)
        assert names(d) == NAMES
        d.check()


# ---- installing ----

def test_install_makes_the_disks():
    with in_common() as d:
        vm = d.xe('vm-install', 'template=Debian Bookworm 12', new_name_label='web')
        assert d.get('vm', vm, 'is-a-template') == 'false' and d.get('vm', vm, 'is-default-template') == 'false'
        assert d.get('vm', vm, 'name-description') == 'Installed via xe CLI'
        assert d.get('vm', vm, 'other-config', 'base_template_name') == 'Debian Bookworm 12'
        config = d.get('vm', vm, 'other-config')
        assert 'disks' not in config and 'default_template' not in config and 'mac_seed' in config, config
        assert d.get('vm', vm, 'reference-label') == 'debian-12'
        assert d.get('vm', vm, 'platform', 'devices') == 'virtio'
        assert d.get('vm', vm, 'HVM-boot-params', 'firmware') == 'uefi'
        assert d.get('vm', vm, 'memory-static-max') == str(2 * GIB)

        vbd, = d.list('vbd', vm_uuid=vm)
        disk = d.disks(vm)['0']
        assert d.get('vbd', vbd, 'other-config') == 'owner: ' and d.get('vbd', vbd, 'bootable') == 'true'
        assert d.get('vbd', vbd, 'mode') == 'RW' and d.get('vbd', vbd, 'type') == 'Disk'
        assert d.get('vdi', disk, 'virtual-size') == str(10 * GIB)
        assert d.get('vdi', disk, 'name-label') == '0' and d.get('vdi', disk, 'type') == 'System'
        assert d.get('vdi', disk, 'name-description') == 'Created by template provisioner'
        assert d.get('vdi', disk, 'sr-uuid') == d.sr()
        assert d.get('sr', d.sr(), 'virtual-allocation') == str(10 * GIB)
        d.xe('vm-start', uuid=vm)
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-uninstall', '--force', uuid=vm)
        assert d.volumes() == [] and d.list('vdi') == []
        d.check()


def test_install_into_another_sr():
    with Daemon('fake') as d:
        sr = second_sr(d)
        for way in ({'sr_uuid': sr}, {'sr_name_label': 'second'}):
            vm = d.xe('vm-install', 'template=Windows 11', new_name_label='w', **way)
            disk = d.disks(vm)['0']
            assert d.get('vdi', disk, 'sr-uuid') == sr and d.get('vdi', disk, 'virtual-size') == str(64 * GIB)
            d.xe('vm-uninstall', '--force', uuid=vm)
        d.fails('vm-install', 'template=Windows 11', new_name_label='w', sr_name_label='third', says='third')
        assert d.list('vm') == [] and d.volumes('sr/second') == []
        d.check()


def test_without_a_default_sr():
    with Daemon('fake') as d:
        d.xe('pool-param-set', 'default-SR=', uuid=d.list('pool')[0])
        d.fails('vm-install', 'template=Debian Trixie 13', new_name_label='x', says='no default storage')
        assert d.list('vm') == []
        d.xe('vm-install', 'template=Debian Trixie 13', new_name_label='x', sr_uuid=d.sr())
        d.xe('vm-install', 'template=Other install media', new_name_label='y')
        d.check()


def set_disks(d, t, xml):
    if 'disks' in d.get('template', t, 'other-config'):
        d.xe('template-param-remove', 'param-name=other-config', 'param-key=disks', uuid=t)
    d.xe('template-param-add', 'param-name=other-config', f'disks={xml}', uuid=t)


def test_disks_of_ones_own():
    """A user's template asks for several disks, in several SRs."""
    with Daemon('fake') as d:
        sr = second_sr(d)
        vm = d.vm('golden', disks=1)
        d.xe('vm-param-set', 'is-a-template=true', uuid=vm)
        set_disks(d, vm, f'<provision><disk device="1" size="{GIB}" sr="{sr}" bootable="false" type="user"/>'
                         f'<disk device="5" size="1048576" sr=""/></provision>')
        d.xe('template-param-add', 'param-name=other-config', 'postinstall=/bin/false', uuid=vm)
        new = d.xe('vm-install', template='golden', new_name_label='new')
        disks = d.disks(new)
        assert sorted(disks) == ['0', '1', '5']
        assert d.get('vdi', disks['1'], 'sr-uuid') == sr and d.get('vdi', disks['5'], 'sr-uuid') == d.sr()
        assert d.get('vdi', disks['1'], 'type') == 'User'
        assert 'postinstall' not in d.get('vm', new, 'other-config')
        assert 'postinstall script not run' in d.log()
        d.check()


def test_bad_wishes():
    """Each is refused, and nothing of the VM is left."""
    with in_common() as d:
        vm = d.vm('golden', disks=1)
        d.xe('vm-param-set', 'is-a-template=true', uuid=vm)
        volumes, vdis = d.volumes(), set(d.list('vdi'))
        for xml, says in (
                ('<provision', 'not well-formed'),
                ('<!DOCTYPE p [<!ENTITY e SYSTEM "file:///etc/passwd">]><provision>&e;</provision>', 'document type'),
                ('<provision><disk device="1"/></provision>', 'size'),
                ('<provision><disk device="0" size="1048576"/></provision>', 'position'),
                ('<provision><disk device="1" size="1048576"/><disk device="1" size="1048576"/></provision>', 'twice'),
                ('<provision><disk device="99" size="1048576"/></provision>', '99'),
                ('<provision><disk device="1" size="1048576" sr="nowhere"/></provision>', 'nowhere'),
                ('<provision><disk device="1" size="1048576"/>'
                 '<disk device="2" size="9000000000000000000"/></provision>', '')):
            set_disks(d, vm, xml)
            d.fails('vm-install', template='golden', new_name_label='x', says=says)
            assert d.list('vm') == [], xml
            # What a clone froze stays frozen, with a layer over it: the disks themselves are what they were.
            assert set(d.list('vdi', managed='true')) == vdis, xml
        d.check()


# ---- templates of one's own ----

def test_a_vm_becomes_a_template():
    with in_common() as d:
        vm = d.vm('golden', disks=1)
        d.xe('vm-start', uuid=vm)
        d.fails('vm-param-set', 'is-a-template=true', uuid=vm, says='halted')
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-param-set', 'is-a-template=true', uuid=vm)
        assert vm in d.list('template') and vm not in d.list('vm')
        d.fails('vm-start', uuid=vm, says='No matching VMs found')
        one = d.xe('vm-install', template='golden', new_name_label='one')
        two = d.xe('vm-clone', uuid=vm, new_name_label='a second golden')
        assert d.get('vm', one, 'is-a-template') == 'false'
        assert d.get('template', two, 'is-a-template') == 'true', 'a clone of a template is one'
        d.xe('vm-start', uuid=one)
        disk = d.disks(two)['0']
        d.xe('template-uninstall', '--force', template_uuid=two)
        assert two not in d.list('template') and disk not in d.list('vdi')
        d.fails('template-uninstall', '--force', template_uuid=one, says='not a template')
        d.xe('template-param-set', 'is-a-template=false', uuid=vm)
        d.xe('vm-start', uuid=vm)
        d.check()


def test_clone_of_a_shipped_template():
    with in_common() as d:
        mine = d.xe('vm-clone', uuid=template(d, 'Debian Trixie 13'), new_name_label='Our Debian')
        assert mine in d.list('template') and d.get('template', mine, 'is-default-template') == 'false'
        vm = d.xe('vm-install', template='Our Debian', new_name_label='x')
        assert len(d.disks(vm)) == 1
        d.xe('template-uninstall', '--force', template_uuid=mine)
        assert names(d) == NAMES
        d.check()


def test_snapshots_lose_the_flag():
    """Clients set is-a-template=false on snapshots they take: they remain snapshots."""
    with in_common() as d:
        vm = d.vm('web', disks=1)
        snap = d.snapshot(vm)
        before = d.get('snapshot', snap, 'allowed-operations')
        d.xe('snapshot-param-set', 'is-a-template=false', uuid=snap)
        assert d.get('snapshot', snap, 'is-a-snapshot') == 'true' and snap in d.list('snapshot')
        after = set(d.get('snapshot', snap, 'allowed-operations').split('; '))
        assert set(before.split('; ')) - after <= {'provision'}, (before, after)
        d.fails('vm-start', uuid=snap, says='snapshot')
        clone = d.xe('snapshot-clone', uuid=snap, new_name_label='c')
        assert d.get('vm', clone, 'is-a-template') == 'false', 'it is as the snapshot'
        d.xe('snapshot-revert', uuid=snap)
        d.xe('snapshot-param-set', 'is-a-template=true', uuid=snap)
        d.xe('snapshot-uninstall', '--force', uuid=snap)
        d.check()


# ---- full copies ----

def test_copy():
    with in_common() as d:
        vm = d.vm('web', disks=2, size='128MiB')
        net = d.list('network')[0]
        d.xe('vif-create', vm_uuid=vm, network_uuid=net, device=0)
        for device, disk in d.disks(vm).items():
            fill(d, disk, (0, 5000), (100 << 20, 3 << 20), ((128 << 20) - 512, 512), size=128 << 20)
        before = {k: content(d, v) for k, v in d.disks(vm).items()}
        copy = d.xe('vm-copy', uuid=vm, new_name_label='copy', new_name_description='another')
        assert d.get('vm', copy, 'name-label') == 'copy' and d.get('vm', copy, 'name-description') == 'another'
        assert d.get('vm', copy, 'is-a-template') == 'false'
        mac = lambda v: d.get('vif', d.list('vif', vm_uuid=v)[0], 'MAC')
        assert mac(copy) != mac(vm)
        assert {k: content(d, v) for k, v in d.disks(copy).items()} == before
        assert not set(d.disks(copy).values()) & set(d.disks(vm).values())
        for disk in d.disks(copy).values():
            assert allocated(d, disk) < 5 << 20, 'zeros were written'
            assert d.sql(f"SELECT parent_location FROM VDI WHERE uuid = '{disk}'") == [''], 'not its own'
        assert len(d.volumes()) == 4, 'the copied disks were touched'
        d.xe('vm-uninstall', '--force', uuid=vm)
        assert {k: content(d, v) for k, v in d.disks(copy).items()} == before
        d.xe('vm-start', uuid=copy)
        d.check()


def test_copy_of_a_chain_into_another_sr():
    """Layers become one volume, and zeros over data are zeros."""
    with Daemon('fake') as d:
        sr = second_sr(d)
        vm = d.vm('web', disks=1, size='64MiB')
        disk = d.disks(vm)['0']
        fill(d, disk, (0, 8 << 20), (40 << 20, 100), size=64 << 20)
        a = d.snapshot(vm, 'a')
        first = content(d, disk)
        d.xe('snapshot-revert', uuid=a)
        new = d.xe('vm-clone', uuid=vm, new_name_label='clone')
        on_top = d.xe('snapshot-copy', uuid=a, new_name_label='from a', sr_uuid=sr, new_name_description='d')
        assert d.get('template', on_top, 'is-a-template') == 'true'
        assert d.get('template', on_top, 'is-a-snapshot') == 'false'
        assert d.get('template', on_top, 'name-description') == 'd'
        there = d.disks(on_top)['0']
        assert content(d, there) == first and d.get('vdi', there, 'sr-uuid') == sr
        assert d.get('vdi', there, 'is-a-snapshot') == 'false'
        assert len(d.volumes('sr/second')) == 1 and allocated(d, there, 'sr/second') < 10 << 20
        installed = d.xe('vm-install', template='from a', new_name_label='installed', sr_uuid=sr)
        assert content(d, d.disks(installed)['0']) == first
        moved = d.xe('vm-install', template='from a', new_name_label='moved', sr_uuid=d.sr())
        assert d.get('vdi', d.disks(moved)['0'], 'sr-uuid') == d.sr()
        assert content(d, d.disks(moved)['0']) == first
        assert d.get('vm', moved, 'is-a-template') == 'false'
        d.fails('vm-install', template='a', new_name_label='x', sr_uuid=sr, says='snapshot-copy')
        for v in (vm, new, installed, moved):
            d.xe('vm-start', uuid=v)
        d.check()


def test_copy_is_refused():
    with Daemon('fake') as d:
        vm = d.vm('web', disks=1)
        d.fails('vm-copy', uuid=vm, new_name_label='x', sr_uuid='00000000-0000-4000-8000-000000000000', says='SR')
        d.xe('vm-start', uuid=vm)
        d.fails('vm-copy', uuid=vm, new_name_label='x', says='running')
        snap = d.snapshot(vm)
        d.xe('snapshot-copy', uuid=snap, new_name_label='of a running VM')
        d.fails('snapshot-copy', uuid=vm, new_name_label='x', says='not a VM snapshot')
        d.fails('snapshot-copy', uuid=snap, says='new-name-label')
        assert d.list('vm') == [vm]
        sr = second_sr(d)
        pbd, = d.list('pbd', sr_uuid=sr)
        d.xe('pbd-unplug', uuid=pbd)
        d.fails('snapshot-copy', uuid=snap, new_name_label='x', sr_uuid=sr, says='not attached')
        d.check()


def slow_copies(folder):
    """Makes copies slow enough to be met: nbdcopy waits before it begins, until the file is gone."""
    program = os.path.join(folder, 'nbdcopy')
    gate = os.path.join(folder, 'gate')
    with open(program, 'w') as f:
        f.write(f'#!/bin/sh\nwhile [ -e {gate} ]; do sleep 0.05; done\nexec {shutil.which("nbdcopy")} "$@"\n')
    os.chmod(program, 0o755)
    open(gate, 'w').close()
    return gate


def test_cancel():
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        gate = slow_copies(folder)
        with Daemon('fake', env={'PATH': folder + ':' + os.environ['PATH']}) as d:
            vm = d.vm('web', disks=2)
            volumes = d.volumes()
            p = d.begin('vm-copy', f'uuid={vm}', 'new-name-label=x', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            task = d.pending('VM.copy')
            while len(d.volumes()) == len(volumes):
                time.sleep(0.02)
            assert 'copy' in d.get('vm', vm, 'current-operations')
            d.xe('task-cancel', uuid=task)
            out, err = p.communicate(timeout=30 * SLOW)
            assert p.returncode == 1 and b'cancelled' in err, err
            assert d.volumes() == volumes and d.list('vm') == [vm]
            d.check()
            os.unlink(gate)
            d.xe('vm-copy', uuid=vm, new_name_label='x')
            d.check()


def test_what_goes_beside_a_copy():
    """Copies, clones and exports of the same disks; not a start, nor an import."""
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        gate = slow_copies(folder)
        os.unlink(gate)
        with Daemon('fake', env={'PATH': folder + ':' + os.environ['PATH']}, delays={'operation-patience': 0.05}) as d:
            vm = d.vm('web', disks=1)
            disk = d.disks(vm)['0']
            fill(d, disk, (0, 1 << 20), size=64 << 20)
            was = content(d, disk)
            open(gate, 'w').close()
            first = d.begin('vm-copy', f'uuid={vm}', 'new-name-label=first', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            d.pending('VM.copy')
            while 'copy' not in d.get('vdi', disk, 'current-operations'):
                time.sleep(0.02)
            second = d.begin('vm-copy', f'uuid={vm}', 'new-name-label=second', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            clone = d.xe('vm-clone', uuid=vm, new_name_label='clone')
            d.xe('vm-start', uuid=clone)
            d.fails('vdi-destroy', uuid=disk, says='copy')
            image = os.path.join(d.state, 'raw')
            open(image, 'wb').write(b'x' * 4096)
            d.fails('vdi-import', uuid=disk, filename=image)
            os.unlink(gate)
            for p in (first, second):
                out, err = p.communicate(timeout=60 * SLOW)
                assert p.returncode == 0, err
                assert content(d, d.disks(out.decode().strip())['0']) == was
            d.xe('vm-start', uuid=vm)
            d.check()


def test_no_room():
    """The SR is full half-way: its error, and nothing left."""
    need_root()
    with Daemon('fake') as d:
        folder = d.folder_for('small')
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=6m,mode=700', 'tmpfs', folder]).returncode:
            raise Skip('cannot mount a tmpfs')
        try:
            sr = d.xe('sr-create', name_label='small', type='file', **{'device-config:location': folder})
            vm = d.vm('web', disks=2)
            for disk in d.disks(vm).values():
                fill(d, disk, (0, 4 << 20), size=64 << 20)
            d.fails('vm-copy', uuid=vm, new_name_label='x', sr_uuid=sr, says='not enough space')
            assert d.volumes(folder) == [] and d.list('vm') == [vm]
            d.check()
            d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=sr)[0])
        finally:
            subprocess.run(['umount', '-l', folder])     # the SR is plugged


main(globals())
