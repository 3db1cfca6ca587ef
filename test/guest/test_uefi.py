#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""UEFI: the store of variables is one more disk of the VM, in its snapshots, reverts and clones."""
import base64, os, struct, sys, uuid
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from golden import golden

STORE = "SELECT v.uuid FROM VDI v JOIN VM m ON m.NVRAM_VDI = v.ref WHERE m.uuid = '{}'"

OURS = uuid.UUID('3d1a5f0c-6b7e-4c52-9a0e-5c1f7e2b9d48')       # owner of the guest's variables


def store(d, vm):
    return d.sql(STORE.format(vm))


def nvram(d, vm):
    return d.get('vm', vm, 'NVRAM', 'EFI-variables')


def decode(text):
    """(owner, name) -> (attributes, data), from varstored's format."""
    blob = base64.b64decode(text, validate=True)
    magic, version, count, size = struct.unpack_from('<4sIQQ', blob)
    assert (magic, version, size) == (b'VARS', 1, len(blob) - 24), blob[:24]
    found, at = {}, 24
    for _ in range(count):
        parts = []
        for _ in ('name', 'data'):
            n, = struct.unpack_from('<Q', blob, at)
            parts.append(blob[at + 8:at + 8 + n])
            at += 8 + n
        owner, attributes, time, signer = struct.unpack_from('<16sI16s32s', blob, at)
        at += 68
        found[uuid.UUID(bytes_le=owner), parts[0].decode('utf-16-le')] = attributes, parts[1]
    assert at == len(blob)
    return found


def encode(name, data):
    name = name.encode('utf-16-le')
    one = struct.pack('<Q', len(name)) + name + struct.pack('<Q', len(data)) + data
    one += OURS.bytes_le + struct.pack('<I', 7) + bytes(48)
    return base64.b64encode(b'VARS' + struct.pack('<IQQ', 1, 1, len(one)) + one).decode()


def set_nvram(d, vm, text):
    d.xe('vm-param-set', f'NVRAM:EFI-variables={text}', uuid=vm)


def wait_variable(d, vm, data):
    """A guest that ended by itself is read by nobody's call."""
    end = time.time() + 20 * SLOW
    while decode(nvram(d, vm)).get((OURS, 'Test')) != (7, data):
        assert time.time() < end, decode(nvram(d, vm))
        time.sleep(0.1)


def test_clients_see_the_variables():
    with Daemon() as d:
        vm = uefi_vm(d)
        d.fails('vm-param-get', uuid=vm, param_name='NVRAM', param_key='EFI-variables')
        with d.boot(vm) as s:
            assert decode(nvram(d, vm)) == {}, 'a new store is not empty'
            s.ask('variable Test given')
            d.fails('vm-param-set', f'NVRAM:EFI-variables={nvram(d, vm)}', uuid=vm, says='expected: halted')
        d.xe('vm-shutdown', '--force', uuid=vm)
        after = decode(nvram(d, vm))
        assert after[OURS, 'Test'] == (7, b'given'), after
        assert all(attributes & 1 for attributes, _ in after.values()) and len(after) > 3
        d.check()

        other = uefi_vm(d, 'other')
        assert not store(d, other)
        set_nvram(d, other, nvram(d, vm))
        with d.boot(other) as s:
            assert s.ask('variable Test') == 'Test=given', 'what a client gave is not in the guest'
            s.ask('variable Test own')
            d.kill()
        d.start()
        with Serial(d, other) as s:
            s.ask('poweroff')
        d.wait_state(other, 'halted')
        wait_variable(d, other, b'own')

        set_nvram(d, other, encode('Test', b'back'))
        assert not store(d, other)
        d.check()
        with d.boot(other) as s:
            assert s.ask('variable Test') == 'Test=back'
        assert len(store(d, other)) == 1


def test_malformed_variables_are_refused():
    with Daemon() as d:
        vm = uefi_vm(d)
        for bad in ('rubbish', base64.b64encode(b'VARS' + bytes(20)).decode(), encode('Test', b''),
                    encode('', b'data')):
            d.fails('vm-param-set', f'NVRAM:EFI-variables={bad}', uuid=vm, says='field: NVRAM')
        set_nvram(d, vm, encode('Test', bytes(300000 // 4)))
        d.xe('vm-param-remove', uuid=vm, param_name='NVRAM', param_key='EFI-variables')
        set_nvram(d, vm, encode('Test', b'good'))
        d.xe('vm-start', '--paused', uuid=vm)
        assert decode(nvram(d, vm)) == {(OURS, 'Test'): (7, b'good')}
        d.kill()
        os.kill(d.guests()[vm], signal.SIGKILL)
        d.start()                                       # finds that the VM has ended
        d.wait_state(vm, 'halted')
        wait_variable(d, vm, b'good')


def test_a_broken_store_stops_no_shutdown():
    with Daemon() as d:
        vm = uefi_vm(d)
        set_nvram(d, vm, encode('Test', b'good'))
        d.xe('vm-start', '--paused', uuid=vm)
        volume, = d.sql(f"SELECT location FROM VDI WHERE uuid = '{store(d, vm)[0]}'")
        with open(os.path.join(d.state, 'sr', volume + '.qcow2'), 'r+b') as f:
            f.write(b'gone')
        d.xe('vm-shutdown', '--force', uuid=vm)
        assert 'UEFI variables not read' in d.log()
        set_nvram(d, vm, nvram(d, vm))                  # makes the store anew
        d.xe('vm-start', '--paused', uuid=vm)
        assert decode(nvram(d, vm)) == {(OURS, 'Test'): (7, b'good')}


def test_variables_belong_to_the_snapshot():
    with golden('uefi') as (d, vm, s):
        assert s.ask('firmware').startswith('uefi'), s.ask('firmware')
        assert len(store(d, vm)) == 1 and len(d.list('vbd', vm_uuid=vm)) == 1
        s.ask('variable Test before')
        snap = d.snapshot(vm)
        s.ask('variable Test after')
        d.snapshot(vm, 'second')            # taken after a switch: the new layer is what is written
        s.ask('variable Test last')
        d.fails('vdi-destroy', uuid=store(d, vm)[0], says='in use')
        d.xe('snapshot-revert', uuid=snap)
        with d.boot(vm) as s:
            assert s.ask('variable Test') == 'Test=before', 'the store is not of the instant'
        copy = d.xe('vm-install', template=snap, new_name_label='copy')
        with d.boot(copy) as s:
            assert s.ask('variable Test') == 'Test=before'
            s.ask("variable Test copy's")
        d.xe('vm-shutdown', '--force', '--multiple')
        assert store(d, copy) != store(d, vm)
        d.check()
        d.xe('vm-uninstall', '--force', uuid=copy)
        d.check()
        assert decode(nvram(d, vm))[OURS, 'Test'] == (7, b'before')
        d.xe('vm-copy', uuid=vm, new_name_label='whole')
        d.xe('vm-uninstall', '--force', uuid=vm)
        whole, = d.list('vm')
        with d.boot(whole) as s:
            assert s.ask('variable Test') == 'Test=before', 'a full copy has no store of its own'
        d.check()


def test_secure_boot_refuses_what_is_not_signed():
    with Daemon() as d:
        vm = uefi_vm(d, secure='true')
        d.xe('vm-start', uuid=vm)
        log = lambda: open(os.path.join(d.state, 'run', vm, 'serial.log'), errors='replace').read()
        wait_for(lambda: 'Access Denied' in log(), 60, why=lambda: log()[-1000:])
        time.sleep(1)
        assert d.state_of(vm) == 'running' and 'STILLFRAME-GUEST' not in log()


main(globals())
