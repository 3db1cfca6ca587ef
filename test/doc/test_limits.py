#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What outsiders can make the daemon spend is one table, src/base/limits.def: the manual's is made of it, each row is used,
and each is attacked.

    test/doc/test_limits.py --write     puts the table into doc/stillframed.8 """
import os, re, sys, textwrap
sys.dont_write_bytecode = True
TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
PAGE = 'doc/stillframed.8'
ROW = re.compile(r'^LIMIT\((\w+), ((?:KIB|MIB)?\(?[\d]+\)?), "([^"]+)", "([^"]+)", "([^"]+)"\)$', re.M)
TABLE = re.compile(r'(?<=\.\\" made by test/doc/test_limits\.py\n).*?(?=\.\\" until here\n)', re.S)


def read(path):
    with open(os.path.join(TOP, path), encoding='utf-8') as f:
        return f.read()


def rows():
    table = read('src/base/limits.def')
    found = ROW.findall(table)
    assert len(found) == len(re.findall(r'^LIMIT\(', table, re.M)) > 50, 'a row is not of the form'
    assert len({name for name, *_ in found}) == len(found), 'two rows have one name'
    return found


def value_shown(value):
    m = re.fullmatch(r'(KIB|MIB)\((\d+)\)', value)
    return f'{m[2]} {m[1][0]}iB' if m else value


def sentence(text):
    return text[0].upper() + text[1:] + '.'


def rendered():
    lines = ['.Bl -tag -width Ds']
    for name, value, whom, what, then in rows():
        lines.append(f'.It {name} : {value_shown(value)} ( {whom} )')
        lines += textwrap.wrap(sentence(what), 99) + textwrap.wrap(sentence(then), 99)
    return '\n'.join(lines + ['.El', ''])


def test_manual():
    page = read(PAGE)
    assert TABLE.search(page), f'{PAGE} has no place for the table'
    assert TABLE.search(page)[0] == rendered(), f'{PAGE} has another table: test/doc/test_limits.py --write'


def sources(*folders):
    for folder in folders:
        for at, _, names in os.walk(os.path.join(TOP, folder)):
            for name in names:
                if name.endswith(('.c', '.h', '.py')) and name != 'test_limits.py':
                    yield os.path.relpath(os.path.join(at, name), TOP)


def test_each_is_used():
    text = ''.join(read(path) for path in sources('src'))
    unused = [name for name, *_ in rows() if not re.search(rf'\b{name}_LIMIT\b', text)]
    assert not unused, unused


def test_each_is_attacked():
    """By an attack of test/bounds, or by a test of its own that is named there."""
    text = read('test/bounds/test_budget.py')
    attacked = {name for names in re.findall(r"rows='([^']*)'", text) for name in names.split()}
    elsewhere = dict(re.findall(r"^    '(\w+)': '([\w/]+\.\w+)'", text, re.M))
    names = {name for name, *_ in rows()}
    assert not names - attacked - set(elsewhere), f'nobody attacks {sorted(names - attacked - set(elsewhere))}'
    assert not (attacked | set(elsewhere)) - names, f'there is no {sorted((attacked | set(elsewhere)) - names)}'
    assert not attacked & set(elsewhere), attacked & set(elsewhere)
    for name, path in elsewhere.items():
        assert re.search(rf'\b{name}\b|\b{name}_LIMIT\b', read(path)), f'{path} does not speak of {name}'


def test_no_others():
    """A limit on what comes from outside stands in the table: these folders have no numbers of their own by that name."""
    own = {'xe': 'the user\'s side', 'archive': 'formats', 'sr': 'formats', 'place': 'formats', 'memory': 'formats'}
    wrong = []
    for path in sources('src'):
        if path.split('/')[1] not in own:
            wrong += [f'{path}: {m}' for m in re.findall(r'^\s*(?:enum \{ )?([A-Z_]+_LIMIT) = ', read(path), re.M) if m not in KNOWN]
    assert not wrong, wrong


# Not of outsiders, or of what they cannot make larger.
KNOWN = {
    'TEXT_LIMIT', 'NUMBER_LIMIT', 'DEPTH_LIMIT', 'FILE_LIMIT', 'IMAGE_LIMIT', 'LINK_NAME_LIMIT', 'STATE_LIMIT', 'COMPLAINT_LIMIT',
    'OUTPUT_LIMIT', 'CONFIG_LIMIT', 'FRAME_LIMIT', 'JPEG_SIDE_LIMIT', 'JPEG_PPM_LIMIT', 'HEAD_LIMIT', 'PEM_LIMIT',
}


def main():
    if '--write' in sys.argv:
        page = read(PAGE)
        with open(os.path.join(TOP, PAGE), 'w', encoding='utf-8') as f:
            f.write(TABLE.sub(lambda _: rendered(), page))
        return
    for name, test in list(globals().items()):
        if name.startswith('test_'):
            test()
            print(name)


if __name__ == '__main__':
    main()
