#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""VMs that stand still since their storage is full: told once, let go on when there is room, and only they."""
import json, os, re, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from layers import wait_for
from full import Full


WAIT_S = 0.5 * SLOW     # for a guest to be let go on, and twice as long when it stands soon again
OFTEN = {'full-wait': WAIT_S / 5, 'timer-full': 0.05}


def stop_for_room(d, vm, **more):
    """What happens to a guest while no daemon looks."""
    path = os.path.join(d.state, 'run', vm, 'fake.json')
    with open(path) as f:
        state = json.load(f)
    with open(path, 'w') as f:
        json.dump({**state, 'paused': True, 'full': True, **more}, f)


def times(d, what):
    """When that was logged, in seconds."""
    found = re.findall(rf'^\S+T(\d+):(\d+):([\d.]+)Z \S+.* {what} vm=', d.log(), re.M)
    return [int(h) * 3600 + int(m) * 60 + float(s) for h, m, s in found]


def messages(d, name):
    return len(d.list('message', name=name))


def test_goes_on_by_itself():
    with Daemon('fake', delays=OFTEN) as d:
        full, user = d.vm('full', disks=1), d.vm('user', disks=1)
        for vm in (full, user):
            d.xe('vm-start', uuid=vm)
        d.xe('vm-pause', uuid=user)
        d.stop()
        stop_for_room(d, full)
        d.start()
        assert d.state_of(full) == 'paused' and messages(d, 'VM_PAUSED_STORAGE_FULL') == 1
        d.restart()                                     # it is told once
        assert messages(d, 'VM_PAUSED_STORAGE_FULL') == 1
        d.wait_state(full, 'running', 20)
        assert messages(d, 'VM_RESUMED_STORAGE_ROOM') == 1
        d.xe('vm-pause', uuid=full)                     # from now on it is the user's
        time.sleep(3 * WAIT_S)
        assert d.state_of(user) == d.state_of(full) == 'paused'
        d.xe('vm-unpause', uuid=full)
        d.check()


def test_stops_again():
    """What is free does not help: tried again after a longer and longer time, and the row is right."""
    with Daemon('fake', delays=OFTEN) as d:
        vm = d.vm('full', disks=1)
        d.xe('vm-start', uuid=vm)
        d.stop()
        stop_for_room(d, vm, **{'stays-full': True})
        d.start()
        wait_for(lambda: messages(d, 'VM_RESUMED_STORAGE_ROOM') == 1)
        d.wait_state(vm, 'paused', 10)
        wait_for(lambda: messages(d, 'VM_PAUSED_STORAGE_FULL') == 2)
        sr = d.get('sr', d.sr(), 'name-label')
        body = d.get('message', d.list('message', name='VM_PAUSED_STORAGE_FULL')[-1], 'body')
        assert f"SR '{sr}' (uuid: {d.sr()}) is full: " in body and 'disk disk-0' in body, body
        wait_for(lambda: len(times(d, 'guest went on after its storage was full')) == 3)
        stood, went_on = times(d, 'storage full'), times(d, 'guest went on after its storage was full')
        for wait, since, until in zip((WAIT_S, 2 * WAIT_S, 4 * WAIT_S), stood, went_on):
            assert until - since > 0.9 * wait, f'tried again too soon: {stood}, {went_on}'
        d.xe('vm-unpause', uuid=vm)                     # nor does the user's wish help
        d.wait_state(vm, 'paused', 10)
        d.check()


def test_what_works_meanwhile():
    """A VM that stands is snapshotted, reverted, shut down and deleted like a paused one."""
    with Daemon('fake', delays=OFTEN) as d:
        vm = d.vm('full', disks=1)
        first = d.snapshot(vm, 'first')
        for deed in (lambda: d.xe('snapshot-revert', uuid=first),
                     lambda: d.xe('vm-shutdown', '--force', uuid=vm),
                     lambda: (d.xe('snapshot-uninstall', '--force', uuid=d.snapshot(vm, 'second')),
                              d.xe('vm-shutdown', '--force', uuid=vm)),
                     lambda: d.xe('vm-uninstall', '--force', uuid=vm)):
            d.xe('vm-start', uuid=vm)
            d.stop()
            stop_for_room(d, vm, **{'stays-full': True})
            d.start()
            assert d.state_of(vm) == 'paused'
            deed()
            assert not d.list('vm') or d.state_of(vm) == 'halted'
            time.sleep(2 * WAIT_S)                      # it is not looked after any more
            d.check()
        assert 'guest went on' not in d.log()

def test_a_delete_needs_no_room():
    """Also where the database has as little of it as the disks."""
    with Full(64) as full:
        state = os.path.join(full.folder, 'state')
        os.mkdir(state)
        d = Daemon('fake', state=state)
        try:
            vm = d.vm('vm', disks=2)
            snaps = [d.snapshot(vm, f's{i}') for i in range(5)]
            many = [d.vdi('1MiB') for _ in range(60)]
            d.restart()                                 # its write-ahead log is empty
            full.fill()
            d.fails('vdi-create', sr_uuid=d.sr(), name_label='bad', virtual_size='1GiB', says='space')
            for disk in many:
                d.xe('vdi-destroy', uuid=disk)
                full.fill()                             # what became free is gone again
            d.xe('snapshot-uninstall', '--force', uuid=snaps[0])
            d.stop()
            full.fill()
            d.start()                                   # that works, too
            disks = d.disks(vm).values()
            d.xe('vm-uninstall', '--force', uuid=vm)
            for disk in disks:
                d.xe('vdi-destroy', uuid=disk)
            assert d.volumes() == []
            d.check()
        finally:
            d.stop()


main(globals())
