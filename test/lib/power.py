# SPDX-License-Identifier: Apache-2.0
"""Loss of power: a device whose every write is logged, and what is on it when the power goes.

    with LoggedDevice('xfs') as device:                 # two file systems of one device
        ... the product runs on device.mounts ...
        device.mark(1)                                  # a number, in order with the writes
    with Replay(device) as replay:
        for crash in replay.choose(...):
            with replay.mounted(crash): ...             # the same places, as after the loss

The device is an image in a file, exported over FUSE by qemu-storage-daemon through blklogwrites, with a loop
device for each file system.  A disk may lose what was written since the last flush, and keep any
part of it, in pieces of 4 KiB; so may a replay.  Marks are kept in order up to the moment.
"""
import bisect, contextlib, fcntl, mmap, os, random, shutil, struct, subprocess, tempfile, time
from sf import *

MIB = 1 << 20
FLUSH = 1
FICLONE = 0x40049409
PIECE = 4096


def tool(*words):
    p = subprocess.run([str(w) for w in words], capture_output=True)
    if p.returncode:
        raise Exception(f'{words}: ' + p.stderr.decode(errors='replace')[-500:])
    return p.stdout.decode().strip()


def folder_in_memory():
    """A flush of a logged device is logged, and need not wait for a real disk.  /dev itself takes no SR.  What is to be
    kept is not in memory, which would go with this process."""
    folder = tempfile.mkdtemp(prefix='stillframe-power-')
    if 'KEEP' not in os.environ and shutil.disk_usage('/dev/shm').free > 4 << 30:
        tool('mount', '-t', 'tmpfs', 'stillframe-power', folder)
    os.chmod(folder, 0o711)
    return folder


class Stuck(BaseException):
    """No finding about the product: what was to be mounted next cannot be."""


def unmount(folder):
    """A program that was killed may have files open for a moment."""
    end = time.time() + 20 * SLOW
    while True:
        p = subprocess.run(['umount', folder], capture_output=True)
        if p.returncode == 0 or b'not mounted' in p.stderr:
            return
        if time.time() > end:
            subprocess.run(['umount', '-l', folder])
            raise Stuck(f'{folder} stays in use: {p.stderr.decode()}')
        time.sleep(0.05)


MAKE = {'ext4': ['/sbin/mke2fs', '-q', '-t', 'ext4', '-m', '0', '-E', 'nodiscard', '-F'],
        'xfs': ['/sbin/mkfs.xfs', '-q', '-f', '-K', '-m', 'reflink=1'],
        'btrfs': ['/sbin/mkfs.btrfs', '-q', '-f', '-K']}
OPTIONS = {'ext4': '', 'xfs': ',nouuid', 'btrfs': ''}


class LoggedDevice:
    """Its file systems are mounted at mounts[0] and mounts[1]."""

    PARTS = ((0, 320 * MIB), (320 * MIB, 768 * MIB))       # offset, size
    MARK_AT = 1088 * MIB
    SIZE = 1089 * MIB

    def __init__(self, kind):
        need_root()
        if not os.path.exists(MAKE[kind][0]):
            raise Skip(f'{MAKE[kind][0]} is not installed')
        if not shutil.which('qemu-storage-daemon'):
            raise Skip('qemu-storage-daemon is not installed')
        self.kind, self.marks = kind, 0
        self.folder = folder_in_memory()
        self.mounts = [os.path.join(self.folder, f'mnt{i}') for i in range(len(self.PARTS))]
        self.base, self.log = os.path.join(self.folder, 'base'), os.path.join(self.folder, 'log')
        self.device = os.path.join(self.folder, 'device')
        self.daemon = self.marking = None

    def __enter__(self):
        try:
            self.make()
            self.export()
            for (offset, size), folder in zip(self.PARTS, self.mounts):
                mount(self.device, folder, offset, size, self.kind)
            self.marking = os.open(self.device, os.O_RDWR)
        except Exception:
            self.end()
            raise
        return self

    def make(self):
        """What is made before anything is logged is where each replay begins."""
        with open(self.base, 'wb') as f:
            f.truncate(self.SIZE)
        for folder, (offset, size) in zip(self.mounts, self.PARTS):
            os.mkdir(folder)
            loop = tool('losetup', '-f', '--show', '--offset', offset, '--sizelimit', size, self.base)
            try:
                tool(*MAKE[self.kind], loop)
            finally:
                tool('losetup', '-d', loop)
        shutil.copy(self.base, self.base + '.first')     # sparse

    def export(self):
        for f in (self.log, self.device):
            open(f, 'wb').close()
        self.daemon = subprocess.Popen([
            'qemu-storage-daemon',
            '--blockdev', f'driver=file,filename={self.base},node-name=base,discard=unmap',
            '--blockdev', f'driver=file,filename={self.log},node-name=log',
            '--blockdev', 'driver=blklogwrites,file=base,log=log,node-name=logged,log-sector-size=512',
            '--export', f'type=fuse,id=e0,node-name=logged,mountpoint={self.device},writable=on,growable=off'],
            stdin=subprocess.DEVNULL, start_new_session=True)       # Ctrl-C is not for it
        end = time.time() + 20 * SLOW
        while os.path.getsize(self.device) != self.SIZE:
            if self.daemon.poll() is not None or time.time() > end:
                raise Skip('qemu-storage-daemon exports nothing over FUSE here')
            time.sleep(0.02)

    def mark(self, n):
        """By now the log has the number; no flush: what is marked has to be durable by itself."""
        os.pwrite(self.marking, struct.pack('<8sQ', b'the mark', n).ljust(512, b'\0'), self.MARK_AT)

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """The log is complete after it.  The folder stays, for the replay."""
        if self.marking is not None:
            with contextlib.suppress(OSError):      # its daemon may have been killed
                os.close(self.marking)
            self.marking = None
        for folder in self.mounts:
            if os.path.ismount(folder):
                unmount(folder)
        if self.daemon:
            self.daemon.terminate()
            self.daemon.wait(60)
            self.daemon = None

    def end(self):
        try:
            self.stop()
        finally:
            subprocess.run(['umount', '-l', self.device], capture_output=True)
            if os.path.ismount(self.folder):
                subprocess.run(['umount', '-l', self.folder])
            shutil.rmtree(self.folder, ignore_errors=True)


def mount(image, folder, offset, size, kind):
    tool('mount', '-t', kind, '-o', f'loop,offset={offset},sizelimit={size}{OPTIONS[kind]}', image, folder)


class Entry:
    __slots__ = ('at', 'size', 'flags', 'data')

    def __init__(self, at, size, flags, data):
        self.at, self.size, self.flags, self.data = at, size, flags, data


class Crash:
    """All entries before `whole` are on the disk, of those up to `end` what `kept` chooses."""

    def __init__(self, kind, whole, end, mark, seed=None):
        self.kind, self.whole, self.end, self.mark, self.seed = kind, whole, end, mark, seed

    def __str__(self):
        return f'{self.kind}:{self.whole}:{self.end}:{self.mark}' + ('' if self.seed is None else f':{self.seed}')


class Replay:
    def __init__(self, device):
        self.device = device
        self.work = os.path.join(device.folder, 'work')
        self.at = None                  # entries that the working image has

    def __enter__(self):
        os.mkdir(self.work)
        image = self.work + '.xfs'
        with open(image, 'wb') as f:
            f.truncate(16 << 30)
        tool('/sbin/mkfs.xfs', '-q', '-m', 'reflink=1', image)
        tool('mount', '-o', 'loop', image, self.work)
        self.image, self.copy = os.path.join(self.work, 'image'), os.path.join(self.work, 'copy')
        self.read_log()
        self.kept = {}                  # entries -> a copy of the image with so many
        shutil.copy(self.device.base + '.first', self.image)
        self.keep(0)
        self.at = 0
        return self

    def __exit__(self, *_):
        for folder in self.device.mounts:
            if os.path.ismount(folder):
                unmount(folder)
        unmount(self.work)
        os.unlink(self.work + '.xfs')
        os.rmdir(self.work)

    # ---- the log ----

    def read_log(self):
        with open(self.device.log, 'rb') as f:
            self.bytes = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        magic, version, count, sector = struct.unpack_from('<QQQI', self.bytes)
        assert magic == 0x6a736677736872 and version == 1 and sector == 512, 'no log of writes'
        self.entries, at = [], 512
        for _ in range(count):
            where, sectors, flags, size = struct.unpack_from('<QQQQ', self.bytes, at)
            at += 512
            has_data = sectors and not flags & 4
            self.entries.append(Entry(where * 512, sectors * 512 if has_data else 0, flags, at))
            if has_data:
                at += sectors * 512
        self.flushes, self.marks, self.mark_at = [], [], {}
        mark = 0
        for i, e in enumerate(self.entries):
            if e.flags & FLUSH and not e.size:
                self.flushes.append(i)
            if self.is_mark(e):
                mark = struct.unpack_from('<8sQ', self.bytes, e.data)[1]
                self.mark_at[mark] = i
            self.marks.append(mark)

    def is_mark(self, e):
        return e.at == self.device.MARK_AT and e.size

    # ---- which moments ----

    def flush_before(self, i):
        """The last flush before the entry i."""
        n = bisect.bisect_left(self.flushes, i)
        return self.flushes[n - 1] if n else 0

    def flush_after(self, i):
        n = bisect.bisect_right(self.flushes, i)
        return self.flushes[n] if n < len(self.flushes) else len(self.entries) - 1

    def from_first(self):
        return [f for f in self.flushes if self.marks[f] >= 1]

    def losable(self):
        """Those with something behind them that can be lost."""
        return [f for f in self.from_first() if self.flush_after(f) > f]

    def at_flush(self, f):
        return Crash('flush', f + 1, f + 1, self.marks[f])

    def at_mark(self, n):
        """The worst at the moment of a mark: nothing since the last flush but the marks."""
        i = self.mark_at[n]
        return Crash('mark', self.flush_before(i) + 1, i + 1, n)

    def lossy(self, f, dice):
        """At a moment somewhere before the next flush, with some of what was written by then."""
        last = self.flush_after(f)
        end = dice.randint(f + 1, last)
        return Crash('lossy', f + 1, end, self.marks[end - 1], dice.randrange(1 << 30))

    # ---- the device at a moment ----

    def clone(self, a, b):
        with open(a, 'rb') as x, open(b, 'wb') as y:
            fcntl.ioctl(y, FICLONE, x.fileno())

    def keep(self, n):
        self.kept[n] = os.path.join(self.work, f'kept{n}')
        self.clone(self.image, self.kept[n])

    def apply(self, fd, e, pieces=None):
        if pieces is None:
            if e.size:
                os.pwrite(fd, self.bytes[e.data:e.data + e.size], e.at)
            return
        for at, n in pieces:
            os.pwrite(fd, self.bytes[e.data + at:e.data + at + n], e.at + at)

    def forward(self, n):
        if self.at > n:
            self.at = max(k for k in self.kept if k <= n)
            self.clone(self.kept[self.at], self.image)
        fd = os.open(self.image, os.O_WRONLY)
        for i in range(self.at, n):
            self.apply(fd, self.entries[i])
            if i % 500 == 499 and i + 1 not in self.kept:
                self.keep(i + 1)
        os.close(fd)
        self.at = n

    def pieces(self, e):
        """(offset in it, size), cut where the device's pieces end."""
        at, found = 0, []
        while at < e.size:
            n = min(PIECE - (e.at + at) % PIECE, e.size - at)
            found.append((at, n))
            at += n
        return found

    def make(self, crash):
        self.forward(crash.whole)
        self.clone(self.image, self.copy)
        fd = os.open(self.copy, os.O_WRONLY)
        dice = random.Random(crash.seed)
        share = dice.choice((0.1, 0.5, 0.9))
        for e in self.entries[crash.whole:crash.end]:
            if self.is_mark(e):
                self.apply(fd, e)
            elif crash.seed is not None and e.size and dice.random() < share:
                torn = e.size > PIECE and dice.random() < 0.3
                self.apply(fd, e, [p for p in self.pieces(e) if dice.random() < share] if torn else None)
        os.close(fd)

    @contextlib.contextmanager
    def mounted(self, crash):
        self.make(crash)
        try:
            for (offset, size), folder in zip(self.device.PARTS, self.device.mounts):
                mount(self.copy, folder, offset, size, self.device.kind)
            yield
        finally:
            for folder in self.device.mounts:
                if os.path.ismount(folder):
                    unmount(folder)


# ---- a disk's content, read by ourselves ----

class Qcow2:
    """Plain ones: no compression, no encryption, no data file."""

    def __init__(self, path):
        self.f = open(path, 'rb')
        h = self.f.read(104)
        magic, self.version, name_at, name_size, bits, self.size, _, l1_size, l1_at = \
            struct.unpack_from('>4sIQIIQIIQ', h)
        assert magic == b'QFI\xfb', f'{path}: no qcow2'
        assert not struct.unpack_from('>Q', h, 72)[0] & ~3, f'{path}: a feature that is not ours'
        self.bits = bits
        self.backing = ''
        if name_at:
            self.f.seek(name_at)
            self.backing = self.f.read(name_size).decode()
        self.f.seek(l1_at)
        self.l1 = struct.unpack(f'>{l1_size}Q', self.f.read(8 * l1_size))

    def clusters(self):
        """index -> offset of its data; 0: zeros."""
        per, found = 1 << (self.bits - 3), {}
        for i, e in enumerate(self.l1):
            table = e & 0x00fffffffffffe00
            if not table:
                continue
            self.f.seek(table)
            for k, x in enumerate(struct.unpack(f'>{per}Q', self.f.read(8 * per))):
                assert not x >> 62 & 1, 'a compressed cluster'
                at = x & 0x00fffffffffffe00
                if x & 1:
                    found[i * per + k] = 0
                elif at:
                    found[i * per + k] = at
        return found

    def show(self, into):
        size = 1 << self.bits
        for n, at in self.clusters().items():
            room = min(size, len(into) - n * size)
            if room <= 0:
                continue
            self.f.seek(at)
            data = self.f.read(room) if at else b''
            into[n * size:n * size + room] = data.ljust(room, b'\0')

    def close(self):
        self.f.close()


def chain(folder, name):
    """The layers, the top first, by what their headers say."""
    layers = []
    while name:
        assert len(layers) < 100, 'layers that run in a circle'
        layers.append(Qcow2(os.path.join(folder, name)))
        name = layers[-1].backing
    return layers


def content(folder, name):
    layers = chain(folder, name)
    shown = bytearray(layers[0].size)
    for layer in reversed(layers):
        # What a layer below shows ends where that layer does.
        if len(shown) > layer.size:
            part = bytearray(layer.size)
            part[:] = shown[:layer.size]
            layer.show(part)
            shown[:layer.size] = part
        else:
            layer.show(shown)
        layer.close()
    return bytes(shown)
