#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guest agents that are played by the test: an honest one is told all, and of bad ones nobody notices anything:
the daemon stays small and quick, and the other agents are heard."""
import json, os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from agent import *

QUICK = {'setting-second': 0.2, 'agent-again': 0.2}     # five times a second, and at most each second


def started(d, name, vifs=1):
    vm = d.vm(name, disks=1)
    for i in range(vifs):
        d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=i)
    d.xe('vm-start', uuid=vm)
    return vm


def test_is_told():
    with Daemon('fake', options=OFTEN, delays=QUICK) as d:
        vm = started(d, 'web')
        assert d.get('vm', vm, 'os-version') == '<not in database>'
        agent = Agent(d, vm)
        d.restart()
        until(lambda: live(d, vm) == 'true')
        shown = d.xe('vm-param-list', uuid=vm)
        for line in ('os-version (MRO): name: Debian GNU/Linux 12 (bookworm); distro: debian; '
                     'uname: 6.1.0-13-amd64; major: 12',
                     'networks (MRO): 0/ip: 10.1.2.3; 0/ipv4/0: 10.1.2.3; 0/ipv6/0: fe80::1',
                     'PV-drivers-version (MRO): major: 8; minor: 2; micro: 1',
                     'PV-drivers-detected ( RO): true', 'can-use-hotplug-vbd ( RO): yes',
                     'other (MRO): feature-shutdown: 1; feature-poweroff: 1; feature-reboot: 1; feature-snapshot: 1',
                     'live ( RO): true'):
            assert line in shown, f'"{line}" is not in:\n{shown}'
        assert d.get('vm', vm, 'guest-metrics-last-updated') > '2026'
        asked = len(agent.heard)
        until(lambda: len(agent.heard) >= asked + 8)
        assert agent.most == 1, 'two conversations at a time'
        assert set(agent.commands()) == {'guest-sync-delimited', 'guest-info', 'guest-get-osinfo',
                                         'guest-network-get-interfaces'}


def test_copies():
    """Snapshots have what was told in copies of their own, and clones, which have another address, nothing; a revert
    brings that of the snapshot."""
    with Daemon('fake', options=OFTEN, delays=QUICK) as d:
        vm = started(d, 'web')
        bare = d.snapshot(vm, 'bare')
        agent = Agent(d, vm)
        d.restart()
        until(lambda: live(d, vm) == 'true')
        snap = d.snapshot(vm, 'told')
        copy = d.xe('snapshot-clone', uuid=snap, new_name_label='copy')
        rows = [r for r in d.sql('SELECT guest_metrics FROM VM') if r != 'OpaqueRef:NULL']
        assert len(rows) == len(set(rows)) == 2
        assert d.get('snapshot', snap, 'os-version', 'distro') == 'debian'
        assert d.get('snapshot', snap, 'networks', '0/ip') == '10.1.2.3'
        d.fails('template-param-get', 'param-name=networks', 'param-key=0/ip', uuid=copy, says='not found in map')
        assert d.get('snapshot', snap, 'live') == 'false'
        agent.close()
        d.xe('snapshot-revert', snapshot_uuid=bare)
        assert d.get('vm', vm, 'os-version') == '<not in database>'
        d.xe('snapshot-revert', snapshot_uuid=snap)
        assert d.get('vm', vm, 'os-version', 'major') == '12' and live(d, vm) == 'false'
        assert len(d.sql('SELECT ref FROM VM_guest_metrics')) == 2
        d.xe('vm-destroy', uuid=vm)
        d.xe('snapshot-revert', snapshot_uuid=snap)          # comes back from the snapshot alone
        assert d.get('vm', vm, 'os-version', 'major') == '12'
        for each in (vm, copy, snap):
            d.xe('vm-destroy', uuid=each)
        assert not d.sql('SELECT ref FROM VM_guest_metrics')
        d.check()


def test_goes_and_comes():
    with Daemon('fake', options=OFTEN, delays=QUICK) as d:
        vm = started(d, 'web')
        agent = Agent(d, vm)
        d.restart()
        until(lambda: live(d, vm) == 'true')
        agent.close()
        until(lambda: live(d, vm) == 'false')
        assert d.get('vm', vm, 'os-version', 'distro') == 'debian', 'what was heard last is lost'
        agent = Agent(d, vm)
        until(lambda: live(d, vm) == 'true')
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert live(d, vm) == 'false'
        time.sleep(0.5)
        asked = len(agent.heard)
        time.sleep(1.5)
        assert len(agent.heard) == asked, 'a guest that is no more is asked'


def test_seldom():
    """Without --agent-interval one is asked when it comes, and then not for a while."""
    with Daemon('fake', delays={'setting-second': 0.1, 'agent-again': 0.1}) as d:
        vm = started(d, 'web')
        agent = Agent(d, vm)
        d.restart()
        until(lambda: live(d, vm) == 'true')
        time.sleep(1)
        assert agent.commands().count('guest-info') == 1


def test_shuts_down():
    """The agent is asked to, and the button is pressed; with an agent that hangs, a little later."""
    class Hangs(Agent):
        def guest_sync_delimited(self, s, a):
            if not self.heard[1:]:
                super().guest_sync_delimited(s, a)

    for kind in (Agent, Hangs):
        with Daemon('fake', options=['--agent-interval', '0']) as d:
            vm = started(d, 'web')
            agent = kind(d, vm)
            d.restart()
            until(lambda: live(d, vm) == 'true')
            begin = time.time()
            d.xe('vm-shutdown', uuid=vm)
            assert time.time() - begin < 8 * SLOW and d.state_of(vm) == 'halted'
            assert ({'execute': 'guest-shutdown', 'arguments': {'mode': 'powerdown'}} in agent.heard) == (kind is Agent)
            assert f'fake shutdown vm={vm}' in d.log(), 'the button was not pressed'
            assert live(d, vm) == 'false'


def test_ends_while_it_says_no():
    """The guest goes down at once, and takes what the agent has started with it: the agent reports a failure, and there
    is no button left to be pressed."""
    class Ends(Agent):
        def guest_shutdown(self, s, _):
            os.unlink(os.path.join(os.path.dirname(self.path), 'fake.json'))
            self.refuse(s, 'child process has terminated abnormally')

    with Daemon('fake', options=['--agent-interval', '0']) as d:
        for command, state in (('vm-shutdown', 'halted'), ('vm-reboot', 'running')):
            vm = started(d, command)
            Ends(d, vm)
            d.restart()
            until(lambda: live(d, vm) == 'true')
            d.xe(command, uuid=vm)
            assert d.state_of(vm) == state
        d.check()


# ---- liars ----

class Silent(Agent):
    def talk(self, s):
        time.sleep(1000)


class Deaf(Agent):
    def listen(self):
        pass


class Leaves(Agent):
    def talk(self, s):
        s.recv(1)


class Garbage(Agent):
    def talk(self, s):
        while True:
            s.sendall(os.urandom(65536))


class EndlessLine(Agent):
    def talk(self, s):
        s.sendall(b'\xff{"return": "')
        while True:
            s.sendall(b'x' * 65536)


class WrongIds(Agent):
    def talk(self, s):
        while True:
            s.sendall(b'\xff{"return": 1}\n' * 4096)


class HalfALine(Agent):
    def guest_info(self, s, _):
        s.sendall(b'{"return": {')


class BadUtf8(Agent):
    def guest_info(self, s, _):
        s.sendall(b'{"return": {"version": "\xff\xfe"}}\n')


class Nested(Agent):
    def guest_info(self, s, _):
        s.sendall(b'[' * 500000 + b']' * 500000 + b'\n')


class GiantString(Agent):
    def guest_info(self, s, _):
        s.sendall(b'{"return": {"version": "')
        for _ in range(1 << 10):
            s.sendall(b'x' * (1 << 20))
        s.sendall(b'"}}\n')


class Late(Agent):
    """Each answer comes when nobody waits for it any more, and is the first thing that the next one hears."""
    owed = 0

    def talk(self, s):
        for _ in range(self.owed):
            self.reply(s, {'version': '6.6.6'})
        super().talk(s)

    def guest_info(self, s, _):
        self.owed += 1


class MillionInterfaces(Agent):
    """What else it says is heard."""
    def guest_network_get_interfaces(self, s, _):
        one = json.dumps({'name': 'eth0', 'hardware-address': self.mac,
                          'ip-addresses': [{'ip-address': '10.6.6.6'}]}).encode() + b', '
        s.sendall(b'{"return": [')
        for _ in range(1000):
            s.sendall(one * 1000)
        s.sendall(b'{}]}\n')


class Twice(Agent):
    """In one piece: one that comes later than the next question cannot be told from its answer."""

    def reply(self, s, value):
        s.sendall(2 * (json.dumps({'return': value}).encode() + b'\n'))


class Escapes(Agent):
    def guest_get_osinfo(self, s, _):
        self.reply(s, {'id': 'x\x1b[2J\n\x07', 'pretty-name': '\u202e' + 'a' * 100000, 'version-id': '9' * 99})

    def guest_network_get_interfaces(self, s, _):
        self.reply(s, [{'hardware-address': self.mac, 'ip-addresses': [{'ip-address': '\x1b]0;x\x07'}]}])


UNHEARD = [Silent, Deaf, Leaves, Garbage, EndlessLine, WrongIds, HalfALine, BadUtf8, Nested, GiantString, Late]
HEARD = [MillionInterfaces, Twice, Escapes, Agent]


def status_kb(d, name):
    with open(f'/proc/{d.process.pid}/status') as f:
        return int(re.search(rf'^{name}:\s+(\d+) kB', f.read(), re.M)[1])


def cpu_seconds(d):
    with open(f'/proc/{d.process.pid}/stat') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def test_liars_cost_nothing():
    # Sanitizers make all slower, and so an honest agent late, where its time is short.
    scale = 0.5 if SLOW == 1 else 1
    half = {name: scale for name in ('setting-second', 'agent-again', 'agent-ask', 'agent-answer')}
    with Daemon('fake', options=OFTEN, delays=half) as d:
        vms = {kind: started(d, kind.__name__) for kind in UNHEARD + HEARD}
        agents = [kind(d, vm) for kind, vm in vms.items()]
        d.restart()
        size, cpu, begin = status_kb(d, 'VmRSS'), cpu_seconds(d), time.time()
        slowest = 0
        while time.time() - begin < 40 * scale:
            for vm in (vms[Silent], vms[Garbage]):
                at = time.time()
                snap = d.snapshot(vm)
                slowest = max(slowest, time.time() - at)
                d.xe('snapshot-uninstall', '--force', uuid=snap)
            time.sleep(scale)
        used = cpu_seconds(d) - cpu
        grown = status_kb(d, 'VmHWM') - size
        print(f'{len(vms)} agents for {40 * scale:.0f} s: {grown} KiB more at most, {used:.2f} s of CPU, '
              f'slowest snapshot {slowest:.2f} s')
        if SLOW == 1:
            assert grown < len(vms) * 2048 and used < 12 and slowest < 10 * scale
        assert [k.__name__ for k, vm in vms.items() if live(d, vm) == 'true'] == [k.__name__ for k in HEARD]
        for kind in HEARD:
            assert d.get('vm', vms[kind], 'PV-drivers-version', 'major') == '8'
        assert d.get('vm', vms[MillionInterfaces], 'networks') == ''
        assert d.get('vm', vms[Twice], 'networks', '0/ip') == '10.1.2.3'
        shown = d.get('vm', vms[Escapes], 'os-version')
        assert shown == f'name: {"a" * 256}; distro: x[2J', shown
        assert all(a.most == 1 for a in agents if type(a) in HEARD), 'two conversations at a time'
        for line in d.log().splitlines():
            assert line.isprintable() and len(line) < 600, line
        at = time.time()
        d.stop()
        assert time.time() - at < 5 * SLOW, 'the daemon waits for agents'


main(globals())
