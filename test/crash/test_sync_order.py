#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each wait for the disk (base/sync.def) is where it has to be, by the order of the daemon's own calls: strace tells
who wrote which file, who waited for it, and what was made known after that.  What other programs and file
systems flush on their own does not count here, as it does in test_power.py.

MUTATE=1  each wait is left out in turn, and a rule has to be broken for it; or a NAME of one, or some with commas
KEEP=1    the last trace of each file system stays as /tmp/sync-order-KIND
"""
import collections, concurrent.futures, math, os, re, shutil, struct, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

# What must have been waited for by the daemon itself, and by when; and the places that do.
#
# "Told": the same thread writes to the database or to a socket.  A thread does one operation, so that is the record
# that relies on it, or the answer.
RULES = {
    'content before name': 'VOLUME_CONTENT FILE_CONTENT',       # of a file that takes another's name, when it does
    'name before told': 'VOLUME_NAME FILE_NAME',                # the folder of one that took its name
    'gone before told': 'VOLUME_GONE FILE_GONE CHECK_DISCARDED',    # the folder of one that was deleted
    # Volumes that a program of the thread's has written in place, when the thread knows that it has ended: until then
    # the thread tells how far it is.
    'written before told': 'VOLUME_LINK VOLUME_WRITTEN MERGED_DOWN CHECK_REPAIRED',
    # Volumes that a QEMU has written, before it shows them, before the record of a merge, and when a size is told.
    'written before finalized': 'STREAM_DATA VOLUME_WRITTEN',
    'written before recorded': 'VOLUME_WRITTEN',
    'resized before told': 'VOLUME_WRITTEN',
    'memory before header': 'MEMORY_IMAGE',                     # what makes an image of it
    'header before told': 'VOLUME_WRITTEN',
    'committed before told': 'DATABASE',                        # the log of the database, before any answer
    'found before told': 'DATABASE_FOUND',                      # ... as it is when it is opened first
}

CALLS = ('openat,open,creat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,fallocate,copy_file_range,fsync,fdatasync,'
         'rename,renameat,renameat2,link,linkat,unlink,unlinkat,sendto,sendmsg,clone,clone3,fork,vfork,execve,wait4')
VOLUME = re.compile(r'.*/[0-9a-f]{24}\.(qcow2|raw)')
LOG = 'state.db-wal'


# ---- what was traced ----

class Event:
    """begin, end: lines, between which it was under way."""
    __slots__ = ('tid', 'call', 'args', 'result', 'begin', 'end')

    def __init__(self, tid, call, args, result, begin, end):
        self.tid, self.call, self.args, self.result, self.begin, self.end = tid, call, args, result, begin, end

    def files(self):
        """Of its descriptors."""
        return re.findall(r'(?:^|[ (=])\d+<([^>]*)>', self.args)

    def paths(self):
        """The files that it names, with their folders."""
        words = re.findall(r'(?:(?:AT_FDCWD|\d+)(?:<([^>]*)>)?, )?"((?:[^"\\]|\\.)*)"', self.args)
        return [os.path.normpath(os.path.join(folder or '/', name)) for folder, name in words]


def events(path):
    """In the order of their ends.  A call that fails is none; the end of a process is."""
    begun = {}
    with open(path, errors='replace') as f:
        for n, line in enumerate(f):
            tid, rest = line.rstrip('\n').split(None, 1)
            tid = int(tid)
            if rest.startswith('+++ '):
                yield Event(tid, 'exit', rest, '', n, n)
                continue
            begin = n
            if rest.endswith('<unfinished ...>'):
                begun[tid] = n, rest[:-len('<unfinished ...>')]
                continue
            m = re.match(r'<\.\.\. \w+ resumed>(.*)', rest)
            if m and tid in begun:
                begin, head = begun.pop(tid)
                rest = head + m[1]
            m = re.match(r'(\w+)\((.*)\)\s+= (\d+)', rest)
            if m:
                yield Event(tid, m[1], m[2], m[3], begin, n)


class Process:
    """The daemon, or a program that it or another program has started."""

    def __init__(self, pid, parent):
        self.pid, self.parent, self.name, self.wrote = pid, parent, '', set()

    def is_guest(self):
        return 'qemu-system' in self.name


class Order:
    """Follows a trace of the daemon, and collects what breaks a rule."""

    def __init__(self, folders):
        self.folders = folders          # what lies elsewhere is nobody's business here
        self.written, self.synced = {}, {}      # path -> the line at which that was done
        self.daemon = None
        self.process = {}               # tid -> the Process that it is a thread of
        self.over = {}                  # pid -> the Process that has ended, which nobody has waited for yet
        self.owed = collections.defaultdict(dict)       # thread -> (rule, path) -> since which line
        self.early = collections.defaultdict(list)      # events of threads whose parent's call has not returned yet
        self.resizing = set()           # threads that have told a QEMU to
        self.recorded = {}              # thread -> the line at which it last wrote to the database
        self.found_log = False
        self.held, self.broken = collections.Counter(), []

    def read(self, path):
        for e in events(path):
            if self.daemon is None:
                self.daemon = self.process[e.tid] = Process(e.tid, None)
            if e.tid in self.process:
                self.one(e)
            else:
                self.early[e.tid].append(e)
        return self

    def is_ours(self, e):
        return self.process[e.tid] is self.daemon

    def one(self, e):
        for calls, do in STEPS:
            if e.call in calls:
                do(self, e)

    def known(self, path):
        return path.startswith(self.folders)

    # ---- processes ----

    def fork(self, e):
        child, parent = int(e.result), self.process[e.tid]
        if 'CLONE_THREAD' in e.args:
            self.process[child] = parent
        else:
            self.process[child] = Process(child, parent)
        for early in self.early.pop(child, ()):
            self.one(early)

    def execute(self, e):
        self.process[e.tid].name = e.paths()[0]

    def exit(self, e):
        p = self.process.pop(e.tid)
        if p is self.daemon:
            for (rule, path), since in self.owed.pop(e.tid, {}).items():
                self.judge(rule, path, since)
        elif p not in self.process.values() and not p.is_guest():
            self.over[p.pid] = p
            p.parent.wrote |= p.wrote if p.parent is not self.daemon else set()

    def waited(self, e):
        p = self.over.pop(int(e.result), None)
        for path in p.wrote & set(self.written) if p and self.is_ours(e) else ():
            self.owe(e.tid, 'written before told', path, self.written[path])

    # ---- files ----

    def open(self, e):
        path = e.paths()[0]
        if os.path.basename(path) == LOG and self.is_ours(e) and not self.found_log:
            self.found_log = True
            if 'O_CREAT' not in e.args:         # else it is SQLite that opens it, and nobody has looked at it before
                self.owe(e.tid, 'found before told', path, e.begin)
        if 'O_TRUNC' in e.args or 'O_CREAT' in e.args:
            for path in e.paths():
                self.wrote(e, path)

    def write(self, e):
        for path in e.files()[-1 if e.call == 'copy_file_range' else 0:][:1]:
            self.wrote(e, path)

    def wrote(self, e, path):
        if not self.known(path):
            return
        if e.call == 'pwrite64' and '"StillRAM' in e.args:
            self.judge('memory before header', path, self.written.get(path, -1))
            self.owe(e.tid, 'header before told', path, e.end)
        self.written[path] = e.end
        p = self.process[e.tid]
        if p is not self.daemon and VOLUME.fullmatch(path):
            p.wrote.add(path)
        if os.path.basename(path) == LOG and p is self.daemon and e.call == 'pwrite64':     # no room that is kept
            self.owe(e.tid, 'committed before told', path, e.end)

    def sync(self, e):
        if self.is_ours(e):
            for path in e.files():
                self.synced[path] = max(e.begin, self.synced.get(path, -1))

    def renamed(self, e):
        old, new = e.paths()
        if not self.is_ours(e) or not self.known(new):
            return
        self.judge('content before name', old, self.written.get(old, -1))
        for of in (self.written, self.synced):
            of.pop(new, None)
            if old in of:
                of[new] = of.pop(old)
        self.owe(e.tid, 'name before told', os.path.dirname(new), e.end)

    def linked(self, e):
        new = e.paths()[-1]
        if self.is_ours(e) and self.known(new):
            self.owe(e.tid, 'name before told', os.path.dirname(new), e.end)

    def unlinked(self, e):
        for path in e.paths():
            self.written.pop(path, None)
            if self.is_ours(e) and self.known(path) and (VOLUME.match(path) or path.endswith('/sr-uuid')):
                self.owe(e.tid, 'gone before told', os.path.dirname(path), e.end)

    # ---- rules ----

    def owe(self, tid, rule, path, since):
        self.owed[tid][rule, path] = since

    def judge(self, rule, path, since, before=math.inf):
        self.held[rule] += 1
        if not since < self.synced.get(path, -1) < before:
            self.broken.append((rule, f'{path}, written in line {since + 1} of the trace'))

    def judge_guests(self, rule, before=math.inf):
        wrote = set().union(*(p.wrote for p in set(self.process.values()) if p.is_guest()))
        for path in wrote & set(self.written):
            self.judge(rule, path, self.written[path], before)

    def tell(self, e):
        if not self.is_ours(e):
            return
        to = e.files()[0]
        is_log, is_socket = os.path.basename(to) == LOG, to.startswith(('socket:', 'UNIX', 'TCP'))
        if is_socket and 'job-finalize' in e.args:
            self.judge_guests('written before finalized')
        if is_socket and 'job-dismiss' in e.args:       # the record was the last thing before that
            self.judge_guests('written before recorded', self.recorded.get(e.tid, -1))
        if is_log and e.tid in self.resizing:
            self.resizing.discard(e.tid)
            self.judge_guests('resized before told')
        if is_socket and 'block_resize' in e.args:
            self.resizing.add(e.tid)
        if is_log:
            self.recorded[e.tid] = e.begin
        for (rule, path), since in list(self.owed[e.tid].items()):
            if is_socket or (is_log and rule != 'committed before told'):
                self.judge(rule, path, since)
                del self.owed[e.tid][rule, path]


STEPS = [
    ({'clone', 'clone3', 'fork', 'vfork'}, Order.fork),
    ({'execve'}, Order.execute),
    ({'exit'}, Order.exit),
    ({'wait4'}, Order.waited),
    ({'write', 'pwrite64', 'sendto', 'sendmsg'}, Order.tell),
    ({'open', 'openat', 'creat'}, Order.open),
    ({'write', 'writev', 'pwrite64', 'pwritev', 'pwritev2', 'ftruncate', 'fallocate', 'copy_file_range'}, Order.write),
    ({'fsync', 'fdatasync'}, Order.sync),
    ({'rename', 'renameat', 'renameat2'}, Order.renamed),
    ({'link', 'linkat'}, Order.linked),
    ({'unlink', 'unlinkat'}, Order.unlinked),
]


# ---- work ----

def path(d, disk):
    return os.path.join(d.place, d.get('vdi', disk, 'location') + '.qcow2')


def write(d, disk, at=0, mib=1):
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', f'write {at}M {mib}M', path(d, disk)], check=True,
                   stdout=subprocess.DEVNULL)


def chain(d, disk, *mib):
    """Snapshots of the disk, with so much in each, which no layer above hides; and a little in the disk."""
    snaps, at = [], 0
    for n in mib:
        write(d, disk, at, n)
        snaps.append(d.xe('vdi-snapshot', uuid=disk))
        at += n
    write(d, disk, at)
    return snaps


def settle(d):
    """Until all is merged."""
    end = time.time() + 60
    while d.sql("SELECT 1 FROM VDI WHERE managed = 'false'"):
        assert time.time() < end, d.log()[-3000:]
        time.sleep(0.02)
    d.wait_quiet()


def delete(d, snap):
    d.xe('vdi-destroy', uuid=snap)
    settle(d)


def files(d):
    """An SR that comes and goes."""
    place = d.folder_for('other')
    sr = d.xe('sr-create', name_label='other', type='file', **{'device-config:location': place})
    d.xe('pbd-unplug', uuid=d.list('pbd', sr_uuid=sr)[0])
    d.xe('sr-destroy', uuid=sr)


def volumes(d):
    disk = d.vdi('8MiB', sr=d.place_sr)
    d.xe('vdi-create', sr_uuid=d.place_sr, name_label='raw', virtual_size='8MiB', **{'sm-config:type': 'raw'})
    image = os.path.join(d.state, 'image')
    with open(image, 'wb') as f:
        f.write(os.urandom(4 << 20))
    d.xe('vdi-import', uuid=disk, filename=image)
    copy = d.xe('vdi-copy', uuid=disk)
    d.xe('vdi-resize', uuid=disk, disk_size='16MiB')
    d.xe('vdi-destroy', uuid=copy)
    d.wait_quiet()


def layers(d):
    """Down."""
    disk = d.vdi('32MiB', sr=d.place_sr)
    snaps = chain(d, disk, 1, 1, 1)
    delete(d, snaps[1])
    delete(d, snaps[2])


def clones(d):
    """A snapshot gets a clone, and what that leaves goes up into a larger layer.  Both came with their files, since
    nothing that is made here stays a layer for long."""
    below, layer = ('b' * 24 + '.qcow2', 'c' * 24 + '.qcow2')
    for name, mib, over in ((below, 1, ()), (layer, 8, ('-u', '-F', 'qcow2', '-b', below))):
        file = os.path.join(d.place, name)
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', *over, file, '32M'], check=True)
        subprocess.run(['qemu-io', '-f', 'qcow2', '-c', f'write {mib}M {mib}M', file], check=True,
                       stdout=subprocess.DEVNULL)
    d.xe('sr-scan', uuid=d.place_sr)
    d.xe('vdi-snapshot', uuid=d.list('vdi', location='c' * 24)[0])
    settle(d)


def check(d):
    """A leak, and what a create has left."""
    disk = d.vdi('8MiB', sr=d.place_sr)
    write(d, disk)
    with open(path(d, disk), 'r+b') as f:
        f.seek(40)
        table = struct.unpack('>Q', f.read(8))[0]
        f.seek(table)
        f.seek(struct.unpack('>Q', f.read(8))[0] & ~(1 << 63))
        f.write(bytes(8))
    left = os.path.join(d.place, 'a' * 24 + '.qcow2.new')
    with open(left, 'wb'):
        pass
    os.utime(left, (1e9, 1e9))
    d.run('sr-check', uuid=d.place_sr)
    assert not os.path.exists(left) and ' 0 problems' in d.xe('sr-check', uuid=d.place_sr)


def running(d):
    """Up below the top, down below another layer, down from the top, by a QEMU without a guest."""
    disk = d.vdi('32MiB', sr=d.place_sr)
    snaps = chain(d, disk, 1, 1, 8, 1, 1)
    vm = d.vm('vm', memory='64MiB')
    d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=0)
    d.xe('vm-start', uuid=vm)
    d.xe('vdi-resize', uuid=disk, disk_size='64MiB')
    for snap in (snaps[1], snaps[2], snaps[4]):
        delete(d, snap)
    d.xe('vm-shutdown', '--force', uuid=vm)


def memory(d):
    vm = d.vm('memory', memory='64MiB')
    d.xe('vm-param-set', f'suspend-SR-uuid={d.place_sr}', uuid=vm)
    d.xe('vm-start', uuid=vm)
    snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
    d.xe('snapshot-revert', uuid=snap)          # its memory gets a second name
    d.xe('vm-shutdown', '--force', uuid=vm)


# On which file system what is done, and the places that it has to show.
WORK = [
    ('ext4', files, 'FILE_CONTENT FILE_NAME FILE_GONE DATABASE DATABASE_FOUND'),
    ('ext4', volumes, 'VOLUME_CONTENT VOLUME_NAME VOLUME_GONE VOLUME_WRITTEN'),
    ('ext4', layers, 'VOLUME_LINK MERGED_DOWN'),
    ('ext4', check, 'CHECK_REPAIRED CHECK_DISCARDED'),
    ('ext4', running, 'STREAM_DATA VOLUME_WRITTEN'),
    ('ext4', memory, 'MEMORY_IMAGE VOLUME_WRITTEN VOLUME_NAME'),
    ('xfs', clones, 'VOLUME_CONTENT'),
]


def sites():
    with open(os.path.join(TOP, 'src/base/sync.def')) as f:
        return re.findall(r'^SYNC\((\w+), ', f.read(), re.M)


def wait_written(trace, pid):
    """Until strace has written the daemon's last line."""
    end = time.time() + 20
    while True:
        with open(trace, errors='replace') as f:
            if re.search(rf'^{pid} +\+\+\+ ', f.read(), re.M):
                return
        assert time.time() < end, 'strace does not end'
        time.sleep(0.05)


def order_of(kind, work, skip=None):
    """What the daemon did on that file system, as an Order, and which merges."""
    with FileSystem(kind, 400) as fs, Daemon() as d:
        d.stop()                                # it leaves a log of the database
        trace = os.path.join(d.state, 'trace')
        d.env = {'STILLFRAME_SKIP_SYNC': skip} if skip else {}
        d.under = [shutil.which('strace'), '-D', '-f', '--seccomp-bpf', '-y', '-s', '100', '-e', f'trace={CALLS}',
                   '-e', 'signal=none', '-o', trace]
        d.start()
        pid = d.process.pid
        d.place, d.place_sr = fs.folder, fs.sr(d)
        for do in work:
            do(d)
        d.wait_quiet()
        d.stop()
        wait_written(trace, pid)
        if 'KEEP' in os.environ:
            shutil.copy(trace, f'/tmp/sync-order-{kind}')
        order = Order((d.state + '/', fs.folder + '/')).read(trace)
        order.steps = collections.Counter(f'{what} {"offline" if vm == "-" else "running"}' for what, vm in re.findall(
            r'layers (merged down|merged|frozen|split|detached) .*vm=(\S)', d.log()))
        return order


def need_strace():
    if SLOW != 1:
        raise Skip('sanitizers do not work under strace')
    if not shutil.which('strace'):
        raise Skip('strace is not installed')
    p = subprocess.run(['strace', '-f', '--seccomp-bpf', '-o', '/dev/null', 'true'], capture_output=True)
    if p.returncode:
        raise Skip('strace does not work here: ' + p.stderr.decode())


def test_each_place_has_a_rule():
    names = set(sites())
    assert names == set(' '.join(RULES.values()).split()), 'a place without a rule, or a rule without a place'
    assert names == set(' '.join(shown for *_, shown in WORK).split()), 'a place that no work comes to'


def test_nothing_is_told_too_early():
    need_strace()
    held, steps = collections.Counter(), collections.Counter()
    for kind in ('ext4', 'xfs'):
        begin = time.time()
        order = order_of(kind, [do for on, do, _ in WORK if on == kind])
        print(f'  {kind} ({time.time() - begin:.1f} s): {dict(order.held)} {dict(order.steps)}', flush=True)
        assert not order.broken, f'{kind}: {order.broken}'
        held += order.held
        steps += order.steps
    assert set(held) == set(RULES), f'rules that nothing was held to: {set(RULES) - set(held)}'
    assert {'merged running', 'merged down running', 'merged offline', 'merged down offline', 'split offline'} <= \
        set(steps), steps


def is_missed(name, kind, do):
    """By its rules, and by no other."""
    broken = collections.Counter(rule for rule, _ in order_of(kind, [do], name).broken)
    print(f'  without {name}, {do.__name__} on {kind}: {dict(broken)}', flush=True)
    return bool(broken) and all(name in RULES[rule].split() for rule in broken)


def test_each_place_is_missed():
    need_strace()
    chosen = os.environ.get('MUTATE', '')
    if not chosen:
        raise Skip('set MUTATE=1: it takes a minute')
    names = sites() if chosen == '1' else chosen.split(',')
    mutants = [(name, kind, do) for name in names for kind, do, shown in WORK if name in shown.split()]
    with concurrent.futures.ThreadPoolExecutor(2) as two:
        missed = list(two.map(lambda m: is_missed(*m), mutants))
    wrong = [m[0] for m, is_good in zip(mutants, missed) if not is_good]
    assert mutants and not wrong, f'not missed, or by another rule: {wrong}'


main(globals())
