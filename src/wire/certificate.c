// SPDX-License-Identifier: Apache-2.0
/* certificate.c -- ECDSA P-256, as all clients with TLS 1.2 know it, and made in milliseconds. */
#include "wire/certificate.h"

#include <arpa/inet.h>
#include <gnutls/crypto.h>
#include <gnutls/x509.h>
#include <limits.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/io.h"
#include "base/task.h"
#include "base/text.h"

enum { DAY = 86400, DAYS = 3650, SERIAL = 16 };

struct made {
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t crt;
};

static int set_times(gnutls_x509_crt_t crt)
{
	time_t now = (time_t)clock_day_s();
	int r = gnutls_x509_crt_set_activation_time(crt, now - DAY); /* clocks differ */
	return r < 0 ? r : gnutls_x509_crt_set_expiration_time(crt, now + (time_t)DAYS * DAY);
}

static int set_serial(gnutls_x509_crt_t crt)
{
	unsigned char serial[SERIAL];
	int r = gnutls_rnd(GNUTLS_RND_NONCE, serial, sizeof serial);
	serial[0] = (serial[0] & 0x7f) | 1; /* a positive number of this length */
	return r < 0 ? r : gnutls_x509_crt_set_serial(crt, serial, sizeof serial);
}

static int set_names(gnutls_x509_crt_t crt)
{
	char name[HOST_NAME_MAX + 1] = "";
	struct in_addr loopback = { htonl(INADDR_LOOPBACK) };
	if (gethostname(name, sizeof name - 1) < 0 || !*name)
		strcpy(name, "localhost");
	const struct {
		gnutls_x509_subject_alt_name_t type;
		const void *data;
		size_t n;
	} names[] = {
		{ GNUTLS_SAN_DNSNAME, name, strlen(name) },
		{ GNUTLS_SAN_DNSNAME, "localhost", strlen("localhost") },
		{ GNUTLS_SAN_IPADDRESS, &loopback, sizeof loopback },
	};
	size_t common = strlen(name) < 64 ? strlen(name) : 64; /* X.520's bound */
	int r = gnutls_x509_crt_set_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, name,
					      (unsigned)common);
	for (size_t i = 0; r >= 0 && i < COUNT(names); i++)
		r = gnutls_x509_crt_set_subject_alt_name(crt, names[i].type, names[i].data,
							 (unsigned)names[i].n, GNUTLS_FSAN_APPEND);
	return r;
}

static int make(struct made *m)
{
	int r = gnutls_x509_privkey_generate(m->key, GNUTLS_PK_ECDSA,
					     GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
	if (r < 0 || (r = gnutls_x509_crt_set_version(m->crt, 3)) < 0 ||
	    (r = set_serial(m->crt)) < 0 || (r = set_times(m->crt)) < 0 ||
	    (r = set_names(m->crt)) < 0 ||
	    (r = gnutls_x509_crt_set_basic_constraints(m->crt, 0, -1)) < 0 ||
	    (r = gnutls_x509_crt_set_key_usage(m->crt, GNUTLS_KEY_DIGITAL_SIGNATURE)) < 0 ||
	    (r = gnutls_x509_crt_set_key(m->crt, m->key)) < 0)
		return r;
	return gnutls_x509_crt_sign2(m->crt, m->crt, m->key, GNUTLS_DIG_SHA256, 0);
}

static int write_out(struct task *t, const struct made *m, const char *path)
{
	gnutls_datum_t key = { 0 }, crt = { 0 };
	int r = gnutls_x509_privkey_export2_pkcs8(m->key, GNUTLS_X509_FMT_PEM, NULL,
						  GNUTLS_PKCS_PLAIN, &key);
	if (r >= 0)
		r = gnutls_x509_crt_export2(m->crt, GNUTLS_X509_FMT_PEM, &crt);
	int result = r < 0 ? fail(t, INTERNAL_ERROR, str(t, "%s: %s", path, gnutls_strerror(r)))
			   : file_write(t, path,
					str(t, "%.*s%.*s", (int)key.size, (char *)key.data,
					    (int)crt.size, (char *)crt.data),
					0600);
	gnutls_free(key.data);
	gnutls_free(crt.data);
	return result;
}

int certificate_make(struct task *t, const char *path)
{
	struct made m = { 0 };
	int r = gnutls_x509_privkey_init(&m.key);
	if (r >= 0)
		r = gnutls_x509_crt_init(&m.crt);
	if (r >= 0)
		r = make(&m);
	int result = r < 0 ? fail(t, INTERNAL_ERROR,
				  str(t, "no certificate can be made: %s", gnutls_strerror(r)))
			   : write_out(t, &m, path);
	gnutls_x509_crt_deinit(m.crt);
	gnutls_x509_privkey_deinit(m.key);
	return result;
}
