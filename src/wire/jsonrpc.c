// SPDX-License-Identifier: Apache-2.0
#include "wire/rpc.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/rpc.h"
#include "api/values.h"
#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/http.h"

#define JSON "application/json" /* and nothing behind it: clients compare */

/* ---- values ---- */

struct json_values {
	struct values values;
	struct buffer text;
	bool follows; /* a value stands before, in the same array or struct */
};

static void add(struct values *v, const char *s)
{
	struct json_values *j = (struct json_values *)v;
	buffer_add(&j->text, s, strlen(s), RPC_ANSWER_LIMIT);
}

/* Before each value but the first, and but those behind a key. */
static void comma(struct values *v)
{
	struct json_values *j = (struct json_values *)v;
	if (j->follows)
		add(v, ",");
	j->follows = true;
}

void json_escape(struct buffer *to, const char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		char code[8];
		size_t plain = strcspn(s, "\"\\");
		for (size_t i = 0; i < plain; i++)
			if ((unsigned char)s[i] < 0x20)
				plain = i;
		if (plain) {
			buffer_add(to, s, plain, RPC_ANSWER_LIMIT);
			s += plain - 1;
			continue;
		}
		int n = c < 0x20 ? snprintf(code, sizeof code, "\\u%04x", c)
				 : snprintf(code, sizeof code, "\\%c", c);
		buffer_add(to, code, (size_t)n, RPC_ANSWER_LIMIT);
	}
}

static void put_text(struct values *v, const char *s)
{
	comma(v);
	add(v, "\"");
	json_escape(&((struct json_values *)v)->text, s);
	add(v, "\"");
}

static void put_number(struct values *v, int64_t n)
{
	char text[32];
	comma(v);
	snprintf(text, sizeof text, "%" PRId64, n);
	add(v, text);
}

/* JSON has neither infinities nor a number that is none. */
static void put_real(struct values *v, double d)
{
	char text[40];
	comma(v);
	snprintf(text, sizeof text, "%.17g", d == d && d - d == 0 ? d : 0);
	add(v, text);
	if (!text[strcspn(text, ".e")])
		add(v, ".0");
}

static void put_truth(struct values *v, bool b)
{
	comma(v);
	add(v, b ? "true" : "false");
}

static void put_nothing(struct values *v)
{
	put_text(v, "");
}

static void begin(struct values *v, bool is_struct)
{
	comma(v);
	add(v, is_struct ? "{" : "[");
	((struct json_values *)v)->follows = false;
}

static void key(struct values *v, const char *name)
{
	put_text(v, name);
	add(v, ":");
	((struct json_values *)v)->follows = false;
}

static void end(struct values *v, bool is_struct)
{
	add(v, is_struct ? "}" : "]");
	((struct json_values *)v)->follows = true;
}

static struct json_values json_values(void)
{
	return (struct json_values){ .values = { .text = put_text,
						 .number = put_number,
						 .count = put_number,
						 .real = put_real,
						 .truth = put_truth,
						 .time = put_text,
						 .nothing = put_nothing,
						 .begin = begin,
						 .key = key,
						 .end = end } };
}

/* ---- envelopes ---- */

/* [code, parameter, ...] */
static void put_error_1(struct task *t, struct values *v)
{
	begin(v, false);
	put_text(v, code_rows[t->code].name);
	for (size_t i = 0; t->params[i]; i++)
		put_text(v, t->params[i]);
	end(v, false);
}

static void put_error_2(struct task *t, struct values *v)
{
	begin(v, true);
	key(v, "code");
	put_number(v, 1);
	key(v, "message");
	put_text(v, code_rows[t->code].name);
	key(v, "data");
	begin(v, false);
	for (size_t i = 0; t->params[i]; i++)
		put_text(v, t->params[i]);
	end(v, false);
	end(v, true);
}

static void put_null(struct values *v)
{
	comma(v);
	add(v, "null");
}

/* The value was put behind "result" already when the call succeeded. */
static void answer(struct task *t, struct json_values *j, bool is_2, const json_t *id, bool failed)
{
	struct values *v = &j->values;
	if (failed) {
		free(j->text.text);
		*j = json_values();
		begin(v, true);
		if (is_2) {
			key(v, "jsonrpc");
			put_text(v, "2.0");
		} else {
			key(v, "result");
			put_null(v);
		}
	}
	if (failed || !is_2)
		key(v, "error");
	if (failed)
		(is_2 ? put_error_2 : put_error_1)(t, v);
	else if (!is_2)
		put_null(v);
	key(v, "id");
	if (json_is_string(id))
		put_text(v, json_string_value(id));
	else
		put_number(v, json_integer_value(id));
	end(v, true);
}

static int run(struct task *t, struct task *reader, struct json_values *j, bool is_2,
	       const char *method, const json_t *params)
{
	struct values *v = &j->values;
	begin(v, true);
	if (is_2) {
		key(v, "jsonrpc");
		put_text(v, "2.0");
	}
	key(v, "result");
	return rpc_call(t, reader, method, params, v);
}

json_t *jsonrpc_read(struct task *t, const char *body, size_t n)
{
	json_t *call = json_read(t, body, n, RPC_DEPTH_LIMIT);
	bool sound = json_is_string(json_object_get(call, "method")) &&
		     (!json_object_get(call, "params") ||
		      json_is_array(json_object_get(call, "params"))) &&
		     (json_is_string(json_object_get(call, "id")) ||
		      json_is_integer(json_object_get(call, "id")));
	return sound ? call : NULL;
}

struct buffer jsonrpc_answer(struct task *t, struct task *reader, const json_t *call)
{
	const char *version = json_string_value(json_object_get(call, "jsonrpc"));
	bool is_2 = version && streq(version, "2.0");
	struct json_values j = json_values();
	const json_t *params = json_object_get(call, "params");
	json_t *id = json_own(t, json_copy(json_object_get(call, "id")));
	int result = run(t, reader, &j, is_2, json_string_value(json_object_get(call, "method")),
			 params ? params : json_own(reader, json_array()));
	answer(t, &j, is_2, id, result < 0);
	return j.text;
}

void jsonrpc_serve(struct task *t, struct request *req)
{
	size_t n;
	char *body = http_body(t, req, RPC_BODY_LIMIT, &n);
	if (!body || !rpc_may_read(t, req, body, n, json_shape(body, n).values))
		return;
	struct task *reader = task_part(t);
	json_t *call = jsonrpc_read(reader, body, n);
	talloc_free(body);
	if (!call) {
		http_refuse(t, req, 400,
			    "This is no call: an object with method, params (an array) and id is "
			    "expected.");
		return;
	}
	struct buffer text = jsonrpc_answer(t, reader, call);
	if (text.full)
		http_refuse(t, req, 500, RPC_TOO_LARGE);
	else
		http_answer(t, req, 200, JSON, RPC_CORS, text.text, text.n);
	free(text.text);
}

void rpc_options(struct task *t, struct request *req)
{
	http_answer(t, req, 200, "text/plain",
		    RPC_CORS "Access-Control-Allow-Methods: POST\r\n"
			     "Access-Control-Allow-Headers: X-Requested-With, Content-Type\r\n",
		    "", 0);
}
