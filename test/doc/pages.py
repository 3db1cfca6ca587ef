# SPDX-License-Identifier: Apache-2.0
"""Documents taken apart: names, commands, links and samples of code, each with the number of its line."""
import os, re

BACKTICKS = re.compile(r'`([^`]+)`')
LINK = re.compile(r'\]\(([^)#:]+)(?:#[^)]*)?\)')
BARE_FILE = re.compile(r'(?<![\w/.<$`-])((?:[\w-]+/)*[\w-]+\.(?:md|c|h|def|py))\b')
BARE_FUNCTION = re.compile(r'(?<![\w`.])([a-z]\w*_\w+\(\))')
FILE_NAME = re.compile(r'\w[\w./-]*\.(?:c|h|def)\b')
MACROS = set('Ar Bd Bl Cm Dl Dv Ed El Em Ev Fl Ic It Li Nd Nm No Ns Op Pa Pc Po Pp Pq Ql Sh Ss Sx Sy Xr'.split())


class Page:
    def __init__(self, path, text):
        self.path, self.text = path, text
        self.folder = os.path.dirname(path)
        self.names, self.commands, self.links, self.samples = [], [], [], []
        if path.endswith('.md'):
            self.read_markdown()
        else:
            self.read_manual()

    # ---- markdown ----

    def read_markdown(self):
        """Blocks first; what is left, with as many lines, is prose."""
        prose, near = self.text, []
        for m in re.finditer(r'^```(\w*)\n(.*?)^```$', self.text, re.S | re.M):
            line = self.text.count('\n', 0, m.start()) + 2
            named = FILE_NAME.findall(self.text[:m.start()].rsplit('\n\n', 2)[-2])
            self.read_block(m[1], m[2], line, named)
            prose = prose.replace(m[0], '\n' * m[0].count('\n'), 1)
        self.read_prose(prose)

    def read_block(self, language, text, line, named):
        if language in ('c', 'sql'):
            self.samples.append((line, named, text))
            return
        heredoc, before = None, ''
        for number, one in enumerate(text.splitlines(), line):
            end = re.search(r'<<(\w+)', one)
            if heredoc or one.strip() == heredoc:
                heredoc = None if one.strip() == heredoc else heredoc
                continue
            heredoc = end and end[1]
            if language == 'sh' or one.startswith('$ '):
                self.commands.append((number, re.sub(r'>\S+|<<\w+', '', one)))

    def read_prose(self, prose):
        def number(m):
            return prose.count('\n', 0, m.start()) + 1
        for m in BACKTICKS.finditer(prose):
            self.names.append((number(m), ' '.join(m[1].split())))
        for m in LINK.finditer(prose):
            self.links.append((number(m), m[1]))
        bare = LINK.sub(lambda m: '\n' * m[0].count('\n'), BACKTICKS.sub(lambda m: '\n' * m[0].count('\n'), prose))
        for pattern in BARE_FILE, BARE_FUNCTION:
            for m in pattern.finditer(bare):
                self.names.append((bare.count('\n', 0, m.start()) + 1, m[1]))

    def tables(self):
        """Each table: the cells of its head, and of its rows."""
        for block in re.findall(r'(?:^\|.*\n)+', self.text, re.M):
            rows = [[c.strip() for c in line.strip('|\n').split('|')] for line in block.splitlines()]
            yield rows[0], rows[2:]

    def section(self, title):
        m = re.search(rf'^## {title}\n(.*?)(?=^## |\Z)', self.text, re.S | re.M)
        return m[1] if m else ''

    # ---- manual pages ----

    def section_of_manual(self, title):
        return re.search(rf'^\.S[hs] {title}\n(.*?)(?=^\.S[hs] |\Z)', self.text, re.S | re.M)[1]

    def read_manual(self):
        literal, joined = False, ''
        for number, line in enumerate(self.text.splitlines(), 1):
            if line.startswith(('.Bd', '.Ed')):
                literal = line.startswith('.Bd')
            elif literal:
                if joined or re.match(r'(?:\$ )?(?:xe|stillframed|\w+=\$\(xe) ', line):
                    joined += line.replace('\\e', '')
                    if line.rstrip().endswith('|'):
                        continue
                    self.commands.append((number, joined))
                joined = ''
            elif line.startswith('.') and not line.startswith('.\\"'):
                self.read_macros(number, re.findall(r'"[^"]*"|\S+', line[1:]))

    def read_macros(self, number, tokens):
        """A line of macros, as of mdoc(7): each has what comes up to the next."""
        macro, glued, parts = None, False, []
        for token in tokens + ['Pp']:
            if token == 'Ns':
                glued = True
            elif token in MACROS:
                if macro in ('Ql', 'Dl') and token == 'Ar':
                    continue
                self.end_of_macro(number, macro, parts)
                macro, parts = token, []
            elif macro and not (token in ',.;:()|' and macro != 'Dl'):
                parts.append(('' if glued else ' ') + token.strip('"'))
                glued = False
        return parts

    def end_of_macro(self, number, macro, parts):
        parts = [p.replace('\\&', '') for p in parts]
        if macro == 'Dl':
            self.commands.append((number, ''.join(parts).strip()))
        elif macro == 'Ql':
            self.names.append((number, ''.join(parts).strip()))
        elif macro == 'Fl':
            self.names += [(number, '-' + p.strip()) for p in parts if p.strip() != '-']
        elif macro in ('Cm', 'Ev', 'Pa', 'Dv'):
            self.names += [(number, p.strip()) for p in parts if p.strip() not in ('=', '/')]
