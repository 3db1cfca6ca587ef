// SPDX-License-Identifier: Apache-2.0
/* dump.h -- the model as text, for people and tests:
 *
 *     class VM
 *       name_label    RW    string    _    name
 *     call VM.clone    vm-admin    async    ref vm:REF:VM new_name:STRING:_
 *
 * A line for each class, each field (its access, kind, class or enumeration, text) and each call: the least role that
 * may, whether there is an Async form ("-": none), the result, the arguments; in brackets one that may be left out. */
#pragma once

#include <stdio.h>

void model_dump(FILE *);
