#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Disks in and out as raw, qcow2 and VHD images, against qemu-img's judgement."""
import base64, http.client, json, os, shutil, signal, socket, struct, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

MIB = 1 << 20
GIB = 1 << 30
DRIVER = {'raw': 'raw', 'qcow2': 'qcow2', 'vhd': 'vpc'}       # what qemu-img calls them


def tool(*words):
    p = subprocess.run(words, capture_output=True)
    assert p.returncode == 0, f'{words}: {p.returncode} {p.stdout[-500:]} {p.stderr[-500:]}'
    return p.stdout


def write_raw(path, size, spots):
    """A sparse file with some text at each of the spots; the same text nowhere else."""
    with open(path, 'wb') as f:
        for at, n in spots:
            f.seek(at)
            f.write((f'at {at}. '.encode() * (n // 4 + 1))[:n])
        f.truncate(size)
    return path


def room(path):
    return os.stat(path).st_blocks * 512


def image_size(path, form):
    return json.loads(tool('qemu-img', 'info', '-f', DRIVER[form], '--output=json', path))['virtual-size']


def same(a, a_form, b, b_form):
    tool('qemu-img', 'compare', '-q', '-f', DRIVER[a_form], '-F', DRIVER[b_form], a, b)


def export(d, disk, form, name='out'):
    path = os.path.join(d.state, f'{name}.{form}')
    if os.path.exists(path):
        os.unlink(path)
    d.xe('vdi-export', uuid=disk, filename=path, format=form)
    return path


def sound(d, disk, form, reference, size):
    """The disk as such an image is one that qemu-img finds in order, and shows what the reference does."""
    path = export(d, disk, form)
    if form == 'qcow2':
        tool('qemu-img', 'check', '-q', '-f', 'qcow2', path)
    assert image_size(path, form) == size, f'{form}: {image_size(path, form)}, not {size}'
    same(reference, 'raw', path, form)
    return path


def volume(d, disk):
    return os.path.join(d.state, 'sr', d.get('vdi', disk, 'location') + '.qcow2')


def put(d, disk, path, form='raw'):
    d.xe('vdi-import', uuid=disk, filename=path, format=form)


def test_out_in_each_format():
    for size, spots in ((MIB, ()), (MIB, ((65536, 65536),)), (512, ((0, 512),)),
                        (5 * MIB + 512, ((0, 100), (3 * MIB - 7, 70000), (5 * MIB, 512))),
                        (600 * MIB, ((0, 4096), (512 * MIB - 100, 200), (600 * MIB - 512, 512)))):
        with in_common() as d:
            disk = d.vdi(size)
            raw = write_raw(os.path.join(d.state, 'ref'), size, spots)
            put(d, disk, raw)
            for form in DRIVER:
                path = sound(d, disk, form, raw, size)
                back = d.vdi(size)
                put(d, back, path, form)                # and in again
                same(raw, 'raw', export(d, back, 'raw', 'back'), 'raw')
                tool('qemu-img', 'check', '-q', '-f', 'qcow2', volume(d, back))
            d.check()


def test_layers_and_snapshots():
    with in_common() as d:
        size = 64 * MIB
        disk = d.vdi(size)
        first = write_raw(os.path.join(d.state, 'first'), size, ((0, MIB), (10 * MIB, 300000)))
        second = write_raw(os.path.join(d.state, 'second'), size, ((0, 10), (40 * MIB + 5, 300000)))
        put(d, disk, first)
        snap = d.xe('vdi-snapshot', uuid=disk)
        put(d, disk, second)
        d.xe('vdi-snapshot', uuid=disk)
        for form in DRIVER:
            sound(d, disk, form, second, size)
            sound(d, snap, form, first, size)
        # Over a layer: what the image has as a hole hides what is below.
        over = export(d, snap, 'qcow2', 'over')
        clone = d.xe('vdi-clone', uuid=disk)
        put(d, clone, over, 'qcow2')
        same(first, 'raw', export(d, clone, 'raw'), 'raw')
        same(second, 'raw', export(d, disk, 'raw'), 'raw')
        # A disk that is larger keeps what it has behind the image's end.
        large = d.vdi(2 * size)
        behind = write_raw(os.path.join(d.state, 'behind'), 2 * size, ((5 * MIB, 100), (2 * size - 512, 512)))
        put(d, large, behind)
        for form in ('qcow2', 'vhd'):
            put(d, large, export(d, snap, form), form)
            with open(export(d, large, 'raw'), 'rb') as f:
                content = f.read()
            with open(first, 'rb') as f:
                assert content[:size] == f.read()
            assert content[2 * size - 512:].startswith(b'at ')
        d.check()


def test_raw_volumes():
    """A volume in no format goes out and comes in as any other."""
    with in_common() as d:
        size = 8 * MIB
        new = lambda: d.xe('vdi-create', 'sm-config:type=raw', sr_uuid=d.sr(), name_label='raw', virtual_size=size)
        disk = new()
        raw = write_raw(os.path.join(d.state, 'ref'), size, ((0, 5000), (4 * MIB - 3, 300000)))
        put(d, disk, raw)
        for form in DRIVER:
            path, back = sound(d, disk, form, raw, size), new()
            put(d, back, path, form)
            same(raw, 'raw', export(d, back, 'raw', 'back'), 'raw')
            file = os.path.join(d.state, 'sr', d.get('vdi', back, 'location') + '.raw')
            assert room(file) < MIB, f'{form}: {room(file)}'
        d.check()


def test_sparse_stays_sparse():
    """10 GiB with a few MiB: little is written, and little is sent."""
    with in_common() as d:
        size = 10 * GIB
        disk = d.vdi(size)
        spots = [(i * GIB + 12345, 300000) for i in range(10)]
        raw = write_raw(os.path.join(d.state, 'ref'), size, spots)
        put(d, disk, raw)
        assert room(volume(d, disk)) < 10 * MIB, room(volume(d, disk))
        for form, most in (('raw', 8), ('qcow2', 8), ('vhd', 30)):
            begin = time.time()
            path = export(d, disk, form)
            took = time.time() - begin
            assert room(path) < most * MIB, f'{form} takes {room(path)}'
            if form == 'raw':
                continue                # that is how it came
            assert os.path.getsize(path) < most * MIB, f'{form} has {os.path.getsize(path)}'
            back = d.vdi(size)
            begin = time.time()
            put(d, back, path, form)
            print(f'  {form}: {os.path.getsize(path) >> 10} KiB, in {room(path) >> 10}; out {took:.2f} s, '
                  f'in {time.time() - begin:.2f} s; the volume {room(volume(d, back)) >> 10} KiB')
            assert room(volume(d, back)) < most * MIB
            same(raw, 'raw', volume(d, back), 'qcow2')
            # Over what is there already, what is zero gives its room back.
            empty = write_raw(os.path.join(d.state, 'empty'), size, ())
            tool('qemu-img', 'convert', '-f', 'raw', '-O', DRIVER[form], *(('-o', 'force_size=on') if form == 'vhd' else ()),
                 empty, path)
            put(d, back, path, form)
            assert room(volume(d, back)) < 2 * MIB, room(volume(d, back))
            d.xe('vdi-destroy', uuid=back)


def made(d, raw, driver, *options, name='made'):
    path = os.path.join(d.state, name)
    words = [w for o in options for w in (('-c',) if o == 'compressed' else ('-o', o))]
    tool('qemu-img', 'convert', '-f', 'raw', '-O', driver, *words, raw, path)
    return path


def taken(d, raw, size, path, form):
    disk = d.vdi(size)
    put(d, disk, path, form)
    same(raw, 'raw', export(d, disk, 'raw'), 'raw')
    d.xe('vdi-destroy', uuid=disk)


def test_what_qemu_img_makes():
    with in_common() as d:
        size = 20 * MIB
        raw = write_raw(os.path.join(d.state, 'ref'), size, ((0, 70000), (7 * MIB + 11, 3 * MIB), (size - 9, 9)))
        for options in (('compat=0.10',), ('compat=1.1',), ('compressed',), ('compressed', 'compat=0.10'),
                        ('compressed', 'compression_type=zstd'), ('extended_l2=on',), ('lazy_refcounts=on',),
                        ('refcount_bits=1',), ('refcount_bits=64',), ('cluster_size=512',), ('cluster_size=4k',),
                        ('cluster_size=2M',), ('compressed', 'cluster_size=2M'), ('preallocation=full',),
                        ('extended_l2=on', 'cluster_size=16k')):
            taken(d, raw, size, made(d, raw, 'qcow2', *options), 'qcow2')
        for options in (('subformat=dynamic',), ('subformat=dynamic', 'force_size=on'), ('subformat=fixed',),
                        ('subformat=fixed', 'force_size=on')):
            path = made(d, raw, 'vpc', *options)
            if 'force_size=on' in options:
                taken(d, raw, size, path, 'vhd')
                continue
            # Rounded up to a geometry: a disk that is as large as was meant is too small.
            disk = d.vdi(size)
            footer = open(path, 'rb').read()[-512:]
            real, = struct.unpack('>Q', footer[48:56])
            assert real > size
            err = d.fails('vdi-import', uuid=disk, filename=path, format='vhd', says='VDI_TOO_SMALL')
            assert str(real) in err and 'as it was' in err
            taken(d, raw, real, path, 'vhd')
        taken(d, raw, size, raw, 'raw')
        odd = write_raw(os.path.join(d.state, 'odd'), MIB + 1, ((MIB - 5, 6),))
        taken(d, odd, MIB + 512, odd, 'raw')
        # What is written bit by bit ends where the last bit does.
        for options, write in (((), 'write -c -P 7 0 64k'), (('-o', 'extended_l2=on'), 'write -P 7 100k 1k'),
                               (('-o', 'preallocation=metadata'), 'write -P 7 0 512')):
            part = os.path.join(d.state, 'part')
            tool('qemu-img', 'create', '-q', '-f', 'qcow2', *options, part, str(size))
            tool('qemu-io', '-f', 'qcow2', '-c', write, part)
            assert 'metadata' in str(options) or os.path.getsize(part) % 65536, options
            tool('qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', part, os.path.join(d.state, 'plain'))
            taken(d, os.path.join(d.state, 'plain'), size, part, 'qcow2')
        bitmaps = made(d, raw, 'qcow2')
        tool('qemu-img', 'bitmap', '--add', '-f', 'qcow2', bitmaps, 'b0')
        taken(d, raw, size, bitmaps, 'qcow2')
        d.check()


def test_pipes():
    """Of no known length: from one xe to another."""
    with in_common() as d:
        size = 3 * MIB
        raw = write_raw(os.path.join(d.state, 'ref'), size, ((100, 5000), (2 * MIB, MIB)))
        for form in DRIVER:
            there = d.vdi(size)
            image = made(d, raw, DRIVER[form], *(('force_size=on',) if form == 'vhd' else ()))
            with open(image, 'rb') as f:
                d.xe('vdi-import', uuid=there, filename='-', format=form, input=f.read())
            same(raw, 'raw', export(d, there, 'raw'), 'raw')


def ask(d, method, path, body=None, headers=None, chunks=None):
    """Over the local socket, as a client other than xe does: status, headers, body."""
    c = http.client.HTTPConnection('local')
    c.sock = socket.socket(socket.AF_UNIX)
    c.sock.connect(os.path.join(d.state, 'xapi.sock'))
    c.request(method, path, body, headers or {})
    answer = c.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


def test_http():
    with in_common() as d:
        size = 4 * MIB
        disk = d.vdi(size)
        raw = write_raw(os.path.join(d.state, 'ref'), size, ((0, 100), (MIB, 200000)))
        put(d, disk, raw)
        for form, kind in (('raw', 'application/octet-stream'), ('vhd', 'application/vhd'),
                           ('qcow2', 'application/x-qemu-disk')):
            status, head, body = ask(d, 'GET', f'/export_raw_vdi?vdi={disk}&format={form}')
            assert status == 200 and head['Content-Type'] == kind
            assert head['Content-Disposition'] == f'attachment; filename="{disk}.{form}"'
            assert int(head['Content-Length']) == len(body)
            # A client that counts has all of it: the disk is free.
            assert not d.sql("SELECT uuid FROM VDI WHERE current_operations LIKE '%copy%'")
            assert not d.sql("SELECT uuid FROM task WHERE status = 'pending'")
            # A new disk, as large as the image says.
            status, head, body = ask(d, 'PUT', f'/import_raw_vdi?sr_id={d.sr()}&format={form}', body)
            new = body.decode().strip()
            assert status == 200 and d.get('vdi', new, 'name-label') == 'Imported VDI', body
            assert d.get('vdi', new, 'virtual-size') == str(size)
            same(raw, 'raw', export(d, new, 'raw'), 'raw')
        tasks = d.sql("SELECT result FROM task WHERE name_label = 'VDI.import_raw' ORDER BY created")
        assert tasks[-1].startswith('<value>OpaqueRef:')
        for words, says in (('format=tar', b'value: tar'), ('format=', b'formats are'),
                            (f'format=qcow2&base={disk}', b'base')):
            status, _, body = ask(d, 'GET', f'/export_raw_vdi?vdi={disk}&{words}')
            assert status == 400 and says in body, body
            status, _, body = ask(d, 'PUT', f'/import_raw_vdi?vdi={disk}&{words}', b'x')
            assert status == 400 and says in body, body
        d.fails('vdi-export', uuid=disk, filename='x', format='vmdk', says='vmdk')
        large = d.vdi(2041 * GIB)
        status, _, body = ask(d, 'GET', f'/export_raw_vdi?vdi={large}&format=vhd')
        assert status == 400 and b'VDI_TOO_LARGE' in body and b'2190433320960' in body, body
        huge = d.vdi(64 << 40)
        path = export(d, huge, 'qcow2')
        assert image_size(path, 'qcow2') == 64 << 40 and os.path.getsize(path) < 2 * MIB
        tool('qemu-img', 'check', '-q', '-f', 'qcow2', path)
        put(d, huge, path, 'qcow2')
        d.check()


def test_chunks():
    """Pieces go where they say; what is in none stays."""
    def piece(at, data):
        return struct.pack('<qi', at, len(data)) + data
    with in_common() as d:
        disk = d.vdi(4 * MIB)
        put(d, disk, write_raw(os.path.join(d.state, 'ref'), 4 * MIB, ((0, 4 * MIB),)))
        with open(os.path.join(d.state, 'ref'), 'rb') as f:
            wanted = bytearray(f.read())
        body = b''
        for at, data in ((3 * MIB, b'last' * 1000), (MIB, bytes(MIB)), (4 * MIB - 1, b'!'), (0, b'x' * 77)):
            body += piece(at, data)
            wanted[at:at + len(data)] = data
        path = f'/import_raw_vdi?vdi={disk}&chunked=true'
        assert ask(d, 'PUT', path, body + piece(0, b''))[2] == b''
        with open(export(d, disk, 'raw'), 'rb') as f:
            assert f.read() == wanted
        for bad, says in ((body, b'the data ended'), (piece(4 * MIB, b'x'), b'VDI_TOO_SMALL'),
                          (struct.pack('<qi', -1, 5), b'IMPORT_ERROR'), (struct.pack('<qi', 0, -5), b'IMPORT_ERROR'),
                          (struct.pack('<qi', (1 << 63) - 1, 5), b'VDI_TOO_SMALL')):
            answer = ask(d, 'PUT', path, bad)[2]
            assert says in answer and b'content is undefined' in answer, answer
        assert ask(d, 'PUT', path + '&format=qcow2', body)[0] == 400
        assert ask(d, 'PUT', f'/import_raw_vdi?sr_id={d.sr()}&chunked=true', body)[0] == 400
        d.check()


# ---- what is not whole, and what nobody has said the format of ----

def answered(d, words, head, body):
    """What a PUT is told in the end, whatever its head promises of the body; NB: it may end in the middle."""
    s = socket.socket(socket.AF_UNIX)
    s.connect(os.path.join(d.state, 'xapi.sock'))
    s.sendall(f'PUT /import_raw_vdi?{words} HTTP/1.1\r\n{head}\r\n'.encode())
    try:
        s.sendall(body)
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
    return got.decode().split('\r\n\r\n', 1)[1]


CODED = 'Transfer-Encoding: chunked\r\n'


def coded(body, piece=100000):
    """In HTTP's chunks, the last one too."""
    parts = [body[i:i + piece] for i in range(0, len(body), piece)] + [b'']
    return b''.join(b'%x\r\n%b\r\n' % (len(p), p) for p in parts)


def by_file(d, disk, form, image):
    with open(os.path.join(d.state, 'sent'), 'wb') as f:
        f.write(image)
    status, _, err = d.run('vdi-import', uuid=disk, filename=f.name, format=form)
    return err if status else ''


def by_pipe(d, disk, form, image):
    status, _, err = d.run('vdi-import', uuid=disk, filename='-', format=form, input=image)
    return err if status else ''


WAYS = {
    'file': by_file, 'pipe': by_pipe,
    'length': lambda d, disk, form, b: answered(d, f'vdi={disk}&format={form}', f'Content-Length: {len(b)}\r\n', b),
    'chunks': lambda d, disk, form, b: answered(d, f'vdi={disk}&format={form}', CODED, coded(b)),
    'end': lambda d, disk, form, b: answered(d, f'vdi={disk}&format={form}', '', b),
}


def test_a_new_disk_of_no_length():
    """Raw bytes tell their length only when they have all come."""
    with in_common() as d:
        before = d.xe('vdi-list', '--minimal')
        for head, body in ((CODED, coded(bytes(MIB))), ('', bytes(MIB))):
            said = answered(d, f'sr_id={d.sr()}&format=raw', head, body)
            assert 'INVALID_VALUE' in said and 'Content-Length' in said, said
        assert d.xe('vdi-list', '--minimal') == before
        assert d.get('vdi', answered(d, f'sr_id={d.sr()}&format=raw', f'Content-Length: {MIB}\r\n', bytes(MIB)).strip(),
                     'virtual-size') == str(MIB)


def test_cut_off():
    """An image that is not whole is refused before a byte is written, however it comes."""
    size = 3 * MIB
    with in_common() as d:
        raw = os.path.join(d.state, 'raw')
        with open(raw, 'wb') as f:
            f.write(os.urandom(size // 2).hex().encode())       # something for zlib to do
        disk = d.vdi(size)
        put(d, disk, write_raw(os.path.join(d.state, 'before'), size, ((0, size),)))
        before = os.path.join(d.state, 'before')
        for form, *options in (('qcow2',), ('qcow2', 'compat=0.10'), ('qcow2', 'compressed'),
                               ('qcow2', 'compressed', 'compression_type=zstd'), ('qcow2', 'cluster_size=512'),
                               ('qcow2', 'extended_l2=on', 'cluster_size=128k'), ('qcow2', 'preallocation=full'),
                               ('qcow2', 'preallocation=metadata'), ('vhd', 'force_size=on'),
                               ('vhd', 'subformat=fixed', 'force_size=on')):
            with open(made(d, raw, DRIVER[form], *options), 'rb') as f:
                image = f.read()
            plain = len(options) < 2 and 'compressed' not in options
            # The last bytes of what is compressed, in front of what pads its sector.
            last = [len(image) - len(image.rstrip(b'\0')) + 8] if 'compressed' in options else []
            for less in (1, 513, 65536, len(image) // 2, len(image) - 3000, *last):
                for way in WAYS if plain else ('file', 'chunks'):
                    err = WAYS[way](d, disk, form, image[:-less])
                    what = f'{form}, {options}, {less} bytes less, {way}'
                    if not err:         # what pads that sector says nothing
                        assert 'compressed' in options and less < 512, what
                        same(raw, 'raw', export(d, disk, 'raw'), 'raw')
                        put(d, disk, before)
                        continue
                    assert 'IMPORT_ERROR' in err and 'disk is as it was' in err, f'{what}: {err}'
            same(before, 'raw', export(d, disk, 'raw'), 'raw')
            assert WAYS['chunks'](d, disk, form, image) == '', (form, options)
            same(raw, 'raw', export(d, disk, 'raw'), 'raw')
            put(d, disk, before)
        d.check()


def test_bodies_that_end_early():
    """The image would be whole, and was announced to be longer; or the last chunk is missing."""
    with in_common() as d:
        size = 3 * MIB
        raw = write_raw(os.path.join(d.state, 'ref'), size, ((0, size),))
        disk = d.vdi(size)
        for form in DRIVER:
            with open(made(d, raw, DRIVER[form], *(('force_size=on',) if form == 'vhd' else ())), 'rb') as f:
                image = f.read()
            for head, body in ((f'Content-Length: {len(image) + 1}\r\n', image),
                               (f'Content-Length: {len(image)}\r\n', image[:-1]), (CODED, coded(image)[:-1]),
                               (CODED, coded(image)[:-5]), (CODED, coded(image)[:-len(image) // 2])):
                answer = answered(d, f'vdi={disk}&format={form}', head, body)
                # A stream that is written as it comes is known to be cut off when it is.
                says = 'content is undefined' if form == 'raw' or (form == 'vhd' and head != CODED) else 'as it was'
                wrong = f'{form}, {head!r}, {len(body)} bytes: {answer}'
                assert ('msg: the data ' in answer and '[IMPORT_ERROR]' in answer) or 'VDI_TOO_SMALL' in answer, wrong
                assert says in answer or ('VDI_TOO_SMALL' in answer and 'as it was' in answer), wrong
        d.check()


def test_what_says_that_raw_bytes_are_all():
    """A length, or the last chunk, or that they fill the disk: a plain end is that of a sender who died, too."""
    with in_common() as d:
        size, short = 2 * MIB, MIB + 1000
        disk = d.vdi(size)
        for n, way, error in ((size, 'file', ''), (size, 'pipe', ''), (size, 'length', ''), (size, 'chunks', ''),
                              (size, 'end', ''), (short, 'file', ''), (short, 'pipe', ''), (short, 'length', ''),
                              (short, 'chunks', ''), (short, 'end', 'nothing says that they were all'),
                              (size + 1, 'end', 'VDI_TOO_SMALL'), (size + 1, 'chunks', 'VDI_TOO_SMALL'),
                              (0, 'pipe', 'nothing to import'), (0, 'end', 'nothing to import')):
            body = os.urandom(n)
            answer = WAYS[way](d, disk, 'raw', body)
            assert error in answer and bool(error) == bool(answer), f'{n}, {way}: {answer}'
            assert not error or ('as it was' if n == 0 else 'content is undefined') in answer, f'{n}, {way}: {answer}'
            if not error:
                with open(export(d, disk, 'raw'), 'rb') as f:
                    assert f.read(n) == body, f'{n}, {way}'
        # Who says that he does not know it: a PiB, as Xen Orchestra does.
        pib = f'Content-Length: {1 << 50}\r\n'
        assert answered(d, f'vdi={disk}&format=raw', pib, os.urandom(size)) == ''
        assert 'nothing says' in answered(d, f'vdi={disk}&format=raw', pib, os.urandom(short))
        # xe dies in the middle of a pipe: a failure, though all that the disk can hold may come yet.
        p = d.begin('vdi-import', f'uuid={disk}', 'filename=', stdin=subprocess.PIPE)
        p.stdin.write(os.urandom(MIB))
        p.stdin.flush()
        task = d.pending('VDI.import_raw')
        p.kill()
        p.wait()
        p.stdin.close()
        end = time.time() + 20 * SLOW
        while d.sql(f"SELECT status FROM task WHERE uuid = '{task}'"):
            assert time.time() < end
            time.sleep(0.02)
        wait_for(lambda: 'the data ended' in d.log(), why=d.log)
        d.check()


FOREIGN = {b'QFI\xfb\0\0\0\3': 'say format=qcow2', b'conectix\0\0\0\2': 'say format=vhd', b'vhdxfile': 'VHDX',
           b'KDMV\1\0\0\0': 'VMDK', b'COWD\1': 'VMDK', b'# Disk DescriptorFile\n': 'VMDK', b'QED\0': 'QED',
           b'<<< Oracle VM VirtualBox Disk Image >>>\n'.ljust(64, b'\0') + b'\x7f\x10\xda\xbe': 'VirtualBox',
           b'\x1f\x8b\x08': 'gzip', b'\xfd7zXZ\0': 'xz', b'\x28\xb5\x2f\xfd': 'zstd', b'BZh91AY&SY': 'bzip2',
           b'PK\3\4': 'zip', b'disk.vmdk'.ljust(257, b'\0') + b'ustar\0': 'tar archive'}
# What disks begin with as they are.
OWN = (b'\xeb\x63\x90', bytes(1024), b'\xeb\x58\x90mkfs.fat', b'LUKS\xba\xbe\0\1', b'XFSB', b'hsqs', b'\x7fELF', b'QFI',
       bytes(510) + b'\x55\xaaEFI PART')


def test_a_format_that_nobody_said():
    """What looks like another format than raw is taken for that by nobody: it is asked for."""
    with in_common() as d:
        disk, small = d.vdi(MIB), d.vdi(65536)
        before = write_raw(os.path.join(d.state, 'before'), MIB, ((0, MIB),))
        put(d, disk, before)
        path = os.path.join(d.state, 'image')
        for begin, says in FOREIGN.items():
            image = begin + os.urandom(100000)
            with open(path, 'wb') as f:
                f.write(image)
            err = d.fails('vdi-import', uuid=small, filename=path, says=says)   # and not that the disk is too small
            assert 'format=raw' in err and 'as it was' in err, err
            answer = answered(d, f'vdi={disk}', f'Content-Length: {len(image)}\r\n', image)
            assert says in answer and 'as it was' in answer, answer
            answer = answered(d, f'sr_id={d.sr()}', f'Content-Length: {len(image)}\r\n', image)
            assert says in answer, answer
        assert 'QFI' not in err and says in answered(d, f'vdi={disk}', CODED, coded(image))
        pieces = struct.pack('<qi', 0, len(image)) + image + bytes(12)
        assert says in answered(d, f'vdi={disk}&chunked=true', f'Content-Length: {len(pieces)}\r\n', pieces)
        same(before, 'raw', export(d, disk, 'raw'), 'raw')
        for begin in OWN:
            with open(path, 'wb') as f:
                f.write(begin + b'more')
            d.xe('vdi-import', uuid=disk, filename=path)
            with open(export(d, disk, 'raw'), 'rb') as f:
                assert f.read(len(begin)) == begin
        # A guest wrote such a thing: out and in again, by its name.
        for begin in list(FOREIGN)[:2]:
            content = begin + os.urandom(MIB - len(begin))
            with open(path, 'wb') as f:
                f.write(content)
            d.xe('vdi-import', uuid=disk, filename=path, format='raw')
            for form in DRIVER:
                put(d, disk, export(d, disk, form), form)
            with open(export(d, disk, 'raw'), 'rb') as f:
                assert f.read() == content
        # A fixed VHD is the disk, and a footer behind it.
        fixed = made(d, before, 'vpc', 'subformat=fixed', 'force_size=on')
        large = d.vdi(2 * MIB)
        d.xe('vdi-import', uuid=large, filename=fixed)
        with open(export(d, large, 'raw'), 'rb') as f, open(before, 'rb') as g:
            assert f.read(MIB) == g.read() and f.read(8) == b'conectix'
        d.fails('vdi-import', uuid=disk, filename=before, format='qcow2', says='no qcow2 image')
        d.check()


def test_progress():
    """A bar on standard error: for a terminal, or when asked for."""
    with in_common() as d:
        disk, out = d.vdi(64 * MIB), os.path.join(d.state, 'out')

        def said(*words, terminal=False):
            if os.path.exists(out):
                os.unlink(out)
            ours, theirs = os.openpty() if terminal else os.pipe()[::1]
            p = d.begin('vdi-export', f'uuid={disk}', f'filename={out}', *words, stderr=theirs, stdout=subprocess.DEVNULL)
            os.close(theirs)
            text = b''
            try:
                while got := os.read(ours, 4096):
                    text += got
            except OSError:
                pass                    # how a terminal ends
            os.close(ours)
            assert p.wait(60 * SLOW) == 0
            return text.decode()
        assert said() == '' and said('progress=false', terminal=True) == ''
        for text in (said('progress=true'), said('--progress'), said(terminal=True)):
            last = text.rstrip().split('\r')[-1]
            assert text.endswith('\n') and '100 %' in last and '64.0 MiB' in last and '/s' in last, text
        status, _, err = d.run('vdi-import', 'progress=true', uuid=disk, filename=out)
        assert status == 0 and '100 %' in err, err


def settled(d, seconds=20):
    """A quiet moment comes, and what must hold at one does."""
    end = time.time() + seconds * SLOW
    while time.time() < end and d.sql("SELECT uuid FROM task WHERE status = 'pending'"):
        time.sleep(0.05)
    d.check()


def test_interrupted():
    """Ctrl-C: no file is left behind that is not whole; of a disk that was written over it is said."""
    with Daemon('fake') as d:
        size = 16 * GIB
        disk, out = d.vdi(size), os.path.join(d.state, 'out')
        p = d.begin('vdi-export', f'uuid={disk}', f'filename={out}', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while not os.path.exists(out):
            time.sleep(0.01)
        time.sleep(0.3)
        p.send_signal(signal.SIGINT)
        assert p.wait(20 * SLOW) == -signal.SIGINT and not os.path.exists(out)
        settled(d)
        write_raw(out, size, ())
        p = d.begin('vdi-import', f'uuid={disk}', f'filename={out}', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        d.pending('VDI.import_raw', 'AND progress > 0')
        p.send_signal(signal.SIGINT)
        assert b'content of the disk is undefined' in p.communicate(timeout=20 * SLOW)[1]
        assert p.returncode == -signal.SIGINT
        settled(d)
        # The task can be cancelled too, and the client is told.
        p = d.begin('vdi-import', f'uuid={disk}', f'filename={out}', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        d.xe('task-cancel', uuid=d.pending('VDI.import_raw', 'AND progress > 0'))
        err = p.communicate(timeout=20 * SLOW)[1].decode()
        assert p.returncode == 1 and 'cancel' in err.lower() and 'content is undefined' in err, err
        settled(d)


OVERHEARS = """#!/bin/bash
trap 'told=$told.; [ $told = . ] || kill $child' TERM
%s "$@" &
child=$!
until wait $child; [ $? -lt 128 ]; do :; done
"""


def test_a_server_that_overhears_its_end():
    """qemu-storage-daemon that is told to end just before it sleeps goes on sleeping."""
    with tempfile.TemporaryDirectory() as folder:
        name = 'qemu-storage-daemon'
        with open(os.path.join(folder, name), 'w') as f:
            f.write(OVERHEARS % shutil.which(name))
        os.chmod(f.name, 0o755)
        with Daemon('fake', env={'PATH': folder + ':' + os.environ['PATH']}) as d:
            disk = d.vdi('1MiB')
            path = os.path.join(d.state, 'out')
            d.xe('vdi-export', uuid=disk, filename=path, timeout=60)
            assert os.path.getsize(path) == MIB
            d.xe('vdi-import', uuid=disk, filename=path, timeout=60)
            d.xe('vdi-copy', uuid=disk, timeout=60)


def test_no_room():
    """In the middle of an import: said as such, and what was written for the time being is gone."""
    with FileSystem('ext4', 32) as fs, Daemon('fake') as d:
        folder, sr = fs.folder, fs.sr(d)
        size = 64 * MIB
        random = os.path.join(d.state, 'random')
        with open(random, 'wb') as f:
            f.write(os.urandom(48 * MIB))
            f.truncate(size)
        disk, files = d.vdi(size, sr=sr), sorted(os.listdir(folder))
        free = os.statvfs(folder).f_bavail
        for form in DRIVER:
            image = made(d, random, DRIVER[form], *(('force_size=on',) if form == 'vhd' else ()))
            d.fails('vdi-import', uuid=disk, filename=image, format=form, says='SR_BACKEND_FAILURE_44')
            assert sorted(os.listdir(folder)) == files
            d.xe('vdi-destroy', uuid=disk)
            end = time.time() + 20 * SLOW           # a volume is deleted soon, not at once
            while os.statvfs(folder).f_bavail < free:
                assert time.time() < end, 'something is left'
                time.sleep(0.05)
            with open(image, 'rb') as f:
                answer = ask(d, 'PUT', f'/import_raw_vdi?sr_uuid={sr}&format={form}', f.read())[2]
            assert b'SR_BACKEND_FAILURE_44' in answer, answer
            assert [f for f in os.listdir(folder) if f.endswith('.qcow2')] == []
            d.check()
            disk = d.vdi(size, sr=sr)
            files = sorted(os.listdir(folder))
        # An export takes no room there.
        good = write_raw(os.path.join(d.state, 'good'), size, ((MIB, 4 * MIB),))
        put(d, disk, good)
        with open(os.path.join(folder, 'filler'), 'wb') as f:
            try:
                while f.write(bytes(MIB)):
                    f.flush()
            except OSError:
                pass
        for form in DRIVER:
            same(good, 'raw', export(d, disk, form), form)
        d.stop()
        tool('umount', folder)                          # nobody has anything open there


def test_killed_in_the_middle():
    """The daemon dies while it takes an image: nothing is left of a new disk, nor of what lay in between."""
    with Daemon('fake') as d:
        folder, size = os.path.join(d.state, 'sr'), 8 * MIB
        raw = write_raw(os.path.join(d.state, 'ref'), size, ((0, 4 * MIB),))
        disk = d.vdi(size)
        put(d, disk, raw)
        before, free = sorted(os.listdir(folder)), None
        for form in DRIVER:
            with open(export(d, disk, form), 'rb') as f:
                image = f.read()
            s = socket.socket(socket.AF_UNIX)
            s.connect(os.path.join(d.state, 'xapi.sock'))
            s.sendall(f'PUT /import_raw_vdi?sr_id={d.sr()}&format={form} HTTP/1.0\r\n'
                      f'Content-Length: {len(image)}\r\n\r\n'.encode() + image[:len(image) // 2])
            s.recv(1)
            time.sleep(0.5)
            d.kill()
            s.close()
            d.start()
            settled(d)
            assert sorted(os.listdir(folder)) == before, form
            same(raw, 'raw', export(d, disk, 'raw'), 'raw')


main(globals())
