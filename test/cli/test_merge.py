#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Layers that nobody needs become one: which step is taken when, what waits for what, and that no disk ever shows
anything else than what was written to it.  The guests' writes are played by qemu-io; what they wrote goes into raw files
too, with which every disk is compared in the end."""
import json, os, random, shutil, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from layers import *

SEED = int(os.environ.get('SEED', time.time()))
SOONER = {'merge-again': 0.1}           # a merge that waits for others is looked at each half second


def backlog(d, sr=None):
    """Bytes to be given back, and what that waits for."""
    config = json.loads(d.sql(f"SELECT sm_config FROM SR WHERE uuid = '{sr or d.sr()}'")[0] or '{}')
    return int(config.get('backlog', 0)), config.get('backlog-waits-for', '')


class Export:
    """Of a disk, whose layers are held until all is read."""

    def __init__(self, d, vdi):
        self.p = d.begin('vdi-export', f'uuid={vdi}', 'filename=', stdout=subprocess.PIPE)
        self.got = self.p.stdout.read(1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.got += self.p.stdout.read()
        assert self.p.wait() == 0


def fill(folder, leave):
    """Takes the room of a file system but for so many MiB."""
    s = os.statvfs(folder)
    path = os.path.join(folder, 'filler')
    with open(path, 'wb') as f:
        os.posix_fallocate(f.fileno(), 0, s.f_bavail * s.f_frsize - int(leave * MIB))
    return path


# ---- which step ----

def test_in_the_middle():
    """Up where the VM runs and there is little to copy, down where that is much less, or nobody has them open."""
    with Daemon('fake', delays=SOONER) as d:
        w = World(d, mib=512)
        vm = w.vm(start=True)
        w.write(vm, 0, 4)
        a, b, c = [w.snap(vm, (n, 2)) for n in range(3)]
        w.delete(b)
        assert w.settle(3) == ['merged']
        assert len(chain(d, vm)) == 3 and chain(d, vm)[-1] == d.get('vdi', w.disk(vm), 'location')
        w.right()

        w.fatten(vm, 260)                           # large below small: down, as it copies next to nothing
        large, small = w.snap(vm, (1, 1)), w.snap(vm, (2, 1))
        w.delete(large)
        assert w.settle(4) == ['merged down']
        assert len(chain(d, vm)) == 4
        w.check()

        d.xe('vm-shutdown', '--force', uuid=vm)
        w.delete(c)
        assert w.settle(3) == ['merged down']
        w.check()
        assert w.raw.keys() >= {w.disk(a), w.disk(small), w.disk(vm)}


def test_a_run_is_one_step():
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        for name, start, way in (('running', True, 'merged'), ('halted', False, 'merged down')):
            vm, before = w.vm(name, start), len(w.stored())
            w.write(vm, 0, 2)
            snaps = [w.snap(vm, (n, 2)) for n in range(6)]
            with Export(d, w.disk(snaps[5])) as e:
                for snap in snaps[1:5]:
                    w.delete(snap)
                time.sleep(0.3)
                assert w.steps() == [] and backlog(d)[0] > 4 * MIB
            with open(w.raw[w.disk(snaps[5])], 'rb') as f:
                assert f.read() == e.got, 'what was exported meanwhile is right'
            assert w.settle(before + 2) == [way]
            w.right()
        w.check()


def test_the_newest():
    """What is below the top and needed no more goes down from the top, while the guest waits for an instant."""
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        vm = w.vm(start=True)
        w.write(vm, 0, 4)
        old, new = w.snap(vm, (1, 2)), w.snap(vm, (2, 2))
        w.delete(new)
        assert w.settle(2) == ['merged down']
        assert chain(d, vm) == [d.get('vdi', w.disk(s), 'location') for s in (old, vm)]
        w.write(vm, 3, 2)
        w.delete(old)
        assert w.settle(1) == ['merged down']
        w.write(vm, 4, 2)
        w.check()
        d.xe('vm-shutdown', '--force', uuid=vm)
        w.right()


def test_a_large_top():
    """It gets an overlay, what is below it goes up into it, and the overlay down."""
    with Daemon('fake', delays=SOONER) as d:
        w = World(d, mib=400)
        vm = w.vm(start=True)
        w.write(vm, 0, 2)
        snap = w.snap(vm, (1, 2))
        w.fatten(vm, 320)
        w.delete(snap)
        assert w.settle(1) == ['frozen', 'merged', 'merged down']
        assert len(chain(d, vm)) == 1
        w.check()


def test_a_heavy_one_in_the_middle():
    """Of those that are deleted the large one stays where it is: the older ones go up into it, the newer ones
    down."""
    with Daemon('fake', delays=SOONER) as d:
        w = World(d, mib=400)
        vm = w.vm(start=True)
        w.write(vm, 0, 2)
        snaps = [w.snap(vm, (1, 2)), w.snap(vm, (2, 2))]
        w.fatten(vm, 300)
        snaps += [w.snap(vm, (3, 2)), w.snap(vm, (4, 2))]
        heavy = d.get('vdi', w.disk(snaps[2]), 'location')
        with Export(d, w.disk(snaps[3])):
            for snap in snaps[:3]:
                w.delete(snap)
        assert w.settle(2) == ['merged', 'merged down']
        assert chain(d, vm)[0] == heavy == d.get('vdi', w.disk(snaps[3]), 'location')
        w.check()


# ---- several disks on one base ----

def test_two_vms_on_one_base():
    """Both have it open: nobody can write it.  With one of them it can be merged."""
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        vm = w.vm()
        w.write(vm, 0, 2)
        snap = w.snap(vm, (1, 2))
        clone = w.clone(vm)
        w.write(vm, 2, 2)
        w.write(clone, 3, 2)
        for v in (vm, clone):
            d.xe('vm-start', uuid=v)
        w.delete(snap)
        wait_for(lambda: backlog(d)[0] > 2 * MIB and 'more than one running VM' in backlog(d)[1])
        time.sleep(0.5)
        assert w.steps() == [] and len(w.stored()) == 4
        assert 'more than one running VM' in d.get('sr', d.sr(), 'sm-config')
        d.restart()
        time.sleep(0.5)
        assert w.steps() == [] and len(w.stored()) == 4
        d.xe('vm-shutdown', '--force', uuid=clone)
        assert w.settle(3, 15) == ['merged']
        assert backlog(d) == (0, '')
        w.right()
        d.xe('vm-start', uuid=clone)
        w.check()


def slow_creates(folder):
    """A qemu-img that takes its time to make a layer, for the PATH."""
    path = os.path.join(folder, 'qemu-img')
    with open(path, 'w') as f:
        f.write(f'#!/bin/sh\n[ "$1" != create ] || sleep {0.6 * SLOW}\nexec {shutil.which("qemu-img")} "$@"\n')
    os.chmod(path, 0o755)
    return f'{folder}:{os.environ["PATH"]}'


def test_a_layer_above_is_being_snapshotted():
    """A merge down changes the records of all layers over the upper one: none of them is in work meanwhile."""
    with tempfile.TemporaryDirectory() as tools, Daemon('fake', delays=SOONER) as d:
        w = World(d)
        vm = w.vm()
        w.write(vm, 0)
        below, above = w.snap(vm, (1, 1)), w.snap(vm, (2, 1))
        clones = [w.clone(above, 'snapshot-clone') for _ in range(2)]
        d.restart(env={'PATH': slow_creates(tools)})
        before = len(d.log())
        for each in (vm, *clones):
            p = d.begin('vm-snapshot', f'uuid={each}', 'new-name-label=s', stdout=subprocess.PIPE)
            wait_for(lambda: 'snapshot' in d.get('vm', each, 'current-operations'))
            if each == vm:
                w.delete(below)
            snap = p.communicate()[0].decode().strip()
            assert p.returncode == 0
            w.reference(w.disk(snap), w.disk(each))
        d.restart(env={'PATH': os.environ['PATH']})
        w.check()
        log = d.log()[before:]
        assert w.steps() == ['merged down'] and log.index('snapshot taken') < log.index('layers merged')


def test_a_base_of_two_is_no_backlog():
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        vm = w.vm()
        w.write(vm, 0, 2)
        clone = w.clone(vm)
        w.write(vm, 1, 2)
        w.write(clone, 2, 2)
        w.check()
        assert backlog(d) == (0, '') and len(w.stored()) == 3 and w.steps() == []
        w.uninstall(vm)
        assert w.settle(1) == ['merged down']
        w.check()

        snap = w.snap(clone, (3, 2))
        second = w.clone(snap, 'snapshot-clone')
        w.write(second, 4, 2)
        w.delete(snap)
        w.check()
        assert w.steps() == [] and len(w.stored()) == 3
        w.uninstall(second)
        assert w.settle(1) == ['merged down']
        w.check()


def test_a_disk_that_is_only_read():
    """By a running VM: what it has open is left alone until it has ended, and that is said."""
    with Daemon('fake', delays=SOONER) as d:
        disk = d.vdi()
        snap, second = d.xe('vdi-snapshot', uuid=disk), d.xe('vdi-snapshot', uuid=disk)
        vm = d.vm()
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=0, mode='RO')
        d.xe('vm-start', uuid=vm)
        d.xe('vdi-destroy', uuid=snap)
        end = time.time() + 20 * SLOW
        while 'only reads' not in backlog(d)[1]:
            assert time.time() < end, backlog(d)
            time.sleep(0.05)
        assert len(d.volumes()) == 3 and 'failed call=VDI.merge' not in d.log()
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.wait_quiet()
        assert len(d.volumes()) == 2 and backlog(d) == (0, '')
        d.xe('vdi-destroy', uuid=second)
        d.check()


# ---- nobody waits for a merge ----

def hanging(d, w, vm):
    """A chain in which a merge has begun that does not come to its end."""
    w.write(vm, 0, 2)
    snaps = [w.snap(vm, (n, 2)) for n in range(4)]
    d.restart(env={'STILLFRAME_FAKE': 'hang=merge'})
    return snaps


def test_it_gives_way():
    """To a snapshot, a revert, a start: the merge is cancelled, nothing is refused, and it is done later."""
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        vm = w.vm(start=True)
        snaps = hanging(d, w, vm)
        w.delete(snaps[3])                          # down from the top, which a snapshot needs
        w.merging()
        late = w.snap(vm, (5, 2))
        w.merging()
        w.delete(snaps[1])
        w.revert(vm, late)
        clone = w.clone(snaps[2], 'snapshot-clone')
        for v in (vm, clone):
            d.xe('vm-start', uuid=v)
        w.write(vm, 6, 2)
        w.delete(snaps[2])
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vdi-destroy', uuid=d.xe('vdi-copy', uuid=w.disk(late)))
        assert 'fake merge: no answer' not in d.log()[w.seen:], 'a merge was waited for until it ended'
        w.right()
        assert 'merged' not in w.steps(), 'only what no VM had open was merged'
        d.xe('vm-start', uuid=vm)
        w.delete(late)
        w.merging()
        w.right()
        d.xe('vm-shutdown', '--force', uuid=clone)     # what both have open could not be merged
        d.restart()
        w.check()
        assert 'merged down' in w.steps() and backlog(d) == (0, '')


def test_memory_is_saved_without_it():
    """QEMU takes its disks from whoever writes them when a migration is completed, and aborts when a merge does."""
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        vm = w.vm(start=True)
        snaps = hanging(d, w, vm)
        w.delete(snaps[1])                          # below the top, which a snapshot does not need
        w.merging()
        assert 'MERGE_SETTLE' in d.sql('SELECT verb FROM journal')
        w.snap(vm)
        assert 'MERGE_SETTLE' in d.sql('SELECT verb FROM journal'), 'a snapshot stopped what it does not need'
        for deed in ('vm-checkpoint', 'vm-suspend'):
            w.merging()
            d.xe(deed, uuid=vm, **({'new-name-label': 'c'} if deed == 'vm-checkpoint' else {}))
            w.seen = len(d.log())
        assert d.state_of(vm) == 'suspended'
        d.restart(env={'STILLFRAME_FAKE': ''})
        d.xe('vm-resume', uuid=vm)
        d.wait_quiet()
        w.check()


def test_a_failing_merge():
    """It is tried again, less and less often; nothing is lost, and when it can be done it is."""
    with Daemon('fake', delays={'merge-failed': 0.25 * SLOW}) as d:
        w = World(d)
        vm = w.vm(start=True)
        w.write(vm, 0, 2)
        snaps = [w.snap(vm, (n, 2)) for n in range(3)]
        d.restart(env={'STILLFRAME_FAKE': 'fail=merge'})
        w.delete(snaps[1])
        time.sleep(SLOW)
        tried = d.log()[w.seen:].count('fake merge ')
        assert 1 < tried < 5, f'tried {tried} times in {SLOW:.0f} s'
        assert w.steps() == [] and backlog(d)[0] > 2 * MIB and len(w.stored()) == 4
        assert not d.sql('SELECT verb FROM journal') or time.sleep(0.3) or not d.sql('SELECT verb FROM journal')
        w.right()
        w.snap(vm, (4, 2))
        d.restart()
        assert w.settle(4) == ['merged']
        w.check()


def test_killed_in_the_middle():
    for vm_runs in (True, False):
        with Daemon('fake', delays=SOONER) as d:
            w = World(d)
            vm = w.vm(start=True)
            snaps = hanging(d, w, vm)
            w.delete(snaps[1])
            w.merging()
            w.delete(snaps[3])
            w.seen = len(d.log())
            d.kill()
            if not vm_runs:
                os.unlink(os.path.join(d.state, 'run', vm, 'fake.json'))
            d.start()
            w.settle(3)
            w.check()


def test_deletes_do_not_wait():
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        vm, other = w.vm(start=True), w.vm('other')
        snaps = hanging(d, w, vm)
        of_other = [w.snap(other, (n, 2)) for n in range(2)]
        alone = d.vdi()
        w.delete(snaps[1])
        w.merging()
        begin = time.time()
        w.delete(snaps[2])
        w.delete(of_other[0])
        d.xe('vdi-destroy', uuid=alone)
        w.delete(snaps[0])
        d.restart()
        w.settle(4)
        w.check()


# ---- long chains ----

def test_shortened():
    with Daemon('fake', delays=SOONER) as d:
        w = World(d)
        d.xe('sr-param-set', 'other-config:chain-max=6', uuid=w.sr)
        vm = w.vm(start=True)
        w.write(vm, 0, 2)
        snaps, told = [], []
        for n in range(14):
            status, out, err = d.run('vm-snapshot', uuid=vm, new_name_label=f's{n}')
            assert status == 0, err
            snaps.append(out.strip())
            w.reference(w.disk(snaps[-1]), w.disk(vm))
            copied = d.get('snapshot', snaps[-1], 'snapshot-info').find('copy-bytes') >= 0
            assert copied == ('copied in the background' in out + err)
            told.append(copied)
            if copied:
                wait_for(lambda: len(chain(d, vm)) <= 7)
                d.wait_quiet()          # qemu-io cannot open what is being copied
            w.write(vm, n, 2)
        assert not any(told[:6]) and told.count(True) >= 3, told
        assert int(d.get('snapshot', snaps[told.index(True)], 'snapshot-info', 'copy-bytes')) > 2 * MIB
        wait_for(lambda: len(chain(d, vm)) <= 7)
        d.wait_quiet()
        assert set(w.steps()) == {'merged'} and len(w.stored()) == 15
        w.check()
        w.revert(vm, snaps[9])
        d.xe('vm-start', uuid=vm)
        w.write(vm, 30, 2)
        for snap in snaps:
            w.delete(snap)
        w.settle(1)
        w.check()


def test_no_room_to_shorten():
    """Then there is no further snapshot, and nothing has been touched."""
    with FileSystem('ext4', 400) as fs, Daemon('fake', delays=SOONER) as d:
        w = World(d, fs.sr(d), fs.folder)
        d.xe('sr-param-set', 'other-config:chain-max=3', uuid=w.sr)
        vm = w.vm(start=True)
        w.write(vm, 0, 30)
        snaps = [w.snap(vm, (n, 30)) for n in range(3)]
        filler = fill(fs.folder, 100)
        before = w.stored(), chain(d, vm)
        d.fails('vm-snapshot', uuid=vm, new_name_label='x', says='There is insufficient space')
        d.fails('vdi-snapshot', uuid=w.disk(vm), says='There is insufficient space')
        assert (w.stored(), chain(d, vm)) == before and len(d.list('snapshot')) == 3
        w.check()
        os.unlink(filler)
        late = w.snap(vm, (4, 2))
        wait_for(lambda: len(chain(d, vm)) <= 4)
        d.wait_quiet()
        assert w.steps() == ['merged']

        # Nor is there room for a merge: it waits for it.
        filler = fill(fs.folder, 0.15)
        w.delete(late)
        wait_for(lambda: 'no room' in backlog(d, w.sr)[1] or len(w.stored()) < 5)
        assert w.steps() == [] and len(w.stored()) == 5
        os.unlink(filler)
        w.settle(4)
        w.check()


# ---- SRs that come and go ----

def test_an_sr_that_goes():
    with Daemon('fake', delays=SOONER) as d:
        folder = d.folder_for('two')
        sr = d.xe('sr-create', name_label='two', type='file', **{'device-config:location': folder})
        w = World(d, sr, folder)
        pbd = d.list('pbd', sr_uuid=sr)[0]
        vm = w.vm()
        w.write(vm, 0, 2)
        snaps = [w.snap(vm, (n, 20)) for n in range(8)]
        for snap in snaps[1:7:2]:
            w.delete(snap)
        d.xe('pbd-unplug', uuid=pbd)
        w.right()
        time.sleep(0.3)
        d.xe('pbd-plug', uuid=pbd)
        w.settle(6)
        w.check()

        for snap in snaps[0:6:2]:                   # forgotten, and found again
            w.delete(snap)
        d.xe('pbd-unplug', uuid=pbd)
        kept = w.raw[w.disk(vm)], w.file_of(w.disk(vm))
        d.xe('sr-forget', uuid=sr)
        d.check()
        left = w.stored()
        time.sleep(0.3)
        assert w.stored() == left
        subprocess.run(['qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', *kept], check=True, stdout=subprocess.DEVNULL)
        d.xe('sr-introduce', uuid=sr, name_label='again', type='file')
        d.xe('pbd-plug', uuid=d.xe('pbd-create', sr_uuid=sr, host_uuid=d.list('host')[0],
                                   **{'device-config:location': folder}))
        # Nothing says any more which of them were snapshots: none is merged until it is deleted.
        d.wait_quiet()
        assert w.stored() == left
        found, = (v for v in d.list('vdi', sr_uuid=sr) if d.get('vdi', v, 'read-only') == 'false')
        w.raw = {found: kept[0]}
        w.check()
        for vdi in d.list('vdi', sr_uuid=sr, managed='true'):
            d.xe('vdi-destroy', uuid=vdi)
        d.xe('sr-destroy', uuid=sr)
        assert os.listdir(folder) == []
        d.check()


# ---- file systems that share blocks ----

def test_reflinks():
    """A snapshot gets a file of its own, and no chain is left."""
    with FileSystem('xfs', 1024) as fs, Daemon('fake', delays=SOONER) as d:
        w = World(d, fs.sr(d), fs.folder)
        w.shares = True
        vm, halted = w.vm(start=True), w.vm('halted')
        for v in (vm, halted):
            w.write(v, 0, 8)
            snap = w.snap(v, (1, 2))
            wait_for(lambda: 'reflink' in d.get('vdi', w.disk(snap), 'sm-config'))
            d.wait_quiet()
            assert w.steps() == ['split', 'merged down'], v
        assert len(w.stored()) == 4 and len(chain(d, vm)) == 1
        w.check()
        snaps = [w.snap(vm, (n, 2)) for n in range(4)]
        w.no_chains()
        assert len(chain(d, vm)) == 1
        w.check()
        assert len(w.stored()) == 8
        w.steps()
        w.delete(snaps[1])                          # stands on nothing: it just goes
        assert w.settle(7) == []

        clone = w.clone(halted)
        w.write(clone, 2, 2)
        w.write(halted, 3, 2)
        w.no_chains()
        assert 'detached' in w.steps()
        w.check()
        assert len(w.stored()) == 8
        more = w.clone(w.snap(vm, (5, 2)), 'snapshot-clone')
        w.write(more, 6, 2)
        w.no_chains()
        w.check()


def scatter(path, pieces):
    """So many more pieces, behind what QEMU uses of the file."""
    with open(path, 'r+b') as f:
        end = (f.seek(0, os.SEEK_END) + MIB) & ~(MIB - 1)
        f.truncate(end + pieces * 8192)
        for n in range(pieces):
            os.pwrite(f.fileno(), b'x', end + n * 8192)
        os.fsync(f.fileno())


def test_deleted_when_it_gets_its_file():
    """A snapshot that is deleted while the clone for it is made, which takes a while: the clone is nobody's, and goes."""
    with FileSystem('xfs', 1024) as fs, Daemon('fake') as d:
        w = World(d, fs.sr(d), fs.folder)
        w.shares = True
        vm = w.vm(start=True)
        w.write(vm, 0, 8)
        scatter(w.file_of(w.disk(vm)), 9500)
        for _ in range(16):
            snap = d.snapshot(vm, 's')
            time.sleep(dice.uniform(0, 0.08))
            d.xe('snapshot-uninstall', '--force', uuid=snap)
            d.wait_quiet()
            # What held the disk when the clone was to go makes it wait for its next turn: quiet, and not yet gone.
            wait_for(lambda: len(w.stored()) == 1 and not d.sql("SELECT location FROM VDI WHERE managed = 'false' OR is_a_snapshot = 'true'"),
                     why=lambda: w.stored())
        d.xe('sr-check', uuid=w.sr)
        d.check()


def test_too_many_pieces():
    """A clone of them would take too long: the overlays stay, and are merged as elsewhere."""
    with FileSystem('xfs', 1024) as fs, Daemon('fake', delays=SOONER) as d:
        w = World(d, fs.sr(d), fs.folder)
        vm = w.vm(start=True)
        w.write(vm, 0, 2)
        scatter(w.file_of(w.disk(vm)), 21000)
        a, b = w.snap(vm, (1, 2)), w.snap(vm, (2, 2))
        time.sleep(0.5)
        d.wait_quiet()
        assert w.steps() == [] and len(chain(d, vm)) == 3
        assert 'reflink' not in d.get('vdi', w.disk(a), 'sm-config')
        w.delete(b)
        assert w.settle(2) == ['merged down']
        w.check()


main(globals())
