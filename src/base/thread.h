// SPDX-License-Identifier: Apache-2.0
/* thread.h -- threads that signals pass by: those are for the one that waits for them. */
#pragma once

#include <pthread.h>

struct task;

/* As pthread_create(), all signals blocked in it and in the threads that it makes; 0, or -1 with the error. */
int thread_begin(struct task *, pthread_t *ret, void *(*run)(void *), void *arg);
