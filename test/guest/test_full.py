#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A full file system in the middle of each operation: SR_BACKEND_FAILURE_44's words, nothing lost, the
guest runs on, or is paused with the reason told, and never sees a corrupt disk."""
import os, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

NO_SPACE = 'not enough space'


class Full:
    """A small ext4 of its own with a ballast that fills it."""

    def __init__(self, d, mib):
        need_root()
        self.image, self.folder = os.path.join(d.state, 'small.img'), os.path.join(d.state, 'small')
        os.mkdir(self.folder)
        with open(self.image, 'wb') as f:
            f.truncate(mib << 20)
        subprocess.run(['/sbin/mke2fs', '-q', '-t', 'ext4', '-m', '0', self.image], check=True)
        p = subprocess.run(['mount', '-o', 'loop', self.image, self.folder], capture_output=True)
        if p.returncode:
            raise Skip('no loop mount here: ' + p.stderr.decode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(['umount', '-l', self.folder])

    def fill(self):
        with open(os.path.join(self.folder, 'ballast'), 'ab', buffering=0) as f:
            for block in (1 << 20, 4096, 512):
                try:
                    while True:
                        f.write(b'x' * block)
                except OSError:
                    pass
            try:
                os.fsync(f.fileno())
            except OSError:
                pass

    def free(self):
        os.unlink(os.path.join(self.folder, 'ballast'))


def test_every_operation():
    with Daemon() as d, Full(d, 200) as full:
        sr = d.xe('sr-create', name_label='small', type='file', **{'device-config:location': full.folder})
        vm = guest_vm(d, disks=2, size='48MiB', sr=sr, start=False)
        serial = d.boot(vm)
        serial.ask('mark kept')
        snap = d.snapshot(vm, 'good')
        disks = d.disks(vm)
        full.fill()
        volumes = d.volumes(full.folder)

        d.fails('vm-snapshot', uuid=vm, new_name_label='bad', says=NO_SPACE)
        d.fails('snapshot-clone', uuid=snap, new_name_label='bad', says=NO_SPACE)
        d.fails('snapshot-revert', uuid=snap, says=NO_SPACE)
        d.fails('vdi-create', sr_uuid=sr, name_label='bad', virtual_size='1GiB', says=NO_SPACE)
        assert d.volumes(full.folder) == volumes, 'a half-made volume was left'
        assert d.state_of(vm) == 'running' and d.disks(vm) == disks
        d.check()

        # A delete needs no space.
        d.xe('snapshot-uninstall', '--force', uuid=snap)
        d.check()

        # The guest writes until nothing is left: it stops, and goes on when there is room.
        serial.s.sendall(b'write a big 30 7\n')
        d.wait_state(vm, 'paused', 60)
        assert d.list('message', name='VM_PAUSED_STORAGE_FULL'), 'nobody was told why'
        full.free()
        d.xe('vm-unpause', uuid=vm)
        while not serial.line().startswith('OK write'):
            pass
        written = serial.fields('sum a big')
        status = serial.fields('status')
        assert status['a.errors'] == '0' and status['a.state'] == 'rw', status
        d.snapshot(vm, 'good again')
        d.xe('vm-shutdown', uuid=vm)
        with d.boot(vm) as s:
            assert s.fields('sum a big') == written
            assert 'kept' in s.fields('marks')['a']
        d.xe('vm-shutdown', '--force', uuid=vm)
        full.fill()
        d.fails('vm-clone', uuid=vm, new_name_label='bad', says=NO_SPACE)
        d.fails('vm-snapshot', uuid=vm, new_name_label='bad', says=NO_SPACE)
        full.free()
        image = os.path.join(d.state, 'raw')
        with open(image, 'wb') as f:
            f.write(os.urandom(100 << 20))
        target = d.vdi('100MiB', sr=sr)
        full.fill()
        d.fails('vdi-import', uuid=target, filename=image)
        full.free()
        d.check()
        d.xe('vm-shutdown', '--force', uuid=vm) if d.state_of(vm) != 'halted' else None
        d.stop()


main(globals())
