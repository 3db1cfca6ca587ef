// SPDX-License-Identifier: Apache-2.0
/* test_iso.c -- discs in somebody else's directory: which names are discs, what is let in, that nothing
 * is changed there, and that QEMU reads each as what it is. */
#include "sr/sr.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"
#include "unit/outcome.h"

#define UUID "7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e01"
#define OTHER "7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e02"

static char scratch[] = "/tmp/test_iso-XXXXXX";

/* ---- small helpers ---- */

static struct sr *attach(struct task *t, const char *uuid, const char *location)
{
	struct map config = { 0 };
	static const struct holder us = { "3b0f6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6a", "this",
					  "/nowhere" };
	if (location)
		map_set(t, &config, "location", location);
	return sr_open(t, &(struct sr_place){ "iso", uuid, &config, &us }, true);
}

static const char *path_of(struct task *t, const char *name)
{
	return str(t, "%s/%s", scratch, name);
}

/* A file of n bytes, each of them c. */
static void put(struct task *t, const char *name, size_t n, char c)
{
	char *bytes = talloc_array(t, char, n);
	FD_SCOPE int fd = open(path_of(t, name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	CHECK(fd >= 0);
	memset(bytes, c, n);
	CHECK(write(fd, bytes, n) == (ssize_t)n);
}

static void take(struct task *t, const char *name)
{
	CHECK(remove(path_of(t, name)) == 0);
}

static bool there(struct task *t, const struct sr *sr, const char *id)
{
	struct volumes all;
	GOOD(sr->layout->scan(t, sr, &all));
	for (size_t i = 0; i < all.n; i++)
		if (streq(all.v[i].id, id))
			return true;
	return false;
}

static size_t count(struct task *t, const struct sr *sr)
{
	struct volumes all;
	GOOD(sr->layout->scan(t, sr, &all));
	return all.n;
}

/* ---- the place ---- */

static void test_place(struct task *t)
{
	CHECK(!attach(t, UUID, NULL) && failed(t, SR_BACKEND_FAILURE_115, "location"));
	CHECK(!attach(t, UUID, "isos") && failed(t, SR_BACKEND_FAILURE_47, "absolute"));
	CHECK(!attach(t, UUID, "/no/such") && failed(t, SR_BACKEND_FAILURE_47, "No such"));
	struct sr *one = attach(t, UUID, scratch), *two = attach(t, OTHER, scratch);
	CHECK(good(t, one && two) && !one->direct && streq(one->path, scratch));
	CHECK(!one->layout->create && !one->layout->remove);
	put(t, "a.iso", 2048, 'a');
	GOOD(sr_destroy(t, one));
	CHECK(there(t, two, "a.iso"));
	take(t, "a.iso");
	CHECK(rmdir(scratch) == 0 && mkdir(scratch, 0755) == 0); /* nothing was left in it */
}

/* Whoever keeps it may be anybody; but what is no file is no disc, whatever it is called. */
static void test_whose(struct task *t)
{
	CHECK(!attach(t, UUID, "/dev") && failed(t, SR_BACKEND_FAILURE_47, "the system's"));
	CHECK(!attach(t, UUID, "/proc/self") && failed(t, SR_BACKEND_FAILURE_47, "the system's"));
	CHECK(!attach(t, UUID, "/sys/kernel") && failed(t, SR_BACKEND_FAILURE_47, "the system's"));
	CHECK(good(t, attach(t, UUID, "/usr/share")));
	CHECK(chmod(scratch, 0777) == 0 && (geteuid() != 0 || chown(scratch, 65534, 65534) == 0));
	CHECK(good(t, attach(t, UUID, scratch)));
	CHECK(chmod(scratch, 0755) == 0 && (geteuid() != 0 || chown(scratch, 0, 0) == 0));
}

/* Another folder has its name: what is there is not taken for what was. */
static void test_moved(struct task *t)
{
	struct volume v;
	struct volumes all;
	json_t *layers;
	const char *away = str(t, "%s.away", scratch);
	struct sr *sr = attach(t, UUID, scratch);
	put(t, "a.iso", 2048, 'a');
	CHECK(good(t, sr) && rename(scratch, away) == 0 && mkdir(scratch, 0755) == 0);
	put(t, "a.iso", 4096, 'b');
	CHECK(sr->layout->scan(t, sr, &all) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47, "another folder"));
	CHECK(sr->layout->stat(t, sr, "a.iso", &v) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47, "another folder"));
	CHECK(sr->layout->blockdev(t, sr, "a.iso", false, &layers) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47, "another folder"));
	take(t, "a.iso");
	CHECK(rmdir(scratch) == 0 && rename(away, scratch) == 0);
	GOOD(sr->layout->stat(t, sr, "a.iso", &v));
	CHECK(v.virtual_size == 2048);
	take(t, "a.iso");
}

static void test_read_only(struct task *t)
{
	if (mount("none", scratch, "tmpfs", 0, "size=1m") < 0) {
		printf("read-only mounts: skipped, %s\n", strerror(errno));
		return;
	}
	put(t, "a.iso", 2048, 'a');
	CHECK(mount("none", scratch, "tmpfs", MS_REMOUNT | MS_RDONLY, "size=1m") == 0);
	struct sr *sr = attach(t, UUID, scratch);
	bool right = good(t, sr && count(t, sr) == 1 && sr_destroy(t, sr) == 0);
	umount2(scratch, MNT_DETACH);
	CHECK(right);
}

/* ---- what is a disc ---- */

static void test_names(struct task *t, const struct sr *sr)
{
	static const struct {
		const char *name;
		bool disc;
	} names[] = {
		{ "debian-12.iso", true },
		{ "UPPER.ISO", true },
		{ "floppy.img", true },
		{ "with space, and comma.iso", true },
		{ "\xc3\xbc\xe4\xbd\xa0.iso", true },
		{ "quote\"and\\.iso", true },
		{ "aaaaaaaaaaaaaaaaaaaaaaaa.qcow2", false },
		{ "notes.txt", false },
		{ "iso", false },
		{ ".iso", false },
		{ ".download.iso", false },
		{ "a.iso.part", false },
		{ "latin\xfc.iso", false },
		{ "line\nbreak.iso", false },
		{ "escape\x1b[2J.iso", false },
		{ "escape\xc2\x9b"
		  "2J.iso",
		  false },
	};
	size_t discs = 0;
	for (size_t i = 0; i < COUNT(names); i++) {
		struct volume v;
		put(t, names[i].name, 2048, 'x');
		CHECK(there(t, sr, names[i].name) == names[i].disc);
		if (names[i].disc)
			GOOD(sr->layout->stat(t, sr, names[i].name, &v));
		else
			CHECK(sr->layout->stat(t, sr, names[i].name, &v) < 0 &&
			      failed(t, VDI_MISSING, UUID));
		discs += names[i].disc;
	}
	CHECK(count(t, sr) == discs);
	for (size_t i = 0; i < COUNT(names); i++)
		take(t, names[i].name);
}

static void refused(struct task *t, const struct sr *sr, const char *id, enum code code,
		    const char *part)
{
	struct volume v;
	json_t *layers;
	CHECK(!there(t, sr, id));
	CHECK(sr->layout->stat(t, sr, id, &v) < 0 && failed(t, code, part));
	CHECK(sr->layout->blockdev(t, sr, id, false, &layers) < 0 && failed(t, code, part));
}

static void test_strangers(struct task *t, const struct sr *sr)
{
	put(t, "real.iso", 2048, 'r');
	CHECK(symlink("/etc/passwd", path_of(t, "link.iso")) == 0);
	CHECK(symlink("real.iso", path_of(t, "beside.iso")) == 0);
	CHECK(mkfifo(path_of(t, "fifo.iso"), 0600) == 0);
	CHECK(mkdir(path_of(t, "folder.iso"), 0700) == 0);
	put(t, "folder.iso/inner.iso", 2048, 'i');
	put(t, "empty.iso", 0, 0);
	CHECK(count(t, sr) == 1);
	refused(t, sr, "link.iso", SR_BACKEND_FAILURE_46, "symbolic");
	refused(t, sr, "beside.iso", SR_BACKEND_FAILURE_46, "symbolic");
	refused(t, sr, "fifo.iso", SR_BACKEND_FAILURE_46, "regular");
	refused(t, sr, "folder.iso", SR_BACKEND_FAILURE_46, "regular");
	refused(t, sr, "empty.iso", SR_BACKEND_FAILURE_46, "empty");
	refused(t, sr, "folder.iso/inner.iso", VDI_MISSING, "inner");
	refused(t, sr, "../passwd.iso", VDI_MISSING, "passwd");
	refused(t, sr, "gone.iso", VDI_MISSING, UUID ", gone.iso");
	take(t, "real.iso");
	refused(t, sr, "real.iso", VDI_MISSING, "real.iso");
	take(t, "folder.iso/inner.iso");
	for (size_t i = 0; i < 5; i++)
		take(t, (const char *[]){ "link.iso", "beside.iso", "fifo.iso", "folder.iso",
					  "empty.iso" }[i]);
}

/* ---- what QEMU makes of it ---- */

static const char *node_of(struct task *t, const struct sr *sr, const char *id)
{
	json_t *layers;
	GOOD(sr->layout->blockdev(t, sr, id, true, &layers));
	CHECK(json_array_size(layers) == 1);
	json_t *layer = json_array_get(layers, 0);
	CHECK(json_is_true(json_object_get(layer, "read-only")));
	const char *node = json_string_value(json_object_get(layer, "node-name"));
	CHECK(streq(node, volume_node_named(t, sr, id)));
	return node;
}

static void test_nodes(struct task *t, const struct sr *sr)
{
	const char *name = "a name, that QEMU would never take: \xc3\xbc.iso";
	struct sr *other = attach(t, OTHER, scratch);
	put(t, name, 2048, 'a');
	put(t, "b.iso", 2048, 'b');
	const char *node = node_of(t, sr, name);
	CHECK(strlen(node) <= 31 && node[0] == 'v' && strspn(node + 1, "0123456789abcdef") == 24);
	CHECK(streq(node, node_of(t, sr, name)));
	CHECK(!streq(node, node_of(t, sr, "b.iso")) && !streq(node, node_of(t, other, name)));
	take(t, name);
	take(t, "b.iso");
}

/* The content, read by QEMU, to the size that stat told: zeros are behind a sector that is not
 * whole.  That it is a qcow2 image naming another file is nothing to anybody. */
static void reads(struct task *t, const struct sr *sr, const char *id, size_t size)
{
	struct volume v;
	char *got = talloc_zero_array(t, char, size + 512),
	     *want = talloc_zero_array(t, char, size + 512);
	const char *copy = path_of(t, "copy");
	GOOD(sr->layout->stat(t, sr, id, &v));
	CHECK(v.virtual_size == (size + 511) / 512 * 512 && streq(v.parent, ""));
	FD_SCOPE int out = open(copy, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	FD_SCOPE int in = open(path_of(t, id), O_RDONLY | O_CLOEXEC);
	CHECK(out >= 0 && read(in, want, size) == (ssize_t)size);
	GOOD(sr_export(t, sr, id, out));
	CHECK(pread(out, got, size + 512, 0) == (ssize_t)v.virtual_size);
	CHECK(memcmp(got, want, v.virtual_size) == 0);
	take(t, "copy");
}

static void test_content(struct task *t, const struct sr *sr)
{
	static const size_t sizes[] = { 1, 511, 512, 2048, 2049, 100000, 1 << 20 };
	for (size_t i = 0; i < COUNT(sizes); i++) {
		put(t, "c.iso", sizes[i], 'c');
		reads(t, sr, "c.iso", sizes[i]);
	}
	struct run r = { .argv = RUN_ARGV("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b",
					  "/etc/passwd", "-F", "raw", path_of(t, "c.iso"), "1M"),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 60000 };
	struct stat st;
	GOOD(run_ok(t, &r));
	CHECK(stat(path_of(t, "c.iso"), &st) == 0);
	reads(t, sr, "c.iso", (size_t)st.st_size);
	take(t, "c.iso");
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	CHECK(mkdtemp(scratch));
	struct task *t = task_new(NULL, "iso");
	test_place(t);
	test_whose(t);
	test_moved(t);
	test_read_only(t);
	struct sr *sr = attach(t, UUID, scratch);
	CHECK(good(t, sr));
	test_names(t, sr);
	test_strangers(t, sr);
	test_nodes(t, sr);
	test_content(t, sr);
	talloc_free(t);
	CHECK(rmdir(scratch) == 0); /* and here neither */
	return 0;
}
