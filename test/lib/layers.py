# SPDX-License-Identifier: Apache-2.0
"""VMs without guests, whose writes are played by qemu-io, and raw files that say what each disk should show."""
import json, os, re, subprocess
from sf import wait_for

MIB = 1 << 20


class World:
    """VMs of one disk each, and what their disks and those of their snapshots should show."""

    def __init__(self, d, sr=None, folder=None, mib=64):
        self.d, self.sr, self.folder, self.mib = d, sr or d.sr(), folder or os.path.join(d.state, 'sr'), mib
        self.fat, self.shares = {}, False
        self.raw, self.own, self.files, self.byte = {}, {}, 0, 0
        self.seen = len(d.log())

    # ---- disks ----

    def file_of(self, vdi):
        return os.path.join(self.folder, self.d.get('vdi', vdi, 'location') + '.qcow2')

    def disk(self, vm):
        """The VDI of a VM or a snapshot."""
        return self.d.get('vbd', self.d.list('vbd', vm_uuid=vm)[0], 'vdi-uuid')

    def reference(self, vdi, like=None):
        """A raw file of what the disk shows: what another one does, or zeros."""
        self.files += 1
        path = os.path.join(self.d.state, f'raw-{self.files}')
        if like:
            subprocess.run(['cp', '--sparse=always', self.raw[like], path], check=True)
        else:
            with open(path, 'wb') as f:
                f.truncate(self.mib * MIB)
        self.raw[vdi] = path

    def vm(self, name='vm', start=False):
        vm = self.d.vm(name, 1, f'{self.mib}MiB', self.sr)
        self.own[vm] = self.disk(vm)
        self.reference(self.own[vm])
        if start:
            self.d.xe('vm-start', uuid=vm)
        return vm

    def no_chains(self):
        """Where blocks are shared none is left, a moment after each snapshot."""
        wait_for(lambda: not self.d.sql("SELECT uuid FROM VDI WHERE parent_location != '' OR managed = 'false'"))
        self.d.wait_quiet()

    def write(self, vm, at, mib=1):
        """In MiB; the content is never the same twice."""
        if self.shares:
            self.no_chains()        # qemu-io would write what is being merged
        vdi = self.disk(vm)
        self.byte = self.byte % 255 + 1
        subprocess.run(['qemu-io', '-f', 'qcow2', '-c', f'write -P {self.byte} {at}M {mib}M', self.file_of(vdi)],
                       check=True, stdout=subprocess.DEVNULL)
        with open(self.raw[vdi], 'r+b') as f:
            f.seek(at * MIB)
            for _ in range(mib):
                f.write(bytes([self.byte]) * MIB)

    def fatten(self, vm, mib):
        """What the VM writes takes so much on the storage, behind what is used of the file."""
        self.fat[self.file_of(self.disk(vm))] = mib
        self.fatten_again()

    def fatten_again(self):
        """As a copy of the files lacks it."""
        for path, mib in self.fat.items():
            if os.path.exists(path):
                subprocess.run(['fallocate', '-n', '-l', f'{mib}MiB', path], check=True)

    def snap(self, vm, *writes):
        """A snapshot, and then what is written to the VM's disk."""
        snap = self.d.snapshot(vm)
        self.reference(self.disk(snap), self.disk(vm))
        for w in writes:
            self.write(vm, *w)
        return snap

    def clone(self, vm, command='vm-clone'):
        clone = self.d.xe(command, uuid=vm, new_name_label='clone')
        if command == 'snapshot-clone':
            self.d.xe('vm-param-set', 'is-a-template=false', uuid=clone)
        self.reference(self.disk(clone), self.disk(vm))
        return clone

    def delete(self, snap):
        del self.raw[self.disk(snap)]
        self.d.xe('snapshot-uninstall', '--force', uuid=snap)

    def uninstall(self, vm):
        disk = self.disk(vm)
        del self.raw[disk]
        self.d.xe('vm-uninstall', '--force', uuid=vm)
        if self.d.list('vdi', uuid=disk):
            self.d.xe('vdi-destroy', uuid=disk)

    def revert(self, vm, snap):
        self.d.xe('snapshot-revert', uuid=snap)
        self.reference(self.disk(vm), self.disk(snap))

    # ---- what came of it ----

    def steps(self):
        """What was done since the last time it was asked for."""
        log = self.d.log()
        done = re.findall(r'layers (merged down|\w+) volume=', log[self.seen:])
        self.seen = len(log)
        return done

    def stored(self):
        return self.d.volumes(self.folder)

    def settle(self, volumes, seconds=30):
        """Until so many volumes are left; the steps it took."""
        wait_for(lambda: len(self.stored()) == volumes, seconds)
        self.d.wait_quiet()
        assert len(self.stored()) == volumes, self.stored()
        return self.steps()

    def right(self, by_xe=True):
        for vdi, raw in self.raw.items():
            path = self.file_of(vdi) if by_xe else os.path.join(
                self.folder, self.d.sql(f"SELECT location FROM VDI WHERE uuid = '{vdi}'")[0] + '.qcow2')
            p = subprocess.run(['qemu-img', 'compare', '-U', '-f', 'raw', '-F', 'qcow2', raw, path],
                               capture_output=True, text=True)
            assert p.returncode == 0, f'{vdi}: {p.stdout}{p.stderr}'

    def check(self):
        self.d.check()
        self.right()
        self.d.xe('sr-check', uuid=self.sr)

    def merging(self):
        """A merge has begun that hangs."""
        wait_for(lambda: 'fake merge ' in self.d.log()[self.seen:])


def chain(d, vm, device='disk-0'):
    with open(os.path.join(d.state, 'run', vm, 'fake.json')) as f:
        return [node[1:] for node in json.load(f)['chains'][device]]
