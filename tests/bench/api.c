/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Mount and Unmount through the client library, as a program with a connection of its own calls them. */

#include "bench/bench.h"
#include "protocol/client.h"

/* Above the agent's own RequestTimeoutSec=. */
#define DEADLINE_USEC (110 * UINT64_C(1000000))

void api_mount(sd_bus *bus, Volume *v)
{
        _cleanup_error_ Error err = ERROR_INIT;
        StrMapEntry path = { "path", v->image };
        MountParams p = {
                        .target = v->target,
                        .driver = "loop",
                        .source = { &path, 1 },
                        .fs_type = "ext4",
                        .volume_name = "data",
                        .pod_name = "web-0",
                        .pod_namespace = "default",
        };

        if (client_mount(bus, &p, now_boottime_usec() + DEADLINE_USEC, NULL, &err) < 0)
                die("Mount %s: %s: %s", v->target, error_code_name(err.code), err.text);
}

void api_unmount(sd_bus *bus, Volume *v)
{
        _cleanup_error_ Error err = ERROR_INIT;

        if (client_unmount(bus, v->target, now_boottime_usec() + DEADLINE_USEC, &err) < 0)
                die("Unmount %s: %s: %s", v->target, error_code_name(err.code), err.text);
}
