/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * reconcile_plan() by itself. Apart from bench.h, since the agent's headers have a Volume and a Plan of
 * their own.
 */

typedef enum PlanCase {
        PLAN_CASE_HEALTHY,   /* nothing to do */
        PLAN_CASE_UNMOUNTED, /* every target was unmounted by hand */
        PLAN_CASE_FORGOTTEN, /* every record was lost */
        _PLAN_CASE_MAX,
} PlanCase;

/*
 * The CPU time of the plan, in microseconds, for that many volumes with a device, a stage and a published
 * target each. Dies unless the plan has the steps that the case must have.
 */
double plan_once(PlanCase c, unsigned n_volumes);
