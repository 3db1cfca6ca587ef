// SPDX-License-Identifier: Apache-2.0
/* fuzz_efivars.c -- any bytes as a flash image and as a blob; what was understood survives being written. */
#include <assert.h>
#include <string.h>

#include "api/efivars.h"
#include "base/task.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { LASTS = 1 };

static size_t lasting(const struct efivars *all)
{
	size_t n = 0;
	for (size_t i = 0; i < all->n; i++)
		n += all->v[i].attributes & LASTS;
	return n;
}

static void write_and_read(struct task *t, const struct efivars *all)
{
	size_t n;
	struct efivars again;
	uint8_t *blob = efivars_write_blob(t, all, &n);
	assert(efivars_read_blob(t, blob, n, &again) == 0 && again.n == lasting(all));
}

/* The checksum of the volume's header is made right, so that more than it is looked at. */
static void as_image(struct task *t, const uint8_t *data, size_t n)
{
	struct efivars all, again;
	uint8_t *image = talloc_memdup(t, data, n);
	uint16_t sum = 0, word;
	for (size_t i = 0; n >= 72 && i < 72; i += sizeof word) {
		memcpy(&word, image + i, sizeof word);
		sum = (uint16_t)(sum + (i == 50 ? 0 : word));
	}
	sum = (uint16_t)-sum;
	if (n >= 72)
		memcpy(image + 50, &sum, sizeof sum);
	if (efivars_read_image(t, image, n, &all) < 0)
		return;
	write_and_read(t, &all);
	const struct efivars none = { 0 };
	if (efivars_put(t, image, n, &none) == 0)
		assert(efivars_read_image(t, image, n, &again) == 0 && again.n == all.n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct efivars all;
	struct task *t = task_new(NULL, "fuzz");
	const uint8_t *blob = talloc_memdup(t, data, n);
	if (efivars_read_blob(t, blob, n, &all) == 0)
		write_and_read(t, &all);
	task_forgive(t);
	as_image(t, data, n);
	talloc_free(t);
	return 0;
}
