# SPDX-License-Identifier: Apache-2.0
"""Guests that run without having booted: the golden ones.

    with golden() as (d, vm, s):                 # a daemon, its VM, the line to the guest
    with golden('two', options=OFTEN) as (d, vm, s):

A VM of each flavour is booted once for each build, through the product, and a checkpoint is taken of it; the
daemon's folder is kept in BUILD/golden, by the name of what it was made of.  A test gets a copy of that folder, a
daemon on it, and `snapshot-revert resume=true`: a fifth of what a boot costs, and the product proves itself once more.
The paths in the records name the folder, so each copy is mounted at the same place, in a mount namespace of the
test's own.

golden.py FLAVOUR... makes them ahead, all of them without a word; it is a test by itself.
"""
import contextlib, os, shutil, subprocess, sys, tempfile
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from sf import *

PLACE = '/srv'                  # of the folder; each Debian has it, and nothing of ours is there

# What each is.  Its agent has been heard before the checkpoint, so whatever needs one has it.
FLAVOURS = {
    'plain': lambda d: guest_vm(d, disks=1, start=False),
    'two': lambda d: guest_vm(d, disks=2, size='64MiB', start=False, memory='256MiB'),
    'cd': lambda d: with_cd_drive(guest_vm(d, disks=1, start=False), d),
    'screen': lambda d: guest_vm(d, disks=1, start=False, kernel='vmlinuz'),        # has a console of text to draw on
    'uefi': lambda d: uefi_vm(d),
    # QEMU lays the initrd of an unpacked kernel over the ACPI tables, which a TPM's log pushes down.
    'tpm': lambda d: with_tpm(guest_vm(d, start=False, kernel='vmlinuz'), d),
}


def with_cd_drive(vm, d):
    d.xe('vbd-create', vm_uuid=vm, device=3, type='CD')
    return vm


def with_tpm(vm, d):
    d.xe('vtpm-create', vm_uuid=vm)
    return vm


def made_of(flavour):
    """Its name: another one as soon as the product, the guest, QEMU or this file is another."""
    return flavour + '-' + sum_of(os.path.join(BUILD, 'stillframed'), os.path.join(BUILD, 'xe'), __file__,
                                  os.path.join(guest_folder(), 'stamp'), shutil.which('qemu-system-x86_64'))


def mount(folder):
    subprocess.run(['mount', '--bind', folder, PLACE], check=True)


def umount():
    subprocess.run(['umount', '-l', PLACE], check=True)


def boot_and_checkpoint(flavour, folder):
    """What is missing for it is a failure: no test of a suite that needs it may be skipped."""
    with Daemon(state=PLACE) as d:
        try:
            vm = FLAVOURS[flavour](d)
        except Skip as e:
            raise Exception(f'the golden guest {flavour} cannot be made: {e}')
        d.boot(vm).close()
        wait_for(lambda: d.sql("SELECT 1 FROM VM_guest_metrics WHERE live = 'true'"), 60)
        d.xe('vm-checkpoint', uuid=vm, new_name_label='golden')
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.check()
        assert d.stop() == 0
    for name in ('test.log', 'lock', 'run'):
        path = os.path.join(folder, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def make(flavour):
    """The folder of a flavour, which is made when it is not there; two tests that want it make it once."""
    name = made_of(flavour)
    with one_at_a_time(flavour):
        if not os.path.isdir(os.path.join(MADE, name)):
            with copied() as folder:
                boot_and_checkpoint(flavour, folder)
                keep(flavour, name, folder)
    return os.path.join(MADE, name)


@contextlib.contextmanager
def copied(kept=None, sr=None):
    """A folder at its place: a copy of one that is kept, or an empty one.  sr: a FileSystem that holds the storage."""
    with tempfile.TemporaryDirectory(prefix='stillframe-test-', ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o711)
        if kept:
            copy(kept, folder, sr)
        mount(folder)
        try:
            if sr:
                subprocess.run(['mount', '--bind', sr.folder, os.path.join(PLACE, 'sr')], check=True)
            yield folder
        finally:
            if sr:
                subprocess.run(['umount', '-l', os.path.join(PLACE, 'sr')])
            umount()


def copy(kept, folder, sr):
    """The kernel, which nobody changes, is linked where it can be."""
    parts = [os.path.join(kept, name) for name in os.listdir(kept) if name != 'boot' and not (sr and name == 'sr')]
    subprocess.run(['cp', '-a', '--reflink=auto', '--sparse=always', *parts, folder], check=True)
    if sr:
        os.mkdir(os.path.join(folder, 'sr'), 0o700)
        os.chmod(sr.folder, 0o700)
        subprocess.run(['cp', '-a', '--sparse=always', os.path.join(kept, 'sr', '.'), sr.folder], check=True)
    os.mkdir(os.path.join(folder, 'boot'), 0o755)
    for name in os.listdir(os.path.join(kept, 'boot')):
        link(os.path.join(kept, 'boot', name), os.path.join(folder, 'boot', name))


@contextlib.contextmanager
def golden(flavour='plain', sr=None, kind=Daemon, **how):
    """A daemon, a VM of that flavour that runs, and its serial line.  No snapshot is left, and the disks have one volume
    each.  sr: a FileSystem that the storage is to be on; kind: of daemon; how: what it is given."""
    assert os.getuid() == 0, 'golden guests need root: each has its folder in a mount namespace'
    with copied(make(flavour), sr), kind('qemu', state=PLACE, **how) as d:
        snap, = d.list('snapshot')
        vm = d.get('snapshot', snap, 'snapshot-of')
        d.xe('snapshot-revert', uuid=snap, resume='true')
        d.xe('snapshot-uninstall', '--force', uuid=snap)
        wait_for(lambda: len(d.volumes()) == len(d.list('vdi', managed='true')), 60)
        d.wait_quiet()
        with again(d, vm) as s:
            yield d, vm, s


def plug(d, vm, s, size, device=1):
    """One more disk, which the running guest mounts."""
    vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi(size, f'plugged {device}'), device=device)
    d.xe('vbd-plug', uuid=vbd)
    wait_for(lambda: s.fields('rescan')['disks'] == str(device + 1))


if __name__ == '__main__':
    own_mounts()
    for flavour in sys.argv[1:] or FLAVOURS:
        begin = time.time()
        make(flavour)
        print(f'{flavour}: {time.time() - begin:.1f} s')
