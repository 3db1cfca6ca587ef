#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Guests on bridges, in a network namespace of each test's own: who reaches whom, and what is left on
the host when a guest, its network or the daemon is gone."""
import ctypes, functools, json, os, signal, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

CLONE_NEWNET = 0x40000000


def alone(test):
    """In a namespace without links, whatever a test before this one has left behind."""
    @functools.wraps(test)
    def run():
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
            raise Skip('a network namespace: ' + os.strerror(ctypes.get_errno()))
        ip('link', 'set', 'lo', 'up')
        test()
    return run


def ip(*words):
    p = subprocess.run(['ip', *words], capture_output=True, text=True)
    assert p.returncode == 0, f'ip {words}: {p.stderr}'
    return p.stdout


def links():
    """name -> what the host knows of each of its links, lo excepted."""
    return {l['ifname']: l for l in json.loads(ip('-d', '-j', 'link')) if l['ifname'] != 'lo'}


def members(bridge):
    return {name for name, l in links().items() if l.get('master') == bridge}


def wait_members(bridge, wanted, seconds=5):
    end = time.time() + seconds * SLOW
    while members(bridge) != wanted:
        assert time.time() < end, f'in {bridge}: {members(bridge)}, not {wanted}'
        time.sleep(0.05)


def tap(vm, device=0):
    return f'tap{vm[:8]}{vm[9:11]}.{device}'


def address(guest, text):
    guest.ask('shell killall udhcpc; ip address add ' + text + ' dev eth0')


def ping(guest, other, *options):
    try:
        guest.ask(' '.join(['shell ping -q -c 2 -W 3', *options, other]))
        return True
    except Exception:
        return False


def reaches(guest, other, *options):
    """Now or soon: two packets may be lost on a machine that has much to do."""
    end = time.time() + 30 * SLOW
    while not ping(guest, other, *options):
        if time.time() > end:
            return False
    return True


def guests(d, networks):
    """A VM on each of the networks, booted together, and their serial ports.  The first one's address begins with fe, as
    those of taps do, and one in 64 that is derived from a seed; the others have what comes.  They boot: a guest keeps the
    addresses that it has in memory."""
    vms = [guest_vm(d, f'guest {i}', network=n, mac='' if i else 'fe:00:00:00:00:01') for i, n in enumerate(networks)]
    return vms, [Serial(d, vm).wait_ready(180) for vm in vms]


def detail(d, vm):
    return d.get('vif', d.list('vif', vm_uuid=vm)[0], 'status-detail')


def test_who_reaches_whom():
    """Two on one bridge reach each other and the host's address on it; a third elsewhere reaches
    nobody.  The daemon's end and return change nothing.  A guest's end takes its tap."""
    with Daemon() as d:
        assert not links(), links()
        nets = [d.xe('network-create', name_label=n, MTU=9000) for n in ('one', 'two')]
        one, two = (d.get('network', n, 'bridge') for n in nets)
        assert (one, two) == ('xapi0', 'xapi1') and set(links()) == {one, two}
        (a, b, c), (ga, gb, gc) = guests(d, [nets[0], nets[0], nets[1]])
        assert members(one) == {tap(a), tap(b)} and members(two) == {tap(c)}
        assert detail(d, a) == f'bridge {one}, tap {tap(a)}'

        address(ga, '10.77.0.2/24')
        address(gb, '10.77.0.3/24')
        address(gc, '10.77.0.4/24')
        ip('address', 'add', '10.77.0.1/24', 'dev', one)
        assert reaches(ga, '10.77.0.3') and reaches(gb, '10.77.0.2')
        assert reaches(ga, '10.77.0.1')
        assert not ping(gc, '10.77.0.2') and not ping(ga, '10.77.0.4')
        assert not ping(gc, '10.77.0.1')
        sent = json.loads(ip('-s', '-j', 'link', 'show', 'dev', tap(c)))[0]['stats64']['rx']['packets']
        assert sent > 0, 'the third said nothing at all'

        # Frames of 9000 bytes, whole.
        for g in (ga, gb):
            assert g.ask('shell cat /sys/class/net/eth0/mtu').strip('\\n') == '9000'
        assert links()[one]['mtu'] == links()[tap(a)]['mtu'] == 9000
        assert reaches(ga, '10.77.0.3', '-s', '8900')
        assert ga.ask("shell grep ^Ip: /proc/net/snmp | tail -1 | cut -d' ' -f19").strip('\\n') == '0', \
            'it went in fragments'

        # The bridge's address does not change with its members: whoever knew it still does.
        known = links()[one]['address']
        d.restart()
        assert reaches(ga, '10.77.0.3')
        d.kill()
        assert reaches(ga, '10.77.0.3')
        d.start()
        assert reaches(gb, '10.77.0.1')
        assert d.state_of(a) == 'running'

        # No descriptor of a tap is anywhere but in its QEMU.
        for pid in [d.process.pid] + list(d.guests().values()):
            open_taps = [f for f in open_files(pid) if f == '/dev/net/tun']
            assert len(open_taps) == (0 if pid == d.process.pid else 1), (pid, open_taps)

        for net in nets:
            d.fails('network-destroy', uuid=net, says='Interfaces of VMs or snapshots')
        os.kill(d.guests()[b], signal.SIGKILL)
        wait_members(one, {tap(a)})
        d.wait_state(b, 'halted', 5)
        d.xe('vm-shutdown', uuid=a)
        assert members(one) == set() and links()[one]['address'] == known
        d.xe('vm-shutdown', '--force', uuid=c)
        assert set(links()) == {one, two}
        for net in nets:
            for vif in d.list('vif', network_uuid=net):
                d.xe('vif-destroy', uuid=vif)
            d.xe('network-destroy', uuid=net)
        assert not links(), links()
        d.check()


def test_bridge_of_the_host():
    """It is used as it is, and stays; without it the VM does not start and says why."""
    ip('link', 'add', 'br-lan', 'mtu', '1400', 'type', 'bridge')
    try:
        with Daemon() as d:
            net = d.xe('network-create', name_label='lan', bridge='br-lan', managed='false')
            assert d.get('network', net, 'MTU') == '1400'
            before = links()['br-lan']['address']
            ip('link', 'set', 'br-lan', 'up')
            ip('address', 'add', '10.78.0.1/24', 'dev', 'br-lan')
            (a,), (ga,) = guests(d, [net])
            assert members('br-lan') == {tap(a)} and links()['br-lan']['mtu'] == 1400
            address(ga, '10.78.0.2/24')
            assert reaches(ga, '10.78.0.1')
            assert ga.ask('shell cat /sys/class/net/eth0/mtu').strip('\\n') == '1400'
            d.xe('vm-shutdown', '--force', uuid=a)
            ip('link', 'del', 'br-lan')
            d.fails('vm-start', uuid=a, says='br-lan')
            assert d.state_of(a) == 'halted' and not links() and not d.guests()
            ip('link', 'add', 'br-lan', 'type', 'bridge')
            d.xe('vif-destroy', uuid=d.list('vif', vm_uuid=a)[0])
            d.xe('network-destroy', uuid=net)
            assert set(links()) == {'br-lan'}
            d.check()
    finally:
        subprocess.run(['ip', 'link', 'del', 'br-lan'], capture_output=True)


def test_bridge_of_ours_comes_back():
    """After a restart of the host, when it is needed; not in the place of something else."""
    with Daemon() as d:
        net = d.xe('network-create', name_label='inner')
        ip('link', 'del', 'xapi0')
        vm = guest_vm(d, network=net)
        assert members('xapi0') == {tap(vm)}
        d.xe('vm-shutdown', '--force', uuid=vm)
        ip('link', 'del', 'xapi0')
        ip('link', 'add', 'xapi0', 'type', 'bridge')
        d.fails('vm-start', uuid=vm, says='xapi0')
        assert set(links()) == {'xapi0'}, 'a tap was left'
        ip('link', 'del', 'xapi0')
        d.xe('vm-start', uuid=vm)
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vif-destroy', uuid=d.list('vif', vm_uuid=vm)[0])
        d.xe('network-destroy', uuid=net)
        assert not links()
        d.check()


def test_a_bridge_that_went():
    """A guest is not given up for what would lack a bridge of the host's; one of ours is made when it is needed."""
    ip('link', 'add', 'house', 'type', 'bridge')
    with Daemon() as d:
        theirs = d.xe('network-create', name_label='theirs', bridge='house', managed='false')
        ours = d.xe('network-create', name_label='ours')
        vm = d.vm(memory='64MiB')
        for i, n in enumerate((theirs, ours)):
            d.xe('vif-create', vm_uuid=vm, network_uuid=n, device=i)
        d.xe('vm-start', uuid=vm)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        pid, bridge = d.guests()[vm], d.get('network', ours, 'bridge')
        ip('link', 'del', 'house')
        ip('link', 'del', bridge)
        there = set(links())
        assert 'bridge: house' in d.fails('snapshot-revert', uuid=snap)
        assert 'bridge: house' in d.fails('vm-reboot', uuid=vm)
        assert d.guests()[vm] == pid and d.state_of(vm) == 'running' and set(links()) == there, links()
        ip('link', 'add', 'house', 'type', 'bridge')
        d.xe('snapshot-revert', uuid=snap, resume='true')
        assert members('house') == {tap(vm)} and members(bridge) == {tap(vm, 1)}
        d.check()


def test_plugged_into_a_bridge():
    """An interface joins its bridge while the guest runs, and its tap goes with it."""
    with Daemon() as d:
        net = d.xe('network-create', name_label='inner')
        (vm,), (guest,) = guests(d, [net])
        vif = d.xe('vif-create', vm_uuid=vm, network_uuid=net, device=1)
        d.xe('vif-plug', uuid=vif)
        assert members('xapi0') == {tap(vm), tap(vm, 1)}
        d.xe('vif-unplug', uuid=vif)
        wait_members('xapi0', {tap(vm)})
        d.xe('vif-plug', uuid=vif)
        d.xe('vm-shutdown', '--force', uuid=vm)
        wait_members('xapi0', set())
        ip('link', 'del', 'xapi0')


def test_moved():
    """From bridge to bridge while the guest runs: it reaches those on the new one.  Killed half-way, it is where its
    record says."""
    with Daemon() as d:
        nets = [d.xe('network-create', name_label=n) for n in ('one', 'two')]
        one, two = (d.get('network', n, 'bridge') for n in nets)
        plain = next(n for n in d.list('network') if d.get('network', n, 'bridge') == '')
        (a, b), (ga, gb) = guests(d, nets)
        address(ga, '10.79.0.2/24')
        address(gb, '10.79.0.3/24')
        assert not ping(ga, '10.79.0.3')
        vif, = d.list('vif', vm_uuid=b)
        d.xe('vif-move', uuid=vif, network_uuid=nets[0])
        assert members(one) == {tap(a), tap(b)} and members(two) == set() and reaches(ga, '10.79.0.3')
        assert d.get('vif', vif, 'network-uuid') == nets[0] and detail(d, b) == f'bridge {one}, tap {tap(b)}'
        d.fails('vif-move', uuid=vif, network_uuid=plain, says='unplug it first')
        assert d.get('vif', vif, 'network-uuid') == nets[0]

        for point in dying_points():                    # until there is no such point
            d.restart(env={'STILLFRAME_CRASH_AT': str(point)})
            if d.run('vif-move', uuid=vif, network_uuid=nets[1])[0] == 0:
                break
            d.process.wait()
            d.start()
            d.wait_quiet()
            here = nets.index(d.get('vif', vif, 'network-uuid'))
            wait_members((one, two)[here], {tap(a), tap(b)} if here == 0 else {tap(b)})
            assert not d.get('vif', vif, 'current-operations')
            d.check()
            d.xe('vif-move', uuid=vif, network_uuid=nets[0])
        d.restart()
        assert point > 2 and members(two) == {tap(b)} and not ping(ga, '10.79.0.3')

        # one that is not attached is moved in the record
        d.xe('vm-shutdown', '--force', uuid=b)
        d.xe('vif-move', uuid=vif, network_uuid=plain)
        d.xe('vif-move', uuid=vif, network_uuid=nets[0])
        d.xe('vm-start', uuid=b)
        assert members(one) == {tap(a), tap(b)}
        for vm in (a, b):
            d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()
        for bridge in (one, two):
            ip('link', 'del', bridge)


def test_killed_while_destroying():
    """Before the record's end nothing has happened; after it the next daemon removes the bridge."""
    with Daemon() as d:
        net = d.xe('network-create', name_label='inner')
        for point, there in (1, True), (2, False):
            d.restart(env={'STILLFRAME_CRASH_AT': str(point)})
            assert d.run('network-destroy', uuid=net)[0] != 0
            d.process.wait()
            assert set(links()) == {'xapi0'}
            d.start()
            assert (net in d.list('network')) == there and ('xapi0' in links()) == there
            d.check()


def test_host_interfaces():
    """What else is in a bridge has a record that says what ip(8) does; a tap has none, and who is gone is forgotten."""
    ip('link', 'add', 'br9', 'type', 'bridge')
    ip('link', 'add', 'up9', 'mtu', '1400', 'type', 'veth', 'peer', 'name', 'far9')
    ip('link', 'set', 'up9', 'master', 'br9', 'up')
    ip('address', 'add', '192.0.2.9/24', 'dev', 'br9')
    for link in ('br9', 'far9'):
        ip('link', 'set', link, 'up')
    ip('route', 'add', 'default', 'via', '192.0.2.1')
    with Daemon() as d:
        net = d.xe('network-create', name_label='outer', bridge='br9', managed='false')
        host = d.list('host')[0]
        vm = guest_vm(d, network=net, start=False)
        d.xe('vm-start', '--paused', uuid=vm)
        d.xe('pif-scan', host_uuid=host)
        pif, = d.list('pif')
        said = {name: d.get('pif', pif, name) for name in ('device', 'MTU', 'physical', 'currently-attached', 'carrier', 'management',
                                                           'network-uuid', 'IP', 'netmask', 'gateway', 'IP-configuration-mode', 'MAC')}
        assert said == {'device': 'up9', 'MTU': '1400', 'physical': 'false', 'currently-attached': 'true', 'carrier': 'true',
                        'management': 'true', 'network-uuid': net, 'IP': '192.0.2.9', 'netmask': '255.255.255.0',
                        'gateway': '192.0.2.1', 'IP-configuration-mode': 'Static', 'MAC': links()['up9']['address']}, said
        assert d.get('network', net, 'PIF-uuids') == pif
        before = d.sql('SELECT gen FROM PIF')
        d.xe('pif-scan', host_uuid=host)
        assert d.sql('SELECT gen FROM PIF') == before, 'nothing has changed, and it was written'
        ip('link', 'set', 'far9', 'down')
        d.xe('pif-scan', host_uuid=host)
        assert d.get('pif', pif, 'carrier') == 'false' and d.list('pif') == [pif]
        ip('link', 'del', 'up9')
        d.xe('pif-scan', host_uuid=host)
        assert d.list('pif') == [] and d.sql('SELECT * FROM PIF_metrics') == []
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()
    ip('link', 'del', 'br9')


def test_host_without_taps():
    """No device, or no right to it: user mode, and it says so."""
    hidden = ['unshare', '-m', 'sh', '-c', 'mount --bind /dev/null /dev/net/tun && exec "$0" "$@"']
    powerless = ['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin']
    for under, why in ((hidden, 'Inappropriate ioctl'), (powerless, 'not permitted')):
        with Daemon(under=under) as d:
            net = d.xe('network-create', name_label='inner')
            (vm,), (guest,) = guests(d, [net])
            said = detail(d, vm)
            assert said.startswith('user mode instead of bridge xapi0: /dev/net/tun') and why in said, said
            assert f'interface joined vm={vm} device=0 network="user mode instead of' in d.log()
            end = time.time() + 30 * SLOW
            while guest.fields('status')['ip'] != '10.0.2.15':
                assert time.time() < end, 'no address by DHCP'
                time.sleep(0.5)
            d.xe('vm-shutdown', '--force', uuid=vm)
            d.xe('vif-destroy', uuid=d.list('vif', vm_uuid=vm)[0])
            d.xe('network-destroy', uuid=net)
            assert set(links()) <= {'xapi0'}
            d.check()


def test_many_at_once():
    """They all want the same bridge, which is not there."""
    with Daemon() as d:
        net = d.xe('network-create', name_label='inner')
        ip('link', 'del', 'xapi0')
        vms = [guest_vm(d, f'guest {i}', memory='64MiB', network=net, start=False) for i in range(6)]
        starts = [d.begin('vm-start', 'paused=true', f'uuid={vm}') for vm in vms]
        assert [p.wait(120 * SLOW) for p in starts] == [0] * len(vms)
        assert members('xapi0') == {tap(vm) for vm in vms}
        for vm in vms:
            d.xe('vm-shutdown', '--force', uuid=vm)
        wait_members('xapi0', set())
        ip('link', 'del', 'xapi0')


if os.getuid():
    print('skipped: needs root')
    sys.exit(77)
guest_folder()      # while there are mirrors to be reached
main({name: alone(f) for name, f in globals().items() if name.startswith('test_')})
