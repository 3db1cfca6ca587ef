// SPDX-License-Identifier: Apache-2.0
#include "api/sm.h"

#include "api/settings.h"
#include "base/task.h"
#include "db/db.h"
#include "model/model.h"
#include "sr/sr.h"

/* What clients look for, and the members that it takes. */
static void add_features(struct SM_row *sm, const struct layout *l, bool probes)
{
	const struct {
		const char *name;
		bool there;
	} features[] = {
		{ "SR_PROBE", probes },
		{ "SR_SCAN", l->scan },
		{ "SR_UPDATE", l->space },
		{ "VDI_ATTACH", l->blockdev },
		{ "VDI_DETACH", l->blockdev },
		{ "VDI_CREATE", l->create },
		{ "VDI_DELETE", l->remove },
		{ "VDI_CLONE", l->create },
		{ "VDI_SNAPSHOT", l->create },
		{ "VDI_RESIZE", l->resize },
		{ "VDI_RESIZE_ONLINE", l->resize },
		{ "VDI_GENERATE_CONFIG", false },
	};
	for (size_t i = 0; i < COUNT(features); i++)
		if (features[i].there) {
			list_add(sm, &sm->capabilities, features[i].name);
			map_set(sm, &sm->features, features[i].name, "1");
		}
}

static void describe(struct SM_row *sm, const struct sr_type *type)
{
	struct list keys = list_split(sm, type->config, ' ');
	sm->type = type->name;
	sm->name_label = type->name;
	sm->name_description = type->doc;
	sm->vendor = sm->copyright = "Stillframe";
	sm->version = settings.version;
	sm->required_api_version = "1.0";
	sm->configuration = (struct map){ 0 };
	sm->capabilities = (struct list){ 0 };
	sm->features = (struct map){ 0 };
	for (size_t i = 0; i < keys.n; i++)
		map_set(sm, &sm->configuration, keys.v[i], "required");
	add_features(sm, type->layout, type->attach->probe);
}

static int note(struct task *t, const struct sr_type *type)
{
	struct SM_row *sm = *(struct SM_row **)db_find(t, &class_SM, "type", type->name);
	bool known = sm;
	if (!known)
		sm = row_new(t, SM);
	describe(sm, type);
	return known ? db_put(t, &sm->row) : db_insert(t, &sm->row);
}

/* Those that an earlier version had go. */
int sm_open(struct task *t)
{
	DB_SCOPE(t);
	DB_ALL (t, SM, sm)
		if (!sr_type_find(sm->type) && db_delete(t, &sm->row) < 0)
			return -1;
	for (const struct sr_type *type = sr_types; type->name; type++)
		if (note(t, type) < 0)
			return -1;
	return db_commit(t);
}
