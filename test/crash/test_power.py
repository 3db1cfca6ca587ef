#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The power goes at each moment at which it matters.  A guest runs, and disks are snapshotted, deleted, merged,
reverted, resized and copied, on a device that logs each write (lib/power.py).  Then the device is put
together again as it was at many moments of that, and each time the daemon has to come up at its first start,
with nothing lost that was acknowledged by then.  See doc/power-loss.md.

KIND      ext4, xfs or btrfs; both of the first two if not given
STATES    how many moments to look at, on each, of more work than without it; each flush and each mark with
          STATES=flushes, and a loss behind each flush too with STATES=all
SEED      of the work and of the moments; printed
CRASH     one moment, as it was printed; with the same SEED
KEEP=1    what was logged is kept when a moment fails
MUTATE=1  each wait for the disk (base/sync.def) is left out in turn, and must be missed on one of the kinds, or is
          tried on all KIND that are given; or a NAME of one
"""
import collections, contextlib, hashlib, os, random, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from power import *

KINDS = os.environ.get('KIND', 'ext4 xfs').split()
STATES = os.environ.get('STATES', '12')
SLOT = 128 << 10
SLOTS = 96
SIZE = SLOTS * SLOT
SHORT = not {'STATES', 'MUTATE', 'CRASH'} & set(os.environ)      # less work, so that there is less to wait for


# ---- what a disk must show ----

def pattern(mark):
    """What the guest's `yes mark` writes, a slot long."""
    line = f'{mark:07d}\n'.encode()
    return line * (SLOT // len(line)) if mark else bytes(SLOT)


def first_slot():
    """A partition table, so that the guest does not make a file system of its disk."""
    entry = bytes([0, 0, 2, 0, 0x83, 0, 0, 0]) + struct.pack('<II', 1, SIZE // 512 - 1)
    return (bytes(446) + entry + bytes(48) + b'\x55\xaa').ljust(SLOT, b'\0')


def export(d, vdi, file):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)
    d.xe('vdi-export', uuid=vdi, filename=file)
    with open(file, 'rb') as f:
        return f.read()


class Shows:
    """What a disk may show: exactly the bytes of a sum, or slots, some in doubt; nothing known: anything."""

    def __init__(self, slots=None, doubt=(), size=SIZE, sum=None):
        self.slots, self.doubt, self.size, self.sum = slots, frozenset(doubt), size, sum

    def wrong(self, shown):
        """What is wrong, or ''."""
        if self.size and len(shown) != self.size:
            return f'{len(shown)} bytes, not {self.size}'
        if self.sum:
            return '' if hashlib.sha256(shown).hexdigest() == self.sum else 'another content'
        for i in range(SLOTS if self.slots is not None else 0):
            if i in self.doubt:
                continue
            is_there = shown[i * SLOT:(i + 1) * SLOT]
            if is_there != (pattern(self.slots.get(i, 0)) if i else first_slot()):
                return f'slot {i} has {is_there[:8]}, not mark {self.slots.get(i, 0)}'
        return ''

    def but(self, **changes):
        return Shows(**{'slots': self.slots, 'doubt': self.doubt, 'size': self.size, 'sum': self.sum, **changes})


class Truth:
    """What must be, what may be and what must not be, at one moment."""

    def __init__(self):
        self.disks = {}                 # VDI -> the Shows that it may have
        self.vms = {}                   # snapshot -> its VDI
        self.maybe, self.gone = set(), set()
        self.files = {}                 # path -> it is there
        self.making = True              # something new may be there
        self.doing = 'set up'

    def copy(self):
        t = Truth()
        t.disks, t.vms = {k: list(v) for k, v in self.disks.items()}, dict(self.vms)
        t.maybe, t.gone, t.files = set(self.maybe), set(self.gone), dict(self.files)
        t.making, t.doing = self.making, self.doing
        return t


# ---- the work that is logged ----

class Work:
    def __init__(self, device, dice, skip=None):
        self.device, self.dice = device, dice
        self.truths = [Truth()]         # by mark
        self.now = self.truths[0]
        self.doings = collections.Counter()
        self.written = 0
        self.state, self.sr_folder = device.mounts
        self.env = {'STILLFRAME_SKIP_SYNC': skip} if skip else {}

    def said(self):
        """What is so from now on is the truth of the next mark."""
        self.truths.append(self.now.copy())
        self.device.mark(len(self.truths) - 1)

    @contextlib.contextmanager
    def doing(self, what, making=False):
        """Around it: what it does may or may not have happened; after it, it has."""
        self.doings[what.split()[0]] += 1
        self.now.doing, self.now.making = what, making
        self.said()
        yield self.now
        self.now.doing, self.now.making = f'after {what}', False
        self.said()

    # ---- steps ----

    def set_up(self):
        os.mkdir(os.path.join(self.state, 'sf'))
        d = self.d = Daemon(state=os.path.join(self.state, 'sf'), env=self.env,
                            options=('--boot-dir', guest_folder()))
        self.sr = d.xe('sr-create', name_label='sr', type='file',
                       **{'device-config:location': self.sr_folder})
        self.said()
        self.other_sr()
        d.xe('sr-param-set', f'uuid={self.sr}', 'other-config:chain-max=4')
        self.image = os.path.join(self.device.folder, 'first')

    def other_sr(self):
        """One that comes and goes: whose its folder is, is told by a file."""
        place = os.path.join(self.sr_folder, 'other')
        os.mkdir(place)
        sr = self.d.xe('sr-create', name_label='other', type='file', **{'device-config:location': place})
        self.d.xe('pbd-unplug', uuid=self.d.list('pbd', sr_uuid=sr)[0])
        self.d.xe('sr-destroy', uuid=sr)
        self.now.files[os.path.join(place, 'sr-uuid')] = False
        self.said()

    def boot(self):
        d = self.d
        with open(self.image, 'wb') as f:
            f.write(first_slot())
        with self.doing('boot', making=True) as now:
            self.disk = d.vdi(SIZE, 'disk', self.sr)
            d.xe('vdi-import', uuid=self.disk, filename=self.image)
            self.vm = d.vm('vm', memory='128MiB')
            d.xe('vbd-create', vm_uuid=self.vm, vdi_uuid=self.disk, device=0)
            d.xe('vm-param-set', f'uuid={self.vm}', f'PV-kernel={guest_folder()}/vmlinux',
                 f'PV-ramdisk={guest_folder()}/initrd.img', 'PV-args=console=ttyS0 quiet', 'HVM-boot-policy=')
            now.disks[self.disk] = [Shows({})]
            self.serial = d.boot(self.vm)

    def slots(self, n):
        return sorted(self.dice.sample(range(1, SLOTS), n))

    def write(self, n=2, during=None):
        """The guest writes slots and flushes them; meanwhile something may be done."""
        self.written += 1
        mark, before = self.written, self.now.disks[self.disk][0]
        slots = self.slots(n)
        with self.doing('write') if not during else contextlib.nullcontext():
            self.now.disks[self.disk] = [before.but(doubt=slots)]
            self.said()
            line = f'for i in {" ".join(map(str, slots))}; do yes {mark:07d} | head -c {SLOT} | ' \
                   f'dd of=/dev/vda bs={SLOT} iflag=fullblock seek=$i conv=notrunc,fsync 2>/dev/null; done'
            self.serial.s.sendall(f'shell {line}\n'.encode())
            if during:
                during()
            self.serial.ask('ping')
            self.now.disks[self.disk] = [before.but(slots={**before.slots, **{i: mark for i in slots}}, doubt=())]
        if during:
            self.said()

    def snapshot(self):
        shows = self.now.disks[self.disk][0].but()
        with self.doing('snapshot', making=True) as now:
            snap = self.d.snapshot(self.vm)
            vdi = self.d.get('vbd', self.d.list('vbd', vm_uuid=snap)[0], 'vdi-uuid')
            now.vms[snap] = vdi
            now.disks[vdi] = [shows]
        # No merge may have changed it since; the moment of the acknowledgement is past.
        shown = export(self.d, vdi, self.image)
        assert not shows.wrong(shown), f'a snapshot: {shows.wrong(shown)}'
        shows.sum = hashlib.sha256(shown).hexdigest()
        return snap

    def going(self, now, *vdis):
        now.maybe.update(vdis)

    def delete(self, snap):
        vdi = self.now.vms[snap]
        self.going(self.now, snap, vdi)
        with self.doing('delete') as now:
            self.d.xe('snapshot-uninstall', '--force', uuid=snap)
            self.is_gone(now, snap, vdi)
            del now.vms[snap], now.disks[vdi]

    def is_gone(self, now, *uuids):
        now.maybe.difference_update(uuids)
        now.gone.update(uuids)

    def destroy(self, vdi):
        self.going(self.now, vdi)
        with self.doing('destroy') as now:
            self.d.xe('vdi-destroy', uuid=vdi)
            self.is_gone(now, vdi)
            del now.disks[vdi]

    def quiet(self):
        with self.doing('merges'):
            self.d.wait_quiet()

    def create(self):
        with self.doing('create', making=True) as now:
            vdi = self.d.vdi(SIZE, 'other', self.sr)
            now.disks[vdi] = [Shows(sum=hashlib.sha256(bytes(SIZE)).hexdigest())]
        return vdi

    def fill(self, vdi, part):
        """Pieces of it are random bytes, others stay zero."""
        size = self.now.disks[vdi][0].size
        data = bytearray(size)
        for i in self.slots(part):
            data[i * SLOT:(i + 1) * SLOT] = self.dice.randbytes(SLOT)
        with open(self.image, 'wb') as f:
            f.write(data)
        self.now.disks[vdi] = [Shows(size=size)]
        with self.doing('import') as now:
            self.d.xe('vdi-import', uuid=vdi, filename=self.image)
            now.disks[vdi] = [Shows(size=size, sum=hashlib.sha256(data).hexdigest())]

    def derive(self, command, vdi):
        with self.doing(command, making=True) as now:
            new = self.d.xe(command, uuid=vdi)
            now.disks[new] = [now.disks[vdi][0].but()]
        return new

    def resize(self, vdi, by=1 << 20):
        before = self.now.disks[vdi][0]
        after = before.but(size=before.size + by, sum=None)
        if before.slots is None:
            after.sum = hashlib.sha256(export(self.d, vdi, self.image) + bytes(by)).hexdigest()
        self.now.disks[vdi] = [before, after]
        with self.doing('resize') as now:
            self.d.xe('vdi-resize', uuid=vdi, disk_size=before.size + by)
            now.disks[vdi] = [after]

    def revert(self, snap):
        then = self.now.disks[self.now.vms[snap]][0].but()
        self.now.disks[self.disk] += [then]
        with self.doing('revert', making=True) as now:
            self.d.xe('snapshot-revert', uuid=snap)
            now.disks[self.disk] = [then]

    # ---- the story ----

    def online(self):
        """A chain; what is deleted in its middle goes up, what is next to the top goes down."""
        snaps = []
        for i in range(2 if SHORT else 4):
            self.write(6 if i else 24)
            snaps.append(self.snapshot())
        self.write(3, during=lambda: snaps.append(self.snapshot()))
        if SHORT:
            self.delete(snaps.pop(1))
            self.write()
            self.quiet()
            self.delete(snaps.pop())
            self.write()
            self.quiet()
            return snaps
        self.delete(snaps.pop(2))
        self.write()
        self.delete(snaps.pop(0))
        self.quiet()
        self.write()
        self.delete(snaps.pop())
        self.write()
        self.quiet()
        if self.device.kind == 'ext4':
            while len(snaps) < 6:
                self.write(3)
                snaps.append(self.snapshot())
            self.quiet()
        self.write()
        self.delete(snaps.pop())
        self.quiet()
        return snaps

    def offline(self):
        disk = self.create()
        snaps = []
        for part in (40, 4) if SHORT else (40, 4, 20, 3):
            self.fill(disk, part)
            snaps.append(self.derive('vdi-snapshot', disk))
        self.resize(disk)
        if SHORT:
            self.destroy(snaps.pop(0))
            self.quiet()
            return
        copy = self.derive('vdi-copy', snaps[1])
        clone = self.derive('vdi-clone', snaps[0])
        self.fill(clone, 5)
        self.destroy(snaps.pop(2))
        self.quiet()
        self.destroy(snaps.pop(1))
        self.destroy(snaps.pop())
        self.quiet()
        self.destroy(copy)
        self.destroy(snaps.pop())
        self.destroy(clone)
        self.quiet()

    def guest(self):
        self.boot()
        snaps = self.online()
        self.resize(self.disk)
        self.revert(snaps[0])
        while len(snaps) > 1:
            self.delete(snaps.pop())
        self.quiet()

    def run(self, guest=True):
        self.disk = self.serial = None
        try:
            self.set_up()
            self.offline()
            if guest:
                self.guest()
                self.serial.close()
            with open(os.path.join(self.d.state, 'test.log'), errors='replace') as f:
                steps = re.findall(r'layers (merged down|merged|frozen|split|detached) .*vm=(\S)', f.read())
            self.steps = collections.Counter(f'{what} {"offline" if vm == "-" else "online"}' for what, vm in steps)
        finally:
            if hasattr(self, 'd'):
                self.d.end()


# ---- after the loss ----

class Wrong(Exception):
    pass


class Check:
    def __init__(self, work):
        self.work = work

    def __call__(self, mark):
        truth = self.work.truths[mark]
        self.d = d = Daemon(state=os.path.join(self.work.state, 'sf'), start=False,
                            options=('--boot-dir', guest_folder()))
        try:
            d.start()
            self.one_disk(truth, mark)
            self.settled(lambda: (self.sr_check(), d.check(), self.records(truth), self.contents(truth)))
        finally:
            if d.process:
                d.kill()

    def settled(self, look):
        """A merge that made way for the export may begin again within seconds, while we look: then once more."""
        for tries in range(5):
            self.d.wait_quiet()
            before = self.rows('SELECT uuid, location, parent_location FROM VDI')
            try:
                look()
                return
            except (AssertionError, Failed, FileNotFoundError):
                time.sleep(0.2)
                if tries == 4 or before == self.rows('SELECT uuid, location, parent_location FROM VDI'):
                    raise

    def one_disk(self, truth, mark):
        """At once, before or while things are merged, and through the product."""
        known = sorted(v for v in truth.disks if v not in truth.maybe)
        if known:
            vdi = known[mark % len(known)]
            out = os.path.join(self.work.device.folder, 'shown')
            self.compare(truth, vdi, export(self.d, vdi, out), 'at the start ')

    def sr_check(self):
        """What it repairs is told once; then nothing is left."""
        status, out, err = self.d.run('sr-check', uuid=self.work.sr)
        assert status == 0, f'sr-check: {out}{err}'
        out = self.d.xe('sr-check', uuid=self.work.sr)
        assert ' 0 problems' in out, f'sr-check: {out}'

    def rows(self, sql):
        import sqlite3
        c = sqlite3.connect(os.path.join(self.d.state, 'state.db'))
        try:
            return c.execute(sql).fetchall()
        finally:
            c.close()

    def records(self, truth):
        for path, there in truth.files.items():
            assert os.path.exists(path) == there, f'{path} is {"gone" if there else "there again"}'
        self.located = {r[0]: r[1:] for r in self.rows(
            "SELECT uuid, location, parent_location, virtual_size FROM VDI WHERE managed = 'true' AND "
            "SR IN (SELECT ref FROM SR WHERE uuid = '%s')" % self.work.sr)}
        vms = {r[0] for r in self.rows("SELECT uuid FROM VM WHERE is_a_snapshot = 'true'")}
        there = vms | set(self.located)
        must = (set(truth.disks) | set(truth.vms)) - truth.maybe
        assert must <= there, f'lost: {must - there}'
        assert not truth.gone & there, f'deleted and there again: {truth.gone & there}'
        new = there - must - truth.maybe
        assert truth.making or not new, f'nobody made {new}'

    def contents(self, truth):
        for vdi, (location, below, size) in self.located.items():
            top = Qcow2(os.path.join(self.work.sr_folder, location + '.qcow2'))
            top.close()
            assert top.backing == (below and below + '.qcow2'), f'{location} stands on {top.backing}, not {below}'
            assert top.size == int(size), f'{location} has {top.size} bytes, not {size}'
            if vdi in truth.disks:
                self.compare(truth, vdi, content(self.work.sr_folder, location + '.qcow2'), '')

    def compare(self, truth, vdi, shown, when):
        wrong = [s.wrong(shown) for s in truth.disks[vdi]]
        what = 'the disk' if vdi == self.work.disk else 'a disk'
        assert '' in wrong, f'{when}{what} {vdi}: {wrong}'


def is_lost(e):
    """The first line of what was found, short."""
    return str(e).strip().split('\n')[0][:160] or type(e).__name__


# ---- the campaign ----

def choose(replay, n, dice):
    """Flush points evenly, marks evenly, and as many with losses."""
    flushes, marks, losable = replay.from_first(), [m for m in replay.mark_at if m], replay.losable()
    if n in ('flushes', 'all'):
        every = [replay.at_flush(f) for f in flushes] + [replay.at_mark(m) for m in marks]
        return every + [replay.lossy(f, dice) for f in losable if n == 'all']
    third = max(1, int(n) // 3)

    def evenly(things):
        step = len(things) / third
        first = dice.random() * step
        return [things[int(first + i * step)] for i in range(third) if int(first + i * step) < len(things)]
    return [replay.at_flush(f) for f in evenly(flushes)] + [replay.at_mark(m) for m in evenly(marks)] + \
        [replay.lossy(f, dice) for f in evenly(losable)]


def record(kind, skip=None, guest=True):
    device = LoggedDevice(kind)
    work = Work(device, random.Random(SEED), skip)
    try:
        with device:
            work.run(guest)
    except BaseException:
        device.end()
        raise
    return device, work


def campaign(kind):
    dice = random.Random(SEED)
    begin = time.time()
    device, work = record(kind)
    failed = []
    try:
        with Replay(device) as replay:
            recorded, check = time.time(), Check(work)
            states = [one_crash(replay)] if 'CRASH' in os.environ else choose(replay, STATES, dice)
            states.sort(key=lambda c: (c.whole, c.end))
            print(f'  {kind}: {len(replay.entries)} entries, {len(replay.from_first())} flush points, '
                  f'{len(work.truths)} marks, in {recorded - begin:.0f} s; {dict(work.doings)}; {dict(work.steps)}',
                  flush=True)
            for n, crash in enumerate(states):
                if n and n % 100 == 0:
                    print(f'  {n} of {len(states)}, {n / (time.time() - recorded):.1f} a second', flush=True)
                try:
                    with replay.mounted(crash):
                        check(crash.mark)
                except Exception as e:
                    failed.append(crash)
                    print(f'  SEED={SEED} KIND={kind} CRASH={crash} ({work.truths[crash.mark].doing}): '
                          f'{str(e).strip()[:1500]}', flush=True)
                    if len(failed) == 5:
                        break
            seconds = time.time() - recorded
            print(f'  {kind}: {len(states)} states, {len(states) / seconds:.1f} a second, {len(failed)} failed',
                  flush=True)
    finally:
        if failed and 'KEEP' in os.environ:
            print(f'  kept {device.folder}')
        else:
            device.end()
    assert not failed, f'{kind}: {len(failed)} states are wrong'


def one_crash(replay):
    kind, whole, end, mark, *seed = os.environ['CRASH'].split(':')
    return Crash(kind, int(whole), int(end), int(mark), int(seed[0]) if seed else None)


# ---- is it a test of anything? ----

def sites():
    """(name, why it is there although nothing can miss it, where) of each wait for the disk."""
    with open(os.path.join(TOP, 'src/base/sync.def')) as f:
        for name, what, why in re.findall(r'^SYNC\((\w+), "([^"]*)",\s*"([^"]*)"\)', f.read(), re.M):
            found = subprocess.run(['grep', '-rnw', f'SYNC_{name}', 'src', '--include=*.c'], cwd=TOP,
                                   capture_output=True, text=True).stdout.split('\n')
            yield name, why, ' '.join(':'.join(line.split(':')[:2])[4:] for line in found if line)


def endlessly(replay, work, dice, in_merges):
    """Moments of acknowledgement, and losses; most where layers are being merged."""
    marks = [m for m in replay.mark_at if m]
    windows = [f for f in replay.from_first() if replay.flush_after(f) - f > 2]
    merging = [f for f in windows if work.truths[replay.marks[f]].doing in ('merges', 'after delete')]
    dice.shuffle(marks)
    while in_merges and merging:
        yield replay.lossy(dice.choice(merging), dice)
    while True:
        if marks:
            yield replay.at_mark(marks.pop())
        yield replay.lossy(dice.choice(merging or windows), dice)
        yield replay.lossy(dice.choice(windows), dice)


def mutant(kind, name, limit):
    """What is found with one wait left out: (the state's number, what); (how many were looked at, '')."""
    dice = random.Random(SEED)
    try:
        device, work = record(kind, name, guest=name.startswith(('STREAM', 'VOLUME_WRITTEN')))
    except (AssertionError, Failed) as e:
        return 0, is_lost(e)
    try:
        with Replay(device) as replay:
            check = Check(work)
            for n, crash in enumerate(endlessly(replay, work, dice, name.startswith('STREAM'))):
                if n == limit:
                    return n, ''
                try:
                    with replay.mounted(crash):
                        check(crash.mark)
                except Exception as e:
                    if 'KEEP' in os.environ:
                        print(crash, check.log, sep='\n', flush=True)
                    return n + 1, f'{crash.kind}, {work.truths[crash.mark].doing}: {is_lost(e)}'
    finally:
        device.end()


def test_power():
    if 'MUTATE' in os.environ:
        raise Skip('the tests are tested')
    for kind in KINDS:
        campaign(kind)


def test_each_wait_is_missed():
    if 'MUTATE' not in os.environ:
        raise Skip('only with MUTATE')
    limit = int(STATES) if 'STATES' in os.environ else 100
    missed = []
    for name, why, where in sites():
        if os.environ['MUTATE'] != '1' and name not in os.environ['MUTATE'].split(','):
            continue
        caught = False
        for kind in KINDS:
            n, found = mutant(kind, name, limit)
            caught |= bool(found)
            print(f'  {name} | {where} | {kind} | {n} | {found or why or "NOT CAUGHT"}', flush=True)
            if caught and 'KIND' not in os.environ:
                break
        if not caught and not why:
            missed.append(name)
    assert not missed, f'left out, and not missed: {missed}'


main(globals())
