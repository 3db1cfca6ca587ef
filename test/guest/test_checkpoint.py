#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Memory and all disks of a real guest at one instant, and the way back.

The guest churns a file on a disk and one in its memory: a program in its memory knows what each block of both must
hold, so that memory and disks of two instants disagree.  CHECKPOINTS: how many (3); CYCLES: of checkpoint, work and
revert (2)."""
import contextlib, os, random, signal, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden
from faulty import Faulty
from layers import wait_for

CHECKPOINTS = int(os.environ.get('CHECKPOINTS', '3'))
CYCLES = int(os.environ.get('CYCLES', '2'))


def set_to_work(s, ram=48):
    s.churn('start', 'a', 32, 50)
    s.churn('start', None, ram, 50)
    s.ask('count start')


@contextlib.contextmanager
def busy_guest(ram=48, **how):
    with golden('two', **how) as (d, vm, s):
        set_to_work(s, ram)
        yield d, vm, s


def checkpoint(d, vm, name='c'):
    return d.xe('vm-checkpoint', uuid=vm, new_name_label=name)


def agrees(s):
    for disk in ('a', None):
        r = s.churn('report', disk)
        assert r['wrong'] == 0, (disk, r)


def ends_well(d, vm, s):
    """Every block of both files is what the guest's memory knows of it."""
    for disk in ('a', None):
        r = s.churn('stop', disk)
        assert r['wrong'] == 0, (disk, r)
    s.ask('count stop')
    assert len(set(s.counters().values())) == 1, s.counters()
    assert s.fields('status')['a.errors'] == '0'


def how(d, snap):
    return json.loads(d.sql(f"SELECT snapshot_info FROM VM WHERE uuid = '{snap}'")[0])


def test_memory_and_disks_agree():
    with busy_guest() as (d, vm, s):
        boot = s.fields('status')['boot']
        snaps = []
        for n in range(CHECKPOINTS):        # back to back
            snaps.append((checkpoint(d, vm, str(n)), float(s.fields('status')['uptime'])))
            agrees(s)
        pid = d.guests()[vm]
        with open(f'/proc/{pid}/status') as f:
            uid = int(re.search(r'^Uid:\s+(\d+)', f.read(), re.M)[1])
        assert os.getuid() != 0 or uid != 0, 'QEMU is root'
        for snap, _ in snaps:
            i = how(d, snap)
            assert i['method'] == 'background-snapshot', i
        print('  paused ms:', *[how(d, snap)['guest-pause-ms'] for snap, _ in snaps])
        dice = random.Random(1)
        dice.shuffle(snaps)
        for snap, uptime in snaps:
            s.close()
            d.xe('snapshot-revert', uuid=snap, resume='true')
            s = again(d, vm)
            now = s.fields('status')
            assert now['boot'] == boot and float(now['uptime']) < uptime + 30, (now, uptime)
            agrees(s)
        later = checkpoint(d, vm, 'later')      # an ordinary VM again
        agrees(s)
        d.xe('vm-pause', uuid=vm)
        d.xe('vm-unpause', uuid=vm)
        ends_well(d, vm, s)
        s.close()
        d.xe('snapshot-revert', uuid=later, resume='true')
        s = again(d, vm)
        ends_well(d, vm, s)
        d.check()


def more(first, now):
    return {k: (first[k], now[k]) for k in now if now[k] > first[k] and k != 'MiB'}


def held(d, vm):
    """What the daemon has, and what lies about: descriptors, threads, MiB; files of the SR, of the VMs' folders; rows."""
    pid = d.process.pid
    with open(f'/proc/{pid}/status') as f:
        kib = int(re.search(r'^RssAnon:\s+(\d+)', f.read(), re.M)[1])
    run = os.path.join(d.state, 'run')
    return {'descriptors of QEMU': len(os.listdir(f'/proc/{d.guests()[vm]}/fd')),
            'descriptors': len(os.listdir(f'/proc/{pid}/fd')), 'threads': len(os.listdir(f'/proc/{pid}/task')),
            'MiB': kib >> 10, 'volumes': len(d.volumes()), 'files': sum(len(f) for _, _, f in os.walk(run)),
            'rows': int(d.sql("SELECT (SELECT count(*) FROM VDI) + (SELECT count(*) FROM VBD) + (SELECT count(*) FROM VM)"
                              " + (SELECT count(*) FROM VIF) + (SELECT count(*) FROM journal)")[0])}


def test_nothing_leaks():
    """Checkpoint, work, revert, resume, and the checkpoint goes: again and again."""
    with busy_guest(ram=16) as (d, vm, s):
        first = None
        for n in range(CYCLES):
            snap = checkpoint(d, vm)
            agrees(s)
            s.close()
            d.xe('snapshot-revert', uuid=snap, resume='true')
            s = again(d, vm)
            agrees(s)
            d.xe('snapshot-uninstall', '--force', uuid=snap)
            wait_for(lambda: len(d.volumes()) == 2)         # the merge may not have begun
            d.wait_quiet()
            now = held(d, vm)
            first = first or now
            wait_for(lambda: not more(first, held(d, vm)), why=lambda: f'cycle {n}: {more(first, held(d, vm))}')
            # What the allocator keeps levels off; a ring that was kept would show in two cycles.
            assert now['MiB'] < first['MiB'] + 100, f'cycle {n}: {first} {now}'
        print(f'  {CYCLES} cycles: {first} then {now}')
        ends_well(d, vm, s)
        d.check()


def cpu_of(s):
    """All that a program in the guest can ask of its CPU, as it is now."""
    ask = lambda leaf, sub=0: tuple(int(v, 16) for v in s.fields(f'cpuid {leaf:x} {sub:x}').values())
    return {(leaf, sub): ask(leaf, sub) for first in (0, 0x40000000, 0x80000000)
            for leaf in range(first, ask(first)[0] + 1) for sub in range(20 if leaf == 0xd else 3)}


def cpu_option(d, vm):
    with open(f'/proc/{d.guests()[vm]}/cmdline') as f:
        words = f.read().split('\0')
    return words[words.index('-cpu') + 1]


def test_the_same_cpu():
    """It comes back with the CPU that it had, to the letter, or not at all."""
    with Daemon() as d:
        vm = guest_vm(d, start=False)           # boots: a golden guest has come back already
        s = d.boot(vm)
        had = cpu_of(s)
        assert len(had) > 80 and cpu_option(d, vm).startswith('max'), len(had)
        snaps = []
        for _ in range(2):
            snaps.append(checkpoint(d, vm))
            s.close()
            d.xe('snapshot-revert', uuid=snaps[-1], resume='true')
            s = again(d, vm)
            now = cpu_of(s)
            assert now == had, {k: (had.get(k), now.get(k)) for k in had | now if had.get(k) != now.get(k)}
            assert cpu_option(d, vm).startswith('base,enforce=on,'), cpu_option(d, vm)
        # Checkpoints of both say the same.
        assert len({cpu_note(d, snap) for snap in snaps}) == 1
        other = json.loads(cpu_note(d, snaps[0]))
        other['props'].update(avx512f=True, nonsense=True, sse2=True)
        renote(d.memory_of(snaps[0]), 'cpu', other)
        pid = d.guests()[vm]
        d.fails('snapshot-revert', uuid=snaps[0], says='its CPU has avx512f, nonsense, which this host does not give')
        assert d.guests()[vm] == pid and d.state_of(vm) == 'running'
        assert cpu_of(s) == had
        s.close()
        renote(d.memory_of(snaps[1]), 'cpu')    # as it was before there was such a note
        d.xe('snapshot-revert', uuid=snaps[1], resume='true')
        s = again(d, vm)
        assert cpu_option(d, vm).startswith('max') and cpu_of(s) == had
        s.close()
        d.check()


def cpu_note(d, snap):
    with open(d.memory_of(snap), 'rb') as f:
        data = f.read()
    table = json.JSONDecoder().raw_decode(data[data.rindex(b'{"machine"'):].decode(errors='replace'))[0]
    return json.dumps(table['notes']['cpu'], sort_keys=True)


def forks(s):
    """How often the guest was told by its VM generation ID that it is not the one it was."""
    return int(s.ask("shell dmesg | grep -c 'virtual machine fork' || true").split()[0].rstrip('\\n'))


def test_one_goes_and_one_is_damaged():
    with busy_guest() as (d, vm, s):
        before = forks(s)
        first, middle, third = [checkpoint(d, vm, n) for n in ('first', 'middle', 'third')]
        d.xe('snapshot-uninstall', '--force', uuid=middle)
        flip_bit(d.memory_of(third), FIRST_PAGE + 100)
        pid = d.guests()[vm]
        d.fails('snapshot-revert', uuid=third, says='damaged')
        assert d.guests()[vm] == pid and d.state_of(vm) == 'running'
        agrees(s)
        assert forks(s) == before
        s.close()
        d.xe('snapshot-revert', uuid=first, resume='true')
        s = again(d, vm)
        assert forks(s) == before + 1
        ends_well(d, vm, s)
        d.check()


HIDDEN = 'mount -t tmpfs none /mnt && touch /mnt/none && mount --bind /mnt/none /dev/userfaultfd && exec "$@"'


def without_userfaultfd():
    need_root()
    return busy_guest(under=('unshare', '-m', 'sh', '-c', HIDDEN, 'sh'))


def test_without_write_protection():
    """QEMU that may not use userfaultfd: another way is told, and it is as consistent."""
    with without_userfaultfd() as (d, vm, s):
        snap = checkpoint(d, vm)
        i = how(d, snap)
        assert i['method'] == 'pre-copy', i
        print('  pre-copy, paused ms:', i['guest-pause-ms'])
        agrees(s)
        s.close()
        d.xe('snapshot-revert', uuid=snap, resume='true')
        ends_well(d, vm, again(d, vm))
        d.check()


def test_suspend_and_resume():
    with busy_guest() as (d, vm, s):
        boot = s.fields('status')['boot']
        for _ in range(2):
            s.close()
            d.xe('vm-suspend', uuid=vm)
            assert d.state_of(vm) == 'suspended' and not d.guests()
            d.restart()
            snap = checkpoint(d, vm, 'suspended')
            d.xe('vm-resume', uuid=vm)
            s = again(d, vm)
            assert s.fields('status')['boot'] == boot
            agrees(s)
        s.close()
        d.xe('snapshot-revert', uuid=snap)
        d.xe('vm-resume', uuid=vm, paused='true')
        assert d.state_of(vm) == 'paused'
        paused = checkpoint(d, vm, 'paused')
        assert how(d, paused)['power-state-at-snapshot'] == 'Paused'
        d.xe('vm-unpause', uuid=vm)
        s = again(d, vm)
        agrees(s)
        s.close()
        d.xe('snapshot-revert', uuid=paused, resume='true')
        ends_well(d, vm, again(d, vm))
        d.check()


def test_a_guest_that_has_never_run():
    with Daemon() as d:
        vm = guest_vm(d, start=False)
        d.xe('vm-start', '--paused', uuid=vm)
        snap = checkpoint(d, vm)
        assert how(d, snap)['method'] == 'stop-and-copy', how(d, snap)
        again_ = checkpoint(d, vm)
        for revert in (False, True):
            if revert:
                d.xe('snapshot-revert', uuid=again_)
                d.xe('vm-resume', '--paused', uuid=vm)
            assert d.state_of(vm) == 'paused'
            before = os.path.getsize(os.path.join(d.state, 'run', vm, 'serial.log'))
            d.xe('vm-unpause', uuid=vm)
            with Serial(d, vm, before) as s:
                s.wait_ready()
        d.check()


def layer_below(d, vm):
    """A layer below the top that has something in it, and the snapshot without which it is to be merged."""
    for n in 'first', 'second':
        snap = d.snapshot(vm, n)
        time.sleep(1)
    return snap


def merged_while_it_stands(d, vm, snap):
    pid, before = d.guests()[vm], len(d.log())
    d.xe('snapshot-uninstall', '--force', uuid=snap)
    wait_for(lambda: 'layers merged' in d.log()[before:] or vm not in d.guests())
    d.wait_quiet()
    assert d.guests().get(vm) == pid and d.state_of(vm) == 'paused', d.log()[before:]


def test_merges_behind_a_migration():
    """It took the disks from QEMU, which aborts when a merge writes them, until a guest that stands goes on."""
    with without_userfaultfd() as (d, vm, s):
        snap = layer_below(d, vm)
        d.xe('vm-pause', uuid=vm)
        assert how(d, checkpoint(d, vm))['method'] == 'pre-copy'
        merged_while_it_stands(d, vm, snap)
        d.xe('vm-unpause', uuid=vm)
        agrees(s)
        snap = layer_below(d, vm)
        ends_well(d, vm, s)
        s.close()
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-start', '--paused', uuid=vm)
        assert how(d, checkpoint(d, vm))['method'] == 'stop-and-copy'
        merged_while_it_stands(d, vm, snap)
        d.check()


def test_the_clock():
    """A guest that was asleep is told the time, where there is an agent."""
    with golden() as (d, vm, s):
        def off():
            return time.time() - float(s.ask('shell date +%s').split()[0].rstrip('\\n'))

        def sleep():
            nonlocal s
            s.close()
            d.xe('vm-suspend', uuid=vm)
            time.sleep(8)
            status, _, said = d.run('vm-resume', uuid=vm)
            assert status == 0, said
            s = again(d, vm)
            return said
        wait_for(lambda: d.sql("SELECT 1 FROM VM_guest_metrics WHERE live = 'true'"))
        said = sleep()
        assert 'its clock was set by the guest agent' in said, d.log()[-1500:]
        assert abs(off()) < 3, off()
        s.close()
        d.xe('vm-suspend', uuid=vm)
        d.xe('vm-resume', '--paused', uuid=vm)
        time.sleep(4)
        d.xe('vm-unpause', uuid=vm)
        s = again(d, vm)
        assert abs(off()) < 3, off()
        s.ask('shell killall qemu-ga')
        time.sleep(1)
        said = sleep()
        assert 'its guest agent did not set it' in said, said
        assert off() > 5, off()
        s.close()


def test_a_variable_of_uefi():
    """A guest sets one while its memory is saved: it is not in the checkpoint, neither in its memory nor in its store."""
    with golden('uefi') as (d, vm, s):
        s.ask('variable Test before')
        s.churn('start', None, 160, 50)
        t = threading.Thread(target=lambda: results.append(d.run('vm-checkpoint', uuid=vm, new_name_label='c')))
        results, late = [], []
        t.start()
        wait_for(lambda: 'memory is being sent' in d.log())
        while t.is_alive():
            s.ask(f'variable Test late-{len(late)}')
            late.append(t.is_alive())
        t.join()
        assert results[0][0] == 0 and late.count(True) >= 1, (results, late)
        snap = results[0][1].strip()
        assert s.ask('variable Test').startswith('Test=late')
        s.close()
        d.xe('snapshot-revert', uuid=snap, resume='true')
        s = again(d, vm)
        assert s.ask('variable Test') == 'Test=before'
        s.ask('variable Other set')                 # QEMU writes the block over the store
        s.close()
        d.xe('vm-shutdown', '--force', uuid=vm)
        with d.boot(vm) as s:
            assert s.ask('variable Test') == 'Test=before' and s.ask('variable Other') == 'Other=set'
        d.check()


def test_storage_that_hangs():
    """The SR for memory does not answer any more: that costs the snapshot, and never the guest."""
    with Faulty() as fs, Daemon() as d:
        # It boots: its memory is more than is taken in while the storage does not answer.
        vm = guest_vm(d, disks=2, start=False, memory='512MiB')
        s = d.boot(vm)
        set_to_work(s, 16)
        s.fill(304)                                 # more than we take in
        d.xe('vm-param-set', f'suspend-SR-uuid={fs.sr(d)}', uuid=vm)
        t = threading.Thread(target=lambda: results.append(d.run('vm-checkpoint', uuid=vm, new_name_label='c')))
        results = []
        t.start()
        wait_for(lambda: 'memory is being sent' in d.log())
        os.kill(fs.process.pid, signal.SIGSTOP)
        try:
            longest, end = 0, time.time() + 300 * SLOW
            while 'taken in no more' not in d.log():
                begin = time.time()
                assert begin < end, 'it was not given up'
                s.ask('ping')
                longest = max(longest, time.time() - begin)
                d.xe('vm-list', uuid=vm)
            agrees(s)
            print(f'  longest wait of the guest {longest:.1f} s')
            assert longest < 10 and d.state_of(vm) == 'running'
        finally:
            os.kill(fs.process.pid, signal.SIGCONT)
        t.join()
        assert results[0][0] != 0 and 'does not answer' in results[0][2], results
        assert not d.list('snapshot')
        d.wait_quiet()
        assert not [f for f in os.listdir(fs.below) if f.endswith('.raw')]
        ends_well(d, vm, s)
        d.check()


def test_a_disk_that_was_unplugged_since():
    with busy_guest() as (d, vm, s):
        disk = d.vdi('64MiB')
        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=2)
        d.xe('vbd-plug', uuid=vbd)
        s.ask('count stop')
        end = time.time() + 60
        while s.fields('rescan')['disks'] != '3':
            assert time.time() < end, 'the guest does not see the disk'
            time.sleep(0.2)
        s.ask('mark plugged')
        snap = checkpoint(d, vm)
        s.ask('eject c')
        d.xe('vbd-unplug', uuid=vbd)
        s.close()
        d.xe('snapshot-revert', uuid=snap, resume='true')
        s = again(d, vm)
        marks = s.fields('marks')
        assert all('plugged' in marks[x] for x in 'abc'), marks
        s.ask('count start')
        ends_well(d, vm, s)


def test_killed_in_the_middle():
    """The daemon, then QEMU, while memory is taken: the guest runs on where it can, and nothing stays."""
    with busy_guest() as (d, vm, s):
        boot = s.fields('status')['boot']

        def begin():
            t = threading.Thread(target=lambda: d.run('vm-checkpoint', uuid=vm, new_name_label='c'))
            t.start()
            end = time.time() + 60
            while d.log().count('memory collapsed') == seen[0]:
                assert time.time() < end
                time.sleep(0.02)
            seen[0] += 1
            return t
        seen = [0]
        for wait in (0.05, 0.5, 1.5):
            t = begin()
            time.sleep(wait)
            d.kill()
            t.join()
            d.start()
            d.wait_quiet()
            assert d.state_of(vm) == 'running'
            assert s.fields('status')['boot'] == boot
            assert 'qcow2' not in os.readlink(f'/proc/{d.guests()[vm]}/fd/0'), 'a descriptor that is never closed'
            agrees(s)
            assert not d.sql("SELECT uuid FROM VDI WHERE type = 'suspend'") or d.list('snapshot')
            d.check()
        checkpoint(d, vm, 'after')
        t = begin()
        time.sleep(0.5)
        os.kill(d.guests()[vm], signal.SIGKILL)
        t.join()
        d.wait_state(vm, 'halted')
        d.check()


def test_cancel():
    with busy_guest() as (d, vm, s):
        t = threading.Thread(target=lambda: results.append(d.run('vm-checkpoint', uuid=vm, new_name_label='c')))
        results = []
        t.start()
        end = time.time() + 60
        while 'memory collapsed' not in d.log() and time.time() < end:
            time.sleep(0.02)
        time.sleep(0.3)
        d.run('task-cancel', uuid=d.pending('VM.checkpoint'))
        t.join()
        assert results[0][0] != 0 and 'cancelled' in results[0][2], results
        assert d.state_of(vm) == 'running' and not d.list('snapshot')
        agrees(s)
        checkpoint(d, vm, 'after')
        ends_well(d, vm, s)
        d.check()


def test_no_room():
    """The SR for memory fills up while memory is written: the guest runs on."""
    need_root()
    with FileSystem('ext4', 64) as fs, busy_guest() as (d, vm, s):
        d.xe('vm-param-set', f'suspend-SR-uuid={fs.sr(d)}', uuid=vm)
        d.fails('vm-checkpoint', uuid=vm, new_name_label='c', says='less room')
        d.sql_write(f"UPDATE VM SET memory_static_max = '{32 << 20}' WHERE uuid = '{vm}'")    # as if it were enough
        d.fails('vm-checkpoint', uuid=vm, new_name_label='c', says='insufficient space')
        assert d.state_of(vm) == 'running'
        agrees(s)
        d.fails('vm-suspend', uuid=vm, says='insufficient space')
        assert d.state_of(vm) == 'running'
        ends_well(d, vm, s)
        d.check()


main(globals())
