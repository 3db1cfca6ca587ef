#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, suspend and resume as records: states, fields, errors, what stays and what goes."""
import json, os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *


def running(d, disks=2):
    vm = d.vm(disks=disks)
    d.xe('vm-start', uuid=vm)
    return vm


def field(d, uuid, name):
    return d.sql(f"SELECT {name} FROM VM WHERE uuid = '{uuid}'")[0]


def info(d, snap):
    return json.loads(field(d, snap, 'snapshot_info'))


def images(d):
    return d.sql("SELECT location FROM VDI WHERE type = 'suspend'")


def memory_files(d):
    return [f for f in d.volumes() if f.endswith('.raw')]


def checkpoint(d, vm, name='c', **kw):
    return d.xe('vm-checkpoint', uuid=vm, new_name_label=name, **kw)


def test_of_a_running_vm():
    with in_common() as d:
        vm = running(d)
        status, out, err = d.run('vm-checkpoint', uuid=vm, new_name_label='c', new_name_description='about')
        assert status == 0 and 'paused for' in err and 'its memory takes' in err, err
        snap = out.strip()
        assert d.state_of(vm) == 'running' and field(d, snap, 'power_state') == 'Suspended'
        i = info(d, snap)
        assert i['power-state-at-snapshot'] == 'Running' and i['method'] == 'background-snapshot', i
        assert i['disk-snapshot-type'] == 'crash_consistent' and int(i['memory-bytes']) > 65536, i
        assert float(i['guest-pause-ms']) > 0 and int(i['duration-ms']) >= 0, i
        assert len(images(d)) == 1
        mode = os.stat(os.path.join(d.state, 'sr', memory_files(d)[0])).st_mode
        assert mode & 0o777 == 0o600
        said = d.sql("SELECT body FROM message WHERE name = 'VM_CHECKPOINTED'")
        assert said and 'checkpointed, snapshot name: c' in said[0], said
        assert d.xe('snapshot-list', 'params=name-description', uuid=snap, minimal='true') == 'about'
        for op in ('revert', 'clone', 'copy', 'destroy', 'hard_shutdown'):
            assert op in d.get('snapshot', snap, 'allowed-operations'), op
        d.check()


def test_of_a_paused_vm():
    with in_common() as d:
        vm = running(d)
        d.xe('vm-pause', uuid=vm)
        snap = checkpoint(d, vm)
        assert d.state_of(vm) == 'paused' and field(d, snap, 'power_state') == 'Suspended'
        assert info(d, snap)['power-state-at-snapshot'] == 'Paused'


def test_of_a_suspended_vm():
    """Nothing is done to it; the memory takes its room once."""
    with Daemon('fake') as d:
        vm = running(d)
        d.xe('vm-suspend', uuid=vm)
        before = d.log().count('fake save ')
        snap = checkpoint(d, vm)
        assert d.log().count('fake save ') == before and d.state_of(vm) == 'suspended'
        assert info(d, snap)['power-state-at-snapshot'] == 'Suspended'
        files = memory_files(d)
        assert len(files) == 2 and len({os.stat(os.path.join(d.state, 'sr', f)).st_ino for f in files}) == 1
        one = os.stat(os.path.join(d.state, 'sr', files[0])).st_blocks * 512
        assert sum(map(int, d.sql("SELECT physical_utilisation FROM VDI WHERE type = 'suspend'"))) <= one * 3 // 2
        d.xe('vm-resume', uuid=vm)
        d.wait_quiet()
        assert len(memory_files(d)) == 1, 'the snapshot has its memory still'
        d.xe('snapshot-revert', uuid=snap, resume='true')
        assert d.state_of(vm) == 'running'
        d.check()


def test_suspend_and_resume():
    with Daemon('fake') as d:
        vm = running(d)
        d.xe('vm-suspend', uuid=vm)
        assert d.state_of(vm) == 'suspended' and len(images(d)) == 1 and not d.guests()
        d.restart()
        assert d.state_of(vm) == 'suspended'
        disk = d.disks(vm)['0']
        d.fails('vdi-destroy', uuid=disk, says='in use')
        other = d.vm('other')
        vbd = d.xe('vbd-create', vm_uuid=other, vdi_uuid=disk, device=0)
        d.fails('vm-start', uuid=other, says='in use')
        d.xe('vbd-destroy', uuid=vbd)
        d.fails('vm-start', uuid=vm, says='suspended')
        d.fails('vm-clone', uuid=vm, new_name_label='x', says='suspended')
        assert d.xe('vm-resume', uuid=vm, paused='true') == '' and d.state_of(vm) == 'paused'
        d.xe('vm-unpause', uuid=vm)
        d.wait_quiet()
        assert not images(d) and not memory_files(d), 'it has gone on: the image is of another time'
        d.xe('vm-suspend', uuid=vm)
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.wait_quiet()
        assert d.state_of(vm) == 'halted' and not images(d) and not memory_files(d)
        d.xe('vm-start', uuid=vm)
        d.check()


def test_revert():
    with in_common() as d:
        vm = running(d)
        plain, snap = d.snapshot(vm), checkpoint(d, vm)
        d.xe('snapshot-revert', uuid=snap)
        assert d.state_of(vm) == 'suspended' and len(images(d)) == 2
        d.xe('vm-resume', uuid=vm)
        d.xe('snapshot-revert', uuid=snap, resume='true')
        assert d.state_of(vm) == 'running'
        d.fails('snapshot-revert', uuid=plain, resume='true', says='no memory')
        assert d.state_of(vm) == 'halted'
        d.xe('vm-start', uuid=vm)
        d.xe('snapshot-revert', uuid=snap)
        d.xe('snapshot-revert', uuid=plain)         # what was suspended is given up
        d.wait_quiet()
        assert d.state_of(vm) == 'halted' and len(images(d)) == 1
        d.check()


def test_devices_come_back():
    """A disk that was plugged at the checkpoint is so after a revert, one that was not is not."""
    with in_common() as d:
        vm = running(d, 1)
        more = d.vdi()
        vbd = d.xe('vbd-create', vm_uuid=vm, vdi_uuid=more, device=1)
        before = checkpoint(d, vm, 'before')
        d.xe('vbd-plug', uuid=vbd)
        after = checkpoint(d, vm, 'after')
        d.xe('vbd-unplug', uuid=vbd)
        attached = lambda: d.sql('SELECT VBD.currently_attached FROM VBD JOIN VM ON VBD.VM = VM.ref '
                                 f"WHERE VM.uuid = '{vm}' ORDER BY VBD.userdevice")
        d.xe('snapshot-revert', uuid=after, resume='true')
        assert attached() == ['true', 'true'], attached()
        d.xe('snapshot-revert', uuid=before, resume='true')
        assert attached() == ['true', 'false'], attached()
        d.check()


def test_copies():
    """A copy of a checkpoint has no memory."""
    with in_common() as d:
        snap = checkpoint(d, running(d))
        clone = d.xe('snapshot-clone', uuid=snap, new_name_label='clone')
        copy = d.xe('snapshot-copy', uuid=snap, new_name_label='copy')
        new = d.xe('vm-install', template_uuid=snap, new_name_label='new')
        for vm in (clone, copy, new):
            assert field(d, vm, 'power_state') == 'Halted' and field(d, vm, 'suspend_VDI') == 'OpaqueRef:NULL'
        d.xe('vm-start', uuid=new)
        assert len(images(d)) == 1
        d.check()


def test_deleting():
    with in_common() as d:
        vm = running(d)
        snaps = [checkpoint(d, vm, str(n)) for n in range(3)]
        d.xe('snapshot-uninstall', '--force', uuid=snaps[1])
        d.wait_quiet()
        assert len(images(d)) == 2 and len(memory_files(d)) == 2
        d.xe('snapshot-revert', uuid=snaps[0], resume='true')
        d.xe('snapshot-destroy', uuid=snaps[2])
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-uninstall', '--force', uuid=vm)
        d.wait_quiet()
        assert not memory_files(d)


def test_damage():
    """An image that is not what was written is refused before anything is stopped."""
    with Daemon('fake') as d:
        vm = running(d)
        good, bad = checkpoint(d, vm, 'good'), checkpoint(d, vm, 'bad')
        flip_bit(d.memory_of(bad), FIRST_PAGE + 100)
        stops = d.log().count('fake stop ')
        d.fails('snapshot-revert', uuid=bad, says='damaged')
        assert d.state_of(vm) == 'running' and d.log().count('fake stop ') == stops
        d.xe('snapshot-revert', uuid=good, resume='true')
        with open(d.memory_of(bad), 'r+b') as f:
            f.write(bytes(4096))
        d.fails('snapshot-revert', uuid=bad, says='no header')
        d.check()


def test_other_hosts():
    """A machine type that the VMM does not have, and another accelerator."""
    with in_common() as d:
        vm = running(d)
        snap = checkpoint(d, vm)
        with open(os.path.join(d.state, 'sr', memory_files(d)[0]), 'rb') as f:
            assert b'pc-fake-1.0' in f.read()
        d.fails('vm-checkpoint', uuid=d.vm('halted'), new_name_label='x', says='paused, suspended, running')
        d.fails('vm-suspend', uuid=d.list('vm', name_label='halted')[0], says='running')
        d.fails('vm-resume', uuid=vm, says='suspended')
        d.fails('snapshot-revert', uuid=snap, resume='perhaps', says='perhaps')
        assert d.state_of(vm) == 'running'


CPU = {'model': 'base', 'props': {'fpu': True, 'sse2': True}, 'more': {'level': 1}}


def notes_of(d, vm):
    with open(d.memory_of(vm), 'rb') as f:
        data = f.read()
    return json.JSONDecoder().raw_decode(data[data.rindex(b'{"machine"'):].decode())[0]['notes']


def test_cpu():
    """A guest comes back with the CPU that it had, or not at all."""
    with Daemon('fake') as d:
        vm = running(d)
        good, bad, old, wrong = [checkpoint(d, vm, n) for n in ('good', 'bad', 'old', 'wrong')]
        assert notes_of(d, good)['cpu'] == CPU
        renote(d.memory_of(bad), 'cpu', {**CPU, 'props': {'fpu': True, 'sse2': False, 'avx': True, 'avx2': True}})
        renote(d.memory_of(old), 'cpu')
        renote(d.memory_of(wrong), 'cpu', {**CPU, 'props': {'fpu=off,x': True}})
        for snap, says in (bad, 'its CPU has avx, avx2, which this host does not give'), (wrong, 'no description'):
            stops = d.log().count('fake stop ')
            d.fails('snapshot-revert', uuid=snap, says=says)
            assert d.state_of(vm) == 'running' and d.log().count('fake stop ') == stops
        fewer = {**CPU, 'props': {'fpu': True, 'sse2': False}}
        renote(d.memory_of(good), 'cpu', fewer)
        d.xe('snapshot-revert', uuid=good, resume='true')
        assert d.fakes()[vm]['cpu'] == fewer
        d.xe('vm-suspend', uuid=vm)
        assert notes_of(d, vm)['cpu'] == fewer, 'as it is, not as a new one would be'
        d.restart(env={'STILLFRAME_FAKE': 'lacks=fpu'})
        d.fails('vm-resume', uuid=vm, says='its CPU has fpu, which')
        d.fails('snapshot-revert', uuid=good, says='its CPU has fpu, which')
        assert d.state_of(vm) == 'suspended'
        d.xe('snapshot-revert', uuid=old, resume='true')        # made before there was such a note
        assert d.fakes()[vm]['cpu']['props'] == {'fpu': False, 'sse2': True}, 'what this host has'
        d.restart()
        d.xe('vm-suspend', uuid=vm)
        d.xe('vm-resume', uuid=vm)
        d.check()


def test_no_place_for_memory():
    with Daemon('fake') as d:
        vm = running(d)
        d.xe('vm-memory-limits-set', uuid=d.vm('big'), static_min='16MiB', dynamic_min='16MiB', dynamic_max='64TiB',
             static_max='64TiB')
        big = d.list('vm', name_label='big')[0]
        d.sql_write("UPDATE pool SET suspend_image_SR = 'OpaqueRef:NULL'")
        d.fails('vm-suspend', uuid=vm, says='no SR for')
        assert d.state_of(vm) == 'running'
        d.check()


def test_failures():
    """What fails leaves the VM as it was, and nothing behind."""
    for fault in ('fail=rehearse', 'fail=save', 'fail=save_end', 'fail=prepare'):
        with Daemon('fake') as d:
            vm = running(d)
            d.restart(env={'STILLFRAME_FAKE': fault})
            d.fails('vm-checkpoint', uuid=vm, new_name_label='c', says='made to fail')
            if fault != 'fail=prepare':
                d.fails('vm-suspend', uuid=vm, says='made to fail')
            d.restart()
            assert d.state_of(vm) == 'running' and not images(d) and not d.list('snapshot'), fault
            d.check()
    with Daemon('fake') as d:
        vm = running(d)
        d.xe('vm-suspend', uuid=vm)
        d.restart(env={'STILLFRAME_FAKE': 'fail=start'})
        d.fails('vm-resume', uuid=vm, says='made to fail')
        assert d.state_of(vm) == 'suspended' and len(images(d)) == 1
        d.restart()
        d.xe('vm-resume', uuid=vm)
        d.check()


# ---- what the way back needs ----

def prepared(d):
    """A VM that runs, with a disc in its drive and a kernel and a ramdisk of its own."""
    d.isos(a=b'a' * 4096)
    vm = d.vm(disks=1)
    d.xe('vm-cd-add', uuid=vm, cd_name='a.iso', device=3)
    boot = os.path.join(d.state, 'boot')
    for name in ('kernel', 'ramdisk'):
        with open(os.path.join(boot, name), 'wb') as f:
            f.write(b'k' * 4096)
    d.xe('vm-param-set', f'PV-kernel={boot}/kernel', f'PV-ramdisk={boot}/ramdisk', 'HVM-boot-policy=', uuid=vm)
    d.xe('vm-start', uuid=vm)
    return vm


def volume_of(vdi):
    return lambda d, vm: os.path.join(d.state, 'sr', d.get('vdi', d.disks(vm)[vdi], 'location') + '.qcow2')


# A file that is gone, and what is said of it.
MISSING = {
    'disc': (lambda d, vm: os.path.join(d.state, 'isos', 'a.iso'), ('no longer in its storage', 'a.iso', 'vbd-eject')),
    'kernel': (lambda d, vm: os.path.join(d.state, 'boot', 'kernel'), ('kernel: No such file', 'PV-kernel')),
    'ramdisk': (lambda d, vm: os.path.join(d.state, 'boot', 'ramdisk'), ('ramdisk: No such file', 'PV-ramdisk')),
    'disk': (volume_of('0'), ('no longer in its storage', 'Put it back')),
}


def what_was_done(d):
    return [d.log().count(f'fake {deed} ') for deed in ('stop', 'start', 'pause', 'clear')]


def test_a_revert_that_could_not_go_on():
    """A running guest is not given up for a checkpoint that lacks something; when it is there again all is well."""
    with Daemon('fake') as d:
        vm = prepared(d)
        snap = checkpoint(d, vm)
        d.xe('vm-cd-eject', uuid=vm)
        for what, (path_of, words) in MISSING.items():
            path, before = path_of(d, snap), what_was_done(d)
            os.rename(path, path + '-away')
            said = d.fails('snapshot-revert', uuid=snap)
            people = said.split('Error parameters: ')[0]
            assert all(w in said for w in words) and 'OpaqueRef' not in people, (what, said)
            assert d.state_of(vm) == 'running' and what_was_done(d) == before and len(images(d)) == 1, what
            os.rename(path + '-away', path)
            d.check()
        folder = os.path.join(d.state, 'isos')
        d.stop()
        os.rename(folder, folder + '-away')
        d.start()                                   # its SR cannot be attached, and is unplugged
        d.fails('snapshot-revert', uuid=snap, says='pbd-plug')
        assert d.state_of(vm) == 'running'
        os.rename(folder + '-away', folder)
        d.xe('pbd-plug', uuid=d.list('pbd', sr_uuid=d.list('sr', type='iso')[0])[0])
        d.xe('snapshot-revert', uuid=snap, resume='true')
        assert d.state_of(vm) == 'running' and d.disks(vm)['3'] != '<not in database>'
        d.check()


def test_a_resume_that_could_not_go_on():
    """It begins nothing, and leaves the VM suspended with its memory."""
    with Daemon('fake') as d:
        vm = prepared(d)
        d.xe('vm-suspend', uuid=vm)
        for what, (path_of, words) in MISSING.items():
            path, before = path_of(d, vm), what_was_done(d)
            os.rename(path, path + '-away')
            said = d.fails('vm-resume', uuid=vm)
            assert all(w in said for w in words), (what, said)
            assert d.state_of(vm) == 'suspended' and what_was_done(d) == before and len(images(d)) == 1, what
            assert d.get('vm', vm, 'dom-id') == '-1'
            os.rename(path + '-away', path)
            d.check()
        d.xe('vm-resume', uuid=vm)
        assert d.state_of(vm) == 'running'
        d.check()


def test_the_disc_of_a_suspended_vm():
    """It can be taken out, and no other is put in: the guest comes back to an empty drive."""
    with Daemon('fake') as d:
        vm = prepared(d)
        d.xe('vm-suspend', uuid=vm)
        drive, = d.list('vbd', vm_uuid=vm, type='CD')
        assert d.get('vbd', drive, 'allowed-operations') == 'eject'
        os.unlink(os.path.join(d.state, 'isos', 'a.iso'))
        d.fails('vm-resume', uuid=vm, says='vbd-eject')
        d.xe('vm-cd-eject', uuid=vm)
        assert d.get('vbd', drive, 'empty') == 'true' and d.get('vbd', drive, 'allowed-operations') == ''
        d.isos('more', b=b'b' * 4096)
        d.fails('vm-cd-insert', uuid=vm, cd_name='b.iso', says='halted, running, paused')
        d.restart()
        d.xe('vm-resume', uuid=vm)
        assert d.fakes()[vm]['chains']['disk-3'] == []
        d.xe('vm-cd-insert', uuid=vm, cd_name='b.iso')
        d.check()


def test_a_reboot_that_could_not_go_on():
    """The guest is asked to end when it will start again, and not before that is known."""
    with Daemon('fake') as d:
        vm = prepared(d)
        for what, (path_of, words) in MISSING.items():
            path = path_of(d, vm)
            os.rename(path, path + '-away')
            said = d.fails('vm-reboot', uuid=vm)
            assert all(w in said for w in words), (what, said)
            assert d.state_of(vm) == 'running' and 'fake shutdown' not in d.log(), what
            os.rename(path + '-away', path)
        d.xe('vm-reboot', uuid=vm)
        assert d.state_of(vm) == 'running' and 'fake shutdown' in d.log()
        d.check()


# ---- beside each other ----

def test_shut_down_by_force_while_it_comes_back():
    """The resume fails and says why; the VM is halted, its memory gone, and its disks are free."""
    with Daemon('fake', delays={'fake-hang': 0.05}) as d:
        vm = running(d)
        d.xe('vm-suspend', uuid=vm)
        d.restart(env={'STILLFRAME_FAKE': 'hang=start'})
        p = d.begin('vm-resume', f'uuid={vm}', stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for(lambda: 'fake start' in d.log().rsplit('fake save', 1)[1])
        d.xe('vm-shutdown', '--force', uuid=vm)
        said = p.communicate()[1].decode()
        assert p.returncode == 1 and 'hard_shutdown' in said, said
        assert d.state_of(vm) == 'halted' and not images(d) and not d.fakes()
        d.restart()
        d.xe('vm-start', uuid=vm)
        d.check()


def test_a_device_that_is_on_its_way():
    """A VM is suspended when it is known whether its guest has let go of a device."""
    with Daemon('fake', delays={'fake-hang': 0.05}) as d:
        vm = d.vm(disks=1)
        nic = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)
        d.xe('vm-start', uuid=vm)
        d.restart(env={'STILLFRAME_FAKE': 'hang=unplug_nic'})
        p = d.begin('vif-unplug', f'uuid={nic}', stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: 'fake unplug_nic' in d.log())
        d.xe('vm-suspend', uuid=vm)
        said = d.log()
        assert said.index('fake unplug_nic') < said.rindex('fake present') < said.index('fake save'), 'it did not wait'
        assert p.wait() == 1 and d.get('vif', nic, 'currently-attached') == 'true'
        d.restart()
        d.xe('vm-resume', uuid=vm)
        assert d.fakes()[vm]['nics'] == ['nic-0']
        d.check()


def test_a_reset_beside_a_pause():
    """Both wait for a checkpoint; whichever is first, the row says what the VM does."""
    with Daemon('fake', delays={'fake-hang': 0.03}) as d:
        vm = running(d)
        d.restart(env={'STILLFRAME_FAKE': 'hang=rehearse'})
        for _ in range(4):
            taking = d.begin('vm-checkpoint', f'uuid={vm}', 'new-name-label=c', stderr=subprocess.DEVNULL)
            d.pending('VM.checkpoint')
            both = [d.begin(*words, f'uuid={vm}', stderr=subprocess.DEVNULL)
                    for words in (('vm-pause',), ('vm-reboot', '--force'))]
            assert taking.wait() == 1 and [p.wait() for p in both] == [0, 0]
            assert (d.state_of(vm) == 'paused') == d.fakes()[vm]['paused'] == True
            d.xe('vm-unpause', uuid=vm)
        d.check()


main(globals())
