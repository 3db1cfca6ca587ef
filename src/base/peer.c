// SPDX-License-Identifier: Apache-2.0
#include "base/peer.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>

#include "base/text.h"

bool peer_is_remote(const char *peer)
{
	return *peer && !starts_with(peer, "local ");
}

static char *network_of(const void *ctx, struct in6_addr *six)
{
	char text[INET6_ADDRSTRLEN];
	memset(six->s6_addr + 8, 0, 8);
	inet_ntop(AF_INET6, six, text, sizeof text);
	return str(ctx, "%s/64", text);
}

static char *four_of(const void *ctx, const struct in6_addr *six)
{
	const unsigned char *four = six->s6_addr + 12;
	return str(ctx, "%d.%d.%d.%d", four[0], four[1], four[2], four[3]);
}

char *peer_source(const void *ctx, const char *peer)
{
	const char *cut = peer_is_remote(peer) ? strrchr(peer, ':') : strstr(peer, " pid=");
	char *host = talloc_strndup(ctx, peer, cut ? (size_t)(cut - peer) : strlen(peer));
	struct in6_addr six;
	char *zone = strchr(host, '%');
	if (zone)
		*zone = 0;
	if (inet_pton(AF_INET6, host, &six) != 1)
		return host;
	talloc_free(host);
	return IN6_IS_ADDR_V4MAPPED(&six) ? four_of(ctx, &six) : network_of(ctx, &six);
}
