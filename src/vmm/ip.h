// SPDX-License-Identifier: Apache-2.0
/* ip.h -- what ip(8) tells in JSON. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

struct task;

/* The array that `ip ...` prints, on t; NULL: failed.  argv is of RUN_ARGV(). */
const json_t *ip_ask(struct task *, const char *const *argv);

/* "" when there is no such text. */
const char *ip_text(const json_t *object, const char *key);
bool ip_has_flag(const json_t *link, const char *flag);
/* Of a link that was asked for with -details: "bridge", "tun", ... */
bool ip_is_kind(const json_t *link, const char *kind);
