# SPDX-License-Identifier: Apache-2.0
"""What a guest would write to its disks, by QEMU itself."""
import json, os, re, socket, time
from sf import SLOW


def monitor(d, vm, line):
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30 * SLOW)
    s.connect(os.path.join(d.state, 'run', vm, 'oob.sock'))
    with s, s.makefile('rw') as f:
        f.readline()
        for c in ({'execute': 'qmp_capabilities'}, {'execute': 'human-monitor-command', 'arguments': {'command-line': line}}):
            f.write(json.dumps({**c, 'id': line}) + '\n')
            f.flush()
            while (answer := json.loads(f.readline())).get('id') != line:
                pass
            assert 'error' not in answer, answer
    assert not answer['return'], answer


def write(d, vm, position, byte, offset, length):
    """The byte so many times, durable when it returns; 0: by unmapping.  QEMU's main loop does not wait for it, as it does
    not for what a guest writes: at the end of a merge QEMU holds writes back until it is told to go on."""
    path = os.path.join(d.state, 'run', vm, 'qemu.log')
    what = f'-P {byte}' if byte else '-z -u'
    before = os.path.getsize(path)
    monitor(d, vm, f'qemu-io -d /machine/peripheral/disk-{position}/virtio-backend "aio_write -f {what} {offset} {length}"')
    end = time.time() + 60 * SLOW
    while True:
        with open(path, errors='replace') as f:
            f.seek(before)
            told = re.search(r'(wrote .*|.*failed.*)\n', f.read())
        if told:
            assert told[0].startswith(f'wrote {length}/{length} bytes at offset {offset}'), told[0]
            return
        assert time.time() < end, f'{vm} does not write'
        time.sleep(0.002)
