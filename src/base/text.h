// SPDX-License-Identifier: Apache-2.0
/* text.h -- small things about strings: formatting, comparing, numbers, times, ids. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <talloc.h>

#define streq(a, b) (strcmp((a), (b)) == 0)
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* printf into memory of ctx (most often a task). */
char *str(const void *ctx, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

bool starts_with(const char *s, const char *prefix);
bool ends_with(const char *s, const char *suffix);

/* UTF-8, without NUL, overlong forms, surrogates or code points above U+10FFFF. */
bool text_is_utf8(const char *s);

/* s as one may show it to people, whoever wrote it: without control characters and those that turn the
 * direction of writing, and cut to at most limit bytes, between characters.  On ctx. */
char *text_plain(const void *ctx, const char *s, size_t limit);

/* The first limit bytes of s at most, cut between characters.  On ctx. */
char *text_cut(const void *ctx, const char *s, size_t limit);

/* s as one may write it to a terminal, whoever wrote it: the bytes of what text_plain() leaves out (but for line feeds
 * and tabs), and those that are no UTF-8, are told as \x1b.  On ctx. */
char *text_visible(const void *ctx, const char *s);

/* How many characters have to be put in, left out or changed to make b of a (Levenshtein); TEXT_FAR when one of them
 * has more than 63 bytes. */
#define TEXT_FAR 1000u
unsigned text_distance(const char *a, const char *b);

/* s, in place, without the blanks, tabs and carriage returns around it. */
char *text_trim(char *s);

/* s with the character from replaced by to, on ctx. */
char *text_swap(const void *ctx, const char *s, char from, char to);

/* A whole decimal number, optionally signed; false when s is anything else or does not fit. */
bool text_int(const char *s, int64_t *ret);
/* A number of bytes: digits and optionally one of bytes, KiB, MiB, GiB, TiB (xe's grammar). */
bool text_size(const char *s, int64_t *ret);
/* true/false, yes/no, 1/0, t/f, y/n in any case. */
bool text_bool(const char *s, bool *ret);

/* As it stands between tags, or in quotes, of XML; what XML forbids is left out.  On ctx. */
char *text_xml(const void *ctx, const char *s);

/* "12.3 MiB" on ctx. */
char *size_str(const void *ctx, uint64_t bytes);

/* Times are XenAPI's text, UTC: 20260131T12:34:56Z; they sort as text. */
#define TIME_NEVER "19700101T00:00:00Z"
char *time_now(const void *ctx);
char *time_ago(const void *ctx, int64_t seconds);
bool text_is_time(const char *s);

/* Random, version 4, lower case. */
char *uuid_new(const void *ctx);
bool text_is_uuid(const char *s);
/* n bytes as 2*n lower case hex digits, and back; NULL: it is no such text. */
char *hex_text(const void *ctx, const void *bytes, size_t n);
unsigned char *hex_bytes(const void *ctx, const char *text, size_t *ret_n);
/* 2*bytes hex digits from the system's random source. */
char *random_hex(const void *ctx, size_t bytes);
/* A reference of XenAPI: "OpaqueRef:<uuid>". */
#define NULL_REF "OpaqueRef:NULL"
char *ref_new(const void *ctx);
bool ref_is_null(const char *ref);
