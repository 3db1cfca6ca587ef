# SPDX-License-Identifier: Apache-2.0
"""The API's tables as tests read them, and a daemon with an object of each class."""
import collections, os, re, subprocess
from sf import *

ROLES = ['pool-admin', 'pool-operator', 'vm-power-admin', 'vm-admin', 'vm-operator', 'read-only']
KINDS = ['string -> string', 'string -> enum', 'string -> ref', 'enum -> string', 'ref -> string', 'string -> int', 'int -> int',
         'int -> float', 'int -> string set', 'string set', 'int set', 'enum set', 'ref set', 'string', 'int', 'float', 'bool',
         'datetime', 'enum', 'ref', 'record']
Field = collections.namedtuple('Field', 'access kind of doc')
Call = collections.namedtuple('Call', 'role has_async args')
Arg = collections.namedtuple('Arg', 'name kind of optional')


def model():
    """Of stillframed --model: class -> name -> Field; name -> Call."""
    fields, calls, of = {}, {}, None
    text = subprocess.run([os.path.join(BUILD, 'stillframed'), '--model'], capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        if line.startswith('class '):
            of = line.split()[1]
            fields[of] = {}
        elif line.startswith('call '):
            _, name, role, has_async, rest = line.split(None, 4)
            args = [Arg(*a.strip('[]').split(':'), a.startswith('[')) for a in re.findall(r'\[?\w+:[A-Z_]+:\w+\]?', rest)]
            calls[name] = Call(role, has_async == 'async', args)
        else:
            m = re.fullmatch(rf'  (\S+) +(RW|SRO|DRO|link|computed|private) +({"|".join(KINDS)}) +(\S+) (.*)', line)
            assert m, line
            fields[of][m[1]] = Field(m[2], m[3], m[4], m[5].strip())
    return fields, calls


def populate(d, s):
    """An object of each class."""
    sr = d.sr()
    vm = d.vm('web')
    d.xe('vbd-create', vm_uuid=vm, vdi_uuid=d.vdi('1MiB', 'disk'), device=0)
    d.xe('vif-create', vm_uuid=vm, network_uuid=d.list('network')[0], device=0)
    d.xe('vtpm-create', vm_uuid=vm)
    d.xe('vm-start', uuid=vm)
    d.snapshot(vm, 'snap')
    d.xe('subject-add', subject_name='alice')
    d.xe('vmss-create', name_label='nightly', type='snapshot', frequency='daily', enabled='false')
    d.xe('secret-create', value='x')
    d.xe('blob-create', name='picture', vm_uuid=vm)
    s.Async.SR.scan(s.SR.get_by_uuid(sr))
