# SPDX-License-Identifier: Apache-2.0
"""The API as its clients speak it: XML-RPC by Python's own library, JSON-RPC by hand."""
import http.client, json, os, socket, xmlrpc.client


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class ApiError(Exception):
    """code, then parameters."""

    def __init__(self, what):
        super().__init__(*what)
        self.code, self.params = what[0], list(what[1:])


def password(d):
    with open(os.path.join(d.state, 'password')) as f:
        return f.read().strip()


class Xml:
    def __init__(self, port, path='/'):
        self.server = xmlrpc.client.ServerProxy(f'http://127.0.0.1:{port}{path}', allow_none=False)

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
    def __init__(self, port, version=2):
        self.port, self.version, self.id = port, version, 0

    def raw(self, body, method='POST', path='/jsonrpc', headers={}):
        c = http.client.HTTPConnection('127.0.0.1', self.port, timeout=120)
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
        self.ref = wire.call('session.login_with_password', user, secret or password(d), '2.21', 'test')

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
