#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed (SIGKILL) at the points of an operation where the journal or the world
changes, at one after another, until the operation comes through.  Each time, after the next start, the
world is as before the operation or as after it: no stray volume, no stuck operation, and the
guest runs on, not having noticed.  EVERY=1 in the environment: at each point, not at a sixth of them."""
import json, os, re, socket, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from layers import *
from tpm import emulators


def world(d):
    """What a user sees; two worlds with equal values are the same."""
    vms = sorted((d.get('vm', v, 'name-label'), d.get('vm', v, 'is-a-snapshot'))
                 for v in d.sql('SELECT uuid FROM VM WHERE is_default_template = "false"'))
    return vms, len(d.sql('SELECT uuid FROM VDI WHERE managed = "true"')), len(d.sql('SELECT uuid FROM SR'))


def at_every_point(d, what, operation, after, prepare=lambda: None):
    """operation() is run with a kill at one point after another until it survives; after(before, now) says
    whether the world is one of the two that may be."""
    for n in dying_points():
        prepare()
        before = world(d)
        d.kill()
        d.start(env={'STILLFRAME_CRASH_AT': str(n)})
        try:
            operation()
            died = False
        except Failed:
            d.process.wait(30)
            assert d.process.returncode == -9, f'{what} failed by itself at point {n}: {d.log()[-2000:]}'
            died = True
        if not died:
            d.kill()            # it still has its point ahead
        d.start()
        d.check()
        now = world(d)
        assert now == before or after(before, now), f'{what}, point {n}: {before} became {now}'
        if not died:
            assert n > 2, f'{what} has no points'
            print(f'  {what}: survives point {n}')
            return


def more_vms(n, disks):
    return lambda before, now: len(now[0]) == len(before[0]) + n and now[1] == before[1] + disks


def test_snapshot_of_a_running_vm():
    with golden('two') as (d, vm, serial):
        boot = serial.fields('status')['boot']
        serial.ask('count start')
        at_every_point(d, 'snapshot', lambda: d.snapshot(vm), more_vms(1, 2))
        assert serial.fields('status')['boot'] == boot
        assert serial.fields('status')['a.errors'] == '0'
        d.snapshot(vm)
        d.check()


def test_revert_of_a_running_vm():
    with Daemon() as d:
        vm = d.vm(disks=2, memory='64MiB')
        d.xe('vm-start', uuid=vm)
        snap = d.snapshot(vm)

        def run_it():
            if d.state_of(vm) == 'halted':
                d.xe('vm-start', uuid=vm)
        at_every_point(d, 'revert', lambda: d.xe('snapshot-revert', uuid=snap),
                       lambda before, now: now == before, run_it)
        d.xe('vm-start', uuid=vm)
        assert d.state_of(vm) == 'running' and ' 0 problems' in d.xe('sr-check', uuid=d.sr())


def test_snapshot_and_clone_of_a_halted_vm():
    with Daemon() as d:
        vm = d.vm(disks=2)
        at_every_point(d, 'halted snapshot', lambda: d.snapshot(vm), more_vms(1, 2))
        at_every_point(d, 'clone', lambda: d.xe('vm-clone', uuid=vm, new_name_label='c'), more_vms(1, 2))
        snap = d.list('snapshot')[0]
        at_every_point(d, 'clone of a snapshot',
                       lambda: d.xe('snapshot-clone', uuid=snap, new_name_label='c'), more_vms(1, 2))


def test_destroy():
    with Daemon() as d:
        vm = d.vm(disks=2)
        snaps = []

        def prepare():
            snaps.append(d.snapshot(vm))
        gone = lambda before, now: len(now[0]) < len(before[0]) or now[1] < before[1]
        at_every_point(d, 'uninstall', lambda: d.xe('snapshot-uninstall', '--force', uuid=snaps[-1]),
                       gone, prepare)
        disk = []
        at_every_point(d, 'vdi-create', lambda: d.vdi(), lambda b, n: n[1] == b[1] + 1)
        at_every_point(d, 'vdi-destroy', lambda: d.xe('vdi-destroy', uuid=disk[-1]), gone,
                       lambda: disk.append(d.vdi()))


def test_install_and_copy():
    with Daemon('fake') as d:
        at_every_point(d, 'vm-install', lambda: d.xe('vm-install', template='Debian Bookworm 12', new_name_label='x'),
                       lambda b, n: more_vms(1, 1)(b, n) or half_installed(b, n))
        for v in d.list('vm') + [t for t in d.list('template', is_default_template='false')]:
            d.xe('vm-param-set', 'is-a-template=false', uuid=v)
            d.xe('vm-uninstall', '--force', uuid=v)
        vm = d.vm(disks=2)
        at_every_point(d, 'copy', lambda: d.xe('vm-copy', uuid=vm, new_name_label='c'), more_vms(1, 2))
        snap = d.snapshot(vm)
        at_every_point(d, 'copy of a snapshot',
                       lambda: d.xe('snapshot-copy', uuid=snap, new_name_label='c'), more_vms(1, 2))


def test_disks_by_themselves():
    """Of a VM that runs, and of one that does not; the fake VM knows which layer it writes, as a real one
    does."""
    with Daemon('fake') as d:
        running, halted = d.vm(disks=1), d.vm(disks=1)
        d.xe('vm-start', uuid=running)
        for vm, how in ((running, 'running'), (halted, 'halted')):
            disk = d.disks(vm)['0']
            for command in ('vdi-snapshot', 'vdi-clone'):
                at_every_point(d, f'{command}, {how}', lambda: d.xe(command, uuid=disk), more_vms(0, 1))
        at_every_point(d, 'vdi-copy', lambda: d.xe('vdi-copy', uuid=disk), more_vms(0, 1))
        onto = d.vdi()
        at_every_point(d, 'vdi-copy onto a disk', lambda: d.xe('vdi-copy', uuid=disk, into_vdi_uuid=onto),
                       lambda before, now: now == before)
        with open(os.path.join(d.state, 'run', running, 'fake.json')) as f:
            top = json.load(f)['chains']['disk-0'][-1]
        assert top == 'v' + d.get('vdi', d.disks(running)['0'], 'location'), 'the row names what is written'


def test_memory():
    """Killed while memory is taken, given up or come back to: the guest runs on, or is suspended with its memory whole;
    never is there an image that nobody has, nor a guest that runs beside its own image."""
    with Daemon('fake') as d:
        vm = d.vm(disks=2)
        d.xe('vm-start', uuid=vm)
        state = lambda: (d.state_of(vm), len(d.sql("SELECT uuid FROM VDI WHERE type = 'suspend'")), len(d.fakes()))

        def to(wanted):
            def prepare():
                now = d.state_of(vm)
                if now == 'halted':
                    d.xe('vm-start', uuid=vm)
                if now == 'suspended' and wanted == 'running':
                    d.xe('vm-resume', uuid=vm)
                if now != 'suspended' and wanted == 'suspended':
                    d.xe('vm-suspend', uuid=vm)
            return prepare

        def is_whole(before=None, now=None):
            what, images, processes = state()
            assert what in ('running', 'suspended'), what
            assert processes == (what == 'running'), f'{what} with {processes} processes'
            assert images == len(d.list('snapshot')) + (what == 'suspended'), f'{what}: {images} images'
            assert not any(f['paused'] for f in d.fakes().values()), 'the guest was not let go'
            return True

        more = lambda b, n: is_whole() and (n == b or len(n[0]) == len(b[0]) + 1)
        at_every_point(d, 'checkpoint', lambda: d.xe('vm-checkpoint', uuid=vm, new_name_label='c'), more)
        at_every_point(d, 'suspend', lambda: d.xe('vm-suspend', uuid=vm), is_whole, to('running'))
        at_every_point(d, 'resume', lambda: d.xe('vm-resume', uuid=vm), is_whole, to('suspended'))
        at_every_point(d, 'checkpoint of a suspended VM', lambda: d.xe('vm-checkpoint', uuid=vm, new_name_label='c'),
                       more, to('suspended'))
        snap = d.list('snapshot')[0]
        at_every_point(d, 'revert to memory', lambda: d.xe('snapshot-revert', uuid=snap), is_whole, to('running'))
        at_every_point(d, 'giving memory up', lambda: d.xe('vm-shutdown', '--force', uuid=vm),
                       lambda b, n: d.state_of(vm) == 'halted' or is_whole(), to('suspended'))


def test_import_of_a_new_disk():
    """Killed while an image becomes a disk: there is the disk, whole, or nothing at all."""
    with Daemon('fake') as d:
        raw, image = os.path.join(d.state, 'raw'), os.path.join(d.state, 'image')
        with open(raw, 'wb') as f:
            f.write(b'content ' * 100000)
            f.truncate(4 << 20)
        for form, driver in (('raw', 'raw'), ('qcow2', 'qcow2'), ('vhd', 'vpc')):
            more = ('-o', 'force_size=on') if form == 'vhd' else ()
            subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', driver, *more, raw, image], check=True)
            with open(image, 'rb') as f:
                body = f.read()

            def take():
                head = f'PUT /import_raw_vdi?sr_id={d.sr()}&format={form} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n'
                s = socket.socket(socket.AF_UNIX)
                answer = b''
                try:
                    s.connect(os.path.join(d.state, 'xapi.sock'))
                    s.sendall(head.encode() + body)
                    while got := s.recv(4096):
                        answer += got
                except OSError:
                    pass
                s.close()
                if not re.search(rb'\r\n\r\n[-0-9a-f]{36}\n$', answer):
                    raise Failed(1, answer, '')
            at_every_point(d, f'import, {form}', take, more_vms(0, 1))
            new = d.list('vdi', name_label='Imported VDI')[-1]
            out = os.path.join(d.state, 'out')
            d.xe('vdi-export', uuid=new, filename=out)
            with open(raw, 'rb') as f, open(out, 'rb') as g:
                assert f.read() == g.read(), f'{form}: the disk is not what was sent'
            os.unlink(out)


def test_resize():
    """Afterwards the row and the volume agree, whichever of the two sizes it is."""
    with Daemon('fake') as d:
        running, halted = d.vm(disks=1, size='1MiB'), d.vm(disks=1, size='1MiB')
        d.xe('vm-start', uuid=running)
        for vm, how in ((running, 'running'), (halted, 'halted')):
            disk, sizes = d.disks(vm)['0'], []

            def resize():
                sizes.append((len(sizes) + 2) << 20)
                d.xe('vdi-resize', uuid=disk, disk_size=sizes[-1])

            def agrees(before, now):
                said = int(d.get('vdi', disk, 'virtual-size'))
                path = os.path.join(d.state, 'sr', d.get('vdi', disk, 'location') + '.qcow2')
                with open(path, 'rb') as f:
                    has = int.from_bytes(f.read(32)[24:], 'big')
                assert said == has and said in [1 << 20, *sizes], (said, has, sizes)
                return now == before
            at_every_point(d, f'vdi-resize, {how}', resize, agrees, lambda: agrees(0, 0))
            agrees(0, 0)
            assert int(d.get('vdi', disk, 'virtual-size')) == sizes[-1]


def test_a_disk_of_a_running_guest():
    """The same with a real QEMU, and a guest that writes all the time."""
    with golden() as (d, vm, serial):
        boot = serial.fields('status')['boot']
        serial.ask('count start')
        disk, sizes = d.disks(vm)['0'], [256 << 20]

        def resize():
            sizes.append(sizes[-1] + (1 << 20))
            d.xe('vdi-resize', uuid=disk, disk_size=sizes[-1])

        for command in ('vdi-snapshot', 'vdi-clone'):
            at_every_point(d, f'{command}, a guest', lambda: d.xe(command, uuid=disk), more_vms(0, 1))
        at_every_point(d, 'vdi-resize, a guest', resize,
                       lambda before, now: now == before and int(d.get('vdi', disk, 'virtual-size')) in sizes)
        said = int(d.get('vdi', disk, 'virtual-size'))
        assert said == sizes[-1] == int(serial.ask('shell cat /sys/block/vda/size').replace('\\n', '')) * 512
        status = serial.fields('status')
        assert status['boot'] == boot and status['a.errors'] == '0'
        d.check()


def half_installed(before, now):
    """vm-install is several calls: between two of them the VM is still a template, without its disks."""
    return more_vms(1, 0)(before, now)


def test_what_comes_anew():
    """A VM that was destroyed comes back from its snapshot; a storage repository comes, and goes."""
    with Daemon('fake') as d:
        vm = d.vm(disks=1)
        snap = d.snapshot(vm)

        def destroyed():
            if vm in d.list('vm'):
                disks = list(d.disks(vm).values())
                d.xe('vm-destroy', uuid=vm)
                for disk in disks:
                    d.xe('vdi-destroy', uuid=disk)
        at_every_point(d, 'revert to a VM that is gone', lambda: d.xe('snapshot-revert', uuid=snap), more_vms(1, 1), destroyed)
        place = os.path.join(d.state, 'other')
        srs = lambda: d.list('sr', name_label='other')
        mine = lambda: d.list('pbd', sr_uuid=srs()[0])[0]

        def create():
            d.xe('sr-create', name_label='other', type='file', **{'device-config:location': place})

        def there():
            if not srs():
                create()
            if d.get('pbd', mine(), 'currently-attached') == 'true':
                d.xe('pbd-unplug', uuid=mine())

        def gone():
            os.makedirs(place, exist_ok=True)
            if srs():
                there()
                d.xe('sr-destroy', uuid=srs()[0])
            assert os.listdir(place) == [], os.listdir(place)
        at_every_point(d, 'sr-create', create, lambda b, n: n[2] == b[2] + 1, gone)
        at_every_point(d, 'sr-destroy', lambda: d.xe('sr-destroy', uuid=srs()[0]), lambda b, n: n[2] == b[2] - 1, there)


def test_start():
    """With a TPM: two processes begin, and neither stays without the other."""
    with Daemon() as d:
        vm = d.vm(disks=1, memory='64MiB')
        d.xe('vtpm-create', vm_uuid=vm)

        def both():
            assert len(emulators(d, vm)) == len(d.guests()) == (d.state_of(vm) == 'running'), (emulators(d, vm), d.guests())

        def halted():
            both()
            if d.state_of(vm) != 'halted':
                d.xe('vm-shutdown', '--force', uuid=vm)
        at_every_point(d, 'start', lambda: d.xe('vm-start', uuid=vm), lambda b, n: n == b, halted)
        both()

        def suspended():
            both()
            if d.state_of(vm) == 'running':
                d.xe('vm-suspend', uuid=vm)
        at_every_point(d, 'resume', lambda: d.xe('vm-resume', uuid=vm), lambda b, n: n == b or n[1] == b[1] - 1, suspended)
        both()


def test_plugging():
    """In real guests test_agreement.py does it, at random; the points are the same without one."""
    with Daemon(vmm='fake') as d:
        vm = d.vm(disks=1)
        d.xe('vm-start', uuid=vm)
        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi(), device=3)
        vif = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=1)

        def has(what):
            with open(os.path.join(d.state, 'run', vm, 'fake.json')) as f:
                state = json.load(f)
            return what in state['chains'] or what in state['nics']

        def agrees(record, uuid, device):
            def check(before, now):
                said = d.get(record, uuid, 'currently-attached') == 'true'
                assert said == has(device), f'{device}: the row says {said}'
                return now == before
            return check

        def attached(record, uuid, wanted):
            def prepare():
                if (d.get(record, uuid, 'currently-attached') == 'true') != wanted:
                    d.xe(f'{record}-' + ('plug' if wanted else 'unplug'), uuid=uuid)
            return prepare

        for record, uuid, device in (('vbd', vbd, 'disk-3'), ('vif', vif, 'nic-1')):
            for verb in ('plug', 'unplug'):
                at_every_point(d, f'{record}-{verb}', lambda: d.xe(f'{record}-{verb}', uuid=uuid),
                               agrees(record, uuid, device), attached(record, uuid, verb == 'unplug'))
                agrees(record, uuid, device)(0, 0)
        d.check()


def test_recovery_is_killed_too():
    """The replay of the journal is killed at its own points."""
    with Daemon() as d:
        vm = d.vm(disks=2, memory='64MiB')
        d.xe('vm-start', uuid=vm)
        for n in (4, 6, 8, 9):
            for m in dying_points(30):
                d.kill()
                d.start(env={'STILLFRAME_CRASH_AT': str(n)})
                if d.run('vm-snapshot', uuid=vm, new_name_label='x')[0] == 0:
                    break
                d.process.wait()
                d.start(env={'STILLFRAME_CRASH_AT': str(m)}, wait=False)
                try:
                    d.wait_up()
                    alive = True
                except Exception:
                    alive = False
                if not alive:
                    d.process.wait()
                else:
                    d.kill()
                d.start()
                d.check()
                assert d.state_of(vm) == 'running'
                if alive:
                    break


# ---- layers that become one ----

class Steps:
    """A state folder whose daemon has layers to merge as soon as it starts, put back as often as it takes."""

    known = set()       # deaths whose recovery was killed

    def __init__(self, what, build, folder, runs=True, reflink=False):
        self.what, self.folder, self.runs = what, folder, runs
        self.saved = folder + '.saved'
        os.makedirs(os.path.join(folder, 'sr', '.reflink.new'))      # where it finds out about reflinks
        self.d = d = Daemon('fake', state=folder)
        self.w = World(d, mib=512)
        self.vm = self.w.vm(start=True)
        self.w.write(self.vm, 0, 2)
        self.volumes, self.depth = build(self.w, self.vm)
        d.stop()
        if not runs and os.path.exists(os.path.join(folder, 'run', self.vm, 'fake.json')):
            os.unlink(os.path.join(folder, 'run', self.vm, 'fake.json'))
        if reflink:
            os.rmdir(os.path.join(folder, 'sr', '.reflink.new'))
        self.save(self.saved)

    def save(self, where):
        subprocess.run(['rm', '-rf', where], check=True)
        subprocess.run(['cp', '-a', self.folder, where], check=True)

    def restore(self, where):
        subprocess.run(['rm', '-rf', self.folder], check=True)
        subprocess.run(['cp', '-a', where, self.folder], check=True)
        self.w.fatten_again()

    def layers_below(self):
        below = dict(r.split(' ') for r in self.d.sql("SELECT location || ' ' || parent_location FROM VDI"))
        volume, = self.d.sql(f"SELECT location FROM VDI WHERE uuid = '{self.w.own[self.vm]}'")
        n = 0
        while volume := below[volume]:
            n += 1
        return n

    def finished(self):
        d = self.d
        return len(d.volumes_now()) == self.volumes and self.layers_below() == self.depth and not d.sql('SELECT verb FROM journal') and \
            not d.sql("SELECT name_label FROM task WHERE status = 'pending'")

    def dies(self, n):
        """Is it killed at point n?  Else all was done."""
        self.d.start(env={'STILLFRAME_CRASH_AT': str(n)}, wait=False)
        end = time.time() + 30 * SLOW
        while self.d.process.poll() is None:
            if self.finished() and self.finished():
                self.d.kill()
                return False
            assert time.time() < end, f'{self.what}, point {n}: it does not end\n{self.d.log()[-3000:]}'
            time.sleep(0.01)
        assert self.d.process.returncode == -9, self.d.log()[-3000:]
        return True

    def right(self, where):
        """The next start puts it in order, and the merge is done."""
        d, w = self.d, self.w
        d.start()
        end = time.time() + 30 * SLOW
        while not self.finished():
            assert time.time() < end, f'{where}: {len(d.volumes())} volumes\n{d.log()[-3000:]}'
            time.sleep(0.01)
        try:
            d.check()
            w.right(by_xe=False)
            if os.path.exists(os.path.join(self.folder, 'run', self.vm, 'fake.json')):
                top = d.sql(f"SELECT location FROM VDI WHERE uuid = '{w.own[self.vm]}'")
                assert chain(d, self.vm)[-1:] == top, 'the row names what is written'
        except Exception as e:
            raise Exception(f'{where}: {e}') from e
        d.kill()

    def crossed(self):
        """What a daemon that died has left, in short: recovery is killed once for each."""
        path = os.path.join(self.folder, 'run', self.vm, 'fake.json')
        merges = json.load(open(path))['merges'].values() if os.path.exists(path) else ()
        rows = self.d.sql("SELECT verb || iif(verb = 'MERGE_SETTLE', json_extract(args, '$[3]'), '') FROM journal")
        return self.runs, tuple(sorted(set(rows))), tuple(m['done'] for m in merges)

    def run(self):
        try:
            self.at_every_point()
        finally:
            if self.d.process:
                self.d.end()
            subprocess.run(['rm', '-rf', self.folder, self.saved, self.folder + '.dead'], check=True)

    def at_every_point(self):
        recoveries = 0
        for n in dying_points():
            self.restore(self.saved)
            died = self.dies(n)
            dead = self.crossed()
            if died and dead[1] and dead not in self.known:
                self.known.add(dead)
                recoveries += self.recovery(n)
            self.right(f'{self.what}, point {n}')
            if not died:
                break
        assert n > 5, f'{self.what} has no points'
        steps = re.findall(r'layers (merged down|\w+) volume=', self.d.log())
        print(f'  {self.what}: survives point {n}, {recoveries} deaths of its recovery; {", ".join(steps)}')

    def recovery(self, n):
        """What comes up after the death is killed at its own points.  How often it died."""
        self.save(self.folder + '.dead')
        for deaths, m in enumerate(dying_points()):
            self.d.start(env={'STILLFRAME_CRASH_AT': str(m)}, wait=False)
            try:
                self.d.wait_up()
            except Exception:
                self.d.process.wait()
                self.right(f'{self.what}, point {n}, recovery {m}')
                self.restore(self.folder + '.dead')
                continue
            self.d.kill()
            self.restore(self.folder + '.dead')
            return deaths


def with_faults(w):
    """What is deleted from now on waits."""
    w.d.restart(env={'STILLFRAME_FAKE': 'fail=merge,fail=prepare'})


def three(w, vm, fat_after=None):
    """A snapshot is deleted between two others."""
    snaps = []
    for n in range(3):
        snaps.append(w.snap(vm, (n, 1)))
        if n == fat_after:
            w.fatten(vm, 260)
    with_faults(w)
    w.delete(snaps[1])
    return 3, 2


def newest(w, vm, fat=0):
    snaps = [w.snap(vm, (n, 1)) for n in range(2)]
    if fat:
        w.fatten(vm, fat)
    with_faults(w)
    w.delete(snaps[1])
    return 2, 1


def long(w, vm):
    for n in range(6):
        w.snap(vm, (n, 1))
    w.d.stop()
    w.d.sql_write("""UPDATE SR SET other_config = '{"chain-max": "4"}'""")
    w.d.start(env={'STILLFRAME_FAKE': 'fail=merge'})
    return 7, 3


def one_snapshot(w, vm):
    w.snap(vm, (1, 1))
    return 2, 0


def a_clone(w, vm):
    w.d.xe('vm-shutdown', '--force', uuid=vm)
    assert not os.path.exists(os.path.join(w.d.state, 'run', vm, 'fake.json'))
    w.clone(vm)
    w.write(vm, 1)
    return 2, 0


def test_merges():
    with tempfile.TemporaryDirectory() as own:
        os.chmod(own, 0o711)
        for what, build, runs in (('merge up', three, True), ('merge down', lambda w, vm: three(w, vm, 0), True),
                                  ('merge from the top', newest, True), ('shorten', long, True),
                                  ('freeze', lambda w, vm: newest(w, vm, 320), True),
                                  ('merge offline', three, False)):
            Steps(what, build, os.path.join(own, 'state'), runs).run()


def test_merges_of_shared_blocks():
    with FileSystem('xfs', 1024) as fs:
        for what, build, runs in (('split', one_snapshot, True), ('split offline', one_snapshot, False),
                                  ('merge up offline', lambda w, vm: (three(w, vm, 1)[0], 0), False),
                                  ('detach', a_clone, False)):
            Steps(what, build, os.path.join(fs.folder, 'state'), runs, reflink=True).run()


main(globals())
