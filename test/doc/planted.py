# SPDX-License-Identifier: Apache-2.0
"""For the self-test: texts, each on a page of its own, that are in order, and such that are not."""

GOOD = {
    'x.md': [
        '`api/coalesce.c`', '`task.h`', '`fail()`', '`VM.power_state`', '`VM.snapshot`', '`GUEST_THAW`',
        '`VDI_IN_USE`', '`--minimal`', '`task->op`', '`xe vm-snapshot vm=web new-name-label=x`', '`EVERY=1`',
        '`STILLFRAME_STATE`', '`platform:device-model`', '`cli.c: serve()`',
        '`return fail(t, VDI_MISSING, sr, vdi)`', '`tools/layers`', '`src/model/CLASS.def`', '`/jsonrpc`',
        '[a link](doc/quiesce.md)', 'doc/quiesce.md', 'guest_get() besides',
        '```sh\nEVERY=1 test/crash/test_points.py    # nonesuch\n```\n',
        '`api/vdi_resize.c`:\n\n```c\nint VDI_resize(struct task *t, ...\n```\n', '`.def`', '`reclaim+`',
        '`call_VM_snapshot`',
    ],
    'doc/stillframed.8': [
        '.Fl -listen Ar ADDR:PORT', '.Ev PATH', '.Pa state.db', '.Ql xe vm-unpause', '.Cm device-model',
    ],
}
BAD = {
    'x.md': [
        '`api/nonesuch.c`', '`nonesuch.h`', '`nonesuch_begin()`', '`VM.nonesuch`', '`VM.other_config:nonesuch`',
        '`GUEST_NONESUCH`', '`VDI_IS_NONESUCH`', '`VOL_NONE...`', '`--none-such`', '`task->nonesuch`',
        '`xe vm-nonesuch`', '`xe vm-snapshot nonesuch=1`', '`xe sr-check --nonesuch`', '`NONESUCH=1`',
        '`STILLFRAME_NONESUCH`', '`platform:none-such`', '`cli.c: nonesuch()`',
        '`return fail(t, VDI_NONESUCH, vdi)`', '`struct nonesuch`', '`call_VM_nonesuch`', '`tools/nonesuch`',
        '`meson test --suite nonesuch`', '`meson setup -Dnonesuch=true`', '`none-such`', '`nonesuch`',
        '`stillframed --nonesuch`', '`test/crash/test_points.py test_nonesuch`', '`./check --nonesuch`',
        '`/nonesuch`', '`.nonesuch`', '`run/nonesuch`', '`says nonesuch to nobody`', '`nonesuch --help`',
        '`%?!`', '[a link](doc/nonesuch.md)', 'doc/nonesuch.md', 'nonesuch_done() besides', '`\nnonesuch\n`',
        '```sh\nNONESUCH=1 test/crash/test_points.py\n```\n', '```sh\nnonesuch\n```\n',
        '```sh\nNONESUCH=1 ...\n```\n', '```\n$ xe nonesuch\n```\n',
        '`api/vdi_resize.c`:\n\n```c\nint VDI_resize(struct nonesuch *t)\n```\n',
    ],
    'doc/stillframed.8': [
        '.It Fl -nonesuch', '.Ev STILLFRAME_NONESUCH , PATH', '.Pa nonesuch.db', '.Ql xe vm-nonesuch',
        '.Dl xe vm-start nonesuch=1', '.Cm none-such', '.Bd -literal\n$ xe vm-nonesuch\n.Ed',
    ],
}

# In a document whose lists are whole one word is changed, and a list has a gap: (document, word, its place's word).
GAPS = [
    ('ARCHITECTURE.md', '| `src/vmm` |', '| `src/base` |'),
    ('ARCHITECTURE.md', '`task.h`, `errors.def`', '`task.h`, `errors.c`'),
    ('ARCHITECTURE.md', '| `VM_RESUME` |', '| `VM_FORGET` |'),
    ('ARCHITECTURE.md', '| sr volume vm |', '| sr volume |'),
    ('ARCHITECTURE.md', '`api/jobs.c`', '`api/call.c`'),
    ('HACKING.md', '| `merges` |', '| `murges` |'),
    ('doc/format-journal.md', '| `SR_MARK` |', '| `SR_FORGET` |'),
    ('doc/power-loss.md', '| `DATABASE` | `db/db.c` |', '| `DATABASE` | `db/db.h` |'),
    ('doc/stillframed.8', '.It Fl -accel', '.It Fl -acceleration'),
    ('doc/xe.1', '.It Fl -nossl', '.It Fl -debug'),
]
