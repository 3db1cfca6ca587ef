# SPDX-License-Identifier: Apache-2.0
"""Forced shutdowns at moments drawn by lot, beside whatever a VM does.

What has to hold each time: the daemon lives; a shutdown that says that it has succeeded has left a VM that does not run;
row, process and drives agree; and now and then, when all is quiet, what Daemon.check() looks at.
"""
import collections, subprocess, time
from sf import *

# The state that each begins in, and its words; {snap} is a snapshot of the VM, {memory} a checkpoint.
DEEDS = {
    'start': ('halted', ('vm-start', 'uuid={vm}')),
    'resume': ('suspended', ('vm-resume', 'uuid={vm}')),
    'suspend': ('running', ('vm-suspend', 'uuid={vm}')),
    'snapshot': ('running', ('vm-snapshot', 'uuid={vm}', 'new-name-label=s')),
    'checkpoint': ('running', ('vm-checkpoint', 'uuid={vm}', 'new-name-label=c')),
    'revert': ('running', ('snapshot-revert', 'snapshot-uuid={snap}')),
    'revert to memory': ('running', ('snapshot-revert', 'snapshot-uuid={memory}')),
    'reset': ('running', ('vm-reboot', '--force', 'uuid={vm}')),
    'reboot': ('running', ('vm-reboot', 'uuid={vm}')),
    'pause': ('running', ('vm-pause', 'uuid={vm}')),
    'shutdown': ('running', ('vm-shutdown', '--force', 'uuid={vm}')),
    'snapshot of a sleeper': ('suspended', ('vm-checkpoint', 'uuid={vm}', 'new-name-label=c')),
}

WAYS = {('halted', 'running'): ['vm-start'], ('suspended', 'running'): ['vm-resume'], ('paused', 'running'): ['vm-unpause'],
        ('running', 'suspended'): ['vm-suspend'], ('running', 'halted'): ['vm-shutdown', '--force'],
        ('suspended', 'halted'): ['vm-shutdown', '--force'], ('paused', 'halted'): ['vm-shutdown', '--force']}


class Forced:
    def __init__(self, d, vm, seconds, deeds=tuple(DEEDS), processes=None):
        """seconds: that a deed takes at most; processes: the VMs that have one, by uuid."""
        self.d, self.vm, self.seconds, self.deeds = d, vm, seconds, deeds
        self.processes = processes or d.fakes
        self.bring('running')
        self.snap = d.snapshot(vm)
        self.memory = d.xe('vm-checkpoint', uuid=vm, new_name_label='memory')
        self.seen = collections.Counter()

    def bring(self, state):
        """To the state, by way of running."""
        now = self.d.state_of(self.vm)
        for to in ('running', state):
            if now not in (to, state):
                words = WAYS[now, to]
                self.d.xe(*words, uuid=self.vm)
                now = to

    def begin(self, words):
        words = [w.format(vm=self.vm, snap=self.snap, memory=self.memory) for w in words]
        return self.d.begin(*words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def round(self, n):
        name = dice.choice(self.deeds)
        state, words = DEEDS[name]
        self.bring(state)
        p = self.begin(words)
        time.sleep(dice.random() * self.seconds)
        status, _, said = self.d.run('vm-shutdown', '--force', uuid=self.vm)
        what = p.communicate(timeout=300 * SLOW)[1].decode()
        where = f'round {n}, {name} ({p.returncode}: {what.strip()[-200:]}), shutdown {status} ({said.strip()[-200:]})'
        assert self.d.process.poll() is None, f'{where}: the daemon died'
        self.agrees(name, status, where)
        self.seen[name, p.returncode, status] += 1
        for snap in set(self.d.list('snapshot', snapshot_of=self.vm)) - {self.snap, self.memory}:
            self.d.xe('snapshot-uninstall', '--force', uuid=snap)
        if n % 20 == 19:
            self.d.check()

    def agrees(self, name, status, where):
        """A revert that was recorded behind the shutdown has its own state: it does not run."""
        still = ('halted', 'suspended') if name == 'revert to memory' else ('halted',)
        wait_for(lambda: (self.d.state_of(self.vm) in ('running', 'paused')) == (self.vm in self.processes()), 10,
                 lambda: f'{where}: {self.d.state_of(self.vm)}, {self.processes().keys()}')
        now = self.d.state_of(self.vm)
        assert status or now in still, f'{where}: it is {now}'
        attached = self.d.sql("SELECT VBD.currently_attached FROM VBD JOIN VM ON VBD.VM = VM.ref "
                              f"WHERE VM.uuid = '{self.vm}' AND VBD.type = 'Disk'")
        assert set(attached) == {'false' if now == 'halted' else 'true'}, f'{where}: {now}, {attached}'
        assert now == 'suspended' or not self.d.sql(f"SELECT 1 FROM VM JOIN VDI ON VM.suspend_VDI = VDI.ref WHERE VM.uuid = '{self.vm}'")

    def run(self, rounds):
        for n in range(rounds):
            self.round(n)
        self.bring('halted')
        self.d.check()
        for (name, deed, shutdown), times in sorted(self.seen.items()):
            print(f'  {name}: {"done" if deed == 0 else "failed"}, shutdown {"done" if shutdown == 0 else "refused"}: {times}')
