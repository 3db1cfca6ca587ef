# SPDX-License-Identifier: Apache-2.0
"""Clients of /console and /vncsnapshot, for tests: the stream, the WebSocket, RFB, a door for VNC viewers.

    with Stream(d, f'/console?uuid={vm}') as s:
        screen = Rfb(s)
        pixels = screen.picture()
"""
import base64, hashlib, os, socket, struct, subprocess, threading


class Refused(Exception):
    """An answer other than 200 or 101."""

    def __init__(self, status, body):
        super().__init__(f'{status}: {body.decode(errors="replace")}')
        self.status = status


class Stream:
    """A request whose connection stays open.  tcp: (host, port, password) instead of the local socket."""

    def __init__(self, d, path, tcp=None, method='CONNECT', headers=(), version='1.0'):
        lines = [f'{method} {path} HTTP/{version}', *headers]
        if tcp:
            host, port, password = tcp
            self.s = socket.create_connection((host, port))
            if password is not None:
                lines.append('Authorization: Basic ' + base64.b64encode(b'root:' + password.encode()).decode())
        else:
            self.s = socket.socket(socket.AF_UNIX)
            self.s.connect(os.path.join(d.state, 'xapi.sock'))
        self.s.settimeout(60)
        self.s.sendall('\r\n'.join(lines + ['', '']).encode())
        head = b''
        while not head.endswith(b'\r\n\r\n'):
            got = self.s.recv(1)
            assert got, f'no answer, but {head}'
            head += got
        self.head = head.decode()
        status = int(self.head.split()[1])
        if status not in (200, 101):
            raise Refused(status, self.rest())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def write(self, data):
        self.s.sendall(data)

    def read(self, n):
        """n bytes; fewer only at the end."""
        data = b''
        while len(data) < n and (got := self.s.recv(n - len(data))):
            data += got
        return data

    def rest(self):
        data = b''
        while got := self.s.recv(65536):
            data += got
        return data


class WebSocket(Stream):
    """The same through a WebSocket.  Data are taken out of their frames; fragments: sent in such pieces."""

    MAGIC = b'258EAFA5-E914-47DA-95CA-C5AB0DC85B11'

    def __init__(self, d, path, tcp=None, headers=(), fragments=None, protocol=True):
        """protocol: of XenServer's clients, which ask for `binary`; browsers' pages may ask for none."""
        key = base64.b64encode(os.urandom(16))
        super().__init__(d, path, tcp, 'GET', [
            'Host: localhost', 'Upgrade: websocket', 'Connection: Upgrade', 'Sec-WebSocket-Version: 13',
            'Sec-WebSocket-Key: ' + key.decode(), *['Sec-WebSocket-Protocol: binary'] * protocol, *headers], '1.1')
        accept = base64.b64encode(hashlib.sha1(key + self.MAGIC).digest()).decode()
        assert f'Sec-WebSocket-Accept: {accept}\r\n' in self.head, self.head
        assert ('Sec-WebSocket-Protocol: binary\r\n' in self.head) == protocol, self.head
        self.fragments = fragments
        self.data = b''
        self.control = []       # (opcode, payload) of what is no data

    def frame(self, opcode, payload, fin=True):
        mask = os.urandom(4)
        head = bytes([opcode | (0x80 if fin else 0)])
        if len(payload) < 126:
            head += bytes([0x80 | len(payload)])
        elif len(payload) < 65536:
            head += struct.pack('>BH', 0x80 | 126, len(payload))
        else:
            head += struct.pack('>BQ', 0x80 | 127, len(payload))
        self.s.sendall(head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload)))

    def write(self, data):
        size = self.fragments or len(data)
        pieces = [data[i:i + size] for i in range(0, len(data), size)]
        for i, piece in enumerate(pieces):
            self.frame(2 if i == 0 else 0, piece, i == len(pieces) - 1)

    def next(self):
        """One frame; false at the end."""
        head = super().read(2)
        if len(head) < 2:
            return False
        n = head[1] & 0x7f
        assert not head[1] & 0x80, 'a server does not mask'
        if n == 126:
            n, = struct.unpack('>H', super().read(2))
        elif n == 127:
            n, = struct.unpack('>Q', super().read(8))
        payload = super().read(n)
        if head[0] & 0x0f < 8:
            self.data += payload
        else:
            self.control.append((head[0] & 0x0f, payload))
        return True

    def read(self, n):
        while len(self.data) < n and self.next():
            pass
        data, self.data = self.data[:n], self.data[n:]
        return data


class Rfb:
    """The client's side of RFB 3.8 without security: its handshake, and one picture of the screen."""

    def __init__(self, stream, shared=True):
        self.s = stream
        version = self.s.read(12)
        assert version == b'RFB 003.008\n', version
        self.s.write(version)
        kinds = self.s.read(self.s.read(1)[0])
        assert 1 in kinds, f'only security types {list(kinds)}'
        self.s.write(b'\x01')
        assert self.s.read(4) == b'\0\0\0\0', 'refused'
        self.s.write(bytes([shared]))
        self.width, self.height = struct.unpack('>HH', self.s.read(4))
        self.s.read(16)
        self.name = self.s.read(struct.unpack('>I', self.s.read(4))[0]).decode()

    def picture(self):
        """Red, green and blue of each pixel, by lines."""
        self.s.write(struct.pack('>BxxxBBBBHHHBBBxxx', 0, 32, 24, 0, 1, 255, 255, 255, 0, 8, 16))
        self.s.write(struct.pack('>BxHi', 2, 1, 0))         # raw pixels
        self.s.write(struct.pack('>BBHHHH', 3, 0, 0, 0, self.width, self.height))
        rgb = bytearray(3 * self.width * self.height)
        left = self.width * self.height
        while left > 0:
            kind, rectangles = struct.unpack('>BxH', self.s.read(4))
            assert kind == 0, f'message {kind}'
            for _ in range(rectangles):
                left -= self.rectangle(rgb)
        return bytes(rgb)

    def rectangle(self, rgb):
        x, y, w, h, encoding = struct.unpack('>HHHHi', self.s.read(12))
        assert encoding == 0, f'encoding {encoding}'
        for row in range(h):
            line = self.s.read(4 * w)
            at = 3 * ((y + row) * self.width + x)
            for c in range(3):
                rgb[at + c:at + 3 * w:3] = line[c::4]
        return w * h

    def key(self, symbol):
        for down in (1, 0):
            self.s.write(struct.pack('>BBxxI', 4, down, symbol))


class Door:
    """A TCP port on the loopback behind which a console is, for programs that know nothing of /console."""

    def __init__(self, d, path):
        self.d, self.path = d, path
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            console = Stream(self.d, self.path).s
            console.settimeout(None)
            for ends in ((client, console), (console, client)):
                threading.Thread(target=self.copy, args=ends, daemon=True).start()

    @staticmethod
    def copy(come, go):
        try:
            while data := come.recv(65536):
                go.sendall(data)
            go.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def jpeg_pixels(jpeg):
    """(width, height, red green and blue of each pixel) of a JPEG, by djpeg."""
    ppm = subprocess.run(['djpeg', '-ppm'], input=jpeg, stdout=subprocess.PIPE, check=True).stdout
    kind, size, most, pixels = ppm.split(b'\n', 3)
    width, height = (int(n) for n in size.split())
    assert kind == b'P6' and most == b'255', (kind, most)
    assert len(pixels) == 3 * width * height
    return width, height, pixels


def cells(width, pixels, row, columns=80, across=9, down=16):
    """Which cells of a line of text have something in them, as the text screen of a PC draws them."""
    lit = []
    for column in range(columns):
        most = 0
        for y in range(row * down, row * down + down):
            at = 3 * (y * width + column * across)
            most = max(most, max(pixels[at:at + 3 * across]))
        lit.append(most > 100)
    return lit
