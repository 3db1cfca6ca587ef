#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""VMs as processes: they boot, outlive the daemon, run without rights, and their end is seen."""
import os, re, shutil, signal, subprocess, sys, tempfile
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from forced import Forced
from golden import golden


def test_outlives_the_daemon():
    with Daemon() as d:
        vm = guest_vm(d, disks=1, start=False, kernel='vmlinuz')
        s = d.boot(vm)
        boot = s.fields('status')['boot']
        d.restart()
        assert d.state_of(vm) == 'running'
        d.kill()
        s.ask('mark alone')
        d.start()
        assert d.state_of(vm) == 'running'
        assert s.fields('status')['boot'] == boot
        d.snapshot(vm)
        d.xe('vm-shutdown', uuid=vm)
        assert d.state_of(vm) == 'halted' and not d.guests()


def test_ends_are_seen_within_a_second():
    with golden() as (d, vm, s):
        s.ask('poweroff')
        while d.guests():
            time.sleep(0.02)
        d.wait_state(vm, 'halted', 1)
        d.boot(vm).close()
        os.kill(d.guests()[vm], signal.SIGKILL)
        d.wait_state(vm, 'halted', 1)
        d.boot(vm).close()
        d.kill()
        os.kill(d.guests()[vm], signal.SIGKILL)
        d.start()
        assert d.state_of(vm) == 'halted'
        d.check()


def test_ends_beside_a_checkpoint():
    """The user reads that the guest has ended, and nothing is left of the checkpoint: at its beginning, and while
    memory is being sent."""
    def begun():
        return 'checkpoint' in d.get('vm', vm, 'current-operations')

    def sending():
        return 'memory is being sent' in d.log()[before:]
    with golden() as (d, vm, s):
        for moment in begun, sending:
            before = len(d.log())
            p = d.begin('vm-checkpoint', f'uuid={vm}', 'new-name-label=c', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            wait_for(moment)
            os.kill(d.guests()[vm], signal.SIGKILL)
            said = p.communicate()[1].decode()
            assert p.returncode == 1 and 'VM_HALTED' in said, said
            d.wait_state(vm, 'halted', 10)
            assert not d.list('snapshot')
            d.boot(vm).close()
        d.check()


def test_reboots():
    with Daemon() as d:
        vm = guest_vm(d, disks=1, start=False)
        with d.boot(vm) as s:
            pid = d.guests()[vm]
            log = os.path.join(d.state, 'run', vm, 'serial.log')
            after = os.path.getsize(log)
            s.ask('reboot')
            Serial(d, vm, after).close()
        with Serial(d, vm, after) as s:
            s.wait_ready()
            assert d.guests()[vm] == pid, 'a reset is no new process'
        after = os.path.getsize(log)
        d.xe('vm-reboot', '--force', uuid=vm)
        with Serial(d, vm, after) as s:
            s.wait_ready()
        d.xe('vm-reboot', uuid=vm)
        assert d.state_of(vm) == 'running'


def test_without_rights():
    with golden('two') as (d, vm, _):
        pid = d.guests()[vm]
        uid = subprocess.run(['ps', '-o', 'uid=', '-p', str(pid)], capture_output=True, text=True).stdout
        assert int(uid) != 0
        status = open(f'/proc/{pid}/status').read()
        assert re.search(r'^Seccomp:\t2$', status, re.M) and re.search(r'^NoNewPrivs:\t1$', status, re.M)
        assert not re.search(r'^CapEff:\t0*[1-9a-f]', status, re.M)
        direct = 0
        for fd in os.listdir(f'/proc/{pid}/fd'):
            if os.readlink(f'/proc/{pid}/fd/{fd}').endswith('.qcow2'):
                flags = int(re.search(r'flags:\s+(\d+)', open(f'/proc/{pid}/fdinfo/{fd}').read())[1], 8)
                direct += bool(flags & os.O_DIRECT)
        assert direct >= 2, 'disks are not opened with direct I/O'
        for path in (d.state + '/state.db', d.state + '/tls.pem', d.state + '/xapi.sock'):
            assert os.stat(path).st_mode & 0o077 == 0, path


def test_boots_from_disk():
    """BIOS, boot loader, kernel: from a disk that was imported, in a VM cloned from a snapshot."""
    with Daemon() as d:
        image = os.path.join(guest_folder(), 'boot.img')
        size = os.path.getsize(image)
        vdi = d.vdi(f'{size}', 'boot')
        d.xe('vdi-import', uuid=vdi, filename=image)
        vm = d.vm('bios', memory='192MiB')
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=vdi, device=0, bootable='true')
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi('128MiB'), device=1)
        with d.boot(vm) as s:
            assert s.fields('status')['disks'] == '1'
            assert vdi[:20] in s.ask('shell cat /sys/block/vda/serial')
            snap = d.snapshot(vm)
        copy = d.xe('vm-install', template=snap, new_name_label='copy')
        d.boot(copy).close()
        d.check()


def test_console():
    with golden() as (d, vm, s):
        s.close()
        ping_by_xe_console(d, vm, 20)


def test_one_that_does_not_answer():
    """A QEMU that hangs while the daemon starts holds nobody up; it is adopted when it answers, and can be ended."""
    with golden(delays={'qemu-adopt': 0.3, 'qmp': 0.3, 'start-patience': 1, 'adopt-again': 0.01}) as (d, vm, s):
        other = guest_vm(d, 'other', disks=1)
        s.close()
        pid = d.guests()[vm]
        d.stop()
        os.kill(pid, signal.SIGSTOP)
        begin = time.time()
        d.start()
        assert time.time() - begin < 2 * SLOW, 'the doors were closed'
        assert d.state_of(vm) == 'running' and d.state_of(other) == 'running'
        d.snapshot(other)
        d.fails('vm-snapshot', uuid=vm, new_name_label='x', says='has not answered')
        os.kill(pid, signal.SIGCONT)
        wait_for(lambda: d.run('vm-snapshot', uuid=vm, new_name_label='x')[0] == 0)
        again(d, vm).close()
        os.kill(pid, signal.SIGSTOP)
        d.restart()
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert d.state_of(vm) == 'halted' and vm not in d.guests()
        d.boot(vm).close()
        d.check()


def test_many_that_do_not_answer():
    """QEMUs that hang (HUNG of them, 4 else): the doors open, the others are served, and their end takes no longer."""
    hung = int(os.environ.get('HUNG', '4'))
    with Daemon(delays={'start-patience': 1, 'stop-rest': 1}) as d:
        vms = [d.vm(f'vm{i}', disks=1, size='16MiB', memory='16MiB') for i in range(hung + 1)]
        for vm in vms:
            d.xe('vm-start', 'paused=true', uuid=vm)
        d.stop()
        well, *stopped = vms
        pids = [d.guests()[vm] for vm in stopped]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        begin = time.time()
        d.start()
        took = time.time() - begin
        assert took < 2 * SLOW, f'{took:.1f} s until the doors were open'
        begin = time.time()
        d.snapshot(well)
        d.xe('vm-unpause', uuid=well)
        d.xe('vm-shutdown', '--force', uuid=well)
        d.xe('vm-start', 'paused=true', uuid=well)
        served = time.time() - begin
        assert served < 10 * SLOW, f'{served:.1f} s for another VM'
        begin = time.time()
        assert d.stop() == 0
        ended = time.time() - begin
        assert ended < 2 * SLOW + 1, f'{ended:.1f} s until it had ended'
        print(f'  {hung} hang: open after {took:.2f} s, another VM served in {served:.2f} s, ended in {ended:.2f} s')
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        d.start()
        wait_for(lambda: d.log().rsplit('stopping', 1)[1].count('guest adopted') == hung + 1, 60)
        d.snapshot(stopped[-1])
        d.check()


def test_serial_log_is_bounded():
    with golden() as (d, vm, s):
        log = os.path.join(d.state, 'run', vm, 'serial.log')
        with open(log, 'ab') as f:
            f.write(b'x' * (9 << 20))
        end = time.time() + 30 * SLOW
        while os.path.getsize(log) > 1 << 20:
            assert time.time() < end, 'the log grows without end'
            time.sleep(0.2)
        assert os.path.getsize(log + '.old') == 1 << 20
        s.ask('ping')
        assert 'OK ping' in open(log).read(), 'the guest is not heard any more'


def test_kernels_only_from_allowed_folders():
    with Daemon() as d:
        vm = guest_vm(d, start=False)
        boot = os.path.join(d.state, 'boot')
        shutil.copy(os.path.join(boot, 'vmlinux'), os.path.join(d.state, 'elsewhere'))
        os.symlink('../elsewhere', os.path.join(boot, 'link'))
        for path in (d.state + '/elsewhere', boot + '/../elsewhere', boot + '/link', '/etc/passwd',
                     boot + '/none', boot, 'vmlinux'):
            d.xe('vm-param-set', f'PV-kernel={path}', uuid=vm)
            d.fails('vm-start', uuid=vm, says=path)
            assert d.state_of(vm) == 'halted'
        d.check()


def left_behind(folder, d):
    """What processes of an earlier number may leave in a VM's folder, and what nobody should find there."""
    state = os.path.join(folder, 'tpm', 'state')
    os.makedirs(os.path.join(state, 'deep', 'er'), exist_ok=True)
    for name in ('.lock', 'tpm2-00.permall', 'TMP2-00.permall', 'deep/er/file'):
        with open(os.path.join(state, name), 'wb') as f:
            f.write(b'of another')
        os.chown(os.path.join(state, name), 12345, 12345)
        os.chmod(os.path.join(state, name), 0o600)
    for path in (state, os.path.join(state, 'deep')):
        os.chown(path, 12345, 12345)
        os.chmod(path, 0o700)
    for name in ('qmp.sock', 'serial.sock'):
        if os.path.lexists(path := os.path.join(folder, name)):
            os.unlink(path)
        os.mkdir(path)
    with open(os.path.join(folder, 'pid.new'), 'w') as f:
        f.write('half')
    secret = os.path.join(d.state, 'secret')
    with open(secret, 'w') as f:
        f.write('secret')
    log = os.path.join(folder, 'qemu.log')
    os.unlink(log)
    os.symlink(secret, log)
    os.chown(folder, 12345, 12345)
    os.chmod(folder, 0o777)
    return secret


def test_what_an_earlier_process_left():
    """A start and a resume find the folder as those of an earlier number left it, and make it right: the logs stay."""
    need_root()
    with Daemon() as d:
        vm = d.vm(memory='64MiB')
        d.xe('vtpm-create', vm_uuid=vm)
        d.xe('vm-start', uuid=vm)
        folder = os.path.join(d.state, 'run', vm)
        log = os.path.join(folder, 'serial.log')
        for end, begin in ((('vm-shutdown', '--force'), 'vm-start'), (('vm-suspend',), 'vm-resume')):
            with open(log, 'ab') as f:
                f.write(b'said before')
            d.xe(*end, uuid=vm)
            secret = left_behind(folder, d)
            d.xe(begin, uuid=vm)
            assert d.state_of(vm) == 'running'
            with open(secret) as f, open(log, 'rb') as g:
                assert f.read() == 'secret' and b'said before' in g.read()
            st = os.stat(folder)
            assert (st.st_uid, st.st_mode & 0o7777) == (0, 0o700), begin
            uid = os.stat(f"/proc/{d.guests()[vm]}").st_uid
            for path, _, names in os.walk(folder):
                for name in names:
                    inside = path == os.path.join(folder, 'tpm', 'state')
                    st = os.lstat(os.path.join(path, name))
                    assert st.st_uid == (uid if inside else 0) and not st.st_mode & 0o077, f'{begin}: {name}'
            assert not os.path.exists(os.path.join(folder, 'tpm', 'state', 'deep'))
        d.check()


def test_shut_down_by_force_while_it_comes_back():
    """At whatever moment: the daemon lives, the VM is halted, and no process has its disks."""
    with Daemon() as d:
        vm = d.vm(disks=1, memory='256MiB')
        for wait in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5):
            if d.state_of(vm) == 'halted':
                d.xe('vm-start', uuid=vm)
            if d.state_of(vm) == 'running':
                d.xe('vm-suspend', uuid=vm)
            p = d.begin('vm-resume', f'uuid={vm}', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(wait)
            d.xe('vm-shutdown', '--force', uuid=vm)
            p.wait()
            assert d.process.poll() is None, f'{wait} s: the daemon died'
            assert d.state_of(vm) == 'halted' and not d.guests(), f'{wait} s: {d.state_of(vm)}, {d.guests()}'
            attached = d.sql("SELECT currently_attached FROM VBD WHERE currently_attached = 'true'")
            assert not attached and not d.sql("SELECT uuid FROM VDI WHERE type = 'suspend'"), wait
        d.xe('vm-start', uuid=vm)
        d.check()


def test_shut_down_by_force_while_it_reboots():
    """A reboot waits for a guest that does not heed the button; when that was ended by force it is not started again."""
    with Daemon() as d:
        vm = d.vm(disks=1, memory='64MiB')
        d.xe('vm-start', uuid=vm)
        p = d.begin('vm-reboot', f'uuid={vm}', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        d.pending('VM.clean_reboot')
        wait_for(lambda: 'clean_reboot' in d.get('vm', vm, 'current-operations'))
        time.sleep(0.5)
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert d.state_of(vm) == 'halted' and not d.guests()
        said = p.communicate()[1].decode()
        assert p.returncode == 1 and 'hard_shutdown' in said, said
        assert d.state_of(vm) == 'halted' and not d.guests(), 'it was started again'
        d.check()


def test_shut_down_by_force_beside_everything():
    """ROUNDS of it, 6 else, at moments drawn by lot: of a guest that runs."""
    with golden('two') as (d, vm, s):
        s.close()
        deeds = ('start', 'resume', 'suspend', 'snapshot', 'checkpoint', 'revert', 'revert to memory', 'reset')
        Forced(d, vm, 1.5 * SLOW, deeds, d.guests).run(int(os.environ.get('ROUNDS', '6')))


FIGURES = """MemTotal: {total} kB
MemAvailable: {available} kB
SwapTotal: 0 kB
SwapFree: 0 kB
CommitLimit: 2097152 kB
Committed_AS: {promised} kB
"""


def test_memory_of_the_host():
    """What surely cannot be is refused with the figures before anything is given up, and nothing else is."""
    need_root()
    with tempfile.TemporaryDirectory() as folder:
        told, mode = os.path.join(folder, 'meminfo'), os.path.join(folder, 'overcommit')

        def host(total=4 << 20, available=4 << 20, promised=0, overcommit=0):
            with open(told, 'w') as f:
                f.write(FIGURES.format(total=total, available=available, promised=promised))
            with open(mode, 'w') as f:
                f.write(f'{overcommit}\n')
        host()
        lie = f'mount --bind {told} /proc/meminfo && mount --bind {mode} /proc/sys/vm/overcommit_memory && exec "$@"'
        with golden(under=('unshare', '-m', 'sh', '-c', lie, 'sh')) as (d, vm, s):
            big = d.vm('big', memory='5GiB')
            d.fails('vm-start', uuid=big, says=f'needed: {5 << 30}\navailable: {4 << 30}')
            assert d.state_of(big) == 'halted'
            host(overcommit=2, promised=2 << 20)
            d.fails('vm-start', uuid=big, says=f'needed: {5 << 30}\navailable: 0')
            host(overcommit=1, available=1)
            d.xe('vm-start', uuid=big)              # it may never touch it
            d.xe('vm-shutdown', '--force', uuid=big)
            # The memory that its present process has will hold what comes back.
            snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
            s.close()
            host(total=512 << 10, available=1)
            d.xe('snapshot-revert', uuid=snap)
            assert 'available: 1024' in d.fails('vm-resume', uuid=vm)
            assert d.state_of(vm) == 'suspended' and not d.guests()
            host()
            d.xe('vm-resume', uuid=vm)
            again(d, vm).close()
            d.check()


main(globals())
