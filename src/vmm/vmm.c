// SPDX-License-Identifier: Apache-2.0
/* vmm.c -- the drivers by their names. */
#include "vmm/vmm.h"

#include "base/text.h"

const struct vmm_driver *vmm_driver(const char *name)
{
	static const struct vmm_driver *const drivers[] = { &vmm_qemu, &vmm_fake };
	for (size_t i = 0; i < COUNT(drivers); i++)
		if (streq(drivers[i]->name, name))
			return drivers[i];
	return NULL;
}
