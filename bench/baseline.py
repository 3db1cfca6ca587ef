# SPDX-License-Identifier: Apache-2.0
"""What `bench/pause` and `bench/checkpoint` compare with: the same guest, and snapshots of it as QEMU makes
them when it is told the least.

    disks     `-blockdev` names the top layer only, QEMU follows the backing names by itself
    snapshot  one `transaction` with a `blockdev-snapshot-sync` per disk: QEMU makes the overlays
              in it, and nothing was written out beforehand
    memory    stopped, migrated to a file and let go on; or `snapshot-save` into its first disk

QEMU runs as nobody, with the devices and the cache mode the daemon gives it."""
import json, os, shutil, socket, subprocess, tempfile, time
from types import SimpleNamespace
import sf

NOBODY = 65534


class Qmp:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX)
        end = time.time() + 20
        while True:
            try:
                self.s.connect(path)
                break
            except OSError:
                if time.time() > end:
                    raise
                time.sleep(0.05)
        self.f = self.s.makefile('rb')
        self.f.readline()
        self.do('qmp_capabilities')

    def do(self, command, **arguments):
        self.s.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode())
        while True:
            answer = json.loads(self.f.readline())
            if 'error' in answer:
                raise Exception(f'{command}: {answer["error"]["desc"]}')
            if 'return' in answer:
                return answer['return']


class Baseline:
    """A running guest; depth: layers each disk has from the beginning; memory: MiB."""

    def __init__(self, disks, size, depth, guest, memory=192):
        self.state = tempfile.mkdtemp(prefix='stillframe-bench-')
        self.process, self.taken = None, 0
        self.dir = os.path.join(self.state, 'run', 'baseline')
        os.makedirs(self.dir)
        try:
            self.nodes = [f'd{i}' for i in range(disks)]
            blockdevs = [self.chain(i, size, depth) for i in range(disks)]
            for folder in (self.state, os.path.join(self.state, 'run'), self.dir):
                os.chmod(folder, 0o755)
                if os.getuid() == 0:
                    os.chown(folder, NOBODY, NOBODY)
            self.command = self.line(blockdevs, guest, memory)
            self.launch()
        except BaseException:
            self.end()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def chain(self, disk, size, depth):
        below = []
        for layer in range(depth):
            path = os.path.join(self.dir, f'{disk}.{layer}.qcow2')
            subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', *below, path,
                            *([] if below else [size.replace('iB', '')])], check=True)
            if os.getuid() == 0:
                os.chown(path, NOBODY, NOBODY)
            below = ['-b', path, '-F', 'qcow2']
        return {'driver': 'qcow2', 'node-name': self.nodes[disk], 'discard': 'unmap',
                'cache': {'direct': True}, 'file': {'driver': 'file', 'filename': path}}

    def line(self, blockdevs, guest, memory):
        args = ['qemu-system-x86_64', '-nodefaults', '-no-user-config', '-display', 'none',
                '-vga', 'none', '-machine', 'q35,vmport=off', '-accel', 'tcg',
                '-cpu', 'max,la57=off', '-m', str(memory), '-device', 'virtio-rng-pci',
                '-qmp', f'unix:{self.dir}/qmp.sock,server=on,wait=off',
                '-chardev', f'socket,id=serial,path={self.dir}/serial.sock,server=on,wait=off,'
                            f'logfile={self.dir}/serial.log', '-serial', 'chardev:serial']
        for name, option in (('vmlinuz', '-kernel'), ('initrd.img', '-initrd')):
            path = os.path.join(self.dir, name)
            shutil.copy(os.path.join(guest, name), path)
            os.chmod(path, 0o644)
            args += [option, path]
        args += ['-append', 'console=ttyS0 quiet']
        for b in blockdevs:
            args += ['-blockdev', json.dumps(b),
                     '-device', f'virtio-blk-pci,drive={b["node-name"]}']
        return args

    def launch(self, *more):
        args = [*self.command, *more]
        drop = {'user': NOBODY, 'group': NOBODY, 'extra_groups': []} if os.getuid() == 0 else {}
        self.process = subprocess.Popen(args, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, cwd=self.dir, **drop)
        self.pid = self.process.pid
        self.qmp = Qmp(os.path.join(self.dir, 'qmp.sock'))
        if not more:
            self.serial = self.ready()

    def ready(self):
        while not os.path.exists(os.path.join(self.dir, 'serial.log')):
            time.sleep(0.05)
        return sf.Serial(SimpleNamespace(state=self.state), 'baseline').wait_ready()

    def snapshot(self):
        """Milliseconds of the transaction."""
        self.taken += 1
        above = [f'{n.split("-")[0]}-{self.taken}' for n in self.nodes]
        actions = [{'type': 'blockdev-snapshot-sync',
                    'data': {'node-name': old, 'snapshot-node-name': new, 'format': 'qcow2',
                             'snapshot-file': os.path.join(self.dir, new + '.qcow2')}}
                   for old, new in zip(self.nodes, above)]
        begin = time.monotonic()
        self.qmp.do('transaction', actions=actions)
        ms = (time.monotonic() - begin) * 1e3
        self.nodes = above
        return ms

    def until(self, command, over, key='status', **arguments):
        while (said := self.qmp.do(command, **arguments).get(key)) not in over:
            assert said != 'failed', command
            time.sleep(0.005)

    def stop_and_copy(self):
        """Milliseconds from stop to cont."""
        path = os.path.join(self.dir, 'memory')
        begin = time.monotonic()
        self.qmp.do('migrate-set-parameters', **{'max-bandwidth': 1 << 50})
        self.qmp.do('stop')
        self.qmp.do('migrate', uri='file:' + path)
        self.until('query-migrate', ('completed',))
        self.qmp.do('cont')
        return (time.monotonic() - begin) * 1e3

    def savevm(self):
        begin = time.monotonic()
        self.taken += 1
        job = f'save{self.taken}'
        self.qmp.do('snapshot-save', **{'job-id': job, 'tag': job, 'vmstate': self.nodes[0], 'devices': self.nodes})
        while self.qmp.do('query-jobs')[-1]['status'] != 'concluded':
            time.sleep(0.005)
        self.qmp.do('job-dismiss', id=job)
        return (time.monotonic() - begin) * 1e3

    def come_back(self):
        """Seconds from the start of another QEMU with what stop_and_copy() left to the guest's answer."""
        self.process.kill()
        self.process.wait()
        begin = time.monotonic()
        self.launch('-incoming', 'file:' + os.path.join(self.dir, 'memory'))
        self.until('query-status', ('paused',))         # as it was when it was saved
        self.qmp.do('cont')
        self.serial = sf.Serial(SimpleNamespace(state=self.state), 'baseline')
        self.serial.s.sendall(b'\n')
        self.serial.ask('ping')
        return time.monotonic() - begin

    def end(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.state, ignore_errors=True)
