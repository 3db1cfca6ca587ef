#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A program that runs in QEMU's place, as a guest that has taken over its QEMU would: it has what
its own VM needs, and reaches nothing of another VM or of the daemon."""
import json, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden

# Tries everything, says what worked.  PATHS, PID and UID are filled in.
BURGLAR = r'''#!/usr/bin/python3
import ctypes, glob, json, os, socket, sys
paths, sockets, pid = PATHS, SOCKETS, PID
got = []

def attempt(what, deed):
    try:
        if deed() is not False:
            got.append(what)
    except (OSError, PermissionError):
        pass

for p in paths:
    for mode in (os.O_RDONLY, os.O_RDWR):
        attempt(f'open {p} {mode}', lambda: os.close(os.open(p, mode)))
    attempt(f'list {p}', lambda: os.listdir(p) and None)
for p in sockets:
    attempt(f'connect {p}', lambda: socket.socket(socket.AF_UNIX).connect(p))
for f in ('mem', 'environ', 'maps', 'root', 'cwd/etc'):
    attempt(f'proc {f}', lambda: os.close(os.open(f'/proc/{pid}/{f}', os.O_RDONLY)))
attempt('proc fd', lambda: os.listdir(f'/proc/{pid}/fd') and None)
attempt('signal', lambda: os.kill(pid, 0))
attempt('be root', lambda: os.setuid(0))
libc = ctypes.CDLL(None, use_errno=True)
attempt('ptrace', lambda: libc.ptrace(16, pid, 0, 0) == 0)

mine, frozen, leaked = [], [], []
for fd in os.listdir('/proc/self/fd'):
    try:
        target = os.readlink(f'/proc/self/fd/{fd}')
    except OSError:
        continue
    if target in paths:
        leaked.append(target)
    if target.endswith('.qcow2'):
        flags = int(open(f'/proc/self/fdinfo/{fd}').read().split('flags:')[1].split()[0], 8)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            frozen.append(target)
            attempt(f'reopen {target} for writing', lambda: os.close(os.open(f'/proc/self/fd/{fd}', os.O_RDWR)))
        else:
            mine.append(target)
print('BURGLAR ' + json.dumps({'uid': os.getuid(), 'gid': os.getgid(), 'groups': os.getgroups(),
                               'got': got, 'mine': mine, 'frozen': frozen, 'leaked': leaked}),
      file=sys.stderr, flush=True)
'''


def process_ids(pid):
    status = open(f'/proc/{pid}/status').read()
    return [int(re.search(fr'^{k}:\s+(\d+)', status, re.M)[1]) for k in ('Uid', 'Gid')]


def break_in(d, vm, victim, place='qemu-system-x86_64', log='qemu.log'):
    """Starts the VM with a burglar in the place of one of its programs; what the burglar found."""
    bin = os.path.join(d.state, 'bin')
    os.mkdir(bin, 0o755)
    state = d.state
    paths = [f'{state}/{n}' for n in ('state.db', 'password', 'sr', 'run', f'run/{victim}',
                                       f'run/{victim}/tpm/state', f'run/{victim}/tpm/state/tpm2-00.permall')]
    paths += [f'{state}/sr/{f}' for f in d.volumes()]
    sockets = [f'{state}/run/{victim}/{s}.sock' for s in ('qmp', 'serial', 'agent')]
    text = BURGLAR.replace('PATHS', repr(paths)).replace('SOCKETS', repr(sockets))
    program = os.path.join(bin, place)
    with open(program, 'w') as f:
        f.write(text.replace('PID', str(d.guests()[victim])))
    os.chmod(program, 0o755)
    d.restart(env={'PATH': bin + ':' + os.environ['PATH']})
    d.fails('vm-start', uuid=vm)
    said = open(f'{state}/run/{vm}/{log}').read()
    assert 'BURGLAR ' in said, said
    return json.loads(said.split('BURGLAR ')[1])


def test_a_program_in_qemus_place():
    with golden('two') as (d, victim, _):
        snap = d.snapshot(victim)
        burgled = d.xe('vm-install', template=snap, new_name_label='sibling')
        own = set(d.sql("SELECT v.location || '.qcow2' FROM VDI v JOIN VBD b ON b.VDI = v.ref "
                        f"JOIN VM m ON b.VM = m.ref WHERE m.uuid = '{burgled}'"))
        found = break_in(d, burgled, victim)
        assert not found['got'], found['got']
        # What it has: its own disks for writing, what they stand on for reading only.
        assert {os.path.basename(p) for p in found['mine']} == own, found
        assert len(set(found['frozen']) - set(found['mine'])) == 2, found
        assert set(found['leaked']) <= set(found['mine']) | set(found['frozen'])
        # A user of its own, and no way to be another.
        uid, gid = process_ids(d.guests()[victim])
        assert uid and uid != found['uid'] and gid != found['gid'], found
        assert d.state_of(victim) == 'running'


def test_a_program_in_the_tpms_place():
    """It has one folder, and the socket to its QEMU."""
    need_root()
    with Daemon() as d:
        victim = guest_vm(d, 'victim', disks=1, start=False)
        d.xe('vtpm-create', vm_uuid=victim)
        burgled = d.xe('vm-clone', uuid=victim, new_name_label='sibling')
        d.xe('vm-start', uuid=victim)
        wait_for(lambda: os.path.exists(f'{d.state}/run/{victim}/tpm/state/tpm2-00.permall'))
        found = break_in(d, burgled, victim, 'swtpm', 'tpm/qemu.log')
        assert not found['got'], found['got']
        assert not found['mine'] and not found['frozen'] and not found['leaked'], found
        uid, gid = process_ids(d.guests()[victim])
        assert uid and 0 != found['uid'] != uid and 0 != found['gid'] != gid and 0 not in found['groups'], found


def test_each_vm_has_a_user():
    need_root()
    with Daemon() as d:
        vms = [guest_vm(d, f'vm{i}', disks=1) for i in range(3)]
        ids = {tuple(process_ids(p)) for p in d.guests().values()}
        assert len(ids) == 3 and not any(0 in i for i in ids), ids
        assert os.stat('/dev/userfaultfd').st_gid in os.getgrouplist('root', 0) + [
            int(open(f'/proc/{p}/status').read().split('Groups:\t')[1].split()[0])
            for p in d.guests().values()]
        d.xe('vm-shutdown', '--force', uuid=vms[0])
        d.restart()
        d.xe('vm-start', uuid=vms[0])
        assert len({tuple(process_ids(p)) for p in d.guests().values()}) == 3


def test_one_user_for_all_when_told():
    need_root()
    with Daemon(options=['--qemu-user', 'nobody']) as d:
        guest_vm(d, 'a', disks=1)
        guest_vm(d, 'b', disks=1)
        import pwd
        nobody = pwd.getpwnam('nobody').pw_uid
        assert {process_ids(p)[0] for p in d.guests().values()} == {nobody}


def test_control_groups():
    """Where the host delegates a group to the daemon, each VM has one below it."""
    need_root()
    mounts = [l.split() for l in open('/proc/self/mountinfo') if ' - cgroup2 ' in l]
    group = mounts and os.path.join(mounts[0][4], f'stillframe-test-{os.getpid()}')
    try:
        os.mkdir(group)
        os.setxattr(group, 'trusted.delegate', b'1')
    except (OSError, TypeError) as e:
        raise Skip(f'no control group can be delegated here: {e}')

    def members(name):
        return open(os.path.join(group, name, 'cgroup.procs')).read().split()

    d = Daemon(start=False)
    old = open('/proc/self/cgroup').read().split('0::')[1].split('\n')[0]
    try:
        with open(os.path.join(group, 'cgroup.procs'), 'w') as f:
            f.write('0')
        d.start()
        with open(mounts[0][4] + old + '/cgroup.procs', 'w') as f:
            f.write('0')
        vm = guest_vm(d, disks=1)
        assert set(members('daemon')) == {str(d.process.pid), str(d.process.caretaker())} and not members('')
        assert members(f'vm-{vm}') == [str(d.guests()[vm])]
        d.xe('vm-shutdown', '--force', uuid=vm)
        end = time.time() + 10
        while os.path.exists(os.path.join(group, f'vm-{vm}')):
            assert time.time() < end, 'the group of a VM that has ended is still there'
            time.sleep(0.1)
    finally:
        d.end()
        for name in [n for n in os.listdir(group) if os.path.isdir(os.path.join(group, n))] + ['']:
            os.rmdir(os.path.join(group, name))


main(globals())
