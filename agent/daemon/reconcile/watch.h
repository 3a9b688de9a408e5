/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * When reconcile runs: right after start, when a mount or a device of berth's changes behind its back, and on a timer. The same
 * timer has the health of staged volumes checked, one after another, so that checks never crowd out requests.
 *
 * Mount changes come from fanotify where the kernel has mount events (6.15): each names its mount, so other programs' mounts cost
 * next to nothing. Elsewhere /proc/self/mountinfo only tells that something changed, and the table is read at most once a
 * second and for at most a twentieth of the time.
 */

#include "daemon/manager.h"

int watch_start(Manager *m, Error *err);
/* The settings have changed: a full look now. */
void watch_reload(Manager *m);
void watch_free(Manager *m);
/* Between three and five quarters of the interval, by chance, so that the nodes of a cluster do not all look at once. */
uint64_t watch_jitter(uint64_t interval);
typedef enum CheckEnd {
        CHECK_ENDED,
        CHECK_GIVEN_UP,       /* its time is up; it may end later, or never */
        CHECK_GIVEN_UP_ENDED, /* and now it has ended */
} CheckEnd;
/* A health check of the volume of this key has come to its end, or is not waited for: the next may begin. */
void watch_check_done(Manager *m, const char *key, CheckEnd end);
/* "fanotify" or "mountinfo": for status. */
const char *watch_mount_source(const Manager *m);
