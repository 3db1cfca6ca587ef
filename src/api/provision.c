// SPDX-License-Identifier: Apache-2.0
#include "api/provision.h"

#include <libxml/parser.h>
#include <pthread.h>

#include "base/task.h"
#include "base/text.h"
#include "model/model.h"
#include "vmm/vmm.h"

/* ---- reading ---- */

static int malformed(struct task *t, const char *what)
{
	return fail(t, INVALID_VALUE, "other_config:disks", what);
}

static int wrong(struct task *t, const char *name, const char *value)
{
	return malformed(t, str(t, "%s=\"%.100s\"", name, value));
}

static void prepare_once(void)
{
	xmlInitParser();
}

static int free_document(xmlDoc **at)
{
	xmlFreeDoc(*at);
	return 0;
}

/* A document type is all that could declare entities or name other files: there is none.  The encoding is
 * ours to say, so that nothing hides from that look. */
static xmlDoc *parse(struct task *t, const char *xml)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	size_t n = strlen(xml);
	if (n > PROVISION_BYTES)
		return malformed(t, "the text is too long"), NULL;
	if (strstr(xml, "<!DOCTYPE"))
		return malformed(t, "a document type is not allowed"), NULL;
	pthread_once(&once, prepare_once);
	xmlDoc *doc = xmlReadMemory(xml, (int)n, NULL, "UTF-8",
				    XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
	if (!doc)
		malformed(t, "not well-formed XML");
	return doc;
}

static const char *attribute(struct task *t, const xmlNode *node, const char *name,
			     const char *otherwise)
{
	xmlChar *value = xmlGetNoNsProp(node, (const xmlChar *)name);
	const char *copy = talloc_strdup(t, value ? (const char *)value : otherwise);
	xmlFree(value);
	return copy;
}

static bool is_element(const xmlNode *node, const char *name)
{
	return node->type == XML_ELEMENT_NODE && streq((const char *)node->name, name);
}

static bool is_taken(const struct provision *p, const char *device)
{
	for (size_t i = 0; i < p->n; i++)
		if (streq(p->v[i].device, device))
			return true;
	return false;
}

/* Positions are few and none stands there twice: the disks have room in p.  Whether the place is free and
 * the SR is there is seen when the disk is made. */
static int read_disk(struct task *t, const xmlNode *node, struct provision *p)
{
	struct provision_disk d = { 0 };
	const char *size = attribute(t, node, "size", ""),
		   *bootable = attribute(t, node, "bootable", "false");
	int64_t position;
	d.device = attribute(t, node, "device", "");
	d.sr = attribute(t, node, "sr", "");
	d.type = attribute(t, node, "type", "user");
	if (!text_int(d.device, &position) || position < 0 || position >= VMM_DISKS ||
	    !streq(d.device, str(t, "%lld", (long long)position)))
		return wrong(t, "device", d.device);
	if (is_taken(p, d.device))
		return malformed(t, str(t, "device %s stands there twice", d.device));
	if (!text_int(size, &d.size) || d.size <= 0)
		return wrong(t, "size", size);
	if (!text_bool(bootable, &d.bootable))
		return wrong(t, "bootable", bootable);
	if (enum_value("vdi_type", d.type) < 0)
		return wrong(t, "type", d.type);
	p->v[p->n++] = d;
	return 0;
}

/* Other elements are passed over, as XenServer does. */
static int read_disks(struct task *t, const xmlNode *root, struct provision *p)
{
	if (!root || !is_element(root, "provision"))
		return malformed(t, "the root element is not <provision>");
	for (const xmlNode *node = root->children; node; node = node->next) {
		if (!is_element(node, "disk"))
			continue;
		if (read_disk(t, node, p) < 0)
			return -1;
	}
	return 0;
}

int provision_read(struct task *t, const char *xml, struct provision *ret)
{
	__attribute__((cleanup(free_document))) xmlDoc *doc = parse(t, xml);
	struct provision p = { .v = talloc_zero_array(t, struct provision_disk, VMM_DISKS) };
	if (!doc || read_disks(t, xmlDocGetRootElement(doc), &p) < 0)
		return -1;
	*ret = p;
	return 0;
}

/* ---- writing ---- */

char *provision_write(const void *ctx, const struct provision *p)
{
	char *s = talloc_strdup(ctx, "<provision>");
	for (size_t i = 0; i < p->n; i++) {
		const struct provision_disk *d = &p->v[i];
		s = talloc_asprintf_append(s,
					   "<disk device=\"%s\" size=\"%lld\" sr=\"%s\" "
					   "bootable=\"%s\" type=\"%s\"/>",
					   text_xml(ctx, d->device), (long long)d->size,
					   text_xml(ctx, d->sr), d->bootable ? "true" : "false",
					   text_xml(ctx, d->type));
	}
	return talloc_strdup_append(s, "</provision>");
}

const char *provision_move(struct task *t, const char *xml, const char *sr_uuid)
{
	struct provision p;
	if (provision_read(t, xml, &p) < 0)
		return NULL;
	for (size_t i = 0; i < p.n; i++)
		p.v[i].sr = sr_uuid;
	return provision_write(t, &p);
}
