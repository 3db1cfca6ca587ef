// SPDX-License-Identifier: Apache-2.0
#include "archive/kind.h"

#include <string.h>

#include "base/text.h"

#define CONVERT "qemu-img convert -O qcow2 makes an image of it that can be taken"
#define UNPACK "unpack it first"

static const struct {
	size_t at, n;
	const char *bytes;
	struct kind kind;
} kinds[] = {
	{ 0, 4, "QFI\xfb", { "a qcow2 image", .format = "qcow2" } },
	{ 0, 8, "conectix", { "a VHD image", .format = "vhd" } },
	{ 0, 8, "vhdxfile", { "a VHDX image", CONVERT } },
	{ 0, 4, "KDMV", { "a VMDK image", CONVERT } },
	{ 0, 4, "COWD", { "a VMDK image", CONVERT } },
	{ 0, 21, "# Disk DescriptorFile", { "the description of a VMDK image", CONVERT } },
	{ 64, 4, "\x7f\x10\xda\xbe", { "a VDI image of VirtualBox", CONVERT } },
	{ 0, 4, "QED\0", { "a QED image", CONVERT } },
	{ 0, 16, "WithoutFreeSpace", { "a Parallels image", CONVERT } },
	{ 0, 16, "WithouFreSpacExt", { "a Parallels image", CONVERT } },
	{ 257, 5, "ustar", { "a tar archive", UNPACK } }, /* XVA and OVA files are tar archives */
	{ 0, 4, "PK\3\4", { "a zip archive", UNPACK } },
	{ 0, 6, "7z\xbc\xaf\x27\x1c", { "a 7z archive", UNPACK } },
	{ 0, 3, "\x1f\x8b\x08", { "something that gzip has compressed", UNPACK } },
	{ 0, 6, "\xfd\x37zXZ", { "something that xz has compressed", UNPACK } },
	{ 0, 4, "\x28\xb5\x2f\xfd", { "something that zstd has compressed", UNPACK } },
	{ 0, 4, "\x04\x22\x4d\x18", { "something that lz4 has compressed", UNPACK } },
	{ 4, 6, "1AY&SY", { "something that bzip2 has compressed", UNPACK } },
};

const struct kind *kind_of(const void *bytes, size_t n)
{
	for (size_t i = 0; i < COUNT(kinds); i++)
		if (kinds[i].at + kinds[i].n <= n &&
		    memcmp((const char *)bytes + kinds[i].at, kinds[i].bytes, kinds[i].n) == 0)
			return &kinds[i].kind;
	return NULL;
}
