# SPDX-License-Identifier: Apache-2.0
"""A file system that is full when a test wants it."""
import os
from sf import FileSystem


class Full(FileSystem):
    """A small ext4 of its own with a ballast that fills it."""

    def __init__(self, mib):
        super().__init__('ext4', mib)

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
