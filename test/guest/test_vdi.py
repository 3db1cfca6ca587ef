#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Disks by themselves, of a real guest that writes them: a snapshot, a clone, and growing."""
import fcntl, json, os, struct, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

MIB = 1 << 20


def image(d, disk):
    path = os.path.join(d.state, 'sr', d.get('vdi', disk, 'location') + '.qcow2')
    return json.loads(subprocess.run(['qemu-img', 'info', '-U', '--output=json', path], check=True,
                                     capture_output=True).stdout)


def bytes_seen(s, name='vdb'):
    return int(s.ask(f'shell cat /sys/block/{name}/size').replace('\\n', '')) * 512


def test_snapshot_of_one_disk_while_it_is_written():
    with Daemon() as d:
        vm = guest_vm(d, disks=2, size='64MiB', start=False)
        with d.boot(vm) as s:
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
    with Daemon() as d:
        vm = guest_vm(d, disks=2, size='64MiB', start=False)
        with d.boot(vm) as s:
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
    with Daemon() as d:
        vm = guest_vm(d, disks=2, size='64MiB', start=False)
        snaps = [d.snapshot(vm, 'first')]
        with d.boot(vm) as s:
            s.ask('count start')
            top, frozen = d.disks(vm)['0'], d.disks(snaps[0])['0']
            assert has_writer(d, top) and not has_writer(d, frozen)
            before = s.counters()
            for i in range(4):
                check = subprocess.Popen([os.path.join(BUILD, 'xe'), 'sr-check', f'uuid={d.sr()}'],
                                         env={**os.environ, 'STILLFRAME_STATE': d.state, 'HOME': d.state},
                                         stdout=subprocess.PIPE, text=True)
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


main(globals())
