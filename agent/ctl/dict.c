/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * D-Bus to JSON, recursively over the message's own type information. Runs in berthctl; pure. The agent is
 * trusted, its strings are not: they come from requests.
 */

#include "dict.h"

#include <string.h>

#include "base/escape.h"

#define DEPTH_MAX 16U

static int value_to_json(sd_bus_message *m, unsigned depth, json_t **ret);

static json_t *text_to_json(const char *s)
{
        json_t *j = json_string(s);

        if (!j) {
                _cleanup_free_ char *escaped = bytes_escape(s);
                j = escaped ? json_string(escaped) : NULL;
        }
        return j;
}

static json_t *unsigned_to_json(uint64_t n)
{
        return n > INT64_MAX ? json_sprintf("%llu", (unsigned long long) n) : json_integer((json_int_t) n);
}

static int basic_to_json(sd_bus_message *m, char type, json_t **ret)
{
        union {
                const char *s;
                uint8_t y;
                int b;
                int16_t n;
                uint16_t q;
                int32_t i;
                uint32_t u;
                int64_t x;
                uint64_t t;
                double d;
        } v;
        int r = sd_bus_message_read_basic(m, type, &v);
        if (r < 0)
                return r;

        switch (type) {
        case 's': case 'o': case 'g':
                *ret = text_to_json(v.s);
                break;
        case 'b':
                *ret = json_boolean(v.b);
                break;
        case 'y':
                *ret = json_integer(v.y);
                break;
        case 'n':
                *ret = json_integer(v.n);
                break;
        case 'q':
                *ret = json_integer(v.q);
                break;
        case 'i':
                *ret = json_integer(v.i);
                break;
        case 'u':
                *ret = json_integer(v.u);
                break;
        case 'x':
                *ret = json_integer(v.x);
                break;
        case 't':
                *ret = unsigned_to_json(v.t);
                break;
        case 'd':
                *ret = json_real(v.d);
                break;
        default:
                return -EBADMSG;
        }
        return *ret ? 0 : -ENOMEM;
}

static int bytes_to_json(sd_bus_message *m, json_t **ret)
{
        _cleanup_free_ char *bytes = NULL, *escaped = NULL;
        const void *data;
        size_t size;
        int r = sd_bus_message_read_array(m, 'y', &data, &size);
        if (r < 0)
                return r;

        bytes = strndup(size > 0 ? data : "", size);
        escaped = bytes ? bytes_escape(bytes) : NULL;
        *ret = escaped ? json_string(escaped) : NULL;
        return *ret ? 0 : -ENOMEM;
}

/* {key value}, entered already: into object. */
static int entry_to_json(sd_bus_message *m, unsigned depth, json_t *object)
{
        json_t *value = NULL;
        const char *key;
        int r = sd_bus_message_read_basic(m, 's', &key);
        if (r < 0)
                return r == -ENXIO ? -EBADMSG : r;

        _cleanup_free_ char *copy = bytes_escape(key);
        if (!copy)
                return -ENOMEM;
        r = value_to_json(m, depth, &value);
        if (r < 0)
                return r;
        return json_object_set_new(object, copy, value) < 0 ? -ENOMEM : 0;
}

static int elements_to_json(sd_bus_message *m, unsigned depth, json_t *array)
{
        while (sd_bus_message_at_end(m, 0) == 0) {
                json_t *value = NULL;
                int r = value_to_json(m, depth, &value);

                if (r < 0)
                        return r;
                if (json_array_append_new(array, value) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static int dict_to_json(sd_bus_message *m, const char *contents, unsigned depth, json_t *object)
{
        char entry[256];
        size_t n = strlen(contents);
        int r;

        if (n < 4 || n - 2 >= sizeof(entry))
                return -EBADMSG;
        memcpy(entry, contents + 1, n - 2); /* without the braces */
        entry[n - 2] = 0;
        while ((r = sd_bus_message_enter_container(m, 'e', entry)) > 0) {
                r = entry_to_json(m, depth, object);
                if (r >= 0)
                        r = sd_bus_message_exit_container(m);
                if (r < 0)
                        return r;
        }
        return r;
}

static int error_entry_to_json(sd_bus_message *m, json_t **ret)
{
        const char *name, *text;
        uint64_t time;
        int r = sd_bus_message_read(m, "tss", &time, &name, &text);
        if (r < 0)
                return r;

        json_t *t = unsigned_to_json(time), *n = text_to_json(name), *x = text_to_json(text);
        *ret = json_pack("{s:o, s:o, s:o}", "time", t, "name", n, "text", x);
        return *ret ? 0 : -ENOMEM;
}

static int container_to_json(sd_bus_message *m, char type, const char *contents, unsigned depth, json_t **ret)
{
        bool dict = type == 'a' && contents[0] == '{';
        json_t *j = NULL;
        int r = sd_bus_message_enter_container(m, type, contents);
        if (r < 0)
                return r;

        if (type == 'v') {
                r = value_to_json(m, depth + 1, &j);
        } else if (type == 'r' && strcmp(contents, "tss") == 0) {
                r = error_entry_to_json(m, &j);
        } else {
                j = dict ? json_object() : json_array();
                r = !j ? -ENOMEM : dict ? dict_to_json(m, contents, depth + 1, j) : elements_to_json(m, depth + 1, j);
        }
        if (r >= 0)
                r = sd_bus_message_exit_container(m);
        if (r < 0) {
                json_decref(j);
                return r;
        }
        *ret = j;
        return 0;
}

static int value_to_json(sd_bus_message *m, unsigned depth, json_t **ret)
{
        const char *contents;
        char type;
        int r = sd_bus_message_peek_type(m, &type, &contents);
        if (r < 0)
                return r;
        if (r == 0)
                return -EBADMSG;
        if (depth > DEPTH_MAX)
                return -ELOOP;
        if (type == 'a' && strcmp(contents, "y") == 0)
                return bytes_to_json(m, ret);
        if (type == 'a' || type == 'r' || type == 'v')
                return container_to_json(m, type, contents, depth, ret);
        return basic_to_json(m, type, ret);
}

int bus_to_json(sd_bus_message *m, json_t **ret)
{
        return value_to_json(m, 0, ret);
}
