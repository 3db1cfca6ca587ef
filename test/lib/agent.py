# SPDX-License-Identifier: Apache-2.0
"""A guest agent that the test plays, where the fake VMM looks for one.  It does what qemu-ga does; liars override."""
import json, os, socket, sys, threading, time
from sf import SLOW

PARSE_ERROR = b'{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n'
OFTEN = ['--agent-interval', '1']


class Agent:
    """This one is honest."""

    can_freeze = True
    file_systems = 2
    still = False               # its guest stands still, and does not answer
    ALLOWED_FROZEN = ('guest-info', 'guest-sync-delimited', 'guest-fsfreeze-status', 'guest-fsfreeze-thaw')
    NOT_WHILE_FROZEN = b'{"error": {"class": "CommandNotFound", "desc": "Command has been disabled: the agent is in frozen state"}}\n'

    def __init__(self, d, vm):
        self.heard, self.at_once, self.most = [], 0, 0
        self.frozen = 0                     # file systems
        self.lock = threading.Lock()        # an agent does one thing after the other
        self.path = os.path.join(d.state, 'run', vm, 'agent.sock')
        self.mac = d.get('vif', v[0], 'MAC') if (v := d.list('vif', vm_uuid=vm)) else ''
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(self.path)
        os.chmod(self.path, 0o666)
        self.door.listen(8)
        threading.Thread(target=self.listen, daemon=True).start()

    def close(self):
        """Nobody is there any more; those who were are cut off by the end of their conversation."""
        os.unlink(self.path)
        self.door.shutdown(socket.SHUT_RDWR)

    def listen(self):
        while True:
            try:
                s, _ = self.door.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(s,), daemon=True).start()

    def serve(self, s):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        try:
            self.talk(s)
        except OSError:
            pass
        self.at_once -= 1
        s.close()

    def talk(self, s):
        for line in s.makefile('rb'):
            m = json.loads(line.lstrip(b'\xff'))
            while self.still:
                time.sleep(0.05)
            self.heard.append(m)
            answer = getattr(self, m['execute'].replace('-', '_'), None)
            with self.lock:
                if self.frozen and m['execute'] not in self.ALLOWED_FROZEN:
                    s.sendall(self.NOT_WHILE_FROZEN)
                elif answer:
                    answer(s, m.get('arguments'))
                else:
                    s.sendall(b'{"error": {"class": "CommandNotFound", "desc": "no"}}\n')

    def reply(self, s, value):
        """Nobody may hear it any more; what was asked before he went is done all the same."""
        try:
            s.sendall(json.dumps({'return': value}).encode() + b'\n')
        except BrokenPipeError:
            pass

    def guest_sync_delimited(self, s, a):
        s.sendall(PARSE_ERROR + b'\xff{"return": %d}\n' % a['id'])

    def guest_info(self, s, _):
        self.reply(s, {'version': '8.2.1', 'supported_commands': [
            {'name': 'guest-shutdown', 'enabled': True, 'success-response': False},
            {'name': 'guest-exec', 'enabled': False, 'success-response': True},
            *({'name': c, 'success-response': True,
               'enabled': self.can_freeze and (not self.frozen or c in self.ALLOWED_FROZEN)}
              for c in (f'guest-fsfreeze-{x}' for x in ('status', 'freeze', 'freeze-list', 'thaw')))]})

    def guest_get_osinfo(self, s, _):
        self.reply(s, {'id': 'debian', 'name': 'Debian GNU/Linux', 'version-id': '12',
                       'pretty-name': 'Debian GNU/Linux 12 (bookworm)', 'kernel-release': '6.1.0-13-amd64'})

    def guest_network_get_interfaces(self, s, _):
        self.reply(s, [{'name': 'lo', 'hardware-address': '00:00:00:00:00:00',
                        'ip-addresses': [{'ip-address-type': 'ipv4', 'ip-address': '127.0.0.1'}]},
                       {'name': 'eth0', 'hardware-address': self.mac,
                        'ip-addresses': [{'ip-address-type': 'ipv4', 'ip-address': '10.1.2.3', 'prefix': 24},
                                         {'ip-address-type': 'ipv6', 'ip-address': 'fe80::1'}]}])

    def guest_shutdown(self, s, _):
        pass

    def guest_fsfreeze_status(self, s, _):
        self.reply(s, 'frozen' if self.frozen else 'thawed')

    def guest_fsfreeze_freeze(self, s, _):
        self.frozen = self.file_systems
        self.reply(s, self.frozen)

    def guest_fsfreeze_freeze_list(self, s, a):
        self.frozen = len(a['mountpoints'])
        self.reply(s, self.frozen)

    def guest_fsfreeze_thaw(self, s, _):
        n, self.frozen = self.frozen, 0
        self.reply(s, n)

    def refuse(self, s, words):
        s.sendall(json.dumps({'error': {'class': 'GenericError', 'desc': words}}).encode() + b'\n')

    def commands(self):
        return [m['execute'] for m in self.heard]


def until(what, seconds=30):
    end = time.time() + seconds * SLOW
    while not what():
        assert time.time() < end, 'it does not become so'
        time.sleep(0.1)


def live(d, vm):
    return d.get('vm', vm, 'live')


def guest_with(d, kind=Agent, name='web', disks=2):
    """A VM that runs, and its agent, which was heard.  Restarts the daemon, so that it asks at once."""
    vm = d.vm(name, disks=disks)
    d.xe('vm-start', uuid=vm)
    agent = kind(d, vm)
    d.restart()
    until(lambda: live(d, vm) == 'true')
    return vm, agent
