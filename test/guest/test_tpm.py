#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A virtual TPM in a real guest: what it remembers goes along with snapshots, reverts and copies."""
import os, struct, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

OWNER, INDEX = 0x40000001, 0x01500001
PASSWORD = struct.pack('>IIHBH', 9, 0x40000009, 0, 0, 0)    # none, as a session of its own
DEFINE, WRITE, READ = 0x12a, 0x137, 0x14e                   # TPM 2.0 Library, part 3, section 31


def command(code, handles, parameters):
    body = b''.join(struct.pack('>I', h) for h in handles) + PASSWORD + parameters
    return struct.pack('>HII', 0x8002, 10 + len(body), code) + body


class Tpm:
    """The guest's /dev/tpm0, by its shell."""

    def __init__(self, serial):
        self.serial = serial

    def ask(self, code, handles, parameters):
        text = ''.join(f'\\x{byte:02x}' for byte in command(code, handles, parameters))
        said = self.serial.ask(f"shell exec 3<>/dev/tpm0; printf '{text}' >&3; head -c 512 <&3 | od -An -v -tx1")
        answer = bytes.fromhex(re.sub(r'[^0-9a-f]', '', said))
        status, = struct.unpack('>I', answer[6:10])
        assert status == 0, f'{code:#x}: {status:#x}'
        return answer[10:]

    def define(self):
        public = struct.pack('>IHIHH', INDEX, 0x000b, 0x02060006, 0, 8)
        self.ask(DEFINE, [OWNER], struct.pack('>HH', 0, len(public)) + public)

    def write(self, word):
        self.ask(WRITE, [OWNER, INDEX], struct.pack('>H', 8) + word.ljust(8).encode() + struct.pack('>H', 0))

    def read(self):
        answer = self.ask(READ, [OWNER, INDEX], struct.pack('>HH', 8, 0))
        return answer[6:14].decode().strip()


def emulators(d, vm):
    """pid: uid of the programs that serve the VM's TPM."""
    found = {}
    state = os.path.join(d.state, 'run', vm, 'tpm', 'state')
    for pid in filter(str.isdigit, os.listdir('/proc')):
        try:
            if os.readlink(f'/proc/{pid}/cwd') == state:
                found[int(pid)] = os.stat(f'/proc/{pid}').st_uid
        except OSError:
            pass
    return found


def test_it_remembers():
    with Daemon() as d:
        # It boots: a VM with a TPM does not come back from its memory yet.
        # QEMU lays the initrd of an unpacked kernel over the ACPI tables, which a TPM's log pushes down.
        vm = guest_vm(d, 'tpm', start=False, kernel='vmlinuz')
        d.xe('vtpm-create', vm_uuid=vm)
        with d.boot(vm) as s:
            tpm = Tpm(s)
            tpm.define()
            tpm.write('before')
            snap = d.snapshot(vm)
            tpm.write('after')
            qemu = d.guests()[vm]
            users = {os.stat(f'/proc/{pid}').st_uid for pid in [qemu, *emulators(d, vm)]}
            assert len(emulators(d, vm)) == 1 and len(users) == 1 and users != {0}, users
            d.restart()
            assert tpm.read() == 'after', 'the TPM outlives the daemon'
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert not emulators(d, vm)
        with d.boot(vm) as s:
            assert Tpm(s).read() == 'after'
            Tpm(s).write('killed')
            os.kill(d.guests()[vm], signal.SIGKILL)
        d.wait_state(vm, 'halted')
        assert not emulators(d, vm)
        with d.boot(vm) as s:
            assert Tpm(s).read() == 'killed'
        d.xe('snapshot-revert', uuid=snap)
        with d.boot(vm) as s:
            assert Tpm(s).read() == 'before', 'the TPM is not of the snapshot'
        copy = d.xe('vm-install', template=snap, new_name_label='copy')
        with d.boot(copy) as s:
            assert Tpm(s).read() == 'before'
            Tpm(s).write('copy')
        with Serial(d, vm) as s:
            assert Tpm(s).read() == 'before', 'the two have one TPM'
        d.xe('vm-shutdown', '--force', '--multiple')
        d.check()


main(globals())
