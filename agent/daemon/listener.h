/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The socket and its connections, peer to peer, root only.
 *
 * A hostile or broken peer costs at most its own connection: above [Agent] MaxConnections= the longest idle one is
 * closed for the newcomer; one that has not authenticated after 5 s is closed, and so is one that sends calls without reading
 * the answers; running out of descriptors pauses accepting and closes an idle one; unfinished messages that take too much
 * memory are dropped with their connections.
 */

#include <systemd/sd-bus.h>

#include "daemon/manager.h"

/* Takes the socket from systemd (sd_listen_fds(3)) or makes it, 0600. */
int listener_start(Manager *m, Error *err);
void listener_stop(Manager *m);
/* Serves the other end of *fd, as if it had been accepted from root: for calls from the system bus, which have been checked. Takes *fd. Helper. */
int listener_adopt(Manager *m, int *fd);
/* Whether the connection is one of listener_adopt(): others can see what goes over it. */
bool connection_is_relayed(const Manager *m, const sd_bus *bus);
/* Called for every request, so that the idle come first in Manager.connections. */
void connection_touch(Manager *m, sd_bus *bus);
