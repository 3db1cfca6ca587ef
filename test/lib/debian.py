# SPDX-License-Identifier: Apache-2.0
"""A stock Debian, installed by tools/make-debian, and the root shell on its serial port.  DEBIAN names the folder."""
import os, re, shutil, subprocess, time
from sf import *

TEMPLATES = {'bookworm': 'Debian Bookworm 12', 'trixie': 'Debian Trixie 13'}
BOOT_S, COMMAND_S = 300, 60


def need_tools():
    need_root()
    if not shutil.which('xorriso'):
        raise Skip('the package xorriso is not there')
    if not os.path.exists('/usr/share/OVMF/OVMF_CODE_4M.fd'):
        raise Skip('the package ovmf is not there')


def debian_disk(kind):
    need_tools()
    folder = os.environ.get('DEBIAN', os.path.join(BUILD, 'debian'))
    p = subprocess.run([os.path.join(TOP, 'tools', 'make-debian'), folder], capture_output=True)
    if p.returncode:
        raise Skip('tools/make-debian: ' + p.stderr.decode()[-300:])
    return os.path.join(folder, f'debian-{kind}.img')


def template():
    with open('/etc/os-release') as f:
        return TEMPLATES[re.search('VERSION_CODENAME=(.*)', f.read())[1].strip('"')]


class Shell:
    """The shell that waits, logged in, on the first serial port."""

    def __init__(self, d, vm, after=0):
        self.serial = Serial(d, vm, after)
        self.wait_prompt()
        # From here on only what commands print comes back.
        self.serial.s.sendall(b"stty -echo -onlcr; PS1=; export TERM=dumb; dmesg -n 1\n")
        self.count = 0
        self.run('true')

    def wait_prompt(self):
        end = time.time() + BOOT_S * SLOW
        while True:
            with open(self.serial.log, errors='replace') as f:
                f.seek(self.serial.after)
                said = f.read()
            if re.search(r'root@\S+:~# ', said):
                return
            assert time.time() < end, 'no shell on the serial port:\n' + said[-2000:]
            self.serial.drain()
            time.sleep(0.2)

    def run(self, command, status=0, timeout=COMMAND_S):
        """What the command prints, its lines stripped of blanks at the ends."""
        self.count += 1
        mark = f'done-{self.count}-'
        self.serial.s.sendall(f'({command}) 2>&1 </dev/null; r=$?; echo; echo "{mark}$r"\n'.encode())
        lines = []
        while True:
            line = self.serial.line(timeout)
            m = re.match(re.escape(mark) + r'(\d+)$', line)
            if m:
                said = '\n'.join(lines).strip()
                assert int(m[1]) == status, f'{command}: status {m[1]}\n{said}'
                return said
            lines.append(line)

    def until(self, command, seconds=30):
        """Runs it until it succeeds."""
        end = f'i=0; until {command}; do i=$((i + 1)); [ $i -lt {seconds * 2} ] || exit 1; sleep 0.5; done'
        return self.run(end, timeout=seconds * 4)

    def close(self):
        self.serial.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def start(d, vm, command='vm-start'):
    log = os.path.join(d.state, 'run', vm, 'serial.log')
    after = os.path.getsize(log) if os.path.exists(log) else 0
    begin = time.time()
    d.xe(command, uuid=vm)
    shell = Shell(d, vm, after)
    print(f'  a shell {time.time() - begin:.0f} s after {command}', flush=True)
    return shell


def install(d, kind):
    """A VM of the template, with the image as its first disk and one network interface."""
    vm = d.xe('vm-install', template=template(), new_name_label=f'debian {kind}')
    d.xe('vm-memory-limits-set', uuid=vm, static_min='64MiB', dynamic_min='512MiB',
         dynamic_max='512MiB', static_max='512MiB')
    d.xe('vm-param-set', f'HVM-boot-params:firmware={kind}', 'HVM-boot-params:order=c', uuid=vm)
    image = debian_disk(kind)
    vdi = d.disks(vm).get('0')
    if not vdi:
        vdi = d.vdi(os.path.getsize(image), f'debian {kind}')
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=vdi, device=0, bootable='true')
    d.xe('vdi-import', uuid=vdi, filename=image)
    if not d.list('vif', vm_uuid=vm):
        d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)
    return vm
