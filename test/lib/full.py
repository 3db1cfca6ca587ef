# SPDX-License-Identifier: Apache-2.0
"""A file system that is full when a test wants it."""
import os, subprocess
from sf import Skip, need_root


class Full:
    """A small ext4 of its own with a ballast that fills it."""

    def __init__(self, place, mib):
        need_root()
        self.image, self.folder = os.path.join(place, 'small.img'), os.path.join(place, 'small')
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

    def free(self, n=None):
        """All of the ballast goes, or n bytes of it."""
        ballast = os.path.join(self.folder, 'ballast')
        if n is None:
            os.unlink(ballast)
        else:
            os.truncate(ballast, os.path.getsize(ballast) - n)
