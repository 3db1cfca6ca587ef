// SPDX-License-Identifier: Apache-2.0
/* certificate.h -- the certificate that a host shows when it was given none. */
#pragma once

struct task;

/* Makes a key and a certificate signed with it for this host's name, and writes both to the file (PEM, 0600). */
int certificate_make(struct task *, const char *path);
