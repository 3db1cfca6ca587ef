#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the shells offer behind xe: its own answer, and what bash and zsh make of it."""
import os, shutil, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'lib'))
from sf import *

DIST = os.path.join(TOP, 'dist', 'completion')


def offered(d, line):
    out = d.xe('complete', line=line)
    return out.split('\n') if out else []


def bash(d, line):
    """COMPREPLY, as bash has it when Tab is hit at the end of the line."""
    script = f'source {DIST}/xe.bash; COMP_LINE=$1; COMP_POINT=${{#1}}; COMP_WORDS=({BUILD}/xe); _xe; printf "%s\\n" "${{COMPREPLY[@]}}"'
    return shell(d, ['bash', '--norc', '-c', script, 'bash', line])


def zsh(d, line):
    """What is given to compadd; those with a word to come first."""
    script = (f'compadd() {{ print -rl -- "${{@[$@[(i)--]+1,-1]}}" }}; compset() {{ }}; _files() {{ print files }}; '
              f'words=({BUILD}/xe "${{(@s: :)1}}"); CURRENT=$#words; source {DIST}/_xe')
    return shell(d, ['zsh', '-f', '-c', script, 'zsh', line[3:]])


def shell(d, words):
    p = subprocess.run(words, capture_output=True, text=True, timeout=60 * SLOW,
                       env=d.environ())
    assert p.returncode == 0 and not p.stderr, p.stderr
    return sorted(line for line in p.stdout.split('\n') if line)


def test_commands():
    with in_common() as d:
        assert offered(d, 'vm-chec') == ['vm-checkpoint']
        every = offered(d, '')
        assert sorted(every) == sorted(d.xe('help', '--minimal', '--all').split(',')) and len(every) > 150
        assert offered(d, 'nothing') == [] == offered(d, 'nothing ') == offered(d, 'nothing uuid=')


def test_parameters():
    with in_common() as d:
        assert offered(d, 'vm-snapshot new-') == ['new-name-label=', 'new-name-description=']
        assert offered(d, 'vm-snapshot new-name-label=x new-') == ['new-name-description=']
        assert offered(d, 'snapshot-uninstall --f') == ['--force'] and offered(d, 'sr-create dev') == ['device-config:']
        assert {'vm=', '--multiple', 'power-state=', 'uuid='} <= set(offered(d, 'vm-start '))
        assert set(offered(d, 'vm-list na')) == {'name-label=', 'name-description='}
        assert 'name-label=' in offered(d, 'vm-param-set ') and 'power-state=' not in offered(d, 'vm-param-set ')


def test_values():
    with in_common() as d:
        web, db = d.vm('web'), d.vm('zoo two')
        snap, sr = d.snapshot(web, 'before'), d.sr()
        assert offered(d, 'vm-start vm=w') == ['vm=web']
        assert set(offered(d, 'vm-start vm=')) == {'vm=web', 'vm=zoo two', f'vm={web}', f'vm={db}'}
        assert set(offered(d, 'vm-start uuid=')) == {f'uuid={web}', f'uuid={db}'}
        assert offered(d, 'snapshot-revert uuid=') == [f'uuid={snap}'] == offered(d, 'snapshot-param-list uuid=')
        assert offered(d, 'snapshot-revert snapshot-uuid=') == [f'snapshot-uuid={snap}']
        assert offered(d, 'vdi-create sr-uuid=') == [f'sr-uuid={sr}']
        assert offered(d, 'vm-list power-state=s') == ['power-state=suspended']
        assert offered(d, 'vm-list is-a-template=') == ['is-a-template=true', 'is-a-template=false']
        assert offered(d, 'vm-list params=uuid,name-l') == ['params=uuid,name-label']
        assert offered(d, 'vm-param-get param-name=is-a-s') == ['param-name=is-a-snapshot']
        assert 'class=snapshot' in offered(d, 'event-wait class=')
        windows = offered(d, 'vm-install template=Win')
        assert windows and all(t.startswith('template=Windows') for t in windows)


def test_bash():
    with Daemon('fake') as d:
        web = d.vm('web')
        d.vm('zoo two')
        assert bash(d, 'xe vm-chec') == ['vm-checkpoint']
        assert bash(d, '  xe vm-start vm=w') == ['web'] and bash(d, 'xe vm-start vm=z') == ['zoo\\ two']
        assert bash(d, 'xe vm-snapshot new-') == ['new-name-description=', 'new-name-label=']
        assert bash(d, f'xe vm-start uuid={web[:4]}') == [web]
        d.stop()
        assert bash(d, 'xe vm-chec') == []
        d.start()


def test_zsh():
    if not shutil.which('zsh'):
        raise Skip('there is no zsh')
    with in_common() as d:
        d.vm('web')
        assert zsh(d, 'xe vm-chec') == ['vm-checkpoint'] and zsh(d, 'xe vm-start vm=w') == ['vm=web']
        assert zsh(d, 'xe vm-snapshot new-') == ['new-name-description=', 'new-name-label=']
        assert zsh(d, 'xe vdi-export filename=x') == ['files']


main(globals())
