// SPDX-License-Identifier: Apache-2.0
#include "api/pif.h"

#include "api/call.h"
#include "api/settings.h"
#include "base/io.h"
#include "base/log.h"
#include "base/task.h"
#include "db/db.h"
#include "vmm/nic.h"

/* ---- what the host has ---- */

/* That of the bridge that it is in.  Others carry what leaves the user-mode network, which has no bridge: clients
 * rely on every interface having a network. */
static const char *network_of(struct task *t, const struct nic *n)
{
	const struct row *network = db_find(t, &class_network, "bridge", n->bridge)[0];
	if (!network)
		network = db_find(t, &class_network, "bridge", "")[0];
	return network ? network->ref : NULL_REF;
}

/* The resolvers, with commas between. */
static const char *resolvers(struct task *t)
{
	enum { FILE_LIMIT = 64 << 10 };
	struct task *own = task_new(t, t->name);
	const char *text = file_read(own, "/etc/resolv.conf", FILE_LIMIT);
	struct list lines = list_split(own, text ? text : "", '\n'), found = { 0 };
	for (size_t i = 0; i < lines.n; i++)
		if (starts_with(lines.v[i], "nameserver "))
			list_add(t, &found, lines.v[i] + strlen("nameserver "));
	return list_join(t, &found, ",");
}

static void describe(struct task *t, struct PIF_row *p, const struct nic *n)
{
	p->device = n->name;
	p->host = this_host();
	p->network = network_of(t, n);
	p->MAC = n->address;
	p->MTU = n->mtu;
	p->VLAN = -1;
	p->managed = false;
	p->physical = n->is_hardware;
	p->currently_attached = n->is_up;
	p->management = n->is_default;
	p->ip_configuration_mode = !*n->ip        ? ip_configuration_mode_None
				   : n->is_leased ? ip_configuration_mode_DHCP
						  : ip_configuration_mode_Static;
	p->IP = n->ip;
	p->netmask = n->netmask;
	p->gateway = n->gateway;
	p->DNS = n->is_default ? resolvers(t) : "";
	p->ipv6_configuration_mode = !n->ipv6.n       ? ipv6_configuration_mode_None
				     : n->is_autoconf ? ipv6_configuration_mode_Autoconf
						      : ipv6_configuration_mode_Static;
	p->IPv6 = n->ipv6;
	p->ipv6_gateway = n->gateway6;
	p->primary_address_type =
		!*n->ip && n->ipv6.n ? primary_address_type_IPv6 : primary_address_type_IPv4;
}

static void describe_metrics(struct PIF_metrics_row *m, const struct nic *n)
{
	m->carrier = n->has_carrier;
	m->speed = n->speed;
	m->duplex = n->is_duplex;
	m->vendor_id = n->vendor;
	m->device_id = n->device;
	m->pci_bus_path = n->pci;
}

/* ---- what the records say ---- */

static bool are_equal(struct task *t, const struct row *a, const struct row *b)
{
	for (const struct field *f = a->class->fields; f->name; f++)
		if (field_is_stored(f) && !streq(field_text(t, a, f), field_text(t, b, f)))
			return false;
	return true;
}

/* In a transaction: what says something new is written. */
static int put(struct task *t, struct row *now, const struct row *before)
{
	if (!before)
		return db_insert(t, now);
	return are_equal(t, now, before) ? 0 : db_put(t, now);
}

static int note_metrics(struct task *t, const struct nic *n, struct PIF_row *p)
{
	struct PIF_metrics_row *m = db_seek(t, PIF_metrics, p->metrics);
	const struct row *before = m ? db_seek_row(t, &class_PIF_metrics, p->metrics) : NULL;
	if (!m)
		m = row_new(t, PIF_metrics);
	p->metrics = m->row.ref;
	describe_metrics(m, n);
	if (before && are_equal(t, &m->row, before))
		return 0;
	m->last_updated = time_now(m);
	return before ? db_put(t, &m->row) : db_insert(t, &m->row);
}

static int note(struct task *t, const struct nic *n)
{
	struct PIF_row *p = (struct PIF_row *)db_find(t, &class_PIF, "device", n->name)[0];
	const struct row *before = p ? db_seek_row(t, &class_PIF, p->row.ref) : NULL;
	if (!p)
		p = row_new(t, PIF);
	describe(t, p, n);
	return note_metrics(t, n, p) < 0 ? -1 : put(t, &p->row, before);
}

static bool is_there(const struct nics *all, const char *device)
{
	for (size_t i = 0; i < all->n; i++)
		if (streq(all->v[i].name, device))
			return true;
	return false;
}

static int forget_others(struct task *t, const struct nics *all)
{
	DB_ALL (t, PIF, p) {
		const struct PIF_metrics_row *m = db_seek(t, PIF_metrics, p->metrics);
		if (is_there(all, p->device))
			continue;
		if ((m && db_delete(t, &m->row) < 0) || db_delete(t, &p->row) < 0)
			return -1;
	}
	return 0;
}

static int look(struct task *t)
{
	struct nics all;
	if (nics_look(t, &all) < 0)
		return -1;
	DB_SCOPE(t);
	for (size_t i = 0; i < all.n; i++)
		if (note(t, &all.v[i]) < 0)
			return -1;
	return forget_others(t, &all) < 0 ? -1 : db_commit(t);
}

void pifs_look(struct task *t)
{
	struct task *own = task_new(t, t->name);
	if (look(own) < 0)
		log_line(t, "interfaces not looked at error=\"%s\"", task_error(own));
	talloc_free(own);
}

int host_get_management_interface(struct task *t, struct host_get_management_interface *a)
{
	const struct row *pif = db_find(t, &class_PIF, "management", "true")[0];
	a->result = pif ? pif->ref : NULL_REF;
	return db_get(t, host, a->host) ? 0 : -1;
}

int PIF_scan(struct task *t, struct PIF_scan *a)
{
	return db_get(t, host, a->host) ? look(t) : -1;
}
