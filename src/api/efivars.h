// SPDX-License-Identifier: Apache-2.0
/* efivars.h -- UEFI variables in their two forms: the firmware's flash, and VM.NVRAM of XenAPI.
 *
 * The flash is what OVMF keeps in a VM's store; all numbers are little endian, sizes in bytes:
 *
 *     0    16 zeros, GUID fff12b8d-..., u64 size of the volume
 *     40   "_FVH"   48  u16 size of this header (72); its 16 bit words add up to 0
 *     72   GUID aaf32c78-..., u32 size of the area with this header, 5a (formatted), fe (healthy)
 *     100  entries, each at a multiple of 4; then ff up to the area's end
 *
 *     entry   0   aa 55, u8 state (3f: whole; 3e: whole, and about to be replaced), 0
 *             4   u32 attributes, u64 count, 16 bytes of time, u32 key's index
 *             36  u32 size of the name with its two zeros, u32 size of the data, GUID of the owner
 *             60  the name in UTF-16, the data
 *
 *     aa55 3f00 0700 0000  0000...  0800 0000 0400 0000  1140 70eb ...  4d00 5400 4300 0000 0100 0000
 *                   attributes        name     data size    the owner    M    T    C         data
 *
 * VM.NVRAM["EFI-variables"] is base64 of what XenServer's varstored writes:
 *
 *     0    "VARS", u32 version (1, or 2), u64 how many, u64 size of all variables
 *     24   in version 2: 268 bytes that are no variables (a key for wiping memory, a TPM's requests)
 *     each u64 size, the name without its zeros; u64 size, the data; GUID of the owner, u32 attributes,
 *          16 bytes of time, 32 bytes: a hash of the certificate that signed it, or 0
 *
 * Version 1 is written: every varstored reads it.  Whatever is parsed here was written by a guest or a client. */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct task;

struct efivar {
	const uint8_t *name; /* UTF-16, not ended */
	uint32_t name_size;
	const uint8_t *data; /* at least 1 byte */
	uint32_t data_size;
	const uint8_t *owner; /* a GUID, 16 bytes */
	const uint8_t *time;  /* 16 bytes */
	uint32_t attributes;
};

struct efivars {
	size_t n;
	struct efivar *v;
};

/* The variables in a flash image; they point into it.  INTERNAL_ERROR when it is none. */
int efivars_read_image(struct task *, const void *image, size_t n, struct efivars *ret);
/* Changes the image: those that last (volatile ones do not) take the place of ones with their name and
 * owner, or are added.  VALUE_NOT_SUPPORTED [NVRAM] when they do not fit: the image is as it was. */
int efivars_put(struct task *, void *image, size_t n, const struct efivars *);

/* The variables in a blob; they point into it.  VALUE_NOT_SUPPORTED [NVRAM] when it is none. */
int efivars_read_blob(struct task *, const void *blob, size_t n, struct efivars *ret);
/* Those that last, as a blob on t. */
uint8_t *efivars_write_blob(struct task *, const struct efivars *, size_t *ret_n);

/* The same as base64, which is on t as what the variables point into is. */
int efivars_read_text(struct task *, const char *text, struct efivars *ret);
const char *efivars_write_text(struct task *, const struct efivars *);
