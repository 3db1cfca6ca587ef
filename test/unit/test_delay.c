// SPDX-License-Identifier: Apache-2.0
/* Delays that are scaled, and a day that is stepped. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/delay.h"
#include "base/task.h"
#include "base/text.h"
#include "unit/check.h"

static const char no_name[] = "there is no delay of that name";
static const char no_factor[] = "the factor is no decimal number above 0";

static const struct {
	const char *words, *wrong; /* NULL: nothing */
	int refusal, idle;         /* then, in ms */
} all[] = {
	{ "http-idle=0.5", NULL, 100, 60000 }, /* the environment has said 0.02 of the other */
	{ "login-refusal=2", NULL, 10000,
	  60000 }, /* of what the table says, not of what was before */
	{ "login-refusal=.5", no_factor, 10000, 60000 },
	{ "login-refusal=1.", NULL, 5000, 60000 },
	{ "login-refusal=0.000001", NULL, 1, 60000 },
	{ "login-refusal=99999999999", NULL, INT_MAX, 60000 },
	{ "all=0.01", NULL, 50, 1200 },
	{ "login-refusal=1", NULL, 5000, 1200 },
	{ "all=0", no_factor, 5000, 1200 },
	{ "all=0.0", no_factor, 5000, 1200 },
	{ "all=-1", no_factor, 5000, 1200 },
	{ "all=+1", no_factor, 5000, 1200 },
	{ "all=1e2", no_factor, 5000, 1200 },
	{ "all=0x10", no_factor, 5000, 1200 },
	{ "all=nan", no_factor, 5000, 1200 },
	{ "all=inf", no_factor, 5000, 1200 },
	{ "all=1.2.3", no_factor, 5000, 1200 },
	{ "all= 1", no_factor, 5000, 1200 },
	{ "all=1 ", no_factor, 5000, 1200 },
	{ "all=", no_factor, 5000, 1200 },
	{ "all", no_factor, 5000, 1200 },
	{ "al=1", no_name, 5000, 1200 },
	{ "alll=1", no_name, 5000, 1200 },
	{ "login=1", no_name, 5000, 1200 },
	{ "login-refusals=1", no_name, 5000, 1200 },
	{ "login_refusal=1", no_name, 5000, 1200 },
	{ "LOGIN-REFUSAL=1", no_name, 5000, 1200 },
	{ "=1", no_name, 5000, 1200 },
	{ "", no_name, 5000, 1200 },
};

static void scales(void)
{
	setenv("STILLFRAME_DELAYS", "nothing=1 login-refusal=0.02 http-idle=x", 1);
	CHECK(delay_ms(DELAY_LOGIN_REFUSAL) == 100 && delay_ms(DELAY_HTTP_IDLE) == 120000);
	for (size_t i = 0; i < COUNT(all); i++) {
		const char *wrong = delay_scale(all[i].words);
		if (!wrong != !all[i].wrong || (wrong && !streq(wrong, all[i].wrong)) ||
		    delay_ms(DELAY_LOGIN_REFUSAL) != all[i].refusal ||
		    delay_ms(DELAY_HTTP_IDLE) != all[i].idle)
			fprintf(stderr, "%s: %s, %d, %d\n", all[i].words, wrong ? wrong : "-",
				delay_ms(DELAY_LOGIN_REFUSAL), delay_ms(DELAY_HTTP_IDLE));
		CHECK(!wrong == !all[i].wrong && (!wrong || streq(wrong, all[i].wrong)));
		CHECK(delay_ms(DELAY_LOGIN_REFUSAL) == all[i].refusal);
		CHECK(delay_ms(DELAY_HTTP_IDLE) == all[i].idle);
	}
	CHECK(delay_s(DELAY_LOGIN_REFUSAL) == 5 && delay_s(DELAY_HTTP_IDLE) == 1);
}

/* Programs that are started are told what was accepted, in its order. */
static void tells_programs(void)
{
	CHECK(streq(getenv("STILLFRAME_DELAYS"),
		    "nothing=1 login-refusal=0.02 http-idle=x http-idle=0.5 login-refusal=2 "
		    "login-refusal=1. "
		    "login-refusal=0.000001 login-refusal=99999999999 all=0.01 login-refusal=1"));
}

static void sleeps(void)
{
	CHECK(!delay_scale("http-no-room=0.15")); /* 30 ms */
	int64_t before = clock_ms();
	delay_sleep(DELAY_HTTP_NO_ROOM);
	CHECK(clock_ms() - before >= 30);
}

static void refuses_clocks(struct task *t, const char *path, int fd)
{
	CHECK(clock_day_from(t, "/nothing/there") < 0 && strstr(task_error(t), "/nothing/there"));
	task_forgive(t);
	for (size_t n = 0; n < 10; n += 3) { /* 0, 3, 6, 9 bytes */
		CHECK(ftruncate(fd, (off_t)n) == 0);
		CHECK(clock_day_from(t, path) < 0 && t->code == INVALID_VALUE &&
		      streq(t->params[0], "test-clock"));
		task_forgive(t);
	}
	CHECK(ftruncate(fd, 8) == 0);
}

static void set(int fd, int64_t ahead)
{
	unsigned char bytes[8];
	for (int i = 0; i < 8; i++)
		bytes[i] = (unsigned char)((uint64_t)ahead >> 8 * i);
	CHECK(pwrite(fd, bytes, 8, 0) == 8);
}

static void steps(struct task *t)
{
	static const int64_t ahead[] = { 0, 86400, -1, 365 * 86400, -365 * 86400, 1 };
	char path[] = "/tmp/test_delay.XXXXXX";
	int fd = mkstemp(path);
	CHECK(fd >= 0);
	refuses_clocks(t, path, fd);
	int64_t first = clock_ms();
	CHECK(clock_day_from(t, path) == 0);
	for (size_t i = 0; i < COUNT(ahead); i++) {
		set(fd, ahead[i]);
		int64_t before = time(NULL), day = clock_day_s(), ns = clock_day_ns();
		CHECK(day >= before + ahead[i] && ns / 1000000000 >= day &&
		      ns / 1000000000 <= time(NULL) + ahead[i]);
		/* Coarse: of the last tick, which may have been in the second before. */
		CHECK(clock_files_s() >= before - 1 && clock_files_s() <= time(NULL));
	}
	set(fd, 86400);
	const char *then = time_now(t);
	set(fd, 2 * 86400);
	CHECK(strcmp(then, time_now(t)) < 0 && strcmp(then, time_ago(t, 86400)) <= 0);
	CHECK(clock_ms() - first < 60000); /* to wait by, it has gone on as before */
	close(fd);
	unlink(path);
}

int main(void)
{
	struct task *t = task_new(NULL, "test");
	scales();
	tells_programs();
	sleeps();
	steps(t);
	talloc_free(t);
	return 0;
}
