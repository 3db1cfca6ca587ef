// SPDX-License-Identifier: Apache-2.0
#include "base/sync.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const names[] = {
#define SYNC(name, what, why) #name,
#include "base/sync.def"
};

enum { UNKNOWN = -2, NONE = -1 };

static int find_skipped(void)
{
	const char *name = getenv("STILLFRAME_SKIP_SYNC");
	for (size_t i = 0; name && i < sizeof names / sizeof names[0]; i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return NONE;
}

bool sync_wanted(enum sync_site site)
{
	static _Atomic int skipped = UNKNOWN; /* the environment was not read yet */
	int n = atomic_load(&skipped);
	if (n == UNKNOWN) {
		n = find_skipped();
		atomic_store(&skipped, n);
	}
	return n != (int)site;
}

int sync_file(int fd, enum sync_site site)
{
	return sync_wanted(site) ? fsync(fd) : 0;
}

int sync_data(int fd, enum sync_site site)
{
	return sync_wanted(site) ? fdatasync(fd) : 0;
}
