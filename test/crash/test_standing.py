#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The daemon is killed while a guest stands still for it, and stays away: the guest goes on within a second, unless it is
to stay.  Then the daemon comes back, and all is as before the deed or as after it.

Without KILLS in the environment at some of the places where a guest stands (EVERY=1: at all); with it so often at these
places that a guest had to go on, and at random moments between."""
import contextlib, json, os, signal, socket, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from layers import wait_for
from test_points import world

KILLS = int(os.environ.get('KILLS', '0'))
WITHIN_S = 1
NEW_WITHIN_S = 3        # in a process that has just loaded it, and to which the line is opened anew
BETWEEN = 4             # kills where the guest stands, for one at random
NO_WRITE_PROTECTION = ('unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /mnt && touch /mnt/none && '
                       'mount --bind /mnt/none /dev/userfaultfd && exec "$@"', 'sh')


def run_state(d, vm):
    """What its QEMU says, whose daemon is gone."""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10 * SLOW)
        s.connect(os.path.join(d.state, 'run', vm, 'qmp.sock'))
        f = s.makefile('rw')
        f.readline()
        for command in ('qmp_capabilities', 'query-status'):
            f.write(json.dumps({'execute': command, 'id': command}) + '\n')
            f.flush()
            # what a killed daemon had asked may be answered here
            while (answer := json.loads(f.readline())).get('id') != command:
                pass
    return answer['return']['status']


class Guest:
    """One that counts on its disks and churns its memory, with the line to whichever process it has."""

    def __init__(self, d, vm, s):
        self.d, self.vm, self.s, self.pid, self.kept = d, vm, s, d.guests()[vm], None
        self.boot = s.fields('status')['boot']
        s.churn('start', None, 16, 50)
        s.ask('count start')

    def line(self):
        if (pid := self.d.guests()[self.vm]) != self.pid:
            self.s.close()
            self.s, self.pid = again(self.d, self.vm), pid
        return self.s

    def counter(self):
        return int(self.line().fields('status')['counter'])

    def goes_on(self, since):
        """How long after that it has been seen to count."""
        first = self.counter()
        while self.counter() == first:
            assert time.time() < since + 30 * SLOW, 'the guest stands'
        return time.time() - since

    def is_sound(self):
        assert self.line().churn('report', None)['wrong'] == 0
        status = self.s.fields('status')
        assert status['boot'] == self.boot and status['a.errors'] == status['b.errors'] == '0', status

    def runs(self):
        if self.d.state_of(self.vm) == 'suspended':
            self.d.xe('vm-resume', uuid=self.vm)

    def snapshots(self):
        return [s for s in self.d.list('snapshot') if s != self.kept]

    def tidy(self):
        for snap in self.snapshots():
            self.d.xe('snapshot-uninstall', '--force', uuid=snap)
        self.d.wait_quiet()


# ---- the deeds: what comes before, and the command ----

def snapshot(g):
    return 'vm-snapshot', f'uuid={g.vm}', 'new-name-label=s'


def checkpoint(g):
    return 'vm-checkpoint', f'uuid={g.vm}', 'new-name-label=c'


def suspend(g):
    return 'vm-suspend', f'uuid={g.vm}'


def resume(g):
    g.d.xe('vm-suspend', uuid=g.vm)
    return 'vm-resume', f'uuid={g.vm}'


def revert(g):
    g.kept = g.kept or g.d.xe(*checkpoint(g))
    return 'snapshot-revert', f'uuid={g.kept}'


def merge(g):
    """Of what came behind the newest snapshot, which goes: from the top."""
    snaps = [g.d.snapshot(g.vm, str(n)) for n in range(2)]
    g.d.wait_quiet()
    return 'snapshot-uninstall', '--force', f'uuid={snaps[1]}'


PLACES = {checkpoint: 3, suspend: 5, resume: 2, revert: 2, merge: 3}     # at which the guest stands
PLACES_PRECOPY = {checkpoint: 2}


class Kills:
    def __init__(self, g):
        self.g, self.d, self.took = g, g.d, []
        self.n, self.at_random, self.let_go = 0, 0, 0       # n: it stood, and had to go on

    def is_over(self, deed, p):
        """It has succeeded, and nothing of it is under way any more."""
        if p.poll() != 0:
            return False
        snaps, = self.d.sql("SELECT count(*) FROM VM WHERE is_a_snapshot = 'true'")
        layers = [v for v in self.d.volumes_now() if v.endswith('.qcow2')]
        return deed is not merge or (len(layers) == 2 * (1 + snaps) and not self.d.sql('SELECT verb FROM journal'))

    def dies(self, deed, words, place, after):
        """At that place, or after so many seconds; when.  None: it did not."""
        d = self.d
        d.kill()
        d.start(env={'STILLFRAME_CRASH_STANDING': str(place)} if place else None)
        p = d.begin(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if not place:
            time.sleep(after)
            d.process.send_signal(signal.SIGKILL)
        end = time.time() + 120 * SLOW
        while subprocess.Popen.poll(d.process) is None:
            if place and self.is_over(deed, p):
                p.wait()
                return None
            assert time.time() < end, f'{words} does not end\n{d.log()[-3000:]}'
            time.sleep(0.002)
        since = time.time()
        assert d.process.returncode == -9, d.log()[-3000:]
        p.wait()
        return since

    def left_alone(self, since):
        """What becomes of the guest while nobody but the caretaker is there; whether it had to go on."""
        d, vm = self.d, self.g.vm
        state, = d.sql(f"SELECT power_state FROM VM WHERE uuid = '{vm}'")
        if state == 'Running':
            then = self.g.pid
            self.took.append(self.g.goes_on(since))
            within_s = WITHIN_S if self.g.pid == then else NEW_WITHIN_S
            assert self.took[-1] < within_s * SLOW, f'it went on after {self.took[-1]:.2f} s\n{d.log()[-3000:]}'
        d.process.wait()
        if state != 'Running' and vm in d.guests():
            assert run_state(d, vm) != 'running', f'{state}, and it runs'
        self.let_go += d.log().count('guest let go on')
        return state == 'Running'

    def consistent(self, before):
        """All but the VM itself is what it was, or gone, as a snapshot that is being deleted."""
        now, vm = world(self.d), self.g.vm
        assert (now.vms[vm][0][3] == 'Running') == now.vms[vm][4], now.vms[vm]
        for uuid in set(before.vms) & set(now.vms) - {vm}:
            assert before.vms[uuid] == now.vms[uuid], (before.vms[uuid], now.vms[uuid])
        for uuid in set(before.disks) & set(now.disks):
            then, is_now = before.disks[uuid], now.disks[uuid]
            assert then[0] == is_now[0] and (None in (then[1], is_now[1]) or then[1] == is_now[1]), (uuid, then, is_now)

    def kill(self, deed, place=0, after=0.0):
        words = deed(self.g)
        before = world(self.d)
        open(os.path.join(self.d.state, 'test.log'), 'w').close()
        since = self.dies(deed, words, place, after)
        if since is None:
            raise Exception(f'{deed.__name__} has no place {place}')
        goes_on = self.left_alone(since)
        self.n += bool(place and goes_on)
        self.at_random += not place
        self.d.start()
        self.d.check()
        self.consistent(before)
        self.g.runs()
        self.g.is_sound()
        self.g.tidy()

    def usual(self, deed):
        """How long it takes when nobody is killed."""
        words = deed(self.g)
        begin = time.time()
        self.d.xe(*words)
        took = time.time() - begin
        self.g.runs()
        self.g.tidy()
        return took

    def tell(self, what):
        print(f'  {what}: {self.n} kills where the guest stood and had to go on, {self.at_random} at random; it was seen to count '
              f'within {max(self.took):.2f} s each time, and QEMU was told so {self.let_go} times')


def some_of(places):
    for deed, n in places.items():
        for place in sorted(dice.sample(range(1, n + 1), n if EVERY == 1 or KILLS else (n + 1) // 2)):
            yield deed, place


def kill_all(what, places, more=(), kills=0):
    with golden('two', **what) as (d, vm, s):
        k = Kills(Guest(d, vm, s))
        for deed, place in some_of(places):
            k.kill(deed, place)
        took = {deed: k.usual(deed) for deed in (*places, *more)} if kills else {}
        while k.n < kills:
            k.kill(*dice.choice([(deed, n) for deed, most in places.items() for n in range(1, most + 1)]))
            if k.n > BETWEEN * k.at_random:
                k.kill(deed := dice.choice(list(took)), after=dice.random() * took[deed])
        k.g.s.close()
        return k


def test_a_guest_is_not_left_standing():
    kill_all({}, PLACES, (snapshot,), KILLS).tell('background snapshot')


def test_without_write_protection():
    need_root()
    k = kill_all({'under': NO_WRITE_PROTECTION}, PLACES_PRECOPY, kills=KILLS // 10)
    k.tell('pre-copy')


# ---- with the fake: each point, and whoever is to stay ----

def is_right(d, vm):
    """A guest that runs, by its row, does not stand; and the other way round."""
    state, = d.sql(f"SELECT power_state FROM VM WHERE uuid = '{vm}'")
    if state in ('Running', 'Paused'):
        assert d.fakes()[vm]['paused'] == (state == 'Paused'), f'{state}: {d.fakes()[vm]}\n{d.log()[-3000:]}'


def test_each_point():
    with Daemon('fake') as d:
        vm = d.vm(disks=1, size='1MiB')
        d.xe('vm-start', uuid=vm)
        memory = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')

        def bring(state):
            now = d.state_of(vm)
            if now == 'suspended' and state != 'suspended':
                d.xe('vm-resume', uuid=vm)
                now = 'running'
            if now == 'paused' and state != 'paused':
                d.xe('vm-unpause', uuid=vm)
            if state != 'running' and now != state:
                d.xe('vm-suspend' if state == 'suspended' else 'vm-pause', uuid=vm)

        for state, words in (('running', ('vm-checkpoint', f'uuid={vm}', 'new-name-label=x')),
                             ('paused', ('vm-checkpoint', f'uuid={vm}', 'new-name-label=x')),
                             ('running', ('vm-suspend', f'uuid={vm}')),
                             ('suspended', ('vm-resume', f'uuid={vm}')),
                             ('suspended', ('vm-resume', '--paused', f'uuid={vm}')),
                             ('running', ('snapshot-revert', f'uuid={memory}')),
                             ('paused', ('snapshot-revert', f'uuid={memory}'))):
            for n in dying_points():
                bring(state)
                d.kill()
                d.start(env={'STILLFRAME_CRASH_AT': str(n)})
                survived = d.run(*words)[0] == 0
                if survived:
                    d.kill()
                d.process and d.process.wait(30 * SLOW)
                is_right(d, vm)
                d.start()
                d.check()
                is_right(d, vm)
                if survived:
                    assert n > 2, f'{words} has no points'
                    print(f'  {words[0]}, {state}: survives point {n}')
                    break


# ---- the caretaker's own life ----

def is_there(pid):
    with contextlib.suppress(FileNotFoundError), open(f'/proc/{pid}/stat') as f:
        return f.read().rsplit(')', 1)[1].split()[0] not in 'ZX'
    return False


def test_the_caretaker():
    with Daemon('fake', delays={'timer-caretaker': 0.02}) as d:
        first = d.process.caretaker()
        with open(f'/proc/{first}/cmdline') as f:
            assert f.read().startswith('stillframe-caretaker\0')
        with open(f'/proc/{first}/comm') as f:
            assert 'stillframe-caretaker'.startswith(f.read().strip())
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: d.process.caretaker() not in (None, first))
        second = d.process.caretaker()
        assert is_there(second) and d.stop() == 0
        assert not is_there(second), 'it is there still'
        d.start()
        third = d.process.caretaker()
        os.kill(third, signal.SIGSTOP)
        d.kill()
        begin = time.time()
        d.start()
        assert time.time() - begin < 10 * SLOW and not is_there(third)
        assert 'the caretaker of the daemon before is ended' in d.log()
        assert d.process.caretaker() not in (None, third)
        last = d.process.caretaker()
        d.kill()
        wait_for(lambda: not is_there(last))


# ---- one that nobody lets go on ----

def test_a_guest_that_panicked():
    """It was being saved, as the journal says, and stays where it is."""
    with golden() as (d, vm, s):
        d.xe('vm-param-set', 'actions-after-crash=preserve', uuid=vm)
        s.close()
        d.xe('vm-suspend', uuid=vm)
        d.xe('vm-resume', uuid=vm)
        with again(d, vm) as s:
            s.s.sendall(b'crash panic\n')
            time.sleep(0.3)                         # nobody is there any more when it prints its last words
        d.wait_state(vm, 'paused')
        d.stop()
        ref, = d.sql(f"SELECT ref FROM VM WHERE uuid = '{vm}'")
        d.sql_write(f"""INSERT INTO journal (op, verb, args) VALUES ('OpaqueRef:x', 'VM_RESUME', '["{ref}"]')""")
        d.start()
        d.check()
        d.kill()
        assert run_state(d, vm) == 'guest-panicked', run_state(d, vm)
        d.start()
        d.check()


main(globals())
