# SPDX-License-Identifier: Apache-2.0
"""What there is in the tree under which name: files, functions, the rows of its tables.  Reads sources only."""
import fnmatch, functools, os, re

CODE = ('.c', '.h', '.def')
COMMENT = re.compile(r"""/\*.*?\*/|//[^\n]*|("(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)')""", re.S)
STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
COMMAND = re.compile(r'\{ "([\w-]+)", \w+, ([A-Z_| 0-9]+),\s+((?:"[^"]*"\s*)+),\s+((?:"[^"]*"\s*)+),')
# A function begins in the first column; what is behind the parentheses tells whether it is its body.
FUNCTION = re.compile(r'^(?:[A-Za-z_][\w \t*]*?[ *])?(\w+)\(([^;{}]*)([;{])', re.M)

MEMBER = re.compile(r'\(\*(\w+)\)\(|#\s*define (\w+)\(')


def without_comments(text):
    return COMMENT.sub(lambda m: m[1] or ' ', text)


def joined(literals):
    """The value of C's "a" "b"."""
    return ''.join(STRING.findall(literals))


class Tree:
    def __init__(self, top):
        self.top = top
        self.files = set()
        for folder, below, names in os.walk(top):
            below[:] = [b for b in below if not b.startswith(('.', 'build', '__'))]
            self.files |= {os.path.relpath(os.path.join(folder, n), top) for n in names}
        self.folders = {f[:f.rindex('/')] for f in self.files if '/' in f}

    def with_end(self, end, *under):
        return sorted(f for f in self.files if f.endswith(end) and f.startswith(under or ''))

    @functools.cache
    def text(self, path):
        with open(os.path.join(self.top, path), encoding='utf-8', errors='replace') as file:
            return file.read()

    @functools.cache
    def code(self, path):
        return without_comments(self.text(path))

    # ---- files ----

    def find(self, name, here=''):
        """The files and folders that a name means which is said in a file of the folder `here`: from the top,
        from src/, from test/, from there; without a folder, wherever it is in src/ or test/.  CLASS, NAME
        and TARGET stand for any."""
        name = re.sub(r'CLASS|NAME|TARGET|FOLDER|FILE', '*', name.rstrip('/')).removeprefix('./')
        places = [os.path.normpath(os.path.join(p, name)) for p in ('', 'src', 'test', here)]
        if '*' in name:
            return [f for p in places for f in fnmatch.filter(self.files, p)]
        found = [p for p in places if p in self.files or p in self.folders]
        if not found and '/' not in name:
            found = [f for f in self.files if f.endswith('/' + name) and f.startswith(('src/', 'test/'))]
        return found

    # ---- C ----

    @functools.cache
    def defined_in(self, path):
        if path.endswith('.py'):
            return set(re.findall(r'^\s*def (\w+)', self.text(path), re.M))
        return {m[1] for m in FUNCTION.finditer(self.code(path)) if m[3] == '{'}

    @functools.cached_property
    def functions(self):
        """Those that are defined, members of structs that point to some, and macros with parameters."""
        found = set()
        for path in self.with_end(('.c', '.h', '.py'), 'src/', 'test/'):
            found |= self.defined_in(path)
            if path.endswith(('.c', '.h')):
                found |= {a or b for a, b in MEMBER.findall(self.code(path))}
        return found | {'assert', '__attribute__'}

    @functools.cached_property
    def identifiers(self):
        found = set()
        for path in self.with_end(CODE, 'src/', 'test/'):
            found |= set(re.findall(r'[A-Za-z_]\w*', STRING.sub('', self.code(path))))
        return found

    @functools.cached_property
    def strings(self):
        """Whole strings of the program, of its tests and of the build's files."""
        found = set()
        for path in self.with_end(CODE, 'src/', 'test/') + self.with_end('meson.build'):
            found |= set(STRING.findall(self.code(path))) | set(re.findall(r"'([^'\n]*)'", self.code(path)))
        for path in self.with_end('.py', 'test/'):
            if not path.startswith('test/doc/'):
                found |= {a or b for a, b in re.findall(r"""'([^'\n]*)'|"([^"\n]*)\"""", self.text(path))}
        return found

    @functools.cached_property
    def words(self):
        """What a string of the sources has a word of, or an identifier's name is."""
        found = set(self.identifiers | self.functions)
        for path in self.with_end('meson.build') + self.with_end('.service'):
            found |= set(re.findall(r'\w+', re.sub(r'#.*', '', self.text(path))))
        for s in self.strings:
            found |= set(re.findall(r'[A-Za-z_][\w.-]*[\w]|[A-Za-z]', s)) | set(re.findall(r'[\w-]+', s))
        return found | self.columns | set(self.parameters) | self.fields

    def is_string(self, part):
        return any(part in s for s in self.strings)

    # ---- tables ----

    def rows(self, path, macro):
        """The arguments of each MACRO(...) of a table, as text."""
        return re.findall(r'^\s*' + macro + r'\((.*)', self.code(path), re.M) if path in self.files else []

    def names(self, path, macro):
        return [r.split(',')[0].strip('" )') for r in self.rows(path, macro)]

    @functools.cached_property
    def verbs(self):
        """verb: its arguments"""
        rows = [re.match(r'(\w+), \w+, "([^"]*)"', r) for r in self.rows('src/api/undo.def', 'VERB')]
        return {m[1]: m[2] for m in rows}

    @functools.cached_property
    def errors(self):
        return set(self.names('src/base/errors.def', 'ERROR'))

    @functools.cached_property
    def syncs(self):
        return set(self.names('src/base/sync.def', 'SYNC'))

    @functools.cached_property
    def classes(self):
        """class: its fields and calls"""
        found = {}
        for path in self.with_end('.def', 'src/model/'):
            name = os.path.basename(path)[:-4]
            found[name] = set(re.findall(r'^(?:FIELD|LINK|COMPUTED|PRIVATE)\((\w+)', self.code(path), re.M))
            found[name] |= set(re.findall(r'^CALL\(\w+, (\w+)', self.code(path), re.M))
        return {name: has for name, has in found.items() if has}

    @functools.cached_property
    def fields(self):
        return set().union(*self.classes.values())

    @functools.cached_property
    def macros(self):
        return {m for p in self.with_end(CODE, 'src/', 'test/') for m in re.findall(r'#\s*define (\w+)', self.code(p))}

    @functools.cached_property
    def columns(self):
        return set(re.findall(r'^(?:COLUMN|WORKED)\("([\w-]+)"', self.code('src/cli/records.def'), re.M))

    @functools.cached_property
    def commands(self):
        """command of xe: (its flags, its parameters)"""
        found = {}
        views = self.names('src/cli/records.def', 'VIEW')
        for path in self.with_end('.c', 'src/cli/'):
            for name, flags, required, optional in COMMAND.findall(self.code(path)):
                parameters = set((joined(required) + ',' + joined(optional)).split(',')) - {''}
                for full in [f'{v}-{name}' for v in views] if path.endswith('/generic.c') else [name]:
                    found[full] = (flags, parameters)
        return found

    @functools.cached_property
    def parameters(self):
        return {p.rstrip(':') for _, takes in self.commands.values() for p in takes}

    @functools.cached_property
    def daemon_options(self):
        """option: may it stand in the file"""
        table = re.search(r'options\[\] = \{(.*?)\n\};', self.code('src/stillframed/config.c'), re.S)[1]
        found = re.findall(r'\{ "([\w-]+)", (?:"[^"]*"|NULL), [^,]*, [^,]*, [A-Z]+, (true|false)', table)
        return {name: keyed == 'true' for name, keyed in found} | {'config': False, 'version': False, 'help': False}

    @functools.cached_property
    def xe_options(self):
        """Those that xe takes for itself, as typed."""
        own = self.code('src/xe/options.c') + self.code('src/xe/xe.c')
        return set(re.findall(r'"(--?[\w-]+)"', own)) | {'-version'} & self.strings

    @functools.cached_property
    def xe_keys(self):
        """The names of the same in a file or in the environment."""
        return set(re.findall(r'\{ "(\w+)", \{ "-', self.code('src/xe/options.c')))

    @functools.cached_property
    def variables(self):
        """Of the environment."""
        places = ('tools', 'test', 'check', 'bench', 'demo')
        scripts = [f for f in self.files if '.' not in f.split('/')[-1] and f.split('/')[0] in places]
        sources = self.with_end(('.c', '.h', '.py'), 'src/', 'test/', 'bench/') + self.with_end('meson.build')
        found = set()
        for path in sources + scripts:
            text = self.text(path)
            found |= set(re.findall(r"""(?:getenv\(|environ(?:\.\w+\(|\[)|env\.set\()["']([A-Z_]+)""", text))
            found |= set(re.findall(r"""\$\{?([A-Z_]{2,})""", text)) if path in scripts else set()
            found |= {w for line in text.splitlines() if 'environ' in line or path.endswith('build')
                      for w in re.findall(r"'([A-Z_]{2,})'", line)}
        return found

    @functools.cached_property
    def flags_of_scripts(self):
        scripts = [f for f in self.files if f in ('check', 'demo') or f.startswith(('tools/', 'test/fuzz/run'))]
        return {w for p in scripts for w in re.findall(r'(?<![\w-])--?[a-z][\w-]*', self.text(p))}

    def files_with(self, pattern, *under):
        return [p for p in self.with_end(('.c', '.h'), *under) if re.search(pattern, self.code(p), re.M)]
