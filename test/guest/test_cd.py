#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Discs in the drive of a real guest: read, changed, held fast, and found again."""
import contextlib, hashlib, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden


def iso9660(files):
    """A disc with files in its only folder, as bytes: descriptors in blocks 16 and 17, the folder in
    18, the files behind it."""
    both = lambda n, size: n.to_bytes(size, 'little') + n.to_bytes(size, 'big')

    def record(name, block, size, folder=False):
        r = bytes([0]) + both(block, 4) + both(size, 4) + bytes([124, 1, 1, 0, 0, 0, 0]) + \
            bytes([2 if folder else 0, 0, 0]) + both(1, 2) + bytes([len(name)]) + name
        r += bytes(1 - len(name) % 2)
        return bytes([len(r) + 1]) + r

    root = record(b'\0', 18, 2048, True)
    entries, content = root + record(b'\1', 18, 2048, True), b''
    for name, data in files.items():
        entries += record(name.upper().encode() + b';1', 19 + len(content) // 2048, len(data))
        content += data + bytes(-len(data) % 2048)
    primary = b'\1CD001\1\0' + b' ' * 32 + b'TEST'.ljust(32) + bytes(8) + both(19 + len(content) // 2048, 4) + \
        bytes(32) + both(1, 2) + both(1, 2) + both(2048, 2) + both(0, 4) + bytes(16) + root + b' ' * 623
    primary += b'0' * 16 * 4 + b'\1\0'
    return bytes(16 * 2048) + primary.ljust(2048, b'\0') + b'\xffCD001\1'.ljust(2048, b'\0') + \
        entries.ljust(2048, b'\0') + content


HELLO = iso9660({'hello.txt': b'Hello from a disc.\n', 'data.bin': bytes(range(256)) * 1000})
OTHER = iso9660({'other.txt': b'Another one.\n'})


def sr0(s, command):
    return s.ask('shell ' + command)


def need_drive(s):
    if sr0(s, 'ls /sys/class/block').find('sr0') < 0:
        raise Skip('the test guest has no driver for CD drives')


def wait_for(s, command, wanted, seconds=20):
    end = time.time() + seconds * SLOW
    while (got := sr0(s, command)) != wanted:
        assert time.time() < end, f'{command}: {got}, not {wanted}'
        time.sleep(0.3)


def holds(s, content):
    """The guest sees this disc, to its last block; None: no disc."""
    if content is None:
        wait_for(s, 'dd if=/dev/sr0 of=/tmp/x bs=2048 count=1 2>/dev/null && echo in || echo out', 'out\\n')
        return
    wait_for(s, 'dd if=/dev/sr0 bs=2048 2>/dev/null | sha256sum',
             hashlib.sha256(content).hexdigest() + '  -\\n')
    assert sr0(s, 'cat /sys/class/block/sr0/size') == f'{len(content) // 512}\\n'


def discs(d):
    sr = d.isos(hello=HELLO, other=OTHER)
    return [d.list('vdi', name_label=f'{n}.iso', sr_uuid=sr)[0] for n in ('hello', 'other')]


@contextlib.contextmanager
def with_drive():
    with golden('cd') as (d, vm, s):
        yield d, vm, s, d.list('vbd', vm_uuid=vm, type='CD')[0], *discs(d)


def test_in_a_running_guest():
    with with_drive() as (d, vm, s, cd, hello, other):
        need_drive(s)
        holds(s, None)
        d.xe('vm-cd-insert', uuid=vm, cd_name='hello.iso')
        assert d.get('vbd', cd, 'device') == 'sr0'
        holds(s, HELLO)
        sr0(s, 'mkdir -p /cd && mount -t iso9660 -o ro /dev/sr0 /cd')
        assert sr0(s, 'cat /cd/hello.txt') == 'Hello from a disc.\\n'
        # Mounted: the guest holds it fast.
        d.fails('vbd-eject', uuid=cd, says='has locked the disc')
        assert d.get('vbd', cd, 'vdi-uuid') == hello
        assert sr0(s, 'cat /cd/hello.txt') == 'Hello from a disc.\\n'
        assert hashlib.sha256(bytes(range(256)) * 1000).hexdigest() in sr0(s, 'sha256sum /cd/data.bin')
        d.check()
        sr0(s, 'umount /cd')
        d.xe('vbd-eject', uuid=cd)
        holds(s, None)
        d.fails('vbd-eject', uuid=cd, says='no disc')
        d.xe('vm-cd-insert', uuid=vm, cd_name='other.iso')
        holds(s, OTHER)
        d.xe('vm-cd-eject', uuid=vm)
        d.xe('vbd-insert', uuid=cd, vdi_uuid=hello)
        holds(s, HELLO)
        # The daemon is another one, the drive the same.
        d.restart()
        d.xe('vbd-eject', uuid=cd)
        holds(s, None)
        d.xe('vbd-insert', uuid=cd, vdi_uuid=other)
        holds(s, OTHER)
        assert not files_open(d, vm, 'hello.iso'), 'a disc that is out is open still'
        d.check()


def test_a_disc_that_goes_while_the_guest_sleeps():
    """A checkpoint wants its disc back, and the guest runs on; a guest that sleeps comes back to an empty drive."""
    with with_drive() as (d, vm, s, cd, hello, other):
        need_drive(s)
        d.xe('vbd-insert', uuid=cd, vdi_uuid=hello)
        holds(s, HELLO)
        sr0(s, 'mkdir -p /cd && mount -t iso9660 -o ro /dev/sr0 /cd')
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        pid, path = d.guests()[vm], os.path.join(d.state, 'isos', 'hello.iso')
        os.rename(path, path + '-away')
        d.fails('snapshot-revert', uuid=snap, says='hello.iso')
        d.fails('vm-reboot', uuid=vm, says='hello.iso')
        assert d.guests()[vm] == pid and d.state_of(vm) == 'running'
        assert sr0(s, 'cat /cd/hello.txt') == 'Hello from a disc.\\n'
        d.xe('vm-suspend', uuid=vm)
        d.fails('vm-resume', uuid=vm, says='hello.iso')
        assert d.state_of(vm) == 'suspended'
        d.xe('vbd-eject', uuid=cd)                  # though it is mounted
        d.fails('vbd-insert', uuid=cd, vdi_uuid=other, says='suspended')
        d.xe('vm-resume', uuid=vm)
        s.close()
        s = again(d, vm)
        sr0(s, 'umount -l /cd')
        holds(s, None)
        d.xe('vbd-insert', uuid=cd, vdi_uuid=other)
        holds(s, OTHER)
        os.rename(path + '-away', path)
        s.close()
        d.xe('snapshot-revert', uuid=snap, resume='true')
        s = again(d, vm)
        assert sr0(s, 'cat /cd/hello.txt') == 'Hello from a disc.\\n'
        s.close()
        d.check()


def files_open(d, vm, name):
    return [f for f in open_files(d.guests()[vm]) if name in f]


def test_snapshot_and_revert():
    with Daemon() as d:
        # It boots: with a disc in its drive.
        hello, other = discs(d)
        vm = guest_vm(d, disks=1, start=False)
        d.xe('vm-cd-add', uuid=vm, cd_name='hello.iso', device=3)
        with d.boot(vm) as s:
            need_drive(s)
            s.ask('mark before')
            snap = d.snapshot(vm)
            holds(s, HELLO)
            s.ask('mark after')
            d.xe('vm-cd-eject', uuid=vm)
            d.xe('vm-cd-insert', uuid=vm, cd_name='other.iso')
            holds(s, OTHER)
            d.xe('snapshot-revert', uuid=snap)
        with d.boot(vm) as s:
            holds(s, HELLO)
            assert 'before' in s.ask('marks') and 'after' not in s.ask('marks')
            # Two VMs read one disc.
            clone = d.xe('vm-install', template=snap, new_name_label='clone')
            with d.boot(clone) as c:
                holds(c, HELLO)
                holds(s, HELLO)
        d.check()


def test_kills():
    """The daemon is killed at every point of an insert and an eject; the guest has what the row says."""
    with with_drive() as (d, vm, s, cd, hello, other):
        need_drive(s)
        holds(s, None)
        for n in range(1, 40):
            fill = d.get('vbd', cd, 'empty') == 'true'
            d.kill()
            d.start(env={'STILLFRAME_CRASH_AT': str(n)})
            status = d.run('vbd-insert' if fill else 'vbd-eject', uuid=cd,
                           **({'vdi_uuid': hello} if fill else {}))[0]
            if status:
                d.process.wait(60)
                assert d.process.returncode == -9, d.log()[-2000:]
            else:
                d.kill()
            d.start()
            d.check()
            holds(s, None if d.get('vbd', cd, 'empty') == 'true' else HELLO)
            if status == 0 and not fill:
                break
        assert n > 4, n


def test_a_disc_that_is_a_link():
    """Whoever can write to the folder of discs cannot show a guest other files of this host."""
    with with_drive() as (d, vm, s, cd, hello, other):
        path = os.path.join(d.state, 'isos', 'hello.iso')
        os.unlink(path)
        os.symlink('other.iso', path)
        d.fails('vbd-insert', uuid=cd, vdi_uuid=hello, says='symbolic link')
        d.xe('vbd-insert', uuid=cd, vdi_uuid=other)
        assert files_open(d, vm, 'other.iso')
        d.xe('vbd-eject', uuid=cd)
        assert not files_open(d, vm, 'other.iso')
        d.check()


main(globals())
