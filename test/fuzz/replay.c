// SPDX-License-Identifier: Apache-2.0
/* replay.c -- what a fuzz target is linked with where there is no libFuzzer: it is given each file of a folder, in
 * the order of their names.
 *
 *     fuzz_NAME FOLDER
 *
 * A file's name is printed before it is read: the last one is whose input ended the program.  Limits are as in
 * run, beside this file. */
#include <dirent.h>
#include <stdint.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/text.h"
#include "unit/check.h"

enum { SECONDS = 10, MEMORY = 1024 /* MiB */ };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The sanitizers ask these for their defaults; the environment goes before.  The limit of one allocation is there
 * because memory that nobody has touched yet is not counted. */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);

const char *__asan_default_options(void)
{
	return "hard_rss_limit_mb=1024:max_allocation_size_mb=1024:allocator_may_return_null=0";
}

const char *__ubsan_default_options(void)
{
	return "halt_on_error=1:print_stacktrace=1";
}

/* In memory that ends where it ends, so that a byte read behind it is found. */
static uint8_t *read_file(const char *folder, const char *name, size_t *ret)
{
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "r");
	CHECK(f && fseek(f, 0, SEEK_END) == 0);
	long n = ftell(f);
	CHECK(n >= 0 && fseek(f, 0, SEEK_SET) == 0);
	uint8_t *data = malloc((size_t)n);
	CHECK(fread(data, 1, (size_t)n, f) == (size_t)n);
	fclose(f);
	*ret = (size_t)n;
	return data;
}

static void replay(const char *folder, const char *name)
{
	size_t n;
	uint8_t *data = read_file(folder, name, &n);
	struct rusage used;
	puts(name);
	fflush(stdout);
	alarm(SECONDS);
	LLVMFuzzerTestOneInput(data, n);
	alarm(0);
	CHECK(getrusage(RUSAGE_SELF, &used) == 0 && used.ru_maxrss / 1024 < MEMORY);
	free(data);
}

static int is_input(const struct dirent *e)
{
	return *e->d_name != '.';
}

int main(int argc, char **argv)
{
	struct dirent **inputs;
	CHECK(argc == 2);
	int n = scandir(argv[1], &inputs, is_input, alphasort);
	CHECK(n > 0);
	for (int i = 0; i < n; i++) {
		replay(argv[1], inputs[i]->d_name);
		free(inputs[i]);
	}
	free(inputs);
	printf("%d inputs\n", n);
	return 0;
}
