// SPDX-License-Identifier: Apache-2.0
/* console.h -- a VM's serial line as a stream. */
#pragma once

struct task;
struct request;

/* CONNECT or GET /console?uuid=<VM's uuid> (or ref=): answers 200, and from then on the connection is the
 * guest's first serial port, until either side ends.  One client at a time. */
void console_serve(struct task *, struct request *);
