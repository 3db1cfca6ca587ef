# SPDX-License-Identifier: Apache-2.0
"""A file system whose n-th call that changes something fails (test/lib/faulty.c).

    with Faulty() as fs, Daemon('fake') as d:
        sr = fs.sr(d)
        fs.fail(3, errno.EIO)           # the third from now on
"""
import mmap, os, shutil, struct, subprocess, tempfile, time
from sf import *

LAYOUT = struct.Struct('<QQii64s4096s')          # struct control
SYNCS = 2


class Faulty:
    """Made before the daemon that uses it, to be gone after it.  What lies in `below` shows at `folder`."""

    def __init__(self):
        need_root()
        program = os.path.join(BUILD, 'test', 'faulty')
        if not os.path.exists(program):
            raise Skip('test/lib/faulty.c is not built: libfuse3-dev is missing')
        if not os.path.exists('/dev/fuse'):
            raise Skip('no /dev/fuse here')
        self.own = tempfile.mkdtemp(prefix='stillframe-faulty-')
        os.chmod(self.own, 0o711)
        self.below, self.folder = os.path.join(self.own, 'below'), os.path.join(self.own, 'mnt')
        for folder in (self.below, self.folder):
            os.mkdir(folder)
        path = os.path.join(self.own, 'control')
        with open(path, 'wb') as f:
            f.write(bytes(LAYOUT.size))
        with open(path, 'r+b') as f:
            self.control = mmap.mmap(f.fileno(), LAYOUT.size)
        self.process = subprocess.Popen([program, path, self.below, self.folder], start_new_session=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        end = time.time() + 20 * SLOW
        while not os.path.ismount(self.folder):
            if self.process.poll() is not None or time.time() > end:
                self.__exit__()
                raise Skip('nothing can be mounted with FUSE here')
            time.sleep(0.01)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(['umount', '-l', self.folder], capture_output=True)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:               # who had files open has them no more
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.own, ignore_errors=True)

    def sr(self, d):
        return d.xe('sr-create', name_label='faulty', type='file', **{'device-config:location': self.folder})

    def fail(self, at, error=0, sticky=False, name=''):
        """Call `at` from now on, of those on files whose name contains `name`; 0: none."""
        struct.pack_into('<Q', self.control, 8, 0)      # none, while the rest is half written
        struct.pack_into('<ii64s', self.control, 16, error, sticky, name.encode())
        struct.pack_into('<Q', self.control, 0, 0)
        struct.pack_into('<Q', self.control, 8, at)

    def count(self):
        """Calls since then."""
        return struct.unpack_from('<Q', self.control)[0]

    def syncs(self):
        """The numbers of those that were fsyncs."""
        n, what = self.count(), LAYOUT.unpack(self.control[:])[5]
        assert n <= len(what), f'{n} calls'
        return [i + 1 for i in range(n) if what[i] == SYNCS]
