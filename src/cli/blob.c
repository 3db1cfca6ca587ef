// SPDX-License-Identifier: Apache-2.0
/* blob.c -- what else is kept here for clients: bytes with an object, and secrets. */
#include "cli/cli.h"

static command_fn create, get, put, destroy, secret_new, secret_drop;

const struct command commands_blob[] = {
	{ "blob-create", create, 0, "name",
	  "mime-type,vm-uuid,host-uuid,sr-uuid,network-uuid,pool-uuid,public",
	  "Makes an empty blob under a name of an object's; prints its uuid." },
	{ "blob-get", get, 0, "uuid,filename", "", "Writes a blob's bytes into a new file." },
	{ "blob-put", put, 0, "uuid,filename", "", "Replaces a blob's bytes by those of a file." },
	{ "blob-destroy", destroy, 0, "uuid", "", "Deletes a blob." },
	{ "secret-create", secret_new, 0, "value", "",
	  "Keeps a text that only pool operators can read; prints its uuid." },
	{ "secret-destroy", secret_drop, 0, "uuid", "", "Forgets a secret." },
	{ 0 },
};

/* The new blob's ref; NULL: failed. */
#define HOLDER(class, arg_)                                                                        \
	static const char *make_at_##class(struct cli * c, const char *ref, bool public)           \
	{                                                                                          \
		struct class##_create_new_blob a = {                                               \
			.arg_ = ref,                                                               \
			.name = cli_arg(c, "name"),                                                \
			.mime_type = cli_arg_or(c, "mime-type", ""),                               \
			.public = public,                                                          \
		};                                                                                 \
		return cli_call(c, class##_create_new_blob, &a) < 0 ? NULL : a.result;             \
	}
HOLDER(VM, vm)
HOLDER(host, host)
HOLDER(SR, sr)
HOLDER(network, network)
HOLDER(pool, pool)

static const struct {
	const char *param;
	const struct class *class;
	const char *(*make)(struct cli *, const char *ref, bool public);
} holders[] = {
	{ "vm-uuid", &class_VM, make_at_VM },
	{ "host-uuid", &class_host, make_at_host },
	{ "sr-uuid", &class_SR, make_at_SR },
	{ "network-uuid", &class_network, make_at_network },
	{ "pool-uuid", &class_pool, make_at_pool },
};

static int create(struct cli *c)
{
	bool public = false;
	if (cli_bool(c, "public", &public) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(holders); i++) {
		if (!cli_arg(c, holders[i].param))
			continue;
		struct row *r = cli_object_row(c, holders[i].class, holders[i].param);
		const char *blob = r ? holders[i].make(c, r->ref, public) : NULL;
		return blob ? cli_uuid(c, &class_blob, blob) : -1;
	}
	return cli_fail(c, "Required parameter not found: vm-uuid, host-uuid, sr-uuid, "
			   "network-uuid or pool-uuid.");
}

static const char *path_of(struct cli *c)
{
	struct blob_row *b = cli_object(c, blob, "uuid");
	return b ? cli_path(c, "/blob", "uuid", b->uuid) : NULL;
}

static int get(struct cli *c)
{
	const char *path = path_of(c);
	return path ? cli_transferred(c, thin_get(c->thin, cli_arg(c, "filename"), path)) : -1;
}

static int put(struct cli *c)
{
	const char *path = path_of(c);
	return path ? cli_transferred(c, thin_put(c->thin, cli_arg(c, "filename"), path)) : -1;
}

static int destroy(struct cli *c)
{
	struct blob_row *b = cli_object(c, blob, "uuid");
	return b ? cli_call(c, blob_destroy, (&(struct blob_destroy){ .self = b->row.ref })) : -1;
}

static int secret_new(struct cli *c)
{
	struct secret_create a = { .value = cli_arg(c, "value") };
	if (cli_call(c, secret_create, &a) < 0)
		return -1;
	return cli_uuid(c, &class_secret, a.result);
}

static int secret_drop(struct cli *c)
{
	struct secret_row *s = cli_object(c, secret, "uuid");
	return s ? cli_call(c, secret_destroy, (&(struct secret_destroy){ .self = s->row.ref }))
		 : -1;
}
