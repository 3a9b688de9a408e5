/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * io.berth.Agent1 on the system bus, for people (busctl, d-spy) and monitoring. Root may do everything but pass secrets, members of
 * AdminGroup= may look, nobody else anything. Whether there is a bus makes no difference to anything else.
 */

#include "daemon/manager.h"

/* From now on the bus is sought, and sought again when it is lost. 0 or -ENOMEM. */
int system_bus_start(Manager *m);
/* The settings have changed: another group, perhaps. */
void system_bus_reload(Manager *m);
/* "off", "waiting" or "exported": for status. */
const char *system_bus_state(const Manager *m);
void system_bus_free(Manager *m);
