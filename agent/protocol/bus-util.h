/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * sd-bus with our own types: cleanup attributes and a{ss}/as to and from StrMap/strv. Helpers: negative
 * errno, no logging. -EBADMSG: not the expected D-Bus type; -E2BIG: a bound of names.h is exceeded;
 * -EEXIST: a key stands twice.
 */

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "base/cleanup.h"
#include "base/strmap.h"


#define _cleanup_bus_ _cleanup_(sd_bus_flush_close_unrefp)
#define _cleanup_message_ _cleanup_(sd_bus_message_unrefp)
#define _cleanup_bus_error_ _cleanup_(sd_bus_error_free)
#define _cleanup_event_ _cleanup_(sd_event_unrefp)

/* Reads a{ss} at the message's position into an empty map. */
int bus_read_strmap(sd_bus_message *m, StrMap *ret);
int bus_append_strmap(sd_bus_message *m, const StrMap *map);
/* Reads as; an empty array gives NULL. */
int bus_read_strv(sd_bus_message *m, char ***ret);

/* Byte strings (ay): a path need not be UTF-8. Written without NUL; one trailing NUL is accepted when read. */
int bus_read_bytes(sd_bus_message *m, char **ret);
int bus_append_bytes(sd_bus_message *m, const char *s);
/* Reads aay; an empty array gives NULL. */
int bus_read_bytes_list(sd_bus_message *m, char ***ret);

/* One entry of an a{sv} that is being written: opens nothing, closes nothing, appends {sv}. */
int bus_append_entry(sd_bus_message *m, const char *key, const char *type, ...);
int bus_append_entry_strmap(sd_bus_message *m, const char *key, const StrMap *map);
int bus_append_entry_bytes(sd_bus_message *m, const char *key, const char *s);
int bus_append_entry_strv(sd_bus_message *m, const char *key, char *const *v);
int bus_append_entry_bytes_list(sd_bus_message *m, const char *key, char *const *v);

/*
 * Calls set(key, m, userdata) for each entry of the a{sv} at the message's position, with m entered into
 * the variant and `type` its content's signature; set must read exactly that content, or return 0 without
 * reading to have it skipped. A negative return ends the walk and is returned.
 */
int bus_read_dict(sd_bus_message *m,
                  int (*set)(const char *key, const char *type, sd_bus_message *m, void *userdata),
                  void *userdata);
