#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Quiesced snapshots of a stock Debian whose databases are written without rest: PostgreSQL on ext4 and on XFS, and
MariaDB, with the hooks of hooks/.  Each snapshot's file systems are clean, and each of its databases opens with all that
was acknowledged before it, and nothing of later.  SNAPSHOTS: how many (2).  Half a minute each, under TCG."""
import base64, os, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from debian import *
from agent import until, live

SNAPSHOTS = int(os.environ.get('SNAPSHOTS', '2'))
HOOKS = os.path.join(TOP, 'hooks')
DISKS = {'ext4': 1, 'xfs': 2, 'mysql': 3}           # device of each; the guest sees vdb, vdc, vdd

# A number after the other, each in a transaction of its own; the last one that was acknowledged is in /run.
WRITER = '''#!/bin/bash
n=0
while :; do
	n=$((n + 1))
	if [ $1 = mysql ]; then
		echo "INSERT INTO t.t VALUES ($n); SELECT $n;"
	else
		echo "INSERT INTO t VALUES ($n) RETURNING n;"
	fi
done | if [ $1 = mysql ]; then
	mariadb -N -B --unbuffered
else
	runuser -u postgres -- psql -X -q -A -t -p $2 postgres
fi | while read -r n; do echo $n >/run/$1; done
'''


def put(s, name, text, mode='755'):
    packed = base64.b64encode(text.encode()).decode()
    s.run(': >/tmp/put')
    for i in range(0, len(packed), 700):
        s.run(f'echo {packed[i:i + 700]} >>/tmp/put')
    s.run(f'mkdir -p $(dirname {name}); base64 -d /tmp/put >{name}; chmod {mode} {name}')


def read(name):
    with open(os.path.join(HOOKS, name)) as f:
        return f.read()


def install_hooks(s):
    put(s, '/etc/qemu/fsfreeze-hook', read('fsfreeze-hook'))
    for hook in ('postgresql', 'mysql'):
        put(s, f'/etc/qemu/fsfreeze-hook.d/{hook}', read(hook))
    s.run("echo 'DAEMON_ARGS=\"-F/etc/qemu/fsfreeze-hook\"' >/etc/default/qemu-guest-agent")
    s.run('mkdir -p /etc/systemd/system/qemu-guest-agent.service.d; printf '
          "'[Service]\\nExecStart=\\nExecStart=/usr/sbin/qemu-ga -F/etc/qemu/fsfreeze-hook\\n' "
          '>/etc/systemd/system/qemu-guest-agent.service.d/hook.conf; systemctl daemon-reload; '
          'systemctl restart qemu-guest-agent')


def set_up(d):
    vm = install(d, 'bios')
    d.xe('vm-memory-limits-set', uuid=vm, static_min='64MiB', dynamic_min='1GiB', dynamic_max='1GiB', static_max='1GiB')
    for name, device in DISKS.items():
        d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi('512MiB', name), device=device)
    s = start(d, vm)
    s.run('mkfs.ext4 -q /dev/vdb; mkfs.xfs -q /dev/vdc; mkfs.ext4 -q /dev/vdd; mkdir /a /b /m; '
          'mount /dev/vdb /a; mount /dev/vdc /b; mount /dev/vdd /m', timeout=300)
    for port, folder in ((5433, 'a'), (5434, 'b')):
        s.run(f'chown postgres /{folder}; pg_createcluster -d /{folder}/pg -p {port} 15 {folder} --start || '
              f'pg_createcluster -d /{folder}/pg -p {port} $(ls /usr/lib/postgresql) {folder} --start', timeout=600)
        s.run(f"runuser -u postgres -- psql -p {port} -c 'CREATE TABLE t (n bigint PRIMARY KEY)' postgres", timeout=120)
    s.run('chown mysql /m; mariadb-install-db --user=mysql --datadir=/m/db >/dev/null 2>&1; '
          "printf '[mysqld]\\ndatadir=/m/db\\n' >/etc/mysql/mariadb.conf.d/90-data.cnf; systemctl start mariadb", timeout=600)
    s.run("mariadb -e 'CREATE DATABASE t; CREATE TABLE t.t (n BIGINT PRIMARY KEY) ENGINE=InnoDB'", timeout=120)
    install_hooks(s)
    d.xe('vm-param-set', 'other-config:quiesce-timeout=300', uuid=vm)      # a guest that is emulated
    put(s, '/root/writer', WRITER)
    for what in ('a 5433', 'b 5434', 'mysql'):
        s.run(f'setsid /root/writer {what} >/dev/null 2>/run/{what.split()[0]}.err </dev/null &')
    s.until('test -s /run/a -a -s /run/b -a -s /run/mysql', 120)
    until(lambda: live(d, vm) == 'true', 120)
    return vm, s


def acknowledged(s):
    return [int(s.run(f'while ! grep . /run/{name}; do :; done', timeout=120)) for name in ('a', 'b', 'mysql')]


def needs_recovery(d, vdi):
    with tempfile.TemporaryDirectory(dir=d.state) as folder:
        image = os.path.join(folder, 'i')
        d.xe('vdi-export', uuid=vdi, filename=image)
        return 'needs_recovery' in subprocess.run(['/sbin/dumpe2fs', '-h', image], capture_output=True, text=True,
                                                  check=True).stdout


def opened(d, vm, s, snap):
    """In the guest itself: clones of the snapshot's disks are plugged in, looked at, and their databases started beside
    those that run.  The highest number in each, and how many there are."""
    vbds, disks = [], d.disks(snap)
    for device in DISKS.values():
        vdi = d.xe('vdi-clone', uuid=disks[str(device)])
        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=vdi, device=device + 10)
        d.xe('vbd-plug', uuid=vbd)
        vbds.append((vbd, vdi))
    c, x, y = [f'/dev/disk/by-id/virtio-{vdi[:20]}' for _, vdi in vbds]
    s.until(f'test -b {c} -a -b {x} -a -b {y}', 60)
    s.run(f'mkdir -p /c /x /y; mount {c} /c && mount -o nouuid {x} /x && umount /x && xfs_repair -n {x} && '
          f'mount -o nouuid {x} /x && mount {y} /y', timeout=300)
    found = []
    for folder, port, name in (('c', 5443, 'a'), ('x', 5444, 'b')):
        s.run(f'rm -f /{folder}/pg/postmaster.pid')
        bin_ = '$(ls -d /usr/lib/postgresql/*/bin)'
        s.run(f'runuser -u postgres -- {bin_}/pg_ctl -w -t 300 -D /{folder}/pg -l /tmp/{folder}.log -o "-p {port} '
              f"-c config_file=$(ls -d /etc/postgresql/*/{name})/postgresql.conf -c data_directory=/{folder}/pg "
              f'-c external_pid_file=" start', timeout=400)
        row = s.run(f"cd /; runuser -u postgres -- psql -A -t -F ' ' -p {port} -c 'SELECT max(n), count(*) FROM t' postgres",
                    timeout=120)
        found.append([int(x) for x in row.split()])
        s.run(f'runuser -u postgres -- {bin_}/pg_ctl -w -m fast -D /{folder}/pg stop', timeout=300)
    s.run('runuser -u mysql -- mariadbd --no-defaults --datadir=/y/db --socket=/tmp/y.sock --skip-networking '
          '--pid-file=/tmp/y.pid >/tmp/y.log 2>&1 </dev/null &')
    s.until('mariadb -S /tmp/y.sock -e "SELECT 1"', 120)
    found.append([int(x) for x in s.run('mariadb -N -B -S /tmp/y.sock -e "SELECT max(n), count(*) FROM t.t"',
                                        timeout=120).split()])
    s.run('mariadb-admin -S /tmp/y.sock shutdown; while [ -e /tmp/y.pid ]; do sleep 0.2; done', timeout=300)
    s.run('umount /c /x /y', timeout=120)
    for vbd, vdi in vbds:
        d.xe('vbd-unplug', uuid=vbd)
        d.xe('vbd-destroy', uuid=vbd)
        d.xe('vdi-destroy', uuid=vdi)
    return found


def test_databases():
    need_tools()
    with Daemon() as d:
        vm, s = set_up(d)
        held = []
        for n in range(SNAPSHOTS):
            before = acknowledged(s)
            snap = d.xe('vm-snapshot-with-quiesce', uuid=vm, new_name_label=f'q{n}', timeout=600)
            time.sleep(2)           # what was read behind it, and not yet written down
            after = acknowledged(s)
            info = json.loads(d.sql(f"SELECT snapshot_info FROM VM WHERE uuid = '{snap}'")[0])
            assert (info['disk-snapshot-type'], info['consistency']) == ('quiesced', 'application'), info
            held.append(float(info['freeze-ms']))
            for device in ('0', '1', '3'):
                if device != '0':
                    assert not needs_recovery(d, d.disks(snap)[device]), device
            found = opened(d, vm, s, snap)
            for (last, count), low, high in zip(found, before, after):
                assert last == count, 'a hole'
                assert low <= last <= high, (found, before, after)
            print(f'  {n}: attempts {info["attempts"]}, held {held[-1]:.0f} ms, in all {info["duration-ms"]} ms, {before} {found}', flush=True)
            if n == 0:
                control = d.snapshot(vm, 'control')
                assert needs_recovery(d, d.disks(control)['1']), 'the control shows nothing'
                d.xe('snapshot-uninstall', '--force', uuid=control)
            d.xe('snapshot-uninstall', '--force', uuid=snap)
        print('  held still for ms:', *held)
        s.close()


main(globals())
