#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""XenAPI over XML-RPC, JSON-RPC 1.0 and 2.0: encodings, envelopes, errors, and the life of a VM, the same over each."""
import http.client, os, sys, time, xmlrpc.client
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *

NOBODY = 'OpaqueRef:00000000-0000-4000-8000-000000000000'


def wires(d):
    return [Xml(d.port), Xml(d.port, '/RPC2'), Xml(d.tls_port, tls=True), Json(d.port, 1), Json(d.port, 2),
            Json(d.tls_port, tls=True)]


def test_life():
    """Connect, make a VM, run it, snapshot, revert, destroy."""
    with Served() as d:
        for wire in wires(d):
            s = Session(wire, d)
            n = wire.number
            template = s.VM.get_by_name_label('Other install media')[0]
            vm = s.VM.clone(template, 'web')
            s.VM.provision(vm)
            sr = s.SR.get_all()[0]
            vdi = s.VDI.create({'name_label': 'system', 'SR': sr, 'virtual_size': n(64 << 20), 'type': 'user', 'sharable': False,
                                'read_only': False, 'other_config': {'a': 'b'}, 'unknown': ['is', 'overlooked']})
            vbd = s.VBD.create({'VM': vm, 'VDI': vdi, 'userdevice': '0', 'bootable': True, 'mode': 'RW', 'type': 'Disk',
                                'empty': False, 'other_config': {}, 'qos_algorithm_type': '', 'qos_algorithm_params': {}})
            vif = s.VIF.create({'device': '0', 'network': s.network.get_all()[0], 'VM': vm, 'MAC': '', 'MTU': n(1500),
                                'other_config': {'x': 'y'}, 'qos_algorithm_type': '', 'qos_algorithm_params': {}})
            assert s.VIF.get_other_config(vif) == {'x': 'y'} and s.VBD.get_VM(vbd) == vm
            assert s.VDI.get_other_config(vdi) == {'a': 'b'}
            s.VM.start(vm, False, False)
            assert s.VM.get_power_state(vm) == 'Running'
            snap = finished(s, s.Async.VM.snapshot(vm, 'before'))
            assert s.VM.get_snapshot_of(snap) == vm and s.VM.get_snapshots(vm) == [snap]
            assert s.VM.get_is_a_snapshot(snap) is True
            again = s.VM.snapshot(vm, 'with a third', [vdi])
            assert not [v for v in s.VM.get_VBDs(again) if s.VBD.get_VDI(v) != 'OpaqueRef:NULL']
            s.VM.set_name_description(snap, 'of the <test> & "more"')
            assert s.VM.get_name_description(snap) == 'of the <test> & "more"'
            assert finished(s, s.Async.VM.revert(snap)) == ''
            assert s.VM.get_power_state(vm) == 'Halted'
            for each in (snap, again):
                for v in s.VM.get_VBDs(each):
                    disk = s.VBD.get_VDI(v)
                    if disk != 'OpaqueRef:NULL':
                        s.VDI.destroy(disk)
                s.VM.destroy(each)
            s.VM.destroy(vm)
            s.VDI.destroy(s.VDI.get_by_name_label('system')[0])
            s.session.logout()
            assert refused(wire, 'VM.get_all', s.ref) == ['SESSION_INVALID', s.ref]
        d.check()


def refused(wire, method, *params):
    try:
        answer = wire.call(method, *params)
    except ApiError as e:
        return [e.code, *e.params]
    raise AssertionError(answer)


def test_types():
    """What each kind of value looks like."""
    with Served() as d:
        vm = d.vm('web', disks=1)
        x, j = Session(Xml(d.port), d), Session(Json(d.port), d)
        ref = x.VM.get_by_uuid(vm)
        rx, rj = x.VM.get_record(ref), j.VM.get_record(ref)
        assert set(rx) == set(rj) and 'frozen' not in rx and 'NVRAM_VDI' not in rx
        assert rx['memory_static_max'] == str(rj['memory_static_max']) and isinstance(rj['memory_static_max'], int)
        assert isinstance(rx['snapshot_time'], xmlrpc.client.DateTime) and rj['snapshot_time'] == '19700101T00:00:00Z'
        assert rx['is_a_template'] is rj['is_a_template'] is False
        assert rx['HVM_shadow_multiplier'] == rj['HVM_shadow_multiplier'] == 1.0
        assert isinstance(rx['VBDs'], list) and rx['other_config'] == rj['other_config']
        assert rx['allowed_operations'] == rj['allowed_operations'] and 'start' in rx['allowed_operations']
        assert x.VM.get_all_records()[ref] == rx and j.VM.get_all_records()[ref] == rj
        x.VM.set_name_label(ref, 'name\twith\nlines')
        assert j.VM.get_name_label(ref) == 'name\twith\nlines' == x.VM.get_name_label(ref)
        # A carriage return goes through XML, too; what XML cannot say at all is left out there, as XenServer does.
        j.VM.set_name_label(ref, 'a\r\nb\x1bc')
        assert x.VM.get_name_label(ref) == 'a\r\nbc' and j.VM.get_name_label(ref) == 'a\r\nb\x1bc'
        batch = x.call('event.from', ['pool'], '', 1.0)
        assert batch['valid_ref_counts'] == {'pool': 1} and batch['events'][0]['operation'] == 'add'
        assert Xml(d.port).call('system.listMethods')
        methods = Json(d.port).call('system.listMethods')
        for m in ('VM.snapshot', 'VM.get_all_records', 'VM.set_name_label', 'VM.add_to_other_config', 'event.from'):
            assert m in methods, m
        for m in ('VM.set_uuid', 'session.get_all', 'VM.get_frozen', 'VM.set_power_state'):
            assert m not in methods, m


def test_setters():
    with Served() as d:
        vm = d.vm('web')
        for wire in wires(d):
            s = Session(wire, d)
            ref = s.VM.get_by_uuid(vm)
            s.VM.add_to_other_config(ref, 'k', 'v')
            assert s.refused('VM.add_to_other_config', ref, 'k', 'w') == ['MAP_DUPLICATE_KEY', 'VM', 'other_config', ref, 'k']
            assert s.VM.get_other_config(ref)['k'] == 'v'
            s.VM.remove_from_other_config(ref, 'k')
            s.VM.remove_from_other_config(ref, 'k')
            s.VM.add_tags(ref, 'one')
            s.VM.add_tags(ref, 'one')
            assert s.VM.get_tags(ref) == ['one']
            s.VM.remove_tags(ref, 'one')
            s.VM.set_tags(ref, ['x', 'y'])
            assert s.VM.get_tags(ref) == ['x', 'y']
            s.VM.set_tags(ref, [])
            s.VM.set_user_version(ref, wire.number(7))
            assert s.VM.get_user_version(ref) == wire.number(7)
            assert s.refused('VM.set_user_version', ref, 'seven') == ['FIELD_TYPE_ERROR', 'user_version']
            assert s.refused('VM.set_actions_after_crash', ref, 'laugh')[:2] == ['INVALID_VALUE', 'actions_after_crash']


def test_errors():
    with Served(delays={'login-refusal': 0.2}) as d:
        vm = d.vm('web')
        for wire in wires(d):
            s = Session(wire, d)
            ref = s.VM.get_by_uuid(vm)
            assert s.refused('VM.get_record', NOBODY) == ['HANDLE_INVALID', 'VM', NOBODY]
            assert s.refused('VM.get_by_uuid', 'none') == ['UUID_INVALID', 'VM', 'none']
            assert s.VM.get_by_name_label('nobody') == []
            assert s.refused('VM.fly', ref) == ['MESSAGE_METHOD_UNKNOWN', 'VM.fly']
            assert s.refused('nothing') == ['MESSAGE_METHOD_UNKNOWN', 'nothing']
            assert s.refused('VM.set_uuid', ref, 'x')[0] == 'MESSAGE_METHOD_UNKNOWN'
            assert s.refused('VM.start', ref) == ['MESSAGE_PARAMETER_COUNT_MISMATCH', 'VM.start', '3', '1']
            assert s.refused('VM.clone', ref, 'x', 'y') == ['MESSAGE_PARAMETER_COUNT_MISMATCH', 'VM.clone', '2', '3']
            assert s.refused('VM.snapshot', ref) == ['MESSAGE_PARAMETER_COUNT_MISMATCH', 'VM.snapshot', '2', '1']
            assert s.refused('VM.clone', ref, ['x'])[0] == 'FIELD_TYPE_ERROR'
            assert s.refused('VM.pause', ref) == ['VM_BAD_POWER_STATE', ref, 'running', 'halted']
            assert s.refused('Async.VM.get_record', ref)[0] == 'Fault'
            assert s.refused('Async.VM.start', ref)[0] == 'MESSAGE_PARAMETER_COUNT_MISMATCH'
            assert s.refused('VDI.create', {'name_label': 'x', 'virtual_size': 'big'})[0] == 'FIELD_TYPE_ERROR'
            assert refused(wire, 'VM.get_all', NOBODY) == ['SESSION_INVALID', NOBODY]
            assert refused(wire, 'VM.get_all')[0] == 'MESSAGE_PARAMETER_COUNT_MISMATCH'
            try:
                finished(s, s.Async.VM.pause(ref))
                raise AssertionError
            except ApiError as e:
                assert [e.code, *e.params] == ['VM_BAD_POWER_STATE', ref, 'running', 'halted']
            # The same with an underscore, but not behind Async.
            assert s.call('VM_get_uuid', ref) == vm
            assert s.refused('VM.get_all_records_where', 'field "is_a_snapshot" = ')[0] == 'INVALID_VALUE'
        begin = time.time()
        assert refused(Json(d.port), 'session.login_with_password', 'root', 'wrong', '1.0') == \
            ['SESSION_AUTHENTICATION_FAILED', 'root', 'Authentication failed']
        assert time.time() - begin > 0.4
        # What a create could not set is not left behind.
        s = Session(Json(d.port), d)
        before = len(s.VM.get_all())
        assert s.refused('VM.create', {'name_label': 'x', 'actions_after_crash': 'laugh'})[0] == 'INVALID_VALUE'
        assert len(s.VM.get_all()) == before
        d.check()


def test_what_could_be_attached():
    """The answer of VBD.assert_attachable is that of the plug itself."""
    with Served() as d:
        s = Session(Json(d.port), d)
        disk, users = d.vdi('1MiB', 'disk'), [d.vm(name) for name in ('one', 'two')]
        vbds = [s.VBD.get_by_uuid(d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=1)) for vm in users]
        cd = s.VBD.get_by_uuid(d.xe('vbd-create', vm_uuid=users[0], type='CD', mode='RO', device=3))
        for vbd in [*vbds, cd]:
            s.VBD.assert_attachable(vbd)
        d.xe('vm-start', uuid=users[0])
        assert s.refused('VBD.assert_attachable', vbds[0]) == ['DEVICE_ALREADY_ATTACHED', vbds[0]]
        assert s.refused('VBD.assert_attachable', vbds[1])[:2] == ['VDI_IN_USE', s.VDI.get_by_uuid(disk)]
        assert s.refused('VM.start', s.VM.get_by_uuid(users[1]), False, False)[:2] == ['VDI_IN_USE', s.VDI.get_by_uuid(disk)]
        d.xe('vbd-unplug', uuid=s.VBD.get_uuid(vbds[0]))
        s.VBD.assert_attachable(vbds[1])
        assert s.refused('VBD.assert_attachable', NOBODY) == ['HANDLE_INVALID', 'VBD', NOBODY]
        d.check()


def test_a_storage_repository_that_moved():
    """Its folder has another name: found there, and reached there, with its disks."""
    with Served() as d:
        s = Session(Json(d.port), d)
        old, new = d.folder_for('old'), os.path.join(d.state, 'sr', 'new')
        host = s.host.get_all()[0]
        sr = s.SR.create(host, {'location': old}, 0, 'r', '', 'file', '', False, {})
        uuid_ = s.SR.get_uuid(sr)
        d.xe('vdi-create', sr_uuid=uuid_, name_label='x', virtual_size='1MiB')
        pbd, = s.SR.get_PBDs(sr)
        code, *_ = s.refused('PBD.set_device_config', pbd, {'location': new})
        assert code == 'OPERATION_NOT_ALLOWED'
        s.PBD.unplug(pbd)
        os.rename(old, new)
        assert s.refused('PBD.plug', pbd)[0] == 'SR_BACKEND_FAILURE_47'
        assert uuid_ in s.SR.probe(host, {'location': new}, 'file', {}) and 'SR_PROBE' in s.SM.get_capabilities(
            next(r for r, sm in s.SM.get_all_records().items() if sm['type'] == 'file'))
        assert s.refused('SR.probe', host, {'location': new}, 'lvm', {}) == ['SR_UNKNOWN_DRIVER', 'lvm']
        s.PBD.set_device_config(pbd, {'location': new})
        s.PBD.plug(pbd)
        assert s.PBD.get_device_config(pbd) == {'location': new}
        assert [s.VDI.get_name_label(v) for v in s.SR.get_VDIs(sr)] == ['x']
        with open(os.path.join(new, 'sr-uuid'), 'w') as f:
            f.write('<!-- no uuid')
        assert s.refused('SR.probe', host, {'location': new}, 'file')[0] == 'SR_BACKEND_FAILURE_47'


def test_a_storage_repository_of_another_host():
    """Who has it is told by XenAPI's code for that; it goes to whom it is left, or who takes it from a host that is lost."""
    with Served(delays={'sr-lock': 0.1}) as d, Served(first=True) as other:
        s, o = Session(Json(d.port), d), Session(Json(other.port), other)
        location = d.folder_for('theirs')
        sr = s.SR.get_uuid(s.SR.create(s.host.get_all()[0], {'location': location}, 0, 'r', '', 'file', '', False, {}))
        ours, theirs = s.host.get_uuid(s.host.get_all()[0]), o.host.get_all()[0]
        there = o.SR.introduce(sr, 'r', '', 'file', '', False, {})
        pbd = o.PBD.create({'host': theirs, 'SR': there, 'device_config': {'location': location}})
        code, status, message, error = o.refused('PBD.plug', pbd)
        assert (code, status, error) == ('SR_BACKEND_FAILURE_16', '', '') and ours in message
        assert message.startswith('The SR device is currently in use [opterr=')
        d.kill()
        o.PBD.set_device_config(pbd, {'location': location, 'take-over-from': ours})
        o.PBD.plug(pbd)
        assert o.PBD.get_device_config(pbd) == {'location': location} and o.PBD.get_currently_attached(pbd)


def test_queries():
    with Served() as d:
        vm = d.vm('web "1"', disks=1)
        d.vm('other')
        d.xe('vm-start', uuid=vm)
        snaps = [d.snapshot(vm, f's{i}') for i in range(3)]
        s = Session(Json(d.port), d)
        ref = s.VM.get_by_uuid(vm)

        def found(expr):
            return sorted(r['name_label'] for r in s.VM.get_all_records_where(expr).values())
        assert found(f'field "snapshot_of" = "{ref}"') == ['s0', 's1', 's2']
        assert found(f'field "is_a_snapshot" = "true" and field "snapshot_of" = "{ref}"') == ['s0', 's1', 's2']
        assert found('field "name__label" = "web \\"1\\""') == ['web "1"']
        assert found('field "power_state" = "Running"') == ['web "1"']
        assert found('(field "name__label" = "s1" or field "name_label" = "other") and not false') == ['other', 's1']
        assert found('not field "is_a_template" = "true"') == ['other', 'web "1"']
        assert found('false') == [] and len(found('true')) == len(s.VM.get_all())
        for bad in ('', 'field', 'field "x" = "y"', 'field "uuid" "x"', '(true', 'true)', 'true true', 'not', '"a" = "b"',
                    'field "uuid" = "x', 'field "frozen" = "true"', '(' * 5000, 'not ' * 5000 + 'true'):
            error = s.refused('VM.get_all_records_where', bad)
            assert error[0] == 'INVALID_VALUE' and error[1] == bad, (bad, error)


def test_events():
    with Served() as d:
        vm = d.vm('web')
        for wire in wires(d):
            s = Session(wire, d)
            ref = s.VM.get_by_uuid(vm)
            all_ = s.call('event.from', ['*'], '', 5.0)
            assert {e['class'] for e in all_['events']} >= {'vm', 'pool', 'host', 'sr'}
            assert 'session' not in {e['class'] for e in all_['events']}
            s.VM.set_name_description(ref, f'at {time.time()}')
            barrier = s.event.inject('VM', ref)
            b = s.call('event.from', [f'vm/{ref}'], all_['token'], 5.0)
            mine = [e for e in b['events'] if e['ref'] == ref]
            assert mine and mine[-1]['operation'] == 'mod' and mine[-1]['snapshot']['uuid'] == vm and b['token'] >= barrier
            begin = time.time()
            b = s.call('event.from', ['vm'], b['token'], 0.2)
            assert b['events'] == [] and 0.1 < time.time() - begin < 10 * SLOW
            assert s.refused('event.from', ['vm'], 'x', 1.0)[0] == 'EVENT_FROM_TOKEN_PARSE_FAILURE'


def test_bad_requests():
    """Not a call at all: refused, and the daemon goes on."""
    with Served() as d:
        j = Json(d.port)
        call = {'method': 'system.listMethods', 'params': [], 'id': 1}
        for bad in (b'', b'x', b'[]', b'{}', b'{"method": 1, "params": [], "id": 1}', b'\xff\xfe', b'[' * 100000,
                    json.dumps({**call, 'params': {}}).encode(), json.dumps({k: v for k, v in call.items() if k != 'id'}).encode(),
                    json.dumps([call]).encode(), b'{"a":' * 1000):
            r, text = j.raw(bad)
            assert r.status == (413 if len(bad) > 4000 else 400), (bad[:40], r.status, text)
        r, _ = j.raw(b' ' * (301 << 10))
        assert r.status == 413
        for bad in (b'', b'<a/>', b'<methodCall/>', b'<methodCall><methodName>x</methodName>', b'\x00',
                    b'<!DOCTYPE x [<!ENTITY a "b">]><methodCall><methodName>&a;</methodName></methodCall>',
                    b'<methodCall><methodName>VM.get_all</methodName><params><param>' + b'<value><array><data>' * 200 +
                    b'</data></array></value>' * 200 + b'</param></params></methodCall>',
                    b'<methodCall><methodName>x</methodName><params><param><value><struct>' + b'<member/>' * 20000 +
                    b'</struct></value></param></params></methodCall>'):
            r, text = j.raw(bad, path='/')
            assert r.status == (413 if len(bad) > 4000 else 400), (bad[:60], r.status, text)
        assert d.log().count('\n') < 100, 'a request fills the log'
        r, _ = j.raw(None, 'OPTIONS')
        assert r.status == 200 and r.headers['Access-Control-Allow-Origin'] == '*'
        r, text = j.raw(json.dumps(call))
        assert r.headers['Access-Control-Allow-Origin'] == '*' and 'VM.start' in text.decode()
        r, _ = j.raw(None, 'GET', '/nothing')
        assert r.status in (404, 405)


def test_idle_connections():
    """Two thousand that have asked once and stay: they cost little, and hurt nobody."""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, max(8192, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    with Served() as d:
        call = json.dumps({'method': 'VM.get_all', 'params': ['x'], 'id': 1})

        def kb():
            with open(f'/proc/{d.process.pid}/status') as f:
                return int(re.search(r'^VmRSS:\s+(\d+) kB', f.read(), re.M)[1])
        before, kept = kb(), []
        for _ in range(2000):
            c = http.client.HTTPConnection('127.0.0.1', d.port, timeout=60)
            c.request('POST', '/jsonrpc', call)
            r = c.getresponse()
            assert r.status == 200 and b'SESSION_INVALID' in r.read()
            kept.append(c)
        grown = kb() - before
        threads = len(os.listdir(f'/proc/{d.process.pid}/task'))
        begin = time.time()
        s = Session(Json(d.port), d)
        s.VM.get_all_records()
        d.xe('vm-list')
        print(f'  2000 connections: {grown} KiB, {threads} threads; a login and all records in {time.time() - begin:.2f} s')
        assert SLOW > 1 or (grown < 16 << 10 and threads < 50)
        for c in kept[::100]:
            c.request('POST', '/jsonrpc', call)             # they are alive
            assert c.getresponse().status == 200
        for c in kept:
            c.close()


def test_end_with_a_call_at_work():
    """One that heeds no cancel is not waited for for ever, and takes nothing with it: the next start undoes it."""
    with Served(env={'STILLFRAME_FAKE': 'hang=resize'}, delays={'stop-patience': 0.02}) as d:
        s = Session(Json(d.port), d)
        vm = d.vm('web', disks=1)
        d.xe('vm-start', uuid=vm)
        disk = d.disks(vm)['0']
        for _ in range(3):
            s.call('Async.VDI.resize', s.VDI.get_by_uuid(disk), 128 << 20)
        wait_for(lambda: 'fake resize' in d.log())
        begin = time.time()
        assert d.stop() == 0, d.log()[-500:]
        assert time.time() - begin < 10 * SLOW and 'stopped while calls are at work' in d.log()
        d.start(env={'STILLFRAME_FAKE': ''})
        d.wait_quiet()
        d.check()


main(globals())
