#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon, QEMU, or both are killed at random moments of merges, copies, resizes and imports.  Afterwards
the daemon comes back at its first start, the SR is sound, no living snapshot has changed, and what the
guest was told to be on its disk is there.  KILLS, KIND (of file system) and SEED may be given in the environment;
the seed is printed."""
import hashlib, os, random, signal, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

KILLS, KIND = int(os.environ.get('KILLS', '6')), os.environ.get('KIND', 'ext4')
DISKS = 2


def content(d, vdi):
    """The sum of what a disk shows."""
    p = d.begin('vdi-export', f'uuid={vdi}', 'filename=', stdout=subprocess.PIPE)
    total = hashlib.sha256()
    while block := p.stdout.read(1 << 20):
        total.update(block)
    assert p.wait() == 0, 'vdi-export failed'
    return total.hexdigest()


def disks_of_snapshot(d, snap):
    return sorted(d.get('vbd', v, 'vdi-uuid') for v in d.list('vbd', vm_uuid=snap))


class Work(threading.Thread):
    """Snapshots, deletes, and what else makes layers move, until something fails: then it was killed."""

    def __init__(self, d, vm, seed, snaps, other):
        super().__init__()
        self.d, self.vm, self.dice, self.other = d, vm, random.Random(seed), other
        self.snaps, self.doubtful, self.size = dict(snaps), set(), 0

    def step(self):
        what = self.dice.choice(('snapshot', 'snapshot', 'delete', 'delete', 'copy', 'resize', 'import'))
        d = self.d
        if what == 'snapshot' and len(self.snaps) < 7:
            self.snaps[d.snapshot(self.vm, 's', timeout=60)] = None
        elif what == 'delete' and len(self.snaps) > 2:
            snap = self.dice.choice(sorted(self.snaps))
            self.doubtful.add(snap)
            del self.snaps[snap]
            d.xe('snapshot-uninstall', '--force', uuid=snap)
        elif what == 'copy' and self.snaps:
            snap = self.dice.choice(sorted(self.snaps))
            copy = d.xe('vdi-copy', uuid=disks_of_snapshot(d, snap)[0])
            d.xe('vdi-destroy', uuid=copy)
        elif what == 'resize':
            self.size += 1 << 20
            d.xe('vdi-resize', uuid=self.other, disk_size=(16 << 20) + self.size)
        elif what == 'import':
            d.xe('vdi-import', uuid=self.other, filename=os.path.join(d.state, 'boot', 'initrd.img'), format='raw')

    def run(self):
        try:
            while True:
                self.step()
        except (Failed, AssertionError, subprocess.TimeoutExpired) as e:
            self.why = e


def kill(d, what, dice):
    guests = list(d.guests().values())
    if what in ('daemon', 'both'):
        d.kill()
    if what in ('qemu', 'both'):
        for pid in guests:
            os.kill(pid, signal.SIGKILL)
    if what == 'qemu':
        # Its daemon lives: it is killed too, later, so that it recovers both ways.
        time.sleep(dice.uniform(0, 0.5))
        d.kill()


def verify(d, sr, sums):
    d.wait_quiet(120)
    d.check()
    d.xe('sr-check', uuid=sr)
    for snap, then in list(sums.items()):
        now = [content(d, vdi) for vdi in disks_of_snapshot(d, snap)]
        assert then is None or now == then, f'snapshot {snap} has changed'
        sums[snap] = now


def test_kills():
    dice = random.Random(SEED)
    with FileSystem(KIND, 6144) as fs, Daemon() as d:
        sr = fs.sr(d)
        # It boots: its disks are small, as all of them are read after each kill.
        vm = guest_vm(d, disks=DISKS, size='24MiB', sr=sr, start=False)
        serial = d.boot(vm)
        other = d.vdi('16MiB', 'other', sr)
        sums, marks, counts = {}, [], {}
        for n in range(KILLS):
            for disk in 'ab':
                serial.ask(f'shell churn start /disk/{disk}/churn 8 30')
            work = Work(d, vm, dice.random(), sums, other)
            work.start()
            time.sleep(dice.uniform(0.3, 4))
            serial.ask(f'mark m{n}')
            marks.append(f'm{n}')
            what = dice.choice(('daemon', 'daemon', 'daemon', 'qemu', 'both'))
            kill(d, what, dice)
            counts[what] = counts.get(what, 0) + 1
            work.join()
            d.start()
            there = set(d.list('snapshot', snapshot_of=vm))
            lost = set(work.snaps) - there
            assert not lost, f'acknowledged and lost: {lost}'
            for snap in there:
                work.snaps.setdefault(snap, sums.get(snap))
            sums = {s: v for s, v in work.snaps.items() if s in there}
            verify(d, sr, sums)
            if what != 'daemon':
                serial.close()
                serial = d.boot(vm)
            else:
                assert d.state_of(vm) == 'running'
                for disk in 'ab':
                    assert serial.churn('report', disk)['wrong'] == 0
                    assert serial.churn('stop', disk)['wrong'] == 0
            for disk, found in serial.fields('marks').items():
                gone = set(marks) - set(found.split(','))
                assert not gone, f'kill {n}: disk {disk} lost {gone}'
            if len(marks) > 20:
                serial.ask(f'unmark {marks.pop(0)}')
            if n % 10 == 9:
                print(f'  {n + 1} kills: {counts}', flush=True)
        serial.close()
        print(f'  {KIND}: killed {counts}; nothing lost, {len(sums)} snapshots as they were')


main(globals())
