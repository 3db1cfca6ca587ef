#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who may log in, for how long, and what they may do."""
import base64, http.client, json, os, sqlite3, sys, threading
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *

ROLES = ['pool-admin', 'pool-operator', 'vm-power-admin', 'vm-admin', 'vm-operator', 'read-only']
# The least that may, as XenServer has it.
LEAST = {'VM.snapshot': 'vm-power-admin', 'VM.snapshot_with_quiesce': 'vm-power-admin', 'VM.checkpoint': 'vm-power-admin',
         'VM.revert': 'vm-power-admin', 'VM.clone': 'vm-admin', 'VM.copy': 'vm-admin', 'VM.destroy': 'vm-admin',
         'VM.start': 'vm-operator', 'VM.clean_shutdown': 'vm-operator', 'VM.set_tags': 'vm-operator',
         'VM.set_name_label': 'vm-admin', 'VM.set_affinity': 'vm-power-admin', 'VDI.snapshot': 'vm-admin',
         'SR.create': 'pool-operator', 'SR.scan': 'vm-power-admin', 'subject.create': 'pool-admin',
         'event.from': 'read-only', 'task.cancel': 'read-only'}


REFUSED = {'login-refusal': 0.2}        # after a second instead of five


def wrong(d, user, password):
    begin = time.time()
    try:
        Session(Json(d.port), d, user, password)
    except ApiError as e:
        return [e.code, *e.params], time.time() - begin
    raise AssertionError(f'{user} {password} was let in')


def test_passwords():
    """What is wrong with a login, nobody learns: neither from the answer nor from its time."""
    with Served(accounts=['alice'], delays=REFUSED) as d:
        Session(Json(d.port), d)
        own = d.accounts['alice']
        tried = (('root', 'x'), ('root', ''), ('root', own), ('nobody', 'x'), ('', ''), ('alice', own), ('root', 'x' * 3000),
                 ('root\n', 'x'))
        with ThreadPoolExecutor(len(tried)) as pool:
            for (user, _), (answer, took) in zip(tried, pool.map(lambda a: wrong(d, *a), tried)):
                assert answer == ['SESSION_AUTHENTICATION_FAILED', user, 'Authentication failed'], answer
                assert took > 0.9, took
        log = d.log()
        assert 'login refused user="alice"' in log and own not in log and d.accounts['root'] not in log


def count_looks(d):
    """A function: when PAM was asked, so far."""
    folder = os.path.join(d.state, 'pam')
    looked = os.path.join(folder, 'looked')
    with open(os.path.join(folder, 'check')) as f:
        script = f.read()
    with open(os.path.join(folder, 'check'), 'w') as f:
        f.write(script.replace('\n', f'\ndate +%s.%N >> {looked}\n', 1))
    open(looked, 'w').close()
    return lambda: [float(line) for line in open(looked)]


def log_in_from(d, source, user, password):
    """The answer, and how long it took."""
    begin = time.time()
    c = http.client.HTTPConnection('127.0.0.1', d.port, timeout=120, source_address=(source, 0))
    c.request('POST', '/jsonrpc', json.dumps({'method': 'session.login_with_password', 'id': 1, 'jsonrpc': '2.0',
                                              'params': [user, password]}))
    answer = json.loads(c.getresponse().read())
    c.close()
    return answer, time.time() - begin


def test_guessing():
    """Who has been wrong often is looked at seldom, however many connections he opens; who is elsewhere does not notice."""
    gap = 0.1
    with Served(delays={'login-refusal': 0.1, 'login-gap': gap}) as d:
        times = count_looks(d)
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda n: wrong(d, 'root', f'a{n}'), range(5)))
            assert len(times()) == 5
            begin = time.time()
            guesses = [pool.submit(wrong, d, 'root', f'b{n}') for n in range(6)]
            time.sleep(0.3)
            elsewhere = time.time()
            answer, took = log_in_from(d, '127.0.0.2', 'root', d.accounts['root'])
            assert 'result' in answer and took < 2 * SLOW
            for g in guesses:
                assert g.result()[0] == ['SESSION_AUTHENTICATION_FAILED', 'root', 'Authentication failed']
        seen = sorted(times()[5:])
        assert len(seen) == 7, seen
        seen.remove(next(at for at in seen if at > elsewhere))
        # After each a pause that is twice as long; a busy machine makes it later, never earlier.
        assert all(at - begin > (2 ** n - 1) * gap - 0.05 for n, at in enumerate(seen)), (begin, seen)
        Session(Json(d.port), d)            # in its turn
        begin = time.time()
        Session(Json(d.port), d)
        assert time.time() - begin < 2 * SLOW


def test_many_guesses_at_once():
    """LOGIN_FREE: a hundred tries at the same time are no more than one after the other."""
    with Served(delays={'login-refusal': 0.1}) as d:
        times = count_looks(d)
        with ThreadPoolExecutor(100) as pool:
            begin = time.time()
            tried = [pool.submit(log_in_from, d, '127.0.0.2', 'root', f'a{n}') for n in range(100)]
            while time.time() - begin < 6:
                time.sleep(0.1)
            looks = len(times())
            assert 5 <= looks <= 5 + 3, looks       # five for nothing, then after 0, 1 and 3 s
            refused = [t.result()[0]['error']['data'] for t in tried if t.done()]
            assert len(refused) >= 60 and any('too many' in r[1] for r in refused), refused
            d.kill()                                # who waits for his turn is not waited for
            d.start()


def test_many_right_ones_at_once():
    """Who knows his password may log in from many places at once, for the first time too."""
    with Served() as d:
        for source in ('127.0.0.2', '127.0.0.3'):
            with ThreadPoolExecutor(30) as pool:
                begin = time.time()
                answers = list(pool.map(lambda n: log_in_from(d, source, 'root', d.accounts['root']), range(60)))
            assert all('result' in a for a, _ in answers), [a for a, _ in answers if 'result' not in a][:3]
            assert time.time() - begin < 20 * SLOW, time.time() - begin


def test_own_right_logins():
    """Who has an account does not buy tries for another one with it, and is not held up by them himself."""
    with Served(accounts=['mallory', 'alice'], delays={'login-refusal': 0.05}) as d:
        for name in ('mallory', 'alice'):
            d.xe('subject-add', subject_name=name)
        times = count_looks(d)
        for n in range(5):
            log_in_from(d, '127.0.0.2', 'root', f'a{n}')
            answer, took = log_in_from(d, '127.0.0.2', 'mallory', d.accounts['mallory'])
            assert 'result' in answer and took < 2 * SLOW
        log_in_from(d, '127.0.0.2', 'root', 'b')
        answer, took = log_in_from(d, '127.0.0.2', 'root', 'c')
        assert took > 0.5, f'the right logins of another user are tries for root: {took:.2f} s'
        answer, took = log_in_from(d, '127.0.0.2', 'mallory', d.accounts['mallory'])
        assert 'result' in answer and took < 2 * SLOW
        # LOGIN_FREE_OF_SOURCE: a name each does not help, either.
        for n in range(16):
            log_in_from(d, '127.0.0.3', f'user{n}', 'x')
        for n in range(4):
            log_in_from(d, '127.0.0.3', f'other{n}', 'x')
        log_in_from(d, '127.0.0.3', 'one more', 'x')
        _, took = log_in_from(d, '127.0.0.3', 'and one', 'x')
        assert took > 0.5, f'a name each is a try more: {took:.2f} s'
        # ... and whoever has not been there before waits; whoever is elsewhere does not.
        answer, took = log_in_from(d, '127.0.0.4', 'alice', d.accounts['alice'])
        assert 'result' in answer and took < 2 * SLOW
        assert len(times()) == 5 * 2 + 2 + 1 + 16 + 4 + 2 + 1


def test_many_sources():
    """LOGIN_SOURCES: however many there are, the one that guesses is not forgotten for those that come after it."""
    with Served(delays={'login-refusal': 0.02}) as d:
        for n in range(6):
            log_in_from(d, '127.0.0.2', 'root', f'a{n}')
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: log_in_from(d, f'127.0.{1 + n // 200}.{1 + n % 200}', 'root', 'x'), range(300)))
        log_in_from(d, '127.0.0.2', 'root', 'b')        # the pause before it is over
        _, took = log_in_from(d, '127.0.0.2', 'root', 'c')
        assert took > 1, took


def test_other_sites():
    """A page of another site gets nothing by the password that a browser keeps for this one."""
    with Served() as d:
        s = Session(Json(d.port), d)
        blob = s.VM.create_new_blob(s.VM.get_by_uuid(d.vm('web')), 'x', 'text/html')
        basic = 'Basic ' + base64.b64encode(f"root:{d.accounts['root']}".encode()).decode()

        def ask(path, **headers):
            c = http.client.HTTPConnection('127.0.0.1', d.port, timeout=60)
            c.request('GET', path, None, {k.replace('_', '-'): v for k, v in headers.items()})
            status = c.getresponse().status
            c.close()
            return status
        own, evil = f'http://127.0.0.1:{d.port}', 'http://evil.example'
        path = f'/blob?ref={blob}'
        for status, headers in ((200, {}), (200, {'Origin': own}), (200, {'Sec_Fetch_Site': 'same-origin'}),
                                (200, {'Sec_Fetch_Site': 'none'}), (403, {'Origin': evil}), (403, {'Origin': 'null'}),
                                (403, {'Origin': f'http://localhost:{d.port}'}), (403, {'Sec_Fetch_Site': 'cross-site'}),
                                (403, {'Sec_Fetch_Site': 'same-site', 'Origin': own})):
            assert ask(path, Authorization=basic, **headers) == status, headers
        websocket = {'Upgrade': 'websocket', 'Connection': 'Upgrade', 'Sec_WebSocket_Key': 'AAAAAAAAAAAAAAAAAAAAAA==',
                     'Sec_WebSocket_Version': '13', 'Origin': evil}
        console = f'/console?uuid={d.list("vm")[0]}'
        assert ask(console, Authorization=basic, **websocket) == 403
        # one that knows a session needs no browser's help
        assert ask(f'{console}&session_id={s.ref}', **websocket) == 409            # the VM is halted
        assert ask(f'{console}&session_id=OpaqueRef:guess', Authorization=basic, **websocket) == 401
        assert ask(f'{path}&session_id={s.ref}', Origin=evil) == 200
        assert ask(path, Origin=evil) == 401
        # a name of theirs that leads here makes their page one of ours, to the browser; a script may call us what it likes
        host = {'Host': 'evil.example'}
        for status, headers in ((200, {}), (200, {'Sec_Fetch_Site': 'none'}), (421, {'Origin': evil}),
                                (421, {'Sec_Fetch_Site': 'same-origin'})):
            assert ask(path, Authorization=basic, **host, **headers) == status, headers
        call = json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': 'session.login_with_password', 'params': ['root', d.accounts['root']]})
        for status, headers in ((200, {}), (200, {**host}), (200, {'Origin': evil}), (421, {**host, 'Origin': evil})):
            r, text = Json(d.port).raw(call, headers=headers)
            assert r.status == status and (status == 200) == (b'"result"' in text), (headers, text)
        assert b'tls-pem' in text


def test_tasks_of_others():
    """Are theirs; a pool operator may end them."""
    with Served(accounts=['reader', 'other', 'op']) as d:
        for name, role in (('reader', 'read-only'), ('other', 'vm-power-admin'), ('op', 'pool-operator')):
            u = d.xe('subject-add', subject_name=name)
            d.xe('subject-role-add', uuid=u, role_name=role)
            d.xe('subject-role-remove', uuid=u, role_name='pool-admin')
        reader, other, op = (Session(Json(d.port), d, name) for name in ('reader', 'other', 'op'))
        mine = reader.task.create('export', '')
        reader.task.set_progress(mine, 0.5)
        for s in (other, Session(Json(d.port), d, 'other')):
            for method, *params in (('set_progress', 1.0), ('set_status', 'success'), ('set_result', 'x'), ('set_error_info', ['X']),
                                    ('cancel',), ('destroy',)):
                assert s.refused(f'task.{method}', mine, *params)[0] == 'RBAC_PERMISSION_DENIED', method
        assert reader.task.get_progress(mine) == 0.5
        assert op.refused('task.cancel', mine)[0] == 'OPERATION_NOT_ALLOWED'       # nothing of ours runs behind it
        op.task.destroy(mine)
        again = reader.task.create('export', '')
        Session(Json(d.port), d, 'reader').task.destroy(again)
        assert not {mine, again} & set(reader.task.get_all())


def test_pam_is_slow():
    """A module that hangs is ended, and holds up nobody else."""
    part = 0.2 if SLOW == 1 else 1      # in which others have to come through
    with Served(delays={'password-check': part}) as d:
        with open(os.path.join(d.state, 'pam', 'check'), 'w') as f:
            f.write('#!/bin/sh\nexec sleep 100\n')
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(is_ended, d, part)
            assert d.list('host') and not ended.done()
            ended.result()


def is_ended(d, part):
    begin = time.time()
    try:
        Session(Json(d.port), d)
    except ApiError as e:
        assert e.code == 'INTERNAL_ERROR' and 10 * part < time.time() - begin < 60 * part * SLOW, e
    else:
        raise AssertionError


def test_ends():
    """By logout, for want of use, and for want of room: who was used longest ago goes."""
    with Served() as d:
        s = Session(Json(d.port), d)
        other = Session(Json(d.port), d)
        s.session.logout()
        assert s.refused('VM.get_all') == ['SESSION_INVALID', s.ref]
        db = sqlite3.connect(os.path.join(d.state, 'state.db'), timeout=60)
        for age, lives in ((23 * 3600, True), (25 * 3600, False)):
            when = time.strftime('%Y%m%dT%H:%M:%SZ', time.gmtime(time.time() - age))
            db.execute('UPDATE session SET last_active = ? WHERE ref = ?', (when, other.ref))
            db.commit()
            if lives:
                before = time.time()
                assert other.VM.get_all() and other.session.get_last_active(other.ref) > when
            else:
                assert other.refused('VM.get_all') == ['SESSION_INVALID', other.ref]
        db.close()


def test_the_day():
    """Sessions end, and tasks are forgotten, by the clock of the day; what is done bears its time."""
    with Served(day=True, delays={'timer-tasks': 0.01}) as d:
        used, unused = Session(Json(d.port), d), Session(Json(d.port), d)
        vm = used.VM.get_by_uuid(d.vm('web'))

        def told(ahead):
            return time.strftime('%Y%m%dT%H:%M:%SZ', time.gmtime(time.time() + ahead))
        hour = 3600
        for ahead in (0, 23 * hour, 46 * hour, -hour, 366 * 24 * hour):
            d.set_day(ahead)
            before = told(ahead)
            if ahead > 46 * hour:
                assert used.refused('VM.get_all') == ['SESSION_INVALID', used.ref]
                used = Session(Json(d.port), d)
            elif ahead == 46 * hour:
                assert unused.refused('VM.get_all') == ['SESSION_INVALID', unused.ref]
            assert before <= used.host.get_servertime(used.host.get_all()[0]) <= told(ahead + 1)
            task = used.task.create(f'at {ahead}', '')
            assert before <= used.task.get_created(task) <= told(ahead + 1)
            snap = finished(used, ran := used.Async.VM.snapshot(vm, f'at {ahead}'))
            assert before <= used.VM.get_snapshot_time(snap) <= used.task.get_finished(ran) <= told(ahead + 1)
            used.task.set_status(task, 'success')
            assert before <= used.task.get_finished(task) <= told(ahead + 1)
        kept = lambda: {t['name_label'] for t in used.task.get_all_records().values() if t['name_label'].startswith('at ')}
        wait_for(lambda: kept() == {f'at {ahead}'})      # the others ended more than 65 minutes ago
        d.step_day(hour)
        time.sleep(1)
        assert kept() == {f'at {ahead}'}
        d.step_day(600)
        wait_for(lambda: not kept())
        assert used.VM.get_all()
        assert any(line.startswith(told(366 * 24 * hour)[:4]) for line in d.log().splitlines())


def test_caps():
    """No more than 500 of one user, whatever it calls itself, and none of another; the daemon's own are not counted."""
    with Served(accounts=['reader']) as d:
        d.xe('subject-add', subject_name='reader')
        wire = Json(d.port)
        first, second, roots = Session(wire, d, 'reader'), Session(wire, d, 'reader'), Session(wire, d)
        refs = []

        def log_in(n):
            own = Json(d.port)
            refs.extend(own.call('session.login_with_password', 'reader', d.accounts['reader'], '1', f'client {i}' * (i % 3))
                        for i in range(n))
        threads = [threading.Thread(target=log_in, args=(125,)) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(set(refs)) == 500
        for s in (first, second):
            assert s.refused('VM.get_all') == ['SESSION_INVALID', s.ref]
        assert roots.VM.get_all()
        alive = 0
        for ref in refs:
            first.ref = ref
            try:
                first.host.get_all()
                alive += 1
            except ApiError as e:
                assert e.code == 'SESSION_INVALID'
        assert alive == 500, alive
        assert len(wire.call('session.login_with_password', 'reader', d.accounts['reader'], '1', 'x' * 10000)) == 46
        assert max(d.sql('SELECT length(originator) FROM session')) == 256     # ORIGINATOR


def may(s, method):
    """Is it let through to where its parameters are looked at?"""
    try:
        s.call(method)
    except ApiError as e:
        if e.code == 'RBAC_PERMISSION_DENIED':
            assert e.params[0] == method, e
            return False
    return True


def test_roles():
    """Each role times each call: just what the table says."""
    with Served(accounts=ROLES) as d:
        root = Session(Json(d.port), d)
        refs = {r['name_label']: ref for ref, r in root.role.get_all_records().items()}
        assert sorted(refs) == sorted(ROLES)
        calls = [m for m in root.wire.call('system.listMethods')
                 if '.get_' not in m and not m.startswith(('session.log', 'system.'))]
        for name in ROLES:
            uuid_ = d.xe('subject-add', subject_name=name)
            subject = root.subject.get_by_uuid(uuid_)
            if name != 'pool-admin':
                d.xe('subject-role-add', uuid=uuid_, role_name=name)
                root.subject.remove_from_roles(subject, refs['pool-admin'])
            assert root.subject.get_roles(subject) == [refs[name]]
            s = Session(Json(d.port), d, name)
            permissions = set(root.subject.get_permissions_name_label(subject))
            assert permissions == set(root.role.get_permissions_name_label(refs[name]))
            assert set(s.session.get_rbac_permissions(s.ref)) == permissions
            assert s.session.get_is_local_superuser(s.ref) is False and s.session.get_subject(s.ref) == subject
            strength = ROLES.index(name)
            for method, least in LEAST.items():
                assert (method in permissions) == (strength <= ROLES.index(least)), (name, method)
                names = [n for n in ROLES if strength and refs[n] in root.role.get_by_permission_name_label(method)]
                assert not strength or names == ROLES[:ROLES.index(least) + 1], names
            for method in calls:
                if method.count('.set_') or '.add_' in method or '.remove_' in method:
                    continue
                assert may(s, method) == (method in permissions), (name, method)
            if name != 'read-only':
                continue
            assert s.VM.get_all_records()
        d.check()


def test_fields():
    """Setters, and each key of a map, by its own role."""
    with Served(accounts=['op', 'adm'], delays=REFUSED) as d:
        vm = d.vm('web')
        root = Session(Json(d.port), d)
        ref = root.VM.get_by_uuid(vm)
        for name, role in (('op', 'vm-operator'), ('adm', 'vm-admin')):
            u = d.xe('subject-add', subject_name=name)
            d.xe('subject-role-add', uuid=u, role_name=role)
            d.xe('subject-role-remove', uuid=u, role_name='pool-admin')
        op, adm = Session(Json(d.port), d, 'op'), Session(Json(d.port), d, 'adm')
        denied = 'RBAC_PERMISSION_DENIED'
        op.VM.add_tags(ref, 'a')
        op.VM.add_to_other_config(ref, 'folder', '/x')
        op.VM.add_to_other_config(ref, 'XenCenter.CustomFields.owner', 'me')
        before = root.VM.get_other_config(ref)
        for s, config, key in ((op, {**before, 'other': '1'}, 'other'), (op, {'folder': '/x'}, None),
                               (adm, {**before, 'pci': '0/0000:00:01.0'}, 'pci')):
            error = s.refused('VM.set_other_config', ref, config)
            assert error[0] == denied and (not key or error[1] == f'VM.set_other_config/key:{key}'), error
        assert op.refused('VM.add_to_other_config', ref, 'k', 'v')[0] == denied
        assert adm.refused('VM.add_to_other_config', ref, 'pci', 'v')[0] == denied
        assert op.refused('VM.set_name_label', ref, 'x')[0] == denied
        assert op.refused('VM.set_other_config', ref, before)[0] == denied
        assert root.VM.get_other_config(ref) == before and root.VM.get_name_label(ref) == 'web'
        adm.VM.set_other_config(ref, {**before, 'other': '1', 'folder': '/y'})
        adm.VM.set_name_label(ref, 'db')
        root.VM.add_to_other_config(ref, 'pci', '')
        assert adm.refused('VM.remove_from_other_config', ref, 'pci')[0] == denied
        assert adm.refused('VM.set_other_config', ref, {})[0] == denied
        assert adm.refused('VM.set_affinity', ref, root.host.get_all()[0])[0] == denied
        # in a record that something is made of, too
        n = op.wire.number
        record = {'name_label': 'x', 'SR': root.SR.get_all()[0], 'virtual_size': n(1 << 20), 'type': 'user', 'sharable': False,
                  'read_only': False, 'other_config': {}}
        assert op.refused('VDI.create', record)[0] == denied
        vdi = adm.VDI.create(record)
        # over xe and the data's own paths
        way = ['-s', '127.0.0.1', '-p', str(d.tls_port), '-u', 'op', '-pw', d.accounts['op']]
        assert d.run(*way, 'vm-param-list', f'uuid={vm}')[0] == 0
        status, out, err = d.run(*way, 'vm-snapshot', f'uuid={vm}', 'new-name-label=x')
        assert status == 1 and 'VM.snapshot' in err and 'vm-power-admin' in err, err
        status, out, err = d.run(*way, 'vm-param-set', f'uuid={vm}', 'name-label=x')
        assert status == 1 and 'VM.set_name_label' in err, err
        r, text = Json(d.port).raw(None, 'GET', f'/export_raw_vdi?vdi={vdi}&session_id={op.ref}')
        assert r.status == 403 and b'export_raw_vdi' in text, (r.status, text)
        r, text = Json(d.port).raw(None, 'GET', f'/export_raw_vdi?vdi={vdi}&session_id={adm.ref}')
        assert r.status == 200 and len(text) == 1 << 20, (r.status, len(text), text[:200])
        # a change ends what was begun before it
        u = root.subject.get_uuid(root.session.get_subject(op.ref))
        d.xe('subject-role-add', uuid=u, role_name='read-only')
        assert op.refused('VM.get_all') == ['SESSION_INVALID', op.ref]
        d.xe('subject-remove', subject_uuid=u)
        assert wrong(d, 'op', d.accounts['op'])[0][0] == 'SESSION_AUTHENTICATION_FAILED'
        d.fails('subject-add', subject_name='adm')
        d.fails('subject-add', subject_name='root', says='root')
        d.fails('subject-role-add', uuid=d.list('subject')[0], role_name='king', says='king')
        d.check()


def test_audit():
    """Who did what, from where, and what came of it: logins, calls, fields, and what was refused."""
    with Served(accounts=['op'], delays=REFUSED) as d:
        vm = d.vm('web')
        uuid_ = d.xe('subject-add', subject_name='op')
        d.xe('subject-role-add', uuid=uuid_, role_name='vm-operator')
        d.xe('subject-role-remove', uuid=uuid_, role_name='pool-admin')
        wrong(d, 'o"p\n', 'x')
        s = Session(Json(d.tls_port, tls=True), d, 'op')
        ref = s.VM.get_by_uuid(vm)
        s.VM.start(ref, False, False)
        assert s.refused('VM.start', ref, False, False)[0] == 'VM_BAD_POWER_STATE'
        s.VM.add_tags(ref, 'a')
        s.VM.assert_agile(ref)              # looks only
        assert s.refused('VM.snapshot', ref, 'x')[0] == s.refused('VM.set_name_label', ref, 'x')[0] == 'RBAC_PERMISSION_DENIED'
        finished(s, s.Async.VM.hard_shutdown(ref))
        path, refused = (os.path.join(d.state, f'{name}.log') for name in ('audit', 'refused'))
        lines = []
        for file in (path, refused):
            assert os.stat(file).st_mode & 0o77 == 0
            lines += [re.fullmatch(r'\S+Z user="([^"]*)" session=(\S+) from="([^"]*)" did=(\S+) on=(\S+) result=(\S+)',
                                   line.rstrip('\n')) for line in open(file)]
        assert all(lines), open(path).read() + open(refused).read()
        seen = [m.groups() for m in lines]
        mine = s.ref[:18]
        assert [g[0::3][:2] + g[4:] for g in seen if g[1] == mine] == [
            ('op', 'session.login_with_password', '-', 'success'), ('op', 'VM.start', ref, 'success'),
            ('op', 'VM.start', ref, 'VM_BAD_POWER_STATE'), ('op', 'VM.set_tags', ref, 'success'),
            ('op', 'VM.hard_shutdown', ref, 'success'),
            ('op', 'VM.snapshot', '-', 'RBAC_PERMISSION_DENIED'), ('op', 'VM.set_name_label', '-', 'RBAC_PERMISSION_DENIED')], seen
        assert all(re.fullmatch(r'127\.0\.0\.1:\d+', g[2]) for g in seen if g[1] == mine)
        assert ('o?p?', '-', 'session.login_with_password', 'SESSION_AUTHENTICATION_FAILED') in [g[:2] + (g[3], g[5]) for g in seen]
        assert ('root', 'subject.create', 'success') in [(g[0], g[3], g[5]) for g in seen if g[2].startswith('local uid=')]
        assert s.ref not in open(path).read() + open(refused).read()
        assert 'SESSION_AUTHENTICATION_FAILED' not in open(path).read() and 'DENIED' not in open(path).read()


main(globals())
