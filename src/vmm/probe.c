// SPDX-License-Identifier: Apache-2.0
#include "vmm/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "base/delay.h"
#include "base/io.h"
#include "base/json.h"
#include "base/list.h"
#include "base/log.h"
#include "base/run.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/cpu.h"

enum { DEPTH = 16 };

/* What is asked, and the `id` of the answer.  The features are those of the model that has all that can be had. */
static const char *const questions[] = {
	"{\"execute\": \"qmp_capabilities\"}",
	"{\"execute\": \"query-machines\", \"id\": \"machines\"}",
	("{\"execute\": \"query-cpu-model-expansion\", \"id\": \"cpu\","
	 " \"arguments\": {\"type\": \"static\", \"model\": {\"name\": \"max\"}}}"),
	"{\"execute\": \"quit\"}",
};

/* ---- asking ---- */

static int write_questions(struct task *t, int to)
{
	for (size_t i = 0; i < COUNT(questions); i++)
		if (io_write(t, to, questions[i], strlen(questions[i]), delay_ms(DELAY_QEMU_HELP)) <
		    0)
			return -1;
	return 0;
}

/* Its input stays open meanwhile: at an end QEMU forgets what it has not answered yet. */
static int converse(struct task *t, const char *qemu, const char *accel, const char **ret_out)
{
	int pair[2];
	if (pipe2(pair, O_CLOEXEC) < 0)
		return task_fail_errno(t, errno, "pipe");
	FD_SCOPE int theirs = pair[0];
	FD_SCOPE int ours = pair[1];
	struct run r = { .argv = RUN_ARGV(qemu, "-machine", "none", "-accel", accel, "-nodefaults",
					  "-no-user-config", "-display", "none", "-S", "-qmp",
					  "stdio"),
			 .in = theirs,
			 .out = -1,
			 .timeout_ms = delay_ms(DELAY_QEMU_HELP) };
	if (write_questions(t, ours) < 0 || run_ok(t, &r) < 0)
		return -1;
	*ret_out = r.ret_out;
	return 0;
}

/* What it returned to the question of that id, on t. */
static json_t *answer_to(struct task *t, const struct list *lines, const char *id)
{
	for (size_t i = 0; i < lines->n; i++) {
		json_t *said = json_read(t, lines->v[i], strlen(lines->v[i]), DEPTH);
		const char *to = json_string_value(json_object_get(said, "id"));
		json_t *returned = json_object_get(said, "return");
		if (!said)
			return NULL;
		if (to && streq(to, id) && returned)
			return returned;
	}
	return fail_ptr(t, INTERNAL_ERROR, str(t, "QEMU does not tell of its %s", id));
}

/* ---- remembering ---- */

/* What was said, by which program. */
struct said {
	char accel[8]; /* "": nothing */
	struct stat program;
	json_t *machines, *features;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what follows, for moments only */
static struct said last;

static bool is_same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* On t; false: not for this program and accelerator. */
static bool remember(struct task *t, const char *accel, const struct stat *program,
		     struct said *ret)
{
	pthread_mutex_lock(&lock);
	bool known = streq(last.accel, accel) && is_same(&last.program, program);
	if (known) {
		ret->machines = json_own(t, json_deep_copy(last.machines));
		ret->features = json_own(t, json_deep_copy(last.features));
	}
	pthread_mutex_unlock(&lock);
	return known;
}

static void keep(const char *accel, const struct stat *program, const struct said *s)
{
	json_t *machines = json_deep_copy(s->machines), *features = json_deep_copy(s->features);
	pthread_mutex_lock(&lock);
	json_decref(last.machines);
	json_decref(last.features);
	last = (struct said){ .program = *program, .machines = machines, .features = features };
	snprintf(last.accel, sizeof last.accel, "%s", accel);
	pthread_mutex_unlock(&lock);
}

static int probe(struct task *t, const char *accel, struct said *ret)
{
	const char *qemu = args_program(t, "qemu-system-x86_64"), *out = NULL;
	struct stat program;
	if (!qemu)
		return -1;
	if (stat(qemu, &program) < 0)
		return task_fail_errno(t, errno, qemu);
	if (remember(t, accel, &program, ret))
		return 0;
	int64_t begin = clock_ms();
	if (converse(t, qemu, accel, &out) < 0)
		return -1;
	struct list lines = list_split(t, text_swap(t, out, '\r', ' '), '\n');
	ret->machines = answer_to(t, &lines, "machines");
	const json_t *cpu = ret->machines ? answer_to(t, &lines, "cpu") : NULL;
	ret->features = json_object_get(json_object_get(cpu, "model"), "props");
	if (!ret->machines || !ret->features)
		return cpu ? fail(t, INTERNAL_ERROR, "QEMU does not tell of its CPUs") : -1;
	keep(accel, &program, ret);
	log_line(t, "qemu asked what it can program=%s accel=%s machines=%zu ms=%lld", qemu, accel,
		 json_array_size(ret->machines), (long long)(clock_ms() - begin));
	return 0;
}

/* ---- what is known ---- */

static bool is_called(const json_t *machine, const char *key, const char *name)
{
	const char *s = json_string_value(json_object_get(machine, key));
	return s && streq(s, name);
}

int probe_knows_machine(struct task *t, const char *accel, const char *machine, bool *ret)
{
	struct said s;
	if (probe(t, accel, &s) < 0)
		return -1;
	*ret = false;
	for (size_t i = 0; i < json_array_size(s.machines); i++) {
		const json_t *m = json_array_get(s.machines, i);
		*ret |= is_called(m, "name", machine) || is_called(m, "alias", machine);
	}
	return 0;
}

#ifdef __x86_64__

/* CPUID 80000008, EAX bits 0 to 7. */
static unsigned host_phys_bits(void)
{
	unsigned a, b, c, d;
	return __get_cpuid(0x80000008, &a, &b, &c, &d) ? a & 0xff : UINT_MAX;
}

#else

static unsigned host_phys_bits(void)
{
	return UINT_MAX;
}

#endif

/* KVM's guests have the host's addresses, whatever they are told; TCG works out its own. */
static unsigned phys_bits(const char *accel)
{
	return streq(accel, "kvm") ? host_phys_bits() : UINT_MAX;
}

int probe_missing_features(struct task *t, const char *accel, const json_t *cpu, struct list *ret)
{
	struct said s;
	if (cpu_check(t, cpu) < 0 || probe(t, accel, &s) < 0)
		return -1;
	cpu_compare(t, cpu, s.features, phys_bits(accel), ret);
	return 0;
}
