/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* io.berth.Volume1: a volume's properties, as an object and as entries of ListVolumes and Explain. */

#include <systemd/sd-bus.h>

#include "daemon/volume.h"

/* One fallback vtable for all volumes of a connection. */
int volume_properties_add(Manager *m, sd_bus *bus);
/* Appends all properties as {sv} entries to the a{sv} that is open. */
int volume_append_properties(sd_bus_message *m, const Volume *v);
