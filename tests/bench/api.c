/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Requests through the client library, as a program with a connection of its own makes them. */

#include <string.h>

#include "bench/bench.h"
#include "protocol/bus-util.h"
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

typedef struct Wanted {
        const char *key;
        uint64_t number;
        char *text;
        bool found;
} Wanted;

static int take_wanted(const char *key, const char *type, sd_bus_message *m, void *userdata)
{
        Wanted *w = userdata;
        const char *text;
        int r;

        if (strcmp(key, w->key) != 0)
                return 0;
        w->found = true;
        if (strcmp(type, "t") == 0)
                return sd_bus_message_read_basic(m, 't', &w->number);
        r = sd_bus_message_read_basic(m, 's', &text);
        if (r >= 0)
                w->text = format_string("%s", text);
        return r;
}

static Wanted get_status(sd_bus *bus, const char *key)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_message_ sd_bus_message *call = NULL, *reply = NULL;
        Wanted w = { .key = key };

        if (client_new_call(bus, "GetStatus", &call, &err) < 0 ||
            client_call(bus, call, now_boottime_usec() + DEADLINE_USEC, &reply, &err) < 0)
                die("GetStatus: %s", err.text);
        if (bus_read_dict(reply, take_wanted, &w) < 0 || !w.found)
                die("GetStatus tells no %s", key);
        return w;
}

uint64_t api_status(sd_bus *bus, const char *key)
{
        return get_status(bus, key).number;
}

bool api_status_is(sd_bus *bus, const char *key, const char *value)
{
        _cleanup_free_ char *text = get_status(bus, key).text;

        return text && strcmp(text, value) == 0;
}
