// SPDX-License-Identifier: Apache-2.0
/* site.h: which page asks, and by which name. */
#include "wire/site.h"

#include <gnutls/x509.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "base/task.h"
#include "base/text.h"
#include "check.h"
#include "wire/certificate.h"
#include "wire/http.h"

static struct request asked(const void *ctx, const char *host, const char *origin, const char *site)
{
	struct request req = { 0 };
	if (host)
		map_set(ctx, &req.headers, "host", host);
	if (origin)
		map_set(ctx, &req.headers, "origin", origin);
	if (site)
		map_set(ctx, &req.headers, "sec-fetch-site", site);
	return req;
}

static void test_another(struct task *t)
{
	static const struct {
		const char *host, *origin, *site;
		bool another;
	} rows[] = {
		{ "kvm1", NULL, NULL, false },
		{ "kvm1", NULL, "none", false },
		{ "kvm1", NULL, "same-origin", false },
		{ "kvm1", NULL, "same-site", true },
		{ "kvm1", NULL, "cross-site", true },
		{ "kvm1", "http://kvm1", NULL, false },
		{ "KVM1:8080", "https://kvm1:8080", "same-origin", false },
		{ "kvm1:8080", "http://kvm1", NULL, true },
		{ "kvm1", "null", NULL, true },
		{ "kvm1", "kvm1", NULL, true },
		{ NULL, "http://kvm1", NULL, true },
		{ "kvm1", "http://evil.example", NULL, true },
		{ "evil.example", "http://kvm1", NULL, true },
	};
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct request req = asked(t, rows[i].host, rows[i].origin, rows[i].site);
		CHECK(site_is_another(&req) == rows[i].another);
	}
}

/* Only a page is asked for the name; ours are those of the machine and of its certificate. */
static void test_misnamed(struct task *t, const char *name)
{
	const char *long_name = talloc_strndup(t, "an-endless-name-an-endless-name-an-endless-name-an-"
						  "endless-name-an-endless-name-an-endless-name-", 96);
	const struct {
		const char *host;
		bool misnamed;
	} rows[] = {
		{ "127.0.0.1", false },
		{ "192.0.2.7:8080", false },
		{ "[::1]", false },
		{ "[2001:db8::7]:443", false },
		{ "localhost", false },
		{ "LocalHost:8080", false },
		{ name, false },
		{ str(t, "%s:80", name), false },
		{ "evil.example", true },
		{ "evil.example:8080", true },
		{ "127.0.0.1.evil.example", true },
		{ "localhost.evil.example", true },
		{ "", true },
		{ "]", true },
		{ "[", true },
		{ NULL, true },
		{ long_name, true },
	};
	for (size_t i = 0; i < COUNT(rows); i++) {
		struct request page = asked(t, rows[i].host, "http://x", NULL), script = asked(t, rows[i].host, NULL, NULL),
			       get = asked(t, rows[i].host, NULL, "same-origin"), typed = asked(t, rows[i].host, NULL, "none");
		CHECK(site_is_misnamed(&page) == rows[i].misnamed && site_is_misnamed(&get) == rows[i].misnamed);
		CHECK(!site_is_misnamed(&script) && !site_is_misnamed(&typed));
	}
}

/* A user's own: for one name, and all of another domain. */
static void make_own(struct task *t, const char *path)
{
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t crt;
	gnutls_datum_t text;
	CHECK(gnutls_x509_privkey_init(&key) == 0 && gnutls_x509_crt_init(&crt) == 0);
	CHECK(gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0) == 0);
	CHECK(gnutls_x509_crt_set_version(crt, 3) == 0 && gnutls_x509_crt_set_serial(crt, "\1", 1) == 0);
	CHECK(gnutls_x509_crt_set_activation_time(crt, time(NULL)) == 0 &&
	      gnutls_x509_crt_set_expiration_time(crt, time(NULL) + 3600) == 0);
	for (const char *const *name = (const char *[]){ "own.example", "*.lab.example", NULL }; *name; name++)
		CHECK(gnutls_x509_crt_set_subject_alt_name(crt, GNUTLS_SAN_DNSNAME, *name, (unsigned)strlen(*name),
							   GNUTLS_FSAN_APPEND) == 0);
	CHECK(gnutls_x509_crt_set_key(crt, key) == 0 && gnutls_x509_crt_sign2(crt, crt, key, GNUTLS_DIG_SHA256, 0) == 0);
	CHECK(gnutls_x509_crt_export2(crt, GNUTLS_X509_FMT_PEM, &text) == 0);
	CHECK(file_write(t, path, str(t, "%.*s", (int)text.size, (char *)text.data), 0600) == 0);
	gnutls_free(text.data);
	gnutls_x509_crt_deinit(crt);
	gnutls_x509_privkey_deinit(key);
}

static bool is_misnamed(struct task *t, const char *host)
{
	struct request req = asked(t, host, "http://x", NULL);
	return site_is_misnamed(&req);
}

static void test_certificate(struct task *t, const char *name, const char *pem)
{
	struct task *absent = task_new(t, "absent"), *wrong = task_new(t, "wrong");
	CHECK(site_open(absent, pem) == -1);
	CHECK(file_write(t, pem, "nonsense", 0600) == 0 && site_open(wrong, pem) == -1 && wrong->code == INVALID_VALUE);
	site_close();
	CHECK(certificate_make(t, pem) == 0 && site_open(t, pem) == 0);
	test_misnamed(t, name);
	CHECK(is_misnamed(t, "own.example"));
	site_close();
	make_own(t, pem);
	CHECK(site_open(t, pem) == 0);
	test_misnamed(t, name);
	CHECK(!is_misnamed(t, "own.example") && !is_misnamed(t, "Own.Example:443") && !is_misnamed(t, "a.lab.example"));
	CHECK(is_misnamed(t, "an.own.example") && is_misnamed(t, "a.b.lab.example") && is_misnamed(t, "lab.example"));
	site_close();
}

int main(void)
{
	char dir[] = "/tmp/test_site.XXXXXX", name[256] = "";
	CHECK(mkdtemp(dir) && gethostname(name, sizeof name - 1) == 0);
	struct task *t = task_new(NULL, "test");
	test_another(t);
	CHECK(site_open(t, NULL) == 0);
	test_misnamed(t, name);
	site_close();

	char *pem = str(t, "%s/own.pem", dir);
	test_certificate(t, name, pem);
	unlink(pem);
	rmdir(dir);
	talloc_free(t);
	return 0;
}
