// SPDX-License-Identifier: Apache-2.0
/* say.h -- words for the user. */
#pragma once

struct task;

/* Writes "text\n" to standard output (1) or error (2). */
int say(struct task *, int fd, const char *text);
/* The recorded error as a sentence: here, unlike at the server, codes mean nothing to anybody. */
const char *what_failed(const struct task *);
