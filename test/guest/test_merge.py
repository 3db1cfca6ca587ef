#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots are deleted under a guest that reads and writes without rest: the layers are merged behind it, no
block is ever wrong, nothing is refused, and in the end there are as many volumes as disks.
SECONDS, EARLIER and SEED may be given in the environment: a snapshot each second for so long, with so many
earlier ones being deleted meanwhile."""
import errno, os, random, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden, plug
from faulty import Faulty
from layers import wait_for

SECONDS, EARLIER = int(os.environ.get('SECONDS', '8')), int(os.environ.get('EARLIER', '8'))


def start_churn(serial, disks='ab', mib=24, reads=40):
    for disk in disks:
        serial.churn('start', disk, mib, reads)


def right(serial, disks='ab', what='report'):
    """Nothing was wrong since the beginning; the longest wait."""
    longest = 0
    for disk in disks:
        said = serial.churn(what, disk)
        assert said['wrong'] == 0, f'disk {disk}: {said}'
        longest = max(longest, said['longest_ms'])
    return longest


class Deleter(threading.Thread):
    def __init__(self, d, snapshots, pause):
        super().__init__()
        self.d, self.snapshots, self.pause, self.times, self.error = d, snapshots, pause, [], None

    def run(self):
        try:
            for snap in self.snapshots:
                begin = time.time()
                self.d.xe('snapshot-uninstall', '--force', uuid=snap)
                self.times.append(time.time() - begin)
                time.sleep(self.pause)
        except Exception as e:
            self.error = e


def under_load(kind):
    dice = random.Random(SEED)
    with FileSystem(kind, 16384) as fs, golden('two', sr=fs) as (d, vm, serial):
        start_churn(serial)
        earlier = [d.snapshot(vm, f'earlier {n}') for n in range(EARLIER)]
        dice.shuffle(earlier)
        deleter = Deleter(d, earlier, SECONDS / max(1, EARLIER) / 2)
        deleter.start()
        snaps, pauses, end = [], [], time.time() + SECONDS
        while time.time() < end:
            begin = time.time()
            snaps.append(d.snapshot(vm, f's{len(snaps)}'))
            pauses.append(float(d.get('snapshot', snaps[-1], 'snapshot-info', 'guest-pause-ms')))
            right(serial)
            time.sleep(max(0, begin + 1 - time.time()))
        deleter.join()
        assert not deleter.error, deleter.error
        for snap in snaps:
            d.xe('snapshot-uninstall', '--force', uuid=snap)
        begin = time.time()
        wait_for(lambda: len(d.volumes(fs.folder)) == 2, 120)
        d.wait_quiet()
        took, longest = time.time() - begin, right(serial)
        right(serial, what='stop')
        left = d.volumes(fs.folder)
        assert len(left) == 2, left
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()
        print(f'  {kind}: {len(snaps)} snapshots, longest pause {max(pauses):.1f} ms; delete call '
              f'{sorted(deleter.times)[len(deleter.times) // 2] * 1e3:.0f} ms (median, with the start of xe); '
              f'merged {took:.1f} s after the last delete; longest wait {longest:.0f} ms')


def test_ext4():
    under_load('ext4')


def test_xfs():
    under_load('xfs')


def test_btrfs():
    under_load('btrfs')


def test_revert_in_the_middle():
    """A revert does not wait for merges, and finds what it should."""
    with golden() as (d, vm, serial):
        sums = {}
        for n in range(4):
            sums[n] = serial.ask(f'write a file 20 {n + 1}').split('sum=')[1]
            serial.snap = d.snapshot(vm, f's{n}')
        snaps = {d.get('snapshot', s, 'name-label'): s for s in d.list('snapshot', snapshot_of=vm)}
        serial.ask('write a file 20 9')
        d.xe('snapshot-uninstall', '--force', uuid=snaps['s1'])
        d.xe('snapshot-uninstall', '--force', uuid=snaps['s2'])
        d.xe('snapshot-revert', uuid=snaps['s3'])
        serial.close()
        with d.boot(vm) as serial:
            assert serial.ask('sum a file').split('sum=')[1] == sums[3]
        d.xe('snapshot-uninstall', '--force', uuid=snaps['s3'])
        d.xe('snapshot-revert', uuid=snaps['s0'])
        with d.boot(vm) as serial:
            assert serial.ask('sum a file').split('sum=')[1] == sums[0]
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('snapshot-uninstall', '--force', uuid=snaps['s0'])
        d.check()
        assert len(d.volumes()) == 1, d.volumes()


def test_makes_way_but_not_for_ever():
    """A merge that takes longer than there is between two snapshots is done all the same."""
    with golden() as (d, vm, serial):
        plug(d, vm, serial, '768MiB')
        serial.ask('write b below 220 1', timeout=200)
        first = d.snapshot(vm, 'first')
        serial.ask('write b above 90 2', timeout=200)
        d.snapshot(vm, 'second')
        start_churn(serial, 'b')
        d.xe('snapshot-uninstall', '--force', uuid=first)
        for n in range(25):
            time.sleep(1)
            backlog = d.get('sr', d.sr(), 'sm-config', 'backlog')
            if n and backlog == '0':
                break
            d.snapshot(vm, f's{n}')
        print(f'  merged after {n} snapshots, a second apart')
        assert backlog == '0', f'{backlog} bytes are still to be merged\n{d.log()[-3000:]}'
        right(serial, 'b', 'stop')
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()


def test_storage_errors():
    """Writes to a layer that is being merged fail, and the guest reads all the time what is to be copied into it: it
    sees nothing of that, and the merge is done later."""
    with Faulty() as fs, golden(sr=fs) as (d, vm, serial):
        sr = d.sr()
        d.snapshot(vm, 'below')
        start_churn(serial, 'a', 40, 100)
        victim = d.snapshot(vm, 'victim')
        serial.ask('write a more 90 2', timeout=200)
        disk, = d.disks(d.snapshot(vm, 'above')).values()
        above = d.get('vdi', disk, 'location')
        fs.fail(1, errno.EIO, True, above)
        d.xe('snapshot-uninstall', '--force', uuid=victim)          # it goes up into that layer
        end = time.time() + 30 * SLOW
        while 'call failed call=VDI.merge' not in d.log():
            assert time.time() < end, d.log()[-2000:]
            time.sleep(0.1)
        time.sleep(3)                                               # it is tried again, too
        right(serial, 'a')
        failures = fs.count()
        assert failures and d.state_of(vm) == 'running'
        assert len(d.volumes(fs.folder)) == 4, 'the merge was not finished'
        fs.fail(0)
        d.wait_quiet(120)
        assert len(d.volumes(fs.folder)) == 3, d.volumes(fs.folder)
        right(serial, 'a')
        right(serial, 'a', 'stop')
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()
        d.xe('sr-check', uuid=sr)
        print(f'  {failures} writes of a merge failed; the guest saw none of it')


main(globals())
