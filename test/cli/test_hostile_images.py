#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Images that lie: each is refused for what is wrong with it, the disk is as it was, and nothing that an image
names is ever opened."""
import hashlib, http.client, os, re, shutil, socket, struct, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

MIB = 1 << 20
SIZE = 4 * MIB                  # of the disk that is written
SECRET = 'stillframe-secret'    # part of every name that an image gives


def be(bytes_, value):
    return (value % (1 << 8 * bytes_)).to_bytes(bytes_, 'big')


def patched(image, *patches):
    b = bytearray(image)
    for at, data in patches:
        b[at:at + len(data)] = data
    return bytes(b)


def qemu_img(d, driver, *options, size=SIZE):
    raw, out = os.path.join(d.state, 'raw'), os.path.join(d.state, 'image')
    with open(raw, 'wb') as f:
        f.write(b'data' * 50000)
        f.truncate(size)
    subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', driver, *options, raw, out], check=True)
    with open(out, 'rb') as f:
        return f.read()


# ---- qcow2 ----

def backing(name):
    """The name behind the header, where nothing else is."""
    return (8, be(8, 0x400)), (16, be(4, len(name))), (0x400, name.encode())


def extension(kind, data):
    """The first of the header's extensions."""
    return ((112, be(4, kind) + be(4, len(data)) + data.encode() + bytes(-len(data) % 8 + 8)),)


ALONE, PLACE = 1 << 63, (1 << 56) - 512


def entry(q, at):
    return int.from_bytes(q[at:at + 8], 'big')


def table_cases(q):
    """Tables that point astray, in an image whose header is sound."""
    refcounts, l1 = entry(q, 48), entry(q, 40)
    l2 = entry(q, l1) & PLACE
    data = entry(q, l2) & PLACE
    behind = len(q) + 0xffff & ~0xffff
    for at, value, says in (
            (l1, ALONE | 0x123 << 9, 'L1 table has an entry'), (l1, ALONE | behind, 'cut off'),
            (l1, ALONE | PLACE & ~0xffff, 'cut off'), (l1, ALONE | l1, 'two of its parts'),
            (l1, ALONE | refcounts, 'two of its parts'), (l1, ALONE | l2 | 1, 'L1 table has an entry'),
            (l2, ALONE | 0x123 << 9, 'L2 table has an entry'), (l2, ALONE | behind, 'cut off'),
            (l2, ALONE | PLACE & ~0xffff, 'cut off'), (l2, ALONE | l2, 'two of its parts'),
            (l2 + 8, ALONE | data, 'two of its parts'), (l2 + 504, ALONE | data, 'two of its parts'),
            (l2, ALONE | data | 2, 'L2 table has an entry'), (l2, 1 << 62 | behind, 'cut off'),
            (l2, (1 << 63) - 1, 'cut off'), (refcounts, 0x123 << 9, 'refcount table has an entry'),
            (refcounts, behind, 'cut off'), (refcounts + 8, entry(q, refcounts), 'two of its parts')):
        yield f'entry {value:x} at {at}', patched(q, (at, be(8, value))), says
    for n in (1, 512, 65536, 131072):
        yield f'{n} bytes less', q[:-n], 'cut off'


def qcow2_cases(d, outside):
    q = qemu_img(d, 'qcow2')
    assert q[100:104] == be(4, 112) and len(q) < MIB
    for name in (f'{outside}/{SECRET}', SECRET, f'../{SECRET}', f'file:{SECRET}', f'nbd://127.0.0.1:1/{SECRET}',
                 f'http://127.0.0.1:1/{SECRET}', f'rbd:pool/{SECRET}',
                 'json:{"driver":"raw","file":{"driver":"file","filename":"%s/%s"}}' % (outside, SECRET)):
        yield f'backing {name}', patched(q, *backing(name)), name
    yield 'backing at 2^63', patched(q, (8, be(8, 1 << 63)), (16, be(4, 10))), 'backing file'
    yield 'backing of 64 KiB', patched(q, (8, be(8, 0x400)), (16, be(4, 65536))), 'backing file'
    for name in (f'{outside}/{SECRET}', 'json:{"driver":"file","filename":"%s/%s"}' % (outside, SECRET)):
        yield 'data file', patched(q, (72, be(8, 4)), *extension(0x44415441, name)), 'in another file'
        yield 'data file by name only', patched(q, *extension(0x44415441, name)), 'names a data file'
    for at, n, value, says in (
            (0, 4, 0x514649fc, '0x514649fc'), (4, 4, 1, 'version 1'), (4, 4, 4, 'version 4'),
            (20, 4, 8, 'cluster_bits 8'), (20, 4, 22, 'cluster_bits 22'), (20, 4, 0xffffffff, 'cluster_bits 4294967295'),
            (24, 8, 0, 'disk of 0 bytes'), (24, 8, 1 << 63, 'disk of 9223372036854775808 bytes'),
            (24, 8, (64 << 40) + 512, 'disk size is out of range'), (24, 8, 32 << 50, 'disk of 36028797018963968'),
            (24, 8, (1 << 64) - 1, 'disk of 18446744073709551615'), (24, 8, SIZE + 1, f'VDI_TOO_SMALL'),
            (32, 4, 1, 'encryption 1'), (32, 4, 2, 'encryption 2'),
            (36, 4, 0, 'L1 table of 0 entries'), (36, 4, 0xffffffff, 'L1 table of 4294967295 entries'),
            (40, 8, 1 << 40, 'at 1099511627776'), (40, 8, 8, 'L1 table'), (40, 8, 0x10000, 'overlap'),
            (48, 8, 1 << 62, 'at 4611686018427387904'), (56, 4, 0, 'refcount table of 0 clusters'),
            (56, 4, 0xffffffff, 'refcount table of 4294967295'), (60, 4, 65536, '65536 internal snapshots'),
            (60, 4, 1, 'snapshot table'), (72, 8, 2, 'marked as corrupt'), (72, 8, 0x20, 'features 0x20'),
            (72, 8, 1 << 63, 'features 0x8000000000000000'), (96, 4, 7, 'refcounts'), (100, 4, 105, 'header is wrong'),
            (100, 4, 1 << 31, 'header'), (104, 1, 7, 'compression'), (104, 1, 1, 'compression')):
        yield f'{at}: {value:x}', patched(q, (at, be(n, value))), says
    yield 'LUKS', patched(q, *extension(0x0537be77, 'x' * 16)), 'encrypted'
    yield 'an endless extension', patched(q, (112, be(4, 77) + be(4, 0xffffffff))), 'longer than the header'
    for n in range(512, 4097, 512):
        yield f'cut off at {n}', q[:n], 'IMPORT_ERROR'
    yield from table_cases(q)
    path = os.path.join(d.state, 'image')
    subprocess.run(['qemu-img', 'snapshot', '-c', f'../{SECRET}', path], check=True)
    with open(path, 'rb') as f:
        yield 'an internal snapshot', f.read(), '1 internal snapshots'
    for magic in (b'KDMV', b'QED\0', b'LUKS\xba\xbe', b'<<< Oracle VM', b'conectix', b'vhdxfile', b'\x7fELF'):
        yield magic.decode(errors='replace'), magic + bytes(4096), 'no qcow2 image'
    yield 'garbage', os.urandom(100000), 'IMPORT_ERROR'
    for magic, says in ((b'conectix', 'say format=vhd'), (b'KDMV', 'VMDK'), (b'\x1f\x8b\x08', 'gzip')):
        yield says, magic + bytes(4096), says
    yield 'one byte', b'Q', 'too short'
    yield 'much behind a small disk', q + os.urandom(100 * MIB), 'it has more than'


# ---- VHD ----

def summed(part, at):
    """With the checksum that belongs to it."""
    part = patched(part, (at, bytes(4)))
    return patched(part, (at, be(4, ~sum(part))))


def vhd_of(image):
    """The parts of a dynamic one by QEMU: footer, header, table, blocks."""
    return image[:512], image[512:1536], image[1536:2048], image[2048:-512]


def vhd(footer, header, table, blocks, sums=True):
    if sums:
        footer, header = summed(footer, 64), summed(header, 36)
    return footer + header + table + blocks + footer


def vhd_cases(d, outside):
    image = qemu_img(d, 'vpc', '-o', 'force_size=on', size=SIZE)
    f, h, t, b = vhd_of(image)
    assert vhd(f, h, t, b) == image, 'QEMU lays them out in another way now'

    def footer(*p):
        return vhd(patched(f, *p), h, t, b)

    def header(*p):
        return vhd(f, patched(h, *p), t, b)

    def table(*entries):
        return vhd(f, h, b''.join(be(4, e) for e in entries) + t[4 * len(entries):], b)

    yield 'differencing', footer((60, be(4, 4))), 'differencing'
    for value in (0, 1, 5, 0xffffffff):
        yield f'type {value}', footer((60, be(4, value))), f'type is {value}'
    for value in (0, 513, 1 << 63, (1 << 64) - 1, (2040 << 30) + 512):
        yield f'size {value}', footer((48, be(8, value))), f'disk size of {value} bytes'
    yield 'a larger disk', footer((48, be(8, SIZE + 512))), 'VDI_TOO_SMALL'
    yield 'footer checksum', vhd(patched(f, (64, b'abcd')), h, t, b, sums=False), 'checksum 0x61626364 of its footer'
    yield 'header checksum', vhd(f, patched(h, (36, b'abcd')), t, b, sums=False), 'checksum 0x61626364 of its header'
    yield 'version', footer((12, be(4, 0x20000))), '0x00020000'
    for value in (0, 511, 1 << 62, (1 << 64) - 1):
        yield f'header at {value}', footer((16, be(8, value))), f'{value}'
    yield 'header in the data', footer((16, be(8, 4096))), 'no header at 4096'
    yield 'header cookie', header((0, b'nonsense')), 'no header at 512'
    yield 'header version', header((24, be(4, 0x20000))), '0x00020000'
    for value in (0, 512, 3000000, 1 << 31, 0xffffffff):
        yield f'block {value}', header((32, be(4, value))), f'block size of {value}'
    for value in (0, 1, 0xffffffff):
        yield f'{value} entries', header((28, be(4, value))), f'table of {value} entries'
    for value in (0, 1 << 62, (1 << 64) - 1, 1 << 30):
        yield f'table at {value}', header((16, be(8, value))), f'{value}'
    yield 'table over header', header((16, be(8, 1024))), 'overlaps'
    for i in (0, 7):
        yield f'locator {i}', header((576 + 24 * i, b'W2ku')), f'parent in another file (locator {i}, W2ku)'
    yield 'parent name', header((64, f'{outside}/{SECRET}'.encode('utf-16-be'))), 'parent in another file'
    yield 'block behind the end', table(0x7fffffff), 'block 0 is said to be at 1099511627264'
    yield 'block at 2 TiB', table(0xfffffffe), 'block 0'
    yield 'block over footer', table(0), 'block 0 at 0 overlaps'
    yield 'block over header', table(2), 'block 0 at 1024 overlaps'
    yield 'two in one place', table(4, 4), 'overlap'
    yield 'blocks overlap', vhd(f, h, be(4, 4) + be(4, 5) + t[8:], b + bytes(4 * MIB)), 'blocks 0 and 1 overlap'
    for n in range(512, 4097, 512):
        yield f'cut off at {n}', image[:n], 'IMPORT_ERROR'
    for n in (1, 511, 512, 513, MIB):
        yield f'{n} bytes less', image[:-n], 'file\'s end'
    for n in (1, 511):              # the table is whole, and has no block
        yield f'an empty one, {n} bytes less', vhd(f, h, t.replace(t[:4], b'\xff' * 4), b'')[:-n], 'reaches to the file'
    yield 'only the footer at the end is good', patched(image, (0, b'C')), 'at its beginning, is damaged'
    yield 'qcow2', b'QFI\xfb' + bytes(4096), 'say format=qcow2'
    yield 'garbage', os.urandom(100000), 'no VHD image'
    yield 'one byte', b'c', 'IMPORT_ERROR'
    fixed = qemu_img(d, 'vpc', '-o', 'subformat=fixed,force_size=on', size=SIZE)
    yield 'a fixed one cut off', fixed[MIB:], f'disk of {SIZE} bytes in a file of {SIZE - MIB + 512}'
    yield 'a fixed one without its end', fixed[:-1], 'no VHD image'


# ---- the test ----

def send(d, words, image, known=True):
    """The answer's text; known: its length is announced."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.path.join(d.state, 'xapi.sock'))
    length = f'Content-Length: {len(image)}\r\n' if known else ''
    s.sendall(f'PUT /import_raw_vdi?{words} HTTP/1.0\r\n{length}\r\n'.encode())
    try:
        s.sendall(image)
        s.shutdown(socket.SHUT_WR)
    except OSError:
        pass                            # it has seen enough
    got = b''
    try:
        while piece := s.recv(65536):
            got += piece
    except OSError:
        pass
    s.close()
    return got.decode(errors='replace').split('\r\n\r\n', 1)[1]


def digest(d):
    """Of all that is in the SR."""
    folder, h = os.path.join(d.state, 'sr'), hashlib.sha256()
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), 'rb') as f:
            h.update(name.encode() + f.read())
    return h.digest()


def opened_elsewhere(trace):
    """Lines of the trace that show a file opened, or a place connected to, that no image is a reason for."""
    known = re.compile(r'"(/proc/|/sys/|/dev/(null|urandom|zero)|/lib|/usr/|/etc/(ld\.so|ssl/|gnutls|localtime|nsswitch|'
                       r'passwd|group|qemu|iproute2|resolv\.conf)|/tmp/stillframe-|/tmp"|/var/tmp|\.{0,1}"|[0-9a-f]{24}\.|\.[a-z-]+\.new|sr-uuid|$)|AF_UNIX|ENOENT')
    with open(trace, errors='replace') as f:
        return [line for line in f if SECRET in line or
                (re.search(r'open|connect', line) and '"' in line and not known.search(line)) or 'AF_INET' in line]


def refused(d, form, cases):
    disk = d.vdi(SIZE)
    with open(os.path.join(d.state, 'x'), 'wb') as f:
        f.write(b'before' * 1000)
    d.xe('vdi-import', uuid=disk, filename=f.name)
    before, n = digest(d), 0
    for name, image, says in cases:
        for known in (True, False):
            answer = send(d, f'vdi={disk}&format={form}', image, known)
            assert answer.startswith('Error: ') and (says in answer or not known), f'{form}, {name}: {answer}'
            assert 'The disk is as it was.' in answer, f'{form}, {name}: {answer}'
        if says == 'VDI_TOO_SMALL':
            continue                    # a new disk is made to fit
        answer = send(d, f'sr_id={d.sr()}&format={form}', image)
        assert answer.startswith('Error: ') and 'IMPORT_ERROR' in answer, f'{form}, {name}, new: {answer}'
        n += 1
    assert digest(d) == before, f'{form}: the SR has changed'
    print(f'  {form}: {n} images')
    d.check()


def test_refused():
    trace = shutil.which('strace') if SLOW == 1 else None       # sanitizers do not work under it
    with Daemon('fake', start=False) as d:
        outside, log = os.path.join(d.state, 'outside'), os.path.join(d.state, 'trace')
        os.mkdir(outside)
        with open(os.path.join(outside, SECRET), 'w') as f:
            f.write('a secret' * 1000)
        if trace:
            d.under = [trace, '-D', '-f', '-qq', '-e', 'trace=open,openat,openat2,connect', '-o', log]
        else:
            print('  no strace here, or a sanitizer: what is opened is not looked at')
        d.start()
        refused(d, 'qcow2', qcow2_cases(d, outside))
        refused(d, 'vhd', vhd_cases(d, outside))
        d.stop()
        time.sleep(0.5 if trace else 0)         # until strace has written its last lines
        found = opened_elsewhere(log) if trace else []
        assert not found, f'{len(found)} lines: ' + ''.join(found[:20])


def test_lies_that_are_found_later():
    """What only who unpacks them, or waits for their end, can see: an error, and no more than the disk is written."""
    with Daemon('fake') as d:
        q = qemu_img(d, 'qcow2', '-c')
        l2 = entry(q, entry(q, 40)) & PLACE
        assert q[l2] & 0x40, 'not compressed'
        f, h, t, b = vhd_of(qemu_img(d, 'vpc', '-o', 'force_size=on'))
        footer = summed(patched(f, (70, b'other')), 64)
        disk = d.vdi(SIZE)
        for form, image, says in (
                ('qcow2', patched(q, (entry(q, l2) & (1 << 54) - 1, b'\xff' * 50)), 'the image cannot be read'),
                ('vhd', f + h + t + b + footer, 'footer at its end is that of another image'),
                ('vhd', f + h + t + b + bytes(512), 'footer at its end is not what is at its beginning')):
            answer = send(d, f'vdi={disk}&format={form}', image)
            assert '[IMPORT_ERROR]' in answer and says in answer, answer
            assert 'content is undefined' in answer
            before = d.volumes()
            send(d, f'sr_id={d.sr()}&format={form}', image)
            assert d.volumes() == before
        # Of a length that nobody said, a VHD's end is there to be looked at.
        for end in (footer, bytes(512)):
            answer = send(d, f'vdi={disk}&format=vhd', f + h + t + b + end, known=False)
            assert 'footer at its end' in answer and 'as it was' in answer, answer
        d.check()


def test_64_tib():
    """One table of 64 KiB for each 512 MiB of it would be read 131072 times."""
    with Daemon('fake') as d:
        q = qemu_img(d, 'qcow2')
        entries, l2 = 131072, entry(q, entry(q, 40)) & PLACE
        q += bytes(-len(q) % 65536)
        header = (24, be(8, 64 << 40)), (36, be(4, entries)), (40, be(8, len(q)))
        begin, before = time.time(), d.volumes()
        answer = send(d, f'sr_id={d.sr()}&format=qcow2', patched(q, *header) + be(8, ALONE | l2) * entries)
        assert 'two of its parts' in answer and time.time() - begin < 5 * SLOW, answer
        assert d.volumes() == before
        d.check()


def users_of_readers(d):
    """Of the daemon's children that have an image from outside open."""
    found = set()
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            with open(f'/proc/{pid}/cmdline', 'rb') as f, open(f'/proc/{pid}/status') as g:
                if f.read().startswith(b'qemu-storage-daemon') and os.readlink(f'/proc/{pid}/fd/0').startswith(d.state):
                    found.add(int(re.search(r'Uid:\t(\d+)', g.read())[1]))
        except OSError:
            pass
    return found


def test_one_cluster_for_all():
    """A compressed cluster of a few hundred bytes, in each place of the disk."""
    with Daemon('fake') as d:
        size = 256 * MIB
        raw = os.path.join(d.state, 'raw')
        q = qemu_img(d, 'qcow2', '-c', size=size)
        l1 = int.from_bytes(q[40:48], 'big')
        l2 = int.from_bytes(q[l1:l1 + 8], 'big') & ((1 << 56) - 512)
        assert q[l2] & 0x40, 'not compressed'
        q = patched(q, (l2, q[l2:l2 + 8] * (size >> 16)))
        disk = d.vdi(size)
        begin = time.time()
        image = os.path.join(d.state, 'bomb')
        with open(image, 'wb') as f:
            f.write(q)
        p = d.begin('vdi-import', f'uuid={disk}', f'filename={image}', 'format=qcow2')
        readers = set()
        while p.poll() is None:
            readers |= users_of_readers(d)
            time.sleep(0.02)
        assert p.returncode == 0
        took = time.time() - begin
        assert readers == {65534 if os.getuid() == 0 else os.getuid()}, f'the image is read by {readers}'
        path = os.path.join(d.state, 'sr', d.get('vdi', disk, 'location') + '.qcow2')
        room = os.stat(path).st_blocks * 512
        assert size <= room < size + 2 * MIB, room
        print(f'  {len(q) >> 10} KiB became {room >> 20} MiB in {took:.1f} s')
        d.check()


def test_a_raw_disk_is_never_looked_into():
    """What a guest, or an image, writes to the beginning of a disk is data."""
    with Daemon('fake') as d:
        q = patched(qemu_img(d, 'qcow2'), *backing(f'/etc/{SECRET}'))
        disk = d.vdi(SIZE)
        assert send(d, f'vdi={disk}&format=raw', q) == ''
        out = os.path.join(d.state, 'out')
        for command in ('vdi-snapshot', 'vdi-copy', 'vdi-clone'):
            made = d.xe(command, uuid=disk)
            d.xe('vdi-export', uuid=made, filename=out)
            with open(out, 'rb') as f:
                assert f.read() == q + bytes(SIZE - len(q))
            os.unlink(out)
        d.check()


main(globals())
