// SPDX-License-Identifier: Apache-2.0
/* churn.c -- reads and writes blocks of a file without rest, past the cache, and knows what each one must hold.
 * A file in memory (/tmp) is one without a disk below.
 *
 *     churn start PATH MIB READS       in the background; READS: of 100 operations
 *     churn report [PATH]              ops= reads= writes= wrong= longest_ms= seconds=, since the last one
 *     churn stop [PATH]                the same, after all blocks were read and compared
 *     churn check PATH                 blocks= wrong=: each block is one that was written to its place
 *
 * A block begins with its number and its generation, and the rest of it follows from both. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, WORDS = BLOCK / 8, FLUSH_EVERY = 64 };
enum { RUN = 256 }; /* blocks at once, a MiB, when it goes through all of them */

static uint64_t *buffer;     /* RUN blocks, aligned; single ones use the first */
static uint32_t *generation; /* of each block; NULL: any will do */
static uint64_t blocks;
static volatile sig_atomic_t asked; /* SIGUSR1: report, SIGTERM: stop */

static struct {
	uint64_t reads, writes, wrong;
	double longest, since;
} seen;

static double now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static uint64_t next_word(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

static void fill(uint64_t *words, uint64_t block, uint32_t gen)
{
	words[0] = block << 32 | gen;
	for (int i = 1; i < WORDS; i++)
		words[i] = next_word(words[i - 1] + 0x9e3779b97f4a7c15u);
}

static bool is_right(const uint64_t *words, uint64_t block)
{
	uint32_t gen = (uint32_t)words[0];
	if (words[0] >> 32 != block || (generation && gen != generation[block]))
		return false;
	for (int i = 1; i < WORDS; i++)
		if (words[i] != next_word(words[i - 1] + 0x9e3779b97f4a7c15u))
			return false;
	return true;
}

static void die(const char *what)
{
	fprintf(stderr, "churn: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void take_time(double begin)
{
	double took = now() - begin;
	if (took > seen.longest)
		seen.longest = took;
}

static void write_block(int fd, uint64_t block)
{
	double begin = now();
	fill(buffer, block, ++generation[block]);
	if (pwrite(fd, buffer, BLOCK, (off_t)(block * BLOCK)) != BLOCK)
		die("write");
	if (++seen.writes % FLUSH_EVERY == 0 && fdatasync(fd) < 0)
		die("flush");
	take_time(begin);
}

static void read_block(int fd, uint64_t block)
{
	double begin = now();
	if (pread(fd, buffer, BLOCK, (off_t)(block * BLOCK)) != BLOCK)
		die("read");
	take_time(begin);
	seen.reads++;
	seen.wrong += !is_right(buffer, block);
}

static void write_all(int fd)
{
	for (uint64_t b = 0; b < blocks; b += RUN) {
		for (int i = 0; i < RUN; i++)
			fill(buffer + i * WORDS, b + i, ++generation[b + i]);
		if (pwrite(fd, buffer, RUN * BLOCK, (off_t)(b * BLOCK)) != RUN * BLOCK)
			die("write");
	}
}

static void read_all(int fd)
{
	for (uint64_t b = 0; b < blocks;) {
		ssize_t got = pread(fd, buffer, RUN * BLOCK, (off_t)(b * BLOCK));
		if (got < BLOCK)
			die("read");
		for (ssize_t i = 0; i < got / BLOCK; i++, b++)
			seen.wrong += !is_right(buffer + i * WORDS, b);
		seen.reads += (uint64_t)got / BLOCK;
	}
}

static const char *beside(const char *path, const char *suffix)
{
	static char names[4][256];
	static int n;
	char *name = names[n++ % 4];
	snprintf(name, sizeof names[0], "/run/churn%s%s", path, suffix);
	for (char *p = name + 10; *p; p++)
		if (*p == '/')
			*p = '-';
	return name;
}

static void report(const char *path)
{
	const char *new = beside(path, ".new");
	FILE *f = fopen(new, "w");
	if (!f)
		die(new);
	fprintf(f,
		"ops=%" PRIu64 " reads=%" PRIu64 " writes=%" PRIu64 " wrong=%" PRIu64
		" longest_ms=%.1f seconds=%.2f\n",
		seen.reads + seen.writes, seen.reads, seen.writes, seen.wrong, seen.longest * 1e3,
		now() - seen.since);
	fclose(f);
	rename(new, beside(path, ".report"));
	uint64_t wrong = seen.wrong;
	memset(&seen, 0, sizeof seen);
	seen.wrong = wrong;
	seen.since = now();
}

static void on_signal(int number)
{
	if (asked != SIGTERM)
		asked = number;
}

static void work(int fd, const char *path, uint64_t reads)
{
	uint64_t dice = (uint64_t)(now() * 1e9) | 1;
	seen.since = now();
	while (asked != SIGTERM) {
		dice = next_word(dice);
		uint64_t block = (dice >> 20) % blocks;
		if (dice % 100 < reads)
			read_block(fd, block);
		else
			write_block(fd, block);
		if (asked == SIGUSR1) {
			asked = 0;
			report(path);
		}
	}
	read_all(fd);
	report(path);
}

static int open_file(const char *path, int flags)
{
	int fd = open(path, flags | O_DIRECT | O_CLOEXEC, 0644);
	if (fd < 0 && errno == EINVAL)
		fd = open(path, flags | O_CLOEXEC, 0644);
	if (fd < 0 || posix_memalign((void **)&buffer, BLOCK, RUN * BLOCK))
		die(path);
	return fd;
}

static int start(const char *path, uint64_t mib, uint64_t reads)
{
	int fd = open_file(path, O_RDWR | O_CREAT);
	blocks = mib << 8;
	generation = calloc(blocks, sizeof *generation);
	write_all(fd);
	if (fsync(fd) < 0 || daemon(0, 0) < 0)
		die(path);
	memset(&seen, 0, sizeof seen);
	signal(SIGUSR1, on_signal);
	signal(SIGTERM, on_signal);
	FILE *f = fopen(beside(path, ".pid"), "w");
	fprintf(f, "%d\n", getpid());
	fclose(f);
	work(fd, path, reads);
	return 0;
}

/* Until the file is there that the signal makes. */
static int ask(const char *path, int number)
{
	int pid = 0;
	char line[256] = "";
	const char *answer = beside(path, ".report");
	FILE *f = fopen(beside(path, ".pid"), "r");
	if (!f || fscanf(f, "%d", &pid) != 1)
		die("is not running");
	fclose(f);
	unlink(answer);
	if (kill(pid, number) < 0)
		die("has ended");
	while (!(f = fopen(answer, "r"))) {
		if (kill(pid, 0) < 0)
			die("has ended");
		usleep(1000);
	}
	fputs(fgets(line, sizeof line, f) ? line : "", stdout);
	return 0;
}

static int check(const char *path)
{
	int fd = open_file(path, O_RDONLY);
	struct stat st;
	fstat(fd, &st);
	blocks = (uint64_t)st.st_size / BLOCK;
	read_all(fd);
	printf("blocks=%" PRIu64 " wrong=%" PRIu64 "\n", blocks, seen.wrong);
	return 0;
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "", *path = argc > 2 ? argv[2] : "/disk/a/churn";
	if (!strcmp(word, "start") && argc == 5)
		return start(path, strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
	if (!strcmp(word, "report"))
		return ask(path, SIGUSR1);
	if (!strcmp(word, "stop"))
		return ask(path, SIGTERM);
	if (!strcmp(word, "check"))
		return check(path);
	fprintf(stderr, "churn: the comment at the top of churn.c has the usage\n");
	return 2;
}
