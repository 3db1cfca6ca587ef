// SPDX-License-Identifier: Apache-2.0

/* guest.c -- process 1 of the test guest: prepares the disks, does the
 * workload, and answers one line for each line it reads on the serial port.
 *
 *     < count start                        the table at the end of this file
 *     > OK count start counter=0           has all the commands
 *
 * The workload is made to judge a snapshot by.  One counter goes up without
 * rest, and each value is written to all disks in the order of their letters
 * before the next one is begun:
 *
 *     a: 7 ------- 8 ------- 9 -------      an image of all disks at ONE
 *     b: --7 ------- 8 ------- 9 -----      instant holds  a >= b >= c
 *     c: ----7 ------- 8 ------- 9 ---      and            c >= a - 1
 *
 * Under the names shutdown, poweroff, reboot and halt this program only sends
 * process 1 the signal for it; they are the ones of busybox init. */

#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <net/if.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <cpuid.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define BLOCK 4096
#define MIB (1 << 20)
#define DISKS 26
#define SHOWN 900 /* bytes of a program's output in an answer */

#ifndef MS_LAZYTIME
#define MS_LAZYTIME (1 << 25)
#endif

struct disk {
	char letter;  /* a for /dev/vda or /dev/sda */
	bool mounted; /* on /disk/<letter> */
	bool readonly;
	int counter;             /* the file, -1: no counter here */
	_Atomic uint64_t errors; /* met by the workload */
};

/* In the order of letters.  Changed, like the counter files, only by a holder
 * of round_lock. */
static struct disk disks[DISKS];
static int ndisks;

/* ---- answers ---------------------------------------------------------- */

static int line = -1; /* the serial port */
static char reply[16384];
static size_t reply_len;
static void (*after)(void); /* to be done when the answer is out */

static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	int n = vsnprintf(reply + reply_len, sizeof reply - reply_len, format, args);
	va_end(args);
	if (n > 0)
		reply_len += n;
	if (reply_len >= sizeof reply)
		reply_len = sizeof reply - 1;
}

/* What was said so far is no longer true: the reason stands alone. */
static int fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	reply_len = vsnprintf(reply, sizeof reply, format, args);
	va_end(args);
	return -1;
}

static int fail_errno(const char *what)
{
	return fail("%s: %s", what, strerror(errno));
}

static void print_line(const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(line, text, len);
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return;
		if (n > 0) {
			text += n;
			len -= n;
		}
	}
}

/* ---- small helpers ---------------------------------------------------- */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static double uptime(void)
{
	struct timespec t;

	clock_gettime(CLOCK_BOOTTIME, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void nap(double seconds)
{
	struct timespec t = { seconds, (seconds - (long)seconds) * 1e9 };

	nanosleep(&t, NULL);
}

/* The first line of a small file, "" when there is none. */
static char *first_line(const char *path, char *text, size_t size)
{
	FILE *f = fopen(path, "re");

	*text = 0;
	if (f) {
		if (fgets(text, size, f))
			text[strcspn(text, "\n")] = 0;
		fclose(f);
	}
	return text;
}

/* Virtio's disk of that letter, or else SATA's: machines have one kind. */
static const char *disk_bus(char letter)
{
	char path[32];

	snprintf(path, sizeof path, "/sys/block/vd%c", letter);
	return access(path, F_OK) ? "sd" : "vd";
}

static char *sys_block(char letter, const char *name, char *text, size_t size)
{
	char path[64];

	snprintf(path, sizeof path, "/sys/block/%s%c/%s", disk_bus(letter), letter, name);
	return first_line(path, text, size);
}

static bool put(const char *path, int flags, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags, 0644);
	if (fd < 0)
		return false;

	bool ok = write(fd, data, len) == (ssize_t)len;
	close(fd);
	return ok;
}

static bool put_text(const char *path, const char *text)
{
	return put(path, 0, text, strlen(text));
}

static bool fsync_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return false;

	bool ok = !fsync(fd);
	close(fd);
	return ok;
}

/* FNV-1a, taking words of 8 bytes for the octets: eight times as quick, which
 * is felt in an emulated processor. */
static uint64_t fnv(uint64_t sum, const uint64_t *words, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum = (sum ^ words[i]) * UINT64_C(0x100000001b3);
	return sum;
}
#define FNV_START UINT64_C(0xcbf29ce484222325)

static uint64_t splitmix(uint64_t *state)
{
	uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void fill(uint64_t *words, size_t n, uint64_t *state)
{
	for (size_t i = 0; i < n; i++)
		words[i] = splitmix(state);
}

static bool write_all(int fd, const void *data, size_t len, off_t at)
{
	while (len) {
		ssize_t n = pwrite(fd, data, len, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		data = (const char *)data + n;
		at += n;
		len -= n;
	}
	return true;
}

/* Children that nobody waits for come to process 1; `run` must not lose its
 * own to whoever collects those. */
static pthread_mutex_t reap_lock = PTHREAD_MUTEX_INITIALIZER;

/* Runs a program with its output in the file `out`.  Its exit status, or -1. */
static int run(const char *out, char *const argv[])
{
	pthread_mutex_lock(&reap_lock);
	int status = -1;
	pid_t pid = fork();
	if (pid == 0) {
		sigset_t none;
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		setsid();
		dup2(open("/dev/null", O_RDONLY), 0);
		dup2(open(out, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600), 1);
		dup2(1, 2);
		execv(argv[0], argv);
		_exit(127);
	}
	if (pid > 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	pthread_mutex_unlock(&reap_lock);

	if (pid < 0 || status == -1)
		return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void reap_strangers(void)
{
	if (pthread_mutex_trylock(&reap_lock))
		return;
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	pthread_mutex_unlock(&reap_lock);
}

/* ---- the counter ------------------------------------------------------- */

/* The block at the start of /disk/<letter>/counter, all words little endian:
 *
 *     0     510 times the value
 *     4080  "SFCOUNT1"
 *     4088  FNV-1a of the 511 words above
 *
 * A block with different values in it, or the wrong sum, is a torn write. */
#define WORDS (BLOCK / 8)
#define COUNTER_MAGIC UINT64_C(0x31544e554f434653)

static _Atomic uint64_t counter; /* the value being written */
static atomic_bool counting;
static pthread_t count_thread;
static pthread_mutex_t round_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int round_waiters;
static _Atomic uint64_t longest_round; /* ns, for `gap` */

static bool counter_put(struct disk *d, uint64_t n)
{
	static _Alignas(BLOCK) uint64_t block[WORDS];

	for (int i = 0; i < WORDS - 2; i++)
		block[i] = n;
	block[WORDS - 2] = COUNTER_MAGIC;
	block[WORDS - 1] = fnv(FNV_START, block, WORDS - 1);
	if (pwrite(d->counter, block, BLOCK, 0) == BLOCK)
		return true;
	d->errors++;
	return false;
}

/* EBADMSG: torn. */
static bool counter_get(struct disk *d, uint64_t *ret_n)
{
	static _Alignas(BLOCK) uint64_t block[WORDS];

	if (d->counter < 0) {
		errno = ENOENT;
		return false;
	}
	if (pread(d->counter, block, BLOCK, 0) != BLOCK)
		return false;

	bool whole = block[WORDS - 2] == COUNTER_MAGIC &&
		     block[WORDS - 1] == fnv(FNV_START, block, WORDS - 1);
	for (int i = 1; i < WORDS - 2; i++)
		whole = whole && block[i] == block[0];
	if (!whole) {
		errno = EBADMSG;
		return false;
	}
	*ret_n = block[0];
	return true;
}

/* Waits for the end of the round.  The counter takes the lock again at once,
 * so it is asked to stand back; and a round which hangs in a frozen filesystem
 * must not take the commands with it: after a second the caller goes on
 * without the lock. */
static bool round_hold(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	round_waiters++;
	bool held = !pthread_mutex_timedlock(&round_lock, &until);
	round_waiters--;
	return held;
}

static void round_release(bool held)
{
	if (held)
		pthread_mutex_unlock(&round_lock);
}

/* One value, to all disks in order. */
static bool count_round(uint64_t n)
{
	bool ok = true;

	counter = n;
	for (int i = 0; i < ndisks; i++)
		if (disks[i].counter >= 0 && !counter_put(&disks[i], n))
			ok = false;
	return ok;
}

static void *count_run(void *unused)
{
	while (counting) {
		while (round_waiters)
			nap(0.0001);
		pthread_mutex_lock(&round_lock);
		double begin = now();
		bool ok = count_round(counter + 1);
		uint64_t took = (now() - begin) * 1e9;
		pthread_mutex_unlock(&round_lock);
		if (took > longest_round)
			longest_round = took;
		if (!ok)
			nap(0.05);
	}
	return unused;
}

static int count_start(void)
{
	if (counting)
		return fail("is running");

	uint64_t highest = counter;
	uint64_t n;
	for (int i = 0; i < ndisks; i++)
		if (counter_get(&disks[i], &n) && n > highest)
			highest = n;

	/* After a crash the last disks may be one behind.  They catch up before
	 * the first disk goes on, else they would be two behind. */
	counter = highest;
	for (int i = 0; i < ndisks; i++)
		if (disks[i].counter >= 0 && (!counter_get(&disks[i], &n) || n != highest))
			counter_put(&disks[i], highest);

	counting = true;
	if (pthread_create(&count_thread, NULL, count_run, NULL)) {
		counting = false;
		return fail("no thread");
	}
	say("start counter=%" PRIu64, highest);
	return 0;
}

static int count_stop(void)
{
	if (!counting)
		return fail("is not running");
	counting = false;
	pthread_join(count_thread, NULL);
	say("stop counter=%" PRIu64, counter);
	return 0;
}

static int cmd_count(int argc, char **argv)
{
	(void)argc;
	if (!strcmp(argv[1], "start"))
		return count_start();
	if (!strcmp(argv[1], "stop"))
		return count_stop();
	return fail("start or stop?");
}

static void say_counter(struct disk *d)
{
	uint64_t n;

	if (d->counter < 0)
		say("-");
	else if (counter_get(d, &n))
		say("%" PRIu64, n);
	else
		say(errno == EBADMSG ? "torn" : "error");
}

static int cmd_counters(int argc, char **argv)
{
	(void)argc, (void)argv;
	bool held = round_hold();

	for (int i = 0; i < ndisks; i++)
		if (disks[i].mounted) {
			say("%s%c=", reply_len ? " " : "", disks[i].letter);
			say_counter(&disks[i]);
		}
	round_release(held);
	return 0;
}

/* ---- disks ------------------------------------------------------------- */

static struct disk *disk_find(const char *letter)
{
	for (int i = 0; i < ndisks; i++)
		if (disks[i].mounted && disks[i].letter == letter[0] && !letter[1])
			return &disks[i];
	fail("no disk %s", letter);
	return NULL;
}

/* A disk with a partition table is what the machine boots from, not ours. */
enum content { BLANK, EXT4, PARTITIONS, UNREADABLE };

static enum content disk_content(const char *device)
{
	unsigned char head[2048];
	int fd = open(device, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof head, 0);

	if (fd >= 0)
		close(fd);
	if (n != sizeof head)
		return UNREADABLE;
	if (head[1080] == 0x53 && head[1081] == 0xef)
		return EXT4;
	if (head[510] == 0x55 && head[511] == 0xaa)
		return PARTITIONS;
	return BLANK;
}

/* The counter's block is written once and synced, so that later writes of it
 * change nothing but the block. */
static void counter_open(struct disk *d)
{
	char path[32];
	struct stat st;

	snprintf(path, sizeof path, "/disk/%c/counter", d->letter);
	d->counter = open(path, O_RDWR | O_CREAT | O_DIRECT | O_DSYNC | O_CLOEXEC, 0644);
	if (d->counter < 0) {
		d->errors++;
		return;
	}
	if (!fstat(d->counter, &st) && st.st_size >= BLOCK)
		return;

	counter_put(d, 0);
	*strrchr(path, '/') = 0;
	if (fsync(d->counter) || !fsync_dir(path))
		d->errors++;
}

/* No timestamps and no lazy work in the background: a disk at rest is to be
 * at rest, and `dirty` data is to stay unflushed. */
static bool disk_mount(struct disk *d, const char *device)
{
	char path[32];

	snprintf(path, sizeof path, "/disk/%c", d->letter);
	mkdir("/disk", 0755);
	mkdir(path, 0755);
	unsigned long flags = MS_NOATIME | MS_LAZYTIME | (d->readonly ? MS_RDONLY : 0);
	return !mount(device, path, "ext4", flags,
		      d->readonly ? "noload" : "commit=60,noinit_itable");
}

static bool disk_format(const char *device)
{
	char *argv[] = { "/sbin/mke2fs",
			 "-q",
			 "-F",
			 "-t",
			 "ext4",
			 "-m",
			 "0",
			 "-b",
			 "4096",
			 "-J",
			 "size=4",
			 "-E",
			 "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
			 (char *)device,
			 NULL };

	return !run("/tmp/mke2fs.out", argv);
}

/* False: not one of ours.  What is ours but cannot be mounted stays in the
 * list and is shown by `status`; it is never formatted anew. */
static bool disk_open(struct disk *d, char letter)
{
	char device[16], text[16];

	snprintf(device, sizeof device, "/dev/%s%c", disk_bus(letter), letter);
	enum content content = disk_content(device);
	if (content == PARTITIONS)
		return false;

	memset(d, 0, sizeof *d);
	d->letter = letter;
	d->counter = -1;
	d->readonly = *sys_block(letter, "ro", text, sizeof text) == '1';
	if (content == UNREADABLE || (content == BLANK && (d->readonly || !disk_format(device))) ||
	    !disk_mount(d, device)) {
		d->errors++;
		return true;
	}
	d->mounted = true;
	if (!d->readonly)
		counter_open(d);
	return true;
}

static int disks_mounted(void)
{
	int n = 0;

	for (int i = 0; i < ndisks; i++)
		n += disks[i].mounted;
	return n;
}

/* Opens the disks not yet in the list, each at its place in the order. */
static void disks_scan(void)
{
	for (char letter = 'a'; letter <= 'z'; letter++) {
		char text[32];
		int at = 0;
		while (at < ndisks && disks[at].letter < letter)
			at++;
		if (at < ndisks && disks[at].letter == letter)
			continue;
		if (!*sys_block(letter, "size", text, sizeof text))
			continue;
		static struct disk new;
		if (!disk_open(&new, letter))
			continue;
		memmove(&disks[at + 1], &disks[at], (ndisks - at) * sizeof disks[0]);
		disks[at] = new;
		ndisks++;
	}
}

static void disk_close(struct disk *d)
{
	char path[32];

	if (d->counter >= 0)
		close(d->counter);
	d->counter = -1;
	if (!d->mounted)
		return;
	snprintf(path, sizeof path, "/disk/%c", d->letter);
	if (umount(path)) { /* somebody sits there: at least make it clean */
		mount(NULL, path, NULL, MS_REMOUNT | MS_RDONLY, NULL);
		umount2(path, MNT_DETACH);
	}
	d->mounted = false;
}

static int cmd_rescan(int argc, char **argv)
{
	(void)argc, (void)argv;
	if (counting)
		return fail("the counter is running");
	disks_scan();
	say("disks=%d", disks_mounted());
	return 0;
}

static int cmd_eject(int argc, char **argv)
{
	(void)argc;
	if (counting)
		return fail("the counter is running");
	struct disk *d = disk_find(argv[1]);
	if (!d)
		return -1;

	disk_close(d);
	ndisks--;
	memmove(d, d + 1, (disks + ndisks - d) * sizeof *d);
	say("disks=%d", disks_mounted());
	return 0;
}

/* ---- files on the disks ------------------------------------------------ */

/* Names that can stand in an answer, and none that we use ourselves. */
static bool name_ok(const char *name)
{
	bool ok = *name && *name != '.' && strlen(name) <= 64 && strcmp(name, "counter");

	for (const char *c = name; *c; c++)
		ok = ok && (isalnum((unsigned char)*c) || strchr("._-", *c));
	if (!ok)
		fail("bad name %.64s", name);
	return ok;
}

static char *disk_path(struct disk *d, const char *name, char *path, size_t size)
{
	snprintf(path, size, "/disk/%c/%s", d->letter, name);
	return path;
}

static bool sync_parent(struct disk *d)
{
	char path[32];

	return fsync_dir(disk_path(d, "", path, sizeof path));
}

static bool number(const char *text, uint64_t low, uint64_t high, uint64_t *ret_n)
{
	char *end;
	uint64_t n = strtoull(text, &end, 0);

	if (!isdigit((unsigned char)*text) || *end || n < low || n > high) {
		fail("bad number %s", text);
		return false;
	}
	*ret_n = n;
	return true;
}

static bool mark_put(struct disk *d, const char *name)
{
	char path[128], text[160];
	int fd = open(disk_path(d, name, path, sizeof path),
		      O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return false;

	int len = snprintf(text, sizeof text, "mark %s uptime=%.3f\n", name, uptime());
	bool ok = write_all(fd, text, len, 0) && !fsync(fd);
	close(fd);
	return ok && sync_parent(d);
}

static int cmd_mark(int argc, char **argv)
{
	(void)argc;
	if (!name_ok(argv[1]))
		return -1;

	int marked = 0;
	for (int i = 0; i < ndisks; i++) {
		struct disk *d = &disks[i];
		if (!d->mounted)
			return fail("disk %c: unmountable", d->letter);
		if (d->readonly)
			continue;
		if (!mark_put(d, argv[1])) {
			d->errors++;
			return fail("disk %c: %s", d->letter, strerror(errno));
		}
		marked++;
	}
	if (!marked)
		return fail("no disk to write to");
	say("%s", argv[1]);
	return 0;
}

static int cmd_unmark(int argc, char **argv)
{
	(void)argc;
	char path[128];

	if (!name_ok(argv[1]))
		return -1;
	for (int i = 0; i < ndisks; i++) {
		struct disk *d = &disks[i];
		if (!d->mounted || d->readonly)
			continue;
		if ((unlink(disk_path(d, argv[1], path, sizeof path)) && errno != ENOENT) ||
		    !sync_parent(d)) {
			d->errors++;
			return fail("disk %c: %s", d->letter, strerror(errno));
		}
	}
	say("%s", argv[1]);
	return 0;
}

/* Marks and other files lie side by side; a mark begins with "mark <name> ". */
static bool is_mark(struct disk *d, const char *name)
{
	char path[320], text[160], want[280];

	if (*name == '.')
		return false;
	first_line(disk_path(d, name, path, sizeof path), text, sizeof text);
	int len = snprintf(want, sizeof want, "mark %s ", name);
	return !strncmp(text, want, len);
}

static void say_marks(struct disk *d)
{
	char path[32];
	struct dirent **names;
	int n = scandir(disk_path(d, "", path, sizeof path), &names, NULL, alphasort);
	bool any = false;

	for (int i = 0; i < n; i++) {
		if (is_mark(d, names[i]->d_name)) {
			say("%s%s", any ? "," : "", names[i]->d_name);
			any = true;
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	if (!any)
		say(n < 0 ? "error" : "-");
}

static int cmd_marks(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (int i = 0; i < ndisks; i++)
		if (disks[i].mounted) {
			say("%s%c=", reply_len ? " " : "", disks[i].letter);
			say_marks(&disks[i]);
		}
	return 0;
}

static _Alignas(BLOCK) uint64_t chunk[MIB / 8];

static int cmd_write(int argc, char **argv)
{
	char path[128];
	uint64_t mib, seed = 1;
	struct disk *d = disk_find(argv[1]);
	if (!d || !name_ok(argv[2]) || !number(argv[3], 0, 1 << 20, &mib))
		return -1;
	if (argc > 4 && !number(argv[4], 0, UINT64_MAX, &seed))
		return -1;

	int fd = open(disk_path(d, argv[2], path, sizeof path),
		      O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0)
		return fail_errno(path);
	uint64_t sum = FNV_START;
	bool ok = true;
	for (uint64_t i = 0; ok && i < mib; i++) {
		fill(chunk, MIB / 8, &seed);
		sum = fnv(sum, chunk, MIB / 8);
		ok = write_all(fd, chunk, MIB, i * MIB);
	}
	ok = ok && !fsync(fd) && sync_parent(d);
	if (!ok)
		fail_errno(path);
	close(fd);
	if (!ok)
		return -1;
	say("%s %s bytes=%" PRIu64 " sum=%016" PRIx64, argv[1], argv[2], mib * MIB, sum);
	return 0;
}

static int cmd_sum(int argc, char **argv)
{
	(void)argc;
	char path[128];
	struct disk *d = disk_find(argv[1]);
	if (!d || !name_ok(argv[2]))
		return -1;

	sync();
	put_text("/proc/sys/vm/drop_caches", "3");
	FILE *f = fopen(disk_path(d, argv[2], path, sizeof path), "re");
	if (!f)
		return fail_errno(path);
	uint64_t sum = FNV_START, bytes = 0;
	size_t n;
	while ((n = fread(chunk, 1, MIB, f)) > 0) {
		memset((char *)chunk + n, 0, -n % 8);
		sum = fnv(sum, chunk, (n + 7) / 8);
		bytes += n;
	}
	bool ok = !ferror(f);
	if (!ok)
		fail_errno(path);
	fclose(f);
	if (!ok)
		return -1;
	say("%s %s bytes=%" PRIu64 " sum=%016" PRIx64, argv[1], argv[2], bytes, sum);
	return 0;
}

/* The bytes given back to the host, 0 when the disk does not take discards. */
static uint64_t disk_trim(struct disk *d)
{
	char path[32];
	struct fstrim_range range = { .len = UINT64_MAX };
	int fd = open(disk_path(d, "", path, sizeof path), O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;

	int rc = ioctl(fd, FITRIM, &range);
	close(fd);
	return rc ? 0 : range.len;
}

static int cmd_rm(int argc, char **argv)
{
	(void)argc;
	char path[128];
	struct disk *d = disk_find(argv[1]);
	if (!d || !name_ok(argv[2]))
		return -1;

	if (unlink(disk_path(d, argv[2], path, sizeof path)))
		return fail_errno(path);
	sync();
	say("%s %s trimmed=%" PRIu64, argv[1], argv[2], disk_trim(d));
	return 0;
}

/* Writes past the guest's cache and never flushes: the data is then dirty in
 * the host alone.  Small pieces, so that few MiB reach all disks too. */
static int dirty_write(const int *fds, int n, uint64_t mib)
{
	static uint64_t state;
	const size_t piece = MIB / 4;

	state ^= __rdtsc();
	fill(chunk, piece / 8, &state);
	for (uint64_t i = 0; i < mib * 4; i++) {
		for (size_t at = 0; at < piece / 8; at += 64)
			chunk[at] = splitmix(&state);
		if (!write_all(fds[i % n], chunk, piece, i / n * piece))
			return fail_errno("write");
	}
	return 0;
}

static int cmd_dirty(int argc, char **argv)
{
	(void)argc;
	uint64_t mib;
	int fds[DISKS], n = 0;
	char path[32];
	if (!number(argv[1], 1, 1 << 20, &mib))
		return -1;

	for (int i = 0; i < ndisks; i++) {
		if (!disks[i].mounted || disks[i].readonly)
			continue;
		fds[n] = open(disk_path(&disks[i], ".dirty", path, sizeof path),
			      O_WRONLY | O_CREAT | O_DIRECT | O_CLOEXEC, 0644);
		n += fds[n] >= 0;
	}
	double begin = now();
	int rc = n ? dirty_write(fds, n, mib) : fail("no disk to write to");
	double took = now() - begin;
	for (int i = 0; i < n; i++)
		close(fds[i]);
	if (!rc)
		say("mib=%" PRIu64 " ms=%.0f", mib, took * 1e3);
	return rc;
}

/* ---- pauses ------------------------------------------------------------ */

/* A stopped machine's monotonic clock stands still too, so that clock shows
 * only what the running guest suffers.  The processor's own counter goes on
 * under KVM: tsc_ms is the pause as the world sees it. */
static atomic_bool ticking;
static pthread_t tick_thread;
static _Atomic uint64_t longest_tick, longest_tsc, ticks;
static double tsc_hz;
static double tsc_begin_time;
static uint64_t tsc_begin;

static void tsc_calibrate_begin(void)
{
	tsc_begin_time = now();
	tsc_begin = __rdtsc();
}

static void tsc_calibrate_end(void)
{
	if (now() - tsc_begin_time < 0.02)
		nap(0.02);
	tsc_hz = (__rdtsc() - tsc_begin) / (now() - tsc_begin_time);
}

static void *tick_run(void *unused)
{
	double last = now();
	uint64_t last_tsc = __rdtsc();

	while (ticking) {
		nap(0.0005);
		double t = now();
		uint64_t tsc = __rdtsc();
		uint64_t ns = (t - last) * 1e9;
		if (ns > longest_tick)
			longest_tick = ns;
		if (tsc > last_tsc && tsc - last_tsc > longest_tsc)
			longest_tsc = tsc - last_tsc;
		last = t;
		last_tsc = tsc;
		ticks++;
	}
	return unused;
}

static void gap_reset(void)
{
	longest_tick = longest_tsc = longest_round = ticks = 0;
}

static int gap_report(const char *word)
{
	say("%stick_ms=%.1f write_ms=%.1f ticks=%" PRIu64 " tsc_ms=%.1f", word, longest_tick / 1e6,
	    longest_round / 1e6, ticks, longest_tsc / tsc_hz * 1e3);
	gap_reset();
	return 0;
}

static int cmd_gap(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";

	if (!strcmp(word, "start")) {
		if (ticking)
			return fail("is running");
		gap_reset();
		ticking = true;
		if (pthread_create(&tick_thread, NULL, tick_run, NULL)) {
			ticking = false;
			return fail("no thread");
		}
		say("start");
		return 0;
	}
	if (*word && strcmp(word, "stop"))
		return fail("start, stop or nothing?");
	if (!ticking)
		return fail("is not running");
	if (*word) {
		ticking = false;
		pthread_join(tick_thread, NULL);
	}
	return gap_report("");
}

/* ---- the end ----------------------------------------------------------- */

static void power_end(int how)
{
	static atomic_flag begun = ATOMIC_FLAG_INIT;

	if (atomic_flag_test_and_set(&begun))
		for (;;)
			pause();

	counting = false;
	bool held = round_hold();
	kill(-1, SIGTERM);
	sync();
	for (int i = 0; i < ndisks; i++)
		disk_close(&disks[i]);
	round_release(held);
	sync();
	/* The kernel's last word has the highest level, and this line is ours. */
	put_text("/proc/sys/kernel/printk", "0");
	reboot(how);
	_exit(1);
}

static void power_off(void)
{
	power_end(RB_POWER_OFF);
}
static void power_reboot(void)
{
	power_end(RB_AUTOBOOT);
}
static void crash_reset(void)
{
	put_text("/proc/sysrq-trigger", "b");
}
static void crash_panic(void)
{
	put_text("/proc/sysrq-trigger", "c");
}

static int cmd_poweroff(int argc, char **argv)
{
	(void)argc, (void)argv;
	after = power_off;
	return 0;
}

static int cmd_reboot(int argc, char **argv)
{
	(void)argc, (void)argv;
	after = power_reboot;
	return 0;
}

static int cmd_crash(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "panic"))
		return fail("panic or nothing?");
	after = argc > 1 ? crash_panic : crash_reset;
	return 0;
}

static bool power_pressed(int fd)
{
	struct input_event events[32];
	ssize_t n = read(fd, events, sizeof events);

	for (int i = 0; i < n / (ssize_t)sizeof events[0]; i++)
		if (events[i].type == EV_KEY && events[i].code == KEY_POWER && events[i].value)
			return true;
	return false;
}

static void power_signal(int fd)
{
	struct signalfd_siginfo info;

	if (read(fd, &info, sizeof info) != sizeof info)
		return;
	if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
		power_reboot();
	if (info.ssi_signo != SIGCHLD)
		power_off();
}

/* As busybox init takes them, and SIGINT for ctrl-alt-del. */
static void signals_block(sigset_t *set)
{
	static const int list[] = { SIGTERM, SIGINT, SIGUSR1, SIGUSR2, SIGPWR, SIGCHLD };

	sigemptyset(set);
	for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
		sigaddset(set, list[i]);
	sigprocmask(SIG_BLOCK, set, NULL);
}

/* Waits for the power button and for the signals; collects strangers. */
static void *power_run(void *set)
{
	struct pollfd fds[32] = { { .fd = signalfd(-1, set, SFD_CLOEXEC), .events = POLLIN } };
	int n = 1;
	glob_t found;

	if (!glob("/dev/input/event*", 0, NULL, &found))
		for (size_t i = 0; i < found.gl_pathc && n < 32; i++, n++) {
			fds[n].fd = open(found.gl_pathv[i], O_RDONLY | O_CLOEXEC);
			fds[n].events = POLLIN;
		}
	for (;;) {
		poll(fds, n, 1000);
		reap_strangers();
		if (fds[0].revents & POLLIN)
			power_signal(fds[0].fd);
		for (int i = 1; i < n; i++)
			if (fds[i].revents & POLLIN && power_pressed(fds[i].fd))
				power_off();
	}
	return NULL;
}

/* shutdown -h -P +0 "why" and its kin, as the guest agent calls them. */
static int signal_init(const char *name, int argc, char **argv)
{
	int sig = strcmp(name, "reboot") ? SIGUSR2 : SIGTERM;

	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "-r"))
			sig = SIGTERM;
	return kill(1, sig) ? 1 : 0;
}

/* ---- firmware ---------------------------------------------------------- */

/* The kernel shows a variable of UEFI as the file <name>-<owner>: 4 bytes of
 * attributes, then the value.  NAME of a command is one of ours. */
#define VARIABLES "/sys/firmware/efi/efivars/"
#define UEFI_OWNER "8be4df61-93ca-11d2-aa0d-00e098032b8c"
#define OUR_OWNER "3d1a5f0c-6b7e-4c52-9a0e-5c1f7e2b9d48"
#define KEPT_AND_SEEN_AT_RUN_TIME 7

struct variable {
	uint32_t attributes;
	char value[256];
};

static char *variable_path(const char *name, const char *owner, char *path, size_t size)
{
	snprintf(path, size, VARIABLES "%.64s-%s", name, owner);
	return path;
}

/* The length of the value, or -1. */
static int variable_get(const char *path, struct variable *v)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;

	ssize_t n = read(fd, v, sizeof *v);
	close(fd);
	return n < (ssize_t)sizeof v->attributes ? -1 : (int)(n - sizeof v->attributes);
}

/* The kernel guards variables that it does not know from being changed. */
static void variable_unguard(const char *path)
{
	long flags = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd >= 0)
		ioctl(fd, FS_IOC_SETFLAGS, &flags);
	if (fd >= 0)
		close(fd);
}

static int variable_set(const char *path, const char *value)
{
	struct variable v = { .attributes = KEPT_AND_SEEN_AT_RUN_TIME };
	size_t len = strlen(value);

	if (len > sizeof v.value)
		return fail("too long");
	memcpy(v.value, value, len);
	variable_unguard(path);
	if (!put(path, O_CREAT, &v, sizeof v.attributes + len))
		return fail_errno("variable");
	return 0;
}

static int cmd_variable(int argc, char **argv)
{
	char path[160];
	struct variable v;

	if (!name_ok(argv[1]))
		return -1;
	variable_path(argv[1], OUR_OWNER, path, sizeof path);
	if (argc > 2 && variable_set(path, argv[2]))
		return -1;
	int len = variable_get(path, &v);
	if (len < 0)
		return fail_errno("variable");
	say("%s=%.*s", argv[1], len, v.value);
	return 0;
}

static int cmd_firmware(int argc, char **argv)
{
	char path[160];
	struct variable v;

	(void)argc, (void)argv;
	if (access("/sys/firmware/efi", F_OK)) {
		say("bios");
		return 0;
	}
	int len = variable_get(variable_path("SecureBoot", UEFI_OWNER, path, sizeof path), &v);
	say("uefi secure=%s", len < 1 ? "unknown" : v.value[0] == 1 ? "yes" : "no");
	return 0;
}

/* ---- the other commands ------------------------------------------------ */

static int cmd_ping(int argc, char **argv)
{
	(void)argc, (void)argv;
	return 0;
}

static int cmd_sync(int argc, char **argv)
{
	(void)argc, (void)argv;
	sync();
	return 0;
}

static const char *boot_id(void)
{
	static char id[64];

	return first_line("/proc/sys/kernel/random/boot_id", id, sizeof id);
}

static const char *ip_address(void)
{
	static char text[INET_ADDRSTRLEN];
	struct ifreq request = { .ifr_name = "eth0" };
	struct sockaddr_in *address = (struct sockaddr_in *)&request.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int rc = ioctl(fd, SIOCGIFADDR, &request);

	close(fd);
	return rc ? "-" : inet_ntop(AF_INET, &address->sin_addr, text, sizeof text);
}

static void say_disk(struct disk *d)
{
	char serial[64], size[32];

	sys_block(d->letter, "serial", serial, sizeof serial);
	for (char *c = serial; *c; c++)
		if (!isgraph((unsigned char)*c))
			*c = '_';
	sys_block(d->letter, "size", size, sizeof size);
	say(" %c.serial=%s %c.bytes=%llu %c.state=%s %c.counter=", d->letter,
	    *serial ? serial : "-", d->letter, 512 * strtoull(size, NULL, 10), d->letter,
	    !d->mounted   ? "unmountable"
	    : d->readonly ? "ro"
			  : "rw",
	    d->letter);
	say_counter(d);
	say(" %c.errors=%" PRIu64, d->letter, d->errors);
}

static int cmd_status(int argc, char **argv)
{
	(void)argc, (void)argv;
	bool held = round_hold();

	say("boot=%s uptime=%.2f ip=%s counting=%s counter=%" PRIu64 " disks=%d", boot_id(),
	    uptime(), ip_address(), counting ? "yes" : "no", counter, disks_mounted());
	for (int i = 0; i < ndisks; i++)
		say_disk(&disks[i]);
	round_release(held);
	return 0;
}

static void say_escaped(const char *text, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		unsigned char c = text[i];
		if (c == '\n')
			say("\\n");
		else if (c == '\\')
			say("\\\\");
		else if (c < ' ' || c == 127)
			say("\\x%02x", c);
		else
			say("%c", c);
	}
}

/* The output goes to a file and not to a pipe: what the program leaves running
 * in the background must not hold up the answer. */
static int cmd_shell(int argc, char **argv)
{
	(void)argc;
	static const char out[] = "/tmp/shell.out";
	char text[SHOWN];
	int rc = run(out, (char *[]){ "/bin/busybox", "sh", "-c", argv[1], NULL });
	int fd = open(out, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof text);

	if (fd >= 0)
		close(fd);
	unlink(out);
	if (rc)
		say("rc=%d ", rc);
	say_escaped(text, n > 0 ? n : 0);
	return rc ? -1 : 0;
}

/* Asked in this moment; what the kernel tells of it is from when it booted. */
static int cmd_cpuid(int argc, char **argv)
{
	unsigned a, b, c, d;

	__cpuid_count(strtoul(argv[1], NULL, 16), argc > 2 ? strtoul(argv[2], NULL, 16) : 0, a, b,
		      c, d);
	say("eax=%x ebx=%x ecx=%x edx=%x", a, b, c, d);
	return 0;
}

static int cmd_help(int argc, char **argv);

/* ---- the table --------------------------------------------------------- */

static const struct command {
	const char *name;
	const char *arguments;
	int low, high; /* how many; high < 0: the rest of the line is one */
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "ping", "", 0, 0, cmd_ping, "answers" },
	{ "status", "", 0, 0, cmd_status, "boot, uptime, address, counter, and each disk" },
	{ "count", "start|stop", 1, 1, cmd_count,
	  "the counter, written to all disks without rest" },
	{ "counters", "", 0, 0, cmd_counters, "the values on the disks" },
	{ "mark", "NAME", 1, 1, cmd_mark, "leaves a mark on each disk, durable when answered" },
	{ "unmark", "NAME", 1, 1, cmd_unmark, "takes it away" },
	{ "marks", "", 0, 0, cmd_marks, "the marks on each disk" },
	{ "write", "LETTER NAME MIB [SEED]", 3, 4, cmd_write,
	  "a file of random data, synced; its sum" },
	{ "sum", "LETTER NAME", 2, 2, cmd_sum, "reads a file from the disk; its sum" },
	{ "rm", "LETTER NAME", 2, 2, cmd_rm, "removes a file and trims the disk" },
	{ "dirty", "MIB", 1, 1, cmd_dirty, "writes to all disks past the cache, without a flush" },
	{ "gap", "[start|stop]", 0, 1, cmd_gap, "the longest pauses since the last report" },
	{ "firmware", "", 0, 0, cmd_firmware, "what the machine was booted by" },
	{ "variable", "NAME [VALUE]", 1, 2, cmd_variable, "reads, or writes and reads, one of UEFI" },
	{ "cpuid", "LEAF [SUBLEAF]", 1, 2, cmd_cpuid, "what the CPU says of itself; numbers in hex" },
	{ "rescan", "", 0, 0, cmd_rescan, "prepares disks plugged in later" },
	{ "eject", "LETTER", 1, 1, cmd_eject, "unmounts a disk, to be unplugged" },
	{ "sync", "", 0, 0, cmd_sync, "flushes everything" },
	{ "poweroff", "", 0, 0, cmd_poweroff, "a clean end" },
	{ "reboot", "", 0, 0, cmd_reboot, "a clean start" },
	{ "crash", "[panic]", 0, 1, cmd_crash, "resets the machine at once, or panics" },
	{ "shell", "CMD...", 1, -1, cmd_shell, "runs a command; the first 900 bytes it prints" },
	{ "help", "", 0, 0, cmd_help, "this" },
};
#define COMMANDS (sizeof commands / sizeof commands[0])

static int cmd_help(int argc, char **argv)
{
	(void)argc, (void)argv;
	for (const struct command *c = commands; c < commands + COMMANDS; c++)
		say("%s%s%s%s: %s", c == commands ? "" : "; ", c->name, *c->arguments ? " " : "",
		    c->arguments, c->help);
	return 0;
}

static const struct command *command_find(const char *name)
{
	for (const struct command *c = commands; c < commands + COMMANDS; c++)
		if (!strcmp(c->name, name))
			return c;
	return NULL;
}

static int command_run(const struct command *c, char *rest)
{
	char *argv[8] = { (char *)c->name };
	int argc = 1;

	rest += strspn(rest, " ");
	if (c->high < 0 && *rest)
		argv[argc++] = rest;
	else
		for (char *save, *word = strtok_r(rest, " ", &save); word && argc < 8;
		     word = strtok_r(NULL, " ", &save))
			argv[argc++] = word;
	if (argc - 1 < c->low || (c->high >= 0 && argc - 1 > c->high))
		return fail("usage: %s %s", c->name, c->arguments);
	return c->run(argc, argv);
}

/* One command in, one line out. */
static void serve(char *text)
{
	static char answer[sizeof reply + 128];
	text += strspn(text, " ");
	size_t len = strcspn(text, " ");
	if (!len)
		return;

	char *rest = text + len + (text[len] != 0);
	text[len] = 0;
	reply_len = 0;
	*reply = 0;
	after = NULL;
	const struct command *c = command_find(text);
	int rc = c ? command_run(c, rest) : fail("unknown command");
	int n = snprintf(answer, sizeof answer, "%s %.64s%s%s\n", rc ? "ERR" : "OK", text,
			 reply_len ? " " : "", reply);
	print_line(answer, n);
	if (after) {
		tcdrain(line);
		after();
	}
}

/* ---- main -------------------------------------------------------------- */

static void line_open(void)
{
	struct termios t;

	line = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (line < 0 || tcgetattr(line, &t))
		return;
	cfmakeraw(&t);
	t.c_cflag |= CLOCAL;
	tcsetattr(line, TCSAFLUSH, &t);
}

/* Never returns: without a serial port the machine waits for its button. */
static void serve_line(void)
{
	static char text[8192];
	size_t len = 0;

	for (;;) {
		char c;
		ssize_t n = read(line, &c, 1);
		if (n <= 0) {
			nap(0.1);
			continue;
		}
		if (c != '\n' && c != '\r') {
			if (len < sizeof text - 1)
				text[len++] = c;
			continue;
		}
		text[len] = 0;
		len = 0;
		serve(text);
	}
}

int main(int argc, char **argv)
{
	const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	if (strcmp(name, "guest"))
		return signal_init(name, argc, argv);

	sigset_t set;
	pthread_t power;
	tsc_calibrate_begin();
	reboot(RB_DISABLE_CAD);
	signals_block(&set);
	pthread_create(&power, NULL, power_run, &set);
	disks_scan();
	tsc_calibrate_end();
	line_open();

	char ready[160];
	int n = snprintf(ready, sizeof ready,
			 "STILLFRAME-GUEST ready boot=%s disks=%d uptime=%.2f\n", boot_id(),
			 disks_mounted(), uptime());
	print_line(ready, n);
	serve_line();
}
