// SPDX-License-Identifier: Apache-2.0
#include "stillframed/users.h"

#include <errno.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/settings.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "stillframed/config.h"

/* Far above what distributions, containers and directory services give away, below 2^31. */
#define RANGE "2113929216-2113994751"

static void use(uid_t uid, gid_t gid, unsigned n)
{
	settings.qemu_uid = uid;
	settings.qemu_gid = gid;
	settings.qemu_uids = n;
}

static int use_name(struct task *t, const char *name)
{
	struct passwd *p = getpwnam(name);
	if (!p || p->pw_uid == 0)
		return fail(t, INVALID_VALUE, "qemu-user", name);
	use(p->pw_uid, p->pw_gid, 1);
	return 0;
}

/* In a user namespace only some ids exist: setting others fails. */
static bool is_mapped(const char *map, int64_t first, int64_t last)
{
	FILE *f = fopen(map, "re");
	int64_t inside, outside, n;
	bool found = !f;
	while (f && !found &&
	       fscanf(f, "%" SCNd64 "%" SCNd64 "%" SCNd64, &inside, &outside, &n) == 3)
		found = first >= inside && last < inside + n;
	if (f)
		fclose(f);
	return found;
}

static int use_range(struct task *t, const char *range)
{
	int64_t first, last;
	struct list ends = list_split(t, range, '-');
	if (ends.n != 2 || !text_int(ends.v[0], &first) || !text_int(ends.v[1], &last) ||
	    first < 1 || last <= first || last >= INT32_MAX)
		return fail(t, INVALID_VALUE, "qemu-uids", range);
	if (is_mapped("/proc/self/uid_map", first, last) &&
	    is_mapped("/proc/self/gid_map", first, last)) {
		use((uid_t)first, (gid_t)first, (unsigned)(last - first + 1));
		return 0;
	}
	log_line(t, "all vms share a user range=%s because=\"the ids are not mapped here\"", range);
	return use_name(t, "nobody");
}

int users_set(struct task *t, const struct config *c)
{
	if (getuid() != 0) {
		use(getuid(), getgid(), 1);
		return 0;
	}
	if (*c->qemu_user)
		return use_name(t, c->qemu_user);
	return use_range(t, *c->qemu_uids ? c->qemu_uids : RANGE);
}

void users_share_userfaultfd(struct task *t)
{
	static const char node[] = "/dev/userfaultfd";
	if (getuid() != 0)
		return;
	if (chown(node, 0, settings.qemu_gid) < 0 || chmod(node, 0660) < 0)
		log_line(t, "memory snapshots will be slow node=%s error=\"%s\"", node,
			 strerror(errno));
}
