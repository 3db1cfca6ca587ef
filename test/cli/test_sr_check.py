#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""sr-check: each thing that can be wrong is found, told, and repaired where that is safe."""
import os, re, struct, subprocess, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

CLUSTER = 65536


def path(d, disk, folder='sr'):
    return os.path.join(d.state, folder, d.get('vdi', disk, 'location') + '.qcow2')


def write(d, disk, at=0, mib=1):
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', f'write {at}M {mib}M', path(d, disk)], check=True,
                   stdout=subprocess.DEVNULL)


def set_first_entry(file, entry):
    """Of the image's first L2 table."""
    with open(file, 'r+b') as f:
        f.seek(40)
        l1 = struct.unpack('>Q', f.read(8))[0]
        f.seek(l1)
        l2 = struct.unpack('>Q', f.read(8))[0] & ~(1 << 63)
        f.seek(l2)
        f.write(struct.pack('>Q', entry))


def check(d, *words, sr=None):
    """Exit status, the findings, the figures of the last line."""
    status, out, err = d.run('sr-check', *words, uuid=sr or d.sr())
    *lines, last = out.strip().split('\n')
    figures = re.fullmatch(r'(\d+) volumes checked, (\d+) problems, (\d+) repaired', last)
    assert figures, out + err
    return status, lines, tuple(int(n) for n in figures.groups())


def found(lines, *words):
    """The one line that has all the words."""
    hits = [l for l in lines if all(w in l for w in words)]
    assert len(hits) == 1, f'{words}: {hits} of {lines}'
    return hits[0]


def test_nothing_is_wrong():
    with Daemon('fake') as d:
        assert check(d) == (0, [], (0, 0, 0))
        vm = d.vm('vm', disks=2)
        snap = d.snapshot(vm)
        d.xe('vm-clone', uuid=vm, new_name_label='clone')
        for disk in d.disks(vm).values():
            write(d, disk)
        d.xe('snapshot-uninstall', '--force', uuid=snap)
        status, lines, figures = check(d)
        assert (status, lines, figures) == (0, [], (len(d.volumes()), 0, 0)), lines
        isos = d.isos(a=b'x' * 4096)
        assert check(d, sr=isos) == (0, [], (1, 0, 0))
        d.fails('sr-check', 'dryrun=true', uuid=d.sr(), says='does not know')
        d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=isos)[0])
        d.fails('sr-check', uuid=isos, says='not attached')
        d.check()


def test_all_that_can_be_wrong():
    with Daemon('fake') as d:
        lost, leaky, faulty, sized, linked, unsound, lone = (d.vdi('64MiB', n) for n in (
            'lost', 'leaky', 'faulty', 'sized', 'linked', 'unsound', 'lone'))
        snap = d.xe('vdi-snapshot', uuid=linked)
        below = d.get('vdi', snap, 'location')
        base = d.xe('vdi-snapshot', uuid=lone)
        for disk in (leaky, faulty):
            write(d, disk)
        os.unlink(path(d, lost))
        set_first_entry(path(d, leaky), 0)
        set_first_entry(path(d, faulty), 1 << 63 | 64 * CLUSTER)
        subprocess.run(['qemu-img', 'rebase', '-u', '-f', 'qcow2', '-b', '', path(d, linked)], check=True)
        with open(path(d, unsound), 'r+b') as f:
            f.write(b'XXXX')
        orphan, new = 'a' * 24, 'b' * 24
        folder = os.path.join(d.state, 'sr')
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', os.path.join(folder, f'{orphan}.qcow2'), '1M'],
                       check=True)
        missing = d.get('vdi', base, 'location')
        d.stop()
        d.sql_write(f"UPDATE VDI SET virtual_size = 4096 WHERE uuid = '{sized}'")
        d.sql_write(f"DELETE FROM VDI WHERE uuid = '{base}'")
        d.start()
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', os.path.join(folder, f'{new}.qcow2.new'),
                        '1M'], check=True)
        os.utime(os.path.join(folder, f'{new}.qcow2.new'), (1e9, 1e9))
        subprocess.run(['cp', os.path.join(folder, f'{new}.qcow2.new'),         # may be at work
                        os.path.join(folder, f'{"c" * 24}.qcow2.new')], check=True)

        files = {f: os.stat(os.path.join(folder, f)).st_mtime_ns for f in os.listdir(folder)}
        status, lines, figures = check(d, 'dry-run=true')
        assert status == 1 and figures[1:] == (10, 0), (figures, lines)
        assert {f: os.stat(os.path.join(folder, f)).st_mtime_ns for f in os.listdir(folder)} == files
        assert d.get('vdi', sized, 'virtual-size') == '4096'
        found(lines, d.get('vdi', lost, 'location'), lost, 'lost', 'no volume', 'vdi-destroy')
        found(lines, leaky, 'takes space', 'clusters')
        found(lines, faulty, 'contradict', 'no proof that data are lost')
        found(lines, sized, '4096 bytes instead of 67108864')
        found(lines, linked, f'nothing instead of {below}')
        found(lines, unsound, 'no sound volume')
        found(lines, orphan, 'no record', 'sr-scan')
        found(lines, missing, 'volume ' + missing, 'no record')
        found(lines, lone, 'has no record in this SR', missing)
        found(lines, new, 'never be finished')

        status, lines, figures = check(d)
        assert status == 1
        for word in (leaky, sized, new):
            assert found(lines, word).endswith('Repaired.'), lines
        assert d.get('vdi', sized, 'virtual-size') == str(64 << 20)
        assert not os.path.exists(os.path.join(folder, f'{new}.qcow2.new'))
        assert os.path.exists(os.path.join(folder, f'{orphan}.qcow2')), 'a volume was deleted'
        assert subprocess.run(['qemu-img', 'check', '-q', '-f', 'qcow2', path(d, leaky)]).returncode == 0
        mended = {w for l in lines if l.endswith('Repaired.') for w in l.split()}
        left = 7 - any(linked + ',' in l and l.endswith('Repaired.') for l in lines)
        assert figures[1:] == (10, 10 - left) and mended, (figures, lines)
        assert check(d)[2][1:] == (left, 0)

        os.unlink(path(d, unsound))
        d.xe('sr-scan', uuid=d.sr())                        # adopts what has no record
        assert d.list('vdi', location=orphan) and d.list('vdi', location=missing)
        assert check(d)[2][1] == left - 3
        assert not [o for o in d.sql('SELECT current_operations FROM VDI') if o not in ('', '{}')]
        assert not d.sql('SELECT verb FROM journal')


def test_a_file_that_was_cut_off():
    """sr-scan takes what has a sound header; sr-check tells, where QEMU's own check finds nothing too."""
    with Daemon('fake') as d:
        whole = d.vdi('8MiB', 'whole')
        write(d, whole, 0, 4)
        with open(path(d, whole), 'rb') as f:
            content = f.read()
        cuts = {f'{less:024x}': less for less in (1, 4095, CLUSTER, 1 << 20)}
        for name, less in cuts.items():
            with open(os.path.join(d.state, 'sr', name + '.qcow2'), 'wb') as f:
                f.write(content[:-less])
        d.xe('sr-scan', uuid=d.sr())
        status, lines, figures = check(d)
        assert status == 1 and figures == (5, 4, 0), (figures, lines)
        for name, less in cuts.items():
            found(lines, name, 'cut off', f'the file ends at {len(content) - less}', 'contradict')
        d.check()


def test_a_lost_layer():
    """It becomes a disk, which can be deleted."""
    with Daemon('fake') as d:
        lost = d.vdi('1MiB', 'base copy')
        d.stop()
        d.sql_write(f"UPDATE VDI SET managed = 'false', read_only = 'true' WHERE uuid = '{lost}'")
        d.start()
        status, lines, figures = check(d, 'dry-run=true')
        assert status == 1 and figures[1:] == (1, 0) and d.get('vdi', lost, 'managed') == 'false'
        found(lines, lost, 'no disk stands on')
        status, lines, figures = check(d)
        assert status == 0 and figures[1:] == (1, 1) and found(lines, lost).endswith('Repaired.'), lines
        assert d.get('vdi', lost, 'managed') == 'true'
        d.xe('vdi-destroy', uuid=lost)
        d.wait_quiet()
        assert d.volumes() == []


def test_a_circle():
    with Daemon('fake') as d:
        disk = d.vdi('1MiB')
        snap = d.xe('vdi-snapshot', uuid=disk)
        top = d.get('vdi', disk, 'location')
        d.stop()
        d.sql_write(f"UPDATE VDI SET parent_location = '{top}' WHERE uuid = '{snap}'")
        d.start()
        status, lines, figures = check(d, 'dry-run=true')
        assert status == 1
        for uuid in (disk, snap):
            found(lines, uuid, 'layer over itself')


def test_what_is_in_use():
    """What a VM writes is not looked at, what it reads is; nothing that is open is repaired."""
    with Daemon('fake') as d:
        vm = d.vm('vm', disks=1)
        disk, = d.disks(vm).values()
        write(d, disk)
        set_first_entry(path(d, disk), 0)
        snap = d.snapshot(vm)
        frozen, = d.disks(snap).values()
        d.xe('vm-start', uuid=vm)
        status, lines, figures = check(d)
        assert status == 1 and figures[1:] == (1, 0), lines
        found(lines, disk, 'running VM has it open')
        assert 'Repaired' not in found(lines, frozen, 'takes space')
        d.xe('vm-shutdown', '--force', uuid=vm)

        # A process that is not ours: QEMU's lock tells.
        p = subprocess.Popen(['qemu-io', '-f', 'qcow2', path(d, disk)], stdin=subprocess.PIPE,
                             stdout=subprocess.DEVNULL)
        wait_for(lambda: subprocess.run(['qemu-img', 'info', path(d, disk)], capture_output=True).returncode)
        status, lines, figures = check(d, 'dry-run=true')
        found(lines, disk, 'open for writing')
        p.communicate(b'quit\n')
        status, lines, figures = check(d)
        assert (status, figures) == (0, (2, 1, 1)), lines
        d.check()


def test_beside_other_work():
    """Operations go on meanwhile, are not hindered, and are never told of as problems."""
    with Daemon('fake') as d:
        vm = d.vm('vm', disks=2)
        stop, wrong = [], []

        def again_and_again():
            while not stop:
                status, lines, figures = check(d)
                if status or figures[1]:
                    wrong.append(lines)

        threads = [threading.Thread(target=again_and_again) for _ in range(2)]
        for t in threads:
            t.start()
        snaps = []
        for i in range(8):
            d.xe('vm-start', uuid=vm)
            snaps.append(d.snapshot(vm, f's{i}'))
            if i % 3 == 2:
                d.xe('snapshot-revert', uuid=snaps[-2])
            else:
                d.xe('vm-shutdown', '--force', uuid=vm)
            if i % 4 == 3:
                d.xe('snapshot-uninstall', '--force', uuid=snaps.pop(0))
            disk = d.vdi('8MiB')
            d.xe('vdi-resize', uuid=disk, disk_size='16MiB')
            d.xe('vdi-destroy', uuid=disk)
        stop.append(1)
        for t in threads:
            t.join()
        assert not wrong, wrong[0]
        d.check()


def test_cancel():
    with tempfile.TemporaryDirectory() as bin:
        slow = os.path.join(bin, 'qemu-img')
        real = shutil.which('qemu-img')
        with open(slow, 'w') as f:
            f.write(f'#!/bin/sh\n[ "$1" = check ] && exec sleep 100\nexec {real} "$@"\n')
        os.chmod(slow, 0o755)
        with Daemon('fake', env={'PATH': bin + ':' + os.environ['PATH']}) as d:
            d.vdi('1MiB')
            p = d.begin('sr-check', f'uuid={d.sr()}', stderr=subprocess.PIPE)
            task = d.pending('SR.check')
            d.xe('task-cancel', uuid=task)
            said = p.communicate(timeout=10 * SLOW)[1].decode()
            assert p.returncode == 1 and 'Error code: TASK_CANCELLED' in said, said
            d.check()


main(globals())
