// SPDX-License-Identifier: Apache-2.0
/* delay.h -- how long what is waited for on purpose takes: delays.def has the rows.
 *
 * A test scales them: `stillframed --test-delay login-refusal=0.02`, a row's name in lower case with dashes, or all=0.02
 * for each; what is said last counts.  Programs that the daemon starts are told by STILLFRAME_DELAYS in the
 * environment, the same words with spaces between them; xe and tests of single units heed that, too. */
#pragma once

enum delay {
#define DELAY(name, ms, what) DELAY_##name,
#include "base/delays.def"
	DELAYS,
};

/* As the table says, or as it was scaled: then not less than 1, and never more than poll() takes. */
int delay_ms(enum delay);
/* delay_ms() in whole seconds, rounded down, for what is compared with the clock of the day. */
int delay_s(enum delay);

/* Lies still for so long.  Where there is a task, task_wait(t, -1, 0, delay_ms(...)) can be cancelled. */
void delay_sleep(enum delay);

/* "NAME=FACTOR"; for the programs that this one starts, too.  To be called while there are no threads yet.  NULL, or
 * what is wrong with it. */
const char *delay_scale(const char *words);
