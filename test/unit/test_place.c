// SPDX-License-Identifier: Apache-2.0
/* test_place.c -- which folders may hold an SR; the file that says whose one is, in each version
 * that there has been; and that only one holds it at a time.
 *
 *     test_place FOLDER      where sr-uuid.1, sr-uuid.2, ... are, as each version wrote them */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/io.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "place/folder.h"
#include "place/mark.h"
#include "unit/check.h"
#include "unit/outcome.h"

#define UUID "7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e01" /* of the files of each version */
#define OTHER "7d7cfd5c-0b4c-4a0c-8c0e-5f0a2d5c6e02"

static bool own_mounts; /* what is mounted here is mounted for this process only */
static char scratch[] = "/tmp/test_place-XXXXXX";
static const struct holder us = { "3b0f6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6a", "vmhost1", "/state" };
static const struct holder them = { "9a1b6d1e-9c54-4c7e-8d7a-1f2e3d4c5b6b", "vmhost2",
				    "/elsewhere" };

/* ---- folders ---- */

static bool opens(struct task *t, const char *location, bool own, const char *state)
{
	struct folder f;
	bool opened = folder_open(t, t, location, own, state, &f) == 0;
	if (opened)
		close(f.fd);
	return opened;
}

static bool refused(struct task *t, const char *location, const char *why)
{
	return !opens(t, location, true, scratch) && failed(t, SR_BACKEND_FAILURE_47, why);
}

static void test_systems(struct task *t)
{
	static const char *const theirs[] = { "/etc",       "/etc/ssl", "/usr",     "/usr/share",
					      "/boot",      "/dev",     "/dev/shm", "/proc",
					      "/proc/self", "/sys",     "/run",     "/bin",
					      "/usr/../etc" };
	for (size_t i = 0; i < COUNT(theirs); i++)
		if (file_exists(theirs[i]))
			CHECK(refused(t, theirs[i], "the system's"));
	CHECK(refused(t, "/", "the root of the system"));
	CHECK(refused(t, "/tmp/..", "the root of the system"));
	const char *link = str(t, "%s/sr/link", scratch);
	CHECK(symlink("/etc", link) == 0);
	CHECK(refused(t, link, "/etc is the system's"));
	CHECK(unlink(link) == 0);
}

/* What is only read may be elsewhere, but for where names are no files. */
static void test_read(struct task *t)
{
	CHECK(opens(t, "/usr/share", false, scratch) && opens(t, "/etc", false, scratch));
	CHECK(opens(t, scratch, false, scratch));
	CHECK(!opens(t, "/dev", false, scratch) && failed(t, SR_BACKEND_FAILURE_47, "/dev"));
	CHECK(!opens(t, "/proc/self", false, scratch) && failed(t, SR_BACKEND_FAILURE_47, "/proc"));
	CHECK(!opens(t, "/sys/kernel", false, scratch) && failed(t, SR_BACKEND_FAILURE_47, "/sys"));
}

static const char *make(struct task *t, const char *name)
{
	const char *path = str(t, "%s/%s", scratch, name);
	GOOD(dir_make(t, path, 0700));
	return path;
}

/* scratch is the state folder. */
static void test_state(struct task *t)
{
	const char *run = make(t, "run"), *sr = make(t, "sr"), *below = make(t, "sr/below");
	CHECK(refused(t, scratch, "the server's own folder"));
	CHECK(refused(t, run, "the server's own folder"));
	CHECK(refused(t, str(t, "%s/sr/../run", scratch), "the server's own folder"));
	CHECK(opens(t, sr, true, scratch) && opens(t, below, true, scratch));
	/* By what they are, and not by their names: `sr` may be a link, and the state folder in
	 * one of the system's. */
	CHECK(rename(sr, str(t, "%s/kept", scratch)) == 0 && symlink("/etc", sr) == 0);
	CHECK(refused(t, sr, "/etc is the system's"));
	CHECK(unlink(sr) == 0 && rename(str(t, "%s/kept", scratch), sr) == 0);
	if (own_mounts && mount(scratch, "/run", NULL, MS_BIND, NULL) == 0) {
		bool right = opens(t, "/run/sr", true, "/run") &&
			     opens(t, "/run/sr/below", true, "/run") &&
			     !opens(t, "/run/run", true, "/run") &&
			     failed(t, SR_BACKEND_FAILURE_47, "own folder");
		umount2("/run", MNT_DETACH);
		CHECK(right);
	}
	CHECK(rmdir(below) == 0 && rmdir(run) == 0);
}

static void test_writers(struct task *t)
{
	const char *above = make(t, "sr/above"), *sr = make(t, "sr/above/sr");
	CHECK(opens(t, sr, true, scratch));
	CHECK(chmod(sr, 0777) == 0 && refused(t, sr, str(t, "write in %s (mode 0777)", sr)));
	CHECK(chmod(sr, 01777) == 0 && refused(t, sr, "chmod go-w"));
	CHECK(chmod(sr, 0770) == 0 && refused(t, sr, "chmod go-w"));
	CHECK(chmod(sr, 0755) == 0 && chmod(above, 0770) == 0);
	CHECK(refused(t, sr, str(t, "write in %s (mode 0770)", above)));
	CHECK(chmod(above, 01777) == 0 && opens(t, sr, true, scratch)); /* as /tmp is */
	CHECK(chmod(above, 0755) == 0);
	if (geteuid() == 0) {
		CHECK(chown(sr, 65534, 0) == 0 && refused(t, sr, "belongs to the user 65534"));
		CHECK(chown(sr, 0, 0) == 0 && chown(above, 65534, 0) == 0);
		CHECK(refused(t, sr, str(t, "%s belongs to the user 65534", above)));
	}
	CHECK(opens(t, sr, false, scratch));
	CHECK(rmdir(sr) == 0 && rmdir(above) == 0);
}

/* ---- marks: what they say ---- */

static bool parses(struct task *t, const char *text, struct mark *ret)
{
	const char *wrong = mark_parse(t, text, strlen(text), ret);
	if (wrong)
		printf("  %s\n", wrong);
	return !wrong;
}

/* What each version wrote; a version without a file here was forgotten. */
static void test_versions(struct task *t, const char *kept)
{
	for (int n = 1; n <= MARK_VERSION; n++) {
		struct mark m, again;
		char *text = file_read(t, str(t, "%s/sr-uuid.%d", kept, n), MARK_MOST);
		CHECK(good(t, text) && parses(t, text, &m));
		CHECK(m.version == n && streq(m.sr, UUID));
		CHECK(streq(m.owner.uuid, n == 1 ? "" : us.uuid));
		CHECK(parses(t, mark_text(t, &m), &again) && again.version == MARK_VERSION);
		CHECK(streq(again.sr, UUID) && streq(again.owner.uuid, m.owner.uuid) &&
		      streq(again.owner.host, m.owner.host) &&
		      streq(again.owner.state, m.owner.state));
		if (n == MARK_VERSION)
			CHECK(streq(mark_text(t, &m), text));
	}
	CHECK(!file_exists(str(t, "%s/sr-uuid.%d", kept, MARK_VERSION + 1)));
}

static void test_nonsense(struct task *t)
{
#define FIRST "stillframe-sr 2\n"
#define OWNED FIRST "uuid " UUID "\nowner " OTHER "\nhost a\nstate /b\n"
	static const char *const bad[] = {
		"",
		"\n",
		UUID UUID "\n",
		UUID "\nmore\n",
		"stillframe-sr \n",
		"stillframe-sr 0\n",
		"stillframe-sr 02\nuuid " UUID "\n",
		"stillframe-sr 1\nuuid " UUID "\n",
		"stillframe-sr 9999999999\n",
		"stillframe-sr 2",
		FIRST,
		FIRST "uuid " UUID,
		FIRST "uuid nonsense\n",
		FIRST "uuid " UUID "\nuuid " UUID "\n",
		FIRST "uuid " UUID "\nowner " OTHER "\n",
		FIRST "uuid " UUID "\nhost a\nstate /b\n",
		FIRST "owner " OTHER "\nhost a\nstate /b\n",
		OWNED "since yesterday\n",
		OWNED "\n",
		FIRST "uuid " UUID "\nowner " OTHER "\nhost a\x1b[2J\nstate /b\n",
		FIRST "uuid " UUID "\nowner " OTHER "\nhost \xff\nstate /b\n",
	};
	struct mark m;
	for (size_t i = 0; i < COUNT(bad); i++)
		CHECK(mark_parse(t, bad[i], strlen(bad[i]), &m));
	CHECK(parses(t, UUID, &m) && m.version == 1); /* as somebody may write it by hand */
	CHECK(parses(t, OWNED, &m) && streq(m.owner.state, "/b"));
	CHECK(parses(t, "stillframe-sr 3\nwhatever comes\n", &m) && m.version == 3);
	CHECK(mark_parse(t, UUID "\n\0", strlen(UUID) + 2, &m));
	char *large = talloc_zero_array(t, char, MARK_MOST + 2);
	memset(large, 'x', MARK_MOST + 1);
	CHECK(mark_parse(t, large, MARK_MOST + 1, &m));
}

/* ---- marks: who holds the SR ---- */

static struct mark_place here(void)
{
	int dir = open(scratch, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	CHECK(dir >= 0);
	return (struct mark_place){ dir, scratch };
}

static int take(struct task *t, const struct mark_place *p, const struct holder *me,
		const char *from, bool create, struct mark_lock *ret)
{
	return mark_take(t, p, &(struct mark_wish){ UUID, me, from, create }, ret);
}

static struct mark said(struct task *t, const struct mark_place *p)
{
	struct mark m;
	GOOD(mark_read(t, p, &m));
	return m;
}

static const char *mark_of(struct task *t)
{
	return str(t, "%s/sr-uuid", scratch);
}

/* Nothing but this is in the folder, "" nothing. */
static bool has_only(const char *name)
{
	DIR *d = opendir(scratch);
	bool only = true;
	for (struct dirent *e; (e = readdir(d));)
		only &= e->d_name[0] == '.' || streq(e->d_name, name) || streq(e->d_name, "sr");
	closedir(d);
	return only;
}

static void test_holding(struct task *t)
{
	struct mark_place p = here();
	struct mark_lock l, other;
	CHECK(said(t, &p).version == 0);
	CHECK(take(t, &p, &us, "", false, &l) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47, "holds no SR"));
	GOOD(take(t, &p, &us, "", true, &l));
	CHECK(said(t, &p).version == MARK_VERSION && streq(said(t, &p).owner.host, "vmhost1"));
	CHECK(fcntl(l.fd, F_GETFD) == FD_CLOEXEC && has_only("sr-uuid"));
	GOOD(mark_check(t, &p, &l));

	/* A living one is named, and cannot be got rid of. */
	int64_t begun = clock_ms();
	CHECK(take(t, &p, &them, "", false, &other) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_16, "vmhost1"));
	CHECK(take(t, &p, &them, us.uuid, false, &other) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_16, "cannot be taken away"));
	CHECK(clock_ms() - begun < 1000); /* nobody waits for it, either */
	CHECK(take(t, &p, &us, "", false, &other) < 0 && failed(t, SR_BACKEND_FAILURE_16, "copy"));
	CHECK(mark_take(t, &p, &(struct mark_wish){ OTHER, &them, us.uuid, true }, &other) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47, "it belongs to the SR " UUID));

	/* One that ended without a word may come again; others may not, but on purpose. */
	close(l.fd);
	GOOD(take(t, &p, &us, "", false, &l));
	close(l.fd);
	CHECK(take(t, &p, &them, "", false, &other) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_16, str(t, "take-over-from=%s", us.uuid)));
	CHECK(take(t, &p, &them, them.uuid, false, &other) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_16, "has not let go"));
	GOOD(take(t, &p, &them, us.uuid, false, &other));
	CHECK(streq(said(t, &p).owner.uuid, them.uuid));
	CHECK(take(t, &p, &us, "", false, &l) < 0 && failed(t, SR_BACKEND_FAILURE_16, "vmhost2"));

	/* One that let go leaves it to whoever comes. */
	GOOD(mark_leave(t, &p, &other));
	CHECK(!*said(t, &p).owner.uuid && streq(said(t, &p).sr, UUID));
	CHECK(take(t, &p, &us, "", false, &l) < 0 && failed(t, SR_BACKEND_FAILURE_16, "a program"));
	close(other.fd);
	GOOD(take(t, &p, &us, "", false, &l));
	CHECK(streq(said(t, &p).owner.uuid, us.uuid) && has_only("sr-uuid"));
	GOOD(mark_remove(t, &p, &l));
	GOOD(mark_remove(t, &p, &l));
	CHECK(has_only(""));
	close(l.fd);
	close(p.dir);
}

/* Where the kernel's locks do not reach, the name that is another file's tells. */
static void test_taken_unseen(struct task *t)
{
	struct mark_place p = here();
	struct mark_lock l;
	const char *mark = mark_of(t);
	GOOD(take(t, &p, &us, "", true, &l));
	struct mark m = said(t, &p);
	m.owner = them;
	GOOD(file_write(t, mark, mark_text(t, &m), 0600));
	CHECK(mark_check(t, &p, &l) < 0 && failed(t, SR_BACKEND_FAILURE_47, "vmhost2"));
	GOOD(mark_leave(t, &p, &l)); /* it is not ours to change */
	CHECK(streq(said(t, &p).owner.uuid, them.uuid));
	GOOD(mark_remove(t, &p, &l));
	CHECK(streq(said(t, &p).owner.uuid, them.uuid));
	CHECK(unlink(mark) == 0);
	CHECK(mark_check(t, &p, &l) < 0 && failed(t, SR_BACKEND_FAILURE_47, "is gone"));
	close(l.fd);
	close(p.dir);
}

/* A child between fork() and exec() has its parent's locks for that moment. */
static pid_t child_for(int ms)
{
	pid_t pid = fork();
	if (pid == 0) {
		usleep((unsigned)ms * 1000);
		_exit(0);
	}
	return pid;
}

static void test_a_child_being_born(struct task *t)
{
	struct mark_place p = here();
	struct mark_lock l;
	GOOD(take(t, &p, &us, "", true, &l));
	pid_t pid = child_for(200);
	close(l.fd);
	int64_t begun = clock_ms();
	GOOD(take(t, &p, &us, "", false, &l));
	CHECK(clock_ms() - begun >= 100);
	CHECK(waitpid(pid, NULL, 0) == pid);

	/* One that became another program has it no more. */
	struct run r = { .argv = RUN_ARGV("sh", "-c", "ls -l /proc/self/fd"),
			 .in = -1,
			 .out = -1,
			 .timeout_ms = 60000 };
	GOOD(run_ok(t, &r));
	CHECK(strstr(r.ret_out, "/dev/null") && !strstr(r.ret_out, scratch));
	GOOD(mark_remove(t, &p, &l));
	close(l.fd);
	close(p.dir);
}

/* ---- marks: from version to version ---- */

static char *kept_text(struct task *t, const char *kept, int version)
{
	return file_read(t, str(t, "%s/sr-uuid.%d", kept, version), MARK_MOST);
}

static void test_upgrade(struct task *t, const char *kept)
{
	struct mark_place p = here();
	struct mark_lock l;
	for (int n = 1; n <= MARK_VERSION; n++) {
		GOOD(file_write(t, mark_of(t), kept_text(t, kept, n), 0600));
		GOOD(take(t, &p, &us, "", false, &l));
		CHECK(said(t, &p).version == MARK_VERSION &&
		      streq(said(t, &p).owner.state, "/state"));
		GOOD(mark_check(t, &p, &l));
		close(l.fd);
	}
	GOOD(file_write(t, mark_of(t), str(t, "stillframe-sr %d\nnew\n", MARK_VERSION + 1), 0600));
	CHECK(take(t, &p, &us, "", false, &l) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47,
		     str(t, "of version %d, and this program knows versions 1 to %d",
			 MARK_VERSION + 1, MARK_VERSION)));
	CHECK(strstr(file_read(t, mark_of(t), MARK_MOST), "new")); /* as it was */
	CHECK(unlink(mark_of(t)) == 0);
	close(p.dir);
}

typedef void deed(struct task *, const struct mark_place *, struct mark_lock *);

/* The deed in a process of its own, killed at its n-th point.  True: it came through. */
static bool killed_at(int n, deed *do_it, struct task *t, const struct mark_place *p,
		      struct mark_lock *l)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		crash_after(n);
		do_it(t, p, l);
		_exit(0);
	}
	CHECK(waitpid(pid, &status, 0) == pid);
	CHECK(WIFEXITED(status) ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL);
	return WIFEXITED(status);
}

static void upgrade(struct task *t, const struct mark_place *p, struct mark_lock *l)
{
	GOOD(take(t, p, &us, "", false, l));
}

static void create(struct task *t, const struct mark_place *p, struct mark_lock *l)
{
	GOOD(take(t, p, &us, "", true, l));
}

static void leave(struct task *t, const struct mark_place *p, struct mark_lock *l)
{
	GOOD(take(t, p, &us, "", false, l));
	GOOD(mark_leave(t, p, l));
}

/* At each step the file is the old one or the new one, whole; what is left beside it is gone
 * with the next one. */
static void test_kills(struct task *t, const char *kept)
{
	struct mark_place p = here();
	struct mark_lock l;
	const char *old = kept_text(t, kept, 1);
	struct mark ours = { MARK_VERSION, UUID, us };
	const char *new = mark_text(t, &ours);
	bool through = false;
	int n = 0;
	while (!through) {
		GOOD(file_write(t, mark_of(t), old, 0600));
		through = killed_at(++n, upgrade, t, &p, &l);
		const char *now = file_read(t, mark_of(t), MARK_MOST);
		CHECK(streq(now, old) || streq(now, new));
		GOOD(take(t, &p, &us, "", false, &l));
		CHECK(streq(file_read(t, mark_of(t), MARK_MOST), new));
		GOOD(mark_tidy(t, &p));
		CHECK(has_only("sr-uuid"));
		close(l.fd);
	}
	CHECK(n > 4);
	through = false;
	for (n = 0; !through;) {
		unlink(mark_of(t));
		through = killed_at(++n, create, t, &p, &l);
		CHECK(said(t, &p).version == 0 || streq(file_read(t, mark_of(t), MARK_MOST), new));
		GOOD(mark_tidy(t, &p));
		GOOD(take(t, &p, &us, "", true, &l));
		CHECK(has_only("sr-uuid"));
		close(l.fd);
	}
	CHECK(n > 4);
	through = false;
	for (n = 0; !through;) {
		GOOD(take(t, &p, &us, "", true, &l));
		close(l.fd);
		through = killed_at(++n, leave, t, &p, &l);
		CHECK(streq(said(t, &p).sr, UUID));
		CHECK(!through || !*said(t, &p).owner.uuid);
		leave(t, &p, &l);
		close(l.fd);
		CHECK(!*said(t, &p).owner.uuid && has_only("sr-uuid"));
	}
	CHECK(n > 4 && unlink(mark_of(t)) == 0);
	close(p.dir);
}

/* Not every file system renames in one step: the old one may be gone, and the new one not have its
 * name yet. */
static void test_half_renamed(struct task *t)
{
	struct mark_place p = here();
	struct mark_lock l;
	struct mark ours = { MARK_VERSION, UUID, us };
	const char *new = str(t, "%s.new", mark_of(t));
	GOOD(file_write(t, new, mark_text(t, &ours), 0600));
	GOOD(mark_tidy(t, &p));
	CHECK(mark_take(t, &p, &(struct mark_wish){ OTHER, &us, "", false }, &l) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47, "holds no SR"));
	GOOD(take(t, &p, &us, "", false, &l));
	CHECK(has_only("sr-uuid") && streq(said(t, &p).owner.uuid, us.uuid));
	GOOD(mark_check(t, &p, &l));
	GOOD(mark_remove(t, &p, &l));
	close(l.fd);

	GOOD(file_write(t, new, "stillframe-sr 2\nuuid 7d7c", 0600)); /* half of one is no use */
	CHECK(take(t, &p, &us, "", false, &l) < 0 &&
	      failed(t, SR_BACKEND_FAILURE_47, "holds no SR"));
	GOOD(mark_tidy(t, &p));
	CHECK(has_only(""));
	close(p.dir);
}

/* ---- marks: what else may lie there ---- */

static void test_links(struct task *t)
{
	struct mark_place p = here();
	struct mark_lock l;
	struct mark m;
	const char *secret = str(t, "%s/sr/secret", scratch), *mark = mark_of(t);
	GOOD(file_write(t, secret, "root:$y$j9T$secret", 0600));
	CHECK(symlink(secret, mark) == 0);
	CHECK(mark_read(t, &p, &m) < 0 && !strstr(task_error(t), "root:") &&
	      failed(t, SR_BACKEND_FAILURE_47, "symbolic link"));
	CHECK(take(t, &p, &us, "", true, &l) < 0 && !strstr(task_error(t), "root:") &&
	      failed(t, SR_BACKEND_FAILURE_47, "symbolic link"));
	CHECK(unlink(mark) == 0 &&
	      link(secret, mark) == 0); /* what is no mark is not shown, either */
	CHECK(take(t, &p, &us, "", true, &l) < 0 && !strstr(task_error(t), "root:") &&
	      failed(t, SR_BACKEND_FAILURE_47, "no mark of an SR"));
	CHECK(unlink(mark) == 0 && mkfifo(mark, 0600) == 0);
	CHECK(take(t, &p, &us, "", true, &l) < 0 && failed(t, SR_BACKEND_FAILURE_47, "no regular"));
	CHECK(unlink(mark) == 0 && mkdir(mark, 0700) == 0);
	CHECK(take(t, &p, &us, "", true, &l) < 0 && failed(t, SR_BACKEND_FAILURE_47, ""));
	CHECK(rmdir(mark) == 0);

	CHECK(symlink(secret, str(t, "%s.new", mark)) == 0);
	GOOD(take(t, &p, &us, "", true, &l));
	CHECK(streq(file_read(t, secret, 100), "root:$y$j9T$secret") && has_only("sr-uuid"));
	GOOD(mark_remove(t, &p, &l));
	close(l.fd);
	CHECK(mkdir(str(t, "%s.new", mark), 0700) == 0);
	CHECK(take(t, &p, &us, "", true, &l) < 0 && failed(t, SR_BACKEND_FAILURE_47, "is writing"));
	CHECK(rmdir(str(t, "%s.new", mark)) == 0 && unlink(secret) == 0);
	close(p.dir);
}

/* A file that is written in our own folder, where a link has its temporary name. */
static void test_a_link_before_a_file(struct task *t)
{
	const char *precious = str(t, "%s/sr/precious", scratch),
		   *file = str(t, "%s/sr/file", scratch);
	GOOD(file_write(t, precious, "precious", 0600));
	CHECK(symlink(precious, str(t, "%s.new", file)) == 0);
	GOOD(file_write(t, file, "text", 0640));
	struct stat st;
	CHECK(lstat(file, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & 07777) == 0640);
	CHECK(streq(file_read(t, precious, 100), "precious"));
	CHECK(unlink(file) == 0 && unlink(precious) == 0);
}

/* Without room, or where nothing can be written, an old mark stays, and holds all the same. */
static void test_no_room(struct task *t, const char *kept)
{
	if (!own_mounts ||
	    mount("none", scratch, "tmpfs", 0, "size=64k,nr_inodes=3,mode=700") < 0) {
		printf("small and read-only file systems: skipped, %s\n", strerror(errno));
		return;
	}
	struct mark_place p = here();
	struct mark_lock l = { .fd = -1 }, second = { .fd = -1 };
	const char *old = kept_text(t, kept, 1), *filler = str(t, "%s/filler", scratch);
	bool right = file_write(t, mark_of(t), old, 0600) == 0 &&
		     file_write(t, filler, "x", 0600) == 0 && /* the last inode */
		     good(t, take(t, &p, &us, "", false, &l) == 0) &&
		     streq(file_read(t, mark_of(t), MARK_MOST), old) &&
		     take(t, &p, &them, "", false, &second) < 0 &&
		     failed(t, SR_BACKEND_FAILURE_16, "holds a lock") && mark_leave(t, &p, &l) == 0;
	close(l.fd);
	right = right && unlink(filler) == 0 && good(t, take(t, &p, &us, "", false, &l) == 0) &&
		said(t, &p).version == MARK_VERSION;
	close(l.fd);
	/* Taken away it is only when it can be written so. */
	right = right && file_write(t, filler, "x", 0600) == 0 &&
		take(t, &p, &them, us.uuid, false, &second) < 0 &&
		failed(t, SR_BACKEND_FAILURE_44, "") && unlink(filler) == 0;

	right = right && mount("none", scratch, NULL, MS_REMOUNT | MS_RDONLY, NULL) == 0 &&
		good(t, take(t, &p, &us, "", false, &l) == 0) && l.read_only &&
		good(t, take(t, &p, &us, "", false, &second) == 0);
	close(l.fd);
	close(second.fd);
	close(p.dir);
	umount2(scratch, MNT_DETACH);
	CHECK(right);
}

int main(int argc, char **argv)
{
	CHECK(argc == 2 && mkdtemp(scratch));
	setenv("STILLFRAME_DELAYS", "sr-lock=0.1", 1);
	own_mounts = unshare(CLONE_NEWNS) == 0 &&
		     mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
	struct task *t = task_new(NULL, "place");
	make(t, "sr");
	test_systems(t);
	test_read(t);
	test_state(t);
	test_writers(t);
	test_versions(t, argv[1]);
	test_nonsense(t);
	test_holding(t);
	test_taken_unseen(t);
	test_a_child_being_born(t);
	test_upgrade(t, argv[1]);
	test_kills(t, argv[1]);
	test_half_renamed(t);
	test_links(t);
	test_a_link_before_a_file(t);
	test_no_room(t, argv[1]);
	CHECK(rmdir(str(t, "%s/sr", scratch)) == 0 && rmdir(scratch) == 0);
	talloc_free(t);
	return 0;
}
