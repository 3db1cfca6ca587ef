#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""physical-utilisation and virtual-allocation say what du says, after whatever was done."""
import os, random, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

MIB = 1 << 20
OFTEN = {'timer-sizes': 0.1}            # each second: that storage grew is noticed by a look


def du(d, folder='sr'):
    folder = os.path.join(d.state, folder)
    return sum(os.stat(os.path.join(folder, f)).st_blocks * 512 for f in os.listdir(folder) if f != 'sr-uuid')


def wrong(d):
    """What the records say differently from the storage; '' for nothing."""
    sr = d.sr()
    size = lambda **kw: sum(int(n) for n in d.list('vdi', 'virtual-size', sr_uuid=sr, **kw))
    told = int(d.get('sr', sr, 'physical-utilisation')), int(d.get('sr', sr, 'virtual-allocation'))
    true = du(d), size(managed='true')
    disks = sum(int(n) for n in d.list('vdi', 'physical-utilisation', sr_uuid=sr))
    if told != true or disks != true[0]:
        return f'the SR says {told}, its disks {disks}, the storage {true}'
    return ''


def wait_right(d, seconds=25):
    end = time.time() + seconds * SLOW
    while wrong(d):
        assert time.time() < end, wrong(d)
        time.sleep(0.1)


def guest_writes(d, disk, mib):
    """The fake VMM's guests do not."""
    path = os.path.join(d.state, 'sr', d.get('vdi', disk, 'location') + '.qcow2')
    subprocess.run(['qemu-io', '-f', 'qcow2', '-c', f'write 0 {mib}M', path], check=True,
                   stdout=subprocess.DEVNULL)


def test_any_series():
    rng = random.Random(SEED)
    with Daemon('fake', delays=OFTEN) as d:
        vm = d.vm('vm', disks=2, size='16MiB')
        raw = os.path.join(d.state, 'raw')
        made, deleted = [d.snapshot(vm, 'first')], 0

        def put():
            with open(raw, 'wb') as f:
                f.write(rng.randbytes(rng.randrange(1, 8) * MIB))
            d.xe('vdi-import', uuid=rng.choice(list(d.disks(vm).values())), filename=raw)

        def uninstall():
            if made:
                d.xe('snapshot-uninstall', '--force', uuid=made.pop(rng.randrange(len(made))))

        def revert(*words):
            if made:
                d.xe('snapshot-revert', *words, uuid=rng.choice(made))

        def clone():
            d.xe('vm-clone', uuid=vm, new_name_label='clone')

        def destroy_disk():
            for name in ('alone', 'clone'):
                for disk in d.list('vdi', name_label=name)[:1]:
                    d.xe('vdi-destroy', uuid=disk)

        deeds = {
            'snapshot': lambda: made.append(d.snapshot(vm, 'more')),
            'import': put, 'uninstall': uninstall, 'revert': revert, 'clone': clone,
            'keep': lambda: revert('keep-current=true'),
            'resize': lambda: d.xe('vdi-resize', uuid=rng.choice(list(d.disks(vm).values())),
                                   disk_size=f'{rng.randrange(20, 64)}MiB'),
            'vdi-clone': lambda: d.xe('vdi-clone', uuid=rng.choice(list(d.disks(vm).values())),
                                      new_name_label='clone'),
            'vdi-copy': lambda: d.xe('vdi-copy', uuid=rng.choice(list(d.disks(vm).values()))),
            'create': lambda: d.vdi('8MiB', 'alone'), 'destroy': destroy_disk,
        }
        series = []
        for _ in range(40):
            name = rng.choice(list(deeds))
            series.append(name)
            try:
                deeds[name]()
            except Failed as e:
                assert 'smaller' in str(e) or 'size' in str(e), f'{series}: {e}'
            d.wait_quiet()          # layers are merged in the background
            wait_right(d, 10)
        d.check()


def test_while_a_guest_writes():
    with Daemon('fake', delays=OFTEN) as d:
        vm = d.vm('vm', disks=2, size='64MiB')
        one, two = d.disks(vm).values()
        d.xe('vm-start', uuid=vm)
        guest_writes(d, one, 10)
        wait_right(d)                                       # within seconds
        guest_writes(d, two, 5)
        d.xe('vm-shutdown', '--force', uuid=vm)             # at once
        wait_right(d)
        d.xe('vm-start', uuid=vm)
        guest_writes(d, one, 20)
        d.xe('vm-shutdown', uuid=vm)
        wait_right(d)
        d.xe('vm-start', uuid=vm)
        guest_writes(d, one, 30)
        snap = d.snapshot(vm)
        wait_right(d)
        guest_writes(d, one, 7)
        d.xe('vdi-clone', uuid=one)                         # what is below both is a base copy
        wait_right(d)
        guest_writes(d, one, 8)
        d.xe('snapshot-revert', uuid=snap)
        wait_right(d)
        d.check()


def test_nothing_is_written_for_nothing():
    """Rows of disks that do not grow wake nobody."""
    with Daemon('fake', delays=OFTEN) as d:
        vm = d.vm('vm', disks=2, size='64MiB')
        d.xe('vm-start', uuid=vm)
        time.sleep(1.2)
        generation = lambda: d.sql("SELECT max(gen) FROM VDI") + d.sql("SELECT max(gen) FROM SR")
        before = generation()
        time.sleep(1.2)
        assert generation() == before


main(globals())
