#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Time is injected: each wait on purpose is a row of src/base/delays.def, and the day comes from src/base/clock.h.
This reads the sources, and knows the few places that are so for a reason."""
import os, re, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

SRC = os.path.join(TOP, 'src')

# Calls and names that no file may have but these.
WORDS = {
    r'(?<![\w.>])time\s*\(': 'the day: clock_day_s() of base/clock.h',
    r'\bCLOCK_(REALTIME|TAI)\w*|\bgettimeofday\b|\bftime\b': 'the day: base/clock.h',
    r'\bCLOCK_(MONOTONIC|BOOTTIME)\w*': 'the clock to wait by: base/clock.h',
    r'\b(u|nano|clock_nano)?sleep\s*\(|\bp?poll\s*\(\s*NULL|\bp?select\s*\(': 'a wait: delay_sleep() or task_wait()',
    r'\balarm\s*\(|\bsetitimer\b|\btimer_create\b|\btimerfd_\w+|\bSO_(RCV|SND)TIMEO\b|\b\w+_timedwait\s*\(':
        'a wait: task_wait(), clock_wait()',
    r'\bTCP_(KEEP\w+|USER_TIMEOUT)\b': 'a wait',
}
# In SQL, so in strings.
SQL = r"'now'|\bCURRENT_(TIME|DATE|TIMESTAMP)\b|\bunixepoch\s*\("
# A number that is a time, by its name.
CONSTANT = r'\b([A-Z][A-Z0-9_]*_(?:MS|S|US|NS))\s*(?:=\s*|\s+)(?:\(\s*)?[\d.]'
# Functions whose last argument says how long, and members that do.
WAITS = ('task_wait', 'poll', 'epoll_wait', 'db_wait', 'clock_wait', 'io_read', 'io_write', 'process_gone', 'agent_take', 'agent_tell',
         'freeze_status', 'qmp_open', 'jobs_start', 'tasks_close', 'sqlite3_busy_timeout', 'time_ago')
MEMBER = r'(?:\.|->)(?:timeout_ms|ms|deadline_ms)\s*=\s*([^,;}]*)'
SUM = r'\bclock_ms\(\)\s*[-+]\s*(\d[\w *]*)'

# Where it is right: file, what is found, and why.
RIGHT = {
    ('base/clock.c', 'CLOCK_MONOTONIC'): 'the one place',
    ('base/clock.c', 'CLOCK_REALTIME'): 'the one place',
    ('base/clock.c', 'CLOCK_REALTIME_COARSE'): 'the one place; what files have their times from',
    ('base/delay.c', 'poll(NULL'): 'the one place',
    ('vmm/disks.c', 'BETWEEN_DISKS_MS'): 'between disks of one instant, while the guest runs: so that it does not stutter',
    ('vmm/disks.c', 'BEFORE_INSTANT_MS'): 'the same',
    ('vmm/disks.c', 'AFTER_INSTANT_MS'): 'the same',
    ('vmm/save.c', 'LOOK_MS'): 'inside the pause, which is measured',
    ('vmm/save.c', 'SLOWLY_MS'): 'the same where the guest stands anyhow',
    ('vmm/save.c', 'STOP_TAKES_MS'): 'measured: how long QEMU takes to stop',
    ('vmm/save.c', 'LEFT_MS'): 'what a guest has to stand; it is told to QEMU',
    ('vmm/merge.c', 'LOOK_CLOSELY_MS'): 'a guest waits for it',
    ('vmm/pace.c', 'FIRST_LOOK_MS'): 'what a guest did in so long is measured',
    ('vmm/pace.c', 'LOOK_MS'): 'the same',
    ('vmm/fake.c', 'PAUSE_MS'): 'what a switch of the fake says it took; nothing waits',
    ('api/plan.c', 'SHORT_MS'): 'how long a flush took is measured',
    ('sr/release.c', 'PAUSE_MS'): 'between pieces of a file, so that others get at the file system',
    ('sr/release.c', 'poll(NULL'): 'the same',
    ('memory/receiver.c', 'NAP_US'): 'so that more of the stream comes at once',
    ('memory/receiver.c', 'usleep('): 'the same',
    ('api/agents.c', 'CLOCK_OFF_MS'): 'how far two clocks may differ',
    ('api/quiesce.c', 'HOOK_SLACK_MS'): 'the same',
    ('api/quiesce.c', 'TIMEOUT_S'): "a user's setting; DELAY_SETTING_SECOND says how long a second of it is",
    ('api/quiesce.c', 'MOST_TIMEOUT_S'): 'the same',
    ('stillframed/startup.c', 'LONGEST_S'): 'the same',
    ('wire/http.c', 'TCP_KEEPIDLE'): 'the kernel waits',
    ('wire/http.c', 'TCP_KEEPINTVL'): 'the same',
    ('wire/http.c', 'TCP_KEEPCNT'): 'no time',
    ('wire/http.c', 'TCP_USER_TIMEOUT'): 'the kernel waits',
}


def blank(text, strings=True):
    """Without comments, and strings; lines stay where they are."""
    def gone(m):
        keeps = m[0][0] == '"' and not strings
        return m[0] if keeps else '""' if m[0][0] == '"' else re.sub(r'[^\n]', ' ', m[0])
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', gone, text, flags=re.DOTALL)


def last_argument(text, at):
    """Of the call whose parenthesis opens there; '' where there is none."""
    depth, begin = 0, at + 1
    for i in range(at, len(text)):
        c = text[i]
        depth += (c in '([{') - (c in ')]}')
        if depth == 1 and c == ',':
            begin = i + 1
        if depth == 0:
            return text[begin:i].strip()
    return ''


def is_number(text):
    """A time that stands there itself; 0 and -1 are none."""
    return bool(re.search(r'(?<![\w.])\d+(?![\w.])', text)) and not re.fullmatch(r'-?[01](\s*\?.*)?|0', text.strip()) \
        and not re.search(r'\w\(|\b[a-z]', text)


def found_in(text):
    """What it does with time: where, what and why that is none of its business."""
    code, with_sql = blank(text), blank(text, strings=False)
    for pattern, why in WORDS.items():
        for m in re.finditer(pattern, code):
            yield m.start(), re.sub(r'\s', '', m[0]), why
    for m in re.finditer(SQL, with_sql):
        yield m.start(), m[0], 'the day: base/clock.h'
    for m in re.finditer(CONSTANT, code):
        yield m.start(), m[1], 'a row of base/delays.def'
    for m in re.finditer(rf'\b({"|".join(WAITS)})\s*(\()', code):
        if is_number(last_argument(code, m.start(2))):
            yield m.start(), m[1], 'a number: a row of base/delays.def'
    for pattern in (MEMBER, SUM):
        for m in re.finditer(pattern, code):
            if is_number(m[1]):
                yield m.start(), m[0], 'a number: a row of base/delays.def'


def sources():
    for folder, _, names in sorted(os.walk(SRC)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            if name.endswith(('.c', '.h', '.def')) and name != 'delays.def':
                with open(path) as f:
                    yield os.path.relpath(path, SRC), f.read()


def test_sources():
    wrong, used, files = [], set(), 0
    for path, text in sources():
        files += 1
        for at, what, why in found_in(text):
            if (path, what) in RIGHT:
                used.add((path, what))
            else:
                wrong.append(f'src/{path}:{text.count(chr(10), 0, at) + 1}: {what}: {why}')
    assert not wrong, '\n'.join(wrong)
    assert used == set(RIGHT), f'not there any more: {set(RIGHT) - used}'
    assert files > 300, files


PLANTED = [
    'time_t now = time(NULL);', 'now = time (&t);', 'clock_gettime(CLOCK_REALTIME, &ts);', 'gettimeofday(&tv, NULL);',
    'clock_gettime(CLOCK_MONOTONIC_RAW, &ts);', 'sleep(1);', 'usleep(n);', 'nanosleep(&ts, NULL);', 'poll(NULL, 0, ms);',
    'select(0, NULL, NULL, NULL, &tv);', 'alarm(n);', 'pthread_cond_timedwait(&c, &l, &ts);', 'setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &v, n);',
    'sql(t, "SELECT datetime(\'now\')");', 'sql(t, "DEFAULT CURRENT_TIMESTAMP");', 'enum { WAIT_MS = 5000 };', 'enum { A, IDLE_S = 24 * 3600 };',
    '#define NAP_US 2000', 'static const int64_t SPRINT_MS = 30000;', 'task_wait(t, -1, 0, 50);', 'poll(&p, 1, 500);',
    'epoll_wait(fd, e, N, 500);', 'if (poll(&p, 1,\n\t\t1000) <= 0)', 'db_wait(t, generation, 1000);', 'io_write(t, fd, s, strlen(s), 1000);',
    'struct run r = { .argv = v, .timeout_ms = 20000 };', 'c->ms = 60 * 1000;', 'int64_t end = clock_ms() + 5000;',
    'clock_wait(&c, &l, clock_ms() + 60 * 1000);', 'sqlite3_busy_timeout(db, 10000);', 'time_ago(t, 3600);',
]
HARMLESS = [
    'time_t now = (time_t)clock_day_s();', 't->time(x);', 'uptime(x);', '/* sleep(1), CLOCK_REALTIME, WAIT_MS = 5 */', '// usleep(5)',
    'log_line(t, "sleep(1) WAIT_MS = 5");', 'poll(&p, 1, 0);', 'poll(p, 2, -1);', 'task_wait(t, fd, POLLIN, left > 0 ? (int)left : 0);',
    'task_wait(t, -1, 0, delay_ms(DELAY_X));', 'io_read(t, fd, b, 16, delay_ms(DELAY_X));', 'io_read(t, fd, bytes, (size_t)st.st_size, 0);',
    'poll(&p, 1, why(r) ? 2 * delay_ms(DELAY_X) : 0);', 'int64_t ms = clock_ms() - begin;', 'p->next = clock_ms() + ms * 2;', '.timeout_ms = ms',
    'struct row r = { .deadline_ms = 0 };', 'delay_sleep(DELAY_X);', 'jobs_start("go on", go_on, ref, 0);', 'c->sleeps = 1;',
]


def test_it_notices():
    missed = [line for line in PLANTED if not list(found_in(line))]
    taken = [line for line in HARMLESS if list(found_in(line))]
    assert not missed and not taken, f'missed: {missed}; wrongly found: {taken}'


def test_table():
    """Each row says what it is for, is used, and has a name of its own."""
    with open(os.path.join(SRC, 'base', 'delays.def')) as f:
        table = f.read()
    rows = re.findall(r'^DELAY\((\w+), ([\w()]+), "([^"]+)"\)$', table, re.M)
    names = [name for name, _, _ in rows]
    assert len(rows) == len(re.findall(r'^DELAY\(', table, re.M)) > 100, 'a row is not of the form'
    assert len(set(names)) == len(names) and 'ALL' not in names
    every = ''.join(text for _, text in sources())
    unused = [name for name in names if not re.search(rf'\bDELAY_{name}\b', every)]
    assert not unused, unused


def test_options():
    """A name or a factor that makes no sense is told, with what was given; so is a clock that is none."""
    with Daemon('fake', start=False) as d:
        for name, value, says in (('test-delay', 'http-idel=2', 'there is no delay of that name'),
                                  ('test-delay', 'http-idle=fast', 'the factor is no decimal number above 0'),
                                  ('test-clock', '/dev/null', 'not of 8 bytes')):
            p = subprocess.run([os.path.join(BUILD, 'stillframed'), '--state', d.state, '--foreground', '--vmm', 'fake', f'--{name}', value],
                               capture_output=True, text=True, timeout=60 * SLOW)
            assert p.returncode == 1 and 'INVALID_VALUE' in p.stderr and name in p.stderr, p.stderr
            assert f'{value}: {says}' in p.stderr, p.stderr
        p = subprocess.run([os.path.join(BUILD, 'stillframed'), '--help'], capture_output=True, text=True)
        for name in ('--test-delay NAME=FACTOR', '--test-clock FILE'):
            assert re.search(rf'^ +{name} +for tests: ', p.stdout, re.M), p.stdout


main(globals())
