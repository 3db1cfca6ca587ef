#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""xe in scripts, as those for XenServer have it: over pipes, without standard input, and by its smaller commands."""
import os, re, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

UUID = re.compile('[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')


def sh(d, line, env=None):
    """status, standard output and standard error of a line of bash, as cron runs it."""
    own = {'PATH': BUILD + ':' + os.environ['PATH'], 'STILLFRAME_STATE': d.state, 'HOME': d.state}
    p = subprocess.run(['bash', '-c', line], stdin=subprocess.DEVNULL, capture_output=True, env=env or own, timeout=120 * SLOW)
    return p.returncode, p.stdout.decode(), p.stderr.decode()


def test_nothing_but_what_was_asked_for():
    """`x=$(xe ... 2>&1)`: notes are for people."""
    with in_common() as d:
        vm = d.vm('web', 1, '1MiB')
        rc, out, _ = sh(d, 'xe vm-snapshot vm=web new-name-label=s 2>&1')
        assert rc == 0 and UUID.fullmatch(out.strip()), out
        snap = out.strip()
        said = sh(d, 'xe --verbose vm-snapshot vm=web new-name-label=t')[2]
        assert re.fullmatch(r'snapshot taken in \d+ ms; crash consistent\n', said), said        # it has no guest that was paused
        for line in ('xe vm-start vm=web', 'xe vm-checkpoint vm=web new-name-label=c', 'xe vm-suspend vm=web', 'xe vm-resume vm=web',
                     'xe vm-shutdown vm=web force=true', f'xe snapshot-revert snapshot-uuid={snap}',
                     f'xe vm-param-get uuid={vm} param-name=uuid nonsense=1'):
            rc, out, err = sh(d, line)
            assert rc == 0 and err == '', (line, err)
        assert 'does not know' in sh(d, f'xe vm-param-get uuid={vm} param-name=uuid nonsense=1 --verbose')[2]


def test_what_a_revert_left_out_is_said_to_all():
    with in_common() as d:
        vm = d.vm('web', 2, '1MiB')
        kept = d.disks(vm)['1']
        snap = d.snapshot(vm, ignore_vdi_uuids=kept)
        rc, out, err = sh(d, f'xe snapshot-revert snapshot-uuid={snap}')
        assert (rc, out) == (0, '') and 'detached' in err and kept in err, (rc, out, err)
        assert sh(d, f'xe snapshot-revert snapshot-uuid={snap}') == (0, '', ''), 'nothing was left out'
        d.xe('vdi-destroy', uuid=kept)


def test_descriptors_that_are_closed():
    with in_common() as d:
        vm = d.vm('web')
        for how in ('<&-', '2>&-', '2>&1', '</dev/null', '| cat', '<&- 2>&-'):
            assert sh(d, f'xe vm-list --minimal {how}')[:2] == (0, vm + '\n'), how
        assert sh(d, 'xe vm-list >&-')[0] != 0
        assert sh(d, 'xe vm-list --minimal', {'STILLFRAME_STATE': d.state, 'PATH': BUILD + ':/usr/bin:/bin'})[1] == vm + '\n'
        assert sh(d, 'xe no-such-command 2>&-') [0] == 1


def test_a_question_that_nobody_answers():
    with in_common() as d:
        vm = d.vm('web', 1, '1MiB')
        snap = d.snapshot(vm)
        for line in (f'xe snapshot-uninstall uuid={snap}', f'xe vm-uninstall uuid={vm}'):
            rc, out, err = sh(d, line)
            assert rc == 1 and '--force' in err, (line, out, err)
            assert sh(d, f'echo no | {line}')[0] == 0
        assert d.list('vm') == [vm] and d.list('snapshot') == [snap]
        assert sh(d, f'echo yes | xe snapshot-uninstall uuid={snap}')[0] == 0 and not d.list('snapshot')


def test_maps_of_what_is_not_there_yet():
    """A loop waits for an address before the agent has spoken."""
    with in_common() as d:
        vm = d.vm('web')
        for key in ('0/ip', 'x'):
            rc, out, err = sh(d, f'xe vm-param-get uuid={vm} param-name=networks param-key={key}')
            assert (rc, out, err) == (1, '', f'Error: Key {key} not found in map\n'), (rc, out, err)
        assert sh(d, f'xe vm-param-get uuid={vm} param-name=name-label param-key=x')[:2] == (0, 'web\n')


def test_fields_that_are_cleared_and_kept():
    with in_common() as d:
        vm = d.vm('web')
        d.xe('vm-param-set', 'name-description=x', uuid=vm)
        d.xe('vm-param-clear', 'param-name=name-description', uuid=vm)
        assert d.get('vm', vm, 'name-description') == ''
        d.fails('vm-param-clear', 'param-name=VCPUs-max', uuid=vm, says='cannot be empty')
        snap = d.snapshot(vm)           # what backup scripts do with theirs
        d.xe('template-param-set', 'is-a-template=false', 'ha-always-run=false', uuid=snap)
        d.fails('vm-param-set', 'ha-always-run=true', uuid=vm, says='VALUE_NOT_SUPPORTED')
        tried = 0
        for kind, uuid in (('vm', vm), ('pool', d.list('pool')[0]), ('host', d.list('host')[0]), ('sr', d.sr())):
            for line in d.xe(f'{kind}-param-list', uuid=uuid).split('\n'):
                m = re.match(r'\s*(\S+) \( RW\)(?: \[DEPRECATED\])?: ?(.*)$', line)
                if m:
                    value = '' if m[2].startswith('<') else m[2]
                    status, _, err = d.run(f'{kind}-param-set', f'{m[1]}={value}', uuid=uuid)
                    assert 'no such call' not in err, f'{kind} {m[1]}={value}: {err}'
                    tried += 1
        assert tried > 60, tried
        d.xe('vm-uninstall', '--force', uuid=snap)


def test_codes():
    """Scripts look for the code and its parameters; people read the sentence above."""
    with in_common() as d:
        vm = d.vm('web')
        wrong = '00000000-0000-0000-0000-000000000000'
        err = d.fails('vm-param-get', 'param-name=uuid', uuid=wrong)
        assert f'type: VM\nuuid: {wrong}\nError code: UUID_INVALID\nError parameters: VM, {wrong}\n' in err, err
        d.xe('vm-start', uuid=vm)
        lines = d.fails('vm-start', uuid=vm).split('\n')
        ref = d.sql(f"SELECT ref FROM VM WHERE uuid = '{vm}'")[0]
        assert lines[-3:] == ['Error code: VM_BAD_POWER_STATE', f'Error parameters: {ref}, halted, running', ''], lines
        assert lines[1] == f'vm: {vm} (web)', lines


def test_transfers_speak_in_sentences():
    with in_common() as d:
        vm, tasks = d.vm('web', 1, '1MiB'), d.list('task')
        disk, image = d.disks(vm)['0'], os.path.join(d.state, 'image')
        d.xe('vm-start', uuid=vm)
        with open(image, 'wb') as f:
            f.write(bytes(1 << 20))
        err = d.fails('vdi-import', uuid=disk, filename=image)
        assert err.startswith('Error: The disk is in use.') and f'{disk} (web 0)' in err and '[VDI_IN_USE]' in err, err
        assert 'OpaqueRef' not in err and 'connection' not in err and err.endswith('\nThe disk is as it was.\n'), err
        for more in ('base=x', 'relative-to=x', 'sr-uuid=x'):
            d.fails('vdi-export', more, uuid=disk, filename=image, says='does not know the parameter')
        assert d.list('task') == tasks, "what has ended leaves no task"


def test_a_transfer_that_the_daemon_did_not_survive():
    with Daemon('fake') as d:
        disk = d.vdi('1MiB')
        p = d.begin('vdi-import', f'uuid={disk}', 'filename=', stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        d.pending('VDI.import_raw')
        d.kill()
        d.start()
        assert 'VDI.import_raw' not in d.sql('SELECT name_label FROM task'), 'a task waits for a command that is gone'
        p.stdin.close()
        assert p.wait(60) == 1
        d.stop()
        d.sql_write("INSERT INTO task (ref, gen, uuid, name_label, status, of_client, of_command) VALUES "
                    "('OpaqueRef:t', 1, 't', 'VDI.export_raw', 'pending', 'true', 'true')")
        d.start()
        assert 'VDI.export_raw' not in d.sql('SELECT name_label FROM task')


def test_device_names():
    with in_common() as d:
        vm, disk = d.vm('web'), d.vdi('1MiB')
        for name, position in (('xvdb', '1'), ('hda', '0'), ('sdc', '2'), ('7', '7')):
            vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=name)
            assert d.get('vbd', vbd, 'userdevice') == position
            d.xe('vbd-destroy', uuid=vbd)
        for name in ('xvd', 'xvdA', 'xvd1', 'vda', 'sdabc'):
            d.fails('vbd-create', vm_uuid=vm, vdi_uuid=disk, device=name, says='INVALID_DEVICE')
        d.xe('vm-start', uuid=vm)
        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=disk, device='xvdd')
        d.xe('vbd-plug', uuid=vbd)
        assert d.get('vbd', vbd, 'device') == 'vdd', 'as at a start'
        d.xe('vbd-unplug', uuid=vbd, force='true')
        assert d.get('vbd', vbd, 'device') == ''


def test_disks_by_position():
    with in_common() as d:
        vm = d.vm('web')
        for device, position in (('0', '0'), ('xvdd', '3'), ('autodetect', '1')):
            d.xe('vm-disk-add', 'vm=web', f'device={device}', 'disk-size=1MiB')
            assert position in d.disks(vm)
        disk = d.disks(vm)['3']
        assert d.get('vdi', disk, 'virtual-size') == str(1 << 20) and d.get('vdi', disk, 'sr-uuid') == d.sr()
        assert 'owner' in d.get('vbd', d.list('vbd', vdi_uuid=disk)[0], 'other-config')
        files = d.volumes()
        d.fails('vm-disk-add', 'vm=web', 'device=3', 'disk-size=1MiB', says='already')
        d.fails('vm-disk-add', 'vm=web', 'device=5', 'disk-size=0')
        assert d.volumes() == files and len(d.list('vdi')) == 3, 'a disk without a VM was left'
        d.xe('vm-disk-remove', 'vm=web', 'device=3')
        d.fails('vm-disk-remove', 'vm=web', 'device=3', says='no drive at position 3')
        d.wait_quiet()
        assert set(d.disks(vm)) == {'0', '1'} and disk not in d.list('vdi')
        d.xe('vm-start', uuid=vm)
        d.fails('vm-disk-remove', 'vm=web', 'device=0', says='in use')


def test_power_states():
    with in_common() as d:
        vm = d.vm('web', 1, '1MiB')
        d.xe('vm-start', uuid=vm)
        snap = d.xe('vm-checkpoint', uuid=vm, new_name_label='c')
        d.fails('vm-reset-powerstate', uuid=vm, says='--force')
        d.xe('vm-reset-powerstate', '--force', uuid=vm)
        d.xe('vm-reset-powerstate', 'force=true', uuid=vm)
        assert d.state_of(vm) == 'halted' and not d.fakes()
        d.fails('snapshot-reset-powerstate', uuid=snap, says='--force')
        d.xe('snapshot-reset-powerstate', '--force', snapshot_uuid=snap)
        assert d.get('snapshot', snap, 'power-state') == 'halted' and not d.sql("SELECT uuid FROM VDI WHERE type = 'suspend'")
        d.xe('vm-memory-set', 'vm=web', 'memory=512MiB')
        assert {d.get('vm', vm, f'memory-{which}') for which in ('static-max', 'dynamic-min', 'dynamic-max')} == {str(512 << 20)}


def test_small_ones():
    with in_common() as d:
        vm = d.vm('web')
        assert 'file' in d.xe('sm-list', '--minimal', 'params=type').split(',')
        info = d.xe('host-cpu-info')
        with open('/proc/cpuinfo') as f:
            n = f.read().count('processor\t')
        assert re.search(rf'^ *cpu_count *: {n}$', info, re.M), info
        assert len(d.list('host-cpu')) == n and d.get('host', d.list('host')[0], 'cpu_info', 'cpu_count') == str(n)
        disk = d.vdi('1MiB')
        d.xe('vdi-update', uuid=disk)
        message = d.xe('message-create', 'name=note', 'priority=3', 'body=a text', f'vm-uuid={vm}')
        assert d.get('message', message, 'obj-uuid') == vm and d.get('message', message, 'body') == 'a text'
        d.xe('message-destroy', uuid=message)
        d.fails('host-call-plugin', f'host-uuid={d.list("host")[0]}', 'plugin=x', 'fn=y', says='XENAPI_MISSING_PLUGIN')
        for name, word in (('vm-migrate', 'one host'), ('vm-export', 'vdi-export'), ('bond-create', 'network'), ('pool-join', 'one host'),
                           ('host-license-add', 'licences'), ('patch-list', 'package manager')):
            err = d.fails(name, says=word)
            assert f'Error: {name} is a command of XenServer' in err, err
        d.fails('vm-frobnicate', says='Unknown command: vm-frobnicate')


main(globals())
