#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Consoles: their rows come and go with the VM's process, and who may use what is behind them."""
import os, socket, sqlite3, sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from consoles import *
from rpc import *


def refused(status, client, *args, **kw):
    try:
        client(*args, **kw)
    except Refused as e:
        assert e.status == status, e
    else:
        assert False, f'answered, not {status}: {args}'


def consoles(d, vm):
    """protocol -> uuid"""
    return {d.get('console', c, 'protocol'): c for c in d.list('console', vm_uuid=vm)}


def test_rows_live_as_long_as_the_guest():
    with Daemon('fake') as d:
        vm = d.vm('web', disks=1)
        other = d.vm('other')
        assert d.list('console') == []
        d.xe('vm-start', uuid=vm)
        d.xe('vm-start', uuid=other, paused='true')
        mine = consoles(d, vm)
        assert set(mine) == {'rfb', 'vt100'} and set(consoles(d, other)) == {'rfb', 'vt100'}
        assert set(d.get('vm', vm, 'console-uuids').split('; ')) == set(mine.values())
        record = d.xe('console-list', uuid=mine['rfb'])
        for line in (f'uuid ( RO)             : {mine["rfb"]}', f'vm-uuid ( RO): {vm}',
                     'vm-name-label ( RO): web', 'protocol ( RO): rfb',
                     f'location ( RO): https://{d.get("host", d.list("host")[0], "address")}/console?uuid={mine["rfb"]}'):
            assert line in record, record
        d.xe('console-param-set', 'other-config:note=x', uuid=mine['rfb'])
        d.fails('console-param-set', uuid=mine['rfb'], protocol='rdp')
        for command in ('vm-pause', 'vm-unpause'):
            d.xe(command, uuid=vm)
            assert consoles(d, vm) == mine
        d.xe('vm-reboot', '--force', uuid=vm)
        d.restart()
        assert consoles(d, vm) == mine
        snap = d.snapshot(vm)
        assert consoles(d, snap) == {}
        d.xe('vm-reboot', uuid=vm)
        assert set(consoles(d, vm)) == set(mine) and consoles(d, vm) != mine
        d.xe('vm-shutdown', uuid=vm)
        assert consoles(d, vm) == {} and len(d.list('console')) == 2
        d.xe('vm-start', uuid=vm)
        d.xe('snapshot-revert', snapshot_uuid=snap)
        assert consoles(d, vm) == {}
        d.xe('vm-shutdown', '--force', uuid=other)
        assert d.list('console') == []
        d.check()


def test_a_start_that_fails_has_none():
    with Daemon('fake', env={'STILLFRAME_FAKE': 'fail=start'}) as d:
        vm = d.vm()
        d.fails('vm-start', uuid=vm)
        assert d.list('console') == []


def test_guests_of_an_older_version_get_them():
    with Daemon('fake') as d:
        vm = d.vm()
        halted = d.vm()
        d.xe('vm-start', uuid=vm)
        d.stop()
        db = sqlite3.connect(os.path.join(d.state, 'state.db'))
        db.execute('DROP TABLE console')
        db.commit()
        db.close()
        d.start()
        assert set(consoles(d, vm)) == {'rfb', 'vt100'} and consoles(d, halted) == {}


def test_who_is_let_in():
    with Served(delays={'login-refusal': 0.02}) as d:
        vm = d.vm()
        d.xe('vm-start', uuid=vm)
        path = f'/console?uuid={consoles(d, vm)["rfb"]}'
        shot = lambda *a: Stream(*a, method='GET')
        for client, path in ((Stream, path), (WebSocket, path), (shot, f'/vncsnapshot?uuid={vm}')):
            refused(401, client, d, path, ('127.0.0.1', d.port, 'guess'))
            client(d, path, ('127.0.0.1', d.port, d.accounts['root'])).s.close()
        refused(401, Stream, d, f'/console?uuid={vm}&session_id=OpaqueRef:guess')
        session = Session(Json(d.port, 2), d).ref
        by_cookie = lambda *more: Stream(d, f'/console?uuid={vm}', ('127.0.0.1', d.port, None),
                                         headers=['Host: localhost', f'Cookie: a=b; session_id={session}', *more])
        by_cookie().s.close()           # Xen Orchestra and XenCenter do so
        for page in ('Origin: http://localhost', 'Sec-Fetch-Site: same-origin'):
            refused(401, by_cookie, page)       # a browser sends its cookies whoever asks
        here = ['Origin: http://localhost']
        WebSocket(d, f'/console?uuid={vm}', headers=here).s.close()
        refused(403, WebSocket, d, f'/console?uuid={vm}', headers=['Origin: http://evil.example'])


def test_what_is_behind():
    with Daemon('fake') as d:
        vm = d.vm()
        for method, path in (('CONNECT', '/console'), ('GET', '/vncsnapshot')):
            for name, status in (('', 400), (f'?uuid={vm}', 409), ('?ref=OpaqueRef:x', 404)):
                refused(status, Stream, d, path + name, method=method)
        d.fails('console', uuid=vm, says='halted')
        d.xe('vm-start', uuid=vm)
        for name, said in (('rfb', b'RFB 003.008\n'), ('vt100', b'This is no guest.\r\n')):
            uuid = consoles(d, vm)[name]
            assert Stream(d, f'/console?uuid={uuid}').rest() == said
            assert Stream(d, f'/console?uuid={uuid}', method='GET').rest() == said
            assert WebSocket(d, f'/console?uuid={uuid}').read(99) == said
            assert WebSocket(d, f'/console?uuid={uuid}', protocol=False).read(99) == said
        assert Stream(d, f'/console?uuid={vm}').rest() == b'RFB 003.008\n'
        shot = Stream(d, f'/vncsnapshot?uuid={vm}', method='GET')
        assert 'Content-Type: image/jpeg\r\n' in shot.head
        assert shot.rest().startswith(b'\xff\xd8\xff')


def test_pictures_at_a_time():
    """PICTURES: a guest may say that its screen is large, and take its time: so many of them are made at a time."""
    with Daemon('fake', env={'STILLFRAME_FAKE': 'hang=screenshot'}, delays={'fake-hang': 0.1, 'picture': 0.1}) as d:
        vm = d.vm()
        d.xe('vm-start', uuid=vm)

        def status(_):
            try:
                Stream(d, f'/vncsnapshot?uuid={vm}', method='GET')
            except Refused as e:
                return e.status
        with ThreadPoolExecutor(6) as pool:
            assert sorted(pool.map(status, range(6))) == [500, 500, 503, 503, 503, 503]
        assert d.log().count('fake screenshot') == 2
        assert status(0) == 500


main(globals())
