// SPDX-License-Identifier: Apache-2.0
/* test_sr_merge.c -- layers of an SR in a directory become one, offline, and files share their blocks, on each
 * file system that this machine can mount: what every volume shows before and after, when it is cancelled, killed
 * at any moment, and when there is no room. */
#include "sr/sr.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"
#include "unit/mounted.h"
#include "unit/outcome.h"
#include "unit/rival.h"

#define UUID "7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e01"
#define A "aaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccc"
#define D "dddddddddddddddddddddddd"
#define E "eeeeeeeeeeeeeeeeeeeeeeee"
#define F "ffffffffffffffffffffffff"
enum { MIB = 1 << 20, KILLS = 5 };

static char scratch[] = "/tmp/test_sr_merge-XXXXXX";

/* ---- small helpers ---- */

static const char *command(struct task *t, const char *const *argv)
{
	struct run r = { .argv = argv, .in = -1, .out = -1, .timeout_ms = 60000 };
	GOOD(run_ok(t, &r));
	return r.ret_out;
}

static struct sr *attach(struct task *t, const char *location, bool create)
{
	struct map config = { 0 };
	map_set(t, &config, "location", location);
	static const struct holder us = { "3b0f6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6a", "this",
					  "/nowhere" };
	struct sr *sr = sr_open(t, &(struct sr_place){ "file", UUID, &config, &us }, create);
	CHECK(good(t, sr));
	return sr;
}

static const char *file_of(struct task *t, const struct sr *sr, const char *id)
{
	return str(t, "%s/%s.qcow2", sr->path, id);
}

static void draw(struct task *t, const struct sr *sr, const char *id, const char *write)
{
	command(t, RUN_ARGV("qemu-io", "-f", "qcow2", "-c", write, file_of(t, sr, id)));
}

static const char *sum(struct task *t, const struct sr *sr, const char *id)
{
	return command(t, RUN_ARGV("sha256sum", file_of(t, sr, id)));
}

/* ---- what volumes show ---- */

static const char *reference(struct task *t, const char *id)
{
	return str(t, "%s/%s.raw", scratch, id);
}

static void remember(struct task *t, const struct sr *sr, const char *id)
{
	command(t, RUN_ARGV("qemu-img", "convert", "-f", "qcow2", "-O", "raw", file_of(t, sr, id),
			    reference(t, id)));
}

/* The volume shows what the other one did when that was remembered, and has its size. */
static bool shows(struct task *t, const struct sr *sr, const char *id, const char *what)
{
	struct volume v;
	struct stat st;
	struct run r = { .argv = RUN_ARGV("qemu-img", "compare", "-f", "qcow2", "-F", "raw",
					  file_of(t, sr, id), reference(t, what)),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 60000 };
	CHECK(stat(reference(t, what), &st) == 0);
	if (sr->layout->stat(t, sr, id, &v) == 0 && v.virtual_size == (uint64_t)st.st_size &&
	    run_ok(t, &r) == 0)
		return true;
	fprintf(stderr, "%s: %s %s\n", id, r.ret_out ? r.ret_out : "", task_error(t));
	return false;
}

static const char *parent_of(struct task *t, const struct sr *sr, const char *id)
{
	struct volume v;
	GOOD(sr->layout->stat(t, sr, id, &v));
	return v.parent;
}

static bool sound(struct task *t, const struct sr *sr, const char *id)
{
	struct run r = { .argv = RUN_ARGV("qemu-img", "check", "-q", "-f", "qcow2",
					  file_of(t, sr, id)),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 60000 };
	GOOD(run(t, &r));
	return r.ret_status == 0 || r.ret_status == 3; /* 3: clusters that nothing uses */
}

/* A <-- B <-- C <-- D <-- E, each with data, zeros and holes of its own; D is larger than what is below it, and has
 * data behind their end. */
static const char *const chain[] = { A, B, C, D, E };

static void build(struct task *t, const struct sr *sr)
{
	static const struct {
		int size;
		const char *writes[4];
	} layers[] = {
		{ 8, { "write -P 1 0 5M", "write -P 11 7M 1M" } },
		{ 8, { "write -P 2 1M 1M", "write -P 22 4500k 3k", "write -z 2M 1M" } },
		{ 8, { "write -P 3 1500k 1M", "write -z 0 256k", "write -P 33 7900k 200k" } },
		{ 16, { "write -P 4 3M 64k", "write -P 44 12M 1M", "write -z 4M 200k" } },
		{ 16, { "write -P 5 3M 4k", "write -P 55 13M 777" } },
	};
	for (size_t i = 0; i < COUNT(chain); i++) {
		GOOD(sr->layout->create(t, sr, chain[i], i ? chain[i - 1] : "",
					(uint64_t)layers[i].size * MIB));
		for (size_t k = 0; k < 4 && layers[i].writes[k]; k++)
			draw(t, sr, chain[i], layers[i].writes[k]);
	}
	for (size_t i = 0; i < COUNT(chain); i++)
		remember(t, sr, chain[i]);
}

static void clear(struct task *t, const struct sr *sr)
{
	struct volumes all;
	GOOD(sr->layout->scan(t, sr, &all));
	for (size_t i = 0; i < all.n; i++)
		GOOD(sr->layout->remove(t, sr, all.v[i].id));
}

struct shown {
	struct task_sink sink;
	double last;
};

static void show(struct task_sink *sink, double fraction)
{
	struct shown *s = (struct shown *)sink;
	CHECK(fraction >= s->last);
	s->last = fraction;
}

static void merge_shown(struct task *t, const struct sr *sr, const struct sr_merge *m)
{
	struct shown progress = { .sink.progress = show };
	struct task *own = task_new(t, "merge");
	own->sink = &progress.sink;
	CHECK(good(own, sr->layout->merge(own, sr, m) == 0) && progress.last > 0.98);
	talloc_free(own);
}

/* ---- up ---- */

/* Where files share no blocks it is refused. */
static bool goes_up(const struct sr *sr, const struct sr_merge *m)
{
	return m->down || sr->reflink;
}

static void test_no_up(struct task *t, const struct sr *sr)
{
	build(t, sr);
	const char *d = sum(t, sr, D);
	CHECK(sr->layout->merge(t, sr, &(struct sr_merge){ false, D, A }) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_46, "cannot clone"));
	CHECK(streq(d, sum(t, sr, D)));
	clear(t, sr);
}

static void test_up(struct task *t, const struct sr *sr)
{
	build(t, sr);
	const char *const sums[] = { sum(t, sr, A), sum(t, sr, B), sum(t, sr, C), sum(t, sr, E) };
	const struct sr_merge m = { .upper = D, .lower = A };
	merge_shown(t, sr, &m);
	CHECK(streq(parent_of(t, sr, D), A) && streq(parent_of(t, sr, E), D));
	CHECK(streq(sums[0], sum(t, sr, A)) && streq(sums[1], sum(t, sr, B)));
	CHECK(streq(sums[2], sum(t, sr, C)) && streq(sums[3], sum(t, sr, E)));
	for (size_t i = 0; i < COUNT(chain); i++)
		CHECK(shows(t, sr, chain[i], chain[i]));
	CHECK(sound(t, sr, D));

	/* Twice does no harm; and back to where it was. */
	GOOD(sr->layout->merge(t, sr, &m));
	CHECK(shows(t, sr, D, D));
	GOOD(sr->layout->relink(t, sr, D, C));
	CHECK(shows(t, sr, D, D) && shows(t, sr, E, E));
	GOOD(sr->layout->relink(t, sr, D, A));
	GOOD(sr->layout->remove(t, sr, C));
	GOOD(sr->layout->remove(t, sr, B));
	CHECK(shows(t, sr, D, D) && shows(t, sr, E, E));
	clear(t, sr);
}

static void test_up_to_none(struct task *t, const struct sr *sr)
{
	build(t, sr);
	GOOD(sr->layout->merge(t, sr, &(struct sr_merge){ .upper = D, .lower = "" }));
	CHECK(streq(parent_of(t, sr, D), ""));
	for (size_t i = 0; i < COUNT(chain); i++)
		CHECK(shows(t, sr, chain[i], chain[i]));
	GOOD(sr->layout->remove(t, sr, A));
	GOOD(sr->layout->remove(t, sr, B));
	GOOD(sr->layout->remove(t, sr, C));
	CHECK(shows(t, sr, D, D) && shows(t, sr, E, E) && sound(t, sr, D));
	clear(t, sr);
}

/* ---- down ---- */

static void test_down(struct task *t, const struct sr *sr)
{
	struct volume v;
	build(t, sr);
	const char *const sums[] = { sum(t, sr, A), sum(t, sr, C), sum(t, sr, D), sum(t, sr, E) };
	const struct sr_merge m = { .down = true, .upper = D, .lower = B };
	merge_shown(t, sr, &m);
	CHECK(shows(t, sr, B, D) && shows(t, sr, D, D) && shows(t, sr, E, E) && sound(t, sr, B));
	GOOD(sr->layout->stat(t, sr, B, &v));
	CHECK(v.virtual_size == 16 * MIB && streq(v.parent, A));
	CHECK(streq(sums[0], sum(t, sr, A)) && streq(sums[1], sum(t, sr, C)));
	CHECK(streq(sums[2], sum(t, sr, D)) && streq(sums[3], sum(t, sr, E)));

	GOOD(sr->layout->merge(t, sr, &m));
	GOOD(sr->layout->relink(t, sr, E, B));
	GOOD(sr->layout->remove(t, sr, D));
	GOOD(sr->layout->remove(t, sr, C));
	CHECK(shows(t, sr, B, D) && shows(t, sr, E, E));
	clear(t, sr);
}

/* ---- what is refused ---- */

static void test_refused(struct task *t, const struct sr *sr)
{
	build(t, sr);
	const char *b = sum(t, sr, B), *d = sum(t, sr, D);
	static const struct {
		struct sr_merge m;
		enum code code;
		const char *why;
	} rows[] = {
		{ { true, D, "" }, SR_BACKEND_FAILURE_46, "no layer over" },
		{ { true, B, D }, SR_BACKEND_FAILURE_46, "no layer over" },
		{ { false, B, D }, SR_BACKEND_FAILURE_46, "no layer over" },
		{ { false, D, D }, SR_BACKEND_FAILURE_46, "no layer over" },
		{ { false, F, A }, VDI_MISSING, F },
		{ { false, D, F }, SR_BACKEND_FAILURE_46, "no layer over" },
	};
	for (size_t i = 0; i < COUNT(rows); i++)
		CHECK(sr->layout->merge(t, sr, &rows[i].m) < 0 &&
		      failed(t, rows[i].code, rows[i].why));
	/* Another layer over the one that would be written, or over one between. */
	for (int i = 1; i < 3; i++) {
		GOOD(sr->layout->create(t, sr, F, chain[i], 8 * MIB));
		CHECK(sr->layout->merge(t, sr, &(struct sr_merge){ true, D, B }) < 0 &&
		      failed(t, SR_BACKEND_FAILURE_46, F " is a layer over it too"));
		GOOD(sr->layout->remove(t, sr, F));
	}
	GOOD(sr->layout->remove(t, sr, A));
	CHECK(sr->layout->merge(t, sr, &(struct sr_merge){ false, D, B }) < 0 &&
	      failed(t, VDI_MISSING, A));
	CHECK(streq(b, sum(t, sr, B)) && streq(d, sum(t, sr, D)));
	clear(t, sr);
}

static void test_in_use(struct task *t, const struct sr *sr)
{
	build(t, sr);
	struct rival rival = rival_opens(t, true, file_of(t, sr, D));
	CHECK(sr->layout->merge(t, sr, &(struct sr_merge){ true, D, B }) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_46, "lock"));
	CHECK(sr->layout->merge(t, sr, &(struct sr_merge){ false, D, B }) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_46, sr->reflink ? "lock" : "cannot clone"));
	rival_ends(&rival);
	CHECK(shows(t, sr, D, D) && shows(t, sr, B, B));
	clear(t, sr);
}

/* ---- relink ---- */

static void test_relink(struct task *t, const struct sr *sr)
{
	build(t, sr);
	CHECK(streq(sr->layout->link(t, A), A ".qcow2") && streq(sr->layout->link(t, ""), ""));
	const char *a = sum(t, sr, A), *b = sum(t, sr, B), *d = sum(t, sr, D);
	GOOD(sr->layout->relink(t, sr, D, C));
	CHECK(streq(d, sum(t, sr, D)));
	GOOD(sr->layout->relink(t, sr, D, ""));
	CHECK(streq(parent_of(t, sr, D), ""));
	GOOD(sr->layout->relink(t, sr, D, ""));
	GOOD(sr->layout->relink(t, sr, D, B));
	CHECK(streq(parent_of(t, sr, D), B));
	GOOD(sr->layout->relink(t, sr, D, C));
	CHECK(streq(d, sum(t, sr, D)) && shows(t, sr, D, D) && shows(t, sr, E, E));
	CHECK(sr->layout->relink(t, sr, D, F) < 0 && failed(t, VDI_MISSING, F));
	CHECK(sr->layout->relink(t, sr, F, D) < 0 && failed(t, VDI_MISSING, F));
	CHECK(sr->layout->relink(t, sr, D, D) < 0 && failed(t, SR_BACKEND_FAILURE_46, "itself"));
	CHECK(streq(a, sum(t, sr, A)) && streq(b, sum(t, sr, B)));

	/* Nothing else is opened: what it names at the time may be gone. */
	GOOD(sr->layout->remove(t, sr, C));
	GOOD(sr->layout->relink(t, sr, D, B));
	CHECK(streq(parent_of(t, sr, D), B));
	clear(t, sr);
}

/* ---- cut short ---- */

/* Large enough to be caught at work: A <-- B <-- C <-- D, and 40 MiB to copy either way. */
static void build_large(struct task *t, const struct sr *sr)
{
	for (size_t i = 0; i < 4; i++)
		GOOD(sr->layout->create(t, sr, chain[i], i ? chain[i - 1] : "", 64 * MIB));
	draw(t, sr, A, "write -P 1 0 24M");
	draw(t, sr, B, "write -P 2 4M 40M");
	draw(t, sr, C, "write -P 3 8M 40M");
	draw(t, sr, C, "write -z 9M 1M");
	draw(t, sr, D, "write -P 4 10M 100k");
	for (size_t i = 0; i < 4; i++)
		remember(t, sr, chain[i]);
}

/* Up, B goes into C; down, C goes into B, which nobody looks at. */
static const struct sr_merge ways[] = { { false, C, A }, { true, C, B } };

static const char *written(const struct sr_merge *m)
{
	return m->down ? m->lower : m->upper;
}

/* What the contract says of a merge that did not end. */
static void check_taken_back(struct task *t, const struct sr *sr, const struct sr_merge *m)
{
	GOOD(sr->layout->relink(t, sr, written(m), m->down ? A : B));
	CHECK(streq(parent_of(t, sr, C), B) && streq(parent_of(t, sr, B), A));
	CHECK(shows(t, sr, A, A) && shows(t, sr, C, C) && shows(t, sr, D, D));
	CHECK(sound(t, sr, B) && sound(t, sr, C));
	if (!m->down)
		CHECK(shows(t, sr, B, B));
}

static void check_merged(struct task *t, const struct sr *sr, const struct sr_merge *m)
{
	GOOD(sr->layout->merge(t, sr, m));
	CHECK(shows(t, sr, written(m), C));
	GOOD(sr->layout->relink(t, sr, D, written(m)));
	GOOD(sr->layout->remove(t, sr, m->down ? C : B));
	CHECK(shows(t, sr, A, A) && shows(t, sr, D, D));
}

struct stopper {
	struct task_sink sink;
	struct task *t;
};

static void stop(struct task_sink *sink, double fraction)
{
	struct stopper *s = (struct stopper *)sink;
	if (fraction > 0)
		task_interrupt(s->t);
}

static void test_cancel(struct task *parent, const struct sr *sr, const struct sr_merge *m)
{
	build_large(parent, sr);
	struct task *t = task_new(parent, "cancelled");
	struct stopper s = { .sink.progress = stop, .t = t };
	t->cancellable = true;
	t->sink = &s.sink;
	CHECK(sr->layout->merge(t, sr, m) < 0 && failed(t, TASK_CANCELLED, ""));
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD); /* no program is left over */
	talloc_free(t);
	t = parent;
	CHECK(!file_exists(str(t, "%s/%s.qcow2.new", sr->path, C)));
	check_taken_back(t, sr, m);
	check_merged(t, sr, m);
	clear(t, sr);
}

/* The files as build_large() left them. */
static void copy_files(struct task *t, const char *from, const char *to)
{
	for (size_t i = 0; i < 4; i++)
		command(t, RUN_ARGV("cp", "--sparse=always", str(t, "%s/%s.qcow2", from, chain[i]),
				    str(t, "%s/%s.qcow2", to, chain[i])));
	command(t, RUN_ARGV("sync", "-f", to)); /* what the merge would have to wait for */
}

/* In a process of its own, which is killed after so many microseconds; its qemu-img is killed with it.  True:
 * it had ended before. */
static bool merge_killed(struct task *t, const struct sr *sr, const struct sr_merge *m, long us)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(sr->layout->merge(t, sr, m) < 0);
	struct timespec wait = { us / 1000000, us % 1000000 * 1000 };
	nanosleep(&wait, NULL);
	int status, other;
	kill(pid, SIGKILL);
	CHECK(waitpid(pid, &status, 0) == pid);
	while (waitpid(-1, &other, 0) > 0)
		;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_kill(struct task *t, const struct sr *sr, const struct sr_merge *m)
{
	const char *copy = str(t, "%s/copy", scratch);
	int ended = 0;
	build_large(t, sr);
	GOOD(dir_make(t, copy, 0700));
	copy_files(t, sr->path, copy);
	copy_files(t, copy, sr->path);
	int64_t whole = clock_ms();
	GOOD(sr->layout->merge(t, sr, m));
	whole = clock_ms() - whole + 1;
	for (int i = 0; i < KILLS; i++) {
		struct task *each = task_new(t, "kill");
		copy_files(each, copy, sr->path);
		ended += merge_killed(each, sr, m, random() % (whole * 1100));
		GOOD(sr->layout->tidy(each, sr)); /* as it is when the SR is attached again */
		CHECK(!file_exists(str(each, "%s/%s.qcow2.new", sr->path, C)));
		check_taken_back(each, sr, m);
		if (i % 5 == 0)
			check_merged(each, sr, m);
		talloc_free(each);
	}
	printf("  %s: %d of %d merges of %lld ms were killed\n", m->down ? "down" : "up",
	       KILLS - ended, KILLS, (long long)whole);
	GOOD(dir_remove(t, copy));
	clear(t, sr);
}

/* The same before each call of qemu-img's that changes a file, one after another: what is written in which
 * order is QEMU's, and may change. */
static void test_each_write(struct task *t, const struct sr *sr, const struct sr_merge *m)
{
	const char *build = getenv("BUILD"), *copy = str(t, "%s/copy", scratch);
	const char *preload = str(t, "%s/test/kill_at.so", build ? build : ".");
	int n = 0;
	if (!file_exists(preload)) {
		printf("  each write: skipped, there is no %s\n", preload);
		return;
	}
	for (size_t i = 0; i < 4; i++)
		GOOD(sr->layout->create(t, sr, chain[i], i ? chain[i - 1] : "",
					(uint64_t)(i < 2 ? 64 : 80) * MIB));
	draw(t, sr, A, "write -P 1 0 4M");
	draw(t, sr, B, "write -P 2 2M 3M");
	draw(t, sr, B, "write -P 22 50M 1M");
	draw(t, sr, C, "write -P 3 3M 100k");
	draw(t, sr, C, "write -P 33 70M 100k");
	for (size_t i = 0; i < 4; i++)
		remember(t, sr, chain[i]);
	GOOD(dir_make(t, copy, 0700));
	copy_files(t, sr->path, copy);
	for (bool ended = false; !ended; n++) {
		struct task *each = task_new(t, "kill");
		setenv("LD_PRELOAD", preload, 1);
		setenv("KILL_AT", str(each, "%d", n + 1), 1);
		ended = sr->layout->merge(each, sr, m) == 0;
		unsetenv("LD_PRELOAD");
		CHECK(ended || failed(each, SR_BACKEND_FAILURE_46, ""));
		check_taken_back(each, sr, m);
		copy_files(each, copy, sr->path);
		talloc_free(each);
	}
	CHECK(n > 3);
	printf("  %s: killed at each of %d writes\n", m->down ? "down" : "up", n - 1);
	GOOD(dir_remove(t, copy));
	clear(t, sr);
}

/* ---- shared blocks ---- */

static void test_clone(struct task *t, const struct sr *sr)
{
	uint64_t n, many;
	build(t, sr);
	if (!sr->reflink) {
		CHECK(sr->layout->clone(t, sr, D, F) < 0 && failed(t, INTERNAL_ERROR, F));
		CHECK(!file_exists(file_of(t, sr, F)));
		CHECK(!file_exists(str(t, "%s/%s.qcow2.new", sr->path, F)));
		clear(t, sr);
		return;
	}
	struct stat st;
	draw(t, sr, D, "write -P 7 14M 2M");
	const char *d = sum(t, sr, D);
	remember(t, sr, D);
	remember(t, sr, E);
	GOOD(sr->layout->clone(t, sr, D, F));
	CHECK(streq(parent_of(t, sr, F), C) && shows(t, sr, F, D));
	CHECK(stat(file_of(t, sr, F), &st) == 0 && (st.st_mode & 07777) == 0600);
	draw(t, sr, F, "write -P 8 1M 14M");
	CHECK(streq(d, sum(t, sr, D)) && shows(t, sr, D, D) && shows(t, sr, E, E));
	CHECK(sr->layout->clone(t, sr, D, F) < 0 && failed(t, SR_BACKEND_FAILURE_78, "already"));
	GOOD(sr->layout->remove(t, sr, F));
	CHECK(sr->layout->clone(t, sr, F, F) < 0 && failed(t, VDI_MISSING, F));
	CHECK(sr->layout->clone(t, sr, D, "../x") < 0 && failed(t, INTERNAL_ERROR, "no volume"));

	GOOD(sr->layout->extents(t, sr, D, 1000, &n));
	CHECK(n > 0 && n < 1000);
	const char *file = file_of(t, sr, F), data[512] = "x";
	FD_SCOPE int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	for (off_t i = 0; i < 600 * 4096; i += 512)
		CHECK(pwrite(fd, data, sizeof data, i) == sizeof data);
	CHECK(fsync(fd) == 0);
	for (off_t i = 1; i < 600; i += 2)
		CHECK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, i * 4096, 4096) ==
		      0);
	CHECK(fsync(fd) == 0);
	GOOD(sr->layout->extents(t, sr, F, 100000, &many));
	CHECK(many >= 300 && many < 310); /* XFS sets some room aside behind the end */
	GOOD(sr->layout->extents(t, sr, F, 270, &many));
	CHECK(many == 270);
	GOOD(sr->layout->extents(t, sr, F, 7, &many));
	CHECK(many == 7);
	GOOD(sr->layout->remove(t, sr, F));
	CHECK(sr->layout->extents(t, sr, F, 7, &many) < 0 && failed(t, VDI_MISSING, F));
	clear(t, sr);
}

/* ---- no room ---- */

static void fill(const char *file)
{
	char buf[4096];
	memset(buf, 1, sizeof buf);
	FD_SCOPE int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	while (write(fd, buf, sizeof buf) > 0)
		;
	struct stat st; /* a little is left, so that the merge can begin */
	CHECK(fstat(fd, &st) == 0 && ftruncate(fd, st.st_size - MIB) == 0);
}

static void test_full(struct task *t, const struct sr *sr)
{
	const char *filler = str(t, "%s/filler", sr->path);
	for (size_t w = 0; w < COUNT(ways); w++) {
		if (!goes_up(sr, &ways[w]))
			continue;
		for (size_t i = 0; i < 4; i++)
			GOOD(sr->layout->create(t, sr, chain[i], i ? chain[i - 1] : "", 16 * MIB));
		draw(t, sr, A, "write -P 1 0 2M");
		draw(t, sr, B, "write -P 2 1M 6M");
		draw(t, sr, C, "write -P 3 8M 6M");
		for (size_t i = 0; i < 4; i++)
			remember(t, sr, chain[i]);
		fill(filler);
		CHECK(sr->layout->merge(t, sr, &ways[w]) < 0 &&
		      failed(t, SR_BACKEND_FAILURE_44, "space"));
		check_taken_back(t, sr, &ways[w]);
		CHECK(unlink(filler) == 0);
		check_merged(t, sr, &ways[w]);
		clear(t, sr);
	}
}

/* ---- file systems ---- */

static void test_place(const char *name, const char *dir, bool small)
{
	struct task *t = task_new(NULL, name);
	struct sr *sr = attach(t, dir, true);
	CHECK(!file_exists(str(t, "%s/.reflink.new", dir)));
	printf("%s: reflink=%d\n", name, sr->reflink);
	if (small) {
		test_full(t, sr);
	} else {
		if (sr->reflink) {
			test_up(t, sr);
			test_up_to_none(t, sr);
		} else
			test_no_up(t, sr);
		test_down(t, sr);
		test_refused(t, sr);
		test_in_use(t, sr);
		test_relink(t, sr);
		test_clone(t, sr);
		for (size_t i = 0; i < COUNT(ways); i++) {
			if (!goes_up(sr, &ways[i]))
				continue;
			test_cancel(t, sr, &ways[i]);
			test_kill(t, sr, &ways[i]);
			test_each_write(t, sr, &ways[i]);
		}
	}
	GOOD(sr_destroy(t, sr));
	for (size_t i = 0; i < COUNT(chain); i++)
		unlink(reference(t, chain[i]));
	printf("%s: good\n", name);
	talloc_free(t);
}

static const struct fs file_systems[] = {
	{ "full ext4", "mkfs.ext4", "-q", 32, .small = true },
	{ "full xfs", "mkfs.xfs", "-q", 320, .small = true },
	{ "ext4", "mkfs.ext4", "-q", 400, .small = false },
	{ "xfs", "mkfs.xfs", "-q", 500, .small = false },
	{ "btrfs", "mkfs.btrfs", "-q", 500, .small = false },
};

static void test_mounted(const struct fs *f, const char *dir)
{
	test_place(f->name, dir, f->small);
}

int main(void)
{
	setlinebuf(stdout);
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_CHILD_SUBREAPER, 1); /* a qemu-img whose parent was killed */
	unsigned seed = (unsigned)time(NULL);
	srandom(seed);
	printf("seed %u\n", seed);
	CHECK(mkdtemp(scratch));
	atexit(unmount);
	if (geteuid() != 0) {
		printf("other file systems: skipped, mounting them takes root\n");
		test_place("/tmp", scratch, false);
	}
	for (size_t i = 0; i < COUNT(file_systems) && geteuid() == 0; i++)
		with_mounted(scratch, &file_systems[i], test_mounted);
	CHECK(rmdir(scratch) == 0);
	return 0;
}
