/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The kubelet's JSON to MountParams; runs in the shim. Never blocks. What it reads holds secrets, so every
 * buffer is overwritten before it is freed and no text of an error quotes a value.
 */

#include "options.h"

#include <jansson.h>
#include <malloc.h>
#include <string.h>

#include "protocol/names.h"

#define KUBERNETES_PREFIX "kubernetes.io/"
#define SECRET_PREFIX KUBERNETES_PREFIX "secret/"
/* How much of a key an error shows: the rest of the message must not drown. */
#define KEY_SHOWN_MAX 120

static void erasing_free(void *p)
{
        if (!p)
                return;
        explicit_bzero(p, malloc_usable_size(p));
        free(p);
}

void options_init(void)
{
        json_set_alloc_funcs(malloc, erasing_free);
}

static int base64_value(char c)
{
        static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *at = c ? strchr(alphabet, c) : NULL;

        return at ? (int) (at - alphabet) : -1;
}

/* Four characters to one to three bytes; the number of bytes, or -EINVAL. */
static int base64_group(const char *s, bool last, unsigned char *out)
{
        unsigned n = 4, bits = 0;

        if (last && s[3] == '=')
                n = s[2] == '=' ? 2 : 3;
        for (unsigned i = 0; i < 4; i++) {
                int v = i < n ? base64_value(s[i]) : 0;
                if (v < 0)
                        return -EINVAL;
                bits = bits << 6 | (unsigned) v;
        }
        if ((n == 2 && (bits & 0xffff)) || (n == 3 && (bits & 0xff)))
                return -EINVAL; /* not canonical: bits that mean nothing are set */
        out[0] = (unsigned char) (bits >> 16);
        out[1] = (unsigned char) (bits >> 8);
        out[2] = (unsigned char) bits;
        return (int) n - 1;
}

int base64_decode(const char *s, char **ret)
{
        size_t n = strlen(s), size = 0;

        if (n % 4 != 0)
                return -EINVAL;
        char *out = calloc(1, n / 4 * 3 + 1);
        if (!out)
                return -ENOMEM;
        for (size_t i = 0; i < n; i += 4) {
                int k = base64_group(s + i, i + 4 == n, (unsigned char *) out + size);
                if (k < 0) {
                        erasing_free(out);
                        return k;
                }
                size += (size_t) k;
        }
        if (memchr(out, 0, size)) {
                erasing_free(out);
                return -EINVAL;
        }
        *ret = out;
        return 0;
}

/* Whether D-Bus can carry the string. jansson has the judge of UTF-8 that is needed for that. */
static bool is_utf8(const char *s)
{
        json_t *j = json_string(s);

        json_decref(j);
        return j != NULL;
}

static int invalid(Error *err, const char *key, const char *problem)
{
        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option '%.*s' %s", KEY_SHOWN_MAX, key, problem);
}

static int set_secret(MountParams *p, const char *key, const char *value, Error *err)
{
        char *decoded = NULL;
        int r = base64_decode(value, &decoded);

        if (r == -EINVAL)
                return invalid(err, key, "is not valid base64 of a text");
        if (r >= 0 && !is_utf8(decoded))
                r = invalid(err, key, "is not UTF-8 once decoded");
        else if (r >= 0)
                r = strmap_add(&p->secrets, key + strlen(SECRET_PREFIX), decoded);
        erasing_free(decoded);
        return r;
}

static int set_read_only(MountParams *p, const char *key, const char *value, const char *yes, const char *no, Error *err)
{
        if (!str_equal(value, yes) && !str_equal(value, no))
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option '%s' must be \"%s\" or \"%s\"", key, yes, no);
        if (str_equal(value, yes))
                p->read_only = true;
        return 0;
}

static int set_mount_options(MountParams *p, const char *value)
{
        while (*value) {
                size_t n = strcspn(value, ",");
                if (n > 0) {
                        _cleanup_free_ char *part = strndup(value, n);
                        if (!part || strv_append(&p->mount_options, part) < 0)
                                return -ENOMEM;
                }
                value += n + (value[n] == ',');
        }
        return 0;
}

static int set_kubernetes(MountParams *p, const char *key, const char *value, Error *err)
{
        const struct {
                const char *name;
                char **field;
        } strings[] = {
                { "fsType", &p->fs_type },         { "pvOrVolumeName", &p->volume_name },
                { "pod.name", &p->pod_name },      { "pod.namespace", &p->pod_namespace },
                { "pod.uid", &p->pod_uid },
        };
        const char *name = key + strlen(KUBERNETES_PREFIX);

        if (strncmp(key, SECRET_PREFIX, strlen(SECRET_PREFIX)) == 0)
                return set_secret(p, key, value, err);
        if (str_equal(name, "readwrite"))
                return set_read_only(p, key, value, "ro", "rw", err);
        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                if (str_equal(name, strings[i].name))
                        return str_replace(strings[i].field, value);
        return 0;
}

static int set_option(MountParams *p, const char *key, json_t *j, Error *err)
{
        const char *value = json_string_value(j);

        if (!value)
                return invalid(err, key, "is not a string");
        if (strlen(value) != json_string_length(j))
                return invalid(err, key, "has a NUL character in it");
        if (strncmp(key, KUBERNETES_PREFIX, strlen(KUBERNETES_PREFIX)) == 0)
                return set_kubernetes(p, key, value, err);
        if (str_equal(key, "readOnly"))
                return set_read_only(p, key, value, "true", "false", err);
        if (str_equal(key, "mountOptions"))
                return set_mount_options(p, value);
        return strmap_add(&p->source, key, value);
}

/* jansson's own text quotes what stands near the error: that could be a secret. */
static int malformed(const json_error_t *e, Error *err)
{
        static const struct {
                enum json_error_code code;
                const char *problem;
        } problems[] = {
                { json_error_duplicate_key, "a key stands twice" },
                { json_error_null_character, "a string has a NUL character in it" },
                { json_error_null_byte_in_key, "a key has a NUL character in it" },
                { json_error_invalid_utf8, "it is not UTF-8" },
                { json_error_stack_overflow, "it is nested too deeply" },
                { json_error_premature_end_of_input, "it ends too early" },
                { json_error_end_of_input_expected, "something follows its end" },
        };
        const char *problem = "it is malformed";
        enum json_error_code code = json_error_code(e);

        if (code == json_error_out_of_memory)
                return error_oom(err);
        for (size_t i = 0; i < ELEMENTSOF(problems); i++)
                if (problems[i].code == code)
                        problem = problems[i].problem;
        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "The volume's options are not the JSON a kubelet sends: %s (at byte %d)",
                         problem, e->position);
}

int options_parse(const char *json, MountParams *p, Error *err)
{
        size_t size = strlen(json);
        json_error_t e;
        const char *key;
        json_t *value;
        int r = 0;

        if (size >= REQUEST_JSON_MAX)
                return error_set(err, ERROR_INVALID_ARGUMENT, E2BIG, "The volume's options have %zu bytes, at most %u are possible", size,
                                 REQUEST_JSON_MAX - 1);

        json_t *root = json_loadb(json, size, JSON_REJECT_DUPLICATES, &e);
        if (!root)
                return malformed(&e, err);
        if (!json_is_object(root))
                r = error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "The volume's options are not a JSON object");

        json_object_foreach(root, key, value) {
                if (r < 0)
                        break;
                r = set_option(p, key, value, err);
                if (r == -ENOMEM)
                        r = error_oom(err);
        }
        json_decref(root);
        return r;
}
