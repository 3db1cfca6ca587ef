#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Who waits for events sees all that comes to stay, in either way of asking.
SETTERS in the environment: how many changes the waiters have to follow."""
import os, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *

SETTERS, WAITERS = int(os.environ.get('SETTERS', '400')), 10


class Waiter(threading.Thread):
    """Follows the descriptions of VMs until all are what they are to be in the end."""

    def __init__(self, d, wanted):
        super().__init__()
        self.s, self.wanted, self.seen, self.batches, self.error = Session(Json(d.port), d), wanted, {}, 0, None
        self.token = ''

    def run(self):
        try:
            end = time.time() + 300 * SLOW
            while any(self.seen.get(ref) != value for ref, value in self.wanted.items()):
                assert time.time() < end, f'{self.seen} is not {self.wanted}'
                answer = getattr(self.s.event, 'from')(['vm'], self.token, 10.0)
                self.token, self.batches = answer['token'], self.batches + 1
                for e in answer['events']:
                    if e['operation'] != 'del':
                        self.seen[e['ref']] = e['snapshot']['name_description']
        except Exception as e:
            self.error = e


def test_waiters():
    """Ten of them, while four clients set without rest: each final value reaches each."""
    with Served() as d:
        root = Session(Json(d.port), d)
        vms = [root.VM.get_by_uuid(d.vm(f'vm {n}')) for n in range(4)]
        wanted = {ref: f'{SETTERS // 4 - 1} of {n}' for n, ref in enumerate(vms)}
        waiters = [Waiter(d, wanted) for _ in range(WAITERS)]

        def set_all(n, ref):
            s = Session(Json(d.port), d)
            for i in range(SETTERS // 4):
                s.VM.set_name_description(ref, f'{i} of {n}')
        setters = [threading.Thread(target=set_all, args=a) for a in enumerate(vms)]
        begin = time.time()
        for t in (*waiters, *setters):
            t.start()
        for t in (*setters, *waiters):
            t.join()
        for w in waiters:
            assert not w.error, w.error
        print(f'  {SETTERS} changes in {time.time() - begin:.1f} s, seen in {min(w.batches for w in waiters)} to '
              f'{max(w.batches for w in waiters)} batches')


def test_old_way_at_once():
    """Clients come, hear what they changed, and go: each registration forgets those that went."""
    with Served() as d:
        vm, errors = Session(Json(d.port), d).VM.get_by_uuid(d.vm('one')), []

        def client(n):
            try:
                for i in range(15):
                    s = Session(Json(d.port), d)
                    s.event.register(['vm'])
                    s.VM.set_name_description(vm, f'{i} of {n}')
                    assert vm in {e['ref'] for e in s.event.next()}
                    s.session.logout()
            except Exception as e:
                errors.append(e)
        clients = [threading.Thread(target=client, args=(n,)) for n in range(4)]
        for c in clients:
            c.start()
        for c in clients:
            c.join()
        assert not errors, errors


def test_old_way():
    """register, next, unregister."""
    with Served() as d:
        for wire in (Xml(d.port), Json(d.port)):
            s, other = Session(wire, d), Session(Json(d.port), d)
            assert s.refused('event.next') == ['SESSION_NOT_REGISTERED', s.ref]
            assert s.refused('event.register', ['vm/'])[0] == 'EVENT_SUBSCRIPTION_PARSE_FAILURE'
            s.event.register(['VM', 'network'])
            assert other.refused('event.next') == ['SESSION_NOT_REGISTERED', other.ref]
            vm = other.VM.get_by_uuid(d.vm('new'))
            refs = set()
            while vm not in refs:
                events = s.event.next()
                assert events and {e['class'] for e in events} <= {'vm', 'network'}, events
                refs |= {e['ref'] for e in events}
            got = []
            waiter = threading.Thread(target=lambda: got.extend(s.event.next()))
            if isinstance(wire, Json):
                waiter.start()
                time.sleep(0.5)
                assert not got
                other.VM.set_name_label(vm, 'newer')
                waiter.join(30 * SLOW)
                assert [(e['operation'], e['snapshot']['name_label']) for e in got if e['ref'] == vm] == [('mod', 'newer')]
            s.event.unregister(['vm', 'VM'])
            s.event.unregister(['network'])
            assert s.refused('event.next') == ['SESSION_NOT_REGISTERED', s.ref]
            s.event.register(['*'])
            s.session.logout()
            assert s.refused('event.next') == ['SESSION_INVALID', s.ref]
            d.xe('vm-destroy', uuid=other.VM.get_uuid(vm))


def test_a_client_that_goes():
    """Who waits for an event and goes away leaves no thread behind; who has only said all that he has to say is answered."""
    with Served(delays={'event-look': 0.05}) as d:
        s = Session(Json(d.port), d)
        token = s.call('event.from', ['pool'], '', 0.0)['token']
        body = json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': 'event.from', 'params': [s.ref, ['pool'], token, 3600.0]}).encode()
        request = b'POST /jsonrpc HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n' % len(body) + body
        threads = lambda: len(os.listdir(f'/proc/{d.process.pid}/task'))
        time.sleep(0.5)
        before, waiting = threads(), [socket.create_connection(('127.0.0.1', d.port)) for _ in range(20)]
        for w in waiting:
            w.sendall(request)
        wait_for(lambda: threads() >= before + 15)
        waiting[0].shutdown(socket.SHUT_WR)
        answer = b''
        while got := waiting[0].recv(1 << 16):
            answer += got
        assert b'"events":[]' in answer, answer
        time.sleep(1)
        assert threads() >= before + 15
        for w in waiting:
            w.close()
        wait_for(lambda: threads() <= before + 2)


def test_tasks_of_clients():
    """A client says how its own task goes; of a call's, only the call."""
    with Served() as d:
        s = Session(Json(d.port), d)
        ref = s.task.create('Export of VM', 'by hand')
        record = s.task.get_record(ref)
        assert (record['status'], record['name_label'], record['name_description'], record['type']) == \
            ('pending', 'Export of VM', 'by hand', '<none/>')
        s.task.set_progress(ref, 0.25)
        s.task.add_to_other_config(ref, 'ShowInXenCenter', 'true')
        s.task.set_result(ref, '<value>x</value>')
        s.task.set_status(ref, 'success')
        record = s.task.get_record(ref)
        assert record['progress'] == 0.25 and record['other_config'] == {'ShowInXenCenter': 'true'}
        assert record['status'] == 'success' and record['finished'] > '2026'
        bad = s.task.create('x', '')
        s.task.set_error_info(bad, ['VDI_MISSING', 'a', 'b'])
        s.task.set_status(bad, 'failure')
        assert s.task.get_error_info(bad) == ['VDI_MISSING', 'a', 'b']
        assert s.refused('task.set_status', bad, 'nonsense')[0] == 'INVALID_VALUE'
        done = s.Async.SR.scan(s.SR.get_all()[0])
        finished(s, done)
        assert s.refused('task.set_progress', done, 0.5)[0] == 'OPERATION_NOT_ALLOWED'
        for t in (ref, bad, done):
            s.task.destroy(t)
            assert s.refused('task.get_status', t) == ['HANDLE_INVALID', 'task', t]
        d.check()


def test_tasks_of_calls_that_were_waited_for():
    """Go with their results or errors; they do not push out those that a client is still to ask for."""
    with Served() as d:
        s = Session(Json(d.port), d)
        sr, before = s.SR.get_all()[0], set(s.task.get_all())
        asked = s.Async.SR.scan(sr)
        finished(s, asked)
        for _ in range(250):
            s.SR.scan(sr)
        vm = s.VM.get_by_uuid(d.vm('web'))
        why = s.refused('VM.resume', vm, False, False)
        assert set(s.task.get_all()) == before | {asked}
        failed = s.Async.VM.resume(vm, False, False)
        wait_for(lambda: s.task.get_status(failed) == 'failure')
        assert s.task.get_error_info(failed) == why


def test_messages_go():
    """MESSAGES: the oldest, when there are more than 10,000."""
    with Served() as d:
        d.stop()
        d.sql_write("""WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10300)
                       INSERT INTO message (ref, gen, uuid, name) SELECT 'OpaqueRef:' || i, i, 'u' || i, i FROM n""")
        d.start()
        s = Session(Json(d.port), d)
        names = sorted(int(m['name']) for m in s.message.get_all_records().values())
        assert names == list(range(301, 10301)), (len(names), names[0])
        d.check()


def test_tasks_go():
    """No more than 200 of a user are kept, of which those that have ended go first, and none that ended an hour ago."""
    with Served() as d:
        s = Session(Json(d.port), d)
        refs = []
        for n in range(205):
            refs.append(s.task.create(str(n), ''))
            s.task.set_status(refs[-1], 'success')
        pending = s.task.create('goes on', '')
        for again in (False, True):
            left = set(s.task.get_all())
            assert pending in left and len(left & set(refs)) == 199 and not left & set(refs[:6]), len(left)
            if not again:
                d.restart()
                s = Session(Json(d.port), d)
        for n in range(300):
            s.task.create(str(n), '')
        left = {t for t, r in s.task.get_all_records().items() if r['type'] == '<none/>' and r['name_label'].isdigit()}
        assert len(left) == 200 and pending not in s.task.get_all(), len(left)


main(globals())
