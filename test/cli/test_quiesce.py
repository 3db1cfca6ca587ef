#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Quiesced snapshots with agents that are played by the test: honest ones, those of Windows with what they say when it
goes wrong, and hostile ones.  Whatever happens, it is told, it ends, and the guest is thawed."""
import base64, glob, os, re, signal, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from agent import *
from rpc import *

SELDOM = ['--agent-interval', '0']
THAWED_S = 10           # within this, whatever happens
SOON = {'quiesce-pause': 0.1, 'timer-undo': 0.1}       # attempts follow each other sooner, and those of a thaw
# What an agent or a guest may take, shorter, where one takes it all.
PART = 0.3
HEARD_SOON = {name: PART for name in ('freezer-meet', 'freezer-ask', 'freezer-leave', 'freezer-slack', 'freeze-release')}
SHORT = {**SOON, **HEARD_SOON, **{name: PART for name in ('setting-second', 'freeze-thaw', 'freeze-hold')}}


def quiesced(d, vm, **kw):
    return d.xe('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q', **kw)


def info(d, snap):
    return json.loads(d.sql(f"SELECT snapshot_info FROM VM WHERE uuid = '{snap}'")[0])


def is_refused(d, vm, says='', code=None, command='vm-snapshot-with-quiesce', within=30, **kw):
    """Fails with this code and these words, leaves nothing, and says so soon; what it says."""
    begin = time.time()
    said = d.fails(command, uuid=vm, new_name_label='q', says=says, **kw)
    assert time.time() - begin < within * SLOW, f'{time.time() - begin:.0f} s for {said}'
    if code:
        assert f'\nError code: {code}\n' in said, (said, code)
    assert not d.list('snapshot')
    return said


def frozen_and_thawed(agent):
    return [c.replace('guest-fsfreeze-', '') for c in agent.commands() if re.match('guest-fsfreeze-(freeze|thaw)', c)]


# ---- it works ----

def test_taken():
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        assert 'snapshot_with_quiesce' in d.get('vm', vm, 'allowed-operations')
        status, out, err = d.run('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q')
        assert status == 0, err
        for words in ('its file systems held still for ', 'filesystem consistent', 'attempts: 1'):
            assert words in err, err
        snap = out.strip()
        i = info(d, snap)
        assert (i['disk-snapshot-type'], i['consistency'], i['attempts']) == ('quiesced', 'filesystem', '1'), i
        assert i['power-state-at-snapshot'] == 'Running' and float(i['guest-pause-ms']) > 0
        assert float(i['freeze-ms']) < 1000 * SLOW
        assert frozen_and_thawed(agent) == ['freeze', 'thaw'] and not agent.frozen
        assert len(d.disks(snap)) == 2
        assert info(d, d.snapshot(vm))['disk-snapshot-type'] == 'crash_consistent'
        log = d.log()
        frozen, switched = log.index('fake prepare'), log.index('fake switch_disks')
        assert frozen < switched, 'prepared before the freeze'
        d.check()


def test_an_unpause_that_is_refused():
    """It thaws nobody: that is for the one that lets the guest go on."""
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        d.stop()
        d.sql_write(f"UPDATE VM SET frozen = 'true' WHERE uuid = '{vm}'")
        d.start()
        d.fails('vm-unpause', uuid=vm, says='power state')
        assert frozen_and_thawed(agent) == []
        d.xe('vm-pause', uuid=vm)
        d.xe('vm-unpause', uuid=vm)
        assert set(frozen_and_thawed(agent)) == {'thaw'}
        d.check()


def test_freeze_list():
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        d.xe('vm-param-set', 'other-config:quiesce-mounts=/srv/data,/var', uuid=vm)
        quiesced(d, vm)
        assert [m['arguments'] for m in agent.heard if m['execute'] == 'guest-fsfreeze-freeze-list'] == \
            [{'mountpoints': ['/srv/data', '/var']}]


def test_what_was_reached():
    """Applications held still where Windows says so, or a hook that ran in this freeze."""
    class Hooked(Agent):
        ago, names = 0, 'postgresql'

        def guest_fsfreeze_freeze(self, s, a):
            self.said = f'{int(time.time()) - self.ago} {self.names}\n'
            super().guest_fsfreeze_freeze(s, a)

        def guest_file_open(self, s, a):
            assert a['path'] == '/run/stillframe-freeze'
            self.reply(s, 1000)

        def guest_file_read(self, s, a):
            self.reply(s, {'count': len(self.said), 'buf-b64': base64.b64encode(self.said.encode()).decode(), 'eof': True})

        def guest_file_close(self, s, a):
            self.reply(s, {})

        def guest_get_time(self, s, a):
            self.reply(s, time.time_ns())

    class Windows(Agent):
        def guest_get_osinfo(self, s, _):
            self.reply(s, {'id': 'mswindows', 'name': 'Microsoft Windows', 'kernel-version': '10.0'})

    class Yesterday(Hooked):
        ago = 86400

    class NoNames(Hooked):
        names = ''

    class Binary(Hooked):
        def guest_file_read(self, s, a):
            self.reply(s, {'count': 9, 'buf-b64': '!!!', 'eof': True})

    for kind, wanted in ((Hooked, 'application'), (Windows, 'application'), (Yesterday, 'filesystem'),
                         (NoNames, 'filesystem'), (Binary, 'filesystem')):
        with Daemon('fake', options=SELDOM) as d:
            vm, agent = guest_with(d, kind)
            assert info(d, quiesced(d, vm))['consistency'] == wanted, kind


# ---- it does not at first, or not at all ----

def test_attempts():
    class Busy(Agent):
        refusals = 2

        def guest_fsfreeze_freeze(self, s, a):
            self.refusals -= 1
            if self.refusals < 0:
                return super().guest_fsfreeze_freeze(s, a)
            self.refuse(s, f'failed to gather writer status: {self.refusals}')

    with Served(options=SELDOM, delays=SOON) as d:
        vm, agent = guest_with(d, Busy)
        s = Session(Json(d.port), d)
        task = s.Async.VM.snapshot_with_quiesce(s.VM.get_by_uuid(vm), 'q')
        assert s.VM.get_snapshot_info(finished(s, task))['attempts'] == '3'
        tried = s.task.get_other_config(task)
        assert 'writer status: 1' in tried['attempt-1'] and 'writer status: 0' in tried['attempt-2'], tried
        d.check()
        for how in ({'attempts': 2}, {}):
            agent.refusals = 2
            d.xe('vm-param-set', 'other-config:quiesce-attempts=2', uuid=vm)
            for snap in d.list('snapshot'):
                d.xe('snapshot-uninstall', '--force', uuid=snap)
            said = is_refused(d, vm, code='XEN_VSS_REQ_ERROR_PREPARING_WRITERS', **how)
            assert 'attempt 1: ' in said and 'writer status: 1; attempt 2: ' in said, said
        d.check()


def test_a_busy_disk():
    """Somebody else has a disk: it is tried again, and the last error says who has it."""
    with Served(options=SELDOM, delays={**SOON, 'operation-patience': 0.02}) as d:
        vm, agent = guest_with(d)
        ref = d.sql("SELECT ref FROM VDI WHERE name_label = 'web 1'")[0]
        d.stop()
        d.sql_write(f"UPDATE VDI SET current_operations = '{{\"OpaqueRef:x\": \"resize\"}}' WHERE ref = '{ref}'")
        d.start()
        until(lambda: live(d, vm) == 'true')
        is_refused(d, vm, f'Error parameters: VDI, {ref}, resize, OpaqueRef:x\n', 'OTHER_OPERATION_IN_PROGRESS', attempts=2)
        s = Session(Json(d.port), d)
        d.xe('vm-param-set', 'other-config:quiesce-attempts=2', uuid=vm)
        task = s.Async.VM.snapshot_with_quiesce(s.VM.get_by_uuid(vm), 'q')
        until(lambda: s.task.get_status(task) == 'failure')
        tried = s.task.get_other_config(task)
        assert set(tried) == {'attempt-1', 'attempt-2'} and not agent.frozen, tried


def test_fallback():
    class Never(Agent):
        def guest_fsfreeze_freeze(self, s, a):
            self.refuse(s, 'hook has failed')

    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d, Never)
        is_refused(d, vm, code='VM_SNAPSHOT_WITH_QUIESCE_FAILED', attempts=1)
        snap = quiesced(d, vm, attempts=2, fallback='true')
        i = info(d, snap)
        assert (i['disk-snapshot-type'], i['consistency'], i['attempts']) == ('crash_consistent', 'crash', '2'), i
        assert 'hook has failed' in i['quiesce-error'] and 'freeze-ms' not in i
        d.check()


def test_not_supported():
    class Cannot(Agent):
        can_freeze = False

    with Daemon('fake', options=SELDOM) as d:
        vm = d.vm('none', disks=1)
        is_refused(d, vm, code='VM_BAD_POWER_STATE')
        d.xe('vm-start', uuid=vm)
        is_refused(d, vm, code='VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED')
        vm, agent = guest_with(d, Cannot)
        assert 'snapshot_with_quiesce' not in d.get('vm', vm, 'allowed-operations')
        is_refused(d, vm, code='VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED')
        is_refused(d, vm, code='VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED', command='vm-checkpoint', quiesce='true')


def test_bad_input():
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        for attempts in ('0', '-1', 'x', '101'):
            is_refused(d, vm, attempts, attempts=attempts)
        is_refused(d, vm, 'maybe', fallback='maybe')
        for key in ('attempts', 'timeout'):
            for value in ('0', '-1', 'x', '10000'):
                d.xe('vm-param-set', f'other-config:quiesce-{key}={value}', uuid=vm)
                is_refused(d, vm, f'quiesce-{key}')
            d.xe('vm-param-remove', uuid=vm, param_name='other-config', param_key=f'quiesce-{key}')
        d.xe('vm-param-set', f'other-config:quiesce-mounts={"/x," * 20000}', uuid=vm)
        is_refused(d, vm, 'too many mount points')
        assert not frozen_and_thawed(agent).count('freeze')
        d.check()


WINDOWS = {
    'fsfreeze not possible as VSS failed to initialize': 'INIT_FAILED',
    'failed to create VSS backup components: (error: 80042302)': 'INIT_FAILED',
    'failed to set backup context: (error: 8004231b)': 'INIT_FAILED',
    'failed to get requester_freeze address from qga-vss.dll': 'PROV_NOT_LOADED',
    'failed to find first volume: ': 'NO_VOLUMES_SUPPORTED',
    'failed to start snapshot set: (error: 80042316)': 'START_SNAPSHOT_SET_FAILED',
    'failed to add C:\\ to snapshot set: (error: 8004230c)': 'ADDING_VOLUME_TO_SNAPSET_FAILED',
    'failed to gather writer metadata: (error: 80042318)': 'PREPARING_WRITERS',
    'failed to add component Registry(System Writer)': 'PREPARING_WRITERS',
    'failed to do snapshot set: (error: 80042306)': 'CREATING_SNAPSHOT',
    'DoSnapshotSet exited without Frozen event': 'CREATING_SNAPSHOT',
    "couldn't receive Frozen event from VSS provider": 'CREATING_SNAPSHOT',
}


def test_windows():
    """What its agent says goes into the errors that XenServer has for it."""
    class Windows(Agent):
        says = None

        def guest_fsfreeze_freeze(self, s, a):
            if self.says:
                self.refuse(s, self.says)
            else:
                self.reply(s, 0)

        def guest_get_osinfo(self, s, _):
            self.reply(s, {'id': 'mswindows', 'name': 'Microsoft Windows', 'kernel-version': '10.0'})

    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d, Windows)
        for agent.says, code in WINDOWS.items():
            said = is_refused(d, vm, code='XEN_VSS_REQ_ERROR_' + code, attempts=1)
            assert agent.says.strip(': ') in said, said
        agent.says = None
        is_refused(d, vm, code='XEN_VSS_REQ_ERROR_NO_VOLUMES_SUPPORTED', attempts=1)
        d.check()


def test_windows_lets_go():
    """After 10 s VSS goes on by itself, which the thaw tells: what was taken is thrown away."""
    class LetsGo(Agent):
        def guest_fsfreeze_thaw(self, s, a):
            if not self.frozen:
                return self.reply(s, 0)
            self.frozen = 0
            self.refuse(s, "couldn't hold writes: fsfreeze is limited up to 10 seconds: ")

    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d, LetsGo)
        said = is_refused(d, vm, code='XEN_VSS_REQ_ERROR_CREATING_SNAPSHOT', attempts=2)
        assert said.split('Error code: ')[0].count('limited up to 10 seconds') == 2
        d.wait_quiet()
        d.check()
        snap = d.snapshot(vm)
        assert len(d.disks(snap)) == 2


class Silent(Agent):
    def guest_fsfreeze_freeze(self, s, a):
        pass


class Leaves(Agent):
    def guest_fsfreeze_freeze(self, s, a):
        self.frozen = 2
        s.shutdown(socket.SHUT_RDWR)


class Garbage(Agent):
    def guest_fsfreeze_freeze(self, s, a):
        for _ in range(64):
            s.sendall(os.urandom(65536))


class EndlessLine(Agent):
    """1 GiB without an end of line."""
    def guest_fsfreeze_freeze(self, s, a):
        self.frozen = 2
        s.sendall(b'{"return": ')
        for _ in range(1 << 10):
            s.sendall(b'1' * (1 << 20))


class HalfALine(Agent):
    def guest_fsfreeze_freeze(self, s, a):
        self.frozen = 2
        s.sendall(b'{"return": 2')


class WrongIds(Agent):
    """From when it was asked once: a guest that cannot be heard is not asked to freeze."""
    def guest_sync_delimited(self, s, a):
        if 'guest-info' in self.commands():
            s.sendall(b'\xff{"return": 1}\n' * 4096)
        else:
            super().guest_sync_delimited(s, a)


class Deaf(Agent):
    def guest_fsfreeze_status(self, s, a):
        pass


class Nothing(Agent):
    file_systems = 0


class Fewer(Agent):
    """Somebody in the guest has thawed one of its file systems meanwhile."""
    def guest_fsfreeze_thaw(self, s, a):
        self.frozen = max(0, self.frozen - 1)
        super().guest_fsfreeze_thaw(s, a)


class NoThaw(Agent):
    """It hangs between the two, for ever."""
    def guest_fsfreeze_thaw(self, s, a):
        if self.frozen:
            time.sleep(1000)
        super().guest_fsfreeze_thaw(s, a)


class Strange(Agent):
    def guest_fsfreeze_freeze(self, s, a):
        self.reply(s, {'frozen': '\x1b[2J'})


FAILURES = [(Silent, 'TIMEOUT'), (Leaves, 'TIMEOUT'), (Garbage, 'TIMEOUT'), (EndlessLine, 'TIMEOUT'),
            (HalfALine, 'TIMEOUT'), (WrongIds, 'PLUGIN_DEOS_NOT_RESPOND'), (Deaf, 'PLUGIN_DEOS_NOT_RESPOND'),
            (Nothing, 'FAILED'), (Fewer, 'FAILED'), (NoThaw, 'TIMEOUT'), (Strange, 'FAILED')]


def peak_kb(d):
    with open(f'/proc/{d.process.pid}/status') as f:
        return int(re.search(r'^VmHWM:\s+(\d+) kB', f.read(), re.M)[1])


def test_failures():
    for kind, code in FAILURES:
        with Daemon('fake', options=SELDOM, delays=SHORT) as d:
            vm, agent = guest_with(d, kind)
            d.snapshot(vm)
            d.xe('snapshot-uninstall', '--force', uuid=d.list('snapshot')[0])
            d.xe('vm-param-set', 'other-config:quiesce-timeout=3', uuid=vm)
            before = peak_kb(d)
            begin = time.time()
            is_refused(d, vm, code=f'VM_SNAPSHOT_WITH_QUIESCE_{code}', attempts=1, within=30 * PART)
            took, grown = time.time() - begin, peak_kb(d) - before
            print(f'  {kind.__name__}: {code}, {took:.1f} s, {grown} KiB')
            assert SLOW > 1 or grown < 16 << 10
            if kind not in (NoThaw, WrongIds, Deaf):
                until(lambda: not agent.frozen, THAWED_S * PART)
                d.wait_quiet()
                d.check()
            for line in d.log().splitlines():
                assert line.isprintable() and len(line) < 1000, line
            if kind is not NoThaw:
                quick = time.time()
                d.snapshot(vm)
                assert time.time() - quick < 10 * PART * SLOW


def test_a_late_freeze():
    """The agent freezes when nobody waits for it any more: it finds the thaw behind it."""
    class Late(Agent):
        def guest_fsfreeze_freeze(self, s, a):
            time.sleep(5 * PART)
            self.was_frozen = True
            super().guest_fsfreeze_freeze(s, a)

    with Daemon('fake', options=SELDOM, delays=SHORT) as d:
        vm, agent = guest_with(d, Late)
        d.xe('vm-param-set', 'other-config:quiesce-timeout=2', uuid=vm)
        is_refused(d, vm, code='VM_SNAPSHOT_WITH_QUIESCE_TIMEOUT', attempts=1)
        until(lambda: getattr(agent, 'was_frozen', False), 20)
        until(lambda: not agent.frozen, 2)
        d.wait_quiet()
        d.check()


def test_others_are_not_kept_waiting():
    """A hook that hangs for ever: what else is done with the VM is done."""
    class Hangs(Agent):
        def guest_fsfreeze_freeze(self, s, a):
            time.sleep(1000)

    with Daemon('fake', options=SELDOM, delays={**SOON, **HEARD_SOON, 'quiesce-long': 0.25}) as d:
        vm, agent = guest_with(d, Hangs)
        t = threading.Thread(target=lambda: said.append(d.run('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q')))
        said = []
        t.start()
        until(lambda: 'guest-fsfreeze-freeze' in agent.commands())
        begin = time.time()
        d.xe('vm-list', uuid=vm)
        d.xe('vm-param-set', uuid=vm, name_description='meanwhile')
        d.get('vm', vm, 'allowed-operations')
        disk = d.vdi()
        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=5)
        d.xe('vbd-plug', uuid=vbd)
        d.xe('vbd-unplug', uuid=vbd)
        assert t.is_alive() and time.time() - begin < 10 * SLOW
        begin = time.time()
        d.snapshot(vm)                                  # has its disks, and that attempt fails
        assert time.time() - begin < 10 * SLOW
        t.join(30 * SLOW)
        assert said and said[0][0] != 0 and len(d.list('snapshot')) == 1, said
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.wait_quiet()
        vm, agent = guest_with(d, Hangs, 'other')
        said = []
        t = threading.Thread(target=lambda: said.append(d.run('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q')))
        t.start()
        until(lambda: 'guest-fsfreeze-freeze' in agent.commands())
        task = d.pending('VM.snapshot_with_quiesce')
        d.xe('task-cancel', uuid=task)
        t.join(10 * SLOW)
        assert said and said[0][0] != 0, said
        d.snapshot(vm)
        begin = time.time()
        t = threading.Thread(target=lambda: said.append(d.run('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q')))
        t.start()
        time.sleep(1)
        d.xe('vm-shutdown', '--force', uuid=vm)
        t.join(40 * SLOW)
        assert len(said) == 2 and said[1][0] != 0, said
        d.wait_quiet()


def test_held_too_long():
    """The instant hangs: the guest is thawed within VSS's 10 s."""
    # Half of the time; the instant hangs for longer than that.
    with Daemon('fake', options=SELDOM, delays={'freeze-hold': 0.5, 'fake-hang': 0.2}) as d:
        vm, agent = guest_with(d)
        d.restart(env={'STILLFRAME_FAKE': 'hang=switch_disks'})
        t = threading.Thread(target=lambda: said.append(d.run('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q')))
        said = []
        t.start()
        until(lambda: agent.frozen)
        begin = time.time()
        until(lambda: not agent.frozen, 10)
        held = time.time() - begin
        print(f'  held for {held:.1f} s')
        assert 2.5 < held < THAWED_S / 2
        t.join()
        assert said[0][0] != 0 and not d.list('snapshot'), said


# ---- who is killed ----

def freezers(d):
    """The processes that hold a guest of this daemon's, or are about to."""
    found = []
    for path in glob.glob('/proc/[0-9]*/cmdline'):
        try:
            with open(path, 'rb') as f:
                if not f.read().startswith(b'stillframe-freezer'):
                    continue
            pid = int(path.split('/')[2])
            with open(f'/proc/{pid}/environ', 'rb') as f:
                if f'STILLFRAME_TEST={d.state}'.encode() in f.read():
                    found.append(pid)
        except OSError:
            pass
    return found


def test_freezer_killed():
    """We thaw, where it cannot."""
    class Slow(Agent):
        def guest_fsfreeze_freeze(self, s, a):
            super().guest_fsfreeze_freeze(s, a)
            for pid in freezers(self.d):
                os.kill(pid, signal.SIGKILL)

    with Daemon('fake', options=SELDOM, start=False) as d:
        d.env = {'STILLFRAME_TEST': d.state}
        d.start()
        vm, agent = guest_with(d, Slow)
        agent.d = d
        is_refused(d, vm, code='VM_SNAPSHOT_WITH_QUIESCE_FAILED', attempts=1)
        until(lambda: not agent.frozen, THAWED_S)
        d.check()


def test_left_frozen():
    """By a daemon and a freezer that are both gone: the next daemon thaws it, and it can be frozen again."""
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        agent.frozen = 2
        d.restart()
        until(lambda: not agent.frozen, THAWED_S)
        d.xe('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q')
        assert 'found frozen' in d.log()
        d.check()


def killed_at_points(command, **kw):
    """The daemon ends at points of the operation, and stays away: within 10 s the guest is thawed."""
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        frozen = 0
        for n in dying_points(60):
            d.restart(env={'STILLFRAME_CRASH_AT': str(n)})
            until(lambda: d.process.poll() is not None or live(d, vm) == 'true')
            before = frozen_and_thawed(agent).count('freeze')
            status, _, said = d.run(command, uuid=vm, new_name_label='q', **kw)
            frozen += frozen_and_thawed(agent).count('freeze') > before
            until(lambda: not agent.frozen, THAWED_S)
            if status == 0:
                break
            d.process.wait(60)
            d.process = None
            d.start()
            d.wait_quiet()
            until(lambda: not agent.frozen, THAWED_S)
            d.check()
        assert n > 5, (n, said)
        print(f'  survives point {n}, frozen {frozen} times')
        assert len(d.list('snapshot')) >= 1
        d.wait_quiet()
        d.check()


def test_killed():
    killed_at_points('vm-snapshot-with-quiesce')


def test_killed_with_memory():
    killed_at_points('vm-checkpoint', quiesce='true')


def test_killed_as_it_comes_back():
    """A guest whose memory was saved frozen: once its image is gone it goes on, and is thawed, with no daemon there."""
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='q', quiesce='true')
        for place, goes_on in ((1, False), (2, True)):
            d.xe('snapshot-revert', uuid=snap)
            agent.frozen = 2
            d.kill()
            d.start(env={'STILLFRAME_CRASH_STANDING': str(place)})
            assert d.run('vm-resume', uuid=vm)[0] != 0
            d.process.wait(60)
            d.process = None
            if goes_on:
                until(lambda: not agent.frozen, THAWED_S)
            assert d.fakes()[vm]['paused'] != goes_on and bool(agent.frozen) != goes_on, d.log()[-2000:]
            d.start()
            d.wait_quiet()
            assert d.state_of(vm) == ('running' if goes_on else 'suspended') and bool(agent.frozen) != goes_on
            d.check()


# ---- with memory ----

def test_checkpoint():
    """A frozen guest is saved, and thawed before anything is told of its coming back."""
    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d)
        d.xe('vm-pause', uuid=vm)
        is_refused(d, vm, code='VM_BAD_POWER_STATE', command='vm-checkpoint', quiesce='true')
        d.xe('vm-unpause', uuid=vm)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='q', quiesce='true')
        i = info(d, snap)
        assert (i['disk-snapshot-type'], i['consistency'], i['method']) == \
            ('quiesced', 'filesystem', 'background-snapshot'), i
        assert frozen_and_thawed(agent) == ['freeze', 'thaw'] and not agent.frozen
        log = d.log()
        assert log.index('fake rehearse') < log.index('fake save ')
        with open(d.memory_of(snap), 'rb') as f:
            assert b'"frozen": true' in f.read().replace(b'"frozen":true', b'"frozen": true')

        agent.frozen = 2                            # as its memory has it
        d.xe('snapshot-revert', uuid=snap, resume='true')
        assert not agent.frozen, 'told before it was thawed'
        d.check()

        d.xe('snapshot-revert', uuid=snap)
        d.xe('vm-resume', '--paused', uuid=vm)
        agent.frozen = 2
        again = d.xe('vm-checkpoint', uuid=vm, new_name_label='of a frozen one')
        agent.still = True
        d.restart()
        assert agent.frozen
        agent.still = False
        d.xe('vm-unpause', uuid=vm)
        assert not agent.frozen
        d.check()

        d.xe('snapshot-revert', uuid=again)
        agent.frozen = 2
        d.xe('vm-resume', uuid=vm)
        assert not agent.frozen
        plain = d.xe('vm-checkpoint', uuid=vm, new_name_label='plain')
        with open(d.memory_of(plain), 'rb') as f:
            assert b'"frozen": true' not in f.read().replace(b'"frozen":true', b'"frozen": true')
        d.check()


def test_checkpoint_fails():
    class Never(Agent):
        def guest_fsfreeze_freeze(self, s, a):
            self.refuse(s, 'hook has failed')

    with Daemon('fake', options=SELDOM) as d:
        vm, agent = guest_with(d, Never)
        d.fails('vm-checkpoint', uuid=vm, new_name_label='q', quiesce='true', attempts=2, says='attempt 2: ')
        d.check()
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='q', quiesce='true', attempts=1, fallback='true')
        assert info(d, snap)['consistency'] == 'crash'
        d.check()


main(globals())
