# SPDX-License-Identifier: Apache-2.0
"""A daemon in a folder of its own, and its `xe`, for tests.

    with Daemon() as d:
        vm = d.vm('web', disks=2)
        d.xe('vm-start', vm=vm)

A test is a program: functions whose names begin with test_, run in order by main(); exit 0, 1,
or 77 with a reason when something it needs is missing.  BUILD names the build folder; GUEST the
folder of tools/make-guest.
"""
import contextlib, ctypes, fcntl, functools, hashlib, json, os, random, re, shutil, signal, socket, sqlite3
import struct, subprocess, sys, tempfile, time, traceback

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('BUILD', os.path.join(TOP, 'build'))
SLOW = float(os.environ.get('SLOW', '1'))          # sanitizers: everything takes this much longer
EVERY = int(os.environ.get('EVERY', '6'))          # 1: something dies at each point of an operation, not at some
SEED = int(os.environ.get('SEED') or random.randrange(1 << 30))        # of all that is drawn by lot; printed
dice = random.Random(SEED)


# The world is in order when a daemon lets clients in, however long that takes; and a sanitizer tells of leaks at its end.
PATIENT = {'start-patience': 40, **({'stop-rest': 20} if SLOW > 1 else {})}


class Failed(Exception):
    """xe ended with a status other than 0."""

    def __init__(self, status, out, err):
        super().__init__(f'status {status}: {err.strip()}')
        self.status, self.out, self.err = status, out, err


LOG_SHOWN = 6000        # characters, of a test that failed


class Skip(Exception):
    pass


class Process(subprocess.Popen):
    """A daemon.  Its end is that of its caretaker, too, which may have guests to let go on (or nobody to let it end)."""

    CARETAKER_ENDS_S = 3

    def __init__(self, state, *words, **how):
        self.state, self.ended = state, None
        super().__init__(*words, **how)

    def caretaker(self):
        """The number of the process that has the second byte of the lock; None: there is none."""
        try:
            with open(os.path.join(self.state, 'lock'), 'rb+') as f:
                kind, *_, pid = struct.unpack('hhlli', fcntl.fcntl(f, fcntl.F_GETLK, struct.pack('hhlli', fcntl.F_WRLCK, 0, 1, 1, 0)))
                return pid if kind != fcntl.F_UNLCK else None
        except FileNotFoundError:
            return None

    def poll(self):
        status = super().poll()
        if status is None:
            return None
        self.ended = self.ended or time.time()
        left = self.caretaker() and time.time() < self.ended + self.CARETAKER_ENDS_S * SLOW
        return None if left else status

    def wait(self, timeout=None):
        super().wait(timeout)
        while self.poll() is None:
            time.sleep(0.005)
        return self.returncode


class Daemon:
    leaks_of_xe = False     # the search for them, at its end, takes longer than xe: tests of xe's own have it

    def __init__(self, vmm='qemu', state=None, options=(), env=None, start=True, under=(), first=False, delays=None,
                 day=False):
        """first: its start is the first of this state folder; else that was somebody else's (empty_state()).
        delays: factors of src/base/delays.def, by name; day: its clock of the day may be stepped, by step_day()."""
        self.own = state is None
        self.state = state or tempfile.mkdtemp(prefix='stillframe-test-')
        os.chmod(self.state, 0o711)
        if self.own and not first:
            copy_empty_state(self.state)
        self.vmm, self.options, self.env = vmm, list(options), env or {}
        self.options += [f'--test-delay={name}={factor}' for name, factor in {**PATIENT, **(delays or {})}.items()]
        if day:
            self.options += ['--test-clock', os.path.join(self.state, 'day')]
            self.set_day(0)
        self.under = list(under)        # words that run it, as `nice -n 5`
        self.process, self.pids = None, []
        if start:
            self.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None and kind is not Skip:
            print(f'  the end of the log of {self.state}:\n{self.log()[-LOG_SHOWN:]}', file=sys.stderr)
        self.end(keep=kind is not None and 'KEEP' in os.environ)

    # ---- its day ----

    def set_day(self, ahead):
        """So many seconds ahead of the host's, from now on."""
        self.ahead = ahead
        fd = os.open(os.path.join(self.state, 'day'), os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, struct.pack('<q', ahead))
        os.close(fd)

    def step_day(self, seconds):
        self.set_day(self.ahead + seconds)

    # ---- the daemon's life ----

    def start(self, env=None, wait=True):
        log = open(os.path.join(self.state, 'test.log'), 'ab')
        self.process = Process(
            self.state, [*self.under, os.path.join(BUILD, 'stillframed'), '--state', self.state,
             '--foreground', '--vmm', self.vmm, *self.options],
            stderr=log, env={**os.environ, **self.env, **(env or {})}, stdin=subprocess.DEVNULL)
        self.pids.append(self.process.pid)
        log.close()
        if wait:
            self.wait_up()

    def wait_up(self):
        end = time.time() + 60 * SLOW
        while time.time() < end:
            if self.process.poll() is not None:
                raise Exception('the daemon ended:\n' + self.log()[-3000:])
            try:
                s = socket.socket(socket.AF_UNIX)
                s.connect(os.path.join(self.state, 'xapi.sock'))
                listens = struct.unpack('3i', s.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
                s.close()
                # A child that a killed daemon had just forked has its socket until it becomes a program; after
                # some ten thousand processes a number comes again.
                if listens == self.process.pid or listens not in self.pids:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise Exception('the daemon did not come up:\n' + self.log()[-3000:])

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60 * SLOW)
        status = self.process.returncode if self.process else 0
        self.process = None
        return status

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def restart(self, **kw):
        self.stop()
        self.start(**kw)

    def end(self, keep=False):
        status = self.stop() if self.process else 0
        said = self.log() if os.path.exists(os.path.join(self.state, 'test.log')) else ''
        stale = re.findall('.*row written since it was read.*', said)
        for pid in self.guests().values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if keep:
            print('kept', self.state)
        elif self.own:
            shutil.rmtree(self.state, ignore_errors=True)
        if sys.exc_info()[0] is None and not keep:
            assert status in (0, None), f'the daemon ended with status {status}'
            assert not stale, f'a row was not read in the transaction that writes it: {stale}'

    def log(self):
        with open(os.path.join(self.state, 'test.log'), errors='replace') as f:
            return f.read()

    def guests(self):
        """VM uuid -> pid of its process, as the run folders say."""
        found = {}
        run = os.path.join(self.state, 'run')
        for uuid in os.listdir(run) if os.path.isdir(run) else []:
            try:
                with open(os.path.join(run, uuid, 'pid')) as f:
                    pid = int(f.read().split()[0])
                with open(f'/proc/{pid}/stat') as f:
                    if f.read().rsplit(')', 1)[1].split()[0] != 'Z':
                        found[uuid] = pid
            except (OSError, ValueError, IndexError):
                pass
        return found

    def fakes(self):
        """The same of the fake's: VM uuid -> what its file says."""
        found, run = {}, os.path.join(self.state, 'run')
        for uuid in os.listdir(run) if os.path.isdir(run) else []:
            try:
                with open(os.path.join(run, uuid, 'fake.json')) as f:
                    found[uuid] = json.load(f)
            except FileNotFoundError:
                pass
        return found

    # ---- xe ----

    def begin(self, *words, **how):
        """xe as a process that goes on; how: Popen's."""
        return subprocess.Popen([os.path.join(BUILD, 'xe'), *words], env=self.environ(), **how)

    def environ(self):
        """xe's, to find this daemon."""
        asan = os.environ.get('ASAN_OPTIONS', '') + ('' if self.leaks_of_xe else ':detect_leaks=0')
        return {**os.environ, 'STILLFRAME_STATE': self.state, 'HOME': self.state, 'ASAN_OPTIONS': asan,
                'XE_EXTRA_ARGS': 'verbose=true'}

    def run(self, *words, input=None, timeout=300, **params):
        args = [str(w) for w in words]
        args += [f'{k.replace("_", "-")}={v}' for k, v in params.items()]
        p = subprocess.run([os.path.join(BUILD, 'xe'), *args], capture_output=True, input=input,
                           timeout=timeout * SLOW, env=self.environ())
        return p.returncode, p.stdout.decode(errors='replace'), p.stderr.decode(errors='replace')

    def pending(self, name, also=''):
        """The task of a call, once it has begun.  also: of SQL, what must be true of it."""
        query = f"SELECT uuid FROM task WHERE status = 'pending' AND name_label = '{name}' {also}"
        end = time.time() + 30 * SLOW
        while not (tasks := self.sql(query)):
            assert time.time() < end, f'no {name}'
            time.sleep(0.01)
        return tasks[0]

    def xe(self, *words, **kw):
        """Standard output without its last newline; Failed on any status but 0."""
        status, out, err = self.run(*words, **kw)
        if status:
            raise Failed(status, out, err)
        return out[:-1] if out.endswith('\n') else out

    def fails(self, *words, says='', **kw):
        """The error text of a command that must fail, and say so."""
        status, out, err = self.run(*words, **kw)
        assert status == 1, f'{words} {kw}: status {status}, not 1\n{out}{err}'
        assert says in err + out, f'{words} {kw}: "{says}" is not in:\n{err}{out}'
        return err

    def get(self, record, uuid, name, key=None):
        more = {'param_key': key} if key else {}
        return self.xe(f'{record}-param-get', uuid=uuid, param_name=name, **more)

    def list(self, record, params='uuid', **filters):
        """The first field of each record."""
        out = self.xe(f'{record}-list', '--minimal', f'params={params}', **filters)
        return out.split(',') if out else []

    # ---- things tests need ----

    def sr(self):
        return self.list('sr')[0]

    def vdi(self, size='64MiB', name='disk', sr=None):
        return self.xe('vdi-create', sr_uuid=sr or self.sr(), name_label=name, virtual_size=size)

    def folder_for(self, name):
        """A folder for a further SR; in the state folder there may be some below sr/ only."""
        folder = os.path.join(self.state, 'sr', name)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        return folder

    def isos(self, name='isos', **discs):
        """An SR of type iso with a disc <key>.iso per argument; its folder is <state>/<name>."""
        folder = os.path.join(self.state, name)
        os.makedirs(folder, exist_ok=True)
        for disc, content in discs.items():
            with open(os.path.join(folder, f'{disc}.iso'), 'wb') as f:
                f.write(content)
        return self.xe('sr-create', name_label=name, type='iso', content_type='iso',
                       **{'device-config:location': folder})

    def vm(self, name='vm', disks=0, size='64MiB', sr=None, memory=None):
        vm = self.xe('vm-install', template='Other install media', new_name_label=name)
        for i in range(disks):
            self.xe('vbd-create', vm_uuid=vm, vdi_uuid=self.vdi(size, f'{name} {i}', sr), device=i)
        if memory:
            self.xe('vm-memory-limits-set', uuid=vm, static_min='16MiB', static_max=memory,
                    dynamic_min=memory, dynamic_max=memory)
        return vm

    def disks(self, vm):
        """device -> VDI uuid."""
        vbds = self.list('vbd', vm_uuid=vm)
        return {self.get('vbd', v, 'userdevice'): self.get('vbd', v, 'vdi-uuid') for v in vbds}

    def state_of(self, vm):
        return self.get('vm', vm, 'power-state')

    def wait_state(self, vm, state, seconds=60):
        end = time.time() + seconds * SLOW
        while self.state_of(vm) != state:
            assert time.time() < end, f'VM is {self.state_of(vm)}, not {state}'
            time.sleep(0.05)

    def boot(self, vm, **kw):
        """Starts the VM and waits until its guest is ready."""
        log = os.path.join(self.state, 'run', vm, 'serial.log')
        after = os.path.getsize(log) if os.path.exists(log) else 0
        self.xe('vm-start', uuid=vm, **kw)
        return Serial(self, vm, after).wait_ready()

    def snapshot(self, vm, name='snap', **kw):
        return self.xe('vm-snapshot', uuid=vm, new_name_label=name, **kw)

    def memory_of(self, vm):
        """The file of a suspended VM's or a checkpoint's memory."""
        location = self.sql(f"SELECT VDI.location FROM VDI JOIN VM ON VM.suspend_VDI = VDI.ref WHERE VM.uuid = '{vm}'")
        return os.path.join(self.state, 'sr', location[0] + '.raw')

    def volumes(self, sr='sr'):
        """Volume files in the SR's folder, but for those that are being deleted."""
        while self.sql("SELECT 1 FROM journal WHERE op = 'reclaim+'"):
            time.sleep(0.01)
        return self.volumes_now(sr)

    def volumes_now(self, sr='sr'):
        folder = sr if sr.startswith('/') else os.path.join(self.state, sr)
        return sorted(f for f in os.listdir(folder) if f.endswith(('.qcow2', '.raw', '.new')) and f[0] != '.')

    def wait_quiet(self, seconds=60, merged=True):
        """Until nothing is left to be deleted or merged in the background (merged=False: but for what waits for
        something), at some looks: between two steps nothing may be to be seen for a moment."""
        end, quiet = time.time() + seconds * SLOW, 0
        while True:
            busy = self.sql("SELECT verb || ' ' || args FROM journal") + \
                self.sql("SELECT name_label FROM task WHERE status = 'pending'") + \
                [c for c in self.sql('SELECT sm_config FROM SR') if json.loads(c or '{}').get('backlog', '0') != '0'
                 and (merged or 'backlog-waits-for' not in c)]
            quiet = 0 if busy else quiet + 1
            if quiet == 3:
                return
            assert not busy or time.time() < end, f'not quiet: {busy}\n{self.log()[-3000:]}'
            time.sleep(0.05)

    def check(self):
        """What must hold at any quiet moment: each volume has a record and each record a volume, no
        operation is stuck, no task runs, the journal is empty."""
        self.wait_quiet(merged=False)
        located, found = None, None
        while located != (now := self.records_of_volumes()):        # else a merge has ended while the folders were read
            located, found = now, self.volumes_of_all()
        assert found <= located, f'volumes without a record: {found - located}'
        assert located <= found, f'records without a volume: {located - found}'
        for parent in self.sql("SELECT parent_location FROM VDI WHERE parent_location != ''"):
            assert parent + '.qcow2' in located, f'a layer stands on {parent}, which is gone'
        for table in ('VM', 'VDI', 'VBD'):
            stuck = [o for o in self.sql(f'SELECT current_operations FROM {table}') if o not in ('', '{}')]
            assert not stuck, f'stuck operations: {stuck}'
        for table in ('VBD', 'VIF'):
            named, there = (sorted(self.sql(q)) for q in (f'SELECT metrics FROM {table}', f'SELECT ref FROM {table}_metrics'))
            assert named == there, f'{len(named)} {table}s, {len(there)} metrics'
        assert not self.sql('SELECT verb FROM journal'), 'the journal is not empty'
        assert not self.sql("SELECT name_label FROM task WHERE status = 'pending'"), 'a task is pending'

    def records_of_volumes(self):
        located = set()
        for raw in ('false', 'true'):
            for location in self.sql(f"SELECT location FROM VDI WHERE raw = '{raw}' AND SR NOT IN "
                                     "(SELECT ref FROM SR WHERE type = 'iso')"):
                name = location + ('.raw' if raw == 'true' else '.qcow2')
                assert name not in located, 'a volume has two records'
                located.add(name)
        return located

    def volumes_of_all(self):
        found = set()
        for pbd in self.list('pbd'):
            if self.get('sr', self.get('pbd', pbd, 'sr-uuid'), 'type') != 'iso':
                found |= set(self.volumes(self.get('pbd', pbd, 'device-config', 'location')))
        return found

    def sql(self, text):
        c = sqlite3.connect(os.path.join(self.state, 'state.db'))
        try:
            return [r[0] for r in c.execute(text).fetchall()]
        finally:
            c.close()

    def sql_write(self, text):
        """Of a daemon that is stopped."""
        c = sqlite3.connect(os.path.join(self.state, 'state.db'))
        c.execute(text)
        c.commit()
        c.close()


# ---- what is made once for a build, and copied ----

MADE = os.path.join(BUILD, 'golden')


@functools.cache
def sum_of(*paths):
    """A name for what these files are, which are read once in a process."""
    h = hashlib.sha256()
    for path in paths:
        with open(path, 'rb') as f:
            h.update(hashlib.sha256(f.read()).digest())
    return h.hexdigest()[:16]


@contextlib.contextmanager
def one_at_a_time(name):
    """Of all tests that run."""
    os.makedirs(MADE, exist_ok=True)
    with open(os.path.join(MADE, f'{name}.lock'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def keep(kind, name, folder):
    """The folder's content is the one of its kind from now on, whole or not at all."""
    for old in os.listdir(MADE):
        if old.startswith(f'{kind}-'):
            shutil.rmtree(os.path.join(MADE, old))
    subprocess.run(['cp', '-a', '--sparse=always', folder, os.path.join(MADE, f'{kind}-new')], check=True)
    os.rename(os.path.join(MADE, f'{kind}-new'), os.path.join(MADE, name))


def empty_state():
    """The folder of a daemon that was started once, and ended: a start of it is a fifth of the first one's work."""
    name = 'empty-' + sum_of(os.path.join(BUILD, 'stillframed'))
    with one_at_a_time('empty'):
        if not os.path.isdir(os.path.join(MADE, name)):
            with Daemon('fake', first=True) as d:
                assert d.stop() == 0, d.log()
                for file in ('lock', 'test.log'):
                    os.unlink(os.path.join(d.state, file))
                keep('empty', name, d.state)
    return os.path.join(MADE, name)


def copy_empty_state(state):
    """Its one record that names the folder is changed."""
    shutil.copytree(empty_state(), state, dirs_exist_ok=True)
    with contextlib.closing(sqlite3.connect(os.path.join(state, 'state.db'))) as c:
        config = json.dumps({'location': os.path.join(os.path.realpath(state), 'sr')})
        assert c.execute('UPDATE PBD SET device_config = ?', [config]).rowcount == 1
        c.commit()


# ---- a daemon for several tests ----

daemons_in_common = {}          # vmm -> the daemon, and what it began with

# What is kept of calls that have ended, and what changes by itself.
PASSING = {'deleted', 'task', 'message', 'session', 'host_metrics', 'PIF', 'PIF_metrics'}
CHANGING = {'nr', 'gen', 'born', 'physical_utilisation', 'virtual_allocation', 'physical_size', 'sm_config'}


@contextlib.contextmanager
def in_common(vmm='fake'):
    """The daemon of the tests of a file that ask nothing of its start or end.  What a test has made is deleted behind
    it, and then the database is as it was before.  With a test that fails its daemon goes."""
    if vmm not in daemons_in_common:
        d = Daemon(vmm)
        daemons_in_common[vmm] = d, rows(d)
    d, before = daemons_in_common.pop(vmm)
    with contextlib.ExitStack() as stack:
        stack.enter_context(d)
        yield d
        d.check()
        delete_all(d)
        d.check()
        now = rows(d)
        assert now == before, f'left behind: {now - before}; missing: {before - now}'
        stack.pop_all()
    daemons_in_common[vmm] = d, before


def delete_all(d):
    for what, uuid in [('snapshot-uninstall', v) for v in d.list('snapshot')] + \
            [('template-uninstall', t) for t in d.list('template', is_default_template='false')] + \
            [('vm-uninstall', v) for v in d.list('vm')]:
        d.xe(what, '--force', **{('template_uuid' if 'template' in what else 'uuid'): uuid})
    d.wait_quiet()
    for vdi in d.list('vdi', managed='true'):
        d.xe('vdi-destroy', uuid=vdi)


def rows(d):
    """All of the database that clients see, as strings."""
    found = set()
    for table in d.sql("SELECT name FROM sqlite_master WHERE type = 'table'"):
        columns = d.sql(f"SELECT name FROM pragma_table_info('{table}')")
        if 'ref' in columns and table not in PASSING:
            shown = " || ' ' || ".join(f'"{c}"' for c in columns if c not in CHANGING)
            found |= {f'{table} {row}' for row in d.sql(f'SELECT {shown} FROM "{table}"')}
    return found


class FileSystem:
    """One of its own, in a file: ext4, xfs or btrfs.  Made before the daemon that uses it, to be gone after
    it."""

    TOOLS = {'ext4': ['/sbin/mke2fs', '-q', '-t', 'ext4', '-m', '0'],
             'xfs': ['/sbin/mkfs.xfs', '-q', '-m', 'reflink=1'], 'btrfs': ['/sbin/mkfs.btrfs', '-q']}

    def __init__(self, kind, mib):
        need_root()
        self.kind = kind
        if not os.path.exists(self.TOOLS[kind][0]):
            raise Skip(f'{self.TOOLS[kind][0]} is not installed')
        self.own = tempfile.mkdtemp(prefix='stillframe-fs-')
        os.chmod(self.own, 0o711)
        self.image, self.folder = os.path.join(self.own, 'image'), os.path.join(self.own, 'mnt')
        os.mkdir(self.folder)
        with open(self.image, 'wb') as f:
            f.truncate(mib << 20)
        subprocess.run([*self.TOOLS[kind], self.image], check=True)
        p = subprocess.run(['mount', '-o', 'loop', self.image, self.folder], capture_output=True)
        if p.returncode:
            shutil.rmtree(self.own)
            raise Skip(f'no loop mount of {kind} here: ' + p.stderr.decode())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        subprocess.run(['umount', '-l', self.folder], capture_output=True)     # a test may have done it
        shutil.rmtree(self.own)

    def sr(self, d):
        return d.xe('sr-create', name_label=self.kind, type='file',
                    **{'device-config:location': self.folder})


class Serial:
    """The guest's serial port: the commands of test/guest.  after: how long its log was before the
    boot that is meant."""

    def __init__(self, d, vm, after=0):
        self.d, self.vm, self.after = d, vm, after
        self.log = os.path.join(d.state, 'run', vm, 'serial.log')
        self.buffer = b''
        self.connect()

    def connect(self):
        end = time.time() + 20
        while True:
            self.s = socket.socket(socket.AF_UNIX)
            try:
                self.s.connect(os.path.join(self.d.state, 'run', self.vm, 'serial.sock'))
                return
            except OSError:
                if time.time() > end:
                    raise
                time.sleep(0.1)

    def close(self):
        self.s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def line(self, timeout=60):
        end = time.time() + timeout * SLOW
        while b'\n' not in self.buffer:
            self.s.settimeout(max(0.01, end - time.time()))
            got = self.s.recv(65536)
            if not got:
                raise EOFError('the serial port closed')
            self.buffer += got
        line, self.buffer = self.buffer.split(b'\n', 1)
        return line.decode(errors='replace').strip('\r')

    def drain(self):
        """A port whose reader does not read holds its guest up after some 270 bytes."""
        self.s.setblocking(False)
        try:
            while self.s.recv(65536):
                pass
        except BlockingIOError:
            pass
        self.s.setblocking(True)

    def wait_ready(self, timeout=90):
        """Until the guest has booted; what it said before we connected is in its log."""
        end = time.time() + timeout * SLOW
        while time.time() < end:
            with open(self.log, errors='replace') as f:
                f.seek(self.after)
                if re.search('STILLFRAME-GUEST ready', f.read()):
                    break
            self.drain()
            time.sleep(0.1)
        else:
            raise Exception('the guest did not boot:\n' + open(self.log, errors='replace').read()[-2000:])
        self.ask('ping')
        return self

    def ask(self, command, timeout=60):
        """The answer's words behind `OK <command>`; an exception for ERR."""
        self.s.sendall(command.encode() + b'\n')
        word = command.split()[0]
        while True:
            line = self.line(timeout)
            m = re.match(r'(OK|ERR) (\S+) ?(.*)', line)
            if not m or m[2] != word:
                continue
            if m[1] == 'ERR':
                raise Exception(line)
            return m[3]

    def churn(self, what, disk='a', *more):
        """What test/guest/churn.c says of a file on the disk, or on None in memory, as numbers."""
        path = f'/disk/{disk}/churn' if disk else '/tmp/churn'
        said = self.ask(f'shell churn {what} {path} {" ".join(map(str, more))}', 300)
        return {k: float(v) for k, v in (w.rstrip('\\n').split('=') for w in said.split() if '=' in w)}

    def fill(self, mib):
        """So much of the guest's memory is no zeros: 16 MiB of random bytes, as often as they fit."""
        self.ask('shell mkdir /fill && mount -t tmpfs -o size=95% none /fill && head -c 16777216 /dev/urandom >/fill/0', 300)
        self.ask(f'shell for i in $(seq 1 {mib // 16 - 1}); do cp /fill/0 /fill/$i || exit 1; done', 900)

    def fields(self, command):
        return dict(w.split('=', 1) for w in self.ask(command).split() if '=' in w)

    def counters(self):
        return {k: int(v) for k, v in self.fields('counters').items()}


def wait_for(what, seconds=30, why=lambda: 'it did not come to pass'):
    end = time.time() + seconds * SLOW
    while not what():
        assert time.time() < end, why()
        time.sleep(0.05)


def again(d, vm):
    """The line to a guest that goes on where it was."""
    s = Serial(d, vm, 0)
    s.s.sendall(b'\n')
    s.ask('ping')
    return s


FIRST_PAGE = 1 << 20        # of a memory image


def renote(image, key, note=None):
    """Another note in a memory image; None: it has no such note."""
    subprocess.run([os.path.join(BUILD, 'test', 'renote'), image, key, *([json.dumps(note)] if note else [])], check=True)


def flip_bit(path, at):
    with open(path, 'r+b') as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def open_files(pid):
    """What the process has open; what it closes meanwhile is left out."""
    found = []
    for fd in os.listdir(f'/proc/{pid}/fd'):
        try:
            found.append(os.readlink(f'/proc/{pid}/fd/{fd}'))
        except FileNotFoundError:
            pass
    return found


def guest_folder():
    """The guest's kernel and disks, built when need be."""
    folder = os.environ.get('GUEST', os.path.join(BUILD, 'guest'))
    p = subprocess.run([os.path.join(TOP, 'tools', 'make-guest'), folder], capture_output=True)
    assert p.returncode == 0, 'tools/make-guest: ' + p.stderr.decode()[-300:]
    return folder


def guest_vm(d, name='guest', disks=1, size='256MiB', sr=None, memory='192MiB', start=True,
             network=None, kernel='vmlinux', mac=''):
    """A VM that boots the test guest's kernel directly.  vmlinuz is the one that users have: it takes longer, and finds
    the screen.  Services of the 36 PCIe ports, which nothing here looks at, would take a fifth of the boot."""
    folder = guest_folder()
    boot = os.path.join(d.state, 'boot')
    for f in (kernel, 'initrd.img'):
        if not os.path.exists(os.path.join(boot, f)):
            link(os.path.join(folder, f), os.path.join(boot, f))
    vm = d.vm(name, disks, size, sr, memory)
    d.xe('vm-param-set', f'uuid={vm}', f'PV-kernel={boot}/{kernel}', f'PV-ramdisk={boot}/initrd.img',
         'PV-args=console=ttyS0 quiet pcie_ports=compat', 'HVM-boot-policy=')
    d.xe('vif-create', vm_uuid=vm, network_uuid=network or d.list('network')[0], device=0, mac=mac)
    if start:
        d.xe('vm-start', uuid=vm)
    return vm


def link(path, name):
    """A file that nobody changes, by one more name; a copy of it on another file system."""
    try:
        os.link(path, name)
    except OSError:
        shutil.copy(path, name)


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


def counter_of(d, vdi):
    """The counter that the guest's disk holds, read from the disk itself."""
    with tempfile.TemporaryDirectory(dir=d.state) as folder:
        image, out = os.path.join(folder, 'i'), os.path.join(folder, 'c')
        d.xe('vdi-export', uuid=vdi, filename=image)
        # The name of the file may still stand in the journal only.
        assert subprocess.run(['/sbin/e2fsck', '-p', image], capture_output=True).returncode <= 1
        subprocess.run(['/sbin/debugfs', '-R', f'dump /counter {out}', image], check=True,
                       capture_output=True)
        with open(out, 'rb') as f:
            return struct.unpack('<Q', f.read(8))[0]


def ping_by_xe_console(d, vm, timeout):
    """The guest answers through `xe console`, which ends with its input; its status."""
    p = d.begin('console', f'vm={vm}', stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    p.stdin.write(b'ping\n')
    p.stdin.flush()
    assert b'OK ping' in p.stdout.readline()
    p.stdin.close()
    return p.wait(timeout)


def one_instant(values):
    """The counters of all disks (in the order they are written) are those of one instant."""
    v = [values[k] for k in sorted(values)]
    return all(a >= b for a, b in zip(v, v[1:])) and v[0] - v[-1] <= 1


def need_root():
    if os.getuid():
        raise Skip('needs root')


def own_mounts():
    """From here on what this process and its children mount is theirs alone, and gone with them."""
    CLONE_NEWNS = 0x20000
    if os.getuid() == 0 and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0:
        subprocess.run(['mount', '--make-rprivate', '/'], check=True)


def dying_points(limit=200):
    """Of the points 1, 2, ... of an operation those to die at: each sixth from one that is drawn, so that it is other
    ones each time, and one of the first three; or all (EVERY=1).  An exception when the limit is reached."""
    first = dice.randint(1, EVERY)
    if first > 3:
        yield first - 3
    yield from range(first, limit, EVERY)
    raise Exception(f'it does not come through with {limit} points ahead')


def main(scope):
    wanted = sys.argv[1:]
    own_mounts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))         # what a test has started ends with it
    tests = [(n, f) for n, f in scope.items() if n.startswith('test_') and callable(f)]
    failed = skipped = 0
    print('seed', SEED, flush=True)
    for name, test in tests:
        if wanted and name not in wanted:
            continue
        begin = time.time()
        try:
            test()
            result = 'ok'
        except Skip as e:
            skipped += 1
            result = f'skipped: {e}'
        except Exception:
            failed += 1
            traceback.print_exc()
            result = 'FAILED'
        print(f'{name} ({time.time() - begin:.1f} s): {result}', flush=True)
    for d, _ in daemons_in_common.values():
        d.end()
    sys.exit(1 if failed else 77 if skipped == len(tests) else 0)
