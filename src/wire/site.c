// SPDX-License-Identifier: Apache-2.0
#include "wire/site.h"

#include <arpa/inet.h>
#include <gnutls/x509.h>
#include <limits.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "wire/http.h"

enum { PEM_LIMIT = 1 << 20 };

static struct {
	char machine[HOST_NAME_MAX + 1];
	gnutls_x509_crt_t certificate; /* NULL: none */
} names;

static int learn(struct task *t, const char *pem)
{
	char *text = file_read(t, pem, PEM_LIMIT);
	if (!text)
		return -1;
	gnutls_datum_t data = { .data = (unsigned char *)text, .size = (unsigned)strlen(text) };
	int r = gnutls_x509_crt_init(&names.certificate);
	if (r >= 0)
		r = gnutls_x509_crt_import(names.certificate, &data, GNUTLS_X509_FMT_PEM);
	return r < 0 ? fail(t, INVALID_VALUE, pem, gnutls_strerror(r)) : 0;
}

int site_open(struct task *t, const char *pem)
{
	gethostname(names.machine, sizeof names.machine - 1);
	return pem ? learn(t, pem) : 0;
}

void site_close(void)
{
	if (names.certificate)
		gnutls_x509_crt_deinit(names.certificate);
	names.certificate = NULL;
}

static const char *header(const struct request *req, const char *name)
{
	return map_get(&req->headers, name);
}

bool site_is_of_a_page(const struct request *req)
{
	return header(req, "origin") || header(req, "sec-fetch-site");
}

bool site_is_another(const struct request *req)
{
	const char *origin = header(req, "origin"), *host = header(req, "host"),
		   *site = header(req, "sec-fetch-site");
	const char *named = origin ? strstr(origin, "://") : NULL;
	if (site && !streq(site, "same-origin") && !streq(site, "none"))
		return true;
	return origin && (!named || !host || strcasecmp(named + strlen("://"), host) != 0);
}

/* NAME, NAME:PORT or [ADDRESS]:PORT without what is not the name. */
static void cut_port(char *host)
{
	char *colon = strrchr(host, ':'), *bracket = strchr(host, ']');
	if (bracket)
		*bracket = 0;
	else if (colon)
		*colon = 0;
	if (*host == '[')
		memmove(host, host + 1, strlen(host));
}

static bool is_ours(const char *name)
{
	unsigned char address[sizeof(struct in6_addr)];
	return inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1 ||
	       strcasecmp(name, "localhost") == 0 || strcasecmp(name, names.machine) == 0 ||
	       (names.certificate && gnutls_x509_crt_check_hostname(names.certificate, name));
}

/* Who types an address himself, or follows a link, is no page. */
bool site_is_misnamed(const struct request *req)
{
	const char *site = header(req, "sec-fetch-site"), *host = header(req, "host");
	char name[HOST_NAME_MAX + 16];
	if (!header(req, "origin") && !(site && streq(site, "same-origin")))
		return false;
	if (!host || strlen(host) >= sizeof name)
		return true;
	strcpy(name, host);
	cut_port(name);
	return !is_ours(name);
}
