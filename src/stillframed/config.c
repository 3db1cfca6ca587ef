// SPDX-License-Identifier: Apache-2.0
#include "stillframed/config.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

#ifndef VERSION
#define VERSION "unknown"
#endif

enum { CONFIG_LIMIT = 65536 };

/* One row per option; `keyed` ones may stand in the file too. */
static const struct option_row {
	const char *name;
	const char *value; /* what its value is called; NULL: a flag */
	size_t offset;
	enum { TEXT, FLAG, LIST } type;
	bool keyed;
	const char *help;
} options[] = {
	{ "state", "DIR", offsetof(struct config, state), TEXT, false,
	  "where everything is kept (/var/lib/stillframe)" },
	{ "listen", "ADDR:PORT", offsetof(struct config, listen), TEXT, true,
	  "also serve TCP there, without encryption" },
	{ "listen-tls", "ADDR:PORT", offsetof(struct config, listen_tls), TEXT, true,
	  "also serve TLS there, the usual port being 443" },
	{ "address", "ADDR", offsetof(struct config, address), TEXT, true,
	  "at which clients reach this host (that of --listen-tls, or of the default route)" },
	{ "tls-pem", "FILE", offsetof(struct config, tls_pem), TEXT, true,
	  "its key and certificates (one that is made at the first start)" },
	{ "pam-dir", "DIR", offsetof(struct config, pam_dir), TEXT, true,
	  "where PAM finds its service `stillframe` (/etc/pam.d)" },
	{ "accel", "auto|kvm|tcg", offsetof(struct config, accel), TEXT, true,
	  "how guests are run (auto: KVM where it works)" },
	{ "vmm", "qemu|fake", offsetof(struct config, vmm), TEXT, true,
	  "what runs guests; fake runs none, for tests" },
	{ "qemu-uids", "FIRST-LAST", offsetof(struct config, qemu_uids), TEXT, true,
	  "a range of user and group ids; each VM gets one of its own" },
	{ "qemu-user", "NAME", offsetof(struct config, qemu_user), TEXT, true,
	  "one user that all VMs run as, instead" },
	{ "boot-dir", "DIR", offsetof(struct config, boot_dirs), LIST, true,
	  "a further folder for PV-kernel and PV-ramdisk; may be repeated" },
	{ "agent-interval", "SECONDS", offsetof(struct config, agent_interval), TEXT, true,
	  "how often agents in guests are asked (60; 0: only when they come)" },
	{ "test-delay", "NAME=FACTOR", offsetof(struct config, test_delays), LIST, false,
	  "for tests: a delay of base/delays.def, or all, times so much; may be repeated" },
	{ "test-clock", "FILE", offsetof(struct config, test_clock), TEXT, false,
	  "for tests: by how many seconds the day is ahead, see base/clock.h" },
	{ "foreground", NULL, offsetof(struct config, foreground), FLAG, false,
	  "stay in the foreground, log to standard error" },
	{ "model", NULL, offsetof(struct config, model), FLAG, false,
	  "print the classes and fields of the API, and end" },
};

static const struct option_row *find(const char *name, size_t n)
{
	for (size_t i = 0; i < COUNT(options); i++)
		if (strlen(options[i].name) == n && strncmp(options[i].name, name, n) == 0)
			return &options[i];
	return NULL;
}

static void set(struct task *t, struct config *c, const struct option_row *o, const char *value)
{
	void *at = (char *)c + o->offset;
	switch (o->type) {
	case TEXT:
		*(const char **)at = talloc_strdup(t, value);
		break;
	case FLAG:
		*(bool *)at = true;
		break;
	case LIST:
		list_add(t, at, value);
		break;
	}
}

static void usage(void)
{
	printf("Usage: stillframed [OPTION]...\nRuns VMs and takes snapshots of them.\n\n"
	       "  --config FILE            read options from FILE, as lines `option = value`\n");
	for (size_t i = 0; i < COUNT(options); i++)
		printf("  --%s %-*s %s\n", options[i].name, (int)(22 - strlen(options[i].name)),
		       options[i].value ? options[i].value : "", options[i].help);
	printf("  --version                print the version\n\n"
	       "A running daemon is talked to with xe.\n");
}

/* ---- the file ---- */

static int read_line(struct task *t, struct config *c, const char *path, int nr, char *line)
{
	line[strcspn(line, "#")] = 0;
	line = text_trim(line);
	char *equals = strchr(line, '=');
	if (!*line)
		return 0;
	if (!equals)
		return fail(t, INVALID_VALUE, str(t, "%s:%d", path, nr), line);
	*equals = 0;
	const char *key = text_trim(line), *value = text_trim(equals + 1);
	const struct option_row *o = find(key, strlen(key));
	if (!o || !o->keyed)
		return fail(t, INVALID_VALUE, str(t, "%s:%d", path, nr), key);
	set(t, c, o, value);
	return 0;
}

static int read_file(struct task *t, struct config *c, const char *path)
{
	char *text = file_read(t, path, CONFIG_LIMIT), *line;
	for (int nr = 1; text && (line = strsep(&text, "\n")); nr++)
		if (read_line(t, c, path, nr, line) < 0)
			return -1;
	return t->code == NO_ERROR ? 0 : -1;
}

/* ---- the command line ---- */

/* --name value or --name=value; 1: the value was the next word. */
static int read_option(struct task *t, struct config *c, const char *word, const char *next)
{
	const char *name = starts_with(word, "--") ? word + 2 : "";
	size_t n = strcspn(name, "=");
	const struct option_row *o = find(name, n);
	if (!o)
		return fail(t, INVALID_VALUE, "option", word);
	bool inline_value = name[n] == '=';
	if (o->type != FLAG && !inline_value && !next)
		return fail(t, INVALID_VALUE, "option", str(t, "%s needs a value", word));
	set(t, c, o, inline_value ? name + n + 1 : next);
	return o->type != FLAG && !inline_value;
}

static const char *config_file(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i++)
		if (streq(argv[i], "--config"))
			return argv[i + 1];
	return NULL;
}

static int read_words(struct task *t, int argc, char **argv, struct config *c)
{
	for (int i = 1; i < argc; i++) {
		if (streq(argv[i], "--config")) {
			i++;
			continue;
		}
		int used = read_option(t, c, argv[i], i + 1 < argc ? argv[i + 1] : NULL);
		if (used < 0)
			return -1;
		i += used;
	}
	return 0;
}

int config_read(struct task *t, int argc, char **argv, struct config *ret)
{
	for (int i = 1; i < argc; i++) {
		if (streq(argv[i], "--help") || streq(argv[i], "-h")) {
			usage();
			exit(0);
		}
		if (streq(argv[i], "--version")) {
			printf("stillframed %s\n", VERSION);
			exit(0);
		}
	}
	*ret = (struct config){
		.state = "/var/lib/stillframe",
		.listen = "",
		.listen_tls = "",
		.address = "",
		.tls_pem = "",
		.pam_dir = "",
		.accel = "auto",
		.vmm = "qemu",
		.qemu_uids = "",
		.qemu_user = "",
		.agent_interval = "60",
		.test_clock = "",
	};
	const char *file = config_file(argc, argv);
	if (file && read_file(t, ret, file) < 0)
		return -1;
	return read_words(t, argc, argv, ret);
}
