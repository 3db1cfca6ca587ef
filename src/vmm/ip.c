// SPDX-License-Identifier: Apache-2.0
#include "vmm/ip.h"

#include <string.h>

#include "base/delay.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"

enum { JSON_DEPTH = 10 };

const json_t *ip_ask(struct task *t, const char *const *argv)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = delay_ms(DELAY_IP) };
	if (run_ok(t, &r) < 0)
		return NULL;
	return *r.ret_out ? json_read(t, r.ret_out, strlen(r.ret_out), JSON_DEPTH)
			  : json_own(t, json_array());
}

const char *ip_text(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));
	return s ? s : "";
}

bool ip_has_flag(const json_t *link, const char *wanted)
{
	size_t i;
	json_t *flag;
	json_array_foreach (json_object_get(link, "flags"), i, flag)
		if (json_is_string(flag) && streq(json_string_value(flag), wanted))
			return true;
	return false;
}

bool ip_is_kind(const json_t *link, const char *kind)
{
	return link && streq(ip_text(json_object_get(link, "linkinfo"), "info_kind"), kind);
}
