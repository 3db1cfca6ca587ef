#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""No flushed write is ever lost: the daemon is killed at the points of a snapshot; the guest, which knows
nothing of it, writes a mark and flushes it; then its QEMU is killed too.  After the next start the
mark is on the VM's disk, whichever layer the guest was writing."""
import os, signal, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *


def test_marks():
    with Daemon() as d:
        vm, written = guest_vm(d, disks=2, start=False), []
        for n in dying_points(100):
            with marks_are_there(d, vm, written) as serial:
                d.kill()
                d.start(env={'STILLFRAME_CRASH_AT': str(n)})
                status = d.run('vm-snapshot', uuid=vm, new_name_label=f'at {n}')[0]
                serial.ask(f'mark m{n}')
                written.append(f'm{n}')
                os.kill(d.guests()[vm], signal.SIGKILL)
            if status == 0:
                d.kill()            # it still has its point ahead
            else:
                d.process.wait()
            d.start()
            d.check()
            assert d.state_of(vm) == 'halted'
            if status == 0:
                break
        marks_are_there(d, vm, written).close()
        print(f'  {len(written)} marks, none lost')


def marks_are_there(d, vm, written):
    """Boots the guest, for its disk is the question, and it finds on each disk what was written before."""
    serial = d.boot(vm)
    for disk, marks in serial.fields('marks').items():
        lost = set(written) - set(marks.split(','))
        assert not lost, f'after point {len(written)}: disk {disk} lost {lost}'
    return serial


main(globals())
