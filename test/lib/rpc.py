# SPDX-License-Identifier: Apache-2.0
"""The API as its clients speak it: XML-RPC by Python's own library, JSON-RPC by hand."""
import http.client, json, os, random, re, socket, ssl, uuid, xmlrpc.client
from sf import *

held = []          # names in the kernel, as long as this process lives: a port each that is ours


def port_of_ours():
    """A port that stays ours, served or not.  One that the kernel picked could be picked again, for anybody's
    connection, before the daemon is there; this is below those, and no other test has its name."""
    with open('/proc/sys/net/ipv4/ip_local_port_range') as f:
        end = int(f.read().split()[0])
    while True:
        port, name = random.randrange(end // 2, end), socket.socket(socket.AF_UNIX)
        try:
            name.bind(f'\0stillframe-test-port-{port}')
            with socket.socket() as s:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                s.bind(('127.0.0.1', port))
        except OSError:
            name.close()
            continue
        held.append(name)
        return port


class Served(Daemon):
    """On plain TCP and under TLS.  `accounts` are the host's, as PAM is made to believe: names and passwords."""

    def __init__(self, vmm='fake', options=(), accounts=(), **kw):
        self.port, self.tls_port = port_of_ours(), port_of_ours()
        super().__init__(vmm, start=False, **kw)
        self.accounts = {name: str(uuid.uuid4()) for name in ('root', *accounts)}
        folder = os.path.join(self.state, 'pam')
        os.makedirs(folder, exist_ok=True)
        users, check = os.path.join(folder, 'users'), os.path.join(folder, 'check')
        for path, text, mode in (
                (users, ''.join(f'{name}:{password}\n' for name, password in self.accounts.items()), 0o600),
                (check, f"#!/bin/sh\nexec grep -qxF -e \"$PAM_USER:$(tr -d '\\000')\" {users}\n", 0o700),
                (os.path.join(folder, 'stillframe'),
                 f'auth required pam_exec.so quiet expose_authtok {check}\naccount required pam_permit.so\n', 0o600)):
            with open(path, 'w') as f:
                f.write(text)
            os.chmod(path, mode)
        self.options += ['--listen', f'127.0.0.1:{self.port}', '--listen-tls', f'127.0.0.1:{self.tls_port}',
                         '--pam-dir', folder, *options]
        self.start()


class ApiError(Exception):
    """code, then parameters."""

    def __init__(self, what):
        super().__init__(*what)
        self.code, self.params = what[0], list(what[1:])


def any_certificate():
    c = ssl.create_default_context()
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    return c


class Xml:
    def __init__(self, port, path='/', tls=False):
        self.server = xmlrpc.client.ServerProxy(f'http{"s" * tls}://127.0.0.1:{port}{path}', allow_none=False,
                                                context=any_certificate() if tls else None)

    def call(self, method, *params):
        answer = getattr(self.server, method)(*params)
        if isinstance(answer, list):
            return answer
        if answer['Status'] == 'Failure':
            raise ApiError(answer['ErrorDescription'])
        return answer['Value']

    def number(self, n):
        return str(n)


class Json:
    def __init__(self, port, version=2, tls=False):
        self.port, self.version, self.tls, self.id = port, version, tls, 0

    def raw(self, body, method='POST', path='/jsonrpc', headers={}):
        c = (http.client.HTTPSConnection('127.0.0.1', self.port, timeout=120, context=any_certificate()) if self.tls
             else http.client.HTTPConnection('127.0.0.1', self.port, timeout=120))
        c.request(method, path, body, headers)
        r = c.getresponse()
        text = r.read()
        c.close()
        return r, text

    def call(self, method, *params):
        self.id += 1
        call = {'method': method, 'params': list(params), 'id': self.id}
        if self.version == 2:
            call['jsonrpc'] = '2.0'
        r, text = self.raw(json.dumps(call))
        assert r.status == 200 and r.headers['Content-Type'] == 'application/json', (r.status, text)
        answer = json.loads(text)
        assert answer['id'] == self.id
        error = answer.get('error')
        if error:
            raise ApiError([error['message'], *error['data']] if self.version == 2 else error)
        return answer['result']

    def number(self, n):
        return n


class Session:
    """A login, and the methods behind it: s.VM.get_record(ref)."""

    def __init__(self, wire, d, user='root', secret=None):
        self.wire = wire
        self.ref = wire.call('session.login_with_password', user, d.accounts[user] if secret is None else secret, '2.21', 'test')

    def call(self, method, *params):
        return self.wire.call(method, self.ref, *params)

    def refused(self, method, *params):
        """code and parameters of the error."""
        try:
            answer = self.call(method, *params)
        except ApiError as e:
            return [e.code, *e.params]
        raise AssertionError(f'{method} {params}: {answer}')

    def __getattr__(self, name):
        return Methods(self, name)


class Methods:
    def __init__(self, session, name):
        self.session, self.name = session, name

    def __getattr__(self, name):
        return Methods(self.session, f'{self.name}.{name}')

    def __call__(self, *params):
        return self.session.call(self.name, *params)


def finished(s, task):
    """Its result, when it is done."""
    wait_for(lambda: s.task.get_status(task) != 'pending', 60)
    if s.task.get_status(task) != 'success':
        raise ApiError(s.task.get_error_info(task))
    text = s.task.get_result(task)
    return re.fullmatch('<value>(.*)</value>', text, re.DOTALL)[1] if text else ''
