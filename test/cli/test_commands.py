#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What xe prints: layouts, selectors and messages as scripts written for XenServer expect them."""
import glob, os, re, sys, xml.etree.ElementTree
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

Daemon.leaks_of_xe = True

UUID = '[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}'


def test_record_layout():
    with in_common() as d:
        vm = d.vm('web')
        status, out, err = d.run('vm-list')
        assert out == (f'uuid ( RO)           : {vm}\n'
                       '     name-label ( RW): web\n'
                       '    power-state ( RO): halted\n\n\n'), repr(out)
        assert err == '' and status == 0
        snap = d.snapshot(vm, 'before-upgrade')
        out = d.run('snapshot-list', snapshot_of=vm)[1]
        assert out.startswith(f'uuid ( RO)                : {snap}\n'
                              '          name-label ( RW): before-upgrade\n'), out
        assert '    is-vmss-snapshot ( RO): false\n\n\n' in out
        assert d.xe('snapshot-list', 'snapshot-of=' + vm, '--minimal') == snap
        assert d.run('vm-list', 'name-label=nobody') == (0, '', '')
        assert d.run('vm-list', '--minimal', 'name-label=nobody')[1].strip() == ''


def test_selectors():
    with in_common() as d:
        one, two = d.vm('one'), d.vm('two')
        d.fails('vm-start', 'power-state=halted', says='Multiple matches VMs found. --multiple required')
        d.xe('vm-start', 'power-state=halted', '--multiple')
        assert d.state_of(one) == d.state_of(two) == 'running'
        d.xe('vm-pause', 'vm=one')
        assert d.state_of(one) == 'paused'
        assert set(d.list('vm', power_state='running')) == {two}
        d.xe('vm-param-set', 'other-config:colour=red', uuid=two)
        assert d.list('vm', **{'other-config:colour': 'red'}) == [two]
        d.xe('vm-param-add', 'param-name=tags', 'param-key=db', uuid=two)
        assert d.list('vm', **{'tags:contains': 'db'}) == [two]
        d.xe('vm-param-remove', 'param-name=other-config', 'param-key=colour', uuid=two)
        d.fails('vm-param-get', 'param-name=other-config', 'param-key=colour', uuid=two)
        d.xe('vm-param-clear', 'param-name=tags', uuid=two)
        assert d.get('vm', two, 'tags') == ''


def test_params():
    with in_common() as d:
        vm = d.vm('web')
        out = d.run('vm-list', 'params=name-label,memory-static-max')[1]
        assert out == ('name-label ( RW)           : web\n'
                       '    memory-static-max ( RW): 268435456\n\n\n'), repr(out)
        status, out, err = d.run('vm-list', 'params=nonsense')
        assert "Unknown field 'nonsense'" in out + err
        everything = d.xe('vm-param-list', uuid=vm)
        for word in ('snapshot-info (', 'VCPUs-max (', 'platform (MRW)', 'allowed-operations (SRO): snapshot'):
            assert word in everything, word


def test_snapshot_tree():
    """parent, children, snapshots, snapshot-of: a tree that a revert makes branch."""
    with in_common() as d:
        vm = d.vm(disks=1)
        a = d.snapshot(vm, 'a', new_name_description='first')
        b = d.snapshot(vm, 'b')
        assert d.get('snapshot', a, 'name-description') == 'first'
        assert d.get('snapshot', b, 'parent') == a and d.get('snapshot', a, 'children') == b
        assert d.get('vm', vm, 'parent') == b
        d.xe('snapshot-revert', snapshot_uuid=a)
        assert d.get('vm', vm, 'parent') == a
        c = d.snapshot(vm, 'c')
        assert set(d.get('snapshot', a, 'children').split('; ')) == {b, c}
        assert d.get('snapshot', c, 'is-a-snapshot') == 'true'
        assert set(d.list('snapshot', snapshot_of=vm)) == {a, b, c}
        d.xe('snapshot-uninstall', '--force', uuid=a)
        assert d.get('snapshot', b, 'parent') == '<not in database>'
        assert set(d.list('snapshot')) == {b, c}
        info = d.get('snapshot', c, 'snapshot-info')
        assert 'disk-snapshot-type: crash_consistent' in info and 'power-state-at-snapshot: Halted' in info
        d.check()


def tree(d, *words, **kw):
    """Each line's tree, without the columns behind it."""
    return [re.split('   *', line)[0] for line in d.xe('snapshot-tree', *words, **kw).split('\n')]


def test_snapshot_tree_drawn():
    with in_common() as d:
        vm = d.vm('web', disks=2)
        assert tree(d, vm='web') == ['SNAPSHOT', 'o web', '@ now (halted)']
        a, b = d.snapshot(vm, 'a'), d.snapshot(vm, 'b\x1b[31m')
        d.xe('snapshot-revert', uuid=a)
        c = d.snapshot(vm, 'c')
        e = d.snapshot(vm, 'Ü')
        d.xe('snapshot-revert', uuid=c)
        f = d.snapshot(vm, 'f')
        assert tree(d, vm='web') == ['SNAPSHOT', 'o web', '* a', '|-* b[31m', '* c', '|-* Ü', '* f',
                                     '@ now (halted)']
        d.xe('snapshot-revert', uuid=b)
        text = d.xe('snapshot-tree', vm=vm)
        assert tree(d, uuid=vm) == ['SNAPSHOT', 'o web', '* a', '|-* c', '| |-* Ü', '| * f', '* b[31m',
                                    '@ now (halted)'], text
        assert d.xe('snapshot-tree', '--minimal', vm='web').split(',') == [a, c, e, f, b]
        lines = text.split('\n')
        assert len({line.index(u) for line, u in zip(lines[2:], [a, c, e, f, b, vm])}) == 1, text
        at = lines[0].index('OWN'), lines[0].index('DELETING FREES'), lines[0].index('UUID')
        figures = [(l[at[0]:at[1]].strip(), l[at[1]:at[2]].strip()) for l in lines]
        assert figures[2][1] == '0 bytes' and figures[3][1] == '0 bytes', text
        assert figures[4][1] == figures[4][0] and figures[6][1] == f'up to {figures[6][0]}', text
        taken = d.get('snapshot', a, 'snapshot-time')
        assert taken.split('T')[1][:8] in lines[2] and lines[2].count('Z') == 1

        d.xe('snapshot-destroy', uuid=a)                    # its children stand at the beginning now
        assert tree(d, vm=vm) == ['SNAPSHOT', 'o web', '|-* c', '| |-* Ü', '| * f', '* b[31m', '@ now (halted)']
        d.xe('vm-destroy', uuid=vm)
        assert tree(d, snapshot_uuid=f) == ['SNAPSHOT', 'o a VM that is gone', '|-* b[31m', '* c', '|-* Ü',
                                            '* f']
        d.fails('snapshot-tree', vm='web', says='No matching VMs found')
        d.fails('snapshot-tree', snapshot_uuid=vm, says='uuid')
        other = d.vm('other')
        d.fails('snapshot-tree', snapshot_uuid=other, says='not a VM snapshot')


def test_snapshot_tree_counts_memory():
    """A checkpoint holds its memory, too."""
    with in_common() as d:
        vm = d.vm('web')
        d.xe('vm-start', uuid=vm)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        memory = d.get('vdi', d.get('snapshot', snap, 'suspend-VDI-uuid'), 'physical-utilisation')
        line = d.xe('snapshot-tree', vm='web').split('\n')[2]
        assert int(memory) > 0 and len(re.findall(r'\d[\d.]* (?:bytes|[KMG]iB)', line)) == 2, line
        assert '  up to ' in line and '  0 bytes' not in line, line


def test_snapshot_tree_adds_up():
    """To what the storage holds for the VM; and a figure without "up to" is what deleting gives back."""
    units = {'bytes': 1, 'KiB': 1 << 10, 'MiB': 1 << 20, 'GiB': 1 << 30}

    def bytes_of(text):
        n, unit = text.split()
        return float(n) * units[unit]

    def held():
        d.wait_quiet()
        d.xe('sr-scan', uuid=d.sr())
        return sum(os.stat(path).st_blocks * 512 for path in glob.glob(os.path.join(d.state, 'sr', '*.*')))

    def adds_up():
        is_ = held()
        lines = d.xe('snapshot-tree', vm='web').split('\n')
        at = lines[0].index('OWN'), lines[0].index('DELETING FREES')
        said = sum(bytes_of(l[at[0]:at[1]]) for l in lines[2:])
        assert abs(said - is_) <= 0.06 * (1 << 20) * len(lines), (is_, lines)
        return lines

    def write(mib):
        data = os.path.join(d.state, 'in')
        with open(data, 'wb') as f:
            f.write(os.urandom(mib << 20))
        d.xe('vdi-import', uuid=d.disks(vm)['0'], filename=data)
    with Daemon('fake') as d:
        vm = d.vm('web', disks=1, size='16MiB')
        write(5)
        base = d.snapshot(vm, 'base')
        write(3)
        left = d.snapshot(vm, 'left')
        d.xe('snapshot-revert', uuid=base)
        write(2)
        d.snapshot(vm, 'right')
        adds_up()
        d.xe('snapshot-uninstall', '--force', uuid=base)
        lines = adds_up()
        assert lines[-1].startswith('= shared layers ') and '5.' in lines[-1], lines
        line, = [l for l in lines if '* left' in l]         # then the shared layer is merged with the one over it
        own, frees = (bytes_of(figure) for figure in re.findall(r'[\d.]+ (?:bytes|[KMG]iB)', line))
        assert own < frees and 'up to' in line, line
        before = held()
        d.xe('snapshot-uninstall', '--force', uuid=left)
        assert own - 0.2 * (1 << 20) < before - held() < frees + 0.2 * (1 << 20), (before, held(), line)
        right, = d.list('snapshot')
        d.xe('snapshot-revert', 'keep-current=true', uuid=right)
        kept, = set(d.list('snapshot')) - {right}
        line, = [l for l in adds_up() if kept in l]
        own, frees = (bytes_of(figure) for figure in re.findall(r'[\d.]+ (?:bytes|[KMG]iB)', line))
        assert own == frees and 'up to' not in line, line
        before = held()
        d.xe('snapshot-uninstall', '--force', uuid=kept)
        assert abs(before - held() - frees) < 0.2 * (1 << 20), (before, held(), line)
        adds_up()


def test_revert_to_a_vm_that_is_gone():
    """The VM comes back with its uuid, its configuration and its disks."""
    with in_common() as d:
        vm = d.vm('web', disks=2)
        snap = d.snapshot(vm, 's')
        disks = list(d.disks(vm).values())
        d.xe('vm-destroy', uuid=vm)
        for disk in disks:
            d.xe('vdi-destroy', uuid=disk)
        d.xe('snapshot-revert', uuid=snap)
        assert d.get('vm', vm, 'name-label') == 'web' and len(d.disks(vm)) == 2
        assert d.list('snapshot', snapshot_of=vm) == [snap]
        d.xe('vm-start', uuid=vm)
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()


def test_clone_and_install():
    with in_common() as d:
        vm = d.vm('web', disks=1)
        net = d.list('network')[0]
        d.xe('vif-create', vm_uuid=vm, network_uuid=net, device=0)
        mac = lambda v: d.get('vif', d.list('vif', vm_uuid=v)[0], 'MAC')
        snap = d.snapshot(vm, 's')
        assert mac(snap) == mac(vm), 'a snapshot keeps its MAC'
        clone = d.xe('vm-clone', uuid=vm, new_name_label='clone')
        assert mac(clone) != mac(vm)
        installed = d.xe('vm-install', template='s', new_name_label='installed')
        assert d.get('vm', installed, 'name-description') == 'Installed via xe CLI'
        assert d.get('vm', installed, 'is-a-template') == 'false'
        copy = d.xe('snapshot-clone', uuid=snap, new_name_label='template')
        assert copy in d.list('template') and copy not in d.list('snapshot')
        for v in (vm, clone, installed):
            d.xe('vm-start', uuid=v)
        d.check()


def test_storage():
    with in_common() as d:
        folder = d.folder_for('second')
        sr = d.xe('sr-create', name_label='second', type='file', **{'device-config:location': folder})
        vdi = d.vdi('10MiB', 'data', sr)
        assert d.get('vdi', vdi, 'virtual-size') == str(10 << 20)
        assert d.get('sr', sr, 'virtual-allocation') == str(10 << 20)
        d.fails('sr-destroy', uuid=sr, says='still holds disks')
        image = os.path.join(d.state, 'in')
        content = os.urandom(3 << 20)
        open(image, 'wb').write(content)
        d.xe('vdi-import', uuid=vdi, filename=image)
        out = os.path.join(d.state, 'out')
        d.xe('vdi-export', uuid=vdi, filename=out)
        assert open(out, 'rb').read() == content + bytes(7 << 20)
        assert os.stat(out).st_blocks * 512 < 5 << 20, 'zeroes were written'
        pbd = d.list('pbd', sr_uuid=sr)[0]
        d.fails('sr-forget', uuid=sr, says='plugged')
        d.xe('pbd-unplug', uuid=pbd)
        d.fails('vdi-create', sr_uuid=sr, name_label='x', virtual_size='1MiB', says='not attached')
        d.xe('sr-forget', uuid=sr)
        def probed(path, kind='file'):
            text = d.xe('sr-probe', type=kind, **{'device-config:location': path})
            return [e.text for e in xml.etree.ElementTree.fromstring(text).findall('./SR/UUID')]
        assert probed(folder) == [sr] and probed(d.state) == [] and probed(folder, 'iso') == []
        d.fails('sr-probe', type='file', says='location')
        d.fails('sr-probe', type='file', says='/nowhere', **{'device-config:location': '/nowhere'})
        d.fails('sr-probe', type='lvm', says='lvm', **{'device-config:location': folder})
        d.xe('sr-introduce', uuid=sr, name_label='again', type='file')
        pbd = d.xe('pbd-create', sr_uuid=sr, host_uuid=d.list('host')[0],
                   **{'device-config:location': folder})
        d.xe('pbd-plug', uuid=pbd)
        found = d.list('vdi', sr_uuid=sr)
        assert len(found) == 1
        os.unlink(out)
        d.xe('vdi-export', uuid=found[0], filename=out)
        assert open(out, 'rb').read(len(content)) == content
        d.xe('vdi-destroy', uuid=found[0])
        d.xe('sr-destroy', uuid=sr)
        assert os.listdir(folder) == []
        d.check()


def test_confirmation():
    with in_common() as d:
        vm = d.vm(disks=1)
        snap = d.snapshot(vm, 'precious')
        status, out, err = d.run('snapshot-uninstall', uuid=snap, input=b'no\n')
        assert 'The following items are about to be destroyed' in out
        assert f'VM : {snap} (precious)' in out and re.search(f'VDI: {UUID} \\(', out), out
        assert d.list('snapshot') == [snap]
        status, out, err = d.run('snapshot-uninstall', uuid=snap, input=b'yes\n')
        assert status == 0 and 'All objects destroyed' in out
        assert d.list('snapshot') == []


def test_messages_and_events():
    with in_common() as d:
        vm = d.vm('web', disks=1)
        p = d.begin('event-wait', 'class=vm', f'uuid={vm}', 'power-state=running')
        time.sleep(0.3)
        assert p.poll() is None
        d.xe('vm-start', uuid=vm)
        assert p.wait(20 * SLOW) == 0
        d.snapshot(vm, 's')
        body = d.xe('message-list', 'params=body', 'name=VM_SNAPSHOTTED', '--minimal')
        assert f"VM 'web' (uuid: {vm}) snapshotted" in body.replace('\\', ''), body


def test_help():
    with in_common() as d:
        assert 'vm-snapshot' in d.xe('help', '--all')
        out = d.xe('help', 'vm-snapshot')
        for word in ('command name', 'reqd params', 'new-name-label', 'optional params', 'description'):
            assert word in out


def test_a_name_that_is_nearly_right():
    with in_common() as d:
        for typed, meant in (('vm-lst', 'vm-list'), ('snapshot-revrt', 'snapshot-revert'), ('vm-snap-shot', 'vm-snapshot')):
            d.fails(typed, says=f'Unknown command: {typed}\nDid you mean {meant}?\n')
        assert 'Did you mean' not in d.fails('make-coffee', says="Unknown command: make-coffee\nFor usage run: 'xe help'")


main(globals())
