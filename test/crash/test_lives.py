#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Lives of VMs that exchange disks: operations by lot, one after another, while the daemon and QEMU are killed by lot;
and a model that knows what each disk must hold, to the block.

What was interrupted is done or not done: the world is the one before it, or the one after it.  Guests have no system:
QEMU is told what to write by a monitor of its own, so a write goes where a guest's would.  SECONDS and SEED in the
environment; KIND: the file system, ext4 or xfs."""
import copy, json, os, random, signal, subprocess, sys, tempfile, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
import qemu_io

BLOCK = 65536
SIZE = 32                   # blocks of a disk to begin with
DISKS, SNAPSHOTS = 6, 8     # of all VMs; where there are as many no more are made
OFTEN = {'write': 14, 'discard': 4, 'start': 6, 'shutdown': 3}


# ---- what there must be ----

class Model:
    """disks: uuid -> bytes, one a block.  vms: uuid -> [power state, {position: disk}].  snapshots: uuid -> [VM, {position:
    bytes}, has it memory, {position: the disk it was taken of}]."""

    def __init__(self):
        self.disks, self.vms, self.snapshots = {}, {}, {}

    def copy(self):
        return copy.deepcopy(self)

    def vm_of(self, disk):
        return next((vm for vm, (_, drives) in self.vms.items() if disk in drives.values()), None)

    def is_halted(self, disk):
        vm = self.vm_of(disk)
        return vm is None or self.vms[vm][0] == 'halted'


class Nothing(Exception):
    """The lot fell on what cannot be done now."""


def need(condition):
    if not condition:
        raise Nothing


# ---- the deeds: each says what it does, and what the world is after it ----

class Deeds:
    def __init__(self, d, sr, dice):
        self.d, self.sr, self.dice, self.n = d, sr, dice, 0

    def one(self, things):
        things = sorted(things)
        need(things)
        return self.dice.choice(things)

    def name(self):
        self.n += 1
        return f'n{self.n}'

    def vm(self, m, *states):
        return self.one(vm for vm, (state, _) in m.vms.items() if state in states)

    def xe(self, *words, **params):
        return lambda: self.d.xe(*words, **params)

    # Each returns what is to be run, and a function from the model and what was printed to the model after it.

    def write(self, m, discard=False):
        vm = self.vm(m, 'running')
        position = self.one(m.vms[vm][1])
        disk = m.vms[vm][1][position]
        blocks = len(m.disks[disk])
        at = self.dice.randrange(blocks)
        n = self.dice.randint(1, min(8, blocks - at))
        byte = 0 if discard else self.dice.randint(1, 255)

        def after(m, said):
            old = m.disks[disk]
            m.disks[disk] = old[:at] + bytes([byte]) * n + old[at + n:]
        return lambda: qemu_io.write(self.d, vm, position, byte, at * BLOCK, n * BLOCK), after

    def discard(self, m):
        return self.write(m, discard=True)

    def start(self, m):
        vm = self.vm(m, 'halted', 'suspended', 'paused')
        state = m.vms[vm][0]
        command = {'halted': 'vm-start', 'suspended': 'vm-resume', 'paused': 'vm-unpause'}[state]
        return self.xe(command, uuid=vm), lambda m, said: m.vms[vm].__setitem__(0, 'running')

    def pause(self, m):
        vm = self.vm(m, 'running')
        return self.xe('vm-pause', uuid=vm), lambda m, said: m.vms[vm].__setitem__(0, 'paused')

    def suspend(self, m):
        vm = self.vm(m, 'running')
        return self.xe('vm-suspend', uuid=vm), lambda m, said: m.vms[vm].__setitem__(0, 'suspended')

    def shutdown(self, m):
        vm = self.vm(m, 'running', 'paused', 'suspended')
        return self.xe('vm-shutdown', '--force', uuid=vm), lambda m, said: m.vms[vm].__setitem__(0, 'halted')

    def taken(self, vm, memory):
        def after(m, said):
            drives = m.vms[vm][1]
            m.snapshots[said] = [vm, {p: m.disks[disk] for p, disk in drives.items()}, memory, dict(drives)]
        return after

    def snapshot(self, m):
        need(len(m.snapshots) < SNAPSHOTS)
        vm = self.one(m.vms)
        return self.xe('vm-snapshot', uuid=vm, new_name_label=self.name()), self.taken(vm, False)

    def checkpoint(self, m):
        need(len(m.snapshots) < SNAPSHOTS)
        vm = self.vm(m, 'running', 'paused', 'suspended')
        return self.xe('vm-checkpoint', uuid=vm, new_name_label=self.name()), self.taken(vm, True)

    def revert(self, m, keep=False):
        snap = self.one(m.snapshots)
        vm, contents, memory, originals = m.snapshots[snap]
        words = ['keep-current=true'] if keep else []

        def after(m, said):
            state, drives = m.vms[vm]
            if keep:
                new, = set(self.d.list('snapshot')) - set(m.snapshots)
                self.taken(vm, state == 'suspended')(m, new)
            now = drives_of(self.d, vm)
            for position, disk in now.items():
                original = originals[position]
                mine = original in drives.values()
                assert (disk == original) == mine, f'{disk} at {position}: {originals}, {drives}'
                assert mine or disk not in m.disks, f'{disk} is another\'s'
                for _, _, _, others in (s for s in m.snapshots.values() if s[0] == vm):
                    others.update({p: disk for p in others if others[p] == original})
                m.disks[disk] = contents[position]
            assert set(now) == set(contents), now
            m.vms[vm] = ['suspended' if memory else 'halted', now]
        return self.xe('snapshot-revert', *words, uuid=snap), after

    def keep_current(self, m):
        need(len(m.snapshots) < SNAPSHOTS)
        return self.revert(m, keep=True)

    def delete(self, m):
        snap = self.one(m.snapshots)
        return self.xe('snapshot-uninstall', '--force', uuid=snap), lambda m, said: m.snapshots.pop(snap)

    def clone(self, m):
        """A VM of a snapshot, which goes again with its disks; a change that is none."""
        snap = self.one(m.snapshots)

        def run():
            template = self.d.xe('snapshot-clone', uuid=snap, new_name_label=self.name())
            for position, disk in drives_of(self.d, template).items():
                assert self.export(disk) == m.snapshots[snap][1][position], f'a clone of {snap}'
            self.d.xe('template-uninstall', '--force', template_uuid=template)
        return run, lambda m, said: None

    def resize(self, m):
        disk = self.one(disk for disk in m.disks if m.vm_of(disk) is None or m.vms[m.vm_of(disk)][0] in ('halted', 'running'))
        blocks = len(m.disks[disk]) + self.dice.randint(1, 4)

        def after(m, said):
            m.disks[disk] = m.disks[disk].ljust(blocks, b'\0')
        return self.xe('vdi-resize', uuid=disk, disk_size=blocks * BLOCK), after

    def create(self, m):
        need(len(m.disks) < DISKS)

        def after(m, said):
            m.disks[said] = bytes(SIZE)
        return self.xe('vdi-create', sr_uuid=self.sr, name_label=self.name(), virtual_size=SIZE * BLOCK), after

    def destroy(self, m):
        disk = self.one(disk for disk in m.disks if m.vm_of(disk) is None)
        return self.xe('vdi-destroy', uuid=disk), lambda m, said: m.disks.pop(disk)

    def take_off(self, m):
        vm = self.vm(m, 'halted')
        position = self.one(m.vms[vm][1])
        vbd, = [v for v in self.d.list('vbd', vm_uuid=vm) if self.d.get('vbd', v, 'userdevice') == position]
        return self.xe('vbd-destroy', uuid=vbd), lambda m, said: m.vms[vm][1].pop(position)

    def give(self, m):
        vm, disk = self.vm(m, 'halted'), self.one(disk for disk in m.disks if m.vm_of(disk) is None)
        position = self.one({'0', '1', '2', '3'} - set(m.vms[vm][1]))
        return self.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=position), \
            lambda m, said: m.vms[vm][1].__setitem__(position, disk)

    def copy(self, m):
        need(len(m.disks) < DISKS)
        disk = self.one(disk for disk in m.disks if m.is_halted(disk))
        return self.xe('vdi-copy', uuid=disk), lambda m, said: m.disks.__setitem__(said, m.disks[disk])

    def put(self, m):
        disk = self.one(disk for disk in m.disks if m.is_halted(disk))
        content = bytes(self.dice.choices((0, 0, 1, 2, 3), k=len(m.disks[disk])))
        path = os.path.join(self.d.state, 'put')
        with open(path, 'wb') as f:
            for byte in content:
                f.write(bytes([byte]) * BLOCK)

        def after(m, said):
            m.disks[disk] = content
        return self.xe('vdi-import', uuid=disk, filename=path), after

    def get(self, m):
        disk = self.one(disk for disk in m.disks if m.is_halted(disk))

        def run():
            assert self.export(disk) == m.disks[disk], f'the export of {disk}'
        return run, lambda m, said: None

    def firmware(self, m):
        vm = self.vm(m, 'halted', 'running')
        return self.xe('vm-param-set', 'HVM-boot-params:firmware=' + self.dice.choice(('uefi', 'bios')), uuid=vm), \
            lambda m, said: None

    def mode(self, m):
        """A drive that only reads for one start; nothing is written then, for `write` would find out."""
        vm = self.vm(m, 'halted')
        need(m.vms[vm][1])

        def run():
            vbd = self.one(self.d.list('vbd', vm_uuid=vm))
            self.d.xe('vbd-param-set', 'mode=RO', uuid=vbd)
            self.d.xe('vm-start', uuid=vm)
            self.d.xe('vm-shutdown', '--force', uuid=vm)
            self.d.xe('vbd-param-set', 'mode=RW', uuid=vbd)
        return run, lambda m, said: None

    # ---- what there is ----

    def export(self, disk):
        """A byte for each block, as the server gives them: it knows what is being merged."""
        path = os.path.join(self.d.state, 'got')
        if os.path.exists(path):
            os.unlink(path)
        self.d.xe('vdi-export', uuid=disk, filename=path)
        return blocks_of(path)


DEEDS = [name for name in vars(Deeds) if name not in ('one', 'name', 'vm', 'xe', 'taken', 'export') and name[0] != '_']


def blocks_of(path):
    """A byte for each block of a raw file, each of which is of one byte."""
    blocks = bytearray()
    with open(path, 'rb') as f:
        while block := f.read(BLOCK):
            assert block == block[:1] * len(block), f'block {len(blocks)} is torn'
            blocks.append(block[0])
    return bytes(blocks)


def shows(d, disk):
    location, sr = d.sql(f"SELECT location || ' ' || SR FROM VDI WHERE uuid = '{disk}'")[0].split()
    place = json.loads(d.sql(f"SELECT device_config FROM PBD WHERE SR = '{sr}'")[0])['location']
    with tempfile.NamedTemporaryFile(prefix='stillframe-shown-') as raw:
        subprocess.run(['qemu-img', 'convert', '-U', '-f', 'qcow2', '-O', 'raw', os.path.join(place, location + '.qcow2'), raw.name],
                       check=True)
        return blocks_of(raw.name)


# ---- is it so? ----

def drives_of(d, vm):
    """position -> disk, of a VM or a snapshot."""
    return dict(row.split() for row in d.sql("SELECT VBD.userdevice || ' ' || VDI.uuid FROM VBD JOIN VM ON VBD.VM = VM.ref "
                                             f"JOIN VDI ON VBD.VDI = VDI.ref WHERE VM.uuid = '{vm}'"))


def states(d, snapshots):
    return dict(row.split() for row in d.sql("SELECT uuid || ' ' || lower(power_state) FROM VM WHERE is_default_template = 'false' "
                                             f"AND is_a_snapshot = '{str(snapshots).lower()}'"))


def differences(d, m):
    """Between the model and what there is; '' when there are none."""
    found = []

    def same(what, is_, should):
        if is_ != should:
            found.append(f'{what}: {is_}, not {should}')
    same('VMs', states(d, False), {vm: state for vm, (state, _) in m.vms.items()})
    same('snapshots', states(d, True), {snap: 'suspended' if memory else 'halted' for snap, (_, _, memory, _) in m.snapshots.items()})
    if found:
        return '; '.join(found)
    for vm, (_, drives) in m.vms.items():
        same(f'drives of {vm}', drives_of(d, vm), drives)
    snapshots = {}
    for snap, (_, contents, _, _) in m.snapshots.items():
        disks = drives_of(d, snap)
        same(f'drives of {snap}', set(disks), set(contents))
        snapshots.update({disk: contents.get(position) for position, disk in disks.items()})
    there = set(d.sql("SELECT uuid FROM VDI WHERE managed = 'true' AND type = 'user'"))
    same('disks', there, set(m.disks) | set(snapshots))
    for disk, content in {**m.disks, **snapshots}.items():
        if disk in there:
            same(f'content of {disk}', shows(d, disk), content)
    return '; '.join(found)


class Lives:
    def __init__(self, d, sr):
        self.d, self.dice = d, random.Random(SEED)
        self.deeds, self.m = Deeds(d, sr, self.dice), Model()
        self.history = []       # what has changed which disk
        self.done, self.kills, self.halves = {}, 0, {'before': 0, 'after': 0, 'between': 0}
        for i in range(3):
            vm = d.vm(f'vm {i}', memory='128MiB')
            disk = d.xe('vdi-create', sr_uuid=sr, name_label=f'disk {i}', virtual_size=SIZE * BLOCK)
            d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=0)
            self.m.disks[disk] = bytes(SIZE)
            self.m.vms[vm] = ['halted', {'0': disk}]

    def choose(self):
        while True:
            name = self.dice.choices(DEEDS, [OFTEN.get(n, 2) for n in DEEDS])[0]
            try:
                return name, *getattr(self.deeds, name)(self.m)
            except Nothing:
                pass

    def killer(self):
        """Who is killed, some time from now, and when; the daemon comes up again."""
        who = self.dice.choice(('daemon', 'daemon', 'QEMU', 'both'))
        time.sleep(self.dice.choice((0.01, 0.1, 0.6)) * self.dice.random())
        running = sorted(self.d.guests())
        if who != 'QEMU':
            self.d.process.kill()
            self.d.process.wait()
        if who != 'daemon' and running:
            vm = self.dice.choice(running)
            try:
                os.kill(self.d.guests()[vm], signal.SIGKILL)
            except (KeyError, ProcessLookupError):
                pass
        return who

    def settle(self, m):
        """A VM whose QEMU was killed is halted, whatever else is so; its disks hold what they held."""
        for vm in m.vms:
            if m.vms[vm][0] in ('running', 'paused') and vm not in self.d.guests():
                m.vms[vm][0] = 'halted'
        return m

    def ended_are_halted(self):
        alive = set(self.d.guests())
        return {vm for vm, state in states(self.d, False).items() if state in ('running', 'paused')} == alive & set(self.m.vms)

    def undisturbed(self, name, run, after):
        said = run()
        after(self.m, said)

    def disturbed(self, name, run, after):
        """Killed while it is done: what there is then is what was before, or what would be after it."""
        known = set(self.d.list('snapshot')) | set(self.d.list('vdi', managed='true'))
        result = {}

        def work():
            try:
                result['said'] = run()
            except (Failed, OSError, ValueError, EOFError, AssertionError) as e:
                result['error'] = e
        t = threading.Thread(target=work)
        t.start()
        who = self.killer()
        t.join()
        self.kills += 1
        if who != 'QEMU':
            self.d.start()
        self.d.wait_quiet(merged=False)
        wait_for(self.ended_are_halted, 60)
        self.drop_strays()
        self.d.wait_quiet(merged=False)
        befores = [self.settle(self.m.copy())]
        candidates = [('before', m) for m in befores]
        said = result.get('said') or self.new_one(name, known)
        try:
            m = self.m.copy()
            after(m, said)
            candidates.append(('after', self.settle(m)))
        except (AssertionError, KeyError, ValueError):
            pass
        if name == 'put':
            candidates.append(('between', self.between(*(m for _, m in candidates))))
        why = []
        for which, m in candidates:
            if not (difference := differences(self.d, m)):
                self.m = m
                self.halves[which] += 1
                return
            why.append(f'{which}: {difference}')
        raise AssertionError(f'{name}, {who} killed: ' + '\n'.join(why))

    def between(self, before, after):
        """A disk that exists is written over in place, and its user is told that its content is undefined: each block has
        what it had, or what was put there.  A block of zeros gives its cluster back, which QEMU gives to the next block that
        is written, before the file says that the first one has it no more."""
        m = before.copy()
        for disk, content in before.disks.items():
            put = after.disks[disk]
            if put != content:
                m.disks[disk] = now = shows(self.d, disk)
                wrong = [n for n, block in enumerate(now) if block not in (content[n], put[n]) and (put[n] or block not in put)]
                assert not wrong, f'blocks {wrong} of {now.hex()}: before {content.hex()}, put {put.hex()}'
        return m

    def note(self, deed, before):
        changed = [f'{disk[:4]}: {now.hex()}' for disk, now in self.m.disks.items() if before.disks.get(disk) != now]
        states = [f'{vm[:4]} {state} {[d[:4] for d in drives.values()]}' for vm, (state, drives) in self.m.vms.items()
                  if before.vms.get(vm) != [state, drives]]
        snaps = [f'{"+-"[s in before.snapshots]}{s[:4]} of {(self.m.snapshots.get(s) or before.snapshots[s])[0][:4]}'
                 for s in self.m.snapshots.keys() ^ before.snapshots.keys()]
        self.history.append(f'{deed}: {", ".join(changed + states + snaps)}')

    def new_one(self, name, known):
        new = (set(self.d.list('snapshot')) if name in ('snapshot', 'checkpoint') else set(self.d.list('vdi', managed='true'))) - known
        return sorted(new)[0] if len(new) == 1 else None

    def drop_strays(self):
        """Clones that were being looked at, and drives that were to be read only."""
        for template in self.d.list('template', is_default_template='false'):
            self.d.xe('template-uninstall', '--force', template_uuid=template)
        for vbd in self.d.list('vbd', mode='RO', type='Disk'):
            vm = self.d.get('vbd', vbd, 'vm-uuid')
            if vm in self.m.vms:
                if self.d.state_of(vm) != 'halted':
                    self.d.xe('vm-shutdown', '--force', uuid=vm)
                self.d.xe('vbd-param-set', 'mode=RW', uuid=vbd)

    def run(self, seconds):
        end, n = time.time() + seconds, 0
        while time.time() < end:
            n += 1
            name, run, after = self.choose()
            before, kills = self.m.copy(), self.kills
            try:
                whole = name in ('write', 'discard') or self.dice.random() > 0.15       # else blocks may be torn
                (self.undisturbed if whole else self.disturbed)(name, run, after)
                if n % 10 == 0:
                    self.d.wait_quiet(merged=False)     # files of layers that are being merged are nobody's to read
                    assert not (difference := differences(self.d, self.m)), difference
            except Exception as e:
                print('\n'.join(self.history[-120:]))
                raise Exception(f'deed {n}, {name}: {type(e).__name__} {e}') from e
            self.note(f'deed {n}, {name}' + ', killed' * (self.kills - kills), before)
            self.done[name] = self.done.get(name, 0) + 1
        self.d.wait_quiet(merged=False)
        assert not (difference := differences(self.d, self.m)), difference
        self.d.check()
        print(f'  {n} deeds, {self.kills} kills ({self.halves}), 0 differences: {self.done}')


def test_lives():
    seconds = float(os.environ.get('SECONDS', '45'))
    with FileSystem(os.environ.get('KIND', 'ext4'), 2048) as fs, Daemon() as d:
        lives = Lives(d, fs.sr(d))
        try:
            lives.run(seconds)
        finally:
            for vm in d.list('vm'):
                d.run('vm-shutdown', '--force', uuid=vm)


main(globals())
