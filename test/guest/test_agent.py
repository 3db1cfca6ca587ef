#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The agent in a real guest: what it tells, that its absence is seen, and that nothing waits for it."""
import contextlib, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden

OFTEN = ['--agent-interval', '2']
START = 'qemu-ga --method=virtio-serial --path=/dev/virtio-ports/org.qemu.guest_agent.0'


def until(what, seconds=60):
    end = time.time() + seconds * SLOW
    while not what():
        assert time.time() < end, 'it does not become so'
        time.sleep(0.2)


def live(d, vm):
    return d.get('vm', vm, 'live')


@contextlib.contextmanager
def heard():
    with golden('two', options=OFTEN) as (d, vm, s):
        until(lambda: live(d, vm) == 'true')
        yield d, vm, s


def timed(what):
    begin = time.time()
    what()
    return time.time() - begin


def test_is_told():
    with heard() as (d, vm, s):
        assert d.get('vm', vm, 'os-version', 'name') == 'Stillframe test guest'
        assert d.get('vm', vm, 'os-version', 'distro') == 'stillframe-guest'
        assert d.get('vm', vm, 'os-version', 'uname') == s.ask('shell uname -r').replace('\\n', '')
        assert d.get('vm', vm, 'PV-drivers-detected') == 'true'
        assert d.get('vm', vm, 'PV-drivers-version', 'major').isdigit()
        assert 'feature-shutdown: 1' in d.get('vm', vm, 'other')
        until(lambda: '0/ip: 10.0.2.15; ' in d.get('vm', vm, 'networks'))
        until(lambda: re.search(r'0/ipv6/\d: fe80:', d.get('vm', vm, 'networks')))   # a router may have given others
        s.ask('shell ip addr add 10.77.0.1/24 dev eth0')
        until(lambda: '10.77.0.1' in d.get('vm', vm, 'networks'))
        snap = d.snapshot(vm)
        assert d.get('snapshot', snap, 'networks', '0/ip') == '10.0.2.15'
        d.xe('vm-shutdown', uuid=vm)
        assert live(d, vm) == 'false'
        d.check()


def test_killed_and_started_again():
    with heard() as (d, vm, s):
        s.ask('shell kill $(pidof qemu-ga)')
        until(lambda: live(d, vm) == 'false', 3)             # the port closes: that is told, not asked for
        d.snapshot(vm)
        s.ask(f'shell {START} >/dev/null 2>&1 </dev/null &')
        until(lambda: live(d, vm) == 'true', 10)


def test_hangs():
    """Nothing waits for an agent that hangs: not a snapshot, not the daemon's end and start, and a
    shutdown only a moment."""
    with heard() as (d, vm, s):
        quick = timed(lambda: d.snapshot(vm))
        s.ask('shell kill -STOP $(pidof qemu-ga)')
        until(lambda: live(d, vm) == 'false')
        assert timed(lambda: d.snapshot(vm)) < quick + 1 * SLOW
        assert timed(d.restart) < 10 * SLOW
        assert timed(lambda: d.snapshot(vm)) < quick + 1 * SLOW
        s.ask('shell kill -CONT $(pidof qemu-ga)')
        until(lambda: live(d, vm) == 'true')                 # late replies were passed over
        s.ask('shell kill -STOP $(pidof qemu-ga)')
        assert timed(lambda: d.xe('vm-shutdown', uuid=vm)) < 30 * SLOW
        assert d.state_of(vm) == 'halted' and live(d, vm) == 'false'
        d.check()


def test_daemon_restarts():
    with heard() as (d, vm, s):
        d.kill()
        d.start()
        before = d.get('vm', vm, 'guest-metrics-last-updated')
        assert live(d, vm) == 'true'
        until(lambda: d.get('vm', vm, 'guest-metrics-last-updated') > before)
        d.stop()
        s.ask('shell kill $(pidof qemu-ga)')
        d.start()
        until(lambda: live(d, vm) == 'false')                # nobody had told
        s.ask(f'shell {START} >/dev/null 2>&1 </dev/null &')
        until(lambda: live(d, vm) == 'true')


def test_shuts_down_without_a_button():
    """The agent alone is enough: the guest does not see the button."""
    with heard() as (d, vm, s):
        s.ask('shell rmmod button')
        assert timed(lambda: d.xe('vm-shutdown', uuid=vm)) < 60 * SLOW
    with heard() as (d, vm, s):
        s.ask('shell rmmod button')
        boot = s.fields('status')['boot']
        s.close()
        after = os.path.getsize(os.path.join(d.state, 'run', vm, 'serial.log'))
        d.xe('vm-reboot', uuid=vm)
        with Serial(d, vm, after) as s:
            s.wait_ready()
            assert s.fields('status')['boot'] != boot


main(globals())
