// SPDX-License-Identifier: Apache-2.0
#include "place/mark.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "base/text.h"
#include "place/folder.h"

#define NAME "sr-uuid"
#define NEW NAME ".new"
#define MAGIC "stillframe-sr "
enum { TEXT_MOST = 1000, VERSION_DIGITS = 9 };

/* ---- what it says ---- */

static const struct {
	const char *key;
	size_t at; /* in struct mark */
	bool uuid; /* else any text */
} rows[] = {
	{ "uuid", offsetof(struct mark, sr), true },
	{ "owner", offsetof(struct mark, owner.uuid), true },
	{ "host", offsetof(struct mark, owner.host), false },
	{ "state", offsetof(struct mark, owner.state), false },
};

static const char **value_of(struct mark *m, size_t row)
{
	return (const char **)((char *)m + rows[row].at);
}

static bool is_printable(const char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

/* "key value" */
static const char *read_line(char *line, struct mark *m)
{
	char *space = strchr(line, ' ');
	if (!space)
		return "a line in it is no key and value";
	*space = 0;
	for (size_t i = 0; i < COUNT(rows); i++) {
		const char **value = value_of(m, i);
		if (!streq(rows[i].key, line))
			continue;
		if (**value)
			return "a key stands in it twice";
		*value = space + 1;
		bool right = rows[i].uuid ? text_is_uuid(*value)
					  : **value && strlen(*value) <= TEXT_MOST &&
						    text_is_utf8(*value) && is_printable(*value);
		return right ? NULL : "a value in it cannot be";
	}
	return "a key in it is not known";
}

static const char *read_lines(char *lines, struct mark *m)
{
	for (char *line; *lines;) {
		line = strsep(&lines, "\n");
		if (!lines)
			return "its last line is not whole";
		const char *wrong = read_line(line, m);
		if (wrong)
			return wrong;
	}
	bool owned = *m->owner.uuid;
	if (owned != (*m->owner.host != 0) || owned != (*m->owner.state != 0))
		return "it names half an owner";
	return *m->sr ? NULL : "it names no SR";
}

/* The number behind the magic; 0: it is none. */
static int version_of(const char *digits)
{
	size_t n = strspn(digits, "0123456789");
	return n && n <= VERSION_DIGITS && !digits[n] && *digits != '0' ? atoi(digits) : 0;
}

const char *mark_parse(const void *ctx, const char *text, size_t n, struct mark *ret)
{
	struct mark m = { 1, "", { "", "", "" } };
	if (n > MARK_MOST || memchr(text, 0, n))
		return "it is larger than a mark is, or has bytes that are no text";
	char *rest = talloc_strndup(ctx, text, n), *first = strsep(&rest, "\n");
	const char *wrong = NULL;
	if (starts_with(first, MAGIC))
		m.version = version_of(first + strlen(MAGIC));
	if (m.version == 1) {
		m.sr = first;
		wrong = !text_is_uuid(first) || (rest && *rest) ? "what is in it is no uuid" : NULL;
	} else if (m.version == MARK_VERSION) {
		wrong = rest ? read_lines(rest, &m) : "it has one line only";
	} else if (m.version < MARK_VERSION) {
		wrong = "its first line names no version";
	}
	if (!wrong)
		*ret = m;
	return wrong;
}

const char *mark_text(const void *ctx, const struct mark *m)
{
	struct mark copy = *m;
	char *text = str(ctx, MAGIC "%d\n", MARK_VERSION);
	for (size_t i = 0; i < COUNT(rows); i++)
		if (**value_of(&copy, i))
			text = talloc_asprintf_append(text, "%s %s\n", rows[i].key,
						      *value_of(&copy, i));
	return text;
}

/* ---- the file ---- */

/* As much of it as one line can show. */
static struct holder shown(const void *ctx, const struct holder *h)
{
	const char *host = text_plain(ctx, h->host, TEXT_MOST);
	const char *state = text_plain(ctx, h->state, TEXT_MOST);
	return (struct holder){ h->uuid, *host ? host : "?", *state ? state : "?" };
}

static int refuse(struct task *t, const struct mark_place *p, const char *why)
{
	return folder_refuse(t, p->path, why);
}

enum { HOW = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };

/* -1 with errno; for writing, where that can be. */
static int open_to_lock(int dir, const char *name, bool *ret_read_only)
{
	int fd = openat(dir, name, O_RDWR | HOW);
	*ret_read_only = fd < 0 && errno == EROFS;
	return *ret_read_only ? openat(dir, name, O_RDONLY | HOW) : fd;
}

/* 1, or 0: there is none. */
static int open_mark(struct task *t, const struct mark_place *p, bool to_lock,
		     struct mark_lock *ret)
{
	struct stat st;
	FD_SCOPE int fd = to_lock ? open_to_lock(p->dir, NAME, &ret->read_only)
				  : openat(p->dir, NAME, O_RDONLY | HOW);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0 && errno == ELOOP)
		return refuse(t, p, "its " NAME " is a symbolic link");
	if (fd < 0 || fstat(fd, &st) < 0)
		return refuse(t, p, str(t, NAME ": %s", strerror(errno)));
	if (!S_ISREG(st.st_mode))
		return refuse(t, p, "its " NAME " is no regular file");
	ret->fd = fd;
	fd = -1;
	return 1;
}

/* NULL, or why it is no mark. */
static const char *parse_file(const void *ctx, int fd, struct mark *ret)
{
	char text[MARK_MOST + 1];
	ssize_t n;
	do
		n = pread(fd, text, sizeof text, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? strerror(errno) : mark_parse(ctx, text, (size_t)n, ret);
}

static int read_mark(struct task *t, const struct mark_place *p, int fd, struct mark *ret)
{
	const char *wrong = parse_file(t, fd, ret);
	if (wrong)
		return refuse(t, p, str(t, "its " NAME " is no mark of an SR: %s", wrong));
	if (ret->version > MARK_VERSION)
		return refuse(t, p,
			      str(t,
				  "its mark is of version %d, and this program knows versions 1 to "
				  "%d: use the newer program that wrote it, or one at least as new",
				  ret->version, MARK_VERSION));
	return 0;
}

int mark_read(struct task *t, const struct mark_place *p, struct mark *ret)
{
	struct mark_lock l = { .fd = -1 };
	struct mark none = { 0, "", { "", "", "" } };
	int there = open_mark(t, p, false, &l);
	int result = there > 0 ? read_mark(t, p, l.fd, &none) : there;
	fd_close(&l.fd);
	if (result == 0)
		*ret = none;
	return result;
}

/* By the folder's list: of a file system in user space the kernel remembers names for a second that
 * are gone, and opens what had them. */
static bool is_there(int dir, const char *name)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	bool found = !d;
	for (struct dirent *e; !found && (e = readdir(d));)
		found = streq(e->d_name, name);
	if (d)
		closedir(d);
	return found;
}

/* Is the open file the one by that name? */
static bool is_named(int dir, const char *name, int fd)
{
	struct stat a, b;
	return fstat(fd, &a) == 0 && fstatat(dir, name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* -1 with errno. */
static int try_lock(int fd, bool read_only)
{
	struct flock l = { .l_type = read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET };
	return fcntl(fd, F_OFD_SETLK, &l);
}

static bool is_others(void)
{
	return errno == EAGAIN || errno == EACCES;
}

/* ---- a new one in its place ---- */

/* What a killed process has left by the new one's name, or whoever made a link there.  false:
 * somebody is at work on it, or it cannot be removed. */
static bool clear_left(int dir)
{
	bool read_only;
	FD_SCOPE int fd = open_to_lock(dir, NEW, &read_only);
	if (fd >= 0 && try_lock(fd, read_only) < 0 && is_others())
		return false;
	if (fd >= 0 && !is_named(dir, NEW, fd))
		return true; /* another one came */
	return unlinkat(dir, NEW, 0) == 0 || errno == ENOENT;
}

/* Its lock keeps others who want to write a mark away from the name, until the file has its own. */
static int begin_new(struct task *t, const struct mark_place *p)
{
	int64_t until = clock_ms() + delay_ms(DELAY_SR_LOCK);
	for (;;) {
		FD_SCOPE int fd = openat(p->dir, NEW,
					 O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0 && errno != EEXIST)
			return task_fail_errno(t, errno, str(t, "%s/" NEW, p->path));
		int locked = fd < 0 ? -1 : try_lock(fd, false);
		if (locked == 0 && is_named(p->dir, NEW, fd)) {
			int ret = fd;
			fd = -1;
			return ret;
		}
		if (fd >= 0 && locked < 0 && !is_others()) {
			int err = errno;
			unlinkat(p->dir, NEW, 0);
			return refuse(t, p, str(t, "it cannot be locked: %s", strerror(err)));
		}
		bool cleared = clear_left(p->dir);
		if (clock_ms() >= until)
			return refuse(t, p, "another program is writing its " NEW);
		if (!cleared && task_wait(t, -1, 0, delay_ms(DELAY_SR_LOCK_AGAIN)) < 0)
			return -1;
	}
}

static int fill(struct task *t, int fd, const char *text)
{
	if (io_write(t, fd, text, strlen(text), -1) < 0)
		return -1;
	return sync_file(fd, SYNC_FILE_CONTENT) < 0 ? task_fail_errno(t, errno, NEW) : 0;
}

/* old: the file that has the name, -1: none has. */
static int take_name(struct task *t, const struct mark_place *p, int old)
{
	bool as_it_was = old >= 0 ? is_named(p->dir, NAME, old) : !is_there(p->dir, NAME);
	if (!as_it_was)
		return refuse(t, p, "somebody else has just written its " NAME);
	if (renameat(p->dir, NEW, p->dir, NAME) < 0)
		return task_fail_errno(t, errno, str(t, "%s/" NAME, p->path));
	return 0;
}

/* The file that has the name now, locked.
 *
 * A file system in user space may take the old file away before it gives the new one its name, and
 * be stopped in between: then the new one is all there is, and stays (bring_back). */
static int replace(struct task *t, const struct mark_place *p, int old, const struct mark *m)
{
	FD_SCOPE int fd = begin_new(t, p);
	if (fd < 0)
		return -1;
	crash_point();
	int written = fill(t, fd, mark_text(t, m));
	crash_point();
	if (written < 0 || take_name(t, p, old) < 0) {
		if (written < 0 || is_there(p->dir, NAME))
			unlinkat(p->dir, NEW, 0);
		return -1;
	}
	crash_point();
	if (sync_file(p->dir, SYNC_FILE_NAME) < 0)
		return task_fail_errno(t, errno, p->path);
	crash_point();
	int ret = fd;
	fd = -1;
	return ret;
}

/* ---- taking it ---- */

static int in_use(struct task *t, const struct mark_place *p, const char *who, const char *what)
{
	return fail(t, SR_BACKEND_FAILURE_16, "",
		    str(t, "The SR device is currently in use [opterr=%s: %s %s]", p->path, who,
			what),
		    "");
}

static const char *name_of(const void *ctx, const struct holder *h)
{
	return str(ctx, "the stillframed of the host %s (%s), state folder %s,", h->host, h->uuid,
		   h->state);
}

static bool is_me(const struct mark *m, const struct mark_wish *w)
{
	return streq(m->owner.uuid, w->me->uuid);
}

static int held_by_living(struct task *t, const struct mark_place *p, const struct mark *m,
			  const struct mark_wish *w)
{
	const char *who = *m->owner.uuid ? name_of(t, &m->owner) : "a program";
	if (is_me(m, w))
		return in_use(t, p, "a stillframed with a copy of this one's state folder",
			      "holds a lock on it, or a program that this one started");
	return in_use(t, p, who,
		      "holds a lock on it, which ends only with its process and cannot be taken "
		      "away: "
		      "unplug the SR there with pbd-unplug, or stop that stillframed");
}

static int held_by_silent(struct task *t, const struct mark_place *p, const struct mark *m)
{
	return in_use(t, p, name_of(t, &m->owner),
		      str(t,
			  "has not let go of it, and its VMs may run on it: unplug the SR there "
			  "with "
			  "pbd-unplug. Only if that host is lost, with all its VMs, take the SR "
			  "away from it: plug "
			  "it with device-config:take-over-from=%s",
			  m->owner.uuid));
}

/* Is it this SR's? */
static int judge(struct task *t, const struct mark_place *p, const struct mark *m,
		 const struct mark_wish *w)
{
	return streq(m->sr, w->sr) ? 0 : refuse(t, p, str(t, "it belongs to the SR %.40s", m->sr));
}

/* Nobody is waited for but a child of our own. */
static int lock_it(struct task *t, const struct mark_place *p, const struct mark_lock *l,
		   const struct mark *m, const struct mark_wish *w)
{
	int64_t until = clock_ms() + delay_ms(DELAY_SR_LOCK);
	bool may_be_ours = is_me(m, w) || !*m->owner.uuid;
	while (try_lock(l->fd, l->read_only) < 0) {
		if (!is_others())
			return refuse(t, p, str(t, "it cannot be locked: %s", strerror(errno)));
		if (!may_be_ours || clock_ms() >= until)
			return held_by_living(t, p, m, w);
		if (task_wait(t, -1, 0, delay_ms(DELAY_SR_LOCK_AGAIN)) < 0)
			return -1;
	}
	return 0;
}

/* Without room for another file the one that is there will do, as long as it names nobody else:
 * it is locked. */
static bool can_do_without(const struct task *t, const struct mark_place *p,
			   const struct mark_lock *l, const struct mark *m,
			   const struct mark_wish *w)
{
	return t->code == SR_BACKEND_FAILURE_44 && is_there(p->dir, NAME) &&
	       is_named(p->dir, NAME, l->fd) && (is_me(m, w) || !*m->owner.uuid);
}

static bool says(const struct mark *m, const struct mark *wanted)
{
	return m->version == wanted->version && streq(m->owner.uuid, wanted->owner.uuid) &&
	       streq(m->owner.host, wanted->owner.host) &&
	       streq(m->owner.state, wanted->owner.state);
}

/* The mark is locked, and this SR's: now it says who holds it. */
static int own_it(struct task *t, const struct mark_place *p, const struct mark *m,
		  const struct mark_wish *w, struct mark_lock *l)
{
	struct mark wanted = { MARK_VERSION, w->sr, shown(t, w->me) };
	bool is_anothers = *m->owner.uuid && !is_me(m, w);
	if (is_anothers && !streq(m->owner.uuid, w->from))
		return held_by_silent(t, p, m);
	if (says(m, &wanted) || l->read_only)
		return 0;
	int new = replace(t, p, l->fd, &wanted);
	if (new < 0 && !can_do_without(t, p, l, m, w))
		return -1;
	if (new < 0) {
		log_line(t, "sr's mark stays as it is sr=%s path=%s version=%d error=\"%s\"", w->sr,
			 p->path, m->version, task_error(t));
		task_forgive(t);
		return 0;
	}
	if (m->version != MARK_VERSION || is_anothers)
		log_line(t, "sr's mark written anew sr=%s path=%s version=%d before=%d from=\"%s\"",
			 w->sr, p->path, MARK_VERSION, m->version,
			 is_anothers ? name_of(t, &m->owner) : "");
	close(l->fd);
	l->fd = new;
	return 0;
}

/* A whole new file without an old one (replace).  1: it has its name by now. */
static int bring_back(struct task *t, const struct mark_place *p, const struct mark_wish *w)
{
	struct mark m;
	bool read_only;
	FD_SCOPE int fd = open_to_lock(p->dir, NEW, &read_only);
	if (fd < 0 || read_only || try_lock(fd, false) < 0 || !is_named(p->dir, NEW, fd) ||
	    parse_file(t, fd, &m) || !streq(m.sr, w->sr))
		return refuse(t, p, "it holds no SR; is its file system mounted?");
	if (take_name(t, p, -1) < 0)
		return -1;
	log_line(t, "sr's mark brought back sr=%s path=%s", w->sr, p->path);
	return sync_file(p->dir, SYNC_FILE_NAME) < 0 ? task_fail_errno(t, errno, p->path) : 1;
}

static int make(struct task *t, const struct mark_place *p, const struct mark_wish *w,
		struct mark_lock *ret)
{
	struct mark m = { MARK_VERSION, w->sr, shown(t, w->me) };
	ret->read_only = false;
	ret->fd = replace(t, p, -1, &m);
	return ret->fd < 0 ? -1 : 0;
}

/* 1: it was another file by the time it was locked. */
static int take_one(struct task *t, const struct mark_place *p, const struct mark_wish *w,
		    struct mark_lock *l)
{
	struct mark m;
	int there = open_mark(t, p, true, l);
	if (there < 0)
		return -1;
	if (!there && w->create)
		return make(t, p, w, l);
	if (!there)
		return bring_back(t, p, w);
	if (read_mark(t, p, l->fd, &m) < 0 || judge(t, p, &m, w) < 0 || lock_it(t, p, l, &m, w) < 0)
		return -1;
	bool still = is_there(p->dir, NAME) && is_named(p->dir, NAME, l->fd);
	return still ? own_it(t, p, &m, w, l) : 1;
}

int mark_take(struct task *t, const struct mark_place *p, const struct mark_wish *w,
	      struct mark_lock *ret)
{
	enum { TRIES = 100 };
	for (int i = 0; i < TRIES; i++) {
		struct mark_lock l = { .fd = -1 };
		int taken = take_one(t, p, w, &l);
		if (taken == 0) {
			*ret = l;
			return 0;
		}
		fd_close(&l.fd);
		if (taken < 0 || task_wait(t, -1, 0, delay_ms(DELAY_SR_LOCK_AGAIN)) < 0)
			return -1;
	}
	return refuse(t, p, "its " NAME " is another file again and again");
}

/* ---- holding it, and letting go ---- */

/* What came in its place. */
static const char *what_came(struct task *t, const struct mark_place *p)
{
	struct mark m = { 0 };
	if (mark_read(t, p, &m) < 0) {
		task_forgive(t);
		return "its " NAME " was replaced by something that is no mark";
	}
	if (m.version == 0)
		return "its " NAME " is gone; put it back from a copy, or make it anew with the "
		       "SR's uuid as its "
		       "only line, and run sr-scan";
	if (*m.owner.uuid)
		return str(t,
			   "its " NAME
			   " was replaced: it names the SR %s now, and %s as its holder",
			   m.sr, name_of(t, &m.owner));
	return str(t, "its " NAME " was replaced: it names the SR %s now; sr-scan looks again",
		   m.sr);
}

int mark_check(struct task *t, const struct mark_place *p, const struct mark_lock *l)
{
	return is_named(p->dir, NAME, l->fd) ? 0 : refuse(t, p, what_came(t, p));
}

int mark_leave(struct task *t, const struct mark_place *p, const struct mark_lock *l)
{
	struct mark m;
	if (!is_named(p->dir, NAME, l->fd))
		return 0; /* it was taken away, or is gone */
	if (read_mark(t, p, l->fd, &m) < 0)
		return -1;
	if (!*m.owner.uuid)
		return 0;
	m.owner = (struct holder){ "", "", "" };
	FD_SCOPE int fd = replace(t, p, l->fd, &m);
	if (fd < 0)
		return -1;
	/* In one step: others may be looking at the number. */
	return dup3(fd, l->fd, O_CLOEXEC) < 0 ? task_fail_errno(t, errno, NAME) : 0;
}

int mark_remove(struct task *t, const struct mark_place *p, const struct mark_lock *l)
{
	if (is_named(p->dir, NAME, l->fd) && unlinkat(p->dir, NAME, 0) < 0 && errno != ENOENT)
		return task_fail_errno(t, errno, str(t, "%s/" NAME, p->path));
	return sync_file(p->dir, SYNC_FILE_GONE) < 0 ? task_fail_errno(t, errno, p->path) : 0;
}

static bool is_whole(struct task *t, int dir, const char *name)
{
	struct mark m;
	FD_SCOPE int fd = openat(dir, name, O_RDONLY | HOW);
	return fd >= 0 && !parse_file(t, fd, &m);
}

/* What may be brought back stays. */
int mark_tidy(struct task *t, const struct mark_place *p)
{
	bool waste = is_there(p->dir, NEW) && (is_there(p->dir, NAME) || !is_whole(t, p->dir, NEW));
	if (waste && clear_left(p->dir) && sync_file(p->dir, SYNC_FILE_GONE) < 0)
		return task_fail_errno(t, errno, p->path);
	return 0;
}
