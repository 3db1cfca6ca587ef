#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Each row of src/base/limits.def is attacked, by two addresses that cannot log in, and by a user who may only look; on one core,
for SECONDS (5).  Meanwhile root's commands are answered at once, a third address can log in and ask, and the daemon takes
little memory, log and database.  After a restart nothing is left of it, and what was recorded before it still is.

    test/bounds/test_budget.py                 all attacks
    test/bounds/test_budget.py test_attacks    ... of clients; ATTACK=name one of them """
import http.client, json, os, socket, ssl, struct, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *
import thin

SECONDS = float(os.environ.get('SECONDS', '5'))
STRANGERS, READER, THIRD = ('127.0.0.2', '127.0.0.3'), '127.0.0.4', '127.0.0.9'
FILES = 16384       # that each process may have open
BUSY, TRIES = 0.1, 4    # seconds that a daemon which nobody attacks takes on a busy machine; how often it is measured then

# Rows that no crowd can show: a name, and the test that holds it.
ELSEWHERE = {
    'LOCAL_CONNECTIONS': 'test/unit/test_crowd.c',
    'LOCAL_REQUESTS': 'test/unit/test_crowd.c',
    'WAITING': 'test/unit/test_crowd.c',
    'WAITING_OF_SOURCE': 'test/unit/test_crowd.c',
    'WAITING_SHARE': 'test/unit/test_crowd.c',
    'STRANGERS': 'test/unit/test_crowd.c',
    'BODIES': 'test/unit/test_crowd.c',
    'HTTP_HEAD': 'test/unit/test_http.c',
    'HTTP_FIELD': 'test/unit/test_http.c',
    'XML_TAG': 'test/unit/test_limits.c',
    'LOGIN_FREE': 'test/api/test_sessions.py',
    'LOGIN_FREE_OF_SOURCE': 'test/api/test_sessions.py',
    'LOGIN_SOURCES': 'test/api/test_sessions.py',
    'RPC_ANSWER': 'test/unit/test_limits.c',
    'PICTURES': 'test/cli/test_console.py',
    'QUERY_TERMS': 'test/api/test_limits.py',
    'QUERY_DEPTH': 'test/api/test_limits.py',
    'SUBSCRIPTION': 'test/api/test_limits.py',
    'ORIGINATOR': 'test/api/test_sessions.py',
    'CLI_LINES': 'test/unit/test_thin.c',
    'CLI_PROMPT': 'test/unit/test_thin.c',
    'BLOB': 'test/api/test_kept.py',
    'MEMBERS': 'test/api/test_limits.py',
    'MESSAGE_TEXT': 'test/api/test_limits.py',
    'MESSAGES': 'test/api/test_events.py',
    'LOG_FILE': 'test/api/test_limits.py',
    'AUDIT_FILE': 'test/api/test_limits.py',
    'GUEST_LOG': 'test/cli/test_fake.py',
    'QMP_LINE': 'test/unit/test_qmp.c',
    'QMP_DEPTH': 'test/unit/test_qmp.c',
    'GUEST_EVENTS': 'test/unit/test_keeper.c',
    'GUEST_WORDS': 'test/unit/test_keeper.c',
    'AGENT_REPLY': 'test/unit/test_agent.c',
    'AGENT_SYNC': 'test/unit/test_agent.c',
    'AGENT_DEPTH': 'test/unit/test_agent.c',
    'AGENT_VALUES': 'test/unit/test_agent.c',
}


# ---- what attackers do; each in a process of its own ----

def connect(source, port):
    return socket.create_connection(('127.0.0.1', port), timeout=30, source_address=(source, 0))


def post(path, body, length=None, more=''):
    return f'POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body) if length is None else length}\r\n{more}\r\n'.encode() + body


def call(method, *params):
    return json.dumps({'jsonrpc': '2.0', 'id': 1, 'method': method, 'params': params}).encode()


def many(n, what):
    """The same at the same time, until the end; what fails begins again."""
    def again():
        while True:
            try:
                what()
            except (OSError, ApiError, AssertionError, ValueError, http.client.HTTPException):
                time.sleep(0.01)
    threads = [threading.Thread(target=again, daemon=True) for _ in range(n)]
    for t in threads:
        t.start()
    while True:
        time.sleep(60)


def ask(source, port, data):
    """One request, and its answer."""
    with connect(source, port) as s:
        s.sendall(data)
        while s.recv(1 << 16):
            pass


def hold(source, port, n, data, trickle=b'', tls=False):
    """So many connections that have said that much, and go on so slowly."""
    kept, context = [], any_certificate()
    while True:
        while len(kept) < n:
            try:
                s = connect(source, port)
                s = context.wrap_socket(s) if tls else s
                s.sendall(data)
                s.setblocking(False)
                kept.append(s)
            except OSError:
                time.sleep(0.1)
                break
        for s in list(kept):
            try:
                if trickle:
                    s.send(trickle)
                if s.recv(1 << 16) == b'':
                    raise ConnectionError
            except (BlockingIOError, ssl.SSLWantReadError):
                pass
            except OSError:
                kept.remove(s)
                s.close()
        time.sleep(0.2)


def connections(a):
    """One address has as many as it can, another one under TLS; the user's have begun to speak."""
    if a.source == STRANGERS[1]:
        hold(a.source, a.tls_port, 2600, b'', tls=True)
    hold(a.source, a.port, 1000 if a.reader else 2600, b'GET / HT' if a.reader else b'')


def slow(a):
    whole = post('/jsonrpc', b'x' * (290 << 10), 300 << 10)
    kinds = [(200, post('/jsonrpc', b'{', 1000), b' '), (60, whole, b''), (100, post('/cli', b'vm-list\nusername=x\npassword=y'), b''),
             (200, b'POST /jsonrpc HTTP/1.1\r\nX: ', b'a'), (40, post('/jsonrpc', b'', 100, 'Expect: 100-continue\r\n'), b'')]
    for n, data, trickle in kinds:
        threading.Thread(target=hold, args=(a.source, a.port, n, data, trickle), daemon=True).start()
    if a.reader:
        s = a.session()
        token = s.call('event.from', ['pool'], '', 0.0)['token']
        many(100, lambda: s.call('event.from', ['pool'], token, 3600.0))
    while True:
        time.sleep(60)


def bodies(a):
    ref = a.session().ref if a.reader else 'OpaqueRef:00000000-0000-4000-8000-000000000000'
    head = f'{{"method":"VM.get_by_uuid","id":1,"params":["{ref}",['.encode()
    xml = f'<methodCall><methodName>VM.get_by_uuid</methodName><params><param><value>{ref}</value></param><param>'.encode()
    texts = [
        ('/jsonrpc', head + b'{},' * 98000 + b'{}]]}'), ('/jsonrpc', head + b'[' * 290000), ('/jsonrpc', head + b'"",' * 98000 + b'""]]}'),
        ('/', b'<methodCall ' + b' '.join(b'a%x=""' % i for i in range(32000)) + b'/>'),
        ('/', xml + b'<value><array><data>' + b'<value/>' * 35000), ('/', xml + b'<value>' * 40000),
        ('/', xml + b'<value>' + b'&#60;' * 55000 + b'</value></param></params></methodCall>'),
        ('/jsonrpc', b'x' * (301 << 10)), ('/cli', b'x' * (199 << 10)), ('/cli', b'x' * (201 << 10)),
    ]
    requests = [post(path, text[:(300 << 10) - 1] if len(text) < 301 << 10 else text, more='Connection: close\r\n') for path, text in texts]
    turn = iter(range(1 << 60))
    many(6, lambda: ask(a.source, a.port, requests[next(turn) % len(requests)]))


def names(a):
    if a.reader:
        many(12, a.session)
    name = 'root" \x1b[31m\n' + 'u' * 15000
    login = post('/jsonrpc', call('session.login_with_password', name, 'x'), more='Connection: close\r\n')
    basic = b'GET /blob?uuid=1 HTTP/1.0\r\nAuthorization: Basic ' + b'cm9vdDp4eHh4' * 100 + b'\r\n\r\n'
    greeting = thin.MAGIC + thin.number(0) + thin.number(2)
    words = post('/cli', b'x' * 100000 + b'\n') + greeting
    turn = iter(range(1 << 60))
    many(24, lambda: ask(a.source, a.port, (login, basic, words, words)[next(turn) % 4]))


def maps(a):
    if not a.reader:
        return names(a)
    s = a.session()
    task = s.task.create('mine', '')
    large = {f'k{i}': '' for i in range(16000)}
    fits = {f'k{i}': 'v' for i in range(250)}

    def deeds():
        for size in (large, fits, {'k': 'v' * 290000}):
            s.refused_or_not('task.set_other_config', task, size)
        s.refused_or_not('task.add_to_other_config', task, f'n{time.time()}', 'v')
        s.refused_or_not('task.set_result', task, 'r' * 290000)
        s.refused_or_not('event.register', [f'c{i}' for i in range(16000)])
        s.refused_or_not('event.register', [f'{time.time()} {i}' for i in range(190)])
        s.refused_or_not('event.from', ['c' * 100 + str(i) for i in range(2000)], '', 0.0)
        s.refused_or_not('task.get_all_records')
        made = s.task.create('x' * 4000, 'y' * 4000)
        s.refused_or_not('task.set_result', made, 'r' * 4000)
    many(8, deeds)


def events(a):
    if not a.reader:
        return slow(a)
    s = a.session()
    vms = s.VM.get_all()

    def wait():
        token = s.call('event.from', ['task'], '', 0.0)['token']
        s.call('event.from', ['*'], token, 3600.0)
    threading.Thread(target=many, args=(250, wait), daemon=True).start()

    def write():
        s.task.destroy(s.task.create('x', ''))
        s.event.inject('VM', vms[0])
    many(6, write)


def answers(a):
    """Asks, and does not read what comes."""
    data = post('/jsonrpc', call('system.listMethods'))
    if a.reader:
        s = a.session()
        for i in range(100):
            s.task.set_result(s.task.create('x' * 4000, 'y' * 4000), 'r' * 4000)
        data = post('/jsonrpc', call('event.from', s.ref, ['*'], '', 0.0))
    threading.Thread(target=hold, args=(a.source, a.port, 150, data), daemon=True).start()
    many(4, lambda: any_certificate().wrap_socket(connect(a.source, a.tls_port)).close())


def behind(a):
    if not a.reader:
        return answers(a)
    s = a.session()
    vms = s.VM.get_all()
    many(8, lambda: s.call('Async.VM.assert_can_boot_here', vms[0], s.host.get_all()[0]))


class Attacker:
    """What it knows stands in its arguments."""

    def __init__(self, what):
        self.__dict__.update(what)
        self.reader = self.source == READER

    def session(self):
        s = Session.__new__(Stubborn)
        s.wire = From(self.port, self.source)
        s.ref = s.wire.call('session.login_with_password', 'reader', self.secret, '2.21', 'XenCenter')
        return s


class From(Json):
    """Calls from an address."""

    def __init__(self, port, source, timeout=120):
        super().__init__(port)
        self.source, self.timeout = source, timeout

    def raw(self, body, method='POST', path='/jsonrpc', headers={}):
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=self.timeout, source_address=(self.source, 0))
        c.request(method, path, body, headers)
        r = c.getresponse()
        text = r.read()
        c.close()
        return r, text


class Stubborn(Session):
    def refused_or_not(self, method, *params):
        try:
            self.call(method, *params)
        except (ApiError, AssertionError):
            pass


class Attack:
    def __init__(self, run, rows):
        self.run, self.name, self.rows = run, run.__name__, rows.split()


ATTACKS = [
    Attack(connections, rows='CONNECTIONS CONNECTIONS_OF_SOURCE'),
    Attack(slow, rows='STRANGERS_OF_SOURCE BODIES_OF_SOURCE WORKING WORKING_OF_SOURCE'),
    Attack(bodies, rows='RPC_BODY RPC_VALUES RPC_STRANGER_BODY RPC_STRANGER_VALUES RPC_DEPTH CLI_BODY'),
    Attack(names, rows='LOGIN_WORDS LOGINS_OF_SOURCE LOGIN_CHECKS SESSIONS_OF_USER LOG_LINE LOG_LINES AUDIT_NAME AUDIT_LOGINS'),
    Attack(maps, rows='TASK_TEXT SUBSCRIPTIONS'),
    Attack(events, rows='REQUESTS_OF_USER DELETED'),
    Attack(answers, rows='ANSWERS_OF_SOURCE ANSWER_PACE'),
    Attack(behind, rows='TASKS_OF_USER ASYNC_OF_USER'),
]


# ---- what is measured meanwhile ----

class Meter:
    """How root and a third party fare, and how large everything becomes.  The machine may be busy with other things: a
    daemon that nobody attacks is asked in turn."""

    def __init__(self, d, idle):
        self.d, self.idle, self.local, self.of_idle, self.third, self.lost, self.rss = d, idle, [], [], [], 0, 0
        self.log_before = self.log()
        self.over = False
        self.threads = [threading.Thread(target=f, daemon=True) for f in (self.ask_here, self.ask_there, self.look)]

    def log(self):
        return os.path.getsize(os.path.join(self.d.state, 'test.log'))

    def database(self):
        return sum(os.path.getsize(os.path.join(self.d.state, f'state.db{end}')) for end in ('', '-wal'))

    def ask_here(self):
        while not self.over:
            for d, told in (self.d, self.local), (self.idle, self.of_idle):
                begin = time.time()
                d.xe('host-list')
                told.append(time.time() - begin)
                time.sleep(0.01)

    def ask_there(self):
        while not self.over:
            begin = time.time()
            try:
                s = Session.__new__(Session)
                s.wire = From(self.d.port, THIRD, timeout=20)
                s.ref = s.wire.call('session.login_with_password', 'root', self.d.accounts['root'])
                s.VM.get_all()
                s.session.logout()
                self.third.append(time.time() - begin)
            except (OSError, ApiError, http.client.HTTPException) as e:
                self.lost += 1
                print(f'  a third address: {type(e).__name__} {e} after {time.time() - begin:.1f} s')
            time.sleep(0.2)

    def look(self):
        while not self.over:
            self.rss = max(self.rss, memory_of(self.d.process.pid))
            time.sleep(0.05)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *_):
        self.over = True
        for t in self.threads:
            t.join(60)

    def tell(self, name):
        """False: root waits for too long, and so does who asks the daemon that nobody attacks: it may be the machine."""
        (p99, worst), (idle_p99, idle_worst) = (in_order(x) for x in (self.local, self.of_idle))
        third = max(self.third, default=0)
        log, database = self.log() - self.log_before, self.database()
        print(f'  {name:12} root: {len(self.local):4} answers, p99 {p99 * 1000:4.0f} ms, worst {worst * 1000:4.0f} ms '
              f'(of an idle one {idle_p99 * 1000:4.0f}, {idle_worst * 1000:4.0f} ms); a third address: '
              f'{len(self.third):3}, worst {third:4.1f} s, lost {self.lost}; {self.rss >> 20:3} MiB, log +{log >> 10:5} KiB, '
              f'database {database >> 10:6} KiB', flush=True)
        in_time = p99 < max(0.2, 3 * idle_p99) and worst < max(1, 3 * idle_worst)
        assert in_time or idle_worst > BUSY, f'root waits: {p99:.3f} s, {worst:.3f} s'
        assert self.third and not self.lost and third < 10, f'a third address is shut out: {third:.1f} s, {self.lost} lost'
        assert self.rss < 256 << 20, f'{self.rss >> 20} MiB'
        assert log < 10 << 20 and database < 20 << 20, (log, database)
        return in_time


def in_order(times):
    """The 99th of a hundred, and the last one."""
    return sorted(times)[int((len(times) - 1) * 0.99)], max(times)


def measured(d, idle, name, do):
    """On a machine that is busy with other things as often as it takes; what is slow by itself is slow each time."""
    for _ in range(TRIES):
        with Meter(d, idle) as meter:
            do()
        if meter.tell(name):
            return
    raise AssertionError(f'root waits, {TRIES} times')


def memory_of(pid):
    with open(f'/proc/{pid}/status') as f:
        return int(re.search(r'^VmRSS:\s+(\d+) kB', f.read(), re.M)[1]) << 10


def threads_of(d):
    return len(os.listdir(f'/proc/{d.process.pid}/task'))


def attackers(d, attack):
    """On one core."""
    core = str(max(os.sched_getaffinity(0)))
    secret = d.accounts['reader']
    return [subprocess.Popen(['taskset', '-c', core, sys.executable, os.path.abspath(__file__), '--attack', json.dumps(
        {'name': attack.name, 'source': source, 'port': d.port, 'tls_port': d.tls_port, 'secret': secret})],
        stderr=subprocess.DEVNULL) for source in (*STRANGERS, READER)]


def end(processes):
    for p in processes:
        p.kill()
    for p in processes:
        p.wait()


def attacked(d, attack):
    processes = attackers(d, attack)
    try:
        time.sleep(SECONDS)
        ended = [p.args for p in processes if p.poll() is not None]
    finally:
        end(processes)
    assert not ended, f'an attacker gave up: {ended}'


def nothing_is_left(d, begun_with):
    """Threads end by themselves; the rest goes with a restart, which takes no longer than ever."""
    wait_for(lambda: threads_of(d) < 40, 20, lambda: f'{threads_of(d)} threads are left')
    begin = time.time()
    d.restart()
    took = time.time() - begin
    assert took < 5, f'a restart takes {took:.1f} s'
    assert memory_of(d.process.pid) < begun_with + (16 << 20), 'it is larger than before'
    assert d.sql('SELECT count(*) FROM session')[0] <= 1
    assert d.sql('SELECT count(*) FROM task')[0] <= 210


def reader(d):
    subject = d.xe('subject-add', subject_name='reader')
    d.xe('subject-role-add', uuid=subject, role_name='read-only')
    d.xe('subject-role-remove', uuid=subject, role_name='pool-admin')


def test_attacks():
    raise_files()
    wanted = os.environ.get('ATTACK')
    with Served(accounts=['reader']) as d, Daemon('fake') as idle:
        reader(d)
        d.vm('web', disks=1)
        d.xe('vm-destroy', uuid=d.vm('a deed'))
        d.restart()
        begun_with = memory_of(d.process.pid)
        for attack in ATTACKS:
            if wanted in (None, attack.name):
                measured(d, idle, attack.name, lambda: attacked(d, attack))
                nothing_is_left(d, begun_with)
        for name in ('audit.log', 'refused.log'):
            for line in open(os.path.join(d.state, name)) if os.path.exists(os.path.join(d.state, name)) else ():
                assert len(line) < 500, line
        assert 'did=VM.destroy' in open(os.path.join(d.state, 'audit.log')).read(), 'a deed is not in the trail any more'
        root = Session(Json(d.port), d)
        for task in root.task.get_all():
            root.task.destroy(task)     # what its client has not ended stays as long as that may come back
        d.check()


# ---- a guest that has taken over its QEMU ----

TAKEN_OVER = r'''#!/usr/bin/python3
import json, os, re, socket, sys, threading, time
chardevs = dict(re.findall(r'socket,id=(\w+),fd=(\d+)', ' '.join(sys.argv)))
if 'qmp' not in chardevs:
    os.execv(REAL, [REAL, *sys.argv[1:]])


def event(name, **data):
    return json.dumps({'event': name, 'data': data, 'timestamp': {'seconds': 1, 'microseconds': 1}}).encode() + b'\r\n'


FLOODS = {
    'resets': event('RESET', guest=True, reason='guest-reset') * 500,
    'stops': (event('STOP') + event('RESUME')) * 500,
    'ports': (event('VSERPORT_CHANGE', id='agent', open=True) + event('VSERPORT_CHANGE', id='agent', open=False)) * 300,
    'failures': event('BLOCK_IO_ERROR', action='report', nospace=False) * 500,
    'panics': event('GUEST_PANICKED', action='pause') * 500,
    'unknown': event('X' * 1000000),
    'values': b'{"event":"X","data":{"a":[' + b'[],' * 5000000 + b'0]}}\r\n',
    'endless': b'{"event":"' + b'x' * (64 << 20),
}


def flood(s, what):
    time.sleep(0.5)     # until the guest runs
    try:
        while True:
            s.sendall(FLOODS[what])
    except OSError:
        pass


def talk(s, what):
    s.sendall(b'{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}\r\n')
    heard = b''
    while got := s.recv(65536):
        *lines, heard = (heard + got).split(b'\n')
        for line in filter(bytes.strip, lines):
            asked = json.loads(line)
            status = {'status': 'running', 'running': True, 'singlestep': False}
            answer = {'query-status': status, 'add-fd': {'fd': 1, 'fdset-id': 1}}.get(asked.get('execute'), {})
            if str(asked.get('execute')).startswith('query-') and not answer:
                answer = []
            s.sendall(json.dumps({'return': answer, 'id': asked.get('id')}).encode() + b'\r\n')
            if asked.get('execute') == 'cont' and what:
                threading.Thread(target=flood, args=(s, what), daemon=True).start()


def serve(listener, what):
    while True:
        threading.Thread(target=talk, args=(listener.accept()[0], what), daemon=True).start()


name = re.search(r'guest=([\w-]+)', ' '.join(sys.argv))
what = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'flood')).read()
for id in ('qmp', 'oob'):
    threading.Thread(target=serve, args=(socket.socket(fileno=int(chardevs[id])), what if id == 'qmp' else ''), daemon=True).start()
time.sleep(10000)
'''

GUEST_ROWS = Attack(test_attacks, rows='QMP_EVENT QMP_VALUES QMP_BYTES QMP_EVENTS MESSAGES_OF_OBJECT').rows
FLOODS = ('resets', 'stops', 'ports', 'failures', 'panics', 'unknown', 'values', 'endless')


def flooded(d, vm):
    d.xe('vm-start', uuid=vm)
    time.sleep(max(SECONDS / len(FLOODS), 1.5))
    d.xe('vm-shutdown', '--force', uuid=vm)


def test_guest():
    """One says more than any QEMU does; another one's owner does not notice."""
    real = shutil.which('qemu-system-x86_64')
    if not real:
        raise Skip('there is no QEMU')
    folder = tempfile.mkdtemp(prefix='stillframe-taken-over-')
    os.chmod(folder, 0o755)
    program = os.path.join(folder, 'qemu-system-x86_64')
    with open(program, 'w') as f:
        f.write(TAKEN_OVER.replace('REAL', repr(real)))
    os.chmod(program, 0o755)
    try:
        with Served('qemu', env={'PATH': f'{folder}:{os.environ["PATH"]}'}, options=['--accel', 'tcg']) as d, \
                Daemon('fake') as idle:
            vms = {what: d.vm(what) for what in FLOODS}
            before = len(d.list('message'))
            for what in FLOODS:
                with open(os.path.join(folder, 'flood'), 'w') as f:
                    f.write(what)
                measured(d, idle, what, lambda: flooded(d, vms[what]))
            messages = len(d.list('message')) - before
            assert messages < 60, f'{messages} messages'
            d.check()
    finally:
        shutil.rmtree(folder)


def raise_files():
    import resource
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most), most))


if sys.argv[1:2] == ['--attack']:
    raise_files()
    attacker = Attacker(json.loads(sys.argv[2]))
    next(a for a in ATTACKS if a.name == attacker.name).run(attacker)
else:
    main(globals())
