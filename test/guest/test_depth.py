#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Two hundred layers: a VM starts on them and a new daemon finds it again, its chain gets short while it runs, each
snapshot is what it was, and with the last of them gone there is one volume."""
import os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden

LAYERS = int(os.environ.get('LAYERS', '200'))


def depth(d, vm):
    """Layers below what the VM writes."""
    below = dict(r.split(' ') for r in d.sql("SELECT location || ' ' || parent_location FROM VDI"))
    volume, n = d.get('vdi', d.disks(vm)['0'], 'location'), 0
    while volume := below[volume]:
        n += 1
    return n


def written(d, vm, n):
    """The guest writes files of its own; their sums."""
    with Serial(d, vm) if d.state_of(vm) == 'running' else d.boot(vm) as serial:
        total = serial.ask(f'write a file{n} 2 {n}').split('sum=')[1]
        serial.ask('write a same 1 %d' % (n + 7))
        same = serial.ask('sum a same').split('sum=')[1]
        serial.ask('shell sync')
    d.xe('vm-shutdown', '--force', uuid=vm)
    return {f'file{n}': total, 'same': same}


def right(serial, sums):
    for name, total in sums.items():
        assert serial.ask(f'sum a {name}').split('sum=')[1] == total, name


def test_deep():
    with golden() as (d, vm, s):
        s.close()
        # A VM that runs on a long chain gets a short one: not yet.
        d.xe('sr-param-set', 'other-config:chain-max=1000', uuid=d.sr())
        sums, snaps, first = {}, [], time.time()
        for n in range(LAYERS):
            if n in (0, LAYERS // 2 - 1, LAYERS - 1):
                sums.update(written(d, vm, n))
            snaps.append((d.snapshot(vm, f's{n}'), dict(sums)))
        assert depth(d, vm) == LAYERS

        print(f'  made in {time.time() - first:.1f} s', flush=True)
        log = os.path.join(d.state, 'run', vm, 'serial.log')
        after, begin = os.path.getsize(log), time.time()
        d.xe('vm-start', uuid=vm)
        started = time.time() - begin
        d.xe('sr-param-set', 'other-config:chain-max=30', uuid=d.sr())
        d.kill()
        begin = time.time()
        d.start()
        adopted = time.time() - begin
        assert d.state_of(vm) == 'running'
        with Serial(d, vm, after) as serial:
            serial.wait_ready()
            booted = time.time() - begin
            right(serial, sums)
            while depth(d, vm) > 31:
                assert time.time() < begin + 60 * SLOW, f'{depth(d, vm)} layers\n{d.log()[-3000:]}'
                time.sleep(0.1)
            d.wait_quiet()
            shortened = time.time() - begin
            right(serial, sums)
            serial.ask('write a same 1 3')
        print(f'  {LAYERS} layers: started in {started:.2f} s, adopted in {adopted:.2f} s, booted after {booted:.1f} s, '
              f'{depth(d, vm)} are left after {shortened:.1f} s', flush=True)

        for n in (0, LAYERS // 2 - 1, LAYERS - 1):
            snap, then = snaps[n]
            d.xe('snapshot-revert', uuid=snap)
            begin = time.time()
            with d.boot(vm) as serial:
                print(f'  snapshot {n + 1}: booted in {time.time() - begin:.1f} s', flush=True)
                right(serial, then)
        begin = time.time()
        for snap, _ in snaps:
            d.xe('snapshot-uninstall', '--force', uuid=snap)
        d.wait_quiet()
        d.check()
        assert len(d.volumes()) == 1, d.volumes()
        print(f'  all deleted and merged in {time.time() - begin:.1f} s')
        d.xe('vm-shutdown', '--force', uuid=vm)
        with d.boot(vm) as serial:
            right(serial, then)


main(globals())
