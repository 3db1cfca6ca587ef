// SPDX-License-Identifier: Apache-2.0
/* console.h -- consoles of VMs, as streams of bytes and as pictures. */
#pragma once

struct task;
struct request;

/* CONNECT or GET /console?uuid=<of a console or a VM> (or ref=): answers 200, and from then on the
 * connection is the console, until either side ends: RFB of the screen, which is also what a VM
 * stands for, or the bytes of the serial port.  A GET that asks for a WebSocket is answered 101, and
 * the same bytes go in its frames. */
void console_serve(struct task *, struct request *);

/* GET /vncsnapshot?uuid=<of a console or a VM> (or ref=): the VM's screen as a JPEG. */
void console_snapshot(struct task *, struct request *);
