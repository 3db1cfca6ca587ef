// SPDX-License-Identifier: Apache-2.0
#include "sr/sr.h"

#include "base/task.h"
#include "base/text.h"
#include "sr/attach_local.h"
#include "sr/layout_file.h"

const struct sr_type sr_types[] = {
	{ "file", "location", &attach_local, &layout_file },
	{ NULL },
};

static const struct sr_type *find(struct task *t, const char *name)
{
	for (const struct sr_type *s = sr_types; s->name; s++)
		if (streq(s->name, name))
			return s;
	return fail_ptr(t, SR_UNKNOWN_DRIVER, name);
}

struct sr *sr_open(struct task *t, const char *type, const char *uuid, const struct map *config,
		   bool create)
{
	const struct sr_type *s = find(t, type);
	if (!s)
		return NULL;
	struct sr *sr = talloc_zero(t, struct sr);
	sr->uuid = talloc_strdup(sr, uuid);
	sr->layout = s->layout;
	return s->attach->attach(t, sr, config, create) < 0 ? NULL : sr;
}

int sr_destroy(struct task *t, const char *type, struct sr *sr)
{
	const struct sr_type *s = find(t, type);
	return s ? s->attach->destroy(t, sr) : -1;
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
