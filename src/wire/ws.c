// SPDX-License-Identifier: Apache-2.0
#include "wire/ws.h"

#include <assert.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <strings.h>

#include "base/base64.h"
#include "base/delay.h"
#include "base/io.h"
#include "base/relay.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/http.h"

enum { KEY_LENGTH = 16 };

/* ---- the handshake ---- */

static const char *header(const struct request *req, const char *name)
{
	const char *value = map_get(&req->headers, name);
	return value ? value : "";
}

/* Is the word among those in a list with commas?  In any case. */
static bool names(const char *list, const char *word)
{
	while (*list) {
		size_t n = strcspn(list, ", \t");
		if (n == strlen(word) && strncasecmp(list, word, n) == 0)
			return true;
		list += n;
		list += strspn(list, ", \t");
	}
	return false;
}

bool ws_wanted(const struct request *req)
{
	return streq(req->method, "GET") && names(header(req, "upgrade"), "websocket");
}

int ws_check(struct task *t, struct request *req)
{
	static const char version[] = "The version of WebSocket is 13.\n";
	if (req->minor < 1 || !names(header(req, "connection"), "upgrade") ||
	    !ws_answer_to(t, header(req, "sec-websocket-key")))
		http_refuse(t, req, 400, "This is not how a WebSocket is asked for.");
	else if (!streq(header(req, "sec-websocket-version"), "13"))
		http_answer(t, req, 426, "text/plain", "Sec-WebSocket-Version: 13\r\n", version,
			    sizeof version - 1);
	else
		return 0;
	return -1;
}

static bool is_key(const void *ctx, const char *text)
{
	size_t n;
	return strlen(text) == (KEY_LENGTH + 2) / 3 * 4 && base64_bytes(ctx, text, &n) &&
	       n == KEY_LENGTH;
}

char *ws_answer_to(const void *ctx, const char *key)
{
	static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	unsigned char hash[20];
	if (!is_key(ctx, key))
		return NULL;
	const char *both = str(ctx, "%s%s", key, magic);
	if (gnutls_hash_fast(GNUTLS_DIG_SHA1, both, strlen(both), hash) < 0)
		return NULL;
	return base64_text(ctx, hash, sizeof hash);
}

/* XenServer answers with this sub-protocol, which its clients look for; but a browser that has asked for none refuses
 * an answer that names one. */
int ws_accept(struct task *t, struct request *req)
{
	bool asked = *header(req, "sec-websocket-protocol");
	const char *head = str(t,
			       "HTTP/1.1 101 Switching Protocols\r\n"
			       "Upgrade: websocket\r\n"
			       "Connection: Upgrade\r\n"
			       "Sec-WebSocket-Accept: %s\r\n"
			       "%s\r\n",
			       ws_answer_to(t, header(req, "sec-websocket-key")),
			       asked ? "Sec-WebSocket-Protocol: binary\r\n" : "");
	return io_write(t, req->fd, head, strlen(head), delay_ms(DELAY_HTTP_WRITE));
}

/* ---- frames, in ---- */

enum {
	FIN = 0x80,
	RESERVED = 0x70,
	MASKED = 0x80,
	CONTINUED = 0,
	TEXT = 1,
	BINARY = 2,
	CLOSE = 8,
	PING = 9,
	PONG = 10,
};

static int opcode(const struct ws *w)
{
	return w->head[0] & 0x0f;
}

static bool is_control(const struct ws *w)
{
	return opcode(w) >= CLOSE;
}

/* What the first two bytes alone forbid. */
static bool may_begin(const struct ws *w)
{
	if ((w->head[0] & RESERVED) || !(w->head[1] & MASKED))
		return false;
	switch (opcode(w)) {
	case CONTINUED:
		return w->in_message;
	case TEXT:
	case BINARY:
		return !w->in_message;
	case CLOSE:
	case PING:
	case PONG:
		return (w->head[0] & FIN) && (w->head[1] & 0x7f) <= WS_CONTROL_MAX;
	default:
		return false;
	}
}

static size_t length_bytes(const struct ws *w)
{
	unsigned length = w->head[1] & 0x7f;
	return length == 126 ? 2 : length == 127 ? 8 : 0;
}

static size_t head_size(const struct ws *w)
{
	return w->nhead < 2 ? 2 : 2 + length_bytes(w) + 4;
}

/* A length is written as short as can be, and has 63 bits. */
static bool read_length(const struct ws *w, uint64_t *ret)
{
	static const uint64_t least[] = { [2] = 126, [8] = 65536 };
	size_t n = length_bytes(w);
	uint64_t length = n ? 0 : w->head[1] & 0x7f;
	for (size_t i = 0; i < n; i++)
		length = length << 8 | w->head[2 + i];
	*ret = length;
	return length >= least[n] && length <= INT64_MAX;
}

/* A code that may stand in a frame, or what is wrong with it. */
static int close_code(const struct ws *w)
{
	if (w->ncontrol == 0)
		return WS_NORMAL;
	int code = w->ncontrol < 2 ? 0 : w->control[0] << 8 | w->control[1];
	bool defined = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014);
	return defined || (code >= 3000 && code <= 4999) ? code : WS_VIOLATION;
}

static void end_frame(struct ws *w)
{
	if (opcode(w) == CLOSE)
		w->close = close_code(w);
	if (opcode(w) == PING) {
		memcpy(w->pong, w->control, w->ncontrol);
		w->npong = w->ncontrol;
		w->owes_pong = true;
	}
	if (!is_control(w))
		w->in_message = !(w->head[0] & FIN);
	w->nhead = w->ncontrol = 0;
}

static void take_head(struct ws *w, unsigned char byte)
{
	w->head[w->nhead++] = byte;
	if (w->nhead == 2 && !may_begin(w))
		w->close = WS_VIOLATION;
	if (w->nhead < head_size(w))
		return;
	w->at = 0;
	if (!read_length(w, &w->left))
		w->close = WS_VIOLATION;
	else if (w->left == 0)
		end_frame(w);
}

/* As much as there is of the payload; returns its length. */
static size_t take_payload(struct ws *w, const char *from, size_t n, char *to)
{
	const unsigned char *mask = w->head + w->nhead - 4;
	size_t piece = n < w->left ? n : (size_t)w->left;
	for (size_t i = 0; i < piece; i++)
		to[i] = (char)((unsigned char)from[i] ^ mask[(w->at + i) % 4]);
	w->at += piece;
	w->left -= piece;
	return piece;
}

bool ws_unwrap(void *arg, char *bytes, size_t n, size_t *ret_n)
{
	struct ws *w = arg;
	size_t kept = 0;
	for (size_t i = 0; i < n && !w->close;) {
		if (w->nhead < head_size(w)) {
			take_head(w, (unsigned char)bytes[i++]);
			continue;
		}
		bool control = is_control(w);
		char *to = control ? (char *)w->control + w->ncontrol : bytes + kept;
		size_t piece = take_payload(w, bytes + i, n - i, to);
		*(control ? &w->ncontrol : &kept) += piece;
		i += piece;
		if (w->left == 0)
			end_frame(w);
	}
	*ret_n = kept;
	return !w->close;
}

/* ---- frames, out ---- */

size_t ws_wrap(void *arg, char *bytes, size_t n)
{
	(void)arg;
	unsigned char *head = (unsigned char *)bytes;
	assert(n <= UINT16_MAX);
	if (n <= WS_CONTROL_MAX) {
		head[-2] = FIN | BINARY;
		head[-1] = (unsigned char)n;
		return 2;
	}
	head[-4] = FIN | BINARY;
	head[-3] = 126;
	head[-2] = (unsigned char)(n >> 8);
	head[-1] = (unsigned char)n;
	return 4;
}

static size_t control(char *to, int kind, const void *payload, size_t n)
{
	to[0] = (char)(FIN | kind);
	to[1] = (char)n;
	memcpy(to + 2, payload, n);
	return n + 2;
}

size_t ws_own(void *arg, char *to, bool last)
{
	struct ws *w = arg;
	if (last && !w->closed) {
		int code = w->close ? w->close : WS_NORMAL;
		unsigned char payload[] = { (unsigned char)(code >> 8), (unsigned char)code };
		w->closed = true;
		return control(to, CLOSE, payload, sizeof payload);
	}
	if (last || !w->owes_pong)
		return 0;
	w->owes_pong = false;
	return control(to, PONG, w->pong, w->npong);
}

struct relay_wrap ws_relay_wrap(struct ws *w)
{
	return (struct relay_wrap){ ws_unwrap, ws_wrap, ws_own, w };
}
