#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What clients look for when they connect, and what they rely on of every record."""
import http.client, json, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *


def test_the_host():
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        ref, = s.host.get_all()
        host = s.host.get_record(ref)
        with open('/proc/cpuinfo') as f:
            cpus = f.read().split('\n\n')[:-1]
        assert host['cpu_info']['cpu_count'] == str(len(cpus)) == str(len(host['host_CPUs']))
        assert 0 < int(host['cpu_info']['socket_count']) <= len(cpus)
        for key in ('vendor', 'speed', 'modelname', 'flags', 'family', 'model', 'stepping'):
            assert host['cpu_info'][key], key
        one = s.host_cpu.get_record(host['host_CPUs'][0])
        assert one['host'] == ref and one['number'] < len(cpus) and one['modelname'] == host['cpu_info']['modelname']
        for key in ('product_brand', 'product_version', 'platform_version', 'build_number', 'xapi', 'hostname'):
            assert host['software_version'][key], key
        assert all(n.isdigit() for n in host['software_version']['product_version'].split('.')[:2])
        assert {'system-manufacturer', 'system-product-name', 'bios-vendor'} <= set(host['bios_strings'])
        assert 'hvm-3.0-x86_64' in host['capabilities']
        with open('/proc/stat') as f:
            boot, = (line.split()[1] for line in f if line.startswith('btime '))
        assert host['other_config']['boot_time'] == boot and float(host['other_config']['agent_start_time']) > float(boot)
        before = s.host_cpu.get_all()
        d.restart()
        s = Session(Json(d.port, 2), d)
        assert s.host_cpu.get_all() == before, 'they are the same processors'


def test_where_it_is_reached():
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        ref = s.host.get_all()[0]
        assert s.host.get_address(ref) == '127.0.0.1'
        vm = d.vm('web')
        d.xe('vm-start', uuid=vm)
        where = lambda: {c['location'].rsplit('/', 1)[0] for c in s.console.get_all_records().values()}
        assert where() == {f'https://127.0.0.1:{d.tls_port}'}, where()
        d.options += ['--address', '2001:db8::1']
        d.restart()
        s = Session(Json(d.port, 2), d)
        assert s.host.get_address(ref) == '2001:db8::1' and where() == {f'https://[2001:db8::1]:{d.tls_port}'}
        del d.options[-2:]
        s.host.set_address(ref, '192.0.2.7')
        d.restart()
        assert Session(Json(d.port, 2), d).host.get_address(ref) == '192.0.2.7', "an operator's word stays"


def test_networks():
    """Every interface has one, and there is one that clients give to new VMs."""
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        networks = s.network.get_all_records()
        assert [n['other_config'].get('automatic') for n in networks.values()] == ['true']
        assert all(pif['network'] in networks for pif in s.PIF.get_all_records().values())


def test_classes_without_objects():
    with Served() as d:
        for wire in (Json(d.port, 2), Json(d.port, 1), Xml(d.port)):
            s = Session(wire, d)
            for c in ('Bond', 'VLAN', 'PGPU', 'PCI', 'VUSB', 'VMPP', 'pool_patch', 'VM_appliance'):
                assert s.call(f'{c}.get_all') == [] and s.call(f'{c}.get_all_records') == {}
                assert s.refused(f'{c}.get_record', 'OpaqueRef:x') == ['HANDLE_INVALID', c, 'OpaqueRef:x']
                assert s.refused(f'{c}.get_by_uuid', 'x') == ['UUID_INVALID', c, 'x']
            assert s.refused('Bond.create', 'x')[0] == s.refused('Nonsense.get_all')[0] == 'MESSAGE_METHOD_UNKNOWN'
        assert s.refused('host.call_plugin', s.host.get_all()[0], 'x', 'y', {}) == ['XENAPI_MISSING_PLUGIN', 'x']
        assert s.VDI.get_nbd_info(s.VDI.get_by_uuid(d.vdi('1MiB'))) == []


def test_names_of_tasks():
    """CloudStack finds the snapshot that it has begun by `Async.VM.snapshot`."""
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        vm, before = s.VM.get_by_uuid(d.vm('web')), set(s.task.get_all())
        for call, args in (('VM.snapshot', ['s']), ('VM.start', [False, False]), ('VM.hard_shutdown', [])):
            task = s.call(f'Async.{call}', vm, *args)
            assert s.task.get_name_label(task) == f'Async.{call}'
            finished(s, task)
        s.refused('VM.hard_shutdown', vm)
        assert len(set(s.task.get_all()) - before) == 3, 'who waits for the answer needs no task'


def test_a_password_that_is_not_needed():
    """Programs on the host log in over the local socket as root, and have no password to give."""
    with Served() as d:
        local = Local(d)
        for user, password in (('root', ''), ('', ''), ('root', 'any')):
            ref = local.call('session.login_with_password', user, password)
            assert local.call('session.get_is_local_superuser', ref, ref) is True
        # It is counted as others are (test_caps): programs forget to log out.  Those that are not have the originator "local".
        ref = local.call('session.login_with_password', 'root', '', '1', 'backup')
        assert local.call('session.get_originator', ref, ref) == 'backup'
        with expect('SESSION_AUTHENTICATION_FAILED'):
            local.call('session.login_with_password', 'someone', '')
        with expect('SESSION_AUTHENTICATION_FAILED'):
            Json(d.port, 2).call('session.login_with_password', 'root', '')


class Local(Json):
    """JSON-RPC on the local socket."""

    def __init__(self, d):
        super().__init__(0, 2)
        self.path = os.path.join(d.state, 'xapi.sock')

    def raw(self, body, method='POST', path='/jsonrpc', headers={}):
        c = http.client.HTTPConnection('localhost', timeout=120)
        c.sock = socket.socket(socket.AF_UNIX)
        c.sock.connect(self.path)
        c.request(method, path, body, headers)
        r = c.getresponse()
        return r, r.read()


@contextlib.contextmanager
def expect(code):
    try:
        yield
    except ApiError as e:
        assert e.code == code, e.code
    else:
        raise AssertionError(f'no {code}')


def test_paths_that_are_not_there():
    with Served(delays={'login-refusal': 0.02}) as d:
        s, w = Session(Json(d.port, 2), d), Json(d.port, 2)
        for method, path, status in (('GET', '/nonsense', 404), ('GET', '/', 405), ('PUT', '/console', 405), ('DELETE', '/x', 404)):
            r, text = w.raw('', method, path)
            assert r.status == status, (method, path, r.status, text)
        for path in ('/nonsense', '/console'):
            task = s.task.create('mine', '')
            r, _ = w.raw('', 'PUT', f'{path}?session_id={s.ref}&task_id={task}')
            assert r.status in (404, 405) and s.task.get_status(task) == 'failure', 'the task waits for ever'
            assert s.task.get_error_info(task)[0] == 'MESSAGE_METHOD_UNKNOWN'


def test_chains():
    """vhd-parent leads from a disk to what it stands on, as backup programs follow it."""
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        disk = s.VDI.get_by_uuid(d.vdi('1MiB'))
        assert 'vhd-parent' not in s.VDI.get_sm_config(disk)
        snap = s.VDI.snapshot(disk)
        parent = lambda v: s.VDI.get_sm_config(v).get('vhd-parent')
        assert parent(disk) == s.VDI.get_uuid(snap)
        clone = s.VDI.clone(snap)
        below = s.VDI.get_by_uuid(parent(clone))
        assert below == snap or not s.VDI.get_managed(below)
        record = s.VDI.get_record(clone)
        assert record['sm_config']['vhd-parent'] == parent(clone) == d.get('vdi', record['uuid'], 'sm-config', 'vhd-parent')
        new = s.VDI.create(record)
        assert parent(new) is None


def test_what_a_guest_said():
    """A copy's guest has another address; a guest that begins anew says again what it has."""
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        vm = d.vm('web', 1, '1MiB')
        ref = s.VM.get_by_uuid(vm)
        d.stop()
        d.sql_write("INSERT INTO VM_guest_metrics (ref, gen, uuid, networks) VALUES "
                    """('OpaqueRef:g', 1, 'g', '{"0/ip": "192.0.2.1"}')""")
        d.sql_write(f"UPDATE VM SET guest_metrics = 'OpaqueRef:g' WHERE uuid = '{vm}'")
        d.start()
        s = Session(Json(d.port, 2), d)
        assert s.VM_guest_metrics.get_networks(s.VM.get_guest_metrics(ref)) == {'0/ip': '192.0.2.1'}
        snap, clone = s.VM.snapshot(ref, 's'), s.VM.clone(ref, 'c')
        assert s.VM.get_guest_metrics(clone) == 'OpaqueRef:NULL' and s.VM.get_guest_metrics(snap) != 'OpaqueRef:NULL'
        s.VM.start(ref, False, False)
        assert s.VM.get_guest_metrics(ref) == 'OpaqueRef:NULL' and s.VM_guest_metrics.get_all() == [s.VM.get_guest_metrics(snap)]


def test_a_record_of_a_suspended_vm():
    """Its memory would be lost without a word."""
    with Served() as d:
        s = Session(Json(d.port, 2), d)
        record = s.VM.get_record(s.VM.get_by_uuid(d.vm('web')))
        made = s.VM.create({**record, 'name_label': 'made'})
        assert s.VM.get_power_state(made) == 'Halted'
        assert s.refused('VM.create', {**record, 'power_state': 'Suspended'})[:3] == ['VALUE_NOT_SUPPORTED', 'power_state', 'Suspended']
        other = s.VDI.get_by_uuid(d.vdi('1MiB'))
        assert s.refused('VM.create', {**record, 'suspend_VDI': other})[:2] == ['VALUE_NOT_SUPPORTED', 'suspend_VDI']


main(globals())
