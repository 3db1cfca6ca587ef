// SPDX-License-Identifier: Apache-2.0
/* mac.c -- MAC addresses as XenServer derives them, so that a clone or an import gets the
 * addresses it would get there. */
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>

#include "api/vm.h"
#include "base/task.h"

/* d1 = MD5 applied 2*device+1 times, first to the seed's text, then to the raw digest; d2 = MD5(d1).
 * The address is d1[0..3] d2[1] d2[2], made local and unicast. */
const char *mac_from_seed(struct task *t, const char *seed, const char *device)
{
	unsigned char d1[16], d2[16];
	int64_t number = 0;
	text_int(device, &number);
	gnutls_hash_fast(GNUTLS_DIG_MD5, seed, strlen(seed), d1);
	for (int64_t i = 0; i < 2 * number; i++)
		gnutls_hash_fast(GNUTLS_DIG_MD5, d1, sizeof d1, d1);
	gnutls_hash_fast(GNUTLS_DIG_MD5, d1, sizeof d1, d2);
	return str(t, "%02x:%02x:%02x:%02x:%02x:%02x", (d1[0] | 0x02) & ~0x01, d1[1], d1[2], d1[3],
		   d2[1], d2[2]);
}
