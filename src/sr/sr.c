// SPDX-License-Identifier: Apache-2.0
#include "sr/sr.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "sr/attach_local.h"
#include "sr/header.h"
#include "sr/layout_file.h"
#include "sr/layout_iso.h"

const struct sr_type sr_types[] = {
	{ "file", "Disks as qcow2 files in a folder", "location", NULL, &attach_local,
	  &layout_file },
	{ "iso", "CDs as files in a folder that somebody else keeps", "location", "iso",
	  &attach_borrowed, &layout_iso },
	{ NULL },
};

const struct sr_type *sr_type_find(const char *name)
{
	for (const struct sr_type *s = sr_types; s->name; s++)
		if (streq(s->name, name))
			return s;
	return NULL;
}

static const struct sr_type *type_find(struct task *t, const char *name)
{
	const struct sr_type *found = sr_type_find(name);
	return found ? found : fail_ptr(t, SR_UNKNOWN_DRIVER, name);
}

static int check_config(struct task *t, const struct sr_type *type, const struct map *config)
{
	struct list keys = list_split(t, type->config, ' ');
	for (size_t i = 0; i < keys.n; i++) {
		const char *value = map_get(config, keys.v[i]);
		if (!value || !*value)
			return fail(t, SR_BACKEND_FAILURE_115, "",
				    str(t, "The request is missing the %s parameter", keys.v[i]),
				    "");
	}
	return 0;
}

/* ---- attaching, and letting go ---- */

static int let_go(struct sr *sr)
{
	fd_close(&sr->mark.fd);
	fd_close(&sr->folder.fd);
	return 0;
}

struct sr *sr_open(struct task *t, const struct sr_place *p, bool create)
{
	const struct sr_type *found = type_find(t, p->type);
	if (!found || check_config(t, found, p->config) < 0)
		return NULL;
	struct sr *sr = talloc_zero(t, struct sr);
	sr->uuid = talloc_strdup(sr, p->uuid);
	sr->folder.fd = sr->mark.fd = -1;
	sr->attach = found->attach;
	sr->layout = found->layout;
	talloc_set_destructor(sr, let_go);
	if (sr->attach->attach(t, sr, p, create) == 0 &&
	    (!sr->layout->tidy || sr->layout->tidy(t, sr) == 0))
		return sr;
	talloc_free(sr);
	return NULL;
}

const char *sr_probe(struct task *t, const char *type, const struct map *config)
{
	const struct sr_type *found = type_find(t, type);
	if (!found || check_config(t, found, config) < 0)
		return NULL;
	return found->attach->probe ? found->attach->probe(t, config) : "";
}

int sr_check_place(struct task *t, const struct sr *sr)
{
	return sr->attach->check(t, sr);
}

int sr_leave(struct task *t, const struct sr *sr)
{
	return sr->attach->leave ? sr->attach->leave(t, sr) : 0;
}

int sr_abandon(struct task *t, const struct sr_place *p)
{
	const struct sr_type *found = type_find(t, p->type);
	if (!found || check_config(t, found, p->config) < 0)
		return -1;
	return found->attach->abandon ? found->attach->abandon(t, p) : 0;
}

int sr_destroy(struct task *t, const struct sr *sr)
{
	struct volumes left;
	if (!sr->layout->create)
		return 0;
	if (sr->layout->scan(t, sr, &left) < 0)
		return -1;
	if (left.n)
		return fail(t, SR_NOT_EMPTY);
	return sr->attach->destroy(t, sr);
}

/* ---- its directory ---- */

int sr_directory(struct task *t, const struct sr *sr)
{
	if (sr_check_place(t, sr) < 0)
		return -1;
	int fd = openat(sr->folder.fd, ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	return fd < 0 ? folder_refuse(t, sr->path, strerror(errno)) : fd;
}

/* Not every file system has O_TMPFILE; there a kill in between leaves an empty file. */
int sr_nameless_file(struct task *t, const struct sr *sr)
{
	FD_SCOPE int dir = sr_directory(t, sr);
	if (dir < 0)
		return -1;
	int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
		return fd < 0 ? task_fail_errno(t, errno, sr->path) : fd;
	const char *name = str(t, ".import-%s", random_hex(t, 8));
	fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return task_fail_errno(t, errno, sr->path);
	unlinkat(dir, name, 0);
	return fd;
}

const char *sr_readable(struct task *t, const struct sr *sr, const char *said)
{
	size_t n = sr ? strlen(sr->reach) : 0;
	char *text = talloc_strdup(t, "");
	for (const char *at; sr && (at = strstr(said, sr->reach)); said = at + n)
		text = talloc_asprintf_append(text, "%.*s%s", (int)(at - said), said, sr->path);
	return talloc_strdup_append(text, said);
}

/* ---- volumes ---- */

int sr_refuse_layer(struct task *t)
{
	return fail(t, SR_BACKEND_FAILURE_38, "",
		    "The requested method is not supported/implemented [opterr=Raw VDI, snapshot "
		    "or "
		    "clone not permitted]",
		    "");
}

char *volume_id_new(const void *ctx)
{
	return random_hex(ctx, 12);
}

bool volume_id_ok(const char *id)
{
	return strlen(id) == 24 && strspn(id, "0123456789abcdef") == 24;
}

const char *volume_node(const void *ctx, const char *id)
{
	return str(ctx, "v%s", id);
}

const char *volume_node_named(const void *ctx, const struct sr *sr, const char *id)
{
	unsigned char hash[32];
	const char *text = str(ctx, "%s/%s", sr->uuid, id);
	gnutls_hash_fast(GNUTLS_DIG_SHA256, text, strlen(text), hash);
	char *node = talloc_strdup(ctx, "v");
	for (int i = 0; i < 12; i++)
		node = talloc_asprintf_append(node, "%02x", hash[i]);
	return node;
}

int sr_round_size(struct task *t, uint64_t *size)
{
	if (*size == 0 || *size > HEADER_SIZE_MAX)
		return fail(t, SR_BACKEND_FAILURE_79, "",
			    str(t, "VDI Invalid size [opterr=%llu bytes: must be 1 to %llu]",
				(unsigned long long)*size, (unsigned long long)HEADER_SIZE_MAX),
			    "");
	*size = (*size + 511) / 512 * 512;
	return 0;
}
