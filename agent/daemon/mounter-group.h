/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Groups: volumes that have something in common that may be dead as a whole, such as their server. At most
 * [Mounters] MaxPerServer= operations of a group are at steps that wait for it; others stand in line,
 * without a process. Once one of them was not answered the group is silent: then those beyond the limit are
 * refused after three seconds in line, while the others go on finding out whether it is back, which they do sooner. That is remembered for some time when nobody
 * asks, since those who are refused come again.
 */

#include "daemon/operation.h"

struct MounterGroup {
        Pool *pool;
        char *name;
        unsigned n_members;
        bool silent;
        bool idle; /* silent, and nobody is in it: in Pool.groups_idle */
        uint64_t waited_look; /* the last of Pool.n_looks that found a member waiting for long */
        uint64_t idle_since_usec; /* CLOCK_BOOTTIME */
        struct OperationList waiting;
        sd_event_source *patience; /* while it is silent and somebody is in line */
        UT_hash_handle hh; /* in Pool.groups */
        TAILQ_ENTRY(MounterGroup) idle_entry;
};

/* Whether a step may have to wait for what the group is named after. */
bool group_step_waits(const char *kind, Step step);
/*
 * Makes op a member of the group: 1; or puts it in line: 0, and it is woken as a member. SERVER_UNREACHABLE:
 * the group is silent and full, now or (operation_refused()) later. A member stays one until group_leave().
 */
int group_join(Operation *op, Pool *pool, const char *name, Error *err);
void group_leave(Operation *op);
/* Takes op out of the line. */
void group_cancel(Operation *op);
/* Since when op, at work in a mounter, has waited for its group without a sign of it (CLOCK_BOOTTIME); 0: it does not. */
uint64_t group_waits_since(const Operation *op, const char *kind);
/* At the very end, after all operations are gone. */
void groups_free(Pool *pool);
/* op, a member, was answered, was told that it will be, or was not answered. */
void group_answered(Operation *op);
void group_unanswered(Operation *op);
