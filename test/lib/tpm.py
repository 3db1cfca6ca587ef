# SPDX-License-Identifier: Apache-2.0
"""A guest's TPM, as its shell talks to it, and the emulators that the host runs for such."""
import os, re, struct

OWNER, INDEX = 0x40000001, 0x01500001
PASSWORD = struct.pack('>IIHBH', 9, 0x40000009, 0, 0, 0)    # none, as a session of its own
DEFINE, WRITE, READ, EXTEND = 0x12a, 0x137, 0x14e, 0x182    # TPM 2.0 Library, part 3
SHA256 = 0x000b


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

    # ---- what it remembers ----

    def define(self):
        public = struct.pack('>IHIHH', INDEX, SHA256, 0x02060006, 0, 8)
        self.ask(DEFINE, [OWNER], struct.pack('>HH', 0, len(public)) + public)

    def write(self, word):
        self.ask(WRITE, [OWNER, INDEX], struct.pack('>H', 8) + word.ljust(8).encode() + struct.pack('>H', 0))

    def read(self):
        answer = self.ask(READ, [OWNER, INDEX], struct.pack('>HH', 8, 0))
        return answer[6:14].decode().strip()

    # ---- its registers, which are gone with its power ----

    def extend(self, register, byte):
        self.ask(EXTEND, [register], struct.pack('>IH', 1, SHA256) + bytes([byte]) * 32)

    def register(self, register):
        return self.serial.ask(f'shell cat /sys/class/tpm/tpm0/pcr-sha256/{register}')


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
