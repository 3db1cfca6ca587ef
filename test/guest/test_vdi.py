#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Disks by themselves, of a real guest that writes them: a snapshot, a clone, and growing."""
import base64, fcntl, json, os, struct, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden

MIB = 1 << 20


def image(d, disk):
    path = os.path.join(d.state, 'sr', d.get('vdi', disk, 'location') + '.qcow2')
    return json.loads(subprocess.run(['qemu-img', 'info', '-U', '--output=json', path], check=True,
                                     capture_output=True).stdout)


def bytes_seen(s, name='vdb'):
    """0: it has no such disk, or not yet."""
    return int(s.ask(f'shell cat /sys/block/{name}/size 2>/dev/null || echo 0').replace('\\n', '')) * 512


def test_snapshot_of_one_disk_while_it_is_written():
    with golden('two') as (d, vm, s):
        disks = d.disks(vm)
        other = d.get('vdi', disks['0'], 'location')
        s.ask('count start')
        made = []
        for i in range(4):
            low = s.counters()['b']
            disk = d.xe('vdi-snapshot' if i % 2 else 'vdi-clone', uuid=disks['1'])
            made.append((low, disk, s.counters()['b']))
        assert d.get('vdi', disks['0'], 'location') == other
        d.kill()                        # the guest goes on without us, and what it writes is kept
        d.start()
        s.ask('count stop')
        last = s.counters()['b']
        assert s.fields('status')['b.errors'] == '0'
        s.ask('sync')
        for low, disk, high in made:
            found = counter_of(d, disk)
            assert low <= found <= high, f'{found} is not from {low} to {high}'
        s.ask('poweroff')
        d.wait_state(vm, 'halted')
        assert counter_of(d, disks['1']) >= last, 'a write was lost'
        d.check()
        with d.boot(vm) as s:
            assert s.counters()['b'] >= last


def test_growing_while_it_runs():
    with golden('two') as (d, vm, s):
        disk = d.disks(vm)['1']
        assert bytes_seen(s) == 64 * MIB
        wrote = s.fields('write b file 8')['sum']
        snap = d.xe('vdi-snapshot', uuid=disk)
        s.ask('count start')
        d.xe('vdi-resize', 'online=true', uuid=disk, disk_size='160MiB')
        s.ask('count stop')
        end = time.time() + 20 * SLOW
        while bytes_seen(s) != 160 * MIB:
            assert time.time() < end, f'the guest sees {bytes_seen(s)} bytes'
            time.sleep(0.2)
        assert bytes_seen(s, 'vda') == 64 * MIB
        assert image(d, disk)['virtual-size'] == 160 * MIB == int(d.get('vdi', disk, 'virtual-size'))
        assert image(d, snap)['virtual-size'] == 64 * MIB
        zeros = s.ask('shell dd if=/dev/vdb bs=1M skip=64 2>/dev/null | tr -d "\\\\000" | wc -c')
        assert zeros.split('\\n')[0].strip() == '0', zeros
        s.ask('shell echo behind the old end | dd of=/dev/vdb bs=1M seek=150 conv=notrunc,fsync 2>/dev/null')
        assert s.fields('sum b file')['sum'] == wrote
        d.fails('vdi-resize', uuid=disk, disk_size='100MiB', says='shrinking')
        again = d.xe('vdi-snapshot', uuid=disk)         # of the new size, too
        assert image(d, again)['virtual-size'] == image(d, disk)['virtual-size'] == 160 * MIB
        assert s.fields('status')['b.errors'] == '0'
        d.xe('vm-shutdown', uuid=vm)
        d.xe('vdi-resize', uuid=disk, disk_size='200MiB')
        with d.boot(vm) as s:
            assert bytes_seen(s) == 200 * MIB
            assert s.fields('sum b file')['sum'] == wrote
            assert 'behind the old end' in s.ask('shell dd if=/dev/vdb bs=1M skip=150 count=1 2>/dev/null | head -c 18')
        d.check()

def has_writer(d, disk):
    """A lock on byte 101 is how QEMU tells that it may write a file."""
    path = os.path.join(d.state, 'sr', d.get('vdi', disk, 'location') + '.qcow2')
    with open(path, 'rb') as f:
        asked = struct.pack('hhqqi4x', fcntl.F_WRLCK, os.SEEK_SET, 101, 1, 0)
        f_ofd_getlk = 36
        return struct.unpack('hhqqi4x', fcntl.fcntl(f, f_ofd_getlk, asked))[0] != fcntl.F_UNLCK


def test_checks_beside_a_guest_that_writes():
    """sr-check finds no fault in what a guest writes or reads, and hinders neither it nor its snapshots."""
    with golden('two') as (d, vm, s):
        snaps = [d.snapshot(vm, 'first')]
        s.ask('count start')
        top, frozen = d.disks(vm)['0'], d.disks(snaps[0])['0']
        assert has_writer(d, top) and not has_writer(d, frozen)
        before = s.counters()
        for i in range(4):
            check = d.begin('sr-check', f'uuid={d.sr()}', stdout=subprocess.PIPE, text=True)
            snaps.append(d.snapshot(vm, f's{i}'))
            report = check.communicate()[0]
            assert check.returncode == 0 and ' 0 problems' in report, report
        report = d.xe('sr-check', uuid=d.sr())
        assert report.count('running VM has it open') == 2, report
        assert len(report.split('\n')) == 3, f'a frozen layer was not checked: {report}'
        assert s.counters()['a'] > before['a'] and s.fields('status')['a.errors'] == '0'
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert d.xe('sr-check', uuid=d.sr()).startswith(f'{len(d.volumes())} volumes checked, ')
        d.check()


def forged_header(d):
    """Of an image whose backing file is one of the host's."""
    path = os.path.join(d.state, 'forged')
    subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', '-u', '-b', '/etc/passwd', '-F', 'raw', path,
                    '1G'], check=True)
    with open(path, 'rb') as f:
        return f.read(512)


def test_raw_disk_that_looks_like_an_image():
    """A guest writes an image's header onto its raw disk: nothing takes it for one."""
    with golden('two') as (d, vm, s):
        raw = d.xe('vdi-create', 'sm-config:type=raw', sr_uuid=d.sr(), name_label='raw', virtual_size='64MiB')
        file = os.path.join(d.state, 'sr', d.get('vdi', raw, 'location') + '.raw')
        out = os.path.join(d.state, 'out')
        forged = forged_header(d)

        def is_forged(path, size):
            with open(path, 'rb') as f:
                assert os.fstat(f.fileno()).st_size == size and f.read(512) == forged
                assert not f.read().strip(b'\0')

        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=raw, device=2)
        d.xe('vbd-plug', uuid=vbd)
        end = time.time() + 20 * SLOW
        while bytes_seen(s, 'vdc') != 64 * MIB:
            assert time.time() < end, 'the guest does not see its disk'
            time.sleep(0.2)
        text = base64.b64encode(forged.rstrip(b'\0')).decode()
        s.ask(f'shell echo {text} | base64 -d | dd of=/dev/vdc conv=notrunc,fsync 2>/dev/null')
        d.xe('vdi-resize', uuid=raw, disk_size='96MiB')
        while bytes_seen(s, 'vdc') != 96 * MIB:
            assert time.time() < end, f'the guest sees {bytes_seen(s, "vdc")} bytes'
            time.sleep(0.2)
        d.fails('vdi-snapshot', uuid=raw, says='Raw VDI')
        d.fails('vm-snapshot', uuid=vm, new_name_label='s', says='Raw VDI')
        d.kill()                            # adopted as what it is
        d.start()
        d.xe('vbd-unplug', uuid=vbd)
        is_forged(file, 96 * MIB)
        d.xe('vbd-plug', uuid=vbd)
        s.ask('poweroff')
        d.wait_state(vm, 'halted')
        d.xe('vdi-resize', uuid=raw, disk_size='128MiB')
        is_forged(file, 128 * MIB)
        d.xe('sr-scan', uuid=d.sr())
        assert int(d.get('vdi', raw, 'virtual-size')) == 128 * MIB
        d.xe('vdi-export', uuid=raw, filename=out)
        is_forged(out, 128 * MIB)
        copy = d.xe('vdi-copy', uuid=raw)
        assert 'backing-filename' not in image(d, copy) and image(d, copy)['virtual-size'] == 128 * MIB
        os.unlink(out)
        d.xe('vdi-export', uuid=copy, filename=out)
        is_forged(out, 128 * MIB)
        with d.boot(vm) as s:
            assert bytes_seen(s, 'vdc') == 128 * MIB    # it has no use for what it wrote, and formats it
            s.ask('poweroff')
        d.wait_state(vm, 'halted')
        with open(file, 'rb') as f:
            assert f.read(512) == bytes(512) and f.seek(1080) and f.read(2) == b'\x53\xef'
        d.check()


main(globals())
