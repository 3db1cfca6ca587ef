#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A campaign: the daemon is killed at random moments under the load of several clients, again and again.
What was acknowledged is there after the next start, nothing is half-done, and the world is whole.
SECONDS and SEED may be given in the environment; the seed is printed."""
import os, random, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

CLIENTS = 4


class Client(threading.Thread):
    """Works on a VM of its own; knows what was acknowledged, and what was begun when the daemon died."""

    def __init__(self, d, vm, seed):
        super().__init__()
        self.d, self.vm, self.random = d, vm, random.Random(seed)
        self.snaps, self.doubtful, self.acked, self.ended = set(), set(), 0, False

    def run(self):
        while not self.ended:
            what = self.random.choice(('snapshot', 'snapshot', 'revert', 'delete', 'clone'))
            snap = self.random.choice(sorted(self.snaps)) if self.snaps else None
            try:
                if what == 'snapshot' and len(self.snaps) < 8:
                    self.snaps.add(self.d.snapshot(self.vm, 's', timeout=60))
                elif what == 'revert' and snap:
                    self.d.xe('snapshot-revert', uuid=snap)
                elif what == 'delete' and snap:
                    self.snaps.discard(snap)
                    self.doubtful.add(snap)
                    self.d.xe('snapshot-uninstall', '--force', uuid=snap)
                    self.doubtful.discard(snap)
                elif what == 'clone' and snap:
                    clone = self.d.xe('snapshot-clone', uuid=snap, new_name_label='c')
                    self.d.xe('template-uninstall', '--force', template_uuid=clone)
                self.acked += 1
            except Failed:
                return


def test_random_kills():
    seconds = float(os.environ.get('SECONDS', '60'))
    dice, kills, acked = random.Random(SEED), 0, 0
    with Daemon('fake') as d:
        vms = [d.vm(f'vm {i}', disks=2, size='4MiB') for i in range(CLIENTS)]
        known = {vm: set() for vm in vms}
        end = time.time() + seconds
        while time.time() < end:
            clients = [Client(d, vm, dice.random()) for vm in vms]
            for c in clients:
                c.snaps = set(known[c.vm])
                c.start()
            time.sleep(dice.uniform(0.05, 1.0))
            d.kill()
            kills += 1
            for c in clients:
                c.ended = True
                c.join()
            d.start()
            d.check()
            for c in clients:
                there = set(d.list('snapshot', snapshot_of=c.vm))
                lost = c.snaps - there
                assert not lost, f'acknowledged and lost: {lost}'
                assert len(d.disks(c.vm)) == 2
                known[c.vm] = there
                acked += c.acked
    print(f'  {kills} kills, {acked} acknowledged operations, none lost')


main(globals())
