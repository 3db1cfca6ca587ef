#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input: each its error, with the offending value, and nothing half-done."""
import fcntl, os, subprocess, sys, tempfile
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import Served

Daemon.leaks_of_xe = True

NOBODY = '00000000-0000-4000-8000-000000000000'


def test_unknown_objects():
    with in_common() as d:
        for command in ('snapshot-revert', 'snapshot-uninstall', 'snapshot-destroy', 'vdi-destroy',
                        'vbd-destroy', 'vif-destroy', 'sr-destroy', 'sr-scan', 'vm-destroy'):
            d.fails(command, uuid=NOBODY, says=NOBODY)
        d.fails('vm-start', vm='nobody', says='No matching VMs found')
        d.fails('vm-snapshot', uuid=NOBODY, new_name_label='x', says='No matching VMs found')
        d.fails('vm-install', template='no such', new_name_label='x')
        d.fails('vdi-create', sr_uuid=NOBODY, name_label='x', virtual_size='1MiB', says=NOBODY)
        d.fails('vm-param-get', uuid=NOBODY, param_name='name-label', says=NOBODY)
        d.fails('nonsense', says='Unknown command: nonsense')
        d.fails('vm-snapshot', says='Required parameter not found: new-name-label')
        d.check()


def test_wrong_states():
    with in_common() as d:
        vm = d.vm(disks=1)
        for command in ('vm-pause', 'vm-unpause', 'vm-reboot', 'vm-shutdown'):
            err = d.fails(command, uuid=vm, says='halted')
            assert 'power state' in err, err
        d.xe('vm-start', uuid=vm)
        d.fails('vm-start', uuid=vm, says='running')
        d.fails('vm-clone', uuid=vm, new_name_label='c', says='running')
        d.fails('vm-destroy', uuid=vm, says='running')
        d.fails('vm-unpause', uuid=vm, says='running')
        disk = d.disks(vm)['0']
        d.fails('vdi-destroy', uuid=disk, says='in use')
        d.fails('vdi-export', uuid=disk, filename=os.path.join(d.state, 'out'))
        assert not os.path.exists(os.path.join(d.state, 'out')), 'a partial file was left'
        d.fails('vm-param-set', 'VCPUs-max=4', uuid=vm, says='running')
        d.check()


def test_templates_and_snapshots():
    with in_common() as d:
        template = d.list('template')[0]
        d.fails('template-uninstall', '--force', template_uuid=template, says='cannot be deleted')
        vm = d.vm(disks=1)
        snap = d.snapshot(vm)
        for command in ('snapshot-revert', 'snapshot-uninstall', 'snapshot-disk-list'):
            d.fails(command, uuid=vm, says=f'{vm} is not a VM snapshot')
        d.fails('vm-destroy', uuid=template)
        disk = d.disks(snap)['0']
        d.fails('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=3, says='cannot be written')
        d.fails('vbd-create', vm_uuid=snap, vdi_uuid=d.vdi(), device=3, says='snapshot')
        image = os.path.join(d.state, 'raw')
        open(image, 'wb').write(b'x' * 4096)
        d.fails('vdi-import', uuid=disk, filename=image)
        d.check()


def test_names():
    """Names hold anything that is text, and come back as they were."""
    with in_common() as d:
        for name in ("it's", 'say "hi"', 'a,b', 'a\\b', '; rm -rf /', '$(id)', '%n%s', '-x', 'ü€😀', ' ',
                     "')(", 'x' * 5000):
            vm = d.xe('vm-install', template='Other install media', new_name_label=name)
            assert d.get('vm', vm, 'name-label') == name, name
            snap = d.snapshot(vm, name)
            d.xe('snapshot-revert', uuid=snap)
            assert d.get('vm', vm, 'name-label') == name, f'{name} did not survive a revert'
            assert d.list('vm', name_label=name) == [vm]
        status, out, err = d.run('vm-install', 'template=Other install media', 'new-name-label=a\nb')
        assert status == 1 and 'line' in err, (status, err)
        p = subprocess.run([os.path.join(BUILD, 'xe').encode(), b'vm-install',
                            b'template=Other install media', b'new-name-label=\xff\xfe'],
                           capture_output=True, env=d.environ())
        assert p.returncode == 1 and b'UTF-8' in p.stderr + p.stdout, p
        d.check()


def test_values():
    with in_common() as d:
        vm, sr = d.vm(), d.sr()
        for size in ('0', '-1', '99999999999999999999', '1PiB', 'big', '100TiB'):
            d.fails('vdi-create', sr_uuid=sr, name_label='x', virtual_size=size)
        assert d.volumes() == []
        d.fails('vm-memory-limits-set', uuid=vm, static_min='2GiB', static_max='1GiB',
                dynamic_min='1GiB', dynamic_max='1GiB', says='static_min')
        d.fails('vm-param-set', 'VCPUs-at-startup=5', uuid=vm)
        d.fails('vm-param-set', 'VCPUs-max=many', uuid=vm)
        d.fails('vm-param-set', 'power-state=Running', uuid=vm)
        d.fails('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi(), device=99)
        net = d.list('network')[0]
        d.fails('vif-create', vm_uuid=vm, network_uuid=net, device=0, mac='01:00:00:00:00:00')
        d.fails('vif-create', vm_uuid=vm, network_uuid=net, device=0, mac='nonsense', says='nonsense')
        d.fails('sr-create', name_label='x', type='magic', says='magic')
        d.fails('sr-create', name_label='x', type='file', says='location')
        d.fails('sr-create', name_label='x', type='file',
                **{'device-config:location': '/nonexistent'}, says='/nonexistent')
        d.fails('sr-create', name_label='x', type='file',
                **{'device-config:location': os.path.join(d.state, 'sr')})
        assert len(d.list('sr')) == 1
        d.check()


def test_all_or_none():
    """Of several fields that are set at once, whichever of them is wrong, and however."""
    with in_common() as d:
        vm = d.vm('web')
        before = d.xe('vm-param-list', uuid=vm)
        for wrong in ('nonsense=x', 'uuid-of=x', 'power-state=Running', 'tags=x', 'other-config=x', 'name-label:k=v', 'VCPUs-max=many',
                      'VCPUs-max=0', 'memory=1', 'affinity=nobody', 'live=true', 'platform:secureboot=maybe', 'ha-always-run=true'):
            d.fails('vm-param-set', 'name-label=new', 'other-config:k=v', 'other-config:l=w', wrong, uuid=vm)
            assert d.xe('vm-param-list', uuid=vm) == before, wrong
        d.fails('vm-param-add', 'k=v', uuid=vm, param_name='tags')
        d.fails('vm-param-add', uuid=vm, param_name='other-config')
        assert d.xe('vm-param-list', uuid=vm) == before
        d.xe('vm-param-set', 'name-label=new', 'other-config:k=v', uuid=vm)
        assert d.get('vm', vm, 'name-label') == 'new'
        d.check()


def test_network_login():
    with Served(delays={'login-refusal': 0.2}) as d:
        password = d.accounts['root']
        for way in (['-p', str(d.port), '--nossl'], ['-p', str(d.tls_port)]):
            way = ['-s', '127.0.0.1', *way]
            assert d.run(*way, '-u', 'root', '-pw', password, 'host-list', '--minimal')[0] == 0
            begin = time.time()
            status, out, err = d.run(*way, '-u', 'root', '-pw', 'wrong', 'host-list')
            assert status == 1 and 'Authentication failed' in out + err and time.time() - begin > 0.8
            status, out, err = d.run(*way, 'host-list')
            assert status == 1 and 'Username/password must be specified' in out + err
        assert password not in d.log()
        status, out, err = d.run('-s', '127.0.0.1', '-p', str(d.port), '-u', 'root', '-pw', 'x', 'host-list')
        assert status == 1 and 'plain' in err, err


def test_another_certificate():
    """A server is known by the certificate that it showed first."""
    with Served() as d:
        way = ['-s', '127.0.0.1', '-p', str(d.tls_port), '-u', 'root', '-pw', d.accounts['root'], 'host-list', '--minimal']
        assert d.run(*way)[0] == 0
        known = os.path.join(d.state, '.xe-hosts')
        name, print_ = open(known).read().split()
        assert name == f'127.0.0.1:{d.tls_port}' and len(print_) == 64 and os.stat(known).st_mode & 0o77 == 0
        assert d.run(*way)[0] == 0 and len(open(known).readlines()) == 1
        d.stop()
        os.unlink(os.path.join(d.state, 'tls.pem'))
        d.start()
        status, out, err = d.run(*way)
        assert status == 1 and 'another certificate' in err and known in err and print_ in err, err
        os.unlink(known)
        assert d.run(*way)[0] == 0


def test_certificates_without_home():
    """They are where the user's folder is by the system's list; whom that does not tell either trusts nobody."""
    need_root()
    with Served() as d, tempfile.TemporaryDirectory() as home:
        os.chmod(home, 0o777)
        users = os.path.join(home, 'passwd')
        with open(users, 'w') as f:
            f.write(f'somebody:x:4242:4242::{home}:/bin/sh\n')
        argv = ['unshare', '-m', 'sh', '-c', 'mount --bind "$1" /etc/passwd && shift && exec "$@"', 'sh', users,
                'setpriv', '--clear-groups', '--reuid', '', os.path.join(BUILD, 'xe'),
                '-s', '127.0.0.1', '-p', str(d.tls_port), '-u', 'root', '-pw', d.accounts['root'], 'host-list', '--minimal']

        def run(uid):
            argv[argv.index('--reuid') + 1] = uid
            env = {k: v for k, v in d.environ().items() if k != 'HOME'}
            return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60 * SLOW)
        nobody = run('4243')
        assert nobody.returncode == 1 and 'Set HOME' in nobody.stderr and not nobody.stdout, nobody
        somebody = run('4242')
        assert somebody.returncode == 0 and os.path.exists(os.path.join(home, '.xe-hosts')), somebody


def start_that_fails(d, *options):
    return subprocess.run([os.path.join(BUILD, 'stillframed'), '--state', d.state, '--vmm', 'fake', '--foreground', *options],
                          capture_output=True, text=True, timeout=60 * SLOW)


def test_bad_certificates():
    """The daemon does not start with what is no certificate, and says which file that is."""
    with Served() as d:
        d.stop()
        for text in ('', 'nonsense', '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'):
            path = os.path.join(d.state, 'own.pem')
            with open(path, 'w') as f:
                f.write(text)
            p = start_that_fails(d, '--listen-tls', '127.0.0.1:0', '--tls-pem', path)
            assert p.returncode == 1 and path in p.stderr, p.stderr


def test_one_daemon_a_folder():
    """A second one is refused, whoever has the first one's files open; one that was killed is no hindrance."""
    with Daemon('fake') as d:
        lock = open(os.path.join(d.state, 'lock'), 'rb')
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)     # as a child would that the first one has forked
        first = d.process
        d.start(wait=False)
        assert d.process.wait(20 * SLOW) != 0
        assert 'another stillframed is using this folder' in d.log()
        d.process = first
        d.vdi('1MiB')                           # it has not noticed
        d.kill()
        d.start()
        d.check()


def test_a_port_that_is_taken():
    """So is the port."""
    with Served() as d, socket.create_server(('127.0.0.1', 0)) as other:
        d.stop()
        where = f'127.0.0.1:{other.getsockname()[1]}'
        p = start_that_fails(d, '--listen', where)
        assert p.returncode == 1 and f'cannot listen at {where}: Address already in use' in p.stderr, p.stderr


main(globals())
