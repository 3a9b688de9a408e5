/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <jansson.h>

#include "protocol/bus-util.h"

/*
 * D-Bus values as JSON, so that --json shows whatever the agent tells, keys of newer agents included:
 * numbers, booleans and strings as such, ay as a string with bytes_escape() (paths), dictionaries as objects, other
 * arrays and structs as arrays, variants as what they hold; a number beyond JSON's signed 64 bits as a
 * string. (tss), an entry of `errors`, becomes an object of time, name and text.
 *
 * Reads one complete value at the message's position. Helper: -EBADMSG for a type it does not know, -ELOOP
 * beyond a depth of 16, -ENOMEM.
 */
int bus_to_json(sd_bus_message *m, json_t **ret);
