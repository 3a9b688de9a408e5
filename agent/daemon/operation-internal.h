/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What the files that operations are made of share among themselves; everybody else includes operation.h. */

#include "daemon/operation.h"

#define TIMER_ACCURACY_USEC 1000
/* A look must not take as long as work may. */
#define LOOK_TIMEOUT_USEC UINT64_C(10000000)

/* ---- operation-answer.c ---- */

/* Adds a caller, with its own deadline. 0 or -ENOMEM. */
int operation_add_waiter(Operation *op, sd_bus_message *call);
void operation_reply_error(sd_bus_message *call, const Error *err);
/* Answers the first n who wait, or all of them: with err, or with success if it is NULL. */
void operation_answer_first(Operation *op, size_t n, const Error *err);
void operation_answer(Operation *op, const Error *err);
/* The one line a request: with the fields that journalctl filters by. */
void operation_log(Operation *op, const Error *err);
/* For logs and errors; NULL before it is known. */
const char *operation_volume_key(const Operation *op);

/* ---- operation.c ---- */

/* An unmount whose target is free: what is left concerns the storage alone, and the caller has what it asked for. */
bool operation_target_is_free(const Operation *op);
/* All who wait are answered within usec from now. */
void operation_answer_by(Operation *op, uint64_t usec);
/* Starts one of berthd's own on what is published at target; nothing if nothing is. 0 or -ENOMEM. */
int operation_begin_at(Manager *m, OperationType type, const char *target);

/* ---- operation-lock.c ---- */

struct NameLock {
        char *name;
        Operation *holder;
        struct OperationList waiting;
        UT_hash_handle hh;
};

/* Goes on with op from the event loop, so that one operation's end never nests in another's. */
void operation_wake(Operation *op);
NameLock *name_lock_find(Manager *m, const char *name);
/* The same, made if missing; NULL if out of memory. */
NameLock *name_lock_get(Manager *m, const char *name);
/* Frees it if nobody holds or wants it. */
void name_lock_gc(Manager *m, NameLock *l);
/* Gives op's name to the next in line. */
void name_lock_release(Operation *op);
/* Gives op's volume to the next in line; without one, schedules what has to be done about it. */
void operation_unlock_volume(Operation *op);
