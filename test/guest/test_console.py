#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What people see of a guest: its screen by RFB, plain and in a WebSocket, as a picture and with a
VNC viewer; and its serial port."""
import contextlib, os, shutil, signal, socket, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from consoles import *
from rpc import Served

PATTERN = '# ## ###  # #### #  ## # #   ####  # ## #'


def need(*programs):
    for p in programs:
        if not shutil.which(p):
            raise Skip(f'{p} is not installed (tools/setup check)')


def console(d, vm, protocol):
    return '/console?uuid=' + d.list('console', vm_uuid=vm, protocol=protocol)[0]


def draw(s):
    """The pattern in the second line of an empty text screen, without a cursor."""
    s.ask(rf"shell printf '\033[2J\033[?25l\033[2;1H{PATTERN}' >/dev/tty1")


def shows(width, pixels):
    want = [c == '#' for c in PATTERN.ljust(80)]
    return cells(width, pixels, 1) == want and not any(cells(width, pixels, 0) + cells(width, pixels, 2))


def check_shows(width, height, pixels):
    assert (width, height) == (720, 400), (width, height)
    assert shows(width, pixels), 'the picture does not show what the guest drew'


def hear(s, said, answer):
    """Until the guest has answered."""
    s.write(said)
    heard = b''
    while answer not in heard:
        got = s.read(1)
        assert got, f'not {answer}, but {heard}'
        heard += got


def refused(d, path):
    """For as long as another uses it, or the VM does not run."""
    try:
        Stream(d, path)
    except Refused as e:
        assert e.status == 409, e
    else:
        assert False, 'let in'


def wait_free(d, path):
    end = time.time() + 10 * SLOW
    while True:
        try:
            return Stream(d, path).s.close()
        except Refused:
            assert time.time() < end, 'the port stays taken'
            time.sleep(0.05)


def snapshot(d, vm, **kw):
    with Stream(d, f'/vncsnapshot?uuid={vm}', method='GET', **kw) as s:
        assert 'Content-Type: image/jpeg\r\n' in s.head, s.head
        return s.rest()


@contextlib.contextmanager
def drawn(**how):
    with golden('screen', **how) as (d, vm, s):
        draw(s)
        s.close()       # one client at a time
        yield d, vm


def test_the_screen_for_any_number_of_viewers():
    with drawn() as (d, vm):
        with Stream(d, console(d, vm, 'rfb')) as one, Stream(d, f'/console?uuid={vm}', method='GET') as two, \
                WebSocket(d, console(d, vm, 'rfb'), fragments=3) as three:
            for stream in (one, two, three):
                screen = Rfb(stream)
                check_shows(screen.width, screen.height, screen.picture())
            # One that does not read holds up nobody, the guest least of all.
            stuck = Stream(d, console(d, vm, 'rfb'))
            Rfb(stuck)
            for _ in range(100):
                stuck.write(struct.pack('>BBHHHH', 3, 0, 0, 0, 720, 400))
            check_shows(720, 400, Rfb(Stream(d, console(d, vm, 'rfb')), shared=False).picture())
            with Stream(d, console(d, vm, 'vt100')) as serial:
                hear(serial, b'ping\n', b'OK ping')
            d.snapshot(vm)
            stuck.s.close()
            # The frames that are no data.
            three.frame(9, b'are you there?')
            three.next()
            assert three.control == [(10, b'are you there?')], three.control
            three.frame(8, struct.pack('>H', 1000))
            three.read(1 << 30)     # to the end
            assert three.control[1:] == [(8, struct.pack('>H', 1000))], three.control
        with Stream(d, console(d, vm, 'rfb')) as s:
            screen = Rfb(s)
            d.xe('vm-pause', uuid=vm)
            check_shows(screen.width, screen.height, screen.picture())
            d.xe('vm-shutdown', '--force', uuid=vm)
            s.rest()        # it ends


def test_over_tcp():
    with drawn(kind=Served) as (d, vm):
        tcp = ('127.0.0.1', d.port, d.accounts['root'])
        for client in (Stream, WebSocket):
            with client(d, console(d, vm, 'rfb'), tcp) as s:
                screen = Rfb(s)
                check_shows(screen.width, screen.height, screen.picture())
        assert snapshot(d, vm, tcp=tcp).startswith(b'\xff\xd8\xff')


def test_snapshot():
    need('djpeg')
    with drawn() as (d, vm):
        check_shows(*jpeg_pixels(snapshot(d, vm)))
        d.xe('vm-pause', uuid=vm)
        check_shows(*jpeg_pixels(snapshot(d, vm)))


def test_a_viewer():
    """Debian's vncsnapshot, a viewer that nobody has to look at."""
    need('vncsnapshot', 'djpeg')
    with drawn() as (d, vm):
        picture = os.path.join(d.state, 'picture.jpg')
        with Door(d, console(d, vm, 'rfb')) as door:
            p = subprocess.run(['vncsnapshot', '-quiet', '-quality', '100', f'127.0.0.1:{door.port - 5900}', picture],
                               capture_output=True, timeout=60 * SLOW, stdin=subprocess.DEVNULL)
            assert p.returncode == 0, p.stderr.decode()
        with open(picture, 'rb') as f:
            check_shows(*jpeg_pixels(f.read()))


def test_keys_reach_the_guest():
    with drawn() as (d, vm):
        with Stream(d, console(d, vm, 'rfb')) as s:
            screen = Rfb(s)
            screen.picture()
            with Stream(d, console(d, vm, 'vt100')) as serial:
                serial.write(b'shell timeout 20 head -n 1 /dev/tty1\n')
                time.sleep(2 * SLOW)
                for key in b'hello\r':
                    screen.key(0xff0d if key == 13 else key)
                hear(serial, b'', b'OK shell hello')


def test_the_serial_port():
    with golden() as (d, vm, s):
        s.close()
        path = console(d, vm, 'vt100')
        for client in (Stream, WebSocket):
            with client(d, path) as s:
                hear(s, b'ping\n', b'OK ping')
                refused(d, path)
            wait_free(d, path)
        assert ping_by_xe_console(d, vm, 20 * SLOW) == 0


def test_they_go_when_qemu_is_killed():
    with Daemon() as d:
        vm = guest_vm(d, disks=1)
        assert sorted(d.get('console', c, 'protocol') for c in d.list('console')) == ['rfb', 'vt100']
        with Stream(d, console(d, vm, 'rfb')) as screen, Stream(d, console(d, vm, 'vt100')) as serial:
            Rfb(screen)
            os.kill(d.guests()[vm], signal.SIGKILL)
            screen.rest()
            serial.rest()
        d.wait_state(vm, 'halted', 5)
        assert d.list('console') == []
        refused(d, f'/console?uuid={vm}')
        d.check()


main(globals())
