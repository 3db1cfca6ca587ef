// SPDX-License-Identifier: Apache-2.0
/* xmlrpc.c -- XML-RPC as XenServer speaks it: numbers are bare text, and an error is a result, too. */
#include <inttypes.h>
#include <jansson.h>
#include <libxml/parser.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/rpc.h"
#include "api/values.h"
#include "base/json.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/http.h"
#include "wire/rpc.h"

/* ---- values ---- */

enum { NESTED = 64, TAGS_OF_VALUE = 2 /* value and its type, or member and name, at least */ };

struct xml_values {
	struct values values;
	struct buffer text;
	bool in_struct[NESTED]; /* what encloses the value, level by level */
	int depth;
};

static void add(struct values *v, const char *s)
{
	struct xml_values *x = (struct xml_values *)v;
	buffer_add(&x->text, s, strlen(s), RPC_ANSWER_LIMIT);
}

void xml_escape(struct buffer *to, const char *s)
{
	static const struct {
		char c;
		const char *name;
	} names[] = { { '&', "&amp;" },
		      { '<', "&lt;" },
		      { '>', "&gt;" },
		      { '"', "&quot;" },
		      { '\r', "&#13;" } }; /* readers would take it for \n */
	for (; *s; s++) {
		const char *name = NULL;
		size_t plain = 0;
		while ((unsigned char)s[plain] >= 0x20 && !strchr("&<>\"", s[plain]))
			plain++;
		buffer_add(to, s, plain, RPC_ANSWER_LIMIT);
		s += plain;
		for (size_t i = 0; i < COUNT(names); i++)
			if (*s == names[i].c)
				name = names[i].name;
		if (name)
			buffer_add(to, name, strlen(name), RPC_ANSWER_LIMIT);
		else if (*s == '\n' || *s == '\t')
			buffer_add(to, s, 1, RPC_ANSWER_LIMIT);
		if (!*s)
			return;
	}
}

/* Nothing stands between two elements: there are clients that keep blanks, and trip over them. */
static void value_ended(struct values *v)
{
	struct xml_values *x = (struct xml_values *)v;
	add(v, "</value>");
	if (x->depth && x->in_struct[x->depth - 1])
		add(v, "</member>");
}

static void put(struct values *v, const char *before, const char *text, const char *behind)
{
	add(v, "<value>");
	add(v, before);
	xml_escape(&((struct xml_values *)v)->text, text);
	add(v, behind);
	value_ended(v);
}

static void put_text(struct values *v, const char *s)
{
	put(v, "", s, "");
}

static void put_number(struct values *v, int64_t n)
{
	char text[32];
	snprintf(text, sizeof text, "%" PRId64, n);
	put(v, "", text, "");
}

static void put_count(struct values *v, int64_t n)
{
	char text[32];
	snprintf(text, sizeof text, "%" PRId64, n);
	put(v, "<i4>", text, "</i4>");
}

static void put_real(struct values *v, double d)
{
	char text[40];
	snprintf(text, sizeof text, "%.16g", d);
	put(v, "<double>", text, "</double>");
}

static void put_truth(struct values *v, bool b)
{
	put(v, "<boolean>", b ? "1" : "0", "</boolean>");
}

static void put_time(struct values *v, const char *s)
{
	put(v, "<dateTime.iso8601>", s, "</dateTime.iso8601>");
}

static void put_nothing(struct values *v)
{
	put_text(v, "");
}

static void begin(struct values *v, bool is_struct)
{
	struct xml_values *x = (struct xml_values *)v;
	add(v, is_struct ? "<value><struct>" : "<value><array><data>");
	if (x->depth < NESTED)
		x->in_struct[x->depth++] = is_struct;
}

static void key(struct values *v, const char *name)
{
	add(v, "<member><name>");
	xml_escape(&((struct xml_values *)v)->text, name);
	add(v, "</name>");
}

static void end(struct values *v, bool is_struct)
{
	struct xml_values *x = (struct xml_values *)v;
	add(v, is_struct ? "</struct>" : "</data></array>");
	x->depth--;
	value_ended(v);
}

static struct xml_values xml_values(void)
{
	return (struct xml_values){ .values = { .text = put_text,
						.number = put_number,
						.count = put_count,
						.real = put_real,
						.truth = put_truth,
						.time = put_time,
						.nothing = put_nothing,
						.begin = begin,
						.key = key,
						.end = end } };
}

/* ---- calls ---- */

static bool is_named(const xmlNode *n, const char *name)
{
	return n && n->type == XML_ELEMENT_NODE && streq((const char *)n->name, name);
}

/* The first element of that name ("": of any) from n on; NULL: none. */
static xmlNode *next(xmlNode *n, const char *name)
{
	while (n && (n->type != XML_ELEMENT_NODE || (*name && !is_named(n, name))))
		n = n->next;
	return n;
}

/* The same of what is read one after another: none behind a failure, so that there is one to tell of. */
static xmlNode *item(const struct task *t, xmlNode *n, const char *name)
{
	return t->code == NO_ERROR ? next(n, name) : NULL;
}

static const char *content(struct task *t, xmlNode *n)
{
	xmlChar *text = xmlNodeGetContent(n);
	const char *copy = talloc_strdup(t, text ? (const char *)text : "");
	xmlFree(text);
	return copy;
}

static json_t *read_value(struct task *, xmlNode *, int depth);

static json_t *read_array(struct task *t, xmlNode *array, int depth)
{
	json_t *j = json_array();
	xmlNode *data = next(array->children, "data");
	for (xmlNode *n = data ? item(t, data->children, "value") : NULL; n;
	     n = item(t, n->next, "value"))
		json_array_append_new(j, read_value(t, n, depth));
	return j;
}

static json_t *read_struct(struct task *t, xmlNode *object, int depth)
{
	json_t *j = json_object();
	for (xmlNode *n = item(t, object->children, "member"); n; n = item(t, n->next, "member")) {
		xmlNode *name = next(n->children, "name"), *value = next(n->children, "value");
		if (!name || !value)
			fail(t, INTERNAL_ERROR, "a member without a name or a value");
		else
			json_object_set_new(j, content(t, name), read_value(t, value, depth));
	}
	return j;
}

static json_t *read_typed(struct task *t, xmlNode *n, int depth)
{
	const char *type = (const char *)n->name, *text;
	if (streq(type, "array"))
		return read_array(t, n, depth);
	if (streq(type, "struct"))
		return read_struct(t, n, depth);
	text = content(t, n);
	if (streq(type, "boolean"))
		return json_boolean(streq(text, "1"));
	return json_string(text);
}

/* Scalars but booleans come as their text; a bare one is a string. */
static json_t *read_value(struct task *t, xmlNode *value, int depth)
{
	xmlNode *typed = next(value->children, "");
	if (depth > RPC_DEPTH_LIMIT) {
		fail(t, INTERNAL_ERROR, "nested too deeply");
		return json_null();
	}
	return typed ? read_typed(t, typed, depth + 1) : json_string(content(t, value));
}

static json_t *read_params(struct task *t, xmlNode *call)
{
	json_t *j = json_own(t, json_array());
	xmlNode *params = next(call->children, "params");
	for (xmlNode *n = params ? item(t, params->children, "param") : NULL; n;
	     n = item(t, n->next, "param")) {
		xmlNode *value = next(n->children, "value");
		if (value)
			json_array_append_new(j, read_value(t, value, 0));
	}
	return t->code == NO_ERROR ? j : NULL;
}

/* ---- before it is read ---- */

/* Where what begins here ends, behind the word; NULL: it does not. */
static const char *behind(const char *s, const char *end, const char *word)
{
	const char *at = memmem(s, (size_t)(end - s), word, strlen(word));
	return at ? at + strlen(word) : NULL;
}

/* What stands between < and >, quotes and all; NULL: it does not end. */
static const char *behind_tag(const char *s, const char *end)
{
	char quote = 0;
	for (; s < end; s++) {
		if (quote)
			quote = *s == quote ? 0 : quote;
		else if (*s == '"' || *s == '\'')
			quote = *s;
		else if (*s == '>')
			return s + 1;
	}
	return NULL;
}

static bool begins(const char *s, const char *end, const char *word)
{
	return (size_t)(end - s) >= strlen(word) && strncmp(s, word, strlen(word)) == 0;
}

/* To find an attribute twice libxml compares each with each: XML-RPC has none, so there is no room
 * for many. */
bool xmlrpc_shape(const char *body, size_t n, size_t *ret_tags)
{
	static const struct {
		const char *begin, *end;
	} others[] = { { "<!--", "-->" }, { "<![CDATA[", "]]>" }, { "<?", "?>" } };
	const char *end = body + n, *s = body;
	*ret_tags = 0;
	while ((s = memchr(s, '<', (size_t)(end - s))) != NULL) {
		const char *next = NULL;
		bool is_tag = true;
		for (size_t i = 0; i < COUNT(others); i++)
			if (begins(s, end, others[i].begin)) {
				is_tag = false;
				next = behind(s + strlen(others[i].begin), end, others[i].end);
			}
		if (is_tag)
			next = behind_tag(s, end);
		if (!next || (is_tag && next - s > XML_TAG_LIMIT))
			return false;
		*ret_tags += is_tag && s[1] != '/';
		s = next;
	}
	return true;
}

static void prepare_once(void)
{
	xmlInitParser();
}

/* No entities but XML's own: nothing outside of the text is read, and nothing grows.  The encoding is ours to say, so
 * that nothing hides from that look. */
static xmlDoc *parse(const char *body, size_t n)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	if (strstr(body, "<!DOCTYPE"))
		return NULL;
	pthread_once(&once, prepare_once);
	return xmlReadMemory(body, (int)n, NULL, "UTF-8",
			     XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING |
				     XML_PARSE_NOCDATA);
}

const char *xmlrpc_read(struct task *t, const char *body, size_t n, json_t **ret_params)
{
	xmlDoc *doc = parse(body, n);
	xmlNode *call = doc ? xmlDocGetRootElement(doc) : NULL;
	const char *method = NULL;
	if (is_named(call, "methodCall") && next(call->children, "methodName")) {
		method = content(t, next(call->children, "methodName"));
		*ret_params = read_params(t, call);
		if (!*ret_params)
			method = NULL;
	}
	xmlFreeDoc(doc);
	return method;
}

/* ---- envelopes ---- */

static const char head[] = "<?xml version=\"1.0\"?><methodResponse><params><param>";
static const char tail[] = "</param></params></methodResponse>";

static void answer_failed(struct task *t, struct values *v)
{
	begin(v, true);
	key(v, "Status");
	put_text(v, "Failure");
	key(v, "ErrorDescription");
	begin(v, false);
	put_text(v, code_rows[t->code].name);
	for (size_t i = 0; t->params[i]; i++)
		put_text(v, t->params[i]);
	end(v, false);
	end(v, true);
}

/* system.listMethods answers without the struct. */
static void run(struct task *t, struct task *reader, struct xml_values *x, const char *method,
		const json_t *params)
{
	struct values *v = &x->values;
	bool bare = streq(method, "system.listMethods");
	add(v, head);
	if (!bare) {
		begin(v, true);
		key(v, "Status");
		put_text(v, "Success");
		key(v, "Value");
	}
	int result = rpc_call(t, reader, method, params, v);
	if (result == 0 && !bare)
		end(v, true);
	if (result < 0) {
		free(x->text.text);
		*x = xml_values();
		add(v, head);
		answer_failed(t, v);
	}
	add(v, tail);
}

void xmlrpc_serve(struct task *t, struct request *req)
{
	size_t n, tags;
	json_t *params = NULL;
	char *body = http_body(t, req, RPC_BODY_LIMIT, &n);
	if (!body)
		return;
	bool sound = xmlrpc_shape(body, n, &tags);
	if (sound && !rpc_may_read(t, req, body, n, tags / TAGS_OF_VALUE))
		return;
	struct task *reader = task_part(t);
	const char *method = sound ? xmlrpc_read(reader, body, n, &params) : NULL;
	talloc_free(body);
	if (!method) {
		http_refuse(t, req, 400, "This is no call of XML-RPC.");
		return;
	}
	struct xml_values x = xml_values();
	run(t, reader, &x, method, params);
	if (x.text.full)
		http_refuse(t, req, 500, RPC_TOO_LARGE);
	else
		http_answer(t, req, 200, "text/xml", RPC_CORS, x.text.text, x.text.n);
	free(x.text.text);
}
