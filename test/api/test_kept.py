#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What clients keep here: secrets that only some may read, and blobs with objects."""
import base64, http.client, os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *

DENIED = 'RBAC_PERMISSION_DENIED'


def subject(d, name, role):
    u = d.xe('subject-add', subject_name=name)
    d.xe('subject-role-add', uuid=u, role_name=role)
    d.xe('subject-role-remove', uuid=u, role_name='pool-admin')
    return Session(Json(d.port), d, name)


def test_secrets():
    """Neither a getter, nor a record, an event, or xe tells one to who may not."""
    with Served(accounts=['op', 'adm']) as d:
        op, adm = subject(d, 'op', 'pool-operator'), subject(d, 'adm', 'vm-power-admin')
        ref = op.secret.create({'value': 's3cret', 'other_config': {'k': 'v'}})
        uuid_ = op.secret.get_uuid(ref)
        assert op.secret.get_value(ref) == 's3cret' and op.secret.get_record(ref)['other_config'] == {'k': 'v'}
        op.secret.set_value(ref, 'n3w')
        for method, *params in (('get_all',), ('get_all_records',), ('get_all_records_where', 'true'), ('get_value', ref),
                                ('get_record', ref), ('get_by_uuid', uuid_), ('set_value', ref, 'x'), ('destroy', ref)):
            assert adm.refused(f'secret.{method}', *params)[0] == DENIED, method
        told = op.call('event.from', ['secret'], '', 0.0)['events']
        assert [e['snapshot']['value'] for e in told] == ['n3w']
        for classes in (['*'], ['secret']):
            seen = adm.call('event.from', classes, '', 0.0)
            assert not [e for e in seen['events'] if e['class'] == 'secret'] and 'secret' not in seen['valid_ref_counts']
        way = ['-s', '127.0.0.1', '-p', str(d.tls_port), '-u', 'adm', '-pw', d.accounts['adm']]
        for words in (['secret-list'], ['secret-param-list', f'uuid={uuid_}'],
                      ['secret-param-get', f'uuid={uuid_}', 'param-name=value']):
            status, out, err = d.run(*way, *words)
            assert status == 1 and 'n3w' not in out + err and 'pool-operator' in err, (words, out, err)
        assert d.get('secret', uuid_, 'value') == 'n3w'
        d.xe('secret-destroy', uuid=uuid_)
        assert op.secret.get_all() == []
        assert 's3cret' not in d.log() and 'n3w' not in d.log()


def ask(d, method, path, body=None, user='root', headers={}):
    c = http.client.HTTPConnection('127.0.0.1', d.port, timeout=60)
    if user:
        token = base64.b64encode(f'{user}:{d.accounts[user]}'.encode()).decode()
        headers = {**headers, 'Authorization': f'Basic {token}'}
    c.request(method, path, body, headers)
    r = c.getresponse()
    answer = r.read()
    c.close()
    return r, answer


def files(d):
    return sorted(os.listdir(os.path.join(d.state, 'blobs')))


def test_blobs():
    with Served(accounts=['op']) as d:
        s, op = Session(Json(d.port), d), subject(d, 'op', 'vm-operator')
        vm = d.vm('web')
        ref = s.VM.get_by_uuid(vm)
        blob = s.VM.create_new_blob(ref, 'XenCenter.VNCSnapshot', 'image/jpeg')
        assert s.VM.get_blobs(ref) == {'XenCenter.VNCSnapshot': blob}
        assert s.refused('VM.create_new_blob', ref, 'XenCenter.VNCSnapshot', 'x') == \
            ['MAP_DUPLICATE_KEY', 'VM', 'blobs', ref, 'XenCenter.VNCSnapshot']
        assert s.refused('VM.create_new_blob', ref, 'x', 'text/plain\r\nSet-Cookie: a=b')[:2] == ['INVALID_VALUE', 'mime_type']
        uuid_ = s.blob.get_uuid(blob)
        by_ref, by_uuid = f'/blob?ref={blob}', f'/blob?uuid={uuid_}'
        r, body = ask(d, 'GET', by_ref)
        assert (r.status, body) == (200, b'')
        first, second = os.urandom(100000), os.urandom(70000)
        assert ask(d, 'PUT', by_ref, first)[0].status == 200
        r, body = ask(d, 'GET', by_uuid)
        assert body == first and r.headers['Content-Type'] == 'image/jpeg'
        assert r.headers['Content-Disposition'] == 'attachment' and 'sandbox' in r.headers['Content-Security-Policy']
        record = s.blob.get_record(blob)
        assert record['size'] == len(first) and record['public'] is False and record['name_label'] == 'XenCenter.VNCSnapshot'
        # who may
        assert ask(d, 'PUT', by_ref, b'x', 'op')[0].status == 403 and ask(d, 'GET', by_ref, None, 'op')[1] == first
        r, body = ask(d, 'GET', by_ref, user=None)
        assert r.status == 401 and first not in body
        assert ask(d, 'GET', '/blob?uuid=none', user=None)[0].status == 401
        assert ask(d, 'GET', '/blob?uuid=none')[0].status == 404 and ask(d, 'GET', '/blob')[0].status == 400
        s.blob.set_public(blob, True)
        assert ask(d, 'GET', by_ref, user=None)[1] == first
        assert ask(d, 'PUT', by_ref, b'x', user=None)[0].status == 401
        # what was there before goes, and what is too large never comes
        assert ask(d, 'PUT', f'{by_ref}&session_id={s.ref}', second, user=None)[0].status == 200
        assert ask(d, 'GET', by_ref)[1] == second
        assert ask(d, 'PUT', by_ref, b'', headers={'Content-Length': str((16 << 20) + 1)})[0].status == 413      # BLOB
        assert len(files(d)) == 1
        # the command line
        path = os.path.join(d.state, 'picture')
        d.xe('blob-get', uuid=uuid_, filename=path)
        assert open(path, 'rb').read() == second
        other = d.xe('blob-create', name='notes', sr_uuid=d.sr())
        d.xe('blob-put', uuid=other, filename=path)
        assert len(files(d)) == 2 and d.get('blob', other, 'size') == str(len(second))
        d.xe('blob-destroy', uuid=other)
        assert len(files(d)) == 1 and s.SR.get_blobs(s.SR.get_all()[0]) == {}
        # with its object it goes; a copy has none
        snap = d.snapshot(vm)
        assert s.VM.get_blobs(s.VM.get_by_uuid(snap)) == {}
        d.xe('vm-destroy', uuid=vm)
        assert s.blob.get_all() == [] and files(d) == []
        d.check()


def test_killed_in_a_put():
    """Wherever the daemon dies, the blob is what it was or what it was to be, and no file is left over."""
    with Served() as d:
        s = Session(Json(d.port), d)
        blob = s.blob.create('text/plain')
        assert ask(d, 'PUT', f'/blob?ref={blob}', b'old')[0].status == 200
        for n in dying_points():
            d.stop()
            d.start(env={'STILLFRAME_CRASH_AT': str(n)})
            try:
                ask(d, 'PUT', f'/blob?ref={blob}', b'new %d' % n)
            except (http.client.HTTPException, OSError):
                pass
            if d.run('host-list')[0] == 0:
                break
            d.process.wait()
            d.process = None
            d.start()
            body = ask(d, 'GET', f'/blob?ref={blob}')[1]
            assert body in (b'old', *(b'new %d' % i for i in range(n + 1))), body
            assert len(files(d)) == 1, files(d)
            d.check()
        assert n > 3, n
        print(f'  survives point {n}')


main(globals())
