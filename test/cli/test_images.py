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
        for words, says in (('format=tar', b'VALUE_NOT_SUPPORTED: format, tar'), ('format=', b'formats are'),
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
