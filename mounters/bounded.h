/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* A call that storage may hold up, with a time limit. */

#include "mounters/mounter.h"

/*
 * Runs function(argument) in a thread and waits for it: 0 with its result in *ret_result, or -ETIMEDOUT when
 * usec have passed. Then the thread still runs, so argument must never be freed, what it points to has to
 * last until the answer is sent, and the process ends after that (m->spent is set here): its end interrupts
 * what waits for a server. Or another negative errno, with nothing run.
 */
int bounded_call(Mounter *m, uint64_t usec, int (*function)(void *), void *argument, int *ret_result);
