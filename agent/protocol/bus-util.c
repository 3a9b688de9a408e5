/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Reading and writing the few D-Bus container types that berth's interfaces use. Works on messages in
 * memory only; never blocks. Everything read is bounded (names.h), since requests may be hostile.
 */

#include "protocol/bus-util.h"

#include <stdarg.h>
#include <string.h>

#include "protocol/names.h"

int bus_read_strmap(sd_bus_message *m, StrMap *ret)
{
        _cleanup_strmap_erase_ StrMap map = STRMAP_INIT;
        int r = sd_bus_message_enter_container(m, 'a', "{ss}");
        if (r < 0)
                return r == -ENXIO ? -EBADMSG : r;

        for (;;) {
                const char *key, *value;

                r = sd_bus_message_read(m, "{ss}", &key, &value);
                if (r < 0)
                        return r;
                if (r == 0)
                        break;
                if (map.n_entries >= REQUEST_OPTIONS_MAX || strlen(key) > REQUEST_STRING_MAX ||
                    strlen(value) > REQUEST_STRING_MAX)
                        return -E2BIG;
                r = strmap_add(&map, key, value);
                if (r < 0)
                        return r;
        }
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = map;
        map = STRMAP_INIT;
        return 0;
}

int bus_append_strmap(sd_bus_message *m, const StrMap *map)
{
        int r = sd_bus_message_open_container(m, 'a', "{ss}");

        STRMAP_FOREACH (e, map) {
                if (r < 0)
                        return r;
                r = sd_bus_message_append(m, "{ss}", e->key, e->value);
        }
        return r < 0 ? r : sd_bus_message_close_container(m);
}

int bus_read_strv(sd_bus_message *m, char ***ret)
{
        _cleanup_strv_ char **v = NULL;
        size_t n = 0;
        int r = sd_bus_message_enter_container(m, 'a', "s");
        if (r < 0)
                return r == -ENXIO ? -EBADMSG : r;

        for (;;) {
                const char *s;

                r = sd_bus_message_read_basic(m, 's', &s);
                if (r < 0)
                        return r;
                if (r == 0)
                        break;
                if (n++ >= REQUEST_OPTIONS_MAX || strlen(s) > REQUEST_STRING_MAX)
                        return -E2BIG;
                r = strv_append(&v, s);
                if (r < 0)
                        return r;
        }
        r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(v);
        return 0;
}

int bus_read_bytes(sd_bus_message *m, char **ret)
{
        const void *data;
        size_t size;
        int r = sd_bus_message_read_array(m, 'y', &data, &size);
        if (r < 0)
                return r == -ENXIO ? -EBADMSG : r;

        if (size > 0 && ((const char *) data)[size - 1] == 0)
                size--;
        if (size > REQUEST_STRING_MAX)
                return -E2BIG;
        if (size > 0 && memchr(data, 0, size))
                return -EBADMSG;
        *ret = strndup(size > 0 ? data : "", size);
        return *ret ? 0 : -ENOMEM;
}

int bus_append_bytes(sd_bus_message *m, const char *s)
{
        return sd_bus_message_append_array(m, 'y', s, strlen(s));
}

int bus_read_bytes_list(sd_bus_message *m, char ***ret)
{
        _cleanup_strv_ char **v = NULL;
        size_t n = 0;
        int r = sd_bus_message_enter_container(m, 'a', "ay");
        if (r < 0)
                return r == -ENXIO ? -EBADMSG : r;

        while ((r = sd_bus_message_at_end(m, 0)) == 0) {
                _cleanup_free_ char *s = NULL;

                if (n++ >= REQUEST_OPTIONS_MAX)
                        return -E2BIG;
                r = bus_read_bytes(m, &s);
                if (r >= 0)
                        r = strv_append(&v, s);
                if (r < 0)
                        return r;
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        if (r < 0)
                return r;
        *ret = TAKE_PTR(v);
        return 0;
}

static int entry_open(sd_bus_message *m, const char *key, const char *type)
{
        int r = sd_bus_message_open_container(m, 'e', "sv");
        if (r < 0)
                return r;
        r = sd_bus_message_append_basic(m, 's', key);
        if (r < 0)
                return r;
        return sd_bus_message_open_container(m, 'v', type);
}

static int entry_close(sd_bus_message *m)
{
        int r = sd_bus_message_close_container(m);

        return r < 0 ? r : sd_bus_message_close_container(m);
}

int bus_append_entry(sd_bus_message *m, const char *key, const char *type, ...)
{
        va_list ap;
        int r = entry_open(m, key, type);
        if (r < 0)
                return r;

        va_start(ap, type);
        r = sd_bus_message_appendv(m, type, ap);
        va_end(ap);
        return r < 0 ? r : entry_close(m);
}

int bus_append_entry_strmap(sd_bus_message *m, const char *key, const StrMap *map)
{
        int r = entry_open(m, key, "a{ss}");
        if (r < 0)
                return r;
        r = bus_append_strmap(m, map);
        return r < 0 ? r : entry_close(m);
}

int bus_append_entry_bytes(sd_bus_message *m, const char *key, const char *s)
{
        int r = entry_open(m, key, "ay");
        if (r < 0)
                return r;
        r = bus_append_bytes(m, s);
        return r < 0 ? r : entry_close(m);
}

int bus_append_entry_strv(sd_bus_message *m, const char *key, char *const *v)
{
        int r = entry_open(m, key, "as");
        if (r < 0)
                return r;
        r = sd_bus_message_append_strv(m, (char **) v);
        return r < 0 ? r : entry_close(m);
}

int bus_append_entry_bytes_list(sd_bus_message *m, const char *key, char *const *v)
{
        int r = entry_open(m, key, "aay");

        if (r >= 0)
                r = sd_bus_message_open_container(m, 'a', "ay");
        STRV_FOREACH (s, v)
                if (r >= 0)
                        r = bus_append_bytes(m, *s);
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : entry_close(m);
}

int bus_read_dict(sd_bus_message *m,
                  int (*set)(const char *key, const char *type, sd_bus_message *m, void *userdata),
                  void *userdata)
{
        int r = sd_bus_message_enter_container(m, 'a', "{sv}");
        if (r < 0)
                return r == -ENXIO ? -EBADMSG : r;

        while ((r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
                const char *key, *type;

                r = sd_bus_message_read_basic(m, 's', &key);
                if (r < 0)
                        return r;
                r = sd_bus_message_peek_type(m, NULL, &type);
                if (r < 0)
                        return r;
                r = sd_bus_message_enter_container(m, 'v', type);
                if (r < 0)
                        return r;
                r = set(key, type, m, userdata);
                if (r < 0)
                        return r;
                if (!sd_bus_message_at_end(m, 0)) {
                        r = sd_bus_message_skip(m, NULL);
                        if (r < 0)
                                return r;
                }
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
                r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        return r < 0 ? r : sd_bus_message_exit_container(m);
}
