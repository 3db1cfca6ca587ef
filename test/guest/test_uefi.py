#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""UEFI: the store of variables is one more disk of the VM, in its snapshots, reverts and clones."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

STORE = "SELECT v.uuid FROM VDI v JOIN VM m ON m.NVRAM_VDI = v.ref WHERE m.uuid = '{}'"


def uefi_vm(d, name='uefi', secure='false'):
    if not os.path.exists('/usr/share/OVMF/OVMF_CODE_4M.fd'):
        raise Skip('the package ovmf is not there')
    image = os.path.join(guest_folder(), 'boot.img')
    vdi = d.vdi(f'{os.path.getsize(image)}', 'boot')
    d.xe('vdi-import', uuid=vdi, filename=image)
    vm = d.vm(name, memory='512MiB')
    d.xe('vbd-create', vm_uuid=vm, vdi_uuid=vdi, device=0)
    d.xe('vm-param-set', 'HVM-boot-params:firmware=uefi', f'platform:secureboot={secure}', uuid=vm)
    return vm


def store(d, vm):
    return d.sql(STORE.format(vm))


def test_variables_belong_to_the_snapshot():
    with Daemon() as d:
        vm = uefi_vm(d)
        assert not store(d, vm)
        with d.boot(vm) as s:
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
        with d.boot(vm) as s:
            assert s.ask('variable Test') == 'Test=before'
        d.xe('vm-shutdown', '--force', uuid=vm)
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
        time.sleep(15 * SLOW)
        log = open(os.path.join(d.state, 'run', vm, 'serial.log'), errors='replace').read()
        assert d.state_of(vm) == 'running' and 'Access Denied' in log, log[-1000:]
        assert 'STILLFRAME-GUEST' not in log


main(globals())
