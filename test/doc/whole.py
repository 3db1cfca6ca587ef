# SPDX-License-Identifier: Apache-2.0
"""What a document lists without a gap, compared with the tree.  Each function returns what is wrong."""
import re


def is_part(sample, text):
    """Does the sample stand in the text, blanks and what is left out with `...` aside?  Of SQL, each line by itself."""
    def bare(s):
        return re.sub(r'\s+', '', s)
    if 'CREATE TABLE' in sample:
        lines = [bare(re.sub(r'--.*', '', line)) for line in sample.splitlines()[1:]]
        return all(line in bare(text).replace('"', '') for line in lines)
    at = 0
    for piece in re.split(r'\.\.\.', sample):
        at = bare(text).find(bare(piece), at)
        if at < 0:
            return False
    return True


def differ(listed, there):
    return [f'{x} is missing' for x in sorted(there - listed)] + [f'there is no {x}' for x in sorted(listed - there)]


def table(page, head):
    return next((rows for cells, rows in page.tables() if cells[0] == head), [])


def folders(tree, page):
    """Each folder of src/, and in each row files of that folder."""
    rows = table(page, 'folder')
    listed = {r[0].strip('`') for r in rows}
    wrong = differ(listed, {f for f in tree.folders if re.fullmatch(r'src/\w+', f)})
    for r in rows:
        folder = r[0].strip('`')
        wrong += [f'{folder} has no {f}' for f in re.findall(r'`([^`]+)`', r[2]) if f'{folder}/{f}' not in tree.files]
    return wrong


def verbs(tree, page):
    """Each verb of the journal, with its arguments."""
    rows = table(page, 'verb')
    wrong = differ({r[0].strip('`') for r in rows}, set(tree.verbs))
    for r in rows:
        takes = tree.verbs.get(r[0].strip('`'))
        if takes is not None and 'arguments' == head_of(page, 'verb')[1] and r[1] != takes:
            wrong.append(f'{r[0]} takes {takes}')
    return wrong


def head_of(page, head):
    return next(cells for cells, _ in page.tables() if cells[0] == head)


def syncs(tree, page):
    """Each wait for the disk, beside a file that has it."""
    rows = table(page, 'left out')
    wrong = differ({r[0].strip('`') for r in rows}, tree.syncs)
    for r in rows:
        for f in tree.find(r[1].strip('`')):
            if r[0].strip('`') not in tree.text(f):
                wrong.append(f'{f} does not wait for {r[0]}')
    return wrong


def named_files(tree, section):
    return {f for name in re.findall(r'`([\w/.]+)`', section) for f in tree.find(name)}


def locks(tree, page):
    """Each file that has a lock."""
    listed = named_files(tree, page.section('Locks'))
    return [f'{f} is missing' for f in tree.files_with(r'pthread_mutex_t \w+(;| =)', 'src/') if f not in listed]


def threads(tree, page):
    """Each file that begins a thread; base/thread.c does so for others."""
    listed = named_files(tree, page.section('Threads'))
    begin = tree.files_with(r'\b(pthread_create|thread_begin)\(', 'src/')
    return [f'{f} is missing' for f in begin if f not in listed and not f.startswith('src/base/thread.')]


def words_between(page, begin, end):
    """What .Cm marks there."""
    return set(re.findall(r'^\.Cm ([\w-]+)', page.text.split(begin)[1].split(end)[0], re.M))


def daemon_options(tree, page):
    listed = set(re.findall(r'^\.(?:Op |It )Fl -([\w-]+)', page.text, re.M))
    listed |= set(re.findall(r'Fl -([\w-]+)', page.text.split('.Sh DESCRIPTION')[0]))
    in_file = words_between(page, 'with the options', 'What is behind')
    keyed = {o for o, keyed in tree.daemon_options.items() if keyed}
    return differ(listed, set(tree.daemon_options)) + differ(in_file, keyed)


def xe_options(tree, page):
    items = re.findall(r'^\.It Fl .*', page.section_of_manual('Options'), re.M)
    listed = {'-' + o for item in items for o in re.findall(r'\bFl ([\w-]+)', item)}
    in_file = words_between(page, 'options are also known as', 'What the command')
    return [f'{o} is missing' for o in sorted(tree.xe_options - listed - {'-help'})] + differ(in_file, tree.xe_keys)


def parts(tree, page):
    """Each part of ./check --long; and what it runs: tests of that part in test/meson.build, or a function of check."""
    known = set(' '.join(re.findall(r"^parts\+?='(.*)'", tree.text('check'), re.M)).split())
    runs = set(re.findall(r"^\t\t\['([\w-]+)', '\w+', '[\w/.]+', \[", tree.text('test/meson.build'), re.M))
    runs |= set(re.findall(r'^part_(\w+)\(\)', tree.text('check'), re.M))
    return differ({r[0].strip('`') for r in table(page, 'part')}, known) + differ(runs, known)


LISTS = {
    'HACKING.md': [('parts of the campaigns', parts)],
    'ARCHITECTURE.md': [('folders', folders), ('verbs', verbs), ('locks', locks), ('threads', threads)],
    'doc/format-journal.md': [('verbs', verbs)],
    'doc/power-loss.md': [('waits for the disk', syncs)],
    'doc/stillframed.8': [('options', daemon_options)],
    'doc/xe.1': [('options', xe_options)],
}
