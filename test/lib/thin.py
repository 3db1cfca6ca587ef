# SPDX-License-Identifier: Apache-2.0
"""A client of the thin CLI protocol, written from its description: what the server prints, and what it wants of a
client, under TLS or not."""
import os, socket, ssl, struct

MAGIC = b'XenSource thin CLI protocol'
COMMAND, RESPONSE, BLOB = 9, 10, 11
PRINT, LOAD, PROMPT, EXIT, OK, FAILED, CHUNK, END, GET, PUT, ERROR, DEBUG, STDERR, CONNECT, WAIT = (
    0, 1, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17, 18)


def number(n):
    return struct.pack('<i', n)


class Thin:
    """thin = Thin('127.0.0.1', port, 'root', password); thin.run('vm-list', '--minimal')"""

    def __init__(self, host, port, user=None, password=None, session=None, tls=True, answers=()):
        self.address, self.tls, self.answers = (host, port), tls, list(answers)
        self.login = [f'session_id={session}'] if session else []
        self.after = [] if session else [f'username={user}', f'password={password}']

    def connect(self):
        s = socket.create_connection(self.address, timeout=120)
        if self.tls:
            c = ssl.create_default_context()
            c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
            s = c.wrap_socket(s)
        return s

    def run(self, *words):
        """The exit status; what was printed is in out and err, a list of lines each."""
        self.out, self.err = [], []
        body = '\n'.join([*self.login, *words, *self.after]).encode()
        self.s = self.connect()
        self.s.sendall(b'POST /cli HTTP/1.0\r\nUser-agent: xe-cli/Unix/0.2\r\noriginator: cli\r\ncontent-length: %d\r\n\r\n' % len(body) + body)
        greeting = self.take(len(MAGIC) + 8)
        assert greeting == MAGIC + number(0) + number(2), greeting
        self.s.sendall(greeting)
        try:
            while (status := self.command()) is None:
                pass
        finally:
            self.s.close()
        return status

    # ---- bytes ----

    def take(self, n):
        got = b''
        while len(got) < n:
            piece = self.s.recv(n - len(got))
            assert piece, f'the server ended behind {got!r}'
            got += piece
        return got

    def int(self):
        n, = struct.unpack('<i', self.frame[:4])
        self.frame = self.frame[4:]
        return n

    def text(self):
        n = self.int()
        s, self.frame = self.frame[:n], self.frame[n:]
        return s.decode()

    def say(self, *numbers):
        payload = b''.join(map(number, numbers))
        self.s.sendall(number(len(payload)) + payload)

    def blob(self, data):
        self.say(BLOB, CHUNK, len(data))
        self.s.sendall(data)
        self.say(BLOB, END)

    # ---- what the server wants ----

    def command(self):
        n, = struct.unpack('<i', self.take(4))
        self.frame = self.take(n)
        assert self.int() == COMMAND
        tag = self.int()
        if tag == PRINT:
            self.out.append(self.text())
        elif tag in (STDERR, ERROR):
            self.err.append(self.text())
        elif tag == PROMPT:
            self.blob(self.answers.pop(0).encode())
        elif tag == LOAD:
            self.load(self.text())
        elif tag in (GET, PUT):
            self.move(tag, self.text(), self.text())
        elif tag == EXIT:
            return self.int()
        else:
            assert tag == DEBUG, f'command {tag}'
        return None

    def load(self, path):
        if not os.path.exists(path):
            return self.say(RESPONSE, FAILED)
        self.say(RESPONSE, OK)
        with open(path, 'rb') as f:
            self.blob(f.read())

    def move(self, tag, path, uri):
        """Over a connection of our own."""
        cli, self.s = self.s, self.connect()
        try:
            good = self.get(path, uri) if tag == GET else self.put(path, uri)
        finally:
            self.s.close()
            self.s = cli
        self.say(RESPONSE, OK if good else FAILED)

    def head(self):
        head = b''
        while not head.endswith(b'\r\n\r\n'):
            head += self.take(1)
        return head.split()[1] == b'200'

    def get(self, path, uri):
        self.s.sendall(f'GET {uri} HTTP/1.0\r\n\r\n'.encode())
        if not self.head():
            return False
        with open(path, 'xb') as f:
            while piece := self.s.recv(1 << 16):
                f.write(piece)
        return True

    def put(self, path, uri):
        with open(path, 'rb') as f:
            data = f.read()
        self.s.sendall(f'PUT {uri} HTTP/1.0\r\nContent-Length: {len(data)}\r\n\r\n'.encode())
        if not self.head():
            return False
        self.s.sendall(data)
        rest = b''
        while piece := self.s.recv(1 << 16):
            rest += piece
        return not rest.startswith(b'Error')
