# SPDX-License-Identifier: Apache-2.0
"""Under which conditions figures were taken: the table at the top of each page here."""
import datetime, os, platform, re, subprocess, tempfile, time


def cpu():
    with open('/proc/cpuinfo') as f:
        m = re.search(r'model name\s*: (.*)', f.read())
    return m[1] if m else platform.machine()


def table(begin, load, *more):
    """The lines of a table in Markdown; begin: time.time() then, load: os.getloadavg()[0] then; more:
    rows of name and value."""
    qemu = subprocess.check_output(['qemu-system-x86_64', '--version'], text=True).split('\n')[0]
    host = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20
    fs = subprocess.check_output(['df', '--output=fstype,source', tempfile.gettempdir()],
                                 text=True).split('\n')[1]
    now = datetime.datetime.now(datetime.timezone.utc)
    rows = (
        ('date', f'{now:%Y-%m-%d %H:%M} UTC, took {(time.time() - begin) / 60:.0f} minutes'),
        ('host', f'{os.cpu_count()} cores ({cpu()}), {host} MiB, Linux {platform.release()}'),
        ('load', 'before {:.2f}, at the end {:.2f}'.format(load, os.getloadavg()[0])),
        ('storage', f'{" on ".join(fs.split())}, SR of type file (qcow2 files)'),
        ('QEMU', f'{qemu}, accelerator TCG'),
        *more)
    yield '| | |'
    yield '|---|---|'
    for name, value in rows:
        yield f'| {name} | {value} |'
