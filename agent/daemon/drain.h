/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Drain: every volume is unpublished, unstaged and detached, all at the same time as far as there are mounters, and again while something
 * holds it, until all are gone or the time is over. While one runs no volume is mounted or attached.
 */

#include <systemd/sd-bus.h>

#include "daemon/manager.h"

/* Takes the time from now; call is answered (io.berth.Agent1.Drain) when all volumes are gone, or with what is left. 0 or -ENOMEM. */
int drain_begin(Manager *m, uint64_t timeout_usec, sd_bus_message *call);
/* Whether one runs. */
bool drain_is_running(const Manager *m);
/* Whether the answer of a Drain is due on this connection. */
bool drain_is_awaited(const Manager *m, const sd_bus *bus);
/* Answers what is due with SHUTTING_DOWN. */
void drains_free(Manager *m);
