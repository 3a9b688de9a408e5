/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * SIGHUP: the configuration is read anew. A new one that is wrong changes nothing. What cannot change while berthd runs is named
 * in a warning and keeps its value.
 */

#include "daemon/manager.h"

/* Adds the signal to the event loop; it must be blocked. Helper. */
int reload_start(Manager *m);
