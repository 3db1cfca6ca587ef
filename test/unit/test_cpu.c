// SPDX-License-Identifier: Apache-2.0
/* test_cpu.c -- a CPU as it is kept with a VM's memory: what it becomes on a command line, what is refused, and what
 * the QEMU of this host says to it. */
#include <stdlib.h>

#include "base/json.h"
#include "base/list.h"
#include "base/task.h"
#include "base/text.h"
#include "vmm/args.h"
#include "vmm/cpu.h"
#include "vmm/probe.h"
#include "unit/check.h"

enum { SKIPPED = 77, DEPTH = 8 };

#define PROPS(text) "{\"model\": \"base\", \"props\": {" text "}, \"more\": {}}"

static json_t *cpu(struct task *t, const char *text)
{
	json_t *j = json_read(t, text, strlen(text), DEPTH);
	CHECK(j);
	return j;
}

static void test_given(struct task *t)
{
	struct args *a = talloc_zero(t, struct args);
	cpu_args(a, cpu(t, "{\"model\": \"base\", \"props\": {\"fpu\": true, \"la57\": false,"
			   " \"family\": 6, \"model-id\": \"a CPU, of 1,000\"},"
			   " \"more\": {\"phys-bits\": 40, \"pmu\": false}}"));
	CHECK(a->n == 4 && streq(a->argv[0], "-global") && streq(a->argv[2], "-cpu"));
	CHECK(streq(a->argv[1],
		    "driver=base-x86_64-cpu,property=model-id,value=a CPU,, of 1,,000"));
	CHECK(streq(a->argv[3], "base,enforce=on,fpu=on,family=6,phys-bits=40"));
}

/* Nobody vouches for what QEMU says, nor for what is in a file. */
static void test_refused(struct task *t)
{
	static const char *const bad[] = {
		"{}",
		"{\"model\": \"base\"}",
		"{\"model\": \"base\", \"props\": {}}",
		"{\"model\": \"\", \"props\": {}, \"more\": {}}",
		"{\"model\": \"base,kvm=off\", \"props\": {}, \"more\": {}}",
		"{\"model\": \"base\", \"props\": [], \"more\": {}}",
		"{\"model\": \"base\", \"props\": {}, \"more\": {\"x\": {}}}",
		PROPS("\"\": true"),
		PROPS("\"a=b\": true"),
		PROPS("\"a,b\": true"),
		PROPS("\"FPU\": true"),
		PROPS("\"fpu\": null"),
		PROPS("\"fpu\": [true]"),
		PROPS("\"fpu\": 1.5"),
		PROPS("\"model-id\": \"two\\nlines\""),
		PROPS("\"model-id\": "
		      "\"0123456789012345678901234567890123456789012345678901234567890123x\""),
		PROPS("\"n012345678901234567890123456789012345678901234567890123456789012345\": "
		      "true"),
	};
	for (size_t i = 0; i < COUNT(bad); i++) {
		CHECK(cpu_check(t, cpu(t, bad[i])) < 0);
		task_forgive(t);
	}
	CHECK(cpu_check(t, cpu(t, PROPS("\"sse4.1\": true, \"model-id\": \"\", \"family\": 6"))) ==
	      0);
	CHECK(cpu_check(t, NULL) < 0);
	task_forgive(t);
}

static void test_compared(struct task *t)
{
	struct list l = { 0 };
	const json_t *host = cpu(t, "{\"a\": true, \"b\": false}");
	cpu_compare(t,
		    cpu(t, PROPS("\"a\": true, \"b\": true, \"c\": true, \"d\": false, \"e\": 1")),
		    host, 40, &l);
	CHECK(l.n == 2 && streq(l.v[0], "b") && streq(l.v[1], "c"));
	l = (struct list){ 0 };
	const json_t *long_ =
		cpu(t, "{\"model\": \"base\", \"props\": {}, \"more\": {\"phys-bits\": 46}}");
	cpu_compare(t, long_, host, 46, &l);
	CHECK(l.n == 0);
	cpu_compare(t, long_, host, 39, &l);
	CHECK(l.n == 1 && streq(l.v[0], "phys-bits=46"));
}

static size_t missing(struct task *t, const char *text, struct list *ret)
{
	*ret = (struct list){ 0 };
	CHECK(probe_missing_features(t, "tcg", cpu(t, text), ret) == 0);
	return ret->n;
}

static void test_here(struct task *t)
{
	struct list l;
	bool known;
	CHECK(probe_knows_machine(t, "tcg", "q35", &known) == 0 && known);
	CHECK(probe_knows_machine(t, "tcg", "q36", &known) == 0 && !known);
	CHECK(missing(t, PROPS("\"fpu\": true, \"sse2\": true, \"family\": 6"), &l) == 0);
	CHECK(missing(t, PROPS("\"fpu\": true, \"avx512f\": true, \"nonsense\": true"), &l) == 2);
	CHECK(list_has(&l, "avx512f") && list_has(&l, "nonsense"));
	CHECK(missing(t, PROPS("\"avx512f\": false, \"nonsense\": false"), &l) == 0);
	CHECK(probe_knows_machine(t, "no such", "q35", &known) < 0);
	task_forgive(t);
}

int main(void)
{
	struct task *t = task_new(NULL, "cpu");
	test_given(t);
	test_refused(t);
	test_compared(t);
	if (!args_program(t, "qemu-system-x86_64")) {
		puts("skipped: there is no QEMU");
		return SKIPPED;
	}
	test_here(t);
	talloc_free(t);
	return 0;
}
