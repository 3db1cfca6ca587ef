#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may do what, and to whose object: each call and each field, in each role, on one's own and on another's; what is
to be expected is read from XenAPI's table (xenapi.txt) and our own (stillframed --model).  And what is secret stands
nowhere but in the answer to its owner."""
import http.client, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *
from objects import *

HERE = os.path.dirname(os.path.abspath(__file__))
DENIED = 'RBAC_PERMISSION_DENIED'
NULL = 'OpaqueRef:NULL'
# Made from a record.
MAKERS = {'PBD', 'VBD', 'VDI', 'VIF', 'VM', 'VMSS', 'network', 'secret', 'subject'}
# Paths of their own: what XenAPI asks for.
PATHS = {('GET', '/export_raw_vdi'): 'vm-admin', ('PUT', '/import_raw_vdi'): 'vm-admin', ('GET', '/console'): 'vm-operator',
         ('CONNECT', '/console'): 'vm-operator', ('GET', '/vncsnapshot'): 'vm-operator', ('GET', '/blob'): 'read-only',
         ('PUT', '/blob'): 'vm-power-admin'}


def setters():
    """(class, field) -> the least role, in XenAPI."""
    found, of = {}, None
    for line in open(os.path.join(HERE, 'xenapi.txt')):
        words = line.split()
        if words[0] == 'class':
            of = words[1]
        elif words[0] == 'setter':
            found[of, words[1]] = words[2]
    return found


def log_in(d, name, role):
    u = d.xe('subject-add', subject_name=name)
    if role != 'pool-admin':
        d.xe('subject-role-add', uuid=u, role_name=role)
        d.xe('subject-role-remove', uuid=u, role_name='pool-admin')
    return Session(Json(d.port), d, name)


def code(s, method, *params):
    """Of the error; '': none."""
    try:
        s.call(method, *params)
    except ApiError as e:
        return e.code
    return ''


def allows(role, least):
    return ROLES.index(role) <= ROLES.index(least)


def another(value, f):
    """A value of the field's kind that it has not now."""
    if f.kind == 'enum -> string':
        return {**value, 'start': 'x'}
    if '->' in f.kind:
        return {**value, 'k': 'v'}
    if f.kind.endswith('set'):
        return [*value, 'a'] if f.kind == 'string set' else []
    return {'string': f'{value}x', 'int': 5, 'float': 2.5, 'bool': not value, 'enum': 'x', 'ref': NULL}[f.kind]


def changes(c, name, f, value):
    """Each way to change the field: method and parameters behind the object."""
    yield f'{c}.set_{name}', (another(value, f),)
    if '->' in f.kind:
        key = 'start' if f.kind == 'enum -> string' else 'key'
        yield f'{c}.add_to_{name}', (key, 'v')
        yield f'{c}.remove_from_{name}', (key,)
    elif f.kind.endswith('set'):
        yield f'{c}.add_{name}', ('a',)
        yield f'{c}.remove_{name}', ('a',)


def still(value):
    """Without what a storage writes by itself."""
    return {k: v for k, v in value.items() if not k.startswith(('backlog', 'method'))} if isinstance(value, dict) else value


def test_calls():
    """Is each let through to where its parameters are looked at, and behind Async., too?"""
    _, calls = model()
    with Served(accounts=ROLES) as d:
        for role in ROLES:
            s = log_in(d, role, role)
            for name, c in calls.items():
                if name.startswith('session.log'):
                    continue
                for method in (name, f'Async.{name}'):
                    denied = code(s, method) == DENIED
                    assert denied != allows(role, c.role), (role, method, c.role)
        print(f'  {2 * len(calls) * len(ROLES)} tries')
        d.check()


def test_fields():
    """Each way to change each field of an object of each class, that is nobody's or another's; who may not changes nothing."""
    fields, _ = model()
    wanted, n, unseen = setters(), 0, []
    with Served(accounts=['alice', *ROLES]) as d:
        root = Session(Json(d.port), d)
        populate(d, root)
        root.task.create('another\'s', '')
        who = {role: log_in(d, role, role) for role in ROLES}
        methods = set(root.wire.call('system.listMethods'))
        for c in fields:
            refs = [root.ref] if c == 'session' else [] if c == 'event' else root.call(f'{c}.get_all')
            settable = [name for name in fields[c] if f'{c}.set_{name}' in methods]
            unseen += [c] if settable and not refs else []
            for name in settable if refs else []:
                f, ref = fields[c][name], refs[-1]
                least = 'pool-operator' if c == 'task' else wanted[c, name]
                if f.access == 'private' or (c == 'task' and name != 'other_config'):
                    continue
                before = root.call(f'{c}.get_{name}', ref)
                for role in reversed(ROLES):
                    for method, params in changes(c, name, f, before):
                        if method not in methods:
                            continue
                        got = code(who[role], method, ref, *params)
                        assert (got == DENIED) != allows(role, least), (role, method, params, got, least)
                        n += 1
                    if not allows(role, least):
                        assert still(root.call(f'{c}.get_{name}', ref)) == still(before), (role, c, name)
        print(f'  {n} tries; no object of {unseen}')
        assert set(unseen) <= {'VM_guest_metrics', 'PIF', 'PIF_metrics'}


def test_reading():
    """All but secrets is there for everybody; those of others' sessions take what only their users know."""
    fields, _ = model()
    with Served(accounts=['alice', *ROLES]) as d:
        root = Session(Json(d.port), d)
        populate(d, root)
        methods = set(root.wire.call('system.listMethods'))
        assert not {'session.get_all', 'session.get_all_records', 'session.get_all_records_where'} & methods
        for role in ROLES:
            s = log_in(d, role, role)
            for c in set(fields) - {'event', 'session'}:
                least = 'pool-operator' if c == 'secret' else 'read-only'
                ref = next(iter(root.call(f'{c}.get_all')), NULL)
                for method, params in (('get_all', ()), ('get_all_records', ()), ('get_all_records_where', ('true',)),
                                       ('get_record', (ref,)), ('get_by_uuid', ('x',)), *((f'get_{f}', (ref,)) for f in fields[c])):
                    if f'{c}.{method}' in methods:
                        assert (code(s, f'{c}.{method}', *params) == DENIED) != allows(role, least), (role, c, method)
            text = json.dumps(s.call('event.from', ['*'], '', 0.0))
            assert root.ref not in text and ('"class": "secret"' in text) == allows(role, 'pool-operator'), role
            assert code(s, 'event.inject', 'session', root.ref) == 'HANDLE_INVALID'
            secret = root.secret.get_all()[0]
            assert (code(s, 'event.inject', 'secret', secret) == DENIED) != allows(role, 'pool-operator'), role


# ---- whose ----

def values(args, ref):
    """For the arguments of a call, the first of them the object."""
    plain = {'STRING': 'x', 'INT': 1, 'FLOAT': 0.5, 'BOOL': False, 'STRING_SET': ['x'], 'REF': ref, 'REF_SET': [ref], 'STRING_MAP': {},
             'INT_SET': [], 'DATETIME': '20260101T00:00:00Z'}
    return [ref] + ['success' if a.kind == 'ENUM' else plain[a.kind] for a in args[1:] if not a.optional]


def test_tasks():
    """Of the calls with a task in their first place, and its fields: its own user's in any session, and pool operators'."""
    fields, calls = model()
    with Served(accounts=['mine', 'theirs', 'op']) as d:
        root = Session(Json(d.port), d)
        mine, theirs, op = log_in(d, 'mine', 'read-only'), log_in(d, 'theirs', 'vm-power-admin'), log_in(d, 'op', 'pool-operator')
        again = Session(Json(d.port), d, 'mine')
        deeds = [(name, values(c.args, None)[1:]) for name, c in calls.items()
                 if c.args and c.args[0].kind == 'REF' and c.args[0].of == 'task']
        deeds += [(m, list(p)) for f in ('other_config',) for m, p in changes('task', f, fields['task'][f], {})]
        assert len(deeds) >= 9, deeds
        for method, params in deeds:
            async_ = [f'Async.{method}'] if method in calls and calls[method].has_async else []
            for m in [method, *async_]:
                task = mine.task.create('work', '')
                before = root.task.get_record(task)
                assert code(theirs, m, task, *params) == DENIED or m in async_, m
                if m in async_:             # it runs, and fails
                    ran = theirs.call(m, task, *params)
                    wait_for(lambda: root.task.get_status(ran) != 'pending')
                    assert root.task.get_error_info(ran)[0] == DENIED, root.task.get_record(ran)
                assert root.task.get_record(task) == before, m
                for s in (mine, again, op, root):
                    task = mine.task.create('work', '')
                    assert code(s, m, task, *params) != DENIED, (m, s.ref)
        # A task of the server's own: what runs behind Async. is its user's, what nobody asked for is no user's.
        behind = root.Async.SR.scan(root.SR.get_all()[0])
        wait_for(lambda: root.task.get_status(behind) != 'pending')
        for method, params in deeds:
            for s in (mine, theirs):
                assert code(s, method, behind, *params) == DENIED, method
        root.task.add_to_other_config(behind, 'applies_to', 'x')
        d.stop()
        d.sql_write(f"UPDATE task SET owner = '' WHERE ref = '{behind}'")
        d.start()
        mine, op = Session(Json(d.port), d, 'mine'), Session(Json(d.port), d, 'op')
        for method, params in deeds:
            assert code(mine, method, behind, *params) == DENIED, method
        op.task.add_to_other_config(behind, 'k', 'v')
        op.task.destroy(behind)


def ask(d, method, path, body=None, headers={}):
    c = http.client.HTTPConnection('127.0.0.1', d.port, timeout=60 * SLOW)
    c.request(method, path, body, headers)
    r = c.getresponse()
    answer = b'' if path.startswith('/console') and r.status == 200 else r.read()        # that has no end
    c.close()
    return r.status, answer


def waiting(d, path, length):
    """A PUT that was let in: the server waits for its body."""
    c = http.client.HTTPConnection('127.0.0.1', d.port, timeout=60 * SLOW)
    c.putrequest('PUT', path)
    c.putheader('Content-Length', str(length))
    c.endheaders()
    c.sock.settimeout(60 * SLOW)
    assert c.sock.recv(12) in (b'HTTP/1.0 200', b'HTTP/1.1 200')
    return c


def test_transfers():
    """What goes over a path of its own: by role, and with a task that is one's own, for one request."""
    with Served(accounts=['other', *ROLES]) as d:
        root = Session(Json(d.port), d)
        vm = d.vm('web')
        d.xe('vm-start', uuid=vm)
        vdi, blob = d.vdi('1MiB', 'disk'), root.VM.create_new_blob(root.VM.get_by_uuid(vm), 'b', 'text/plain')
        console = d.list('console', protocol='vt100')[0]
        query = {'/export_raw_vdi': f'vdi={vdi}', '/import_raw_vdi': f'vdi={vdi}&format=raw', '/console': f'uuid={console}',
                 '/vncsnapshot': f'uuid={vm}', '/blob': f'ref={blob}'}
        who = {role: log_in(d, role, role) for role in ROLES}
        other = log_in(d, 'other', 'vm-power-admin')
        for (method, path), least in PATHS.items():
            body = b'\x00' * 512 if method == 'PUT' else None
            for role, s in who.items():
                status, answer = ask(d, method, f'{path}?{query[path]}&session_id={s.ref}', body)
                assert (status == 403) != allows(role, least), (method, path, role, status, answer[:200])
                if allows(role, least):
                    theirs = other.task.create('transfer', '')
                    before = root.task.get_record(theirs)
                    status, answer = ask(d, method, f'{path}?{query[path]}&session_id={s.ref}&task_id={theirs}', body)
                    may = allows(role, 'pool-operator')
                    assert (status == 403) != may, (method, path, role, status, answer[:200])
                    assert may or root.task.get_record(theirs) == before, (method, path, role)
                    other.task.destroy(theirs)
                    mine = s.task.create('transfer', '')
                    status, answer = ask(d, method, f'{path}?{query[path]}&session_id={s.ref}&task_id={mine}', body)
                    assert status != 403, (method, path, role, status, answer[:200])
                    wait_for(lambda: root.task.get_status(mine) != 'pending')
        # One task is of one request: the second neither runs behind it nor tells how it ended.
        s = who['vm-admin']
        task = s.task.create('transfer', '')
        first = http.client.HTTPConnection('127.0.0.1', d.port, timeout=60 * SLOW)
        first.putrequest('PUT', f'/import_raw_vdi?vdi={vdi}&format=raw&session_id={s.ref}&task_id={task}')
        first.putheader('Content-Length', '512')
        first.endheaders()
        wait_for(lambda: d.sql(f"SELECT of_client FROM task WHERE ref = '{task}'") == ['false'])
        status, answer = ask(d, 'GET', f'/export_raw_vdi?vdi={vdi}&session_id={s.ref}&task_id={task}')
        assert status == 403 and b'OPERATION_NOT_ALLOWED' in answer, (status, answer)
        assert root.task.get_status(task) == 'pending' and root.task.get_error_info(task) == []
        first.send(b'\x00' * 512)
        assert first.getresponse().status == 200
        wait_for(lambda: root.task.get_status(task) == 'success')
        first.close()
        # Also of two that had both been let in when neither had begun.
        s = who['vm-power-admin']
        task, answers = s.task.create('transfer', ''), []
        two = [waiting(d, f'/blob?ref={blob}&session_id={s.ref}&task_id={task}', 5) for _ in range(2)]
        for c, body in zip(two, (b'first', b'other')):
            c.send(body)
            text = b''
            while piece := c.sock.recv(65536):
                text += piece
            answers.append(text)
            c.close()
        assert b'Error' not in answers[0] and b'OPERATION_NOT_ALLOWED' in answers[1], answers
        assert root.task.get_status(task) == 'success' and root.task.get_error_info(task) == []
        assert ask(d, 'GET', f'/blob?ref={blob}&session_id={s.ref}')[1] == b'first'
        # And the one that comes to nothing does not end what the other is at.
        task = s.task.create('transfer', '')
        lost = waiting(d, f'/blob?ref={blob}&session_id={s.ref}&task_id={task}', 5)
        at_work = waiting(d, f'/import_raw_vdi?vdi={vdi}&format=raw&session_id={s.ref}&task_id={task}', 512)
        wait_for(lambda: d.sql(f"SELECT of_client FROM task WHERE ref = '{task}'") == ['false'])
        lost.sock.shutdown(socket.SHUT_WR)
        while lost.sock.recv(65536):
            pass
        lost.close()
        assert root.task.get_status(task) == 'pending' and root.task.get_error_info(task) == []
        at_work.send(b'\x00' * 512)
        wait_for(lambda: root.task.get_status(task) == 'success')
        at_work.close()
        d.check()


def test_makers():
    """A role is asked for what changes: the record that an object is made of may say what the object is anyway."""
    with Served(accounts=['adm', 'oper']) as d:
        root = Session(Json(d.port), d)
        adm, oper = log_in(d, 'adm', 'vm-admin'), log_in(d, 'oper', 'vm-operator')
        vm = root.VM.get_by_uuid(d.vm('web'))
        record = root.VM.get_record(vm)
        for more in ({}, {'affinity': NULL, 'snapshot_schedule': NULL, 'memory_static_max': 1 << 30, 'memory_dynamic_max': 1 << 29,
                          'memory_dynamic_min': 1 << 29, 'memory_static_min': 1 << 28, 'other_config': {}},
                     {**record, 'name_label': 'as the other'}):
            new = adm.VM.create({'name_label': 'n', 'name_description': '', **more})
            assert root.VM.get_affinity(new) == NULL
            adm.VM.destroy(new)
            new = finished(adm, adm.Async.VM.create({'name_label': 'n', 'name_description': '', **more}))
            assert root.VM.get_name_label(new) == more.get('name_label', 'n')
            adm.VM.destroy(new)
        # What is another's, or has a role of its own, is asked for.
        schedule = root.VMSS.create({'name_label': 'x', 'enabled': False, 'type': 'snapshot', 'retained_snapshots': 7, 'frequency': 'daily',
                                     'schedule': {}})
        before = set(root.VM.get_all())
        for more, permission in (({'snapshot_schedule': schedule}, 'VM.set_snapshot_schedule'),
                                 ({'other_config': {'pci': '0/0000:00:1f.0'}}, 'VM.set_other_config/key:pci')):
            error = adm.refused('VM.create', {'name_label': 'n', 'name_description': '', **more})
            assert error[:2] == [DENIED, permission], error
            try:
                finished(adm, adm.Async.VM.create({'name_label': 'n', 'name_description': '', **more}))
                raise AssertionError(more)
            except ApiError as e:
                assert [e.code, *e.params][:2] == [DENIED, permission], e
        assert set(root.VM.get_all()) == before and root.VMSS.get_VMs(schedule) == []
        root.VM.set_snapshot_schedule(vm, schedule)
        assert adm.refused('VM.set_snapshot_schedule', vm, NULL)[0] == DENIED
        # A key that an operator may have is the operator's to take away, also when it is not there.
        oper.VM.remove_from_other_config(vm, 'folder')
        oper.VM.add_to_other_config(vm, 'folder', '/x')
        oper.VM.remove_from_other_config(vm, 'folder')
        assert oper.refused('VM.remove_from_other_config', vm, 'owner')[0] == DENIED
        assert oper.refused('VM.add_to_other_config', vm, 'mac_seed', 'x')[0] == DENIED       # and not: there is one already


# ---- what is secret ----

def told(d, s):
    """All that others may read: tasks and events, the log, the audit trail."""
    for path in ('audit.log', 'audit.log.old'):
        if os.path.exists(os.path.join(d.state, path)):
            yield path, open(os.path.join(d.state, path)).read()
    yield 'log', d.log()
    yield 'tasks', json.dumps(s.task.get_all_records())
    yield 'messages', json.dumps(s.message.get_all_records())
    yield 'events', json.dumps(s.call('event.from', ['*'], '', 0.0))


def test_sessions_are_not_told():
    """Nobody's login stands in a task; and where a client gives a session for another object, its reference goes no further
    than the answer."""
    _, calls = model()
    with Served(accounts=['reader']) as d:
        root, victim, reader = Session(Json(d.port), d), Session(Json(d.port), d), log_in(d, 'reader', 'read-only')
        for prefix in ('Async.', 'InternalAsync.'):
            assert root.refused(f'{prefix}session.login_with_password', 'root', d.accounts['root'], '1', 'x')[0] == 'Fault'
            assert root.refused(f'{prefix}session.logout', victim.ref)[0] == 'Fault'
        plain = {'STRING': 'x', 'INT': 1, 'FLOAT': 0.0, 'BOOL': False, 'STRING_SET': [], 'STRING_MAP': {}, 'INT_SET': [],
                 'REF': victim.ref, 'REF_SET': [victim.ref], 'DATETIME': '20260101T00:00:00Z', 'ENUM': 'VM'}
        ran = []
        for name, c in calls.items():
            if name.startswith('session.') or not any(a.kind.startswith('REF') for a in c.args):
                continue
            params = [plain[a.kind] for a in c.args if not a.optional]
            if name.split('.')[1] == 'create' and name.split('.')[0] in MAKERS:
                params = [{a.name: plain[a.kind] for a in c.args}]
            code(root, name, *params)
            if c.has_async and code(root, f'Async.{name}', *params) == '':
                ran.append(name)
        root.session.set_other_config(victim.ref, {'k': 'v'})
        code(root, 'session.add_to_other_config', victim.ref, 'k', 'w')
        wait_for(lambda: not [t for t in root.task.get_all_records().values() if t['status'] == 'pending'])
        d.run('vm-param-list', f'session_id={victim.ref}')
        for where, text in told(d, reader):
            for s in (root, victim):
                assert s.ref not in text, f'{where}: {[line for line in text.splitlines() if s.ref in line][:3]}'
            assert d.accounts['root'] not in text, where
        audit = dict(told(d, reader))['audit.log']
        assert f'did=session.set_other_config on={victim.ref[:18]} result=success' in audit
        assert len(ran) > 60, len(ran)
        assert victim.host.get_all()
        print(f'  {len(ran)} calls behind tasks')


def test_texts_are_not_told():
    """A secret's value; a password among the ways to a storage, where everybody would read it."""
    with Served(accounts=['adm']) as d:
        root, adm = Session(Json(d.port), d), log_in(d, 'adm', 'vm-power-admin')
        host, sr = root.host.get_all()[0], root.SR.get_all()[0]
        secret = finished(root, root.Async.secret.create({'value': 'top-s3cret', 'other_config': {}}))
        root.secret.set_value(secret, 'n3w-s3cret')
        assert root.secret.get_value(secret) == 'n3w-s3cret'
        assert d.run('secret-param-set', uuid=root.secret.get_uuid(secret), value='th1rd-s3cret', other='x')[0] == 1
        pbd = root.SR.get_PBDs(sr)[0]
        config = {'location': d.folder_for('new'), 'cifspassword': 'p4ssw0rd-s3cret'}
        for method, params in (('SR.create', (host, config, 0, 'x', '', 'file', '', False, {})),
                               ('SR.probe', (host, config, 'file', {})), ('PBD.set_device_config', (pbd, config)),
                               ('PBD.create', ({'host': host, 'SR': sr, 'device_config': config},))):
            if method == 'PBD.set_device_config':
                root.PBD.unplug(pbd)
            error = root.refused(method, *params)
            assert error[:3] == ['VALUE_NOT_SUPPORTED', 'device_config:cifspassword', ''], (method, error)
        root.PBD.plug(pbd)
        assert len(root.SR.get_all()) == 1 and not os.listdir(config['location'])
        for where, text in told(d, adm):
            assert 's3cret' not in text, f'{where}: {[line for line in text.splitlines() if "s3cret" in line][:3]}'
        d.check()


main(globals())
