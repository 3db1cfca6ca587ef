#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Schedules of snapshots: what one may be, and one run of one."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *


def record(wire, **changed):
    return {'name_label': 'nightly', 'name_description': '', 'enabled': False, 'type': 'snapshot',
            'retained_snapshots': wire.number(2), 'frequency': 'daily', 'schedule': {}, **changed}


def test_schedules():
    """Keys follow from the frequency; what cannot be is refused with the key and the value."""
    for wire in (Json, Xml):
        with Served() as d:
            s = Session(wire(d.port), d)
            n = s.wire.number
            v = s.VMSS.create(record(s.wire, schedule={'min': '30', 'days': 'Friday', 'other': 'x'}))
            assert s.VMSS.get_schedule(v) == {'min': '30', 'hour': '0'}
            s.VMSS.set_frequency(v, 'weekly')
            assert s.VMSS.get_schedule(v) == {'min': '30', 'hour': '0', 'days': 'Monday'}
            s.VMSS.add_to_schedule(v, 'days', 'Tuesday,Sunday')
            s.VMSS.add_to_schedule(v, 'hour', '23')
            assert s.VMSS.get_schedule(v) == {'min': '30', 'hour': '23', 'days': 'Tuesday,Sunday'}
            s.VMSS.remove_from_schedule(v, 'hour')
            assert s.VMSS.get_schedule(v)['hour'] == '0'
            s.VMSS.set_frequency(v, 'hourly')
            assert s.VMSS.get_schedule(v) == {'min': '30'}
            before = s.VMSS.get_record(v)
            for key, value in (('min', '7'), ('min', ''), ('min', '0 15')):
                assert s.refused('VMSS.add_to_schedule', v, key, value) == ['INVALID_VALUE', f'schedule:{key}', value]
            s.VMSS.set_frequency(v, 'weekly')
            for key, value in (('hour', '24'), ('hour', '-1'), ('hour', 'noon'), ('days', 'monday'), ('days', ''),
                               ('days', 'Monday,,Friday'), ('days', 'Mon')):
                assert s.refused('VMSS.add_to_schedule', v, key, value) == ['INVALID_VALUE', f'schedule:{key}', value]
            for number in (0, 11, -1):
                assert s.refused('VMSS.set_retained_snapshots', v, n(number)) == \
                    ['INVALID_VALUE', 'retained_snapshots', str(number)]
            for refused in (s.refused('VMSS.set_enabled', v, True), s.refused('VMSS.create', record(s.wire, enabled=True))):
                assert refused[:3] == ['VALUE_NOT_SUPPORTED', 'enabled', 'true'] and 'snapshot_now' in refused[3], refused
            s.VMSS.set_frequency(v, 'hourly')
            assert s.VMSS.get_record(v) == before and len(s.VMSS.get_all()) == 1
            s.VMSS.destroy(v)
            assert s.VMSS.get_all() == []


def test_members():
    with Served() as d:
        s = Session(Json(d.port), d)
        v = s.VMSS.create(record(s.wire))
        vm, template = s.VM.get_by_uuid(d.vm('web')), s.VM.get_by_uuid(d.list('template')[0])
        assert s.refused('VM.set_snapshot_schedule', template, v)[:2] == ['VM_IS_TEMPLATE', template]
        assert s.refused('VM.set_snapshot_schedule', vm, vm) == ['HANDLE_INVALID', 'VMSS', vm]
        quiesced = s.VMSS.create(record(s.wire, type='snapshot_with_quiesce'))
        assert s.refused('VM.set_snapshot_schedule', vm, quiesced)[:2] == ['VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED', vm]
        s.VM.set_snapshot_schedule(vm, v)
        assert s.VMSS.get_VMs(v) == [vm] and s.refused('VMSS.destroy', v) == ['VMSS_HAS_VM']
        assert s.refused('VMSS.set_type', v, 'snapshot_with_quiesce')[0] == 'VM_SNAPSHOT_WITH_QUIESCE_NOT_SUPPORTED'
        assert s.VMSS.get_type(v) == 'snapshot'
        s.VM.set_snapshot_schedule(vm, 'OpaqueRef:NULL')
        s.VMSS.destroy(v)


def test_run():
    """A snapshot of each VM; the oldest of the schedule's own go, those of others stay; one that fails is told of."""
    with Served() as d:
        s = Session(Json(d.port), d)
        names = ('web', 'db', 'blocked')
        vms = {name: d.vm('w<b>&' if name == 'web' else name, disks=1) for name in names}
        refs = {name: s.VM.get_by_uuid(uuid_) for name, uuid_ in vms.items()}
        v = s.VMSS.get_by_uuid(d.xe('vmss-create', name_label='nightly', type='snapshot', frequency='daily', enabled='false',
                                    retained_snapshots=2))
        for uuid_ in vms.values():
            d.xe('vm-param-set', uuid=uuid_, snapshot_schedule=s.VMSS.get_uuid(v))
        own = d.snapshot(vms['web'], 'by hand')
        d.xe('vm-start', uuid=vms['db'])
        s.VM.set_blocked_operations(refs['blocked'], {'snapshot': 'not today'})
        taken = []
        for run in range(4):
            task = s.Async.VMSS.snapshot_now(v) if run == 3 else None
            text = s.VMSS.snapshot_now(v) if run != 3 else finished(s, task)
            assert ('VM:w&lt;b&gt;&amp; UUID' if task else 'VM:w<b>& UUID') in text, text
            assert text.count('VM:') == 3 and f"UUID:{vms['blocked']} Error:['OPERATION_BLOCKED','" in text, text
            for name in ('web', 'db'):
                snaps = [(r['snapshot_time'], x) for x, r in s.VM.get_all_records().items()
                         if r['snapshot_of'] == refs[name] and r['is_vmss_snapshot']]
                assert len(snaps) == min(run + 1, 2), (run, name, snaps)
            newest = [x for x in s.VM.get_snapshots(refs['web']) if x not in taken and s.VM.get_is_vmss_snapshot(x)]
            assert len(newest) == 1 and s.VM.get_name_label(newest[0]).startswith('nightly 2'), newest
            taken += newest
        assert set(taken[2:]) < set(s.VM.get_snapshots(refs['web'])) and s.VM.get_uuid(s.VM.get_by_uuid(own)) == own
        assert not s.VM.get_is_vmss_snapshot(s.VM.get_by_uuid(own)) and s.VM.get_snapshots(refs['blocked']) == []
        assert s.VMSS.get_last_run_time(v) > '2026'
        told = [m for m in s.message.get_all_records().values() if m['cls'] == 'VMSS']
        assert {m['obj_uuid'] for m in told} == {s.VMSS.get_uuid(v)}
        assert sorted({(m['name'], m['priority']) for m in told}) == [('VMSS_SNAPSHOT_FAILED', 3), ('VMSS_SNAPSHOT_SUCCEEDED', 5)]
        assert len(told) == 12
        # nobody's session is left, and the disks of what was deleted are gone
        assert not d.sql("SELECT * FROM session WHERE auth_user_name = '__dom0__vmss'")
        d.fails('vmss-snapshot-now', uuid=s.VMSS.get_uuid(v), says='Not all snapshots were taken')
        d.wait_quiet(merged=False)
        disks = [d.disks(x) for x in d.list('snapshot')]
        assert len(disks) == 2 + 2 + 1 and len(d.sql("SELECT uuid FROM VDI WHERE is_a_snapshot = 'true'")) == 5, disks
        d.check()


def test_what_changes_during_a_run():
    """A VM that has left the schedule, or is gone, when its turn comes is left out; what the schedule says by then counts."""
    with Served(delays={'fake-hang': 0.1}) as d:
        s = Session(Json(d.port), d)
        v = s.VMSS.create(record(s.wire, retained_snapshots=1))
        refs = [s.VM.get_by_uuid(d.vm(name)) for name in ('first', 'leaves', 'goes', 'last')]
        for vm in refs:
            s.VM.set_snapshot_schedule(vm, v)
        s.VM.start(refs[0], False, False)
        d.restart(env={'STILLFRAME_FAKE': 'hang=rehearse'})
        s = Session(Json(d.port), d)
        s.VMSS.set_type(v, 'checkpoint')
        task = s.Async.VMSS.snapshot_now(v)
        wait_for(lambda: 'fake rehearse' in d.log())
        s.VMSS.set_type(v, 'snapshot')
        s.VM.set_snapshot_schedule(refs[1], 'OpaqueRef:NULL')
        s.VM.destroy(refs[2])
        text = finished(s, task)
        assert text.count('VM:') == 2 and 'VM:first' in text and 'VM:last' in text, text
        assert [len(s.VM.get_snapshots(vm)) for vm in (refs[0], refs[1], refs[3])] == [0, 0, 1]
        d.check()


def test_with_memory():
    with Served() as d:
        s = Session(Json(d.port), d)
        vm = s.VM.get_by_uuid(d.vm('web', disks=1))
        v = s.VMSS.create(record(s.wire, type='checkpoint', retained_snapshots=1))
        s.VM.set_snapshot_schedule(vm, v)
        s.VM.start(vm, False, False)
        for _ in range(2):
            assert 'Error' not in s.VMSS.snapshot_now(v)
        snaps = s.VM.get_snapshots(vm)
        assert len(snaps) == 1 and s.VM.get_power_state(snaps[0]) == 'Suspended'
        d.check()


main(globals())
