#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""QEMU killed, the daemon killed, the guest stopped in its tracks, at random moments of start, shutdown,
plug and unplug: afterwards rows, run files and processes say the same.

What a VM has is asked of its QEMU itself, with the daemon gone.  ROUNDS and SEED in the environment."""
import json, os, random, signal, socket, subprocess, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

ROUNDS = int(os.environ.get('ROUNDS', '12'))
VMS = 3


def qmp(d, vm, command, **arguments):
    """One question to a QEMU whose daemon is gone."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30 * SLOW)
    s.connect(os.path.join(d.state, 'run', vm, 'qmp.sock'))
    f = s.makefile('rw')
    f.readline()
    for c in ({'execute': 'qmp_capabilities'}, {'execute': command, 'arguments': arguments}):
        f.write(json.dumps({**c, 'id': 'asked'}) + '\n')
        f.flush()
        while (answer := json.loads(f.readline())).get('id') != 'asked':
            pass
    s.close()
    return answer.get('return')


class World:
    def __init__(self, d):
        self.d = d
        self.vms, self.vbds, self.vifs = [], {}, {}
        for i in range(VMS):
            vm = guest_vm(d, f'vm{i}', disks=1, start=False)
            self.vms.append(vm)
            vdi = d.vdi('64MiB', f'spare {i}')
            self.vbds[vm] = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=vdi, device=4)
            self.vifs[vm] = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=2)

    def deed(self, vm):
        return random.choice([
            ('vm-start', f'uuid={vm}'), ('vm-start', f'uuid={vm}'),
            ('vm-shutdown', f'uuid={vm}', '--force'), ('vm-shutdown', f'uuid={vm}'),
            ('vm-reboot', f'uuid={vm}', '--force'),
            ('vbd-plug', f'uuid={self.vbds[vm]}'), ('vbd-unplug', f'uuid={self.vbds[vm]}'),
            ('vif-plug', f'uuid={self.vifs[vm]}'), ('vif-unplug', f'uuid={self.vifs[vm]}')])

    # ---- what goes wrong ----

    def kill_daemon(self):
        self.d.kill()
        self.d.start()

    def kill_qemu(self):
        for pid in random.sample(sorted(self.d.guests().values()), min(1, len(self.d.guests()))):
            os.kill(pid, signal.SIGKILL)

    def kill_both(self):
        self.d.kill()
        self.kill_qemu()
        self.d.start()

    def stop_qemu(self):
        """It hangs for a while, and goes on."""
        for pid in list(self.d.guests().values())[:1]:
            try:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(random.uniform(0.1, 2))
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass

    # ---- what must hold ----

    def row(self, record, uuid, name):
        return self.d.get(record, uuid, name)

    def check(self):
        d = self.d
        self.settled()
        rows = {vm: (d.state_of(vm), self.row('vbd', self.vbds[vm], 'currently-attached') == 'true',
                     self.row('vif', self.vifs[vm], 'currently-attached') == 'true') for vm in self.vms}
        d.check()
        d.kill()                               # now nobody but us talks to the QEMUs
        try:
            alive = d.guests()
            for vm, (state, vbd, vif) in rows.items():
                assert (state == 'running') == (vm in alive), (vm, state, alive)
                if state != 'running':
                    assert state == 'halted' and not vbd and not vif, (vm, state, vbd, vif)
                    continue
                names = {p['name'] for p in qmp(d, vm, 'qom-list', path='/machine/peripheral')}
                assert ('disk-4' in names) == vbd, (vm, names, vbd)
                assert ('nic-2' in names) == vif, (vm, names, vif)
        finally:
            d.start()

    def settled(self):
        end = time.time() + 90 * SLOW
        while True:
            try:
                self.d.check()
                return
            except AssertionError:
                if time.time() > end:
                    raise
                time.sleep(0.2)


def one_round(w):
    d = w.d
    words = [w.deed(vm) for vm in random.sample(w.vms, 2)]
    ran = [d.begin(*x, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for x in words]
    time.sleep(random.choice([0.02, 0.1, 0.4, 1.0]) * random.random())
    fault = random.choice([w.kill_daemon, w.kill_daemon, w.kill_qemu, w.kill_both, w.stop_qemu])
    fault()
    for p in ran:
        p.wait(300 * SLOW)
    return words, fault.__name__


def test_rows_files_and_processes_agree():
    random.seed(SEED)
    with Daemon() as d:
        w = World(d)
        for i in range(ROUNDS):
            words, fault = one_round(w)
            try:
                w.check()
            except Exception:
                print('round', i, words, fault, flush=True)
                raise
        print('rounds', ROUNDS, flush=True)


main(globals())
