#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Quiesced snapshots of a real guest with qemu-ga: clean file systems, and a guest that always goes on.  KILLS: how
often the daemon is killed at random around the freeze (2)."""
import base64, contextlib, os, random, signal, subprocess, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from agent import until, live

KILLS = int(os.environ.get('KILLS', '2'))
AGENT = 'qemu-ga --method=virtio-serial --path=/dev/virtio-ports/org.qemu.guest_agent.0'
WRITES_AGAIN_S = 10


@contextlib.contextmanager
def busy_guest():
    with golden('two') as (d, vm, s):
        until(lambda: live(d, vm) == 'true')
        s.churn('start', 'a', 32, 50)
        s.ask('count start')
        yield d, vm, s


def quiesced(d, vm, **kw):
    return d.xe('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q', **kw)


def info(d, snap):
    return json.loads(d.sql(f"SELECT snapshot_info FROM VM WHERE uuid = '{snap}'")[0])


def needs_recovery(d, snap):
    """Of each disk's ext4: does its journal hold what is not yet in its place?"""
    found = []
    for vdi in d.disks(snap).values():
        with tempfile.TemporaryDirectory(dir=d.state) as folder:
            image = os.path.join(folder, 'i')
            d.xe('vdi-export', uuid=vdi, filename=image)
            said = subprocess.run(['/sbin/dumpe2fs', '-h', image], capture_output=True, text=True, check=True).stdout
            found.append('needs_recovery' in said)
            if not found[-1]:
                assert subprocess.run(['/sbin/e2fsck', '-fn', image], capture_output=True).returncode == 0
    return found


def install_hook(s, text, name):
    put(s, name, text)
    restart_agent(s, f'-F{name}')


def put(s, name, text):
    """A file in the guest, a piece a line."""
    packed = base64.b64encode(text.encode()).decode()
    s.ask(f'shell mkdir -p $(dirname {name}); : >{name}.b64')
    for i in range(0, len(packed), 400):
        s.ask(f'shell echo {packed[i:i + 400]} >>{name}.b64')
    s.ask(f'shell base64 -d {name}.b64 >{name}; chmod 755 {name}')


def restart_agent(s, *more):
    s.ask('shell killall qemu-ga; sleep 0.5')
    s.ask(f'shell {AGENT} {" ".join(more)} </dev/null >/dev/null 2>&1 &')


def writes(s):
    """A write that the guest makes durable, and how long that took."""
    begin = time.time()
    s.ask('write b probe 1')
    return time.time() - begin


def test_clean():
    with busy_guest() as (d, vm, s):
        held = []
        for n in range(3):
            snap = quiesced(d, vm)
            i = info(d, snap)
            assert (i['disk-snapshot-type'], i['consistency']) == ('quiesced', 'filesystem'), i
            held.append(float(i['freeze-ms']))
            assert needs_recovery(d, snap) == [False, False]
            assert needs_recovery(d, d.snapshot(vm, 'control')) == [True, True]
            assert s.churn('report', 'a')['wrong'] == 0
        print('  held still for ms:', *held)
        assert s.churn('stop', 'a')['wrong'] == 0
        assert s.fields('status')['a.errors'] == '0'
        s.close()
        d.check()


def test_with_memory():
    with busy_guest() as (d, vm, s):
        boot = s.fields('status')['boot']
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='q', quiesce='true')
        i = info(d, snap)
        assert (i['disk-snapshot-type'], i['method']) == ('quiesced', 'background-snapshot'), i
        assert needs_recovery(d, snap) == [False, False]
        writes(s)
        s.close()
        d.xe('snapshot-revert', uuid=snap, resume='true')
        s = again(d, vm)
        assert s.fields('status')['boot'] == boot
        took = writes(s)
        assert took < 10 * SLOW, f'it wrote after {took:.1f} s'
        s.close()
        d.xe('snapshot-revert', uuid=snap)
        d.xe('vm-resume', '--paused', uuid=vm)
        d.restart()
        d.xe('vm-unpause', uuid=vm)
        s = again(d, vm)
        assert writes(s) < 10 * SLOW
        assert s.churn('stop', 'a')['wrong'] == 0
        s.close()
        d.check()


def test_hooks():
    """One that ran makes it application consistent, one that fails makes it fail; one that hangs costs a bounded time."""
    with busy_guest() as (d, vm, s):
        with open(os.path.join(TOP, 'hooks', 'fsfreeze-hook')) as f:
            put(s, '/etc/qemu/hook', f.read())
        put(s, '/etc/qemu/fsfreeze-hook.d/10-first', '#!/bin/sh\necho first $1 >>/tmp/hooks\n')
        put(s, '/etc/qemu/fsfreeze-hook.d/20-second', '#!/bin/sh\necho second $1 >>/tmp/hooks\n')
        restart_agent(s, '-F/etc/qemu/hook')
        time.sleep(1)
        i = info(d, quiesced(d, vm))
        assert i['consistency'] == 'application', i
        said = s.ask('shell cat /tmp/hooks')
        assert said == 'first freeze\\nsecond freeze\\nsecond thaw\\nfirst thaw\\n', said

        put(s, '/etc/qemu/fsfreeze-hook.d/20-second', '#!/bin/sh\necho second $1 >>/tmp/hooks\n[ $1 = thaw ]\n')
        s.ask('shell rm /tmp/hooks')
        said = d.fails('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q', attempts=1, says='was not made to hold still')
        assert 'hook' in said, said
        said = s.ask('shell cat /tmp/hooks')
        assert said.startswith('first freeze\\nsecond freeze\\nfirst thaw\\n'), said
        assert writes(s) < 10 * SLOW

        put(s, '/etc/qemu/fsfreeze-hook.d/20-second', '#!/bin/sh\nwhile [ $1 = freeze ]; do sleep 1; done\n')
        d.xe('vm-param-set', 'other-config:quiesce-timeout=5', uuid=vm)
        t = threading.Thread(target=lambda: said2.append(
            d.run('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q', attempts=2)))
        said2, begin = [], time.time()
        t.start()
        time.sleep(2)
        other = time.time()
        d.xe('vm-list', uuid=vm)
        d.xe('vm-param-set', uuid=vm, name_description='meanwhile')
        writes(s)
        assert time.time() - other < 10 * SLOW and t.is_alive()
        t.join()
        took = time.time() - begin
        print(f'  a hook that hangs: {took:.1f} s, {said2[0][2].strip()}')
        assert said2[0][0] != 0 and 'took too long to hold still' in said2[0][2] and took < 40 * SLOW
        d.snapshot(vm, 'meanwhile')
        s.ask('shell killall -9 20-second sleep; true')
        until(lambda: not d.sql("SELECT verb FROM journal WHERE verb = 'GUEST_THAW'"), 30)
        assert writes(s) < 10 * SLOW
        assert s.churn('stop', 'a')['wrong'] == 0
        s.close()
        d.check()


def test_killed():
    """The daemon is killed at random around the freeze, and stays away: the guest writes again."""
    dice = random.Random(SEED)
    with busy_guest() as (d, vm, s):
        begin = time.time()
        quiesced(d, vm)
        usual, longest = time.time() - begin, 0.0
        for n in range(KILLS):
            t = threading.Thread(target=lambda: d.run('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q'))
            t.start()
            time.sleep(dice.random() * usual)
            d.kill()
            killed = time.time()
            writes(s)
            longest = max(longest, time.time() - killed)
            assert longest < WRITES_AGAIN_S * SLOW, f'kill {n}: the guest wrote after {longest:.1f} s'
            t.join()
            d.start()
            d.wait_quiet()
            assert s.churn('report', 'a')['wrong'] == 0
            for snap in d.list('snapshot')[:-1]:
                d.xe('snapshot-uninstall', '--force', uuid=snap)
        print(f'  {KILLS} kills: the guest wrote again within {longest:.2f} s each time')
        assert s.churn('stop', 'a')['wrong'] == 0
        s.close()
        d.wait_quiet()
        d.check()


def test_qemu_stopped():
    """Its process stands still between freeze and thaw: the call ends, and the guest goes on with it."""
    with busy_guest() as (d, vm, s):
        d.xe('vm-param-set', 'other-config:quiesce-timeout=4', uuid=vm)
        pid = d.guests()[vm]
        os.kill(pid, signal.SIGSTOP)
        try:
            begin = time.time()
            d.fails('vm-snapshot-with-quiesce', uuid=vm, new_name_label='q', attempts=1)
            assert time.time() - begin < 60 * SLOW
        finally:
            os.kill(pid, signal.SIGCONT)
        assert writes(s) < 10 * SLOW
        d.wait_quiet()
        quiesced(d, vm)
        s.close()
        d.check()


def test_an_agent_that_dies_frozen():
    """The one that comes after it is told to thaw, and can freeze again."""
    with busy_guest() as (d, vm, s):
        put(s, '/etc/qemu/hook', '#!/bin/sh\n[ $1 != freeze ] || (sleep 1; killall -9 qemu-ga) &\n')
        restart_agent(s, '-F/etc/qemu/hook')
        time.sleep(1)
        s.ask('shell qemu-ga --version')
        # As if we had been slow: the agent is asked by hand, and dies.
        d.stop()
        with socket.socket(socket.AF_UNIX) as a:
            a.connect(os.path.join(d.state, 'run', vm, 'agent.sock'))
            a.sendall(b'{"execute": "guest-fsfreeze-freeze"}\n')
            a.settimeout(20)
            assert b'return' in a.recv(4096)
        time.sleep(3)
        d.start()
        s.ask(f'shell {AGENT} </dev/null >/dev/null 2>&1 &')
        until(lambda: 'found frozen' in d.log() and live(d, vm) == 'true')
        assert writes(s) < 10 * SLOW
        quiesced(d, vm)
        s.close()
        d.check()


main(globals())
