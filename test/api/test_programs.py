#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Programs that were not written for this server, as Debian packages them: Ansible's modules for XenServer, and a browser
with noVNC, which shows a VM's screen and types."""
import http.server, json, os, shutil, signal, sys, threading, urllib.parse
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *
from rpc import *

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'clients')
NOVNC = '/usr/share/novnc'


def need(*programs):
    for program in programs:
        if not (os.path.exists(program) or shutil.which(program)):
            raise Skip(f'there is no {program}')


def with_xenapi(d):
    """A folder with the module XenAPI, which Ansible's modules look for under that name."""
    try:
        from os_xenapi import client
    except ImportError as e:
        raise Skip(f'python3-os-xenapi: {e}')
    folder = os.path.join(d.state, 'python')
    os.makedirs(folder, exist_ok=True)
    shutil.copy(os.path.join(os.path.dirname(client.__file__), 'XenAPI.py'), folder)
    return folder


def test_ansible():
    need('ansible-playbook')
    with Served() as d:
        out = os.path.join(d.state, 'out')
        given = {'url': f'http://127.0.0.1:{d.port}', 'password': d.accounts['root'], 'out': out,
                 'network': d.get('network', d.list('network')[0], 'name-label'), 'ansible_python_interpreter': sys.executable}
        p = subprocess.run(['ansible-playbook', '-i', 'localhost,', '-c', 'local', '-e', json.dumps(given), os.path.join(HERE, 'play.yml')],
                           env={**os.environ, 'PYTHONPATH': with_xenapi(d), 'ANSIBLE_HOME': os.path.join(d.state, 'ansible')},
                           capture_output=True, text=True, timeout=600 * SLOW)
        assert p.returncode == 0, p.stdout[-3000:] + p.stderr[-1000:] + d.log()[-2000:]
        with open(out) as f:
            said = json.load(f)
        made, changed = said['made']['instance'], said['changed']['instance']
        assert [x['size'] >> 20 for x in made['disks']] == [8, 4] and made['disks'][0]['name'] == 'system', made
        assert made['hardware']['memory_mb'] == 256 and made['hardware']['num_cpus'] == 2 and len(made['networks']) == 1, made
        assert made['other_config'].get('made-by') == 'a play' and made['name_desc'] == 'by Ansible', made
        assert said['made']['changed'] and said['changed']['changed'] and not said['unchanged']['changed']
        assert len(changed['disks']) == 3 and changed['hardware']['memory_mb'] == 128, changed
        assert said['suspended']['instance']['state'] == 'suspended' and said['ended']['instance']['state'] == 'poweredoff'
        assert d.list('vm', name_label='web') == []
        d.check()


class Site(http.server.SimpleHTTPRequestHandler):
    """Gives the page and noVNC's own files; what the page posts is what it says."""

    def translate_path(self, path):
        name = path.split('?')[0].lstrip('/')
        return os.path.join(HERE if name == 'screen.html' else NOVNC, name)

    def do_POST(self):
        self.server.said.append(json.loads(self.rfile.read(int(self.headers['Content-Length']))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def browse(url, profile):
    return subprocess.Popen(['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', f'--user-data-dir={profile}',
                             '--disable-background-networking', '--remote-debugging-port=0', url],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def test_novnc():
    """What the firmware writes on the screen of a VM without disks is seen, and the keys that reset a PC reach it."""
    need('chromium', NOVNC)
    site = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Site)
    site.said = []
    threading.Thread(target=site.serve_forever, daemon=True).start()
    with Served('qemu') as d:
        vm = d.vm('web', memory='64MiB')
        d.xe('vm-start', uuid=vm)
        s = Session(Json(d.port), d)
        console, = [c for c in s.VM.get_consoles(s.VM.get_by_uuid(vm)) if s.console.get_protocol(c) == 'rfb']
        path = f'console?ref={console}&session_id={s.ref}'
        url = f'http://127.0.0.1:{site.server_port}/screen.html?' + urllib.parse.urlencode({'url': f'ws://127.0.0.1:{d.port}/{path}'})
        browser = browse(url, os.path.join(d.state, 'profile'))
        try:
            wait_for(lambda: site.said, 120, lambda: 'the page says nothing\n' + d.log()[-2000:])
            wait_for(lambda: 'guest reset itself' in d.log(), 60, lambda: f'the keys did nothing; {site.said}')
        finally:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.wait()
        assert site.said[0].get('width', 0) > 300 and site.said[0]['lit'] > 100, site.said
        s.VM.hard_shutdown(s.VM.get_by_uuid(vm))
    site.shutdown()


main(globals())
