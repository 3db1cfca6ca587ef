#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed (SIGKILL) at the points of an operation where the journal or the world
changes, at one after another, until the operation comes through.  Each time, after the next start, the
world is as before the operation or as after it: no stray volume, no stuck operation, and the
guest runs on, not having noticed.  EVERY=1 in the environment: at each point, not at a sixth of them."""
import copy, hashlib, json, os, re, signal, socket, sqlite3, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from layers import *
from tpm import emulators


class Seen:
    """All that a user has, and what its disks hold; two of them are equal when the user has lost and gained nothing."""

    def __init__(self, d):
        self.d = d
        self.vms = {vm['uuid']: self.vm(vm) for vm in self.records('VM') if vm['is_default_template'] == 'false'}
        self.rows = {vdi['uuid']: vdi for vdi in self.records('VDI') if vdi['managed'] == 'true'}
        self.disks = {uuid: self.disk(vdi) for uuid, vdi in self.rows.items()}
        self.srs = {sr['uuid']: sr['name_label'] for sr in self.records('SR')}
        memories = {uuid for uuid, disk in self.disks.items() if disk[0][1] == 'suspend'}
        named = {vm[1][2] for vm in self.vms.values()} - {None}
        assert memories == named, f'memory that is nobody\'s: {memories - named}'

    def contents(self, vm):
        """What the disks of a VM or a snapshot show, by position, and its memory."""
        at = {position: self.disks[disk][1] for position, _, disk, *_ in self.vms[vm][2]}
        memory = self.vms[vm][1][2]
        return {**at, 'memory': self.disks[memory][1] if memory else None}

    def ended(self):
        """What it is when the guests that ran have ended, and wrote nothing meanwhile."""
        w = copy.copy(self)
        w.vms = copy.deepcopy(self.vms)
        w.disks = {uuid: [disk[0], disk[1] or self.content(self.rows[uuid])] for uuid, disk in self.disks.items()}
        for fields, _, drives, nics, process in w.vms.values():
            if process:
                fields[3] = 'Halted'
                drives[:] = [v[:3] + ('false',) + v[4:] for v in drives]
                nics[:] = [v[:2] + ('false',) for v in nics]
        w.vms = {uuid: vm[:4] + [False] for uuid, vm in w.vms.items()}
        return w

    def __eq__(self, other):
        return (self.vms, self.disks, self.srs) == (other.vms, other.disks, other.srs)

    def __repr__(self):
        return json.dumps([self.vms, self.disks, self.srs], indent=1)

    def records(self, table):
        c = sqlite3.connect(os.path.join(self.d.state, 'state.db'))
        c.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in c.execute(f'SELECT * FROM "{table}" ORDER BY uuid')]
        finally:
            c.close()

    def uuid(self, table, ref):
        found = self.d.sql(f"SELECT uuid FROM {table} WHERE ref = '{ref}'")
        assert found or ref in ('', 'OpaqueRef:NULL') or table != 'VDI', f'{ref} of class {table} is gone'
        return found[0] if found else None

    def vm(self, vm):
        drives = [(v['userdevice'], v['mode'], self.uuid('VDI', v['VDI']), v['currently_attached'], 'owner' in v['other_config'])
                  for v in self.records('VBD') if v['VM'] == vm['ref']]
        nics = [(v['device'], v['MAC'], v['currently_attached']) for v in self.records('VIF') if v['VM'] == vm['ref']]
        fields = [vm[f] for f in ('name_label', 'is_a_snapshot', 'is_a_template', 'power_state', 'VCPUs_max', 'platform')]
        links = [self.uuid('VM', vm['snapshot_of']), self.uuid('VM', vm['parent']), self.uuid('VDI', vm['suspend_VDI']),
                 self.uuid('VDI', vm['NVRAM_VDI'])]
        return [fields, links, sorted(drives), sorted(nics), self.has_process(vm['uuid'])]

    def has_process(self, uuid):
        return uuid in self.d.guests() or uuid in self.d.fakes()

    def is_live(self, vdi):
        """A guest may be writing it."""
        at = self.d.sql("SELECT VM.uuid FROM VM JOIN VBD ON VBD.VM = VM.ref WHERE VBD.currently_attached = 'true' AND "
                        f"VM.is_a_snapshot = 'false' AND VBD.VDI = '{vdi['ref']}'")
        at += self.d.sql(f"SELECT uuid FROM VM WHERE is_a_snapshot = 'false' AND NVRAM_VDI = '{vdi['ref']}'")
        return any(vm in self.d.guests() for vm in at)

    def disk(self, vdi):
        fields = [vdi[f] for f in ('name_label', 'type', 'virtual_size', 'is_a_snapshot', 'read_only', 'sharable')]
        return [fields, None if self.is_live(vdi) else self.content(vdi)]

    def content(self, vdi):
        """A sum of what it shows.  A raw volume is its file; of the others what is allocated counts; of discs nothing."""
        if vdi['SR'] in self.d.sql("SELECT ref FROM SR WHERE type = 'iso'"):
            return None
        place, = self.d.sql(f"SELECT device_config FROM PBD WHERE SR = '{vdi['SR']}'")
        path = os.path.join(json.loads(place)['location'], vdi['location'])
        if vdi['raw'] == 'true':
            with open(path + '.raw', 'rb') as f:
                return hashlib.sha256(f.read()).hexdigest()[:16]
        return shown(path + '.qcow2')


def shown(path):
    """A sum of what a chain of images shows, its zeros left out."""
    h = hashlib.sha256()
    with tempfile.NamedTemporaryFile(prefix='stillframe-shown-') as raw:
        subprocess.run(['qemu-img', 'convert', '-U', '-f', 'qcow2', '-O', 'raw', path, raw.name], check=True)
        with open(raw.name, 'rb') as f:
            size, at = os.fstat(f.fileno()).st_size, 0
            while (at := data_behind(f, at)) < size:
                f.seek(at)
                content = f.read(65536 - at % 65536)
                if content.strip(b'\0'):
                    h.update(b'%d ' % at + content)
                at += len(content)
    return h.hexdigest()[:16]


def data_behind(f, at):
    """Where the next bytes are that the file holds; its size: nowhere."""
    try:
        return os.lseek(f.fileno(), at, os.SEEK_DATA)
    except OSError:
        return os.fstat(f.fileno()).st_size


def world(d):
    return Seen(d)


def end_guests(d):
    """As if the host had killed what runs in them; the fake VMM's are its files."""
    guests = d.guests()
    for pid in guests.values():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not d.guests().keys() & guests.keys())
    for vm in d.fakes():
        os.unlink(os.path.join(d.state, 'run', vm, 'fake.json'))


def at_every_point(d, what, operation, after, prepare=lambda: None, alone=True):
    """operation() is run with a kill at one point after another until it survives; after(before, now) says
    whether the world is one of the two that may be.  alone: else the guests are killed with the daemon."""
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
        if not alone:
            end_guests(d)
            before = before.ended()
        d.start()
        d.check()
        now = world(d)
        assert now == before or after(before, now), f'{what}, point {n}: {before}\nbecame {now}'
        if not died:
            assert n > 2, f'{what} has no points'
            print(f'  {what}: survives point {n}')
            return


def stays(before, now):
    """All that was there is there, and as it was, but for which snapshot a VM goes on from and what it is doing."""
    same = lambda vm: [vm[0], vm[1][:1] + vm[1][2:], *vm[2:]]
    return all(uuid in now.vms and same(now.vms[uuid]) == same(vm) for uuid, vm in before.vms.items()) and \
        all(now.disks.get(uuid) == disk for uuid, disk in before.disks.items())


def but_for(before, now, vm):
    """What the VM is doing may be something else, and which of its drives and interfaces are attached."""
    def fixed(w):
        fields, links, drives, nics, _ = w.vms[vm]
        return {**w.vms, vm: [fields[:3] + fields[4:], links, [v[:3] + v[4:] for v in drives], [v[:2] for v in nics]]}
    assert (now.vms[vm][0][3] in ('Running', 'Paused')) == now.vms[vm][4], f'{now.vms[vm]}'
    same = [before.disks[v] == disk or None in (disk[1], before.disks[v][1]) for v, disk in now.disks.items() if v in before.disks]
    return fixed(before) == fixed(now) and all(same) and set(before.disks) == set(now.disks) and before.srs == now.srs


def grown(before, now, disk):
    """Only the disk's size may be another one, and what is new reads as zeros."""
    size = now.disks[disk][0].pop(2), before.disks[disk][0].pop(2)
    return now == before and size[0] >= size[1]


def more_vms(n, disks):
    return lambda before, now: stays(before, now) and \
        len(now.vms) == len(before.vms) + n and len(now.disks) == len(before.disks) + disks


def test_snapshot_of_a_running_vm():
    with golden('two') as (d, vm, serial):
        boot = serial.fields('status')['boot']
        serial.ask('count start')
        at_every_point(d, 'snapshot', lambda: d.snapshot(vm), more_vms(1, 2))
        assert serial.fields('status')['boot'] == boot
        assert serial.fields('status')['a.errors'] == '0'
        d.snapshot(vm)
        d.check()


def fill(d, vm, contents):
    """A byte for each disk of a VM that is halted."""
    path = os.path.join(d.state, 'content')
    for (position, disk), byte in zip(sorted(d.disks(vm).items()), contents):
        with open(path, 'wb') as f:
            f.write(byte.encode() * (1 << 20))
        d.xe('vdi-import', uuid=disk, filename=path)


def bring(d, vm, state):
    now = d.state_of(vm)
    if now == state:
        return
    if now != 'halted':
        d.xe('vm-shutdown', '--force', uuid=vm)
    if state != 'halted':
        d.xe('vm-start', uuid=vm)
    if state in ('suspended', 'paused'):
        d.xe('vm-suspend' if state == 'suspended' else 'vm-pause', uuid=vm)


def reverted(vm, snap, keep):
    """The VM is what the snapshot is; all else is what it was; what was set aside is what the VM was."""
    def check(before, now):
        mine = {v[2] for w in (before, now) for v in w.vms[vm][2]} | {before.vms[vm][1][2], now.vms[vm][1][2]}
        state = before.vms[snap][0][3]
        assert now.vms[vm][0][3] == state and not now.vms[vm][4], f'{now.vms[vm]}'
        assert now.contents(vm) == before.contents(snap), f'{now.contents(vm)} is not {before.contents(snap)}'
        assert now.vms[vm][1][1] == snap
        for uuid in set(before.vms) - {vm}:
            assert now.vms[uuid] == before.vms[uuid], uuid
        for uuid in set(before.disks) - mine:
            assert now.disks[uuid] == before.disks[uuid], uuid
        new = set(now.vms) - set(before.vms)
        assert len(new) == keep, new
        for uuid in new:
            assert now.contents(uuid) == before.contents(vm) and now.vms[uuid][1][0] == vm
        return True
    return check


def test_reverts():
    """From each state that a VM may be in, to disks alone and to memory, with and without setting aside what is there."""
    with Daemon('fake') as d:
        vm = d.vm(disks=2, size='1MiB')
        fill(d, vm, 'ab')
        plain = d.snapshot(vm)
        d.xe('vm-start', uuid=vm)
        memory = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')

        def from_state(state):
            def prepare():
                bring(d, vm, 'halted')
                fill(d, vm, 'xy')
                bring(d, vm, state)
                for snap in set(d.list('snapshot')) - {plain, memory}:
                    d.xe('snapshot-uninstall', '--force', uuid=snap)
                d.wait_quiet()
            return prepare

        for state, snap, keep in (('running', plain, False), ('running', memory, True), ('suspended', plain, True),
                                  ('suspended', memory, False), ('paused', memory, False), ('halted', plain, True)):
            words = ['keep-current=true'] if keep else []
            at_every_point(d, f'revert, {state}, {"memory" if snap == memory else "disks"}{", keep-current" * keep}',
                           lambda: d.xe('snapshot-revert', *words, uuid=snap), reverted(vm, snap, keep), from_state(state))


def test_revert_of_a_running_vm():
    with Daemon() as d:
        vm = d.vm(disks=2, size='1MiB', memory='64MiB')
        fill(d, vm, 'ab')
        snap = d.snapshot(vm)

        def run_it():
            bring(d, vm, 'halted')
            fill(d, vm, 'xy')
            bring(d, vm, 'running')
        at_every_point(d, 'revert', lambda: d.xe('snapshot-revert', uuid=snap), reverted(vm, snap, False), run_it)
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
        def gone(before, now):
            """A snapshot and its two disks, or a disk, and nothing else."""
            assert set(now.vms) <= set(before.vms) and set(now.disks) <= set(before.disks)
            missing = len(before.vms) - len(now.vms), len(before.disks) - len(now.disks)
            return missing in ((1, 2), (0, 1)) and all(before.disks[v] == now.disks[v] for v in now.disks)
        at_every_point(d, 'uninstall', lambda: d.xe('snapshot-uninstall', '--force', uuid=snaps[-1]),
                       gone, prepare)
        prepare()
        at_every_point(d, 'snapshot-destroy', lambda: d.xe('snapshot-destroy', uuid=snaps[-1]),
                       lambda before, now: set(before.vms) - set(now.vms) == {snaps[-1]} and now.disks == before.disks, prepare)
        disk = []
        at_every_point(d, 'vdi-create', lambda: d.vdi(), more_vms(0, 1))
        at_every_point(d, 'vdi-destroy', lambda: d.xe('vdi-destroy', uuid=disk[-1]), gone,
                       lambda: disk.append(d.vdi()))


def test_uninstall():
    """VMs in each state, with a checkpoint and a snapshot: there with all that is theirs, or gone with it."""
    with Daemon('fake') as d:
        keeps = d.vm('stays', disks=1, size='1MiB')
        vms = []

        def of_state(state):
            def prepare():
                if vms and vms[-1] in d.list('vm'):
                    return bring(d, vms[-1], state)
                vm = d.vm('goes', disks=2, size='1MiB')
                for vbd in d.list('vbd', vm_uuid=vm):
                    d.xe('vbd-param-set', 'other-config:owner=', uuid=vbd)
                d.snapshot(vm)
                d.xe('vm-start', uuid=vm)
                d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
                bring(d, vm, state)
                vms.append(vm)
            return prepare

        def gone(before, now):
            assert list(now.vms) == [keeps] and now.vms[keeps] == before.vms[keeps], now
            mine = [v[2] for v in now.vms[keeps][2]]
            assert list(now.disks) == mine and not d.fakes(), now
            return True
        for state in ('running', 'suspended', 'halted'):
            at_every_point(d, f'vm-uninstall, {state}', lambda: d.xe('vm-uninstall', '--force', uuid=vms[-1]), gone,
                           of_state(state))


def installed(disks):
    """A VM, which is no template any more."""
    def check(before, now):
        new = set(now.vms) - set(before.vms)
        return more_vms(1, disks)(before, now) and all(now.vms[uuid][0][2] == 'false' for uuid in new)
    return check


def test_install_and_copy():
    """Of a template that asks for a disk, and of a user's that has a disk besides, where that is and elsewhere."""
    with Daemon('fake') as d:
        at_every_point(d, 'vm-install', lambda: d.xe('vm-install', template='Debian Bookworm 12', new_name_label='x'),
                       installed(1))
        own = d.vm('own', disks=1, size='1MiB')
        d.xe('vm-param-set', f'other-config:disks=<provision><disk device="1" size="{1 << 20}" sr="" bootable="false" '
             'type="user"/></provision>', uuid=own)
        d.xe('vm-param-set', 'is-a-template=true', uuid=own)
        elsewhere = d.xe('sr-create', name_label='elsewhere', type='file',
                         **{'device-config:location': d.folder_for('elsewhere')})
        for where in ({}, {'sr_uuid': elsewhere}):
            at_every_point(d, f'vm-install {"elsewhere" if where else "over layers"}',
                           lambda: d.xe('vm-install', template=own, new_name_label='x', **where), installed(2))
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
            assert not before or set(before.vms) <= set(now.vms) and before.contents(vm).items() - now.contents(vm).items() <= \
                {('memory', before.contents(vm)['memory'])}, f'{before}\nbecame {now}'
            what, images, processes = state()
            assert what in ('running', 'suspended'), what
            assert processes == (what == 'running'), f'{what} with {processes} processes'
            assert images == len(d.list('snapshot')) + (what == 'suspended'), f'{what}: {images} images'
            assert not any(f['paused'] for f in d.fakes().values()), 'the guest was not let go'
            return True

        more = lambda b, n: is_whole() and (n == b or more_vms(1, 3)(b, n))
        at_every_point(d, 'checkpoint', lambda: d.xe('vm-checkpoint', uuid=vm, new_name_label='c'), more)
        at_every_point(d, 'suspend', lambda: d.xe('vm-suspend', uuid=vm), is_whole, to('running'))
        at_every_point(d, 'resume', lambda: d.xe('vm-resume', uuid=vm), is_whole, to('suspended'))
        at_every_point(d, 'checkpoint of a suspended VM', lambda: d.xe('vm-checkpoint', uuid=vm, new_name_label='c'),
                       more, to('suspended'))
        snap = d.list('snapshot')[0]
        at_every_point(d, 'revert to memory', lambda: d.xe('snapshot-revert', uuid=snap), is_whole, to('running'))
        at_every_point(d, 'giving memory up', lambda: d.xe('vm-shutdown', '--force', uuid=vm),
                       lambda b, n: d.state_of(vm) == 'halted' or is_whole(), to('suspended'))


def test_guests_are_killed_too():
    """Both at the same moment: what was there, or what was to come, of a VM that has ended."""
    with Daemon('fake') as d:
        vm = d.vm(disks=2, size='1MiB')
        fill(d, vm, 'ab')
        plain = d.snapshot(vm)
        d.xe('vm-start', uuid=vm)
        memory = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        extra = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi('1MiB'), device=3)
        disk, size = d.disks(vm)['0'], [1 << 20]

        def to(state):
            return lambda: bring(d, vm, state)

        def without_it():
            bring(d, vm, 'running')
            if d.get('vbd', extra, 'currently-attached') == 'true':
                d.xe('vbd-unplug', uuid=extra)

        def resize():
            size[0] += 1 << 20
            d.xe('vdi-resize', uuid=disk, disk_size=size[0])

        def suspended(before, now):
            """It has its memory, or had not begun to have it, or has used it up."""
            assert not now.vms[vm][4] and now.contents(vm).items() - {('memory', now.contents(vm)['memory'])} <= \
                before.contents(vm).items()
            assert (now.vms[vm][0][3] == 'Suspended') == (now.contents(vm)['memory'] is not None), now
            return now.vms[vm][0][3] in ('Suspended', 'Halted')
        same = lambda before, now: now == before
        for what, words, after, prepare in (
                ('start', ('vm-start', f'uuid={vm}'), same, to('halted')),
                ('snapshot', ('vm-snapshot', f'uuid={vm}', 'new-name-label=s'), more_vms(1, 3), to('running')),
                ('checkpoint', ('vm-checkpoint', f'uuid={vm}', 'new-name-label=c'), more_vms(1, 4), to('running')),
                ('vdi-snapshot', ('vdi-snapshot', f'uuid={disk}'), more_vms(0, 1), to('running')),
                ('plug', ('vbd-plug', f'uuid={extra}'), same, without_it),
                ('suspend', ('vm-suspend', f'uuid={vm}'), suspended, to('running')),
                ('resume', ('vm-resume', f'uuid={vm}'), suspended, to('suspended')),
                ('shutdown', ('vm-shutdown', '--force', f'uuid={vm}'), same, to('running')),
                ('revert', ('snapshot-revert', f'uuid={plain}'), reverted(vm, plain, False), to('running')),
                ('revert to memory', ('snapshot-revert', f'uuid={memory}', 'keep-current=true'), reverted(vm, memory, True), to('running'))):
            at_every_point(d, f'{what}, both killed', lambda: d.xe(*words), after, prepare, alone=False)
        disk = d.disks(vm)['0']
        at_every_point(d, 'vdi-resize, both killed', resize, lambda before, now: grown(before, now, disk), to('running'), alone=False)


def test_a_guest_is_killed_too():
    """The same with a real one."""
    with Daemon() as d:
        vm = d.vm(disks=2, size='1MiB', memory='64MiB')
        fill(d, vm, 'ab')
        for what, words, disks in (('snapshot', ('vm-snapshot', f'uuid={vm}', 'new-name-label=s'), 2),
                                   ('checkpoint', ('vm-checkpoint', f'uuid={vm}', 'new-name-label=c'), 3)):
            at_every_point(d, f'{what}, both killed', lambda: d.xe(*words), more_vms(1, disks), lambda: bring(d, vm, 'running'),
                           alone=False)
        assert ' 0 problems' in d.xe('sr-check', uuid=d.sr())


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
                return not before or grown(before, now, disk)
            at_every_point(d, f'vdi-resize, {how}', resize, agrees, lambda: agrees(None, None))
            agrees(None, None)
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
                       lambda before, now: grown(before, now, disk) and int(d.get('vdi', disk, 'virtual-size')) in sizes)
        said = int(d.get('vdi', disk, 'virtual-size'))
        assert said == sizes[-1] == int(serial.ask('shell cat /sys/block/vda/size').replace('\\n', '')) * 512
        status = serial.fields('status')
        assert status['boot'] == boot and status['a.errors'] == '0'
        d.check()


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

        def came_back(before, now):
            assert set(now.vms) == {vm, snap} and now.contents(vm) == before.contents(snap), now
            assert now.vms[snap][1][0] == vm and now.vms[snap][2:] == before.vms[snap][2:], now
            return len(now.disks) == len(before.disks) + 1
        at_every_point(d, 'revert to a VM that is gone', lambda: d.xe('snapshot-revert', uuid=snap), came_back, destroyed)
        place = d.folder_for('other')
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
        at_every_point(d, 'sr-create', create, lambda b, n: len(n.srs) == len(b.srs) + 1, gone)
        at_every_point(d, 'sr-destroy', lambda: d.xe('sr-destroy', uuid=srs()[0]), lambda b, n: len(n.srs) == len(b.srs) - 1, there)


def test_who_holds_an_sr():
    """It is plugged, unplugged, and its mark becomes one of today's version when the daemon starts: the mark is whole at
    each moment, and after the next start it names this host when, and only when, the PBD is plugged."""
    with Daemon('fake') as d:
        place = d.folder_for('other')
        sr = d.xe('sr-create', name_label='other', type='file', **{'device-config:location': place})
        disk, pbd = d.vdi('1MiB', 'x', sr), d.list('pbd', sr_uuid=sr)[0]
        whole = open(os.path.join(place, 'sr-uuid')).read()
        let_go = ''.join(line + '\n' for line in whole.splitlines() if line.split()[0] not in ('owner', 'host', 'state'))

        def agrees():
            d.check()
            attached = d.get('pbd', pbd, 'currently-attached') == 'true'
            mark = open(os.path.join(place, 'sr-uuid')).read()
            assert mark == (whole if attached else let_go), f'attached: {attached}\n{mark}'
            assert sorted(os.listdir(place)) == sorted(['sr-uuid', d.get('vdi', disk, 'location') + '.qcow2'])

        def at_each(what, operation, prepare):
            for n in dying_points():
                prepare()
                d.kill()
                died = not survives(n, operation)
                if not died:
                    d.kill()
                d.start()
                agrees()
                if not died:
                    assert n > 2, f'{what} has no points'
                    print(f'  {what}: survives point {n}')
                    return

        def survives(n, operation):
            try:
                d.start(env={'STILLFRAME_CRASH_AT': str(n)})
                operation()
                return True
            except Exception:
                d.process.wait(30)
                assert d.process.returncode == -9, f'it failed by itself at point {n}: {d.log()[-2000:]}'
                return False

        def plug():
            if d.get('pbd', pbd, 'currently-attached') != 'true':
                d.xe('pbd-plug', uuid=pbd)

        def unplug():
            if d.get('pbd', pbd, 'currently-attached') == 'true':
                d.xe('pbd-unplug', uuid=pbd)

        def of_version_1():
            plug()
            with open(os.path.join(place, 'sr-uuid'), 'w') as f:
                f.write(f'{sr}\n')
        at_each('pbd-unplug', lambda: d.xe('pbd-unplug', uuid=pbd), plug)
        at_each('pbd-plug', lambda: d.xe('pbd-plug', uuid=pbd), unplug)
        at_each('a start with an old mark', lambda: None, of_version_1)


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
        at_every_point(d, 'start', lambda: d.xe('vm-start', uuid=vm), lambda b, n: but_for(b, n, vm), halted)
        both()

        def resumed(before, now):
            assert now.vms[vm][0][3] == 'Running' and now.vms[vm][4] and len(now.disks) == len(before.disks) - 1, now
            return now.vms[vm][2] == before.vms[vm][2]

        def suspended():
            both()
            if d.state_of(vm) == 'running':
                d.xe('vm-suspend', uuid=vm)
        at_every_point(d, 'resume', lambda: d.xe('vm-resume', uuid=vm), resumed, suspended)
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
                return not before or but_for(before, now, vm)
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
                agrees(record, uuid, device)(None, None)
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
            if died and self.runs and self.what != 'shorten':       # which only a guest needs
                end_guests(self.d)
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


if __name__ == '__main__':
    main(globals())
