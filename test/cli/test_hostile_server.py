#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What a server gets that is after more than the user gave it, and what a terminal gets that an object's name or a
server wants to speak to."""
import os, pty, select, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *
import thin

KEY = b'PRIVATE KEY\n'
EVIL = 'a\x1b]0;owned\x07b\x9b2Jc\u202ed\re\x7f'
SHOWN = rb'a\x1b]0;owned\x07b\xc2\x9b2Jc\xe2\x80\xaed\x0de\x7f'


class Hostile:
    """A server of one command: it greets, says `what`, and keeps all that comes back."""

    def __init__(self, *what):
        self.what, self.got = what, b''
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        c, _ = self.listener.accept()
        c.settimeout(5 * SLOW)
        head = b''
        while b'\r\n\r\n' not in head:
            head += c.recv(65536)
        c.sendall(thin.MAGIC + thin.number(0) + thin.number(2))
        for frame in self.what:
            c.sendall(frame)
        try:
            while piece := c.recv(65536):
                self.got += piece
        except OSError:
            pass
        c.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        self.thread.join()

    def way(self):
        return ['-s', '127.0.0.1', '-p', str(self.port), '-u', 'root', '-pw', 'x', '--nossl']


def command(tag, *strings, status=None):
    body = thin.number(thin.COMMAND) + thin.number(tag) + (thin.number(status) if status is not None else b'')
    for s in strings:
        s = s.encode(errors='surrogateescape')
        body += thin.number(len(s)) + s
    return thin.number(len(body)) + body


END = command(thin.EXIT, status=0)


def test_files():
    """Whatever it asks for, by whatever path, and wherever xe was started: only what the command line names."""
    with tempfile.TemporaryDirectory() as home:
        key = os.path.join(home, '.ssh', 'id_ed25519')
        os.makedirs(os.path.dirname(key))
        with open(key, 'wb') as f:
            f.write(KEY)
        env = {**os.environ, 'HOME': home, 'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '') + ':detect_leaks=0',
               'XE_EXTRA_ARGS': f'extra={key}'}
        inner = os.path.join(home, 'inner')
        os.mkdir(inner)
        tried = 0
        for what in ((thin.LOAD, '.ssh/id_ed25519'), (thin.LOAD, key), (thin.LOAD, './.ssh/id_ed25519'), (thin.LOAD, '../.ssh/id_ed25519'),
                     (thin.LOAD, ''), (thin.LOAD, '/dev/stdin'), (thin.LOAD, '-'), (thin.PUT, '.ssh/id_ed25519', '/x'),
                     (thin.PUT, key, '/x'), (thin.PUT, '', '/x'), (thin.PUT, '-', '/x'), (thin.PUT, '/dev/stdin', '/x'),
                     (thin.GET, '.ssh/authorized_keys', '/x'), (thin.GET, key, '/x'), (thin.GET, '', '/x'), (thin.CONNECT, '/x')):
            for folder in (home, inner, '/'):
                for words in (['vm-list'], ['vm-param-set', 'name-description=', 'other-config:x=.ssh']):
                    with Hostile(command(*what), END) as server, open(key, 'rb') as stdin:
                        p = subprocess.run([os.path.join(BUILD, 'xe'), *server.way(), *words], cwd=folder, env=env, stdin=stdin,
                                           capture_output=True, timeout=60 * SLOW)
                    tried += 1
                    assert b'PRIVATE' not in server.got, (what, folder, words)
                    assert thin.number(thin.RESPONSE) + thin.number(thin.FAILED) in server.got, (what, server.got)
                    assert b'the server asked for' in p.stderr, (what, p.stderr)
        assert os.listdir(os.path.dirname(key)) == ['id_ed25519'] and sorted(os.listdir(home)) == ['.ssh', 'inner']
        print(f'  {tried} tries')
        # What is named is given: by itself, and behind an equals sign.
        for words in (['x', key], ['x', f'filename={key}']):
            with Hostile(command(thin.LOAD, key), END) as server:
                subprocess.run([os.path.join(BUILD, 'xe'), *server.way(), *words], env=env, capture_output=True, timeout=60 * SLOW)
            assert KEY in server.got, (words, server.got)


def on_terminal(argv, env, which):
    """What a terminal gets that is xe's standard output (1) or error (2), or both ([1, 2]); the other goes nowhere."""
    ours, theirs = pty.openpty()
    null = subprocess.DEVNULL
    p = subprocess.Popen(argv, env=env, stdin=null, stdout=theirs if 1 in which else null,
                         stderr=theirs if 2 in which else null)
    os.close(theirs)
    got = b''
    while select.select([ours], [], [], 60 * SLOW)[0]:
        try:
            piece = os.read(ours, 65536)
        except OSError:             # the last writer has gone
            break
        if not piece:
            break
        got += piece
    p.wait(60 * SLOW)
    os.close(ours)
    return got.replace(b'\r\n', b'\n')      # the terminal's own doing


def test_a_server_speaks():
    """By each of its ways to have something printed."""
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, 'HOME': home, 'ASAN_OPTIONS': os.environ.get('ASAN_OPTIONS', '') + ':detect_leaks=0'}
        raw = EVIL.encode()
        body = command(thin.ERROR, EVIL)[4:] + thin.number(1) + thin.number(len(raw)) + raw
        error = thin.number(len(body)) + body
        for which, what, words in ((1, command(thin.PRINT, EVIL), []), (2, command(thin.STDERR, EVIL), []), (2, error, []),
                                   (2, command(thin.DEBUG, EVIL), ['--debug']),
                                   (2, command(thin.LOAD, EVIL), []), (2, command(thin.PUT, EVIL, '/x'), [])):
            shown = {}
            for terminal in (True, False):
                with Hostile(what, END) as server:
                    argv = [os.path.join(BUILD, 'xe'), *server.way(), 'vm-list', *words]
                    if terminal:
                        shown[terminal] = on_terminal(argv, env, [which])
                    else:
                        p = subprocess.run(argv, env=env, capture_output=True, timeout=60 * SLOW)
                        shown[terminal] = p.stdout if which == 1 else p.stderr
            assert SHOWN in shown[True], (what, shown)
            assert not set(shown[True]) & (set(range(32)) - {9, 10} | {127}), shown
            assert raw in shown[False], (what, shown)       # scripts get what there is
        # what is no answer of a server for xe at all, and bytes that are no UTF-8
        for says in (b'HTTP/1.0 400 No\r\n\r\n' + raw, b'HTTP/1.0 400 No\r\n\r\na\x9b2J\xff'):
            listener = socket.create_server(('127.0.0.1', 0))

            def answer():
                c, _ = listener.accept()
                c.recv(65536)
                c.sendall(says)
                c.shutdown(socket.SHUT_WR)
                while c.recv(65536):
                    pass
                c.close()
            t = threading.Thread(target=answer)
            t.start()
            got = on_terminal([os.path.join(BUILD, 'xe'), '-s', '127.0.0.1', '-p', str(listener.getsockname()[1]), '-pw', 'x',
                               '--nossl', 'vm-list'], env, [2])
            t.join()
            listener.close()
            assert rb'\x9b2J' in got and b'\x1b' not in got and b'\x9b' not in got, got


def test_a_name_speaks():
    """A VM's name, its key in a map, a tag: to a terminal, in a pipe, and in an error."""
    with Served() as d:
        s = Session(Json(d.port), d)
        vm = s.VM.get_by_uuid(uuid_ := d.vm('web', disks=1))
        s.VM.set_name_label(vm, EVIL)
        s.VM.add_to_other_config(vm, EVIL, EVIL)
        s.VM.add_tags(vm, EVIL)
        xe = os.path.join(BUILD, 'xe')
        for words in (['vm-list'], ['vm-param-list', f'uuid={uuid_}'], ['vm-list', 'params=name-label', '--minimal'],
                      ['vm-param-get', f'uuid={uuid_}', 'param-name=other-config'], ['vm-pause', f'uuid={uuid_}']):
            got = on_terminal([xe, *words], d.environ(), [1, 2])
            assert SHOWN in got, (words, got)
            assert not set(got) & (set(range(32)) - {9, 10} | {127}), got
        assert d.run('vm-list', 'params=name-label', '--minimal')[1] == EVIL + '\n'
        assert EVIL in d.run('vm-param-list', uuid=uuid_)[1]
        # bytes of a disk are not for a terminal
        disk = d.disks(uuid_)['0']
        got = on_terminal([xe, 'vdi-export', f'uuid={disk}', 'filename='], d.environ(), [1, 2])
        assert b'standard output is a terminal' in got and b'\x00' not in got and len(got) < 1000, got[:1000]
        p = subprocess.run([xe, 'vdi-export', f'uuid={disk}', 'filename='], env=d.environ(), capture_output=True, timeout=60 * SLOW)
        assert p.returncode == 0 and len(p.stdout) == 64 << 20
        d.check()


main(globals())
