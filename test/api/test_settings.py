#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A setting that is taken does what it says, or is refused with the reason: doc/settings.md has a row for each field
that can be set, and agrees with src/api/takes.def; each value that is taken reads back, and each other one is refused."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *
from objects import *

NULL = 'OpaqueRef:NULL'


def takes():
    """(class, field, key) -> values, of takes.def."""
    text = open(os.path.join(TOP, 'src', 'api', 'takes.def')).read()
    rows = re.findall(r'^TAKES\((\w+), +(\w+), +"([^"]*)", +"([^"]*)", *"([^"]*)"\)', text, re.M)
    assert len(rows) == text.count('\nTAKES(') > 50
    return {(c, f, k): v for c, f, k, v, _ in rows}


def document():
    """(class, field, key) -> what is taken, of the tables."""
    rows, of = {}, None
    for line in open(os.path.join(TOP, 'doc', 'settings.md')):
        if line.startswith('## '):
            of = line[3:].strip()
        if not line.startswith('| `'):
            continue
        names, taken, _ = (cell.strip() for cell in line.strip().strip('|').split('|'))
        for name in re.findall('`([^`]*)`', names):
            c, name = name.split('.') if of == 'The others' else (of, name)
            field, _, key = name.partition(':')
            assert (c, field, key) not in rows, name
            rows[c, field, key] = taken
    return rows


def told(values):
    """As the document has it."""
    if values == '*':
        return 'only anything'
    if m := re.fullmatch(r'(\d+)\.\.(\d+)', values):
        return f'only {m[1]} to {m[2]}'
    if m := re.fullmatch(r'\[(\w+)\]', values):
        return f'only letters of `{m[1]}`'
    return 'only ' + ', '.join(f'`{v}`' if v else 'nothing' for v in values.split('|'))


def test_the_document():
    """Each setter has a row, each row a setter or a place in a record; and its values are those of the table."""
    fields, _ = model()
    rows, limits = document(), takes()
    with Served() as d:
        methods = set(Json(d.port).call('system.listMethods'))
    settable = {(c, f) for c in fields for f in fields[c] if f'{c}.set_{f}' in methods and fields[c][f].access != 'private'}
    settable -= {(c, f) for c, f in settable if c == 'task' and f != 'other_config'} | {('PBD', 'device_config')}
    at_creation = {('VM', 'power_state'), ('VM', 'suspend_VDI'), ('VIF', 'ipv4_allowed'), ('VIF', 'ipv6_allowed'), ('VIF', 'trunks')}
    named = {(c, f) for c, f, _ in rows}
    assert settable - named == set(), settable - named
    assert named - settable == at_creation, named - settable
    for (c, f, key), values in limits.items():
        key = '' if key == '*' else key
        assert rows[c, f, key] == told(values), (c, f, key, rows[c, f, key], told(values))
    limited = {(c, f, '' if key == '*' else key) for c, f, key in limits}
    assert {row for row, taken in rows.items() if taken.startswith('only')} == limited


def sample(values):
    """Values that the pattern takes, and some that it does not."""
    if values == '*':
        return ['anything', '1'], []
    if m := re.fullmatch(r'(\d+)\.\.(\d+)', values):
        return [m[1], m[2]], [str(int(m[1]) - 1), str(int(m[2]) + 1), '', 'two', '-5', m[1] + ' ', '0x10', m[2] + '.0']
    if m := re.fullmatch(r'\[(\w+)\]', values):
        return ['', *m[1], m[1]], ['x', m[1] + ' ', 'a' + m[1]]
    words = values.split('|')
    return words, [w for w in ('nonsense', 'true ', 'tru', *(w + 'x' for w in words), *(w[:-1] for w in words)) if w not in words]


def typed(text, f):
    """A word of the table as a value of the field."""
    if f.kind == 'bool':
        return text == 'true'
    if f.kind in ('int', 'float'):
        return int(text) if f.kind == 'int' else float(text)
    if f.kind.endswith('set') or '->' in f.kind:
        assert text == ''
        return [] if f.kind.endswith('set') else {}
    return text


def others(f, good, s):
    """Values of the field's kind that are not among the good ones."""
    if f.kind == 'bool':
        return [v for v in (True, False) if v not in good]
    if f.kind == 'enum':
        return [v for v in s.enum if v not in good]
    if '->' in f.kind:
        return [{'k': 'v'}]
    if f.kind.endswith('set'):
        return [['7']] if f.kind != 'int set' else [[7]]
    return {'string': ['nonsense'], 'int': [77, -1], 'float': [4.5, 0.0], 'ref': []}[f.kind]


def enumeration(of):
    """The values of an enumeration, of enums.def."""
    text = open(os.path.join(TOP, 'src', 'model', 'enums.def')).read()
    return re.findall(rf'VALUE\({of}, (\w+)\)', text)


def test_each_value():
    """Of each row of the table, by the setter and inside a map: those that are taken read back, any other is refused with
    its field, itself and the reason, and changes nothing."""
    fields, _ = model()
    n = 0
    with Served(accounts=['alice']) as d:
        s = Session(Json(d.port), d)
        populate(d, s)
        d.xe('vm-shutdown', '--force', uuid=d.list('vm')[0])
        methods = set(s.wire.call('system.listMethods'))
        web = s.VM.get_by_uuid(d.list('vm')[0])
        for (c, name, key), values in takes().items():
            if f'{c}.set_{name}' not in methods:
                continue
            f, ref = fields[c][name], web if c == 'VM' else s.call(f'{c}.get_all')[0]
            before = s.call(f'{c}.get_{name}', ref)
            if not key:
                good = [typed(v, f) for v in values.split('|')]
                s.enum = enumeration(f.of)
                tries = [(v, True) for v in good] + [(v, False) for v in others(f, good, s)]
                for value, taken in tries:
                    n += 1
                    if taken:
                        s.call(f'{c}.set_{name}', ref, value)
                        if value != 'unspecified':
                            assert s.call(f'{c}.get_{name}', ref) == value, (c, name, value)
                        continue
                    now = s.call(f'{c}.get_{name}', ref)
                    error = s.refused(f'{c}.set_{name}', ref, value)
                    assert error[:2] == ['VALUE_NOT_SUPPORTED', name] and len(error) == 4 and error[3], (c, name, value, error)
                    assert s.call(f'{c}.get_{name}', ref) == now
            else:
                k = 'any/key' if key == '*' else key
                good, bad = sample(values)
                for value, taken in [(v, True) for v in good] + [(v, False) for v in bad]:
                    n += 1
                    s.call(f'{c}.remove_from_{name}', ref, k)
                    now = s.call(f'{c}.get_{name}', ref)
                    if c == 'VDI' and name == 'sm_config' and k == 'type':
                        continue            # chosen when the disk is made: test_makers
                    for method, params in ((f'{c}.add_to_{name}', (k, value)), (f'{c}.set_{name}', ({**now, k: value},))):
                        if taken:
                            s.call(f'{c}.remove_from_{name}', ref, k)
                            s.call(method, ref, *params)
                            assert s.call(f'{c}.get_{name}', ref)[k] == value, (c, name, k, value)
                        else:
                            error = s.refused(method, ref, *params)
                            assert error[:3] == ['VALUE_NOT_SUPPORTED', f'{name}:{k}', value] and error[3], (c, name, k, value, error)
                            assert s.call(f'{c}.get_{name}', ref) == now
            s.call(f'{c}.set_{name}', ref, before)
        print(f'  {n} values')
        d.check()


def test_makers():
    """The record that an object is made of is held to the same; an object that would be another is not made."""
    with Served() as d:
        s = Session(Json(d.port), d)
        vm, network, sr = s.VM.get_by_uuid(d.vm('web')), s.network.get_all()[0], s.SR.get_all()[0]
        vif = {'device': '0', 'network': network, 'VM': vm, 'MAC': '', 'MTU': 1400, 'other_config': {}, 'qos_algorithm_type': '',
               'qos_algorithm_params': {'kbps': '1'}, 'locking_mode': 'network_default', 'ipv4_allowed': [], 'ipv6_allowed': [], 'trunks': []}
        vbd = {'VM': vm, 'VDI': NULL, 'userdevice': '3', 'bootable': False, 'mode': 'RO', 'type': 'CD', 'unpluggable': True, 'empty': True,
               'other_config': {}, 'qos_algorithm_type': '', 'qos_algorithm_params': {}}
        vdi = {'name_label': 'x', 'SR': sr, 'virtual_size': 1 << 20, 'type': 'user', 'sharable': False, 'read_only': False,
               'other_config': {}, 'sm_config': {}}
        machine = {'name_label': 'x', 'name_description': '', 'VCPUs_params': {}, 'xenstore_data': {'vm-data/x': 'y'}}
        for c, record, bad in (
                ('VIF', vif, [('locking_mode', 'locked'), ('locking_mode', 'disabled'), ('ipv4_allowed', ['10.0.0.1']),
                              ('ipv6_allowed', ['fe80::1']), ('trunks', [7]), ('qos_algorithm_type', 'ratelimit')]),
                ('VBD', vbd, [('qos_algorithm_type', 'ionice')]),
                ('VDI', vdi, [('sm_config', {'image-format': 'vhd'}), ('sm_config', {'type': 'vhd'}), ('other_config', {'coalesce': 'false'})]),
                ('VM', machine, [('VCPUs_params', {'weight': '512'}), ('VCPUs_params', {'mask': '0,1'}),
                                 ('HVM_shadow_multiplier', 4.0), ('domain_type', 'pvh'), ('start_delay', 5), ('order', 1),
                                 ('platform', {'nx': 'false'}), ('platform', {'nested-virt': 'true'}), ('HVM_boot_params', {'order': 'x'}),
                                 ('power_state', 'Suspended'), ('suspend_VDI', s.VDI.create(vdi)), ('PCI_bus', '0/0000:00:1f.0'),
                                 ('actions_after_crash', 'coredump_and_restart')])):
            before = sorted(s.call(f'{c}.get_all'))
            for field, value in bad:
                error = s.refused(f'{c}.create', {**record, field: value})
                assert error[0] == 'VALUE_NOT_SUPPORTED' and error[1].split(':')[0] == field and error[3], (c, field, error)
                assert sorted(s.call(f'{c}.get_all')) == before, (c, field)
            made = s.call(f'{c}.create', record)
            s.call(f'{c}.destroy', s.call(f'{c}.create', {**s.call(f'{c}.get_record', made), 'device': '5', 'userdevice': '2'}))
        assert s.VIF.get_MTU(s.VM.get_VIFs(vm)[0]) == s.network.get_MTU(network) == 1500
        raw = s.VDI.create({**vdi, 'sm_config': {'type': 'raw'}})
        config = s.VDI.get_sm_config(raw)
        assert config['type'] == 'raw'
        assert s.refused('VDI.remove_from_sm_config', raw, 'type')[:2] == ['VALUE_NOT_SUPPORTED', 'sm_config:type']
        assert s.refused('VDI.set_sm_config', raw, {**config, 'vdi_type': 'vhd'})[:2] == ['VALUE_NOT_SUPPORTED', 'sm_config:vdi_type']
        s.VDI.add_to_sm_config(raw, 'mine', 'x')
        s.VDI.set_sm_config(raw, {**config, 'mine': 'y'})
        d.check()


def test_hostname_and_domain_type():
    with Served() as d:
        s = Session(Json(d.port), d)
        host = s.host.get_all()[0]
        name = s.host.get_hostname(host)
        s.host.set_hostname(host, name)
        assert s.refused('host.set_hostname', host, 'another')[:3] == ['VALUE_NOT_SUPPORTED', 'hostname', 'another']
        assert s.host.get_hostname(host) == name
        vm = s.VM.get_by_uuid(d.vm('web'))
        for kind, policy in (('pv', ''), ('unspecified', ''), ('hvm', 'BIOS order'), ('unspecified', 'BIOS order')):
            s.VM.set_domain_type(vm, kind)
            assert s.VM.get_HVM_boot_policy(vm) == policy
            assert s.VM.get_domain_type(vm) == ('hvm' if policy else 'pv')


def test_a_record_of_before():
    """What a database of before says, and is not so, does not run as if it were."""
    with Served() as d:
        vm = d.vm('web')
        vif = d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)
        for table, field, value in (('VIF', 'locking_mode', 'locked'), ('VIF', 'locking_mode', 'disabled'),
                                    ('network', 'default_locking_mode', 'disabled')):
            d.stop()
            before = d.sql(f'SELECT {field} FROM {table}')[0]
            d.sql_write(f"UPDATE {table} SET {field} = '{value}'")
            d.start()
            err = d.fails('vm-start', uuid=vm, says=field)
            assert value in err, err
            assert d.state_of(vm) == 'halted'
            d.stop()
            d.sql_write(f"UPDATE {table} SET {field} = '{before}'")
            d.start()
        d.xe('vif-param-set', 'locking-mode=unlocked', uuid=vif)
        d.xe('vm-start', uuid=vm)
        err = d.fails('vif-param-set', 'locking-mode=locked', uuid=vif, says='locking_mode')
        assert 'addresses' in err, err
        d.xe('vm-shutdown', '--force', uuid=vm)
        d.xe('vm-param-set', 'HVM-boot-policy=', 'PV-bootloader=pygrub', uuid=vm)
        d.fails('vm-start', uuid=vm, says='PV-bootloader')
        d.check()


def test_the_present_value():
    """Whatever xe shows as one that can be written may be written as it is."""
    with Served() as d:
        vm = d.vm('web', disks=1)
        snap = d.snapshot(vm)
        d.xe('template-param-set', 'is-a-template=false', 'ha-always-run=false', uuid=snap)
        d.fails('vm-param-set', 'ha-always-run=true', uuid=vm, says='cannot be changed here')
        d.fails('vm-param-set', 'ha-always-run=maybe', uuid=vm, says='ha-always-run')
        n = 0
        for view in ('vm', 'vdi', 'host', 'pool', 'sr', 'network', 'vbd', 'template'):
            uuid_ = d.list(view)[0]
            for line in d.xe(f'{view}-param-list', uuid=uuid_).splitlines():
                m = re.match(r'\s*(\S+) \( RW\)(?: \[DEPRECATED\])?: ?(.*)$', line)
                if not m:
                    continue
                value = '' if m[2].startswith('<') else m[2]
                status, out, err = d.run(f'{view}-param-set', f'{m[1]}={value}', uuid=uuid_)
                assert status == 0 or 'several values' in err or 'not there' in err, (view, line, err)
                n += 1
        print(f'  {n} fields')
        d.check()


def test_numbers():
    """One that there is."""
    with Served() as d:
        x, j, uuid_ = Session(Xml(d.port), d), Session(Json(d.port), d), d.vm('web')
        for s in (x, j):
            task = s.task.create('work', '')
            for bad in ('nan', 'NaN', 'inf', '-Infinity', '0x1p3', ' 1', 'one', ''):
                assert s.refused('task.set_progress', task, bad) == ['FIELD_TYPE_ERROR', 'value'], bad
                assert s.refused('event.from', ['vm'], '', bad)[0] == 'FIELD_TYPE_ERROR', bad
            assert s.refused('task.set_progress', task, '1e400') == ['INVALID_VALUE', 'value', '1e400']
            assert s.task.get_progress(task) == 0
            s.task.set_progress(task, 0.25)
            assert s.task.get_progress(task) == 0.25
            vm = s.VM.get_by_uuid(uuid_)
            for bad in ('nan', '1e400'):
                assert s.refused('VM.set_HVM_shadow_multiplier', vm, bad)[0] in ('FIELD_TYPE_ERROR', 'INVALID_VALUE')
        d.fails('vm-param-set', 'HVM-shadow-multiplier=nan', uuid=uuid_)
        r, text = Json(d.port).raw('{"method": "task.set_progress", "params": ["%s", "%s", 1e400], "id": 1}' % (j.ref, task))
        assert r.status == 400, (r.status, text)


main(globals())
