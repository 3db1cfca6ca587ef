// SPDX-License-Identifier: Apache-2.0
/* test_sr.c -- an SR in a directory, on each file system that this machine can mount: its mark, its
 * volumes, what lies between them, their content in and out, and no room left. */
#include "sr/sr.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/io.h"
#include "base/json.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"
#include "unit/mounted.h"
#include "unit/outcome.h"
#include "unit/rival.h"

#define UUID "7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e01"
#define OTHER "7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e02"
#define A "aaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccc"
enum { MIB = 1 << 20 };

static char scratch[] = "/tmp/test_sr-XXXXXX";

/* ---- small helpers ---- */

static void command(struct task *t, const char *const *argv)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = 60000 };
	GOOD(run_ok(t, &r));
}

static const struct holder us = { "3b0f6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6a", "this", "/nowhere" };

static struct sr *attach_type(struct task *t, const char *type, const char *uuid,
			      const char *location, bool create)
{
	struct map config = { 0 };
	if (location)
		map_set(t, &config, "location", location);
	return sr_open(t, &(struct sr_place){ type, uuid, &config, &us }, create);
}

static struct sr *attach(struct task *t, const char *uuid, const char *location, bool create)
{
	return attach_type(t, "file", uuid, location, create);
}

static const char *file_of(struct task *t, const struct sr *sr, const char *id)
{
	return str(t, "%s/%s.qcow2", sr->path, id);
}

static size_t count(struct task *t, const struct sr *sr)
{
	struct volumes all;
	GOOD(sr->layout->scan(t, sr, &all));
	return all.n;
}

/* ---- the place ---- */

static void test_config(struct task *t, const char *dir)
{
	CHECK(!attach_type(t, "tape", UUID, NULL, true) && failed(t, SR_UNKNOWN_DRIVER, "tape"));
	CHECK(!attach(t, UUID, NULL, true) && failed(t, SR_BACKEND_FAILURE_115, "location"));
	CHECK(!attach(t, UUID, "", true) && failed(t, SR_BACKEND_FAILURE_115, "location"));
	CHECK(!attach(t, UUID, "tmp", true) && failed(t, SR_BACKEND_FAILURE_47, "absolute"));
	CHECK(!attach(t, UUID, "/no/such", true) && failed(t, SR_BACKEND_FAILURE_47, "No such"));
	const char *file = str(t, "%s/file", dir);
	GOOD(file_write(t, file, "x", 0600));
	CHECK(!attach(t, UUID, file, true) && failed(t, SR_BACKEND_FAILURE_47, "not a directory"));
	GOOD(file_delete(t, file));
}

static struct sr *test_mark(struct task *t, const char *dir, bool direct)
{
	CHECK(!attach(t, UUID, dir, false) && failed(t, SR_BACKEND_FAILURE_47, "holds no SR"));
	struct sr *sr = attach(t, UUID, dir, true);
	CHECK(good(t, sr) && streq(sr->path, dir) && sr->direct == direct);
	CHECK(strstr(file_read(t, str(t, "%s/sr-uuid", dir), 1000), "uuid " UUID "\nowner "));
	CHECK(!attach(t, UUID, dir, false) && failed(t, SR_BACKEND_FAILURE_16, "holds a lock"));
	CHECK(!attach(t, OTHER, dir, false) && failed(t, SR_BACKEND_FAILURE_47, UUID));
	CHECK(!attach(t, OTHER, dir, true) && failed(t, SR_BACKEND_FAILURE_47, UUID));
	talloc_free(sr);
	talloc_free(attach(t, UUID, dir, true));
	sr = attach(t, UUID, dir, false);
	CHECK(good(t, sr));
	return sr;
}

/* What is to be done in a place that is no more what it was: all of it is refused, and nothing is there
 * afterwards. */
static void check_refused(struct task *t, const struct sr *sr, const char *why)
{
	struct volume v;
	struct volumes all;
	struct sr_check c;
	struct list ids, unfinished;
	uint64_t total, room;
	json_t *layers;
	int fd;
#define REFUSED(call) CHECK((call) < 0 && failed(t, SR_BACKEND_FAILURE_47, why))
	REFUSED(sr_check_place(t, sr));
	REFUSED(sr_directory(t, sr));
	REFUSED(sr_nameless_file(t, sr));
	REFUSED(sr->layout->scan(t, sr, &all));
	REFUSED(sr->layout->stat(t, sr, A, &v));
	REFUSED(sr->layout->space(t, sr, &total, &room));
	REFUSED(sr->layout->create(t, sr, C, "", MIB));
	REFUSED(sr->layout->create(t, sr, C, A, MIB));
	REFUSED(sr->layout->create_raw(t, sr, C, MIB));
	REFUSED(sr->layout->open(t, sr, B, true, &fd));
	REFUSED(sr->layout->share(t, sr, B, C));
	REFUSED(sr->layout->remove(t, sr, A));
	REFUSED(sr->layout->blockdev(t, sr, A, true, &layers));
	REFUSED(sr->layout->sync(t, sr, A));
	REFUSED(sr->layout->resize(t, sr, A, 2 * MIB));
	REFUSED(sr->layout->relink(t, sr, A, ""));
	REFUSED(sr->layout->merge(t, sr, &(struct sr_merge){ true, A, "" }));
	REFUSED(sr->layout->clone(t, sr, A, C));
	REFUSED(sr->layout->list(t, sr, &ids, &unfinished));
	REFUSED(sr->layout->discard(t, sr, A));
	REFUSED(sr->layout->check(t, sr, A, false, &c));
	REFUSED(sr_export(t, sr, A, -1));
	REFUSED(sr_import(t, sr, A, -1, 0));
	REFUSED(sr_copy(t, sr, A, sr, B));
	REFUSED(sr_destroy(t, sr));
#undef REFUSED
}

/* The folder is moved away, and there is another one: what was attached could be reached by its
 * descriptor, and is refused all the same. */
static void test_moved(struct task *t, const struct sr *sr)
{
	const char *away = str(t, "%s.away", sr->path);
	struct volume v;
	GOOD(sr->layout->create(t, sr, A, "", MIB));
	GOOD(sr->layout->create_raw(t, sr, B, MIB));
	if (rename(sr->path, away) < 0) { /* it is mounted there */
		CHECK(errno == EBUSY);
	} else {
		check_refused(t, sr, "No such file");
		CHECK(mkdir(sr->path, 0700) == 0);
		check_refused(t, sr, "another folder has its name");
		CHECK(rmdir(sr->path) == 0 && rename(away, sr->path) == 0);
	}
	GOOD(sr->layout->stat(t, sr, A, &v));
	GOOD(sr->layout->remove(t, sr, A));
	GOOD(sr->layout->remove(t, sr, B));
}

/* Its file system is unmounted below us, lazily, which nothing hinders; and mounted again. */
static void test_unmounted(struct task *t, const struct sr *sr)
{
	const char *image = str(t, "%s/image", scratch);
	struct volume v;
	if (!mounted)
		return;
	GOOD(sr->layout->create(t, sr, A, "", MIB));
	GOOD(sr->layout->create_raw(t, sr, B, MIB));
	CHECK(umount(sr->path) < 0 && errno == EBUSY);
	CHECK(umount2(sr->path, MNT_DETACH) == 0);
	check_refused(t, sr, "another file system is there");
	CHECK(rmdir(sr->path) == 0 && mkdir(sr->path, 0700) == 0); /* nothing was made in it */
	command(t, RUN_ARGV("mount", "-o", "loop", image, sr->path));
	GOOD(sr->layout->stat(t, sr, A, &v));
	GOOD(sr->layout->remove(t, sr, A));

	CHECK(mount("none", sr->path, "tmpfs", 0, "mode=700") == 0);
	check_refused(t, sr, "another file system is there");
	CHECK(umount(sr->path) == 0);
	GOOD(sr->layout->remove(t, sr, B));
	CHECK(count(t, sr) == 0);
}

/* Others may write there by now; the mark goes, and another one comes. */
static void test_spoilt(struct task *t, const struct sr *sr)
{
	const char *mark = str(t, "%s/sr-uuid", sr->path), *away = str(t, "%s.away", mark);
	GOOD(sr->layout->create(t, sr, A, "", MIB));
	CHECK(chmod(sr->path, 0775) == 0);
	check_refused(t, sr, "chmod go-w");
	CHECK(chmod(sr->path, 0755) == 0);
	CHECK(rename(mark, away) == 0);
	check_refused(t, sr, "sr-uuid is gone");
	GOOD(file_write(t, mark, OTHER "\n", 0600));
	check_refused(t, sr, "it names the SR " OTHER);
	CHECK(rename(away, mark) == 0);
	GOOD(sr->layout->remove(t, sr, A));
}

/* Names of what is unfinished that lead out of the SR: nothing is written there. */
static void test_links(struct task *t, const struct sr *sr)
{
	const char *outside = str(t, "%s/outside", scratch);
	const char *names[] = { A ".qcow2.new",   B ".raw.new",   C ".qcow2.new",
				".direct-io.new", ".reflink.new", "sr-uuid.new" };
	GOOD(file_write(t, outside, "precious", 0600));
	for (size_t i = 0; i < COUNT(names); i++)
		CHECK(symlink(outside, str(t, "%s/%s", sr->path, names[i])) == 0);
	GOOD(sr->layout->create(t, sr, A, "", MIB));
	GOOD(sr->layout->create_raw(t, sr, B, MIB));
	if (sr->reflink)
		GOOD(sr->layout->clone(t, sr, A, C));
	GOOD(sr_leave(t, sr));
	CHECK(streq(file_read(t, outside, 100), "precious"));
	GOOD(sr->layout->remove(t, sr, A));
	GOOD(sr->layout->remove(t, sr, B));
	GOOD(sr->layout->remove(t, sr, C));
	for (size_t i = 0; i < COUNT(names); i++)
		unlink(str(t, "%s/%s", sr->path, names[i]));
	CHECK(count(t, sr) == 0 && unlink(outside) == 0);
}

static void test_destroy(struct task *t, struct sr *sr)
{
	GOOD(sr->layout->create(t, sr, A, "", MIB));
	CHECK(sr_destroy(t, sr) < 0 && failed(t, SR_NOT_EMPTY, ""));
	GOOD(sr->layout->remove(t, sr, A));
	GOOD(sr_destroy(t, sr));
	CHECK(!attach(t, UUID, sr->path, false) && failed(t, SR_BACKEND_FAILURE_47, "holds no SR"));
}

/* ---- volumes ---- */

static void test_volumes(struct task *t, const struct sr *sr)
{
	struct volume v;
	struct stat st;
	uint64_t total, room;
	GOOD(sr->layout->space(t, sr, &total, &room));
	CHECK(total > room && room > 0);
	CHECK(count(t, sr) == 0);
	GOOD(sr->layout->create(t, sr, A, "", 8 * MIB));
	GOOD(sr->layout->create(t, sr, B, A, 16 * MIB));
	CHECK(stat(file_of(t, sr, B), &st) == 0 && (st.st_mode & 07777) == 0600);
	GOOD(sr->layout->stat(t, sr, A, &v));
	CHECK(streq(v.id, A) && streq(v.parent, "") && v.virtual_size == 8 * MIB);
	CHECK(v.physical_size > 0 && v.physical_size < MIB);
	GOOD(sr->layout->stat(t, sr, B, &v));
	CHECK(streq(v.parent, A) && v.virtual_size == 16 * MIB);
	CHECK(count(t, sr) == 2);
	GOOD(sr->layout->sync(t, sr, B));

	CHECK(sr->layout->create(t, sr, A, "", MIB) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_78, "already"));
	CHECK(sr->layout->create(t, sr, C, OTHER, MIB) < 0 && failed(t, VDI_MISSING, OTHER));
	CHECK(sr->layout->create(t, sr, "../x", "", MIB) < 0 &&
	      failed(t, INTERNAL_ERROR, "no volume"));
	CHECK(sr->layout->stat(t, sr, C, &v) < 0 && failed(t, VDI_MISSING, UUID ", " C));
	CHECK(sr->layout->stat(t, sr, "../x", &v) < 0 && failed(t, VDI_MISSING, "../x"));
	CHECK(sr->layout->sync(t, sr, C) < 0 && failed(t, VDI_MISSING, C));
	GOOD(sr->layout->remove(t, sr, B));
	GOOD(sr->layout->remove(t, sr, B));
	GOOD(sr->layout->remove(t, sr, A));
	CHECK(count(t, sr) == 0);
}

static void test_sizes(struct task *t, const struct sr *sr)
{
	static const struct {
		uint64_t asked, got;
	} sizes[] = { { 1, 512 },
		      { 512, 512 },
		      { MIB + 1, MIB + 512 },
		      { (uint64_t)64 << 40, (uint64_t)64 << 40 } };
	for (size_t i = 0; i < COUNT(sizes); i++) {
		struct volume v;
		GOOD(sr->layout->create(t, sr, A, "", sizes[i].asked));
		GOOD(sr->layout->stat(t, sr, A, &v));
		CHECK(v.virtual_size == sizes[i].got);
		GOOD(sr->layout->remove(t, sr, A));
	}
	CHECK(sr->layout->create(t, sr, A, "", 0) < 0 && failed(t, SR_BACKEND_FAILURE_79, "size"));
	CHECK(sr->layout->create(t, sr, A, "", ((uint64_t)64 << 40) + 1) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_79, "size"));
}

/* What was below the old end shows through, what is new reads as zeros, and takes no room. */
static void test_resize(struct task *t, const struct sr *sr)
{
	struct volume v;
	GOOD(sr->layout->create(t, sr, A, "", MIB));
	GOOD(sr->layout->create(t, sr, B, A, MIB));
	GOOD(sr->layout->resize(t, sr, B, (uint64_t)3 << 40));
	GOOD(sr->layout->stat(t, sr, B, &v));
	CHECK(v.virtual_size == (uint64_t)3 << 40 && streq(v.parent, A));
	CHECK(v.physical_size < 16 * MIB); /* a file system may reserve some */
	GOOD(sr->layout->stat(t, sr, A, &v));
	CHECK(v.virtual_size == MIB);
	GOOD(sr->layout->create(t, sr, C, B, MIB));
	CHECK(sr->layout->resize(t, sr, C, 2 * MIB) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_46, "smaller"));
	CHECK(sr->layout->resize(t, sr, OTHER, MIB) < 0 && failed(t, VDI_MISSING, OTHER));
	CHECK(sr->layout->resize(t, sr, A, ((uint64_t)64 << 40) + 1) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_79, "size"));
	GOOD(sr->layout->remove(t, sr, C));
	GOOD(sr->layout->remove(t, sr, B));
	GOOD(sr->layout->remove(t, sr, A));
}

/* ---- what else lies there ---- */

static void test_strangers(struct task *t, const struct sr *sr)
{
	struct volume v;
	const char *a = file_of(t, sr, A), *b = file_of(t, sr, B), *c = file_of(t, sr, C);
	const char *notes = str(t, "%s/notes.txt", sr->path);
	GOOD(file_write(t, notes, "mine", 0644));
	GOOD(file_write(t, str(t, "%s/%s.qcow2.new", sr->path, A), "half", 0600));
	GOOD(file_write(t, a, "no image", 0600));
	CHECK(symlink("/etc/passwd", b) == 0);
	CHECK(mkfifo(c, 0600) == 0);
	CHECK(count(t, sr) == 0);
	CHECK(sr->layout->stat(t, sr, A, &v) < 0 && failed(t, SR_BACKEND_FAILURE_46, "too short"));
	CHECK(sr->layout->stat(t, sr, B, &v) < 0 && failed(t, SR_BACKEND_FAILURE_46, "symbolic"));
	CHECK(sr->layout->stat(t, sr, C, &v) < 0 && failed(t, SR_BACKEND_FAILURE_46, "regular"));
	CHECK(sr->layout->create(t, sr, B, "", MIB) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_78, "already"));
	CHECK(unlink(a) == 0 && unlink(b) == 0 && unlink(c) == 0);
	command(t, RUN_ARGV("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd",
			    "-F", "raw", a, "1M"));
	CHECK(count(t, sr) == 0);
	CHECK(sr->layout->stat(t, sr, A, &v) < 0 && failed(t, SR_BACKEND_FAILURE_46, "not qcow2"));
	GOOD(sr->layout->remove(t, sr, A));

	GOOD(file_write(t, str(t, "%s/%s.qcow2.new", sr->path, A), "half", 0600));
	GOOD(file_write(t, str(t, "%s/x.qcow2.new", sr->path), "not ours", 0600));
	GOOD(sr->layout->tidy(t, sr)); /* as it is when the SR is attached */
	CHECK(!file_exists(str(t, "%s/%s.qcow2.new", sr->path, A)));
	CHECK(file_exists(str(t, "%s/x.qcow2.new", sr->path)) && file_exists(notes));
	GOOD(file_delete(t, str(t, "%s/x.qcow2.new", sr->path)));
	GOOD(file_delete(t, notes));
}

/* ---- how QEMU opens it ---- */

static void end_daemon(struct task *t, const char *pidfile)
{
	int64_t pid;
	char *text = file_read(t, pidfile, 32);
	CHECK(good(t, text));
	text[strcspn(text, "\n")] = 0;
	CHECK(text_int(text, &pid) && pid > 1 && kill((pid_t)pid, SIGTERM) == 0);
	for (int i = 0; i < 1000 && file_exists(pidfile); i++) /* it takes it away at its end */
		usleep(10000);
}

/* qemu-storage-daemon opens what it is given, one by one, in this order, and no more; it goes to
 * the background when all is open. */
static void opens(struct task *t, json_t *layers)
{
	size_t i, n = 0;
	json_t *layer;
	const char *pidfile = str(t, "%s/pid", scratch), *argv[16];
	argv[n++] = "qemu-storage-daemon";
	json_array_foreach (layers, i, layer) {
		argv[n++] = "--blockdev";
		argv[n++] = json_text(t, layer);
	}
	argv[n++] = "--daemonize";
	argv[n++] = "--pidfile";
	argv[n++] = pidfile;
	argv[n] = NULL;
	command(t, argv);
	end_daemon(t, pidfile);
}

static const char *word(json_t *layers, size_t i, const char *key)
{
	return json_string_value(json_object_get(json_array_get(layers, i), key));
}

static void test_blockdev(struct task *t, const struct sr *sr)
{
	json_t *layers;
	GOOD(sr->layout->create(t, sr, A, "", MIB));
	GOOD(sr->layout->create(t, sr, B, A, MIB));
	GOOD(sr->layout->create(t, sr, C, B, 2 * MIB));
	GOOD(sr->layout->blockdev(t, sr, C, true, &layers));
	CHECK(json_array_size(layers) == 3);
	CHECK(streq(word(layers, 0, "node-name"), "v" A) && !word(layers, 0, "backing"));
	CHECK(json_is_null(json_object_get(json_array_get(layers, 0), "backing")));
	CHECK(streq(word(layers, 1, "backing"), "v" A) && streq(word(layers, 2, "backing"), "v" B));
	for (size_t i = 0; i < 3; i++)
		CHECK(json_is_true(json_object_get(json_array_get(layers, i), "read-only")) ==
		      (i < 2));
	opens(t, layers);
	GOOD(sr->layout->blockdev(t, sr, C, false, &layers));
	CHECK(json_is_true(json_object_get(json_array_get(layers, 2), "read-only")));
	opens(t, layers);

	GOOD(sr->layout->remove(t, sr, A));
	CHECK(sr->layout->blockdev(t, sr, C, true, &layers) < 0 &&
	      failed(t, VDI_MISSING, UUID ", " A));
	command(t, RUN_ARGV("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", C ".qcow2", "-F",
			    "qcow2", file_of(t, sr, A), "1M"));
	CHECK(sr->layout->blockdev(t, sr, C, true, &layers) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_46, "circle"));
	for (size_t i = 0; i < 3; i++)
		GOOD(sr->layout->remove(t, sr, (const char *[]){ A, B, C }[i]));
}

/* ---- raw ---- */

/* What a guest wrote into it is nothing to us: not a format, and not a name of another file. */
static void test_raw(struct task *t, const struct sr *sr)
{
	struct volume v;
	struct stat st;
	json_t *layers;
	const char *raw = str(t, "%s/%s.raw", sr->path, A);
	GOOD(sr->layout->create_raw(t, sr, A, MIB + 1));
	CHECK(stat(raw, &st) == 0 && (st.st_mode & 07777) == 0600);
	GOOD(sr->layout->stat(t, sr, A, &v));
	CHECK(v.raw && streq(v.parent, "") && v.virtual_size == MIB + 512 && v.physical_size < MIB);
	CHECK(count(t, sr) == 1 && !file_exists(str(t, "%s.new", raw)));
	CHECK(sr->layout->create_raw(t, sr, A, MIB) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_78, "already"));
	CHECK(sr->layout->create(t, sr, A, "", MIB) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_78, "already"));
	CHECK(sr->layout->create(t, sr, B, A, MIB) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_38, "Raw VDI"));
	CHECK(sr->layout->create_raw(t, sr, B, 0) < 0 && failed(t, SR_BACKEND_FAILURE_79, "size"));
	CHECK(count(t, sr) == 1);

	command(t, RUN_ARGV("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd",
			    "-F", "raw", file_of(t, sr, C), "64M"));
	command(t, RUN_ARGV("dd", "status=none", "conv=notrunc", str(t, "if=%s", file_of(t, sr, C)),
			    str(t, "of=%s", raw)));
	GOOD(sr->layout->remove(t, sr, C));
	GOOD(sr->layout->stat(t, sr, A, &v));
	CHECK(v.raw && v.virtual_size == MIB + 512);
	GOOD(sr->layout->blockdev(t, sr, A, true, &layers));
	CHECK(json_array_size(layers) == 1 && streq(word(layers, 0, "driver"), "raw"));
	CHECK(!json_object_get(json_array_get(layers, 0), "backing"));
	opens(t, layers);
	GOOD(sr->layout->resize(t, sr, A, 5 * MIB));
	GOOD(sr->layout->stat(t, sr, A, &v));
	CHECK(v.virtual_size == 5 * MIB && stat(raw, &st) == 0 && st.st_size == 5 * MIB);
	GOOD(sr->layout->sync(t, sr, A));

	GOOD(sr->layout->create(t, sr, B, "", MIB));
	CHECK(sr->layout->relink(t, sr, B, A) < 0 && failed(t, SR_BACKEND_FAILURE_38, "Raw VDI"));
	CHECK(sr->layout->relink(t, sr, A, "") < 0 && failed(t, SR_BACKEND_FAILURE_38, "Raw VDI"));
	CHECK(sr->layout->clone(t, sr, A, C) < 0 && failed(t, SR_BACKEND_FAILURE_38, "Raw VDI"));
	CHECK(sr->layout->merge(t, sr, &(struct sr_merge){ false, A, "" }) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_38, "Raw VDI"));
	GOOD(sr->layout->remove(t, sr, B));

	/* A name in a header means an image in the format of layers, and nothing else. */
	command(t, RUN_ARGV("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", A ".qcow2", "-F",
			    "qcow2", file_of(t, sr, B), "1M"));
	CHECK(sr->layout->blockdev(t, sr, B, true, &layers) < 0 && failed(t, VDI_MISSING, A));
	/* Both kinds by one id: the one in the format of layers. */
	command(t, RUN_ARGV("cp", raw, str(t, "%s/%s.raw", sr->path, B)));
	CHECK(count(t, sr) == 2);
	GOOD(sr->layout->stat(t, sr, B, &v));
	CHECK(!v.raw);
	GOOD(sr->layout->remove(t, sr, B));
	CHECK(count(t, sr) == 1);
	GOOD(sr->layout->remove(t, sr, A));
	CHECK(count(t, sr) == 0 && !file_exists(raw));

	CHECK(symlink("/etc/passwd", raw) == 0);
	GOOD(file_write(t, str(t, "%s.new", raw), "half", 0600));
	CHECK(count(t, sr) == 0);
	CHECK(sr->layout->stat(t, sr, A, &v) < 0 && failed(t, SR_BACKEND_FAILURE_46, "symbolic"));
	CHECK(unlink(raw) == 0);
	GOOD(file_write(t, raw, "short", 0600));
	CHECK(sr->layout->stat(t, sr, A, &v) < 0 && failed(t, SR_BACKEND_FAILURE_46, "multiple"));
	CHECK(unlink(raw) == 0 && sr->layout->tidy(t, sr) == 0);
	CHECK(!file_exists(str(t, "%s.new", raw)));
}

/* ---- content ---- */

/* Bytes that are a function of their place and of what; a few MiB of zeros among them. */
static char *pattern(struct task *t, size_t n, unsigned what)
{
	char *s = talloc_zero_array(t, char, n);
	for (size_t i = 0; i < n; i++)
		if (i / MIB % 2 == 0)
			s[i] = (char)((i * 2654435761u + what) >> 13);
	return s;
}

struct feed {
	pthread_t thread;
	int fd, source;
	const char *from;
	size_t n;
	bool stay; /* does not close at the end */
};

static void *feeding(void *arg)
{
	struct feed *f = arg;
	for (size_t done = 0; done < f->n;) {
		ssize_t put = write(f->fd, f->from + done, f->n - done);
		if (put < 0)
			break;
		done += (size_t)put;
	}
	if (!f->stay)
		close(f->fd);
	return NULL;
}

/* A pipe from which n bytes come. */
static void feed_start(struct feed *f, const char *from, size_t n, bool stay)
{
	int p[2];
	CHECK(pipe2(p, O_CLOEXEC) == 0);
	*f = (struct feed){ .fd = p[1], .source = p[0], .from = from, .n = n, .stay = stay };
	CHECK(pthread_create(&f->thread, NULL, feeding, f) == 0);
}

static void feed_end(struct feed *f)
{
	close(f->source);
	pthread_join(f->thread, NULL);
	if (f->stay)
		close(f->fd);
}

static int import(struct task *t, const struct sr *sr, const char *id, const char *from, size_t n,
		  uint64_t expected)
{
	struct feed f;
	feed_start(&f, from, n, false);
	int result = sr_import(t, sr, id, f.source, expected);
	feed_end(&f);
	return result;
}

struct drain {
	pthread_t thread;
	int fd;
	const char *wanted;
	size_t n, got;
	bool equal;
};

static void *draining(void *arg)
{
	struct drain *d = arg;
	char buf[65536];
	d->equal = true;
	for (ssize_t got; (got = read(d->fd, buf, sizeof buf)) > 0; d->got += (size_t)got)
		if (d->got + (size_t)got > d->n || memcmp(buf, d->wanted + d->got, (size_t)got))
			d->equal = false;
	return NULL;
}

static bool exports(struct task *t, const struct sr *sr, const char *id, const char *wanted,
		    size_t n)
{
	int p[2];
	CHECK(pipe2(p, O_CLOEXEC) == 0);
	struct drain d = { .fd = p[0], .wanted = wanted, .n = n };
	CHECK(pthread_create(&d.thread, NULL, draining, &d) == 0);
	GOOD(sr_export(t, sr, id, p[1]));
	CHECK(!(fcntl(p[1], F_GETFL) & O_NONBLOCK)); /* as it was before */
	close(p[1]);
	pthread_join(d.thread, NULL);
	close(p[0]);
	return d.got == n && d.equal;
}

/* All that the layers show becomes one volume, in which zeros and holes of theirs take no room. */
static void test_copy(struct task *t, const struct sr *sr, const char *content, size_t size)
{
	struct volume v;
	GOOD(sr->layout->create(t, sr, C, "", size));
	GOOD(sr_copy(t, sr, B, sr, C));
	CHECK(exports(t, sr, C, content, size) && exports(t, sr, B, content, size));
	GOOD(sr->layout->stat(t, sr, C, &v));
	CHECK(!*v.parent && v.physical_size < size * 3 / 4);
	command(t, RUN_ARGV("qemu-img", "check", "-q", "-f", "qcow2", file_of(t, sr, C)));
	GOOD(sr->layout->remove(t, sr, C));
	CHECK(sr_copy(t, sr, B, sr, C) < 0 && failed(t, VDI_MISSING, C));
	CHECK(sr_copy(t, sr, C, sr, B) < 0 && failed(t, VDI_MISSING, C));

	GOOD(sr->layout->create(t, sr, C, "", size / 2));
	CHECK(sr_copy(t, sr, B, sr, C) < 0 && failed(t, SR_BACKEND_FAILURE_46, C));
	GOOD(sr->layout->remove(t, sr, C));
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD); /* no program is left over */
}

static void test_content(struct task *t, const struct sr *sr)
{
	struct volume v;
	enum { SIZE = 8 * MIB, ODD = 3 * MIB + 777 };
	char *first = pattern(t, SIZE, 1), *second = pattern(t, SIZE, 2);
	GOOD(sr->layout->create(t, sr, A, "", SIZE));
	GOOD(import(t, sr, A, first, SIZE, SIZE));
	CHECK(exports(t, sr, A, first, SIZE));
	GOOD(sr->layout->stat(t, sr, A, &v));
	/* Half is zeros, which stay holes; XFS sets some more aside. */
	CHECK(v.physical_size >= SIZE / 2 && v.physical_size < SIZE * 3 / 4);

	/* A layer: shorter data leaves the rest as it was; zeros hide what is below. */
	GOOD(sr->layout->create(t, sr, B, A, SIZE));
	CHECK(exports(t, sr, B, first, SIZE));
	GOOD(import(t, sr, B, second, ODD, 0));
	char *both = talloc_memdup(t, first, SIZE);
	memcpy(both, second, ODD);
	CHECK(exports(t, sr, B, both, SIZE) && exports(t, sr, A, first, SIZE));
	memset(both, 0, MIB);
	GOOD(import(t, sr, B, both, MIB, MIB));
	CHECK(exports(t, sr, B, both, SIZE));
	test_copy(t, sr, both, SIZE);

	/* From and to files. */
	const char *raw = str(t, "%s/raw", scratch);
	FD_SCOPE int fd = open(raw, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	GOOD(sr_export(t, sr, B, fd));
	CHECK(lseek(fd, 0, SEEK_CUR) == SIZE && lseek(fd, 0, SEEK_SET) == 0);
	GOOD(sr_import(t, sr, A, fd, 0));
	CHECK(exports(t, sr, A, both, SIZE));
	command(t, RUN_ARGV("qemu-img", "check", "-q", "-f", "qcow2", file_of(t, sr, A)));
	command(t, RUN_ARGV("qemu-img", "check", "-q", "-f", "qcow2", file_of(t, sr, B)));
	CHECK(unlink(raw) == 0);
	GOOD(sr->layout->remove(t, sr, B));
}

/* In and out, and to a volume in the format of layers and back. */
static void test_raw_content(struct task *t, const struct sr *sr)
{
	enum { SIZE = 8 * MIB };
	struct volume v;
	char *first = pattern(t, SIZE, 6), *second = pattern(t, SIZE, 7);
	GOOD(sr->layout->create_raw(t, sr, C, SIZE));
	GOOD(import(t, sr, C, first, SIZE, SIZE));
	CHECK(exports(t, sr, C, first, SIZE));
	GOOD(sr->layout->stat(t, sr, C, &v));
	CHECK(v.physical_size >= SIZE / 2 && v.physical_size < SIZE * 3 / 4);
	GOOD(sr->layout->create(t, sr, B, "", SIZE));
	GOOD(sr_copy(t, sr, C, sr, B));
	CHECK(exports(t, sr, B, first, SIZE));
	GOOD(import(t, sr, B, second, SIZE, SIZE));
	GOOD(sr_copy_over(t, sr, B, sr, C));
	CHECK(exports(t, sr, C, second, SIZE));
	GOOD(sr->layout->remove(t, sr, C));
	GOOD(sr->layout->create_raw(t, sr, C, SIZE));
	GOOD(sr_copy(t, sr, B, sr, C));
	CHECK(exports(t, sr, C, second, SIZE));
	GOOD(sr->layout->stat(t, sr, C, &v));
	CHECK(v.raw && v.physical_size < SIZE * 3 / 4);
	GOOD(sr->layout->remove(t, sr, C));
	GOOD(sr->layout->remove(t, sr, B));
}

static void test_streams_that_lie(struct task *t, const struct sr *sr)
{
	enum { SIZE = 8 * MIB };
	char *data = pattern(t, SIZE + 1, 3);
	CHECK(import(t, sr, A, data, SIZE + 1, 0) < 0 && failed(t, VDI_TOO_SMALL, A ", 8388609"));
	CHECK(sr_import(t, sr, A, -1, SIZE + 5) < 0 && failed(t, VDI_TOO_SMALL, A ", 8388613"));
	CHECK(import(t, sr, A, data, MIB, 2 * MIB) < 0 && failed(t, IMPORT_ERROR, "ended after"));
	CHECK(import(t, sr, A, data, 0, 0) == 0);
	CHECK(import(t, sr, C, data, 0, 0) < 0 && failed(t, VDI_MISSING, C));

	int p[2]; /* nobody reads */
	CHECK(pipe2(p, O_CLOEXEC) == 0);
	close(p[0]);
	CHECK(sr_export(t, sr, A, p[1]) < 0 && failed(t, INTERNAL_ERROR, "Broken pipe"));
	close(p[1]);
}

static void *interrupt_soon(void *task)
{
	usleep(300000);
	task_interrupt(task);
	return NULL;
}

/* A stream that pauses does not hold up the cancel, and no program outlives it. */
static void test_cancel(struct task *parent, const struct sr *sr)
{
	struct task *t = task_new(parent, "cancelled");
	struct feed f;
	pthread_t thread;
	char *data = pattern(t, MIB, 4);
	t->cancellable = true;
	feed_start(&f, data, MIB, true);
	CHECK(pthread_create(&thread, NULL, interrupt_soon, t) == 0);
	int64_t begun = clock_ms();
	CHECK(sr_import(t, sr, A, f.source, 0) < 0 && failed(t, TASK_CANCELLED, ""));
	CHECK(clock_ms() - begun < 5000);
	pthread_join(thread, NULL);
	feed_end(&f);
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
	talloc_free(t);
	t = parent;
	GOOD(import(t, sr, A, "x", 1, 1)); /* nothing has the volume open any more */
}

static void test_in_use(struct task *t, const struct sr *sr)
{
	struct rival rival = rival_opens(t, true, file_of(t, sr, A));
	CHECK(import(t, sr, A, "x", 1, 0) < 0 && failed(t, SR_BACKEND_FAILURE_46, "lock"));
	rival_ends(&rival);
	GOOD(import(t, sr, A, "x", 1, 0));
	GOOD(sr->layout->remove(t, sr, A));
}

/* ---- no room ---- */

static struct sr *test_full(struct task *t, struct sr *sr)
{
	char *data = pattern(t, 32 * MIB, 5);
	for (size_t i = 0; i < 32 * MIB; i++)
		data[i] |= 1;
	GOOD(sr->layout->create(t, sr, A, "", 32 * MIB));
	CHECK(import(t, sr, A, data, 32 * MIB, 0) < 0 && failed(t, SR_BACKEND_FAILURE_44, "space"));
	GOOD(sr->layout->remove(t, sr, A));
	GOOD(sr->layout->create(t, sr, A, "", 32 * MIB));
	GOOD(import(t, sr, A, data, 8 * MIB, 0));
	GOOD(sr->layout->create(t, sr, B, "", 32 * MIB));
	CHECK(sr_copy(t, sr, A, sr, B) < 0 && failed(t, SR_BACKEND_FAILURE_44, "space"));
	GOOD(sr->layout->remove(t, sr, B));

	const char *filler = str(t, "%s/filler", sr->path);
	FD_SCOPE int fd = open(filler, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	while (write(fd, data, 4096) > 0)
		;
	CHECK(sr->layout->create(t, sr, B, A, 32 * MIB) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_44, "space"));
	CHECK(!file_exists(file_of(t, sr, B)));
	CHECK(!file_exists(str(t, "%s/%s.qcow2.new", sr->path, B)));
	bool direct = sr->direct;
	const char *dir = talloc_strdup(t, sr->path);
	talloc_free(sr);
	sr = attach(t, UUID, dir, false);
	CHECK(good(t, sr) && sr->direct == direct); /* no room is no reason against it */
	GOOD(sr->layout->remove(t, sr, A));
	CHECK(unlink(filler) == 0);
	return sr;
}

/* ---- file systems ---- */

static void test_place(const char *name, const char *dir, bool direct, bool small)
{
	struct task *t = task_new(NULL, name);
	test_config(t, dir);
	struct sr *sr = test_mark(t, dir, direct);
	if (small) {
		sr = test_full(t, sr);
	} else {
		test_moved(t, sr);
		test_unmounted(t, sr);
		test_spoilt(t, sr);
		test_links(t, sr);
		test_volumes(t, sr);
		test_sizes(t, sr);
		test_resize(t, sr);
		test_strangers(t, sr);
		test_blockdev(t, sr);
		test_raw(t, sr);
		test_content(t, sr);
		test_raw_content(t, sr);
		test_streams_that_lie(t, sr);
		test_cancel(t, sr);
		test_in_use(t, sr);
	}
	test_destroy(t, sr);
	printf("%s: good, direct=%d\n", name, direct);
	talloc_free(t);
}

static const struct fs file_systems[] = {
	{ "full ext4", "mkfs.ext4", "-q", 16, true, true },
	{ "xfs", "mkfs.xfs", "-q", 320, true, false },
	{ "btrfs", "mkfs.btrfs", "-q", 160, false, false },
};

static void test_mounted(const struct fs *f, const char *dir)
{
	test_place(f->name, dir, f->direct, f->small);
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	CHECK(mkdtemp(scratch));
	atexit(unmount);
	setenv("STILLFRAME_DELAYS", "sr-lock=0.02", 1);
	struct task *t = task_new(NULL, "where");
	const char *plain = str(t, "%s/plain", scratch);
	GOOD(dir_make(t, plain, 0700));
	struct sr *sr = attach(t, UUID, plain, true);
	CHECK(good(t, sr) && sr_destroy(t, sr) == 0);
	bool direct = sr->direct;
	talloc_free(sr);
	test_place("/tmp", plain, direct, false);
	CHECK(rmdir(plain) == 0);
	talloc_free(t);
	for (size_t i = 0; i < COUNT(file_systems) && geteuid() == 0; i++)
		with_mounted(scratch, &file_systems[i], test_mounted);
	if (geteuid() != 0)
		printf("other file systems: skipped, mounting them takes root\n");
	CHECK(rmdir(scratch) == 0);
	return 0;
}
