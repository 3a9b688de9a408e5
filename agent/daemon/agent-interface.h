/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * io.berth.Agent1 and io.berth.Volume1 as served on each connection: calls into operations, objects into
 * properties. The interfaces are described in agent/protocol/io.berth.Agent1.xml and its siblings; a test compares.
 */

#include <systemd/sd-bus.h>

#include "daemon/manager.h"

/* Adds the objects to a connection: two slots, however many volumes there are. */
int agent_interface_add(Manager *m, sd_bus *bus);
/* Whether an operation still has to answer on this connection. */
bool agent_interface_bus_is_awaited(Manager *m, sd_bus *bus);
