// SPDX-License-Identifier: Apache-2.0
/* apart.h -- the daemon's own program once more, under another name, as a process that outlives
 * the daemon.
 *
 * It is no child of ours and in a session of its own, so nothing that befalls us reaches it; and
 * it sees our end:
 *
 *     we                              it
 *     apart_open(): fork, exec   ->   main(), by the option in argv[1]
 *     words                     <->   words: packets of a pair of sockets
 *     our end, however it comes  ->   the end of its socket
 *     apart_close()              ->   the word "leave", and the end of its socket
 *
 * Of our descriptors it has 0, 1 and 2 (0 and 1 are /dev/null), and those that it was given, from
 * APART_FIRST on; the last one is its end of the words.  Where a test ends us at a crash_point(),
 * it is not ended. */
#pragma once

#include <stddef.h>
#include <sys/types.h>

struct task;

enum {
	APART_FIRST = 3,
	APART_MOST = 4,       /* descriptors, with the words */
	APART_PACKET = 16384, /* the longest of the words */
};

/* argv: the name that it goes by, the option, and more; NULL ended.  The descriptors stay the
 * caller's.  Our end of the words, -1: failed.  Whether the program came up is for its first word
 * to say. */
int apart_open(struct task *, const char *const *argv, const int *fds, size_t n);
/* Of either side: the process that made the pair. */
pid_t apart_maker(int words);
/* Tells it to leave, and waits for its end: at most ms.  words: -1 afterwards. */
void apart_close(int *words, int ms);
