// SPDX-License-Identifier: Apache-2.0
/* ws.h -- WebSocket (RFC 6455), the server's side, as a carrier of plain bytes.
 *
 *     offset
 *     0        80 the message's last frame | 70 must be 0 | 0f opcode
 *     1        80 masked | 7f length: 0..125; 126: in the next 2 bytes; 127: in the next 8
 *              the length, most significant byte first, if it is there
 *              4 bytes of mask, if masked: always from a client, never from a server
 *              the payload; byte i is XORed with mask[i % 4]
 *
 *     opcode   0 continues a message, 1 text, 2 binary, 8 close, 9 ping, a pong
 *
 *     82 83 37 fa 21 3d  65 bc 63               "RFB" from a client: one frame, mask 37fa213d
 *     82 03 52 46 42                            the same from a server
 *     88 82 00 00 00 00  03 e8                  a client closes with 1000
 *
 * Frames and messages mean nothing here, the bytes in them are one stream; text is taken as its
 * bytes.  So a frame may be of any length, and none is ever kept but the 125 bytes that a control
 * frame holds at most. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct task;
struct request;
struct relay_wrap;

/* ---- the handshake ---- */

bool ws_wanted(const struct request *);
/* Refuses what is no proper handshake.  -1: answered so. */
int ws_check(struct task *, struct request *);
/* Answers 101 to a request that ws_check() found good. */
int ws_accept(struct task *, struct request *);
/* Sec-WebSocket-Accept for a key, on ctx; NULL: that is not one. */
char *ws_answer_to(const void *ctx, const char *key);

/* ---- frames ---- */

enum {
	WS_NORMAL = 1000, /* close codes */
	WS_VIOLATION = 1002,
	WS_CONTROL_MAX = 125,
};

/* One connection; zero at the beginning. */
struct ws {
	unsigned char head[14]; /* of the frame that is coming */
	size_t nhead;
	uint64_t left, at; /* of its payload: still to come, and come already */
	bool in_message;   /* it is not the message's last frame */
	unsigned char control[WS_CONTROL_MAX], pong[WS_CONTROL_MAX];
	size_t ncontrol, npong;
	bool owes_pong; /* for the newest ping only, as the RFC allows */
	int close;      /* the code to close with; 0: nothing has ended it yet */
	bool closed;    /* so we have said */
};

/* As in struct relay_wrap, arg being a struct ws. */
bool ws_unwrap(void *arg, char *bytes, size_t n, size_t *ret_n);
size_t ws_wrap(void *arg, char *bytes, size_t n);
size_t ws_own(void *arg, char *to, bool last);
struct relay_wrap ws_relay_wrap(struct ws *);
