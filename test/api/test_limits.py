#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Rows of src/base/limits.def as clients meet them: what is refused, with which words, and that what fits is taken."""
import os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *


def numbers():
    """name: value"""
    with open(os.path.join(TOP, 'src/base/limits.def')) as f:
        rows = re.findall(r'^LIMIT\((\w+), (?:(KIB|MIB)\()?(\d+)', f.read(), re.M)
    return {name: int(n) << {'KIB': 10, 'MIB': 20}.get(unit, 0) for name, unit, n in rows}


LIMIT = numbers()


def test_members():
    """MEMBERS: a map or a set as large as may be is set in no time; a larger one is refused before anything is made of it."""
    with Served() as d:
        s = Session(Json(d.port), d)
        vm, most = s.VM.get_by_uuid(d.vm('web')), LIMIT['MEMBERS']
        for wire in (Json(d.port), Xml(d.port)):
            s.wire = wire
            s.VM.set_tags(vm, [f't{i}' for i in range(most)])
            s.VM.set_other_config(vm, {f'k{i}': 'v' for i in range(most)})
            assert len(s.VM.get_tags(vm)) == len(s.VM.get_other_config(vm)) == most
            for method, values, n in (('set_tags', [f't{i}' for i in range(most + 1)], most + 1),
                                      ('set_other_config', {f'k{i}': 'v' for i in range(most + 1)}, most + 1),
                                      ('add_tags', 'more', most + 1), ('set_tags', [f't{i}' for i in range(4 * most)], 4 * most)):
                error = s.refused(f'VM.{method}', vm, values)
                assert error[:3] == ['VALUE_NOT_SUPPORTED', error[1], f'{n} members'], error
            assert s.refused('VM.add_to_other_config', vm, 'more', 'v')[0] == 'VALUE_NOT_SUPPORTED'
            s.VM.remove_from_other_config(vm, 'k0')
            s.VM.add_to_other_config(vm, 'more', 'v')
        s.wire = Json(d.port)
        begin = time.time()
        for i in range(10):
            s.VM.set_other_config(vm, {f'k{i}': str(i) for i in range(most)})
        assert time.time() - begin < 2 * SLOW, time.time() - begin
        d.fails('vm-param-set', uuid=d.list('vm')[0], **{'other-config:one': 'more'}, says='1001 members')
        # In a record that something is made of, too.
        record = {'name_label': 'x', 'SR': s.SR.get_all()[0], 'virtual_size': 1 << 20, 'type': 'user', 'sharable': False, 'read_only': False,
                  'other_config': {}, 'tags': []}
        before = len(s.VDI.get_all())
        for field, value in ('tags', [f't{i}' for i in range(most + 1)]), ('other_config', {f'k{i}': '' for i in range(most + 1)}):
            error = s.refused('VDI.create', dict(record, **{field: value}))
            assert error[:3] == ['VALUE_NOT_SUPPORTED', field, f'{most + 1} members'], error
        assert len(s.VDI.get_all()) == before


def test_what_was_larger_before():
    """Of an earlier version: it is shown, and may become smaller."""
    with Served() as d:
        uuid = d.vm('web')
        d.stop()
        d.sql_write(f"UPDATE VM SET tags = '{json.dumps([f't{i}' for i in range(1500)])}' WHERE uuid = '{uuid}'")
        d.start()
        s = Session(Json(d.port), d)
        vm = s.VM.get_by_uuid(uuid)
        assert len(s.VM.get_tags(vm)) == 1500
        assert s.refused('VM.add_tags', vm, 'more')[0] == 'VALUE_NOT_SUPPORTED'
        s.VM.remove_tags(vm, 't0')
        assert len(s.VM.get_tags(vm)) == 1499


def test_texts():
    with Served() as d:
        s = Session(Json(d.port), d)
        most = LIMIT['TASK_TEXT']
        task = s.task.create('x' * most, 'y' * most)
        s.task.set_result(task, 'r' * most)
        for method, *params in (('task.create', 'x' * (most + 1), ''), ('task.create', '', 'x' * (most + 1)),
                                ('task.set_result', task, 'x' * (most + 1)), ('task.set_error_info', task, ['X', 'y' * most]),
                                ('task.set_other_config', task, {'a': 'x' * most}), ('task.add_to_other_config', task, 'a', 'x' * most)):
            assert s.refused(method, *params)[0] == 'VALUE_NOT_SUPPORTED', method
        # What a client says comes back to it in an error; a task keeps the beginning of it, and looks at no more.
        for long in ('\u00e4' * 45000, (s.ref + ' ') * 5500):
            begin = time.time()
            tasks = [s.call('Async.VM.start', long, False, False) for _ in range(10)]
            for each in tasks:
                wait_for(lambda: s.task.get_status(each) == 'failure', 20 * SLOW, lambda: 'it does not end')
                code, of, told = s.task.get_error_info(each)
                assert (code, of) == ('HANDLE_INVALID', 'VM') and 0 < len(told.encode()) <= most and s.ref not in told
            assert time.time() - begin < 4 * SLOW, time.time() - begin
        most = LIMIT['MESSAGE_TEXT']
        pool = s.pool.get_uuid(s.pool.get_all()[0])
        s.message.create('m', 5, 'Pool', pool, 'b' * (most - 1))
        error = s.refused('message.create', 'm', 5, 'Pool', pool, 'b' * most)
        assert error[:2] == ['VALUE_NOT_SUPPORTED', 'body'], error


def test_subscriptions():
    """SUBSCRIPTIONS, SUBSCRIPTION: how many a session has, and how long each may be."""
    with Served() as d:
        s = Session(Json(d.port), d)
        most = LIMIT['SUBSCRIPTIONS']
        names = [f'c{i}' for i in range(most + 1)]
        assert s.call('event.from', names[:most], '', 0.0)['events'] == []
        for method, *rest in (('event.from', '', 0.0), ('event.register',)):
            assert s.refused(method, names, *rest)[:3] == ['VALUE_NOT_SUPPORTED', 'classes', f'{most + 1} classes']
        for _ in range(2):
            s.event.register(names[:most // 2])
            s.event.register(names[:most])
        assert s.refused('event.register', ['one more'])[0] == 'VALUE_NOT_SUPPORTED'
        s.event.unregister(names[:1])
        s.event.register(['one more'])
        longest = LIMIT['SUBSCRIPTION']
        assert s.call('event.from', ['x' * longest], '', 0.0)['events'] == []
        assert s.refused('event.from', ['x' * (longest + 1)], '', 0.0)[0] == 'EVENT_SUBSCRIPTION_PARSE_FAILURE'


def test_bodies():
    """Who has no session has little to say; who has one, as much as fits."""
    with Served() as d:
        s = Session(Json(d.port), d)
        j = Json(d.port)
        refs = ['x' * 100] * 160

        def status(ref, params, path='/jsonrpc'):
            if path == '/':
                values = ''.join(f'<value>{p}</value>' for p in params)
                body = (f'<methodCall><methodName>message.destroy_many</methodName><params><param><value>{ref}</value></param>'
                        f'<param><value><array><data>{values}</data></array></value></param></params></methodCall>')
            else:
                body = json.dumps({'id': 1, 'method': 'message.destroy_many', 'params': [ref, params]})
            return j.raw(body, path=path)[0].status
        for path in ('/jsonrpc', '/'):
            assert status(s.ref, refs * 10, path) == 200 and status(s.ref, ['x'] * 10000, path) == 200, path
            assert status(s.ref[:-1] + 'x', refs, path) == 413 and status('', ['x'] * 150, path) == 413, path
            assert status('', ['x'], path) == 200, path
            assert status(s.ref, [''] * 40000, path) == 413, path
        s.session.logout()
        assert status(s.ref, refs) == 413
        assert j.raw(b'[' * 15000)[0].status == 413 and j.raw(b'[' * 60)[0].status == 400


def test_queries():
    """QUERY_TERMS, QUERY_DEPTH: as many as fit are answered at once, however they are written."""
    with Served() as d:
        s = Session(Json(d.port), d)
        d.vm('web')
        term = 'field "name__label" = "web"'
        assert len(s.VM.get_all_records_where(' or '.join([term] * (LIMIT['QUERY_TERMS'] // 2)))) == 1
        for expr in (' or '.join([term] * 7000), ' and '.join(['true'] * 30000), ' or '.join(['field "name__label" = "' + 'w' * 20 + '"'] * 5000),
                     'not ' * 99 + 'true' + ' or true' * 25000, 'field "name__label" = "' + '\\"' * 40000):
            begin = time.time()
            error = s.refused('VM.get_all_records_where', expr)
            assert error[0] == 'INVALID_VALUE' and time.time() - begin < 1 * SLOW, (expr[:50], time.time() - begin, error[2:])
        deep = LIMIT['QUERY_DEPTH']
        assert len(s.VM.get_all_records_where('(' * (deep - 1) + term + ')' * (deep - 1))) == 1
        assert s.refused('VM.get_all_records_where', '(' * deep + term + ')' * deep)[0] == 'INVALID_VALUE'


def test_files():
    """LOG_FILE, AUDIT_FILE: a large one begins anew, and what was in it is kept beside it."""
    with Served(delays={'timer-logs': 0.02}) as d:
        d.stop()
        d.options = [o for o in d.options if o != '--foreground']
        for name, size in (('stillframed.log', LIMIT['LOG_FILE']), ('audit.log', LIMIT['AUDIT_FILE'])):
            with open(os.path.join(d.state, name), 'w') as f:
                f.write('before\n' * (size // 7 + 10))
        p = subprocess.run([os.path.join(BUILD, 'stillframed'), '--state', d.state, '--vmm', 'fake', *d.options], timeout=60 * SLOW)
        assert p.returncode == 0
        with open(os.path.join(d.state, 'lock')) as f:
            pid = int(f.read())
        try:
            wait_for(lambda: os.path.exists(os.path.join(d.state, 'stillframed.log.old')))
            d.vm('web')
            for name in ('stillframed.log', 'audit.log'):
                assert open(os.path.join(d.state, f'{name}.old')).read().startswith('before\n')
                wait_for(lambda: os.path.getsize(os.path.join(d.state, name)))
                assert 'before' not in open(os.path.join(d.state, name)).read()
                assert os.stat(os.path.join(d.state, name)).st_mode & 0o77 == 0
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_for(lambda: not os.path.exists(f'/proc/{pid}'))


main(globals())
