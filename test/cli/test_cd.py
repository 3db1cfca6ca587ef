#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""CD drives and the discs of an SR of type iso: records, commands, and what a fault or a kill leaves."""
import json, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

A, B = b'a' * 4096, b'b' * 2048


def disc(d, name, sr):
    return d.list('vdi', name_label=name, sr_uuid=sr)[0]


def drive(d, vm, **kw):
    """An empty CD drive."""
    return d.xe('vbd-create', vm_uuid=vm, device='autodetect', type='CD', **kw)


def inside(d, vm, vbd):
    """What the VMM has in the drive: the name of a node, or None; '' without a process."""
    path = os.path.join(d.state, 'run', vm, 'fake.json')
    if not os.path.exists(path):
        return ''
    chain = json.load(open(path))['chains']['disk-' + d.get('vbd', vbd, 'userdevice')]
    return chain[0] if chain else None


def agree(d, vm, vbd):
    """The row says what is in the drive."""
    empty = d.get('vbd', vbd, 'empty') == 'true'
    assert empty == (d.get('vbd', vbd, 'vdi-uuid') == '<not in database>')
    if d.get('vbd', vbd, 'currently-attached') == 'true':
        assert empty == (inside(d, vm, vbd) is None), f'empty={empty}, but {inside(d, vm, vbd)}'
    d.check()


def test_the_sr():
    with Daemon('fake') as d:
        sr = d.isos(a=A, b=B)
        folder = os.path.join(d.state, 'isos')
        a = disc(d, 'a.iso', sr)
        for name, value in (('virtual-size', '4096'), ('location', 'a.iso'), ('read-only', 'true'),
                            ('type', 'User'), ('managed', 'true'), ('sharable', 'false'),
                            ('allowed-operations', '')):
            assert d.get('vdi', a, name) == value, name
        assert d.get('sr', sr, 'content-type') == 'iso'
        out = d.run('cd-list')[1]
        assert f'uuid ( RO)          : {a}\n    name-label ( RW): a.iso\n\n\n' in out, repr(out)
        assert d.xe('cd-list', '--minimal', 'params=name-label').split(',') == ['a.iso', 'b.iso'] or \
            d.xe('cd-list', '--minimal', 'params=name-label').split(',') == ['b.iso', 'a.iso']

        d.fails('vdi-create', sr_uuid=sr, name_label='x', virtual_size='1MiB', says='cannot do that')
        d.fails('vdi-destroy', uuid=a, says='cannot do that')
        d.fails('vdi-import', uuid=a, filename=os.path.join(folder, 'b.iso'))
        d.fails('vdi-param-set', uuid=a, read_only='false')
        out = os.path.join(d.state, 'out')
        d.xe('vdi-export', uuid=a, filename=out)
        assert open(out, 'rb').read() == A

        second = d.isos()
        assert len(d.list('vdi', sr_uuid=second)) == 2 and disc(d, 'a.iso', second) != a
        d.check()
        d.restart()
        assert disc(d, 'a.iso', sr) == a
        d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=second)[0])
        d.xe('sr-forget', uuid=second)
        d.xe('sr-destroy', uuid=d.isos())       # as with XenServer: the records go, and the files are not ours
        assert d.list('sr', type='iso') == [sr]
        assert sorted(os.listdir(folder)) == ['a.iso', 'b.iso']
        assert open(os.path.join(folder, 'a.iso'), 'rb').read() == A
        assert d.get('pool', d.list('pool')[0], 'default-SR') != sr


def test_scan():
    """Files come, go, grow and come back; a drive keeps the record of its disc."""
    with Daemon('fake') as d:
        sr = d.isos(a=A, b=B)
        folder = os.path.join(d.state, 'isos')
        vm = d.vm()
        d.xe('vm-cd-add', vm='vm', cd_name='a.iso', device=3)
        a = disc(d, 'a.iso', sr)
        for f in ('a.iso', 'b.iso'):
            os.unlink(os.path.join(folder, f))
        open(os.path.join(folder, 'c.ISO'), 'wb').write(A)
        os.symlink('/etc/passwd', os.path.join(folder, 'passwd.iso'))
        os.symlink(folder, os.path.join(folder, 'folder.iso'))
        open(os.path.join(os.fsencode(folder), b'latin\xfc.iso'), 'wb').write(A)
        d.xe('sr-scan', uuid=sr)
        assert set(d.list('vdi', 'name-label', sr_uuid=sr)) == {'a.iso', 'c.ISO'}
        assert d.get('vdi', a, 'missing') == 'true'
        assert 'file="latin?.iso"' in d.log() and 'file="passwd.iso" because="a symbolic link"' in d.log()
        d.fails('vm-start', uuid=vm, says="no longer in its storage")
        assert d.state_of(vm) == 'halted'
        open(os.path.join(folder, 'a.iso'), 'wb').write(A + A)
        d.xe('sr-scan', uuid=sr)
        assert d.get('vdi', a, 'missing') == 'false' and d.get('vdi', a, 'virtual-size') == '8192'
        d.xe('vm-start', uuid=vm)
        os.unlink(os.path.join(folder, 'a.iso'))
        d.xe('vm-cd-eject', uuid=vm)
        assert inside(d, vm, d.list('vbd', vm_uuid=vm)[0]) is None
        d.xe('sr-scan', uuid=sr)
        assert d.list('vdi', 'name-label', sr_uuid=sr) == ['c.ISO']
        d.check()


def test_drives():
    with Daemon('fake') as d:
        sr = d.isos(a=A)
        vm = d.vm(disks=1)
        cd = drive(d, vm)
        assert d.get('vbd', cd, 'userdevice') == '3' and d.get('vbd', cd, 'empty') == 'true'
        assert d.get('vbd', cd, 'mode') == 'RO'
        assert [d.get('vbd', drive(d, vm), 'userdevice') for _ in range(4)] == ['1', '2', '4', '5']
        d.fails('vbd-create', vm_uuid=vm, device='autodetect', type='CD')
        d.fails('vbd-create', vm_uuid=vm, device=6, type='CD', says='not a device position')
        other = d.vm('other')
        a, disk = disc(d, 'a.iso', sr), d.disks(vm)['0']
        d.fails('vbd-create', vm_uuid=other, device=0, type='CD', mode='RW', says='mode=RO')
        d.fails('vbd-create', vm_uuid=other, device=0, type='CD', vdi_uuid=disk, says='not a disc')
        d.fails('vbd-create', vm_uuid=other, device=0, type='Floppy', says='there are disks and CDs')
        d.fails('vbd-create', vm_uuid=other, device=0, type='Disk')
        d.fails('vbd-create', vm_uuid=other, device=0, type='Disk', vdi_uuid=a, says='cannot be written')
        d.fails('vbd-param-set', uuid=cd, mode='RW', says='mode=RO')
        d.fails('vbd-param-set', uuid=cd, userdevice=7)
        d.fails('vbd-param-set', uuid=cd, type='Floppy')
        d.fails('vbd-param-set', uuid=d.list('vbd', vdi_uuid=disk)[0], type='CD', says='mode=RO')
        # A disc as a disk that is not written; no snapshot can be made of such a VM.
        d.xe('vbd-create', vm_uuid=other, device=0, type='Disk', mode='RO', vdi_uuid=a)
        d.xe('vm-start', uuid=other)
        d.fails('vm-snapshot', uuid=other, new_name_label='x', says='cannot do that')
        d.xe('vm-start', uuid=vm)
        assert d.get('vbd', cd, 'device') == 'sr2' and d.get('vbd', cd, 'currently-attached') == 'true'
        d.fails('vm-cd-insert', uuid=vm, cd_name='a.iso', says='Two or more empty CD devices found')
        d.check()


def in_out(d, vm, cd, a, b):
    """One drive, in and out, with all that is refused."""
    disk = [v for v in d.list('vbd', vm_uuid=vm) if v != cd][0]
    assert 'insert' in d.get('vbd', cd, 'allowed-operations')
    d.fails('vbd-eject', uuid=cd, says='no disc in the drive')
    d.fails('vbd-insert', uuid=cd, vdi_uuid=d.get('vbd', disk, 'vdi-uuid'), says='not a disc')
    d.fails('vbd-insert', uuid=disk, vdi_uuid=a, says='not a CD drive')
    d.fails('vbd-eject', uuid=disk, says='not a CD drive')
    agree(d, vm, cd)
    d.xe('vbd-insert', uuid=cd, vdi_uuid=a)
    assert d.get('vbd', cd, 'vdi-uuid') == a
    assert 'eject' in d.get('vbd', cd, 'allowed-operations')
    d.fails('vbd-insert', uuid=cd, vdi_uuid=b, says='Eject it first')
    d.fails('vm-cd-insert', uuid=vm, cd_name='a.iso', says='no empty CD drive')
    agree(d, vm, cd)
    d.xe('vbd-eject', uuid=cd)
    agree(d, vm, cd)
    d.xe('vm-cd-insert', uuid=vm, cd_name='b.iso')
    assert d.get('vbd', cd, 'vdi-uuid') == b
    d.xe('vm-cd-eject', uuid=vm)
    assert d.get('vbd', cd, 'empty') == 'true'
    agree(d, vm, cd)


def test_in_and_out():
    with Daemon('fake') as d:
        sr = d.isos(a=A, b=B)
        a, b = disc(d, 'a.iso', sr), disc(d, 'b.iso', sr)
        vm = d.vm(disks=1)
        cd = drive(d, vm)
        in_out(d, vm, cd, a, b)
        d.xe('vm-start', uuid=vm)
        assert d.get('vbd', cd, 'device') == 'sr0'
        in_out(d, vm, cd, a, b)
        d.xe('vbd-insert', uuid=cd, vdi_uuid=a)
        node = inside(d, vm, cd)
        assert len(node) == 25
        d.restart()
        agree(d, vm, cd)
        d.xe('vm-pause', uuid=vm)
        d.xe('vbd-eject', uuid=cd)
        d.xe('vbd-insert', uuid=cd, vdi_uuid=a)
        assert inside(d, vm, cd) == node
        d.xe('vm-unpause', uuid=vm)
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert d.get('vbd', cd, 'currently-attached') == 'false' and d.get('vbd', cd, 'vdi-uuid') == a
        d.xe('vm-start', uuid=vm)
        assert inside(d, vm, cd) == node
        # The same disc in another VM at the same time.
        other = d.vm('other')
        d.xe('vm-cd-add', uuid=other, cd_name='a.iso', device=0)
        d.xe('vm-start', uuid=other)
        d.fails('pbd-unplug', uuid=d.list('pbd', sr_uuid=sr)[0], says='in use')
        d.fails('vm-cd-remove', uuid=other, cd_name='a.iso', says='shut the VM down')
        d.xe('vm-shutdown', '--force', '--multiple')
        d.xe('vm-cd-remove', uuid=other, cd_name='a.iso')
        assert d.list('vbd', vm_uuid=other) == []
        # Without the SR the drive is empty.
        d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=sr)[0])
        d.fails('vm-start', uuid=vm, says='not attached')
        d.xe('sr-forget', uuid=sr)
        agree(d, vm, cd)
        d.xe('vm-start', uuid=vm)


def test_commands():
    with Daemon('fake') as d:
        sr = d.isos(a=A, b=B)
        vm = d.vm('web', disks=1)
        d.fails('vm-cd-eject', vm='web', says='No CDs found')
        d.fails('vm-cd-insert', vm='web', cd_name='a.iso', says='no empty CD drive')
        d.fails('vm-cd-insert', vm='web', cd_name='none.iso', says='CD none.iso not found!')
        d.fails('vm-cd-add', vm='web', cd_name='none.iso', device=3, says='CD none.iso not found!')
        d.fails('vm-cd-remove', vm='web', cd_name='a.iso', says='CD a.iso not found!')
        d.xe('vm-cd-add', vm='web', cd_name='a.iso', device=3)
        vbd = d.list('vbd', vm_uuid=vm, type='CD')[0]
        out = d.run('vm-cd-list', vm='web')[1]
        assert out == ('CD 0 VBD:\n'
                       f'uuid ( RO)             : {vbd}\n'
                       '    vm-name-label ( RO): web\n'
                       '            empty ( RO): false\n'
                       '       userdevice ( RW): 3\n\n\n'
                       'CD 0 VDI:\n'
                       f'uuid ( RO)             : {disc(d, "a.iso", sr)}\n'
                       '       name-label ( RW): a.iso\n'
                       '    sr-name-label ( RO): isos\n'
                       '     virtual-size ( RO): 4096\n\n\n'), out
        d.xe('vm-cd-eject', vm='web')
        assert 'CD 0 VDI' not in d.xe('vm-cd-list', vm='web')
        assert 'a.iso' not in d.xe('vm-disk-list', vm='web') and 'Disk 1' not in d.xe('vm-disk-list', vm='web')
        d.isos()
        d.fails('vm-cd-insert', vm='web', cd_name='a.iso', says='Multiple CDs named a.iso found')
        d.fails('sr-create', name_label='x', type='iso', **{'device-config:location': '/none'},
                says='No such file')
        assert len(d.list('sr', type='iso')) == 2
        d.xe('vm-uninstall', '--force', vm='web')
        assert len(d.xe('cd-list', '--minimal').split(',')) == 4
        d.check()


def test_snapshots():
    """The disc of a drive is no part of a snapshot, but that it was in the drive is."""
    with Daemon('fake') as d:
        sr = d.isos(a=A, b=B)
        a, b = disc(d, 'a.iso', sr), disc(d, 'b.iso', sr)
        vm = d.vm(disks=1)
        cd = drive(d, vm, vdi_uuid=a)
        second = drive(d, vm)
        d.xe('vm-start', uuid=vm)
        volumes, discs = len(d.volumes()), len(d.list('vdi', sr_uuid=sr))
        snap = d.snapshot(vm)
        assert len(d.volumes()) == volumes + 1 and len(d.list('vdi', sr_uuid=sr)) == discs
        assert d.disks(snap)['3'] == a
        held = [v for v in d.list('vbd', vm_uuid=snap) if d.get('vbd', v, 'userdevice') == '3'][0]
        d.fails('vbd-eject', uuid=held, says='snapshot')
        assert d.get('vbd', held, 'allowed-operations') == ''
        d.xe('vbd-eject', uuid=cd)
        d.xe('vbd-insert', uuid=second, vdi_uuid=b)
        d.xe('snapshot-revert', uuid=snap)
        assert d.disks(vm)['3'] == a and d.disks(vm)['1'] == '<not in database>'
        d.xe('vm-start', uuid=vm)
        clone = d.xe('vm-install', template=snap, new_name_label='clone')
        assert d.disks(clone)['3'] == a
        d.xe('vm-start', uuid=clone)
        # What the snapshot names is remembered, though its file is gone.
        os.unlink(os.path.join(d.state, 'isos', 'a.iso'))
        d.xe('vm-shutdown', '--force', '--multiple')
        for v in (vm, clone):
            for held in d.list('vbd', vm_uuid=v, vdi_uuid=a):
                d.xe('vbd-eject', uuid=held)
        d.xe('sr-scan', uuid=sr)
        assert d.get('vdi', a, 'missing') == 'true'
        d.xe('snapshot-uninstall', '--force', uuid=snap)
        d.xe('sr-scan', uuid=sr)
        assert d.list('vdi', sr_uuid=sr) == [b]
        d.check()


def test_faults():
    """The VMM's call fails, before or behind its deed: the row says what is in the drive."""
    with Daemon('fake') as d:
        sr = d.isos(a=A)
        a = disc(d, 'a.iso', sr)
        vm = d.vm()
        cd = drive(d, vm)
        d.xe('vm-start', uuid=vm)
        d.restart(env={'STILLFRAME_FAKE': 'fail=insert'})
        d.fails('vbd-insert', uuid=cd, vdi_uuid=a, says='made to fail')
        agree(d, vm, cd)
        d.restart(env={'STILLFRAME_FAKE': 'fail=insert,fail=top'})
        d.fails('vbd-insert', uuid=cd, vdi_uuid=a, says='made to fail')
        # What is in the drive is not known: it stays busy until the VM answers.
        assert d.get('vbd', cd, 'current-operations'), 'free, though nobody knows what is in it'
        assert d.get('vbd', cd, 'allowed-operations') == ''
        d.restart()
        agree(d, vm, cd)
        d.xe('vbd-insert', uuid=cd, vdi_uuid=a)
        d.restart(env={'STILLFRAME_FAKE': 'fail=eject'})
        d.fails('vbd-eject', uuid=cd, says='made to fail')
        assert d.get('vbd', cd, 'vdi-uuid') == a
        agree(d, vm, cd)


def test_kills():
    """The daemon is killed at the points of an insert and of an eject."""
    with Daemon('fake') as d:
        sr = d.isos(a=A)
        a = disc(d, 'a.iso', sr)
        vm = d.vm()
        cd = drive(d, vm)
        d.xe('vm-start', uuid=vm)
        for command, more in (('vbd-insert', {'vdi_uuid': a}), ('vbd-eject', {})):
            seen = set()
            for n in dying_points(50):
                d.kill()
                d.start()
                for _ in range(2):  # until the drive is as the command wants it before
                    if (d.get('vbd', cd, 'empty') == 'true') != (command == 'vbd-insert'):
                        d.xe('vbd-eject' if command == 'vbd-insert' else 'vbd-insert', uuid=cd,
                             **({} if command == 'vbd-insert' else {'vdi_uuid': a}))
                d.kill()
                d.start(env={'STILLFRAME_CRASH_AT': str(n)})
                status = d.run(command, uuid=cd, **more)[0]
                if status:
                    d.process.wait(30)
                    assert d.process.returncode == -9, d.log()[-2000:]
                else:
                    d.kill()
                d.start()
                agree(d, vm, cd)
                seen.add(d.get('vbd', cd, 'empty'))
                if status == 0:
                    break
            assert n > 3 and (EVERY > 1 or seen == {'true', 'false'}), f'{command}: survives point {n}, {seen}'
            print(f'  {command}: survives point {n}')


def test_two_at_once():
    from concurrent.futures import ThreadPoolExecutor
    with Daemon('fake') as d, ThreadPoolExecutor(6) as pool:
        sr = d.isos(a=A, b=B)
        discs = [disc(d, 'a.iso', sr), disc(d, 'b.iso', sr)]
        vm = d.vm()
        cd = drive(d, vm)
        for i in range(6):
            if i == 3:
                d.xe('vm-start', uuid=vm)
            results = list(pool.map(lambda v: d.run('vbd-insert', uuid=cd, vdi_uuid=v), discs * 2))
            assert sorted(r[0] for r in results) == [0, 1, 1, 1], results
            agree(d, vm, cd)
            results = list(pool.map(lambda _: d.run('vbd-eject', uuid=cd), range(3)))
            assert sorted(r[0] for r in results) == [0, 1, 1], results
            agree(d, vm, cd)
        # Against what takes the drive's process away, or makes a new one.
        for i in range(6):
            commands = [('vm-shutdown', {'uuid': vm, 'force': 'true'}), ('vm-start', {'uuid': vm}),
                        ('vbd-insert', {'uuid': cd, 'vdi_uuid': discs[0]}), ('vbd-eject', {'uuid': cd})]
            list(pool.map(lambda c: d.run(c[0], **c[1]), commands))
            agree(d, vm, cd)


main(globals())
