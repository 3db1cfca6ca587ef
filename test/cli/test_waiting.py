#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Nobody waits for another's trouble, and who has to wait for an object waits as long for a disk as for a VM."""
import hashlib, json, os, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

IMPATIENT = {'operation-patience': 0.02}            # 0.4 s


def behind(d, *words, **params):
    args = [*words, *(f'{k.replace("_", "-")}={v}' for k, v in params.items())]
    return d.begin(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def came_through(p):
    out, err = p.communicate(timeout=120 * SLOW)
    assert p.returncode == 0, err.decode()
    return out.decode().strip()


def running(d, disks=2, name='vm'):
    vm = d.vm(name, disks=disks, size='1MiB')
    d.xe('vm-start', uuid=vm)
    return vm


def change_fake(d, vm, **keys):
    """In the file of the fake, whose daemon is stopped, or who is silent; None: not there any more."""
    path = os.path.join(d.state, 'run', vm, 'fake.json')
    with open(path) as f:
        state = json.load(f)
    state = {k: v for k, v in {**state, **keys}.items() if v is not None}
    with open(path + '.test', 'w') as f:
        json.dump(state, f)
    os.rename(path + '.test', path)


def written(d, vm):
    """The volumes that the VM writes, and those that its records name."""
    return sorted(chain[-1] for chain in d.fakes()[vm]['chains'].values())


def named(d, vm):
    return sorted('v' + v for v in d.sql("SELECT VDI.location FROM VDI JOIN VBD ON VBD.VDI = VDI.ref JOIN VM ON VBD.VM = VM.ref "
                                         f"WHERE VM.uuid = '{vm}'"))


# ---- at once ----

def test_snapshots_at_once():
    """Of one VM, in every pairing; and a clone of its disk beside one of the VM."""
    with in_common() as d:
        vm = running(d, 3)
        disk = d.disks(vm)['0']
        vm_snapshot = ('vm-snapshot', f'uuid={vm}', 'new-name-label=s')
        checkpoint = ('vm-checkpoint', f'uuid={vm}', 'new-name-label=c')
        of_a_disk, clone = ('vdi-snapshot', f'uuid={disk}'), ('vdi-clone', f'uuid={disk}')
        for pair in ((vm_snapshot, vm_snapshot), (vm_snapshot, checkpoint), (checkpoint, checkpoint), (vm_snapshot, of_a_disk),
                     (checkpoint, of_a_disk), (of_a_disk, of_a_disk), (vm_snapshot, clone), (clone, clone)):
            before = len(d.volumes_now())
            for p in [behind(d, *words) for words in pair]:
                came_through(p)
            assert len(d.volumes_now()) > before
            d.check()
        assert written(d, vm) == named(d, vm)
        d.xe('vm-shutdown', '--force', uuid=vm)


def test_eight_at_once():
    with in_common() as d:
        vm = running(d, 2)
        for p in [behind(d, 'vm-snapshot', uuid=vm, new_name_label=f's{i}') for i in range(8)]:
            came_through(p)
        assert len(d.list('snapshot', snapshot_of=vm)) == 8
        d.check()
        d.xe('vm-shutdown', '--force', uuid=vm)


# ---- beside a transfer ----

class Export:
    """One that does not come on, until its rest is read."""

    def __init__(self, d, vdi):
        self.d, self.p = d, behind(d, 'vdi-export', uuid=vdi, filename='')
        self.begun = self.p.stdout.read(4096)
        self.task = d.pending('VDI.export_raw')

    def end(self):
        """A sum of all that came."""
        out, err = self.p.communicate(timeout=120 * SLOW)
        assert self.p.returncode == 0, err.decode()
        return hashlib.sha256(self.begun + out).hexdigest()


def filled(d, vdi, mib, seed=1):
    content = random.Random(seed).randbytes(mib << 20)
    path = os.path.join(d.state, 'content')
    with open(path, 'wb') as f:
        f.write(content)
    d.xe('vdi-import', uuid=vdi, filename=path)
    return hashlib.sha256(content).hexdigest()


def test_snapshots_beside_an_export():
    """What leaves is what was there at its begin, whatever comes over it and goes below it."""
    with Daemon('fake') as d:
        vm = d.vm(disks=2, size='8MiB')
        disk = d.disks(vm)['0']
        content = filled(d, disk, 8)
        for what in (('vm-snapshot', f'uuid={vm}', 'new-name-label=s'), ('vdi-snapshot', f'uuid={disk}'), ('vdi-clone', f'uuid={disk}')):
            export = Export(d, disk)
            made = d.xe(*what)
            second = d.snapshot(vm, 'second')
            d.xe('snapshot-uninstall', '--force', uuid=second)
            d.xe('snapshot-uninstall' if what[0] == 'vm-snapshot' else 'vdi-destroy', f'uuid={made}',
                 *(['--force'] if what[0] == 'vm-snapshot' else []))
            assert export.end() == content, what
            d.check()
        d.xe('vm-start', uuid=vm)
        d.check()


def test_a_copy_beside_snapshots():
    with Daemon('fake') as d:
        vm = d.vm(disks=1, size='8MiB')
        disk = d.disks(vm)['0']
        content = filled(d, disk, 8)
        copies = [behind(d, 'vdi-copy', uuid=disk) for _ in range(2)]
        snaps = [behind(d, 'vm-snapshot', uuid=vm, new_name_label=f's{i}') for i in range(4)]
        made = [came_through(p) for p in copies + snaps][:2]
        for copy in made:
            assert Export(d, copy).end() == content
        d.check()


# ---- what has to wait ----

def test_a_disk_is_waited_for():
    """Until it is free: what may not go beside an export goes behind it."""
    with Daemon('fake') as d:
        vm = d.vm(disks=1, size='8MiB')
        disk = d.disks(vm)['0']
        content = filled(d, disk, 8)
        image = os.path.join(d.state, 'content')
        snap = d.snapshot(vm)
        other = d.vdi('8MiB')
        for of, call, words in ((disk, 'VM.start', ('vm-start', f'uuid={vm}')),
                                (disk, 'VDI.import_raw', ('vdi-import', f'uuid={disk}', f'filename={image}')),
                                (disk, 'VM.revert', ('snapshot-revert', f'snapshot-uuid={snap}')),
                                (disk, 'VDI.resize', ('vdi-resize', f'uuid={disk}', 'disk-size=16MiB')),
                                (other, 'VDI.destroy', ('vdi-destroy', f'uuid={other}'))):
            export = Export(d, of)
            p = behind(d, *words)
            d.pending(call)
            time.sleep(0.3)
            assert p.poll() is None, f'{words}: {p.communicate()}'
            sent = export.end()
            assert of != disk or sent == content, words
            came_through(p)
            if call == 'VM.start':
                d.xe('vm-shutdown', '--force', uuid=vm)
            d.check()


def test_no_disk_grows_while_memory_is_saved():
    """Either waits for the other: QEMU aborts, or does not save, when a disk grows at the end of a migration."""
    with Daemon('fake') as d:
        vm = d.vm(disks=1, size='8MiB')
        disk = d.disks(vm)['0']
        d.xe('vm-start', uuid=vm)
        suspend, save = ('vm-suspend', f'uuid={vm}'), ('vm-checkpoint', f'uuid={vm}', 'new-name-label=c')

        def busy(of, uuid, what):
            return lambda: what in d.get(of, uuid, 'current-operations')

        def grow(mib):
            return 'vdi-resize', f'uuid={disk}', f'disk-size={mib}MiB'

        def one_waits(first, is_busy, second, its_work, ends=came_through):
            before = len(d.log())
            change_fake(d, vm, silent=True)
            p = behind(d, *first)
            wait_for(is_busy)
            q = behind(d, *second)
            time.sleep(0.4 * SLOW)
            assert p.poll() is None and q.poll() is None and its_work not in d.log()[before:], d.log()[before:]
            change_fake(d, vm, silent=None)
            came_through(p)
            ends(q)

        def too_late(p):
            assert p.wait(60 * SLOW) == 1 and b'VM_BAD_POWER_STATE' in p.stderr.read()
        one_waits(grow(16), busy('vdi', disk, 'resize_online'), save, 'fake rehearse')
        one_waits(save, busy('vm', vm, 'checkpoint'), grow(24), 'fake resize')
        one_waits(grow(32), busy('vdi', disk, 'resize_online'), suspend, 'fake rehearse')
        d.xe('vm-resume', uuid=vm)
        one_waits(suspend, busy('vm', vm, 'suspend'), grow(40), 'fake resize', too_late)
        assert d.get('vdi', disk, 'virtual-size') == str(32 << 20)
        d.check()


def test_who_and_what():
    """After the time that a VM is waited for the refusal names the disk, what it is busy with, and whose task that is."""
    with Daemon('fake', delays=IMPATIENT) as d:
        vm = d.vm(disks=1, size='8MiB')
        disk = d.disks(vm)['0']
        filled(d, disk, 8)
        snap = d.snapshot(vm)
        ref, = d.sql(f"SELECT ref FROM VDI WHERE uuid = '{disk}'")
        export = Export(d, disk)
        task, = d.sql(f"SELECT ref FROM task WHERE uuid = '{export.task}'")
        for words in (('vm-start', f'uuid={vm}'), ('vdi-resize', f'uuid={disk}', 'disk-size=16MiB'), ('vdi-destroy', f'uuid={disk}'),
                      ('snapshot-revert', f'snapshot-uuid={snap}')):
            begin = time.time()
            said = d.fails(*words, says='OTHER_OPERATION_IN_PROGRESS')
            assert time.time() - begin > 0.4, f'{words} did not wait'
            assert f'Error parameters: VDI, {ref}, copy, {task}\n' in said, said
        export.end()
        d.xe('vm-start', uuid=vm)
        d.check()


def test_a_cancelled_wait():
    with Daemon('fake') as d:
        vm = d.vm(disks=1, size='8MiB')
        disk = d.disks(vm)['0']
        filled(d, disk, 8)
        export = Export(d, disk)
        p = behind(d, 'vm-start', uuid=vm)
        d.xe('task-cancel', uuid=d.pending('VM.start'))
        assert b'cancelled' in p.communicate(timeout=10 * SLOW)[1] and p.returncode == 1
        export.end()
        assert d.state_of(vm) == 'halted'
        d.check()


def test_a_command_for_several():
    """What has failed for the first VM of a command holds nobody up while it is at work on the others."""
    with Daemon('fake', delays={'fake-hang': 0.2, 'start-patience': 0.001}) as d:            # 6 s
        raw = d.xe('vdi-create', 'sm-config:type=raw', sr_uuid=d.sr(), name_label='raw', virtual_size='1MiB')
        first, second = d.vm('first'), running(d, 1, 'second')
        d.xe('vbd-create', vm_uuid=first, vdi_uuid=raw, device=0)
        d.xe('vm-start', uuid=first)
        for vm in (first, second):
            d.xe('vm-param-set', 'name-description=pick', uuid=vm)
        d.stop()
        change_fake(d, second, silent=True)
        d.start()
        p = behind(d, 'vm-snapshot', '--multiple', 'name-description=pick', 'new-name-label=x')
        wait_for(lambda: 'VM.snapshot error' in d.log())
        begin = time.time()
        d.xe('vm-shutdown', '--force', uuid=first)
        d.xe('vm-start', uuid=first)
        assert p.poll() is None and time.time() - begin < 4 * SLOW, 'it waited for the command'
        change_fake(d, second, silent=None)
        p.communicate()
        d.check()


# ---- devices and memory ----

def test_devices_wait_for_a_checkpoint():
    """And a checkpoint for devices: its memory and its rows know of the same ones."""
    with Daemon('fake', delays={'fake-hang': 0.02 * SLOW}) as d:            # 0.6 s
        vm = running(d, 1)
        network = d.list('network')[0]
        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi('1MiB'), device=1)
        vif = d.xe('vif-create', vm_uuid=vm, network_uuid=network, device=0)
        cd = d.xe('vbd-create', vm_uuid=vm, type='CD', mode='RO', device=3)
        disc = d.list('vdi', sr_uuid=d.isos(a=b'x' * 4096))[0]
        d.restart(env={'STILLFRAME_FAKE': 'hang=rehearse'})
        for words, deed in ((('vbd-plug', f'uuid={vbd}'), 'plug_disk'), (('vif-plug', f'uuid={vif}'), 'plug_nic'),
                            (('vbd-unplug', f'uuid={vbd}'), 'unplug_disk'), (('vif-unplug', f'uuid={vif}'), 'unplug_nic')):
            before = d.log().count('fake rehearse')
            taking = behind(d, 'vm-checkpoint', uuid=vm, new_name_label='c')
            wait_for(lambda: d.log().count('fake rehearse') > before)
            coming = behind(d, *words)
            taking.wait()
            came_through(coming)
            said = d.log()
            assert said.rindex('fake save_end ') < said.rindex(f'fake {deed} '), f'{words} did not wait'
            d.xe('vm-snapshot', uuid=vm, new_name_label='s')
        d.restart(env={'STILLFRAME_FAKE': 'hang=plug_nic'})
        coming = behind(d, 'vif-plug', uuid=vif)
        wait_for(lambda: 'fake plug_nic' in d.log().rsplit('started version', 1)[1])
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        said = d.log().rsplit('started version', 1)[1]
        assert said.index('fake plug_nic') < said.rindex('fake present') < said.index('fake save'), 'it did not wait'
        assert coming.wait() == 1
        d.restart()
        d.xe('snapshot-revert', uuid=snap, resume='true')
        assert d.fakes()[vm]['nics'] == []
        d.check()


def test_beside_a_plain_snapshot_devices_come_and_go():
    with Daemon('fake', delays={'fake-hang': 0.1}) as d:             # 3 s
        vm = running(d, 1)
        vif = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)
        d.restart(env={'STILLFRAME_FAKE': 'hang=prepare'})
        taking = behind(d, 'vm-snapshot', uuid=vm, new_name_label='s')
        wait_for(lambda: 'fake prepare' in d.log())
        d.xe('vif-plug', uuid=vif)
        assert taking.poll() is None, 'it waited'
        taking.wait()
        d.check()


# ---- guests that do not answer ----

def start_beside(d, silent, **how):
    """The daemon's start with these VMs silent; how long its doors took, in seconds."""
    d.kill()
    for vm in silent:
        change_fake(d, vm, silent=True)
    begin = time.time()
    d.start(**how)
    return time.time() - begin


def test_fifty_silent_guests():
    """The doors open, others are served, each waits for its own alone; a silent one can be ended, or answer later."""
    DELAYS = {'start-patience': 1, 'fake-hang': 0.1, 'adopt-again': 0.02}
    with Daemon('fake', delays=DELAYS) as d:
        well, *silent = [d.vm(f'vm{i}', disks=i < 2, size='1MiB') for i in range(51)]
        for p in [behind(d, 'vm-start', uuid=vm) for vm in (well, *silent)]:
            came_through(p)
        took = start_beside(d, silent)
        assert took < 2 * SLOW, f'{took:.1f} s until the doors were open'
        assert len(d.list('vm', power_state='running')) == 51
        begin = time.time()
        d.snapshot(well)
        d.xe('vm-pause', uuid=well)
        d.xe('vm-unpause', uuid=well)
        assert time.time() - begin < 2 * SLOW, 'it waited for the others'
        d.fails('vm-snapshot', uuid=silent[0], new_name_label='x', says='has not answered')
        assert d.state_of(silent[0]) == 'running'
        d.xe('vm-shutdown', '--force', uuid=silent[0])
        assert d.state_of(silent[0]) == 'halted' and silent[0] not in d.fakes()
        d.xe('vm-start', uuid=silent[0])
        for vm in silent[1:]:
            change_fake(d, vm, silent=None)
        wait_for(lambda: len(re.findall(f'guest adopted', d.log().rsplit('started version', 1)[1])) >= 40)
        for vm in silent[:3]:
            wait_for(lambda: d.run('vm-snapshot', uuid=vm, new_name_label='late')[0] == 0)
        d.check()


def test_a_silent_one_that_ends():
    """While it is asked, and when it is not asked any more: its row says so."""
    with Daemon('fake', delays={'start-patience': 0.001, 'fake-hang': 0.05, 'adopt-again': 0.01}) as d:
        vms = [running(d, 1, f'vm{i}') for i in range(2)]
        start_beside(d, vms)
        os.unlink(os.path.join(d.state, 'run', vms[0], 'fake.json'))
        d.wait_state(vms[0], 'halted', 10)
        wait_for(lambda: f'guest does not answer vm={vms[1]}' in d.log())
        os.unlink(os.path.join(d.state, 'run', vms[1], 'fake.json'))
        d.wait_state(vms[1], 'halted', 10)
        for vm in vms:
            d.xe('vm-start', uuid=vm)
        d.check()


def test_what_is_to_be_undone_of_a_silent_one():
    """Nobody knows which layer it writes: it stays busy, its disks as the rows have them, until it answers.  What is to be
    undone of others is undone meanwhile."""
    with Daemon('fake', delays={'start-patience': 0.001, 'fake-hang': 0.02, 'adopt-again': 0.01, 'timer-undo': 0.1,
                                'guest-end': 0.01}) as d:
        vm, other = running(d, 2), running(d, 1, 'other')
        died = switched = 0
        for point in range(8, 20):
            chains = d.fakes()[vm]['chains']
            d.kill()
            d.start(env={'STILLFRAME_CRASH_AT': str(point)})
            if d.run('vm-snapshot', uuid=vm, new_name_label='x')[0] == 0:
                break
            d.process.wait()
            died += 1
            d.process = None
            writes = d.fakes()[vm]['chains']
            before = named(d, vm)
            verbs = d.sql('SELECT verb FROM journal')
            change_fake(d, vm, silent=True)
            d.start()
            d.snapshot(other)
            time.sleep(0.5)
            if 'OVERLAY_KEEP' in verbs:
                switched += writes != chains
                assert 'OVERLAY_KEEP' in d.sql('SELECT verb FROM journal'), 'it was undone without the VM'
                assert named(d, vm) == before, 'a record names what nobody knows to be written'
            assert d.fakes()[vm]['chains'] == writes
            change_fake(d, vm, silent=None)
            d.wait_quiet()
            d.check()
            assert written(d, vm) == named(d, vm), f'point {point}'
        assert died > 2 and switched, (died, switched)


# ---- one that ends while others hang ----

def test_an_end_is_seen_beside_one_that_hangs():
    """The keeper of another one asks its VM, and waits for an answer that does not come."""
    with Daemon('fake', env={'STILLFRAME_FAKE': 'hang=status'}, delays={'fake-hang': 0.3}) as d:             # 9 s
        hung, ends = running(d, 1, 'hung'), running(d, 1, 'ends')
        d.xe('vm-pause', uuid=hung)
        wait_for(lambda: 'fake status' in d.log())
        begin = time.time()
        d.xe('vm-shutdown', uuid=ends)
        d.xe('vm-shutdown', '--force', uuid=hung)
        assert d.state_of(ends) == d.state_of(hung) == 'halted'
        assert time.time() - begin < 4 * SLOW, f'seen after {time.time() - begin:.1f} s'
        d.check()


# ---- the end of the daemon ----

def ended_within(d, seconds):
    begin = time.time()
    d.process.terminate()
    status = d.process.wait(60 * SLOW)
    took = time.time() - begin
    d.process = None
    assert status == 0, f'status {status}'
    assert took < seconds, f'it took {took:.1f} s'
    return took


USUAL = {'start-patience': 40, 'stop-rest': 1}


def test_it_ends_under_load():
    """Whatever clients do: calls that are cancelled, calls that go on, waits for events, and what is done in a loop."""
    with Daemon('fake', delays=USUAL) as d:
        vms = [running(d, 2, f'vm{i}') for i in range(4)]
        stop = []

        def loop(*words):
            while not stop:
                d.run(*words)

        work = [('vm-snapshot', f'uuid={vm}', 'new-name-label=s') for vm in vms] + \
               [('vm-checkpoint', f'uuid={vms[0]}', 'new-name-label=c'), ('vm-list',), ('event-wait', 'class=vm', 'name-label=never'),
                ('vm-param-set', f'uuid={vms[1]}', 'name-description=x'), ('vm-reboot', '--force', f'uuid={vms[2]}')]
        for _ in range(2):
            stop.clear()
            threads = [threading.Thread(target=loop, args=words) for words in work]
            for t in threads:
                t.start()
            time.sleep(1)
            took = ended_within(d, 2 * SLOW + 1)
            print(f'  ended within {took:.2f} s')
            stop.append(True)
            for t in threads:
                t.join()
            d.start()
            d.check()


def test_it_ends_beside_silent_guests():
    """Guests that are asked, calls that wait for one, and what is to be undone of one, are left to the next start."""
    DELAYS = {'start-patience': 0.001, 'stop-rest': 1, 'stop-patience': 0.1}
    with Daemon('fake', delays=DELAYS) as d:
        vms = [running(d, 1, f'vm{i}') for i in range(3)]
        start_beside(d, vms)
        waiting = behind(d, 'vm-snapshot', uuid=vms[0], new_name_label='s')
        d.pending('VM.snapshot')
        ended_within(d, 2 * SLOW + 1)
        waiting.communicate()
        for vm in vms:
            change_fake(d, vm, silent=None)
        d.start()
        wait_for(lambda: f'fake agent vm={vms[1]}' in d.log().rsplit('accelerator chosen', 1)[1])       # it is adopted
        change_fake(d, vms[1], silent=True)
        asking = behind(d, 'vm-pause', uuid=vms[1])
        wait_for(lambda: d.log().count('fake pause') == 1)
        ended_within(d, 3 * SLOW + 1)                 # the call heeds no cancel: stop-patience, and the rest
        asking.communicate()
        change_fake(d, vms[1], silent=None)
        d.start()
        d.check()


main(globals())
