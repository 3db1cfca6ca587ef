#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A forced shutdown beside whatever a VM does: ROUNDS in the environment, 40 else."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from forced import Forced

ROUNDS = int(os.environ.get('ROUNDS', '40'))


def test_forced():
    with Daemon('fake', delays={'fake-hang': 0.05}) as d:
        vm = d.vm(disks=2, size='1MiB')
        Forced(d, vm, 0.06 * SLOW).run(ROUNDS)


def test_two_at_once():
    """Both say that it is shut down, and so it is."""
    with Daemon('fake') as d:
        vm = d.vm(disks=1, size='1MiB')
        for _ in range(ROUNDS // 8):
            d.xe('vm-start', uuid=vm)
            both = [d.begin('vm-shutdown', '--force', f'uuid={vm}', stderr=subprocess.PIPE) for _ in range(2)]
            said = [p.communicate()[1] for p in both]
            assert 0 in [p.returncode for p in both], said
            assert d.state_of(vm) == 'halted' and not d.fakes()
        d.check()


def test_one_that_ends_just_then():
    """A guest that ends by itself, and would be started again, while it is shut down by force: it stays down."""
    with Daemon('fake', delays={'restart-pause': 0.01}) as d:
        vm = d.vm(disks=1, size='1MiB')
        d.xe('vm-param-set', 'actions-after-crash=restart', 'actions-after-shutdown=restart', uuid=vm)
        for n in range(ROUNDS // 4):
            if d.state_of(vm) == 'halted':
                d.xe('vm-start', uuid=vm)
            fake = os.path.join(d.state, 'run', vm, 'fake.json')
            os.unlink(fake)                                     # its end is told of at the next word to it
            p = d.begin('vm-shutdown', f'uuid={vm}', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(dice.random() * 0.02 * SLOW)
            status, _, said = d.run('vm-shutdown', '--force', uuid=vm)
            p.wait()
            if status == 0:
                time.sleep(0.3)
                assert d.state_of(vm) == 'halted' and vm not in d.fakes(), f'round {n}: it was started again'
        d.check()


def test_it_ended_meanwhile():
    """What the user asked of a VM meets its end: that is said, and nothing is left of what had been begun."""
    with Daemon('fake') as d:
        vm = d.vm(disks=2, size='1MiB')
        for words in (('vm-pause',), ('vm-snapshot', 'new-name-label=s'), ('vm-checkpoint', 'new-name-label=c'), ('vm-suspend',),
                      ('vm-reboot', '--force')):
            d.xe('vm-start', uuid=vm)
            ref, = d.sql(f"SELECT ref FROM VM WHERE uuid = '{vm}'")
            os.unlink(os.path.join(d.state, 'run', vm, 'fake.json'))    # nothing tells of its end but what is asked of it
            said = d.fails(*words, uuid=vm)
            assert said.endswith(f'Error code: VM_HALTED\nError parameters: {ref}\n'), (words, said)
            assert not d.list('snapshot'), words
            d.xe('vm-shutdown', '--force', uuid=vm)
            d.check()


main(globals())
