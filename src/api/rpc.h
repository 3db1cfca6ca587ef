// SPDX-License-Identifier: Apache-2.0
/* rpc.h -- a method of the API by its name: what JSON-RPC and XML-RPC have in common.
 *
 * Methods are the calls of the tables (call.h), and those that every class has, made from its fields:
 *
 *     get_all, get_all_records, get_all_records_where, get_record, get_by_uuid, get_by_name_label,
 *     get_F, set_F, add_to_F, remove_from_F, add_F, remove_F; create takes a record
 *
 * Async.CLASS.METHOD runs a call in the background, and returns its task. */
#pragma once

#include <jansson.h>

struct task;
struct values;

/* Runs the method, and puts its result.  params is an array, the session first where the method
 * wants one.  Method and params are on the reader, which is freed when they have been read: a call
 * may wait for long, and its client's words take up much more than they are.  Nothing is put when
 * it fails: with MESSAGE_METHOD_UNKNOWN, MESSAGE_PARAMETER_COUNT_MISMATCH, SESSION_INVALID,
 * FIELD_TYPE_ERROR, INVALID_VALUE, or what the method itself fails with. */
int rpc_call(struct task *, struct task *reader, const char *method, const json_t *params,
	     struct values *);
