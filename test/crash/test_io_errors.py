#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each call of an operation that changes a file fails in turn, with EIO or ENOSPC, once or from then on.  The
operation does all the same what it should, or fails and says that the storage is at fault; nothing half done stays,
no other disk changes, and the daemon goes on.  A part of the calls is drawn; ALL=1: each one.  POINTS, SEED and
ONLY (names of operations) may be given in the environment; the seed is printed.

COMMITS=1: all, but of the calls between two fsyncs the first only, in one of the ways, with the fsync in the next
way: SQLite takes a transaction back whole, whichever of its writes fails.  Seeds 0 to 3 together: each way."""
import errno, os, random, struct, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from faulty import Faulty
from layers import MIB, World

ALL, POINTS = 'ALL' in os.environ, int(os.environ.get('POINTS', '6'))
COMMITS = 'COMMITS' in os.environ
ONLY = os.environ.get('ONLY', '').split()
TELLS = r'SR_BACKEND_FAILURE_\d+|Input/output error|No space left|insufficient space|disk I/O error'
SIZE = 4                # MiB of a disk
KINDS = [(errno.EIO, False), (errno.EIO, True), (errno.ENOSPC, False), (errno.ENOSPC, True)]


class Work:
    """A daemon with an SR, and what stands in it and must not change."""

    def __init__(self, fs, state=None):
        self.fs = fs
        self.d = d = Daemon('fake', state=state)
        self.sr = d.sr() if state else fs.sr(d)
        self.folder = os.path.join(state, 'sr') if state else fs.folder
        self.w = w = World(d, self.sr, self.folder, SIZE)
        vm = w.vm('standing')
        w.write(vm, 0)
        w.snap(vm, (1, 1))
        w.snap(vm, (2, 1))
        self.known = set(d.list('vm') + d.list('snapshot') + d.list('vdi', sr_uuid=self.sr))
        self.disk, self.standing = w.disk(vm), dict(w.raw)
        self.images = os.path.join(d.state, 'images') if not state else os.path.join(fs.own, 'images')
        self.make_images()

    def make_images(self):
        os.mkdir(self.images)
        raw = self.image('raw')
        with open(raw, 'wb') as f:
            f.write(random.Random(1).randbytes(MIB // 8))
            f.truncate(SIZE * MIB)
        for form, driver in (('qcow2', 'qcow2'), ('vhd', 'vpc')):
            subprocess.run(['qemu-img', 'convert', '-O', driver, raw, self.image(form)], check=True)

    def image(self, form):
        return os.path.join(self.images, f'i.{form}')

    def export(self, vdi):
        path = os.path.join(self.images, 'out')
        if os.path.exists(path):
            os.unlink(path)
        self.d.xe('vdi-export', uuid=vdi, filename=path)
        with open(path, 'rb') as f:
            return f.read()

    def shows(self, vdi, path):
        """The disk shows what the file does, and zeros behind it."""
        with open(path, 'rb') as f:
            wanted = f.read()
        found = self.export(vdi)
        assert found[:len(wanted)].ljust(len(wanted), b'\0') == wanted and not any(found[len(wanted):]), \
            'a false success: the content is wrong'

    def right(self):
        self.d.check()
        status, out, err = self.d.run('sr-check', uuid=self.sr)
        assert status == 0, f'sr-check: {out}{err}'
        self.w.right(by_xe=False)
        self.shows(self.disk, self.w.raw[self.disk])

    def clear(self):
        """All goes that an operation made, or needed."""
        d = self.d
        self.w.raw = dict(self.standing)
        for vm in set(d.list('vm')) - self.known:
            d.xe('vm-uninstall', '--force', uuid=vm)
        for snap in set(d.list('snapshot')) - self.known:
            d.xe('snapshot-uninstall', '--force', uuid=snap)
        for vdi in set(d.list('vdi', sr_uuid=self.sr, managed='true')) - self.known:
            d.xe('vdi-destroy', uuid=vdi)
        d.wait_quiet()

    def end(self):
        self.d.end()


# ---- the operations: what each needs, the deed, and what is right after it; a deed that failed is thrown in ----

def vdi_create(k):
    vdi = yield lambda: k.d.vdi(f'{SIZE}MiB', sr=k.sr)
    assert not any(k.export(vdi))


def vdi_create_raw(k):
    vdi = yield lambda: k.d.xe('vdi-create', 'sm-config:type=raw', sr_uuid=k.sr, name_label='raw',
                               virtual_size=f'{SIZE}MiB')
    assert not any(k.export(vdi))


def imports(form):
    def vdi_import(k):
        vdi = k.d.vdi(f'{2 * SIZE}MiB', sr=k.sr)
        yield lambda: k.d.xe('vdi-import', uuid=vdi, filename=k.image(form), format=form)
        k.shows(vdi, k.image('raw'))
    vdi_import.__name__ = f'vdi_import_{form}'
    return vdi_import


def vdi_copy(k):
    copy = yield lambda: k.d.xe('vdi-copy', uuid=k.disk)
    k.shows(copy, k.w.raw[k.disk])


def with_disk(k):
    vm = k.w.vm('worked on')
    k.w.write(vm, 1)
    return vm, k.w.disk(vm)


def vdi_clone(k):
    vm, disk = with_disk(k)
    clone = yield lambda: k.d.xe('vdi-clone', uuid=disk)
    k.shows(clone, k.w.raw[disk])


def vdi_snapshot(k):
    vm, disk = with_disk(k)
    snap = yield lambda: k.d.xe('vdi-snapshot', uuid=disk)
    k.shows(snap, k.w.raw[disk])


def vdi_resize(k):
    vm, disk = with_disk(k)
    sizes = [2 * SIZE]
    try:
        yield lambda: k.d.xe('vdi-resize', uuid=disk, disk_size=f'{2 * SIZE}MiB')
    except Failed:
        sizes.append(SIZE)          # it may have grown before that could not be recorded: nothing shrinks it
    assert int(k.d.get('vdi', disk, 'virtual-size')) in [s * MIB for s in sizes], 'the size is wrong'
    k.shows(disk, k.w.raw[disk])
    del k.w.raw[disk]               # qemu-img would miss what is new


def vm_snapshot(k):
    vm, disk = with_disk(k)
    snap = yield lambda: k.d.snapshot(vm)
    k.shows(k.w.disk(snap), k.w.raw[disk])


def snapshot_revert(k):
    vm, disk = with_disk(k)
    snap = k.w.snap(vm, (1, 2))
    yield lambda: k.d.xe('snapshot-revert', uuid=snap)
    k.shows(k.w.disk(vm), k.w.raw[k.w.disk(snap)])
    k.w.raw.pop(disk)


def snapshot_uninstall(k):
    """With the merge after it, which goes on by itself."""
    vm, disk = with_disk(k)
    snaps = [k.w.snap(vm, (n, 1)) for n in range(3)]

    def deed():
        k.w.delete(snaps[1])
        end = time.time() + 1.5
        while time.time() < end and not quiet(k.d):
            time.sleep(0.02)
    yield deed
    k.d.wait_quiet()
    below = k.d.sql(f"SELECT parent_location FROM VDI WHERE uuid = '{disk}'")[0]
    assert k.d.sql(f"SELECT managed FROM VDI WHERE location = '{below}'") == ['true'], 'the layers were not merged'


def quiet(d):
    try:
        d.wait_quiet(0)
        return True
    except AssertionError:
        return False


def sr_check_repair(k):
    vm, disk = with_disk(k)
    with open(k.w.file_of(disk), 'r+b') as f:           # its first table of blocks loses one
        at = 40
        for mask in ((1 << 56) - 1, (1 << 56) - 1):
            f.seek(at)
            at = struct.unpack('>Q', f.read(8))[0] & mask
        at += MIB // 65536 * 8
        f.seek(at)
        f.write(bytes(8))
    with open(k.w.raw[disk], 'r+b') as f:
        f.seek(MIB)
        f.write(bytes(65536))
    status, out, err = yield lambda: k.d.run('sr-check', uuid=k.sr)
    assert 'Repaired.' in out or status == 1, f'nothing was found: {out}{err}'
    again = k.d.run('sr-check', uuid=k.sr)[1]           # what it says it has done is done; it may have done more
    assert not ('Repaired.' in out and 'Repaired.' in again), f'a false success: {out}{again}'


def new_place(k, name):
    place = os.path.join(k.fs.folder, name)
    os.makedirs(place, exist_ok=True)
    return lambda: k.d.xe('sr-create', name_label='new', type='file', **{'device-config:location': place}), place


def sr_create(k):
    create, place = new_place(k, f'new-{time.time()}')
    try:
        sr = yield create
        # What was tried on the place may have stayed, and is removed when it is attached next.
        assert [f for f in os.listdir(place) if f[0] != '.'] == ['sr-uuid']
    except Failed:
        assert not k.d.list('sr', name_label='new')
        sr = create()
    k.d.xe('sr-destroy', uuid=sr)


def sr_destroy(k):
    create, place = new_place(k, f'old-{time.time()}')
    sr = create()
    try:
        yield lambda: k.d.xe('sr-destroy', uuid=sr)
    except Failed:
        k.d.xe('sr-destroy', uuid=sr)
    assert not k.d.list('sr', name_label='new') and 'sr-uuid' not in os.listdir(place)


def pbd_plug(k):
    """Of an SR that was unplugged: its mark names nobody, and then us; without room for that it stays as it is, and is
    locked all the same."""
    create, place = new_place(k, f'plugged-{time.time()}')
    sr = create()
    pbd, = k.d.list('pbd', sr_uuid=sr)
    k.d.xe('pbd-unplug', uuid=pbd)
    try:
        yield lambda: k.d.xe('pbd-plug', uuid=pbd)
    except Failed:
        assert k.d.get('pbd', pbd, 'currently-attached') == 'false'
        k.d.xe('pbd-plug', uuid=pbd)
    with open(os.path.join(place, 'sr-uuid')) as f:
        owners = [line.split()[1] for line in f.read().splitlines() if line.startswith('owner ')]
    assert owners in ([], k.d.list('host'))
    k.d.xe('sr-destroy', uuid=sr)


def pbd_unplug(k):
    """A storage that does not work is let go of all the same."""
    create, place = new_place(k, f'unplugged-{time.time()}')
    sr = create()
    pbd, = k.d.list('pbd', sr_uuid=sr)
    yield lambda: k.d.xe('pbd-unplug', uuid=pbd)
    assert k.d.get('pbd', pbd, 'currently-attached') == 'false'
    k.d.xe('pbd-plug', uuid=pbd)
    k.d.xe('sr-destroy', uuid=sr)


OPERATIONS = [vdi_create, vdi_create_raw, imports('raw'), imports('qcow2'), imports('vhd'), vdi_copy, vdi_clone,
              vdi_snapshot, vdi_resize, vm_snapshot, snapshot_revert, snapshot_uninstall, sr_check_repair, sr_create,
              sr_destroy, pbd_plug, pbd_unplug]


# ---- one fault ----

class Tally:
    def __init__(self):
        self.points, self.failed, self.succeeded, self.late, self.wrong = 0, 0, 0, 0, []


def clean(k, operation, name):
    """How many calls it takes, and which of them are fsyncs."""
    g = operation(k)
    deed = next(g)
    k.fs.fail(0, name=name)
    result = deed()
    k.d.wait_quiet()
    n, syncs = k.fs.count(), k.fs.syncs()
    finish(g, result, None)
    k.clear()
    return n, syncs


def points(n, syncs, kinds):
    if not COMMITS:
        return [(i, *kind) for i in range(1, n + 1) for kind in kinds]
    calls = sorted({1, *syncs, *(i + 1 for i in syncs if i < n)})
    return [(i, *kinds[(SEED + at) % len(kinds)]) for at, i in enumerate(calls)]


def finish(g, result, error):
    try:
        g.throw(error) if error else g.send(result)
    except StopIteration:
        pass
    except Failed as e:
        if e is not error:
            raise


def one_fault(k, operation, name, n, error, sticky, tally, restart):
    g = operation(k)
    deed = next(g)
    k.fs.fail(n, error, sticky, name)
    result = failed = None
    try:
        result = deed()
    except Failed as e:
        failed = e
        assert re.search(TELLS, e.err), f'the storage is not named: {e.err}'
    finally:
        k.fs.fail(0)
    assert k.d.process.poll() is None, 'the daemon ended'
    tally.failed += failed is not None
    tally.succeeded += failed is None
    begin = time.time()
    k.d.wait_quiet(70)
    tally.late += time.time() - begin > 1
    if restart:
        k.d.restart()
    finish(g, result, failed)
    k.right()
    k.clear()


def campaign(k, name, kinds, restart=False):
    dice, total = random.Random(SEED), Tally()
    todo, counts = [], {}
    for operation in OPERATIONS:
        if not ONLY or operation.__name__ in ONLY:
            counts[operation], syncs = clean(k, operation, name)
            todo += [(operation, *p) for p in points(counts[operation], syncs, kinds)]
    k.right()
    print('  calls:', ', '.join(f'{o.__name__} {n}' for o, n in counts.items()), flush=True)
    for operation, n, error, sticky in todo if ALL or COMMITS else sorted(
            drawn(dice, todo), key=lambda x: OPERATIONS.index(x[0])):
        what = f'{operation.__name__}, call {n}, {errno.errorcode[error]}{" from then on" if sticky else ""}'
        if 'VERBOSE' in os.environ:
            print('   ', what, flush=True)
        total.points += 1
        try:
            one_fault(k, operation, name, n, error, sticky, total, restart)
        except Exception as e:
            if not isinstance(e, (AssertionError, Failed, subprocess.TimeoutExpired)) or 'STOP' in os.environ:
                raise
            total.wrong.append(f'{what}: {e}'[:1500])
            print('  WRONG', total.wrong[-1], flush=True)
            if not recover(k):
                break
    print(f'  {len(counts)} operations, {total.points} points of {len(todo)}: {total.failed} failed and said why, '
          f'{total.succeeded} succeeded all the same, {total.late} were in order by themselves after more than a '
          f'second; {len(total.wrong)} wrong')
    assert not total.wrong, '\n'.join(total.wrong)


def recover(k):
    try:
        k.fs.fail(0)
        if k.d.process.poll() is None:
            k.d.stop()
        k.d.start()
        k.clear()
        k.right()
        return True
    except Exception as e:
        print(f'  and a restart does not help: {e}'[:1500])
        return False


def drawn(dice, todo):
    """Evenly: one of each stretch."""
    step = max(1, len(todo) / POINTS)
    at = dice.random() * step
    while at < len(todo):
        yield todo[int(at)]
        at += step


def test_storage():
    with Faulty() as fs:
        k = Work(fs)
        try:
            campaign(k, '', KINDS)
        finally:
            k.end()


def test_database():
    """The records fail: what was acknowledged is there after a restart."""
    with Faulty() as fs:
        state = os.path.join(fs.folder, 'state')
        os.mkdir(state)
        k = Work(fs, state)
        try:
            campaign(k, 'state.db', KINDS, restart=True)
        finally:
            k.end()


main(globals())
