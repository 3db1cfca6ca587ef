// SPDX-License-Identifier: Apache-2.0
/* fuzz_mark.c -- any bytes as the mark of an SR; what was understood is written and understood again. */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "base/task.h"
#include "base/text.h"
#include "place/mark.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct mark m, again;
	struct task *t = task_new(NULL, "fuzz");
	const char *text = talloc_memdup(t, data, n);
	if (!mark_parse(t, text, n, &m) && m.version <= MARK_VERSION) {
		const char *written = mark_text(t, &m);
		assert(!mark_parse(t, written, strlen(written), &again));
		assert(again.version == MARK_VERSION && streq(again.sr, m.sr) &&
		       streq(again.owner.uuid, m.owner.uuid) &&
		       streq(again.owner.host, m.owner.host) &&
		       streq(again.owner.state, m.owner.state));
	}
	talloc_free(t);
	return 0;
}
