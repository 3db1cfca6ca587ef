#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The API against xenapi.txt: each field is there with its type, each message is there with its parameters and its
role, or stands with a reason in missing.txt; and nothing else is there."""
import collections, fnmatch, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *
from objects import populate

HERE = os.path.dirname(os.path.abspath(__file__))
# Ours, more than XenAPI has; and of what it has, Async forms of ours, of calls that take long, and one whose result is
# no text.
OURS = {'SR.check'}
ASYNC = {'SR.check', 'VMSS.snapshot_now'}
NO_ASYNC = {'VM.get_cooperative'}
# Objects that there are only where the host has what they tell of.
MAYBE = {'event', 'VM_guest_metrics', 'PIF', 'PIF_metrics'}


def read_api():
    classes, fields, messages, setters = [], {}, {}, {}
    for line in open(os.path.join(HERE, 'xenapi.txt')):
        word, *rest = line.split(None, 2) if line[0] != '#' else ['#']
        if word == 'class':
            classes.append(rest[0])
        elif word == 'field':
            fields[classes[-1], rest[0]] = rest[1].strip()
        elif word == 'setter':
            setters[classes[-1], rest[0]] = rest[1].strip()
        elif word == 'message':
            role, params, kind = rest[1].split()
            required, optional = map(int, params.split('+'))
            messages[f'{classes[-1]}.{rest[0]}'] = (role, required, optional, kind == 'async')
    return classes, fields, messages, setters


def read_missing():
    rows = [line.split(None, 1) for line in open(os.path.join(HERE, 'missing.txt')) if line[0] != '#']
    return [(pattern, why.strip()) for pattern, why in rows]


def is_of(value, kind):
    """Is it a JSON value of the type?"""
    if kind.endswith(' map'):
        key, inner = kind[1:kind.index(')')].split(' -> ')
        return isinstance(value, dict) and all(is_of(v, inner) for v in value.values())
    if kind.endswith(' set'):
        return isinstance(value, list) and all(is_of(v, kind[:-4]) for v in value)
    if kind.endswith(' ref'):
        return isinstance(value, str) and re.fullmatch('OpaqueRef:(NULL|[0-9a-f-]{36})', value) is not None
    if kind == 'datetime':
        return isinstance(value, str) and re.fullmatch(r'\d{8}T\d\d:\d\d:\d\dZ', value) is not None
    if kind == 'bool':
        return isinstance(value, bool)
    if kind == 'int':
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == 'float':
        return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
    return isinstance(value, str)


def test_fields():
    """Of each object of each class, in both encodings' common form."""
    classes, fields, _, _ = read_api()
    with Served() as d:
        s = Session(Json(d.port), d)
        populate(d, s)
        wrong, seen = [], collections.Counter()
        for c in classes:
            records = ({s.ref: s.session.get_record(s.ref)} if c == 'session' else
                       {} if c == 'event' else s.call(f'{c}.get_all_records'))
            seen[c] = len(records)
            wanted = {name: kind for (of, name), kind in fields.items() if of == c}
            for ref, record in records.items():
                wrong += [f'{c}.{name} is missing' for name in wanted if name not in record]
                wrong += [f'{c}.{name} is not XenAPI\'s' for name in record if name not in wanted]
                wrong += [f'{c}.{name} = {record[name]!r} is no {kind}' for name, kind in wanted.items()
                          if name in record and not is_of(record[name], kind)]
        assert not wrong, '\n'.join(sorted(set(wrong)))
        empty = [c for c in classes if not seen[c] and c not in MAYBE]
        assert not empty, f'no object of {empty}'
        print(f'  {sum(seen.values())} objects of {len(classes)} classes')


def test_metrics_of_older_records():
    """Drives and interfaces of a database that had no metrics of them get theirs at the start."""
    with Served() as d:
        s = Session(Json(d.port), d)
        populate(d, s)
        d.stop()
        for c in 'VBD', 'VIF':
            d.sql_write(f"UPDATE {c} SET metrics = 'OpaqueRef:NULL'")
            d.sql_write(f'DELETE FROM {c}_metrics')
        d.start()
        d.check()
        s = Session(Json(d.port), d)
        for c in 'VBD', 'VIF':
            for record in s.call(f'{c}.get_all_records').values():
                assert s.call(f'{c}_metrics.get_record', record['metrics'])['last_updated'] > '2026'


def counted(s, method):
    """How many parameters it says that it wants; None: no such method; 0: it did not complain."""
    try:
        s.call(method)
    except ApiError as e:
        if e.code == 'MESSAGE_METHOD_UNKNOWN':
            return None
        return int(e.params[1]) if e.code == 'MESSAGE_PARAMETER_COUNT_MISMATCH' else 0
    return 0


def has_async(s, name):
    try:
        s.call(f'Async.{name}')
    except ApiError as e:
        return e.code != 'Fault'
    return True


def test_messages():
    classes, _, messages, setters = read_api()
    missing, used, reasons, wrong = read_missing(), set(), collections.Counter(), []
    with Served() as d:
        s = Session(Json(d.port), d)
        methods = set(s.wire.call('system.listMethods'))
        roles = {r['name_label']: set(s.role.get_permissions_name_label(ref))
                 for ref, r in s.role.get_all_records().items()}
        order = ['pool-admin', 'pool-operator', 'vm-power-admin', 'vm-admin', 'vm-operator', 'read-only']
        for name, (role, required, optional, is_async) in sorted(messages.items()):
            if name == 'event.next' or name.startswith('session.log'):       # waits; take no session, or end it
                continue
            n = counted(s, name)
            if n is None:
                row = next((r for r in missing if fnmatch.fnmatchcase(name, r[0])), None)
                if not row:
                    wrong.append(f'{name} is missing, and missing.txt has no reason')
                else:
                    used.add(row)
                    reasons[row[1]] += 1
                continue
            if n != required:
                wrong.append(f'{name} wants {n} parameters, not {required}')
            if name in methods and '.get_' not in name and not any(name.startswith(f'{c}.{p}') for c in classes for p in ('set_', 'add_', 'remove_')):
                mine = next(r for r in reversed(order) if name in roles[r])
                if role != 'None' and mine != role:
                    wrong.append(f'{name} is for {mine}, not {role}')
            wanted = is_async and name not in NO_ASYNC or name in ASYNC
            if name.startswith(tuple(f'{c}.{p}' for c in classes for p in ('set_', 'add_to_', 'remove_from_'))) and is_async:
                continue        # of setters there is none; they are done at once
            if has_async(s, name) != wanted:
                wrong.append(f'{name} has {"no " * wanted}Async form')
        for (c, field), role in setters.items():
            if f'{c}.set_{field}' in methods:
                mine = next(r for r in reversed(order) if f'{c}.set_{field}' in roles[r])
                if mine != role:
                    wrong.append(f'{c}.set_{field} is for {mine}, not {role}')
        known = set(messages) | OURS
        for m in methods:
            c, name = m.split('.')
            if m not in known and not name.startswith(('get_', 'set_', 'add_', 'remove_')) and c in classes:
                wrong.append(f'{m} is not XenAPI\'s')
    wrong += [f'missing.txt: {p} fits nothing' for p, why in missing if (p, why) not in used]
    assert not wrong, '\n'.join(wrong)
    print(f'  {len(messages) - sum(reasons.values())} of {len(messages)} messages; not there:')
    for why, n in reasons.most_common():
        print(f'    {n:3} {why}')


main(globals())
