#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""An SR is held, not visited: one daemon has it at a time; what happens to its folder below an attached SR is noticed, and
nothing goes elsewhere; where one may be, and what of others' lies in it."""
import contextlib, os, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

SOON = {'sr-lock': 0.1, 'sr-users': 0.1, 'timer-undo': 0.1}
UNFINISHED = '0123456789abcdef01234567.qcow2.new'


# ---- helpers ----

def other_host(**how):
    """A daemon of another host, which tests' usual ones, whose state has one beginning, are not."""
    return Daemon('fake', first=True, **how)


def make(d, location, name='disks', **config):
    return d.xe('sr-create', name_label=name, type='file', **{'device-config:location': location})


def introduce(d, sr, location, **config):
    """The PBD, unplugged."""
    d.xe('sr-introduce', uuid=sr, name_label='theirs', type='file')
    return d.xe('pbd-create', sr_uuid=sr, host_uuid=d.list('host')[0],
                **{'device-config:location': location}, **{f'device-config:{k}': v for k, v in config.items()})


def pbd_of(d, sr):
    return d.list('pbd', sr_uuid=sr)[0]


def mark(location):
    with open(os.path.join(location, 'sr-uuid')) as f:
        return f.read()


def owner(location):
    return dict(line.split(' ', 1) for line in mark(location).splitlines()).get('owner')


def write(d, vdi, content):
    path = os.path.join(d.state, 'content')
    with open(path, 'wb') as f:
        f.write(content)
    d.xe('vdi-import', uuid=vdi, filename=path)


def shows(d, vdi, n=16):
    path = os.path.join(d.state, 'shown')
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    d.xe('vdi-export', uuid=vdi, filename=path)
    with open(path, 'rb') as f:
        return f.read(n)


def refused(d, location, says, kind='file'):
    d.fails('sr-create', name_label='x', type=kind, says=says, **{'device-config:location': location})
    assert not d.list('sr', name_label='x')


# ---- one at a time ----

def test_a_second_daemon():
    with Daemon('fake', delays=SOON) as d, other_host(delays=SOON) as other:
        place, host = os.path.join(d.state, 'sr'), d.list('host')[0]
        sr, disk = d.sr(), d.vdi('4MiB')
        write(d, disk, b'first' * 1000)
        with open(os.path.join(place, UNFINISHED), 'w') as f:
            f.write('of the first daemon, at work')
        before = mark(place)
        assert owner(place) == host and f'state {os.path.realpath(d.state)}\n' in before
        pbd = introduce(other, sr, place)
        for also in ('', f'device-config:take-over-from={host}'):       # who lives is not to be robbed
            if also:
                other.xe('pbd-destroy', uuid=pbd)
                pbd = other.xe('pbd-create', f'sr-uuid={sr}', f'host-uuid={other.list("host")[0]}',
                               f'device-config:location={place}', also)
            err = other.fails('pbd-plug', uuid=pbd, says='SR device is currently in use')
            for word in (host, d.get('host', host, 'hostname'), os.path.realpath(d.state), 'pbd-unplug', 'lock'):
                assert word in err, f'{word}: {err}'
        assert other.get('pbd', pbd, 'currently-attached') == 'false' and not other.list('vdi', sr_uuid=sr)
        assert mark(place) == before and os.path.exists(os.path.join(place, UNFINISHED))
        os.unlink(os.path.join(place, UNFINISHED))

        # It ends: its VMs may run on, so nobody gets the SR by itself, and the next start asks nothing.
        for end in (d.stop, d.kill):
            end()
            other.xe('pbd-destroy', uuid=pbd)
            pbd = other.xe('pbd-create', sr_uuid=sr, host_uuid=other.list('host')[0], **{'device-config:location': place})
            err = other.fails('pbd-plug', uuid=pbd, says='has not let go of it')
            assert f'device-config:take-over-from={host}' in err and mark(place) == before
            d.start()
            assert d.get('pbd', pbd_of(d, sr), 'currently-attached') == 'true' and shows(d, disk, 5) == b'first'
        d.check()


def test_it_is_handed_over():
    """Unplugged here, it is plugged there without a question; and back."""
    with Daemon('fake', delays=SOON) as d, other_host(delays=SOON) as other:
        place = d.folder_for('travels')
        sr = make(d, place)
        write(d, d.vdi('4MiB', 'disk', sr), b'travels' * 1000)
        pbd = introduce(other, sr, place)
        for here, there in ((d, other), (other, d)):
            here.xe('pbd-unplug', uuid=pbd_of(here, sr))
            assert owner(place) is None and not here.sql('SELECT verb FROM journal')
            there.xe('pbd-plug', uuid=pbd_of(there, sr))
            assert owner(place) == there.list('host')[0]
            here.fails('pbd-plug', uuid=pbd_of(here, sr), says='SR device is currently in use')
            assert here.get('pbd', pbd_of(here, sr), 'currently-attached') == 'false'
            assert shows(there, there.list('vdi', sr_uuid=sr)[0], 7) == b'travels'
        assert pbd


def test_a_lost_host():
    """It is taken away on purpose only, from that host only, and once."""
    with Daemon('fake', delays=SOON) as d, other_host(delays=SOON) as other:
        place, host = d.folder_for('left'), d.list('host')[0]
        sr = make(d, place)
        write(d, d.vdi('4MiB', 'disk', sr), b'left' * 1000)
        d.kill()
        pbd = introduce(other, sr, place, **{'take-over-from': other.list('host')[0]})
        other.fails('pbd-plug', uuid=pbd, says='has not let go of it')
        other.xe('pbd-destroy', uuid=pbd)
        pbd = other.xe('pbd-create', f'sr-uuid={sr}', f'host-uuid={other.list("host")[0]}', f'device-config:location={place}',
                       f'device-config:take-over-from={host}')
        other.xe('pbd-plug', uuid=pbd)
        assert owner(place) == other.list('host')[0] and 'take-over-from' not in other.get('pbd', pbd, 'device-config')
        assert shows(other, other.list('vdi', sr_uuid=sr)[0], 4) == b'left'

        # The lost one comes back, and finds that it has it no more.
        d.start()
        assert d.get('pbd', pbd_of(d, sr), 'currently-attached') == 'false'
        assert 'sr not attached' in d.log() and other.list('host')[0] in d.log()
        other.restart()
        assert other.get('pbd', pbd, 'currently-attached') == 'true'
        d.fails('pbd-plug', uuid=pbd_of(d, sr), says='SR device is currently in use')


def test_taken_where_no_lock_reaches():
    """Another host writes its own mark: the one before sees that at the next thing it does."""
    with Daemon('fake', delays=SOON) as d:
        place = d.folder_for('shared')
        sr = make(d, place)
        disk = d.vdi('4MiB', 'disk', sr)
        theirs = mark(place).replace(d.list('host')[0], '9a1b6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6b')
        with open(os.path.join(place, 'new'), 'w') as f:
            f.write(theirs)
        os.rename(f.name, os.path.join(place, 'sr-uuid'))
        before = d.volumes_now(place)
        for words in (('vdi-create', f'sr-uuid={sr}', 'name-label=x', 'virtual-size=1MiB'), ('vdi-snapshot', f'uuid={disk}'),
                      ('vdi-destroy', f'uuid={disk}'), ('sr-scan', f'uuid={sr}')):
            d.fails(*words, says='9a1b6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6b')
        d.xe('pbd-unplug', uuid=pbd_of(d, sr))
        assert d.volumes_now(place) == before and mark(place) == theirs


def test_all_at_once():
    """Plugged, unplugged, scanned and used by many at the same time: the row and the mark agree when it is quiet."""
    with Daemon('fake', delays=SOON) as d:
        place = d.folder_for('busy')
        sr = make(d, place)
        pbd, disk = pbd_of(d, sr), d.vdi('1MiB', 'disk', sr)
        words = [('pbd-plug', f'uuid={pbd}'), ('pbd-unplug', f'uuid={pbd}'), ('sr-scan', f'uuid={sr}'), ('vdi-snapshot', f'uuid={disk}')]
        for _ in range(8):
            running = [d.begin(*dice.choice(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(12)]
            for p in running:
                assert p.wait(60 * SLOW) in (0, 1)
            d.wait_quiet(merged=False)
            attached = d.get('pbd', pbd, 'currently-attached') == 'true'
            assert owner(place) == (d.list('host')[0] if attached else None), f'attached: {attached}'
        d.xe('pbd-plug', uuid=pbd)
        d.check()


def test_children_have_no_lock():
    """Programs that the daemon runs, and that might outlive it."""
    with Daemon('fake') as d:
        d.restart()                     # the mark is opened as it is, and not made
        disk = d.vdi('64MiB')
        write(d, disk, os.urandom(32 << 20))
        p = d.begin('vdi-export', f'uuid={disk}', 'filename=', stdout=subprocess.PIPE)
        p.stdout.read(1)
        children = []
        for pid in filter(str.isdigit, os.listdir('/proc')):
            with contextlib.suppress(OSError), open(f'/proc/{pid}/stat') as f:
                if int(f.read().rsplit(')', 1)[1].split()[1]) == d.process.pid:
                    children.append(pid)
        names = [f for pid in children for f in open_files(pid)]
        assert any(f.endswith('.qcow2') for f in names), names
        assert not any('sr-uuid' in f for f in names), names
        p.kill()
        p.wait()


# ---- the folder goes, and comes ----

def check_gone(d, sr, disk, doomed, says, free=True):
    """All that would be done in it is refused, and nothing changes.  free: no VM has the disk."""
    before = rows(d)
    commands = [('vdi-create', f'sr-uuid={sr}', 'name-label=x', 'virtual-size=1MiB'), ('vdi-snapshot', f'uuid={disk}'),
                ('vdi-destroy', f'uuid={doomed}'), ('vdi-resize', f'uuid={disk}', 'disk-size=8MiB'), ('sr-scan', f'uuid={sr}'),
                ('sr-check', f'uuid={sr}')]
    if free:
        commands += [('vdi-clone', f'uuid={disk}'), ('vdi-copy', f'uuid={disk}'),
                     ('vdi-export', f'uuid={disk}', f'filename={d.state}/none')]
    for words in commands:
        d.fails(*words, says=says)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f'{d.state}/none')
    now = rows(d)
    assert now == before, f'{now ^ before}'


def check_back(d, sr, disk, doomed, place):
    d.xe('sr-scan', uuid=sr)
    assert shows(d, disk, 5) == b'there'
    d.xe('vdi-snapshot', uuid=disk)
    d.xe('vdi-destroy', uuid=doomed)
    d.wait_quiet()
    assert ' 0 problems' in d.xe('sr-check', uuid=sr) and d.volumes(place)
    d.check()


def test_unmounted():
    """Lazily, as nothing else gets it away below an attached SR; also one that is mounted over it."""
    with FileSystem('ext4', 256) as fs, Daemon('fake', delays=SOON) as d:
        sr = fs.sr(d)
        disk, doomed = d.vdi('4MiB', 'disk', sr), d.vdi('4MiB', 'doomed', sr)
        write(d, disk, b'there' * 1000)
        p = subprocess.run(['umount', fs.folder], capture_output=True)
        assert p.returncode and b'busy' in p.stderr, 'it is held'
        subprocess.run(['umount', '-l', fs.folder], check=True)
        check_gone(d, sr, disk, doomed, 'another file system is there')
        assert os.listdir(fs.folder) == []
        subprocess.run(['mount', '-o', 'loop', fs.image, fs.folder], check=True)
        check_back(d, sr, disk, doomed, fs.folder)

        doomed = d.vdi('4MiB', 'doomed', sr)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'mode=700', 'over', fs.folder], check=True)
        check_gone(d, sr, disk, doomed, 'another file system is there')
        assert os.listdir(fs.folder) == []
        subprocess.run(['umount', fs.folder], check=True)
        check_back(d, sr, disk, doomed, fs.folder)

        subprocess.run(['umount', '-l', fs.folder], check=True)
        d.xe('pbd-unplug', uuid=pbd_of(d, sr))          # by the descriptor, which is the last that holds it
        subprocess.run(['mount', '-o', 'loop', fs.image, fs.folder], check=True)
        assert owner(fs.folder) is None and os.path.exists(os.path.join(fs.folder, 'sr-uuid'))
        d.xe('pbd-plug', uuid=pbd_of(d, sr))
        d.xe('pbd-unplug', uuid=pbd_of(d, sr))
        subprocess.run(['umount', fs.folder], check=True)       # it was let go of
        d.fails('pbd-plug', uuid=pbd_of(d, sr), says='is its file system mounted?')
        subprocess.run(['mount', '-o', 'loop', fs.image, fs.folder], check=True)
        d.xe('pbd-plug', uuid=pbd_of(d, sr))
        assert shows(d, disk, 5) == b'there'
        d.check()


def test_another_device():
    """What is mounted again has another device number, as a disk has that was plugged anew: the SR goes on there, but for
    where a VM still has files of the one before."""
    need_root()
    with FileSystem('ext4', 256) as fs, Daemon('fake', delays=SOON) as d:
        sr = fs.sr(d)
        disk, doomed = d.vdi('4MiB', 'disk', sr), d.vdi('4MiB', 'doomed', sr)
        write(d, disk, b'there' * 1000)
        vm = d.vm()
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=0)
        d.xe('vm-start', uuid=vm)
        subprocess.run(['sync', '-f', fs.folder], check=True)
        subprocess.run(['umount', '-l', fs.folder], check=True)
        copy = fs.image + '.copy'
        shutil.copy(fs.image, copy)
        subprocess.run(['mount', '-o', 'loop', copy, fs.folder], check=True)
        check_gone(d, sr, disk, doomed, 'another file system is there', free=False)
        d.fails('pbd-plug', uuid=pbd_of(d, sr), says='another file system is there')
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('pbd-plug', uuid=pbd_of(d, sr))
        check_back(d, sr, disk, doomed, fs.folder)


def test_swapped():
    """Moved away, replaced, without its mark."""
    with Daemon('fake', delays=SOON) as d:
        place = d.folder_for('swapped')
        sr = make(d, place)
        disk, doomed = d.vdi('4MiB', 'disk', sr), d.vdi('4MiB', 'doomed', sr)
        write(d, disk, b'there' * 1000)
        away = place + '.away'
        os.rename(place, away)
        check_gone(d, sr, disk, doomed, 'No such file')
        os.mkdir(place, 0o700)
        check_gone(d, sr, disk, doomed, 'another folder has its name')
        assert os.listdir(place) == []
        os.rmdir(place)
        os.rename(away, place)
        check_back(d, sr, disk, doomed, place)

        doomed = d.vdi('4MiB', 'doomed', sr)
        os.unlink(os.path.join(place, 'sr-uuid'))
        check_gone(d, sr, disk, doomed, 'sr-uuid is gone')
        with open(os.path.join(place, 'sr-uuid'), 'w') as f:     # as the error tells to
            f.write(f'{sr}\n')
        check_back(d, sr, disk, doomed, place)
        assert owner(place) == d.list('host')[0]


def test_swapped_behind_the_look():
    """Between the look at the path and the program that works in it: the program reaches the folder that was meant."""
    with tempfile.TemporaryDirectory() as tools:
        with Daemon('fake', delays=SOON, env={'PATH': tools + ':' + os.environ['PATH']}) as d:
            place = d.folder_for('swapped')
            sr = make(d, place)
            disk = d.vdi('4MiB', 'disk', sr)
            for name in ('qemu-img', 'qemu-storage-daemon'):
                program = os.path.join(tools, name)
                with open(program, 'w') as f:
                    f.write(f'#!/bin/sh\nif mv {place} {place}.away; then mkdir {place}; cp {place}.away/sr-uuid {place}; fi\n'
                            f'exec {shutil.which(name)} "$@"\n')
                os.chmod(program, 0o755)
            for words in (('vdi-create', f'sr-uuid={sr}', 'name-label=x', 'virtual-size=1MiB'),
                          ('vdi-import', f'uuid={disk}', f'filename={d.state}/content'), ('vdi-resize', f'uuid={disk}', 'disk-size=8MiB')):
                with open(os.path.join(d.state, 'content'), 'wb') as f:
                    f.write(b'content' * 1000)
                d.run(*words)
                assert os.listdir(place) == ['sr-uuid'], f'{words[0]}: {os.listdir(place)}'
                shutil.rmtree(place)
                os.rename(place + '.away', place)
            for name in os.listdir(tools):
                os.unlink(os.path.join(tools, name))
            d.wait_quiet()
            assert shows(d, disk, 7) == b'content' and ' 0 problems' in d.xe('sr-check', uuid=sr)
            d.check()


def test_what_was_to_be_deleted():
    """A volume that nobody needs any more is deleted when its SR is back, and not forgotten before."""
    with Daemon('fake', delays={**SOON, 'timer-undo': 0.1}) as d:
        place = d.folder_for('later')
        sr = make(d, place)
        disk = d.vdi('4MiB', 'disk', sr)
        file = os.path.join(place, d.get('vdi', disk, 'location') + '.qcow2')
        d.kill()
        # The record went; what it named is still to be deleted.
        with contextlib.closing(sqlite3.connect(os.path.join(d.state, 'state.db'))) as c:
            ref, volume = c.execute('SELECT SR, location FROM VDI WHERE uuid = ?', [disk]).fetchone()
            c.execute('DELETE FROM VDI WHERE uuid = ?', [disk])
            c.execute('INSERT INTO journal (op, verb, args) VALUES (?, ?, ?)',
                      ['reclaim+', 'VOL_DELETE', json.dumps([ref, volume, ''])])
            c.commit()
        os.rename(place, place + '.away')
        d.start()
        time.sleep(0.5)
        assert d.sql('SELECT verb FROM journal') == ['VOL_DELETE']
        os.rename(place + '.away', place)
        d.xe('pbd-plug', uuid=pbd_of(d, sr))
        wait_for(lambda: not os.path.exists(file), 10)
        d.wait_quiet()
        assert not d.list('vdi', sr_uuid=sr)


# ---- where one may be ----

@contextlib.contextmanager
def nothing_left(place):
    """In a folder of this host, where a daemon that is wrong would leave a mark."""
    mark = os.path.join(place, 'sr-uuid')
    assert not os.path.exists(mark), mark
    try:
        yield
        assert not os.path.exists(mark), mark
    finally:
        with contextlib.suppress(OSError):
            os.unlink(mark)


def test_places():
    with Daemon('fake') as d:
        state = os.path.realpath(d.state)
        for place in ('/etc', '/usr/share', '/boot', '/dev', '/dev/shm', '/proc', '/sys', '/run'):
            if os.path.isdir(place):
                with nothing_left(place):
                    refused(d, place, "the system's")
        with nothing_left('/'):
            refused(d, '/', 'the root of the system')
        for place in (state, os.path.join(state, 'run'), os.path.join(state, 'sr', '..')):
            refused(d, place, "the server's own folder")
        link = os.path.join(state, 'sr', 'link')
        os.symlink('/etc', link)
        with nothing_left('/etc'):
            refused(d, link, '/etc is the system')
        os.unlink(link)
        refused(d, 'relative', 'not an absolute path')
        refused(d, '/etc/passwd', 'not a directory')
        for place in ('/dev', '/proc', '/sys'):
            refused(d, place, "the system's", 'iso')

        place = d.folder_for('mine')
        for mode in (0o777, 0o1777, 0o770, 0o702):
            os.chmod(place, mode)
            refused(d, place, 'chmod go-w')
        os.chmod(place, 0o755)
        inner = d.folder_for('mine/inner')
        os.chmod(place, 0o770)
        refused(d, inner, f'{place} (mode 0770)')
        os.chmod(place, 0o1777)                             # as /tmp
        d.xe('sr-destroy', uuid=make(d, inner))
        os.chmod(place, 0o755)
        if os.getuid() == 0:
            os.chown(place, 65534, 65534)
            refused(d, place, 'belongs to the user 65534')
            refused(d, inner, 'belongs to the user 65534')
            os.chown(place, 0, 0)
        assert os.listdir(place) == ['inner'] and os.listdir(inner) == []
        sr = make(d, place)
        d.vdi('1MiB', 'x', sr)
        os.chmod(place, 0o777)                              # nor later
        d.fails('vdi-create', sr_uuid=sr, name_label='y', virtual_size='1MiB', says='chmod go-w')
        os.chmod(place, 0o700)
        d.vdi('1MiB', 'y', sr)
        d.check()


def test_links():
    """Whoever could put links into the folder before it was root's gets nothing read or written."""
    with Daemon('fake') as d:
        place, secret = d.folder_for('links'), os.path.join(d.state, 'secret')
        with open(secret, 'w') as f:
            f.write('root:$y$j9T$onlyrootreadsthis\n')
        for name in ('sr-uuid', 'sr-uuid.new', '.direct-io.new', '.reflink.new'):
            os.symlink(secret, os.path.join(place, name))
        for command in ('sr-create', 'sr-probe'):
            words = ('name-label=x',) if command == 'sr-create' else ()
            err = d.fails(command, *words, type='file', says='symbolic link', **{'device-config:location': place})
            assert 'root:' not in err, err
        assert 'root:' not in d.log()
        os.unlink(os.path.join(place, 'sr-uuid'))
        sr = make(d, place)
        d.vdi('1MiB', 'x', sr)
        with open(secret) as f:
            assert f.read() == 'root:$y$j9T$onlyrootreadsthis\n'
        assert not os.path.islink(os.path.join(place, 'sr-uuid'))
        assert sorted(os.listdir(place))[-1] == 'sr-uuid' and len(os.listdir(place)) == 2, os.listdir(place)


# ---- versions of the mark ----

def test_versions():
    """One that each version before wrote becomes today's when the SR is attached; a newer one is left alone."""
    with Daemon('fake') as d:
        place = os.path.join(d.state, 'sr')
        disk = d.vdi('4MiB')
        write(d, disk, b'older' * 1000)
        today = mark(place)
        d.stop()
        with open(os.path.join(place, 'sr-uuid'), 'w') as f:
            f.write(f'{today.splitlines()[1].split()[1]}\n')          # version 1
        d.start()
        assert mark(place) == today and shows(d, disk, 5) == b'older'
        assert os.stat(os.path.join(place, 'sr-uuid')).st_mode & 0o777 == 0o600
        d.stop()
        newer = today.replace('stillframe-sr 2', 'stillframe-sr 3') + 'what comes\n'
        with open(os.path.join(place, 'sr-uuid'), 'w') as f:
            f.write(newer)
        d.start()
        sr, = d.list('sr')
        err = d.fails('pbd-plug', uuid=pbd_of(d, sr), says='its mark is of version 3')
        assert 'versions 1 to 2' in err and 'newer program' in err and mark(place) == newer
        d.fails('sr-probe', type='file', says='version 3', **{'device-config:location': place})
        with open(os.path.join(place, 'sr-uuid'), 'w') as f:
            f.write(today)
        d.xe('pbd-plug', uuid=pbd_of(d, sr))
        assert shows(d, disk, 5) == b'older'
        d.check()


# ---- what belongs to another SR ----

def test_copies():
    with Daemon('fake') as d:
        one, two = d.folder_for('one'), d.folder_for('two')
        sr = make(d, one, 'the first')
        disk = d.vdi('4MiB', 'disk', sr)
        write(d, disk, b'mine' * 1000)
        # The same place twice.
        d.fails('sr-introduce', uuid=sr, name_label='x', type='file', says='Another object has this value already')
        refused(d, one, f'it belongs to the SR {sr}')
        new = '0badcafe-0b4c-4a0c-8c0e-5f0a2d5c6e02'
        pbd = introduce(d, new, one)
        d.fails('pbd-plug', uuid=pbd, says=f'it belongs to the SR {sr}')
        d.xe('pbd-destroy', uuid=pbd)
        # A copy of the folder that was given a uuid of its own.
        volume = d.get('vdi', disk, 'location')
        shutil.copy(os.path.join(one, volume + '.qcow2'), two)
        with open(os.path.join(two, 'sr-uuid'), 'w') as f:
            f.write(f'{new}\n')
        pbd = d.xe('pbd-create', sr_uuid=new, host_uuid=d.list('host')[0], **{'device-config:location': two})
        err = d.fails('pbd-plug', uuid=pbd, says=f'its volume {volume} is recorded as one of the SR {sr} (the first)')
        assert 'sr-forget' in err and d.get('pbd', pbd, 'currently-attached') == 'false' and owner(two) is None
        # One file that came by itself.
        os.unlink(os.path.join(two, volume + '.qcow2'))
        d.xe('pbd-plug', uuid=pbd)
        d.vdi('1MiB', 'its own', new)
        shutil.copy(os.path.join(one, volume + '.qcow2'), two)
        d.xe('sr-scan', uuid=new)
        assert [d.get('vdi', v, 'name-label') for v in d.list('vdi', sr_uuid=new)] == ['its own']
        assert f"left out a volume that another SR's record names sr=" in d.log() and volume in d.log()
        status, out, err = d.run('sr-check', uuid=new)
        assert status == 1 and f'volume {volume}: a record of another SR names it: SR {sr} (the first).' in out, out + err
        os.unlink(os.path.join(two, volume + '.qcow2'))
        assert ' 0 problems' in d.xe('sr-check', uuid=new) and shows(d, disk, 4) == b'mine'
        # Once the first is forgotten, its copy may be it.
        d.xe('pbd-unplug', uuid=pbd_of(d, sr))
        d.xe('sr-forget', uuid=sr)
        d.check()


# ---- discs ----

def test_discs_are_held_too():
    with FileSystem('ext4', 64) as fs, Daemon('fake', delays=SOON) as d:
        with open(os.path.join(fs.folder, 'a.iso'), 'wb') as f:
            f.write(b'disc' * 1024)
        os.chmod(fs.folder, 0o777)                          # somebody else's: whoever may write there may do so
        sr = d.xe('sr-create', name_label='isos', type='iso', **{'device-config:location': fs.folder})
        disc, = d.list('vdi', sr_uuid=sr)
        assert subprocess.run(['umount', fs.folder], capture_output=True).returncode
        subprocess.run(['umount', '-l', fs.folder], check=True)
        with open(os.path.join(fs.folder, 'a.iso'), 'wb') as f:         # in the folder below
            f.write(b'other' * 1024)
        d.fails('vdi-export', uuid=disc, filename=f'{d.state}/none', says='another file system is there')
        d.fails('vdi-export', uuid=disc, filename=f'{d.state}/none', says='another file system is there')
        d.xe('sr-scan', uuid=sr)                            # what is only read may be in any folder: this one, now
        assert shows(d, disc, 5) == b'other'
        subprocess.run(['mount', '-o', 'loop', fs.image, fs.folder], check=True)
        d.xe('pbd-plug', uuid=pbd_of(d, sr))
        assert shows(d, disc, 4) == b'disc'
        d.xe('pbd-unplug', uuid=pbd_of(d, sr))
        subprocess.run(['umount', fs.folder], check=True)


main(globals())
