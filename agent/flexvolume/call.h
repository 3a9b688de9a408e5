/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The calls of the FlexVolume contract, each turned into one call of the agent and its answer into a reply. No
 * state and no decision lives here: what is attached or mounted where is for the agent to know.
 */

#include <jansson.h>
#include <stdint.h>

/*
 * Serves one call. program: argv[0], whose last component names the driver ("loop", "vendor~loop"). args: what follows it
 * (args[0] is the call's name), n_args of them. deadline_usec: CLOCK_BOOTTIME, absolute.
 * Returns the reply (owned by the caller), NULL if out of memory.
 */
json_t *call_serve(const char *program, char *const *args, int n_args, uint64_t deadline_usec);
