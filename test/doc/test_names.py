#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What the documents name is there: files, functions, fields, verbs, errors, options, commands, variables.

    test/doc/test_names.py [FILE...]     the self-test, then every document, or these
    test/doc/test_names.py --self-test   a text with offences, each of which must be found
    test/doc/test_names.py --kinds       what each name was taken for

In markdown it looks at backticks, code blocks, links, and at files and functions that stand without backticks; in
the manual pages at what .Cm, .Dl, .Dv, .Ev, .Fl, .Pa and .Ql mark.  A name is of the first kind of KINDS whose
pattern fits, and the kind says where in the tree it has to be found.  What fits none is an offence, too.  OUTSIDE
has the names that are not ours, and why the documents need them.

What has to be whole is compared with the tree (whole.py), and code in a block with the file that it is from. """
import os, re, shlex, sys
sys.dont_write_bytecode = True
from outside import OUTSIDE, SYSTEM
from pages import Page
from planted import BAD, GAPS, GOOD
from tree import Tree
import whole

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
DOCUMENTS = ['ARCHITECTURE.md', 'HACKING.md', 'STYLE.md', 'README.md']

outside = {name for _, names in OUTSIDE for name in names.split('  ')}


# ---- the kinds: None, or what is wrong ----

def function(tree, page, m):
    if m[1] not in tree.functions:
        return f'there is no function {m[1]}()'
    return code(tree, page, re.match('(.*)', m[2]))


def function_of(tree, page, m):
    files = tree.find(m[1], page.folder)
    if not files:
        return f'there is no file {m[1]}'
    if not any(m[2] in tree.defined_in(f) for f in files):
        return f'{m[1]} has no function {m[2]}()'


def file(tree, page, m):
    if not tree.find(m[0], page.folder) and not (m[0].endswith('/') and tree.is_string(m[0][:-1])):
        return 'there is no such file or folder'


# A few words of C: constants, behind struct a tag, calls.
def code(tree, page, m):
    for word in re.findall(r'\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b', m[0]):
        if word not in tree.errors | tree.macros | tree.identifiers:
            return f'there is no {word}'
    for tag in re.findall(r'\bstruct (?!CLASS)(\w+)', m[0]):
        if tag not in tree.identifiers and tag.split('_')[0] not in tree.classes:
            return f'there is no struct {tag}'
    for name in re.findall(r'\b(?!CLASS)(\w+)\(', m[0]):
        if name not in tree.functions:
            return f'there is no function {name}()'


def member(tree, page, m):
    if m[1] not in tree.identifiers:
        return f'nothing has a member {m[1]}'


def field(tree, page, m):
    if m[2] not in tree.classes[m[1]] and f'{m[1]}.{m[2]}' not in tree.strings:
        return f'{m[1]} has no field and no call {m[2]}'
    if m[3] and not is_word(tree, m[3]):
        return f'nothing knows the key {m[3]}'


def capital(tree, page, m):
    known = tree.errors | set(tree.verbs) | tree.syncs | tree.variables | tree.macros | tree.identifiers | tree.strings
    if m[0].endswith('...'):
        return None if any(k.startswith(m[0][:-3]) for k in known) else 'nothing begins so'
    if m[0] not in known:
        return 'there is no such verb, error, variable, macro or constant'


def variable(tree, page, m):
    if m[1] not in tree.variables:
        return f'nothing reads the variable {m[1]}'


def option(tree, page, m):
    if page.path == 'doc/stillframed.8':
        known = {'--' + o for o in tree.daemon_options} | {'--force'}
    else:
        known = tree.xe_options | tree.flags_of_scripts | {'--' + p for p in tree.parameters | set(tree.daemon_options)}
        known |= {'--all', '--minimal'}
    if m[0] not in known:
        return 'there is no such option'


def route(tree, page, m):
    if m[1].rstrip('/?') not in {s.rstrip('/') for s in tree.strings} | {''}:
        return f'nothing is served at {m[1]}'


def ending(tree, page, m):
    for part in re.findall(r'\.[^.]+', m[1]):
        if not tree.is_string(part):
            return f'the program makes and knows no {part}'


def path_in_state(tree, page, m):
    for part in re.sub(r'<[^>]*>|UUID|\$STILLFRAME_STATE', '', m[0]).split('/'):
        if part and not tree.is_string(part.removesuffix('.old')):
            return f'nothing makes {part}'


def text(tree, page, m):
    for part in re.split(r'\.\.\.|: (?=journal)', m[0]):
        if not tree.is_string(part.strip()):
            return 'the program says nothing like that'


def is_word(tree, w):
    made = re.fullmatch(r'call_([A-Za-z]+)_(\w+)', w)
    if made:
        return made[2] in tree.classes.get(made[1], ())
    return any(v in tree.words for v in (w, w.replace('-', '_'), w + '_', w.rstrip('+')))


def keys(tree, page, m):
    """key:sub=value, or a part of that, or one word"""
    for w in re.split(r'[:=/]', m[0]):
        w = re.sub(r'(?<=-)\d+$|^\d+$|^[A-Z]+$|^\$\w+$|^\.\.\.$', '', w)
        if w and not is_word(tree, w) and not is_word(tree, w.rstrip('-')):
            return f'the sources do not know {w}'


def ignore(tree, page, m):
    return None


def shell_line(tree, page, m):
    return shell(tree, page, m[0])


PROGRAM = r'(?:xe|stillframed|meson|\./\w+|tools/[\w-]+|bench/\w+|test/[\w/]+(?:\.py)?|build/\w+)'
IN_STATE = (r'\$STILLFRAME_STATE/\S+|(?:run|blobs|boot|sr|tpm)/(?:<[^>]*>|\S)*|'
            r'\w+\.(?:db|sock|log|pem)[\w.-]*')
KINDS = [
    ('outside', None, ignore),
    ('function of a file', r'([\w./]+\.(?:c|h|py)): (\w+)\(\)', function_of),
    ('function', r'(\w+)\((.*)\)', function),
    ('C', r'(?:return|struct|int|enum) .*|#pragma once|"[\w/]+\.h"', code),
    ('member', r'\w+->(\w+)', member),
    ('command', rf'(?:[A-Z]+=\S* )*{PROGRAM} .*|\w[\w-]* .*', None),
    ('path of a system', '(?:' + '|'.join(map(re.escape, SYSTEM)) + ').*', ignore),
    ('file', r'(?:\./)?(?:[\w.-]+/)*[\w-]+\.(?:c|h|def|py|md|txt|build|corpus|service|[18])|\.clang-format', file),
    ('file', r'\./\w+|(?:src|test|doc|tools|bench|dist|hooks|build)/[\w/.-]*|(?:[\w-]+/)', file),
    ('field or call', r'(\w+)\.(\w+)(?::([\w-]+))?', field),
    ('variable', r'\$?([A-Z][A-Z_]+)=.*|\$([A-Z_]+)', variable),
    ('path in the state folder', IN_STATE, path_in_state),
    ('name in capitals', r'[A-Z][A-Z0-9]*(?:_[A-Za-z0-9]+)*_?(?:\.\.\.)?', capital),
    ('option', r'--?[a-z][\w-]*', option),
    ('route', r'(?:(?:GET|POST|CONNECT|PUT) )?(/[\w/]*)(?:\?\w+=\S*)?', route),
    ('end of a file\'s name', r'(?:<id>|x)?(\.\w[\w.-]*)', ending),
    ('device of the PCI bus', r'[0-9a-f]{4}:[0-9a-f]{4}', ignore),
    ('key, value or word', r'(?:[\w.+$-]+|\.\.\.)(?:[:=/](?:[\w./$+-]*|\.\.\.))*', keys),
    ('text', r'.* .*|""', text),
]


def fits(tree, name, pattern):
    """The match; None: it is of another kind."""
    if pattern is None:
        return name in outside and re.match('(.*)', name)
    m = re.fullmatch(pattern, name)
    if m and pattern.startswith(r'(\w+)\.(\w+)') and m[1] not in tree.classes:
        return None
    return m


def is_command(tree, name):
    first = re.sub(r'^(?:[A-Z]+=\S* )+', '', name).split()[0]
    return first in outside or first in tree.commands or re.fullmatch(PROGRAM, first)


def look(tree, page, name):
    """The name's kind, and what is wrong with it, or None."""
    for kind, pattern, check in KINDS:
        m = fits(tree, name, pattern)
        if not m or (kind == 'command' and not is_command(tree, name)):
            continue
        if kind == 'command':
            return kind, shell(tree, page, name)
        return kind, check(tree, page, m)
    return 'unknown', 'of no kind that this test knows'


# ---- commands ----

def xe(tree, words):
    while words and words[0].startswith('-'):
        words = words[2 if words[0] in ('-s', '-h', '-u', '-p', '-pw', '-pwf') else 1:]
    if not words or words[0] in ('help', 'COMMAND'):
        return None
    name, words = words[0], words[1:]
    if name not in tree.commands:
        return f'xe has no command {name}'
    flags, takes = tree.commands[name]
    known = {p.rstrip(':') for p in takes} | {'minimal', 'multiple', 'progress'}
    if 'SELECTORS' in flags or 'FILTERS' in flags or 'FREE' in flags:
        known |= tree.columns | {'vm', 'uuid', 'params'}
    for word in words:
        if word in tree.xe_options:
            continue
        key = re.match(r'(?:--([\w-]+)|([\w-]+)(?::[\w-]+)?=)', word)
        if key and (key[1] or key[2]) not in known:
            return f'xe {name} takes no {key[1] or key[2]}'
    return None


def meson(tree, words):
    known = set(re.findall(r"'([\w -]+)'", tree.text('test/meson.build'))) | \
        {re.sub(r'.*/|\.py', '', s) for s in re.findall(r"'([\w/]+\.py)'", tree.text('test/meson.build'))}
    for before, word in zip(words, words[1:]):
        if before == '--suite' and word not in known:
            return f'there is no suite {word}'
    for word in words:
        m = re.match(r'-D(\w+)=', word)
        if m and not m[1].startswith('b_') and f"option('{m[1]}'" not in tree.text('meson_options.txt'):
            return f'there is no build option {m[1]}'


def ours(tree, page, words):
    """A program of the tree, as it stands there or in a build folder."""
    name, words = words[0], words[1:]
    if re.match(r'build[\w-]*/', name) or name == 'stillframed':
        options = [w.split('=')[0][2:] for w in words if w.startswith('--')]
        wrong = [o for o in options if 'stillframed' in name and o not in tree.daemon_options]
        return f'stillframed has no option --{wrong[0]}' if wrong else None
    files = tree.find(name, page.folder)
    if not files:
        return f'there is no program {name}'
    for word in words:
        if word.startswith('test_') and not any(word in tree.defined_in(f) for f in files):
            return f'{name} has no {word}()'
        if re.fullmatch(r'--[a-z-]+', word) and word not in tree.text(files[0]):
            return f'{name} knows no {word}'


def simple_command(tree, page, words):
    assigned = []
    while words and re.match(r'\w+=', words[0]):
        assigned.append(words.pop(0).split('=')[0])
    first = words[0].lstrip('$') if words else '...'
    if first == '...':
        unread = [a for a in assigned if a.isupper() and a not in tree.variables]
        return f'nothing reads the variable {unread[0]}' if unread else None
    if first in ('xe', 'build/xe'):
        return xe(tree, words[1:])
    if first in tree.commands:
        return xe(tree, words)
    if first == 'meson':
        return meson(tree, words[1:])
    if re.fullmatch(PROGRAM + r'|build[\w-]*/[\w/-]+', first):
        unread = [a for a in assigned if a not in tree.variables]
        return f'nothing reads the variable {unread[0]}' if unread else ours(tree, page, words)
    for word in words[1:]:
        if re.match(r'(?:hooks|test|tools|doc|src|dist)/\w', word) and not tree.find(word, page.folder):
            return f'there is no {word}'
    return None if first in outside else f'there is no program {first}'


def shell(tree, page, line):
    line = re.sub(r'(?:^|\s)#\s.*$', '', line.removeprefix('$ ')).strip(' ,')
    if line in outside:
        return None
    for part in re.split(r'&&|\|\||\||;|\$\(|\)|&$', line):
        try:
            words = [w for w in shlex.split(part) if not re.match(r'[<>]|\[', w)]
        except ValueError: # half a quotation
            words = part.split()
        wrong = simple_command(tree, page, words) if words else None
        if wrong:
            return wrong
    return None


# ---- a document ----

def check_page(tree, page, kinds=None):
    for line, name in page.names:
        kind, wrong = look(tree, page, name)
        if kinds is not None:
            kinds.append((kind, name))
        if wrong:
            yield f'{page.path}:{line}: `{name}`: {wrong}'
    for line, command in page.commands:
        wrong = shell(tree, page, command)
        if wrong:
            yield f'{page.path}:{line}: {command.strip()}: {wrong}'
    for line, target in page.links:
        if not tree.find(target, page.folder):
            yield f'{page.path}:{line}: the link leads nowhere: {target}'
    for line, files, lines in page.samples:
        texts = [tree.text(f) for name in files for f in tree.find(name, page.folder) if f in tree.files]
        if not any(whole.is_part(lines, t) for t in texts):
            yield f'{page.path}:{line}: this code does not stand so in {" or ".join(files) or "any file named"}'


def gaps(tree, page):
    return [f'{page.path}: {what}: {wrong}' for what, compare in whole.LISTS.get(page.path, [])
            for wrong in compare(tree, page)]


def unused(tree):
    """Names of others that no document has any more."""
    texts = ' '.join(' '.join(tree.text(path).split()) for path in documents(tree))
    return [f'test/doc/outside.py: {name} is in no document' for name in sorted(outside) if name not in texts]


def documents(tree):
    return DOCUMENTS + [f for f in tree.with_end(('.md', '.1', '.8'), 'doc/')]


def check(tree, paths, kinds=None):
    for path in paths:
        yield from check_page(tree, Page(path, tree.text(path)), kinds)
        yield from gaps(tree, Page(path, tree.text(path)))


# ---- the self-test ----

def planted(tree):
    """(what, does it have to be found, is it)"""
    for lines, wanted in (GOOD, False), (BAD, True):
        for path, texts in lines.items():
            for text in texts:
                yield text, wanted, bool(list(check_page(tree, Page(path, 'A text.\n\n' + text + '\n'))))
    for path, word, other in GAPS:
        text = tree.text(path).replace(word, other)
        yield f'{path}: {other}', True, bool(gaps(tree, Page(path, text)))


def self_test(tree):
    results = list(planted(tree))
    wrong = [(what, wanted) for what, wanted, found in results if found != wanted]
    for what, wanted in wrong:
        print(f'{"missed" if wanted else "wrongly found"}: {what}')
    print(f'names: {sum(w for _, w, _ in results)} offences planted among {len(results)} texts, '
          f'{len(wrong)} missed or wrongly found')
    return not wrong


def main(arguments):
    tree = Tree(TOP)
    kinds = [] if '--kinds' in arguments else None
    paths = [a for a in arguments if not a.startswith('--')] or documents(tree)
    works = self_test(tree)
    if '--self-test' in arguments:
        return 0 if works else 1
    offences = list(check(tree, paths, kinds)) + unused(tree)
    for kind, name in sorted(set(kinds or [])):
        print(f'{kind:28} {name}')
    for offence in offences:
        print(offence)
    print(f'names: {len(paths)} documents, {len(offences)} offences')
    return 0 if works and not offences else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
