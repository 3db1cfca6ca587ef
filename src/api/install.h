// SPDX-License-Identifier: Apache-2.0
/* install.h -- a VM made of a template, with the disks that the template asks for: all of it, or nothing.
 *
 * The template is cloned, or copied where its disks are in another SR than is wanted; the clone, which is a template
 * yet, gets the wanted SR, and is provisioned.  Each of these is an operation that ends by itself; a deed to come, noted
 * ahead of them, deletes what is still a template when the call has ended, or when the daemon starts again. */
#pragma once

struct call;

struct install {
	const char *from; /* the template or snapshot: ref */
	const char *name;
	const char *sr;     /* for all disks: ref; NULL: where the template wants them */
	const char *result; /* the VM: ref */
};

extern const struct call call_install; /* its arguments: struct install */
