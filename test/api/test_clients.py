#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that were not written for this server: XenServer's own library in Python, as Debian packages it, over XML-RPC;
Xen Orchestra's, from npm, over both RPCs; what XenCenter says when it connects; and a client of xe's protocol that was
written from its description.  Each connects, watches, snapshots, reverts and destroys."""
import json, os, shutil, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *
from thin import Thin

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'clients')


def world(d):
    """A VM with a disk that can be snapshot while it runs, and a disk that nobody uses."""
    vm = d.vm('web', disks=1, size='4MiB')
    d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)
    return vm, d.vdi('1MiB', 'data')


# ---- XenServer's ----

def xenapi():
    try:
        from os_xenapi.client import XenAPI
    except ImportError as e:
        raise Skip(f'python3-os-xenapi: {e}')
    return XenAPI


def test_xenapi_py():
    api = xenapi()
    with Served(delays={'login-refusal': 0.02}) as d:
        vm_uuid, _ = world(d)
        session = api.Session(f'http://127.0.0.1:{d.port}')
        try:
            session.login_with_password('root', 'wrong', '2.21', 'test')
            raise AssertionError('a wrong password was taken')
        except api.Failure as e:
            assert e.details[0] == 'SESSION_AUTHENTICATION_FAILED', e.details
        session.login_with_password('root', d.accounts['root'], '2.21', 'test')
        x = session.xenapi
        vm = x.VM.get_by_uuid(vm_uuid)
        token = x.event_from(['*'], '', 0.0)['token'] if hasattr(x, 'event_from') else x.event.inject('VM', vm)
        task = getattr(x, 'Async').VM.snapshot(vm, 'by XenAPI.py')
        end = time.time() + 30 * SLOW
        while x.task.get_status(task) == 'pending':
            assert time.time() < end
            time.sleep(0.02)
        assert x.task.get_status(task) == 'success', x.task.get_error_info(task)
        snap = x.task.get_result(task)[len('<value>'):-len('</value>')]
        assert x.VM.get_snapshots(vm) == [snap] and x.VM.get_is_a_snapshot(snap) is True
        seen = getattr(x.event, 'from')(['vm'], token, 5.0)
        assert snap in {e['ref'] for e in seen['events']}
        x.VM.set_name_description(vm, 'to be taken back')
        x.VM.revert(snap)
        assert x.VM.get_name_description(vm) == d.get('snapshot', x.VM.get_uuid(snap), 'name-description')
        disks = [x.VBD.get_VDI(v) for v in x.VM.get_VBDs(snap)]
        x.VM.destroy(snap)
        for vdi in disks:
            x.VDI.destroy(vdi)
        assert x.VM.get_snapshots(vm) == []
        try:
            x.VM.get_record(snap)
            raise AssertionError('it is there')
        except api.Failure as e:
            assert e.details == ['HANDLE_INVALID', 'VM', snap]
        session.logout()
        d.check()


# ---- Xen Orchestra's ----

def xen_api():
    """The folder with the library installed."""
    if not shutil.which('npm'):
        raise Skip('there is no npm')
    folder = os.path.join(BUILD, 'clients')
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(HERE):
        shutil.copy(os.path.join(HERE, name), folder)
    if not os.path.exists(os.path.join(folder, 'node_modules', 'xen-api')):
        p = subprocess.run(['npm', 'ci', '--ignore-scripts', '--no-audit', '--no-fund'], cwd=folder, capture_output=True,
                           text=True, timeout=600)
        if p.returncode:
            shutil.rmtree(os.path.join(folder, 'node_modules'), ignore_errors=True)
            raise Skip('npm ci: ' + p.stderr[-300:])
    return folder


def test_xen_api():
    folder = xen_api()
    for transport in ('json-rpc', 'xml-rpc'):
        with Served() as d:
            vm, vdi = world(d)
            d.xe('vm-start', uuid=vm)
            p = subprocess.run(['node', 'drive.mjs', f'https://127.0.0.1:{d.tls_port}', 'root', d.accounts['root'], vm, vdi, transport],
                               cwd=folder, capture_output=True, text=True, timeout=120 * SLOW)
            assert p.returncode == 0, p.stderr[-3000:] + p.stdout + d.log()[-2000:]
            said = {s['step']: s['value'] for s in map(json.loads, p.stdout.splitlines())}
            types = said.pop('objects')
            assert types['VM'] > 10 and types['pool'] == types['host'] == 1 and types['SM'] >= 2, types
            assert said == {'vm': {'name': 'web', 'power_state': 'Running', 'VBDs': 1, 'pool': 'pool'}, 'barrier': 'a & b',
                            'snapshot': {'name': 'by xen-api <&>', 'of': vm, 'disks': 1},
                            'error': ['HANDLE_INVALID', 'VM', 'OpaqueRef:none'], 'reverted': 'Halted', 'exported': 1 << 20,
                            'imported': True, 'refused': 'VDI_TOO_SMALL', 'destroyed': 1}, said
            assert '_watchEvents' not in p.stderr and '_refreshCachedRecords' not in p.stderr, p.stderr
            d.check()


# ---- XenCenter's sequence ----

def test_xencenter():
    """Its calls, in their order; every object that it caches is whole."""
    with Served() as d:
        vm_uuid, _ = world(d)
        wire = Json(d.port)
        s = Session(wire, d)
        assert {r['name_label'] for r in s.role.get_all_records().values()} >= {'pool-admin', 'read-only'}
        first = s.call('event.from', ['*'], '', 30.0)
        cache = {e['ref']: (e['class'], e['snapshot']) for e in first['events']}
        assert {e['operation'] for e in first['events']} == {'add'}
        counts = {}
        for kind, _ in cache.values():
            counts[kind] = counts.get(kind, 0) + 1
        assert counts == {k: n for k, n in first['valid_ref_counts'].items() if n}, (counts, first['valid_ref_counts'])
        pool = next(r for kind, r in cache.values() if kind == 'pool')
        host = cache[pool['master']][1]
        assert host['API_version_major'] >= 2 and host['software_version']['product_version'] and host['enabled'] is True
        assert cache[host['metrics']][1]['live'] is True
        s.host.get_servertime(pool['master'])
        # a snapshot of a VM that runs, its picture beside it
        vm = s.VM.get_by_uuid(vm_uuid)
        s.VM.start(vm, False, False)
        task = s.Async.VM.checkpoint(vm, 'with memory')
        token = first['token']
        while True:
            b = s.call('event.from', ['*'], token, 30.0)
            token = b['token']
            for e in b['events']:
                if e['operation'] == 'del':
                    cache.pop(e['ref'], None)
                else:
                    cache[e['ref']] = (e['class'], e['snapshot'])
            if task in cache and cache[task][1]['status'] != 'pending':
                break
        assert cache[task][1]['status'] == 'success', cache[task]
        snap = cache[task][1]['result'][len('<value>'):-len('</value>')]
        s.VM.set_name_description(snap, 'told by XenCenter')
        blob = s.VM.create_new_blob(snap, 'XenCenter.VNCSnapshot', 'image/jpeg', False)
        r, _ = wire.raw(b'\xff\xd8picture', 'PUT', f'/blob?session_id={s.ref}&ref={blob}')
        assert r.status == 200 and wire.raw(None, 'GET', f'/blob?session_id={s.ref}&ref={blob}')[1] == b'\xff\xd8picture'
        # back, and on
        assert s.VM.get_snapshot_info(snap)['power-state-at-snapshot'] == 'Running'
        done = s.Async.VM.revert(snap)
        assert finished(s, done) == '' and s.VM.get_power_state(vm) == 'Suspended'
        s.VM.assert_can_boot_here(vm, pool['master'])
        s.VM.resume_on(vm, pool['master'], False, False)
        assert s.VM.get_power_state(vm) == 'Running' and s.VM.get_parent(vm) == snap and vm in s.VM.get_children(snap)
        s.VM.shutdown(vm)
        assert s.VM.get_power_state(vm) == 'Halted' and s.VM.get_cooperative(vm) is True
        assert s.host.get_management_interface(pool['master']) in (*s.PIF.get_all(), 'OpaqueRef:NULL')
        # a template of it, then away with it
        clone = s.VM.clone(snap, 'from a snapshot')
        s.VM.provision(clone)
        assert s.VM.get_is_a_template(clone) is False
        s.VM.hard_shutdown(snap)
        for v in s.VM.get_VBDs(snap):
            if 'owner' in s.VBD.get_other_config(v):
                s.VDI.destroy(s.VBD.get_VDI(v))
        s.VM.destroy(snap)
        assert s.refused('VM.get_record', snap) == ['HANDLE_INVALID', 'VM', snap]
        s.session.logout()


# ---- xe's protocol ----

def test_thin():
    with Served(delays={'login-refusal': 0.02}) as d:
        vm, vdi = world(d)
        thin = Thin('127.0.0.1', d.tls_port, 'root', d.accounts['root'], answers=['yes'])
        assert thin.run('vm-list', 'name-label=web', 'params=uuid', '--minimal') == 0 and thin.out == [vm]
        assert thin.run('vm-snapshot', f'uuid={vm}', 'new-name-label=by hand') == 0
        snap = thin.out[0]
        waiter, heard = Thin('127.0.0.1', d.tls_port, 'root', d.accounts['root']), []
        thread = threading.Thread(target=lambda: heard.append(waiter.run('event-wait', 'class=vm', f'uuid={vm}', 'name-description=new')))
        thread.start()
        assert thin.run('vm-param-set', f'uuid={vm}', 'name-description=new') == 0
        thread.join(30 * SLOW)
        assert heard == [0]
        assert thin.run('snapshot-revert', f'snapshot-uuid={snap}') == 0
        assert thin.run('vm-param-get', f'uuid={vm}', 'param-name=name-description') == 0 and thin.out != ['new']
        # files of the client's
        out, into = os.path.join(d.state, 'out.raw'), os.path.join(d.state, 'in.raw')
        with open(into, 'wb') as f:
            f.write(b'x' * (1 << 20))
        assert thin.run('vdi-import', f'uuid={vdi}', f'filename={into}') == 0, thin.err
        assert thin.run('vdi-export', f'uuid={vdi}', f'filename={out}') == 0, thin.err
        assert open(out, 'rb').read() == b'x' * (1 << 20)
        # a question, and an end
        assert thin.run('snapshot-uninstall', f'uuid={snap}') == 0
        assert thin.out[0] == 'The following items are about to be destroyed' and thin.out[-1] == 'All objects destroyed'
        assert thin.run('snapshot-revert', f'snapshot-uuid={snap}') == 1 and snap in ' '.join(thin.err)
        assert thin.run('no-such-command') == 1 and "For usage run: 'xe help'" in thin.err[0]
        s = Session(Json(d.port), d)
        by_session = Thin('127.0.0.1', d.port, session=s.ref, tls=False)
        assert by_session.run('host-list', '--minimal') == 0 and by_session.out == d.list('host')
        wrong = Thin('127.0.0.1', d.tls_port, 'root', 'x')
        assert wrong.run('vm-list') == 1 and wrong.out == []
        d.check()


main(globals())
