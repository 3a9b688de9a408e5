/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What reconcile has told in the log, so that a thing that stays as it is (a mount that is nobody's, a device that another namespace
 * holds) is told once and then seldom, not at each look. Bounded: the oldest is forgotten when there are too many.
 */

#include "daemon/reconcile/reconcile.h"

typedef struct Finding Finding;

/* Starts empty (NULL); freed by findings_free(). */
typedef Finding *Findings;

/*
 * Whether the step's result is to be told now: it is new, was last seen long ago, or was last told long ago. now_usec: CLOCK_BOOTTIME.
 * True when out of memory.
 */
bool findings_note(Findings *f, const PlanStep *step, const char *result, uint64_t now_usec);
void findings_free(Findings *f);
