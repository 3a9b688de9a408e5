/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* daemon/store.h: what a record holds is what is written again, also what this version does not know. */

#include <criterion/criterion.h>

#include "daemon/store.h"

#include <jansson.h>
#include <string.h>

#define RECORD(more)                                                                                                  \
        "{\"version\":1,\"key\":\"loop-1-2-3\",\"identity\":\"loop:1:2:3\",\"driver\":\"loop\",\"source\":{\"path\":\"/a\"}," \
        "\"state\":\"attached\",\"step\":\"\"" more "}"

static json_t *rewritten(const char *text, char **ret_unknown)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Manager m = {};
        Volume *v = NULL;

        cr_assert(store_parse(&m, text, strlen(text), &v, &err) >= 0, "%s", err.text);
        _cleanup_free_ char *written = store_serialize(v);
        cr_assert_not_null(written);
        *ret_unknown = v->unknown ? strdup(v->unknown) : NULL;
        volume_free(v);
        return json_loads(written, JSON_REJECT_DUPLICATES, NULL);
}

Test(record, unknown_keys_are_kept)
{
        _cleanup_free_ char *unknown = NULL;
        json_t *o = rewritten(RECORD(",\"later\":{\"a\":[1,null]},\"other\":\"x\""), &unknown);
        const json_t *later = json_object_get(o, "later");

        cr_assert_eq(json_array_size(json_object_get(later, "a")), 2);
        cr_assert_str_eq(json_string_value(json_object_get(o, "other")), "x");
        cr_assert_str_eq(json_string_value(json_object_get(o, "state")), "attached");
        json_decref(o);
}

Test(record, known_keys_are_not_unknown)
{
        _cleanup_free_ char *unknown = NULL, *again = NULL;
        json_t *o = rewritten(RECORD(""), &unknown);
        _cleanup_free_ char *text = json_dumps(o, JSON_COMPACT);
        json_t *second = rewritten(text, &again);

        cr_assert_null(unknown);
        cr_assert_null(again, "berth does not know what it writes itself: %s", again);
        cr_assert(json_equal(o, second));
        json_decref(o);
        json_decref(second);
}

/* What names files and programs is what a request could have brought. */
Test(record, names_that_cannot_be)
{
        static const char *const keys[] = { "", "..", ".hidden", "a/b", "../../etc/x", "A", "loop 1" };
        static const char *const drivers[] = { "", "../../bin/sh", "a/b", "Loop", "loop ", "loop-1", "seventeenletterss" };

        for (size_t i = 0; i < ELEMENTSOF(keys) + ELEMENTSOF(drivers); i++) {
                const char *key = i < ELEMENTSOF(keys) ? keys[i] : "loop-1-2-3", *driver = i < ELEMENTSOF(keys) ? "loop" : drivers[i - ELEMENTSOF(keys)];
                json_t *o = json_loads(RECORD(""), 0, NULL);
                _cleanup_error_ Error err = ERROR_INIT;
                Manager m = {};
                Volume *v = NULL;

                json_object_set_new(o, "key", json_string(key));
                json_object_set_new(o, "driver", json_string(driver));
                _cleanup_free_ char *text = json_dumps(o, JSON_COMPACT);
                json_decref(o);
                cr_assert(store_parse(&m, text, strlen(text), &v, &err) < 0, "%s was taken", text);
                cr_assert(v == NULL && m.volumes == NULL && err.text && *err.text);
        }
}

/* Between taking the mount away and mounting anew. */
Test(record, publish_that_is_being_replaced)
{
        _cleanup_free_ char *unknown = NULL;
        json_t *o = rewritten(RECORD(",\"publishes\":[{\"target\":\"/a\",\"readOnly\":true,\"subDir\":\"x\",\"stale\":true},"
                                     "{\"target\":\"/b\",\"readOnly\":false}]"), &unknown);
        const json_t *publishes = json_object_get(o, "publishes");

        cr_assert(json_is_true(json_object_get(json_array_get(publishes, 0), "stale")));
        cr_assert_null(json_object_get(json_array_get(publishes, 1), "stale"));
        json_decref(o);
}

/* What is told to be stale and was not touched yet is no business of the record's: a crash takes nothing away. */
Test(record, publish_that_is_stale)
{
        Manager m = {};
        Volume *v;
        Publish *p;

        cr_assert(volume_new(&m, "nfs-0123", "nfs:server:/export:", "nfs", &v) >= 0 && publish_new(v, "/a", &p) >= 0);
        p->stale = true;
        _cleanup_free_ char *told = store_serialize(v);
        p->replacing = true;
        _cleanup_free_ char *begun = store_serialize(v);
        cr_assert(told && !strstr(told, "stale") && begun && strstr(begun, "\"stale\":true"), "%s %s", told, begun);
        volume_free(v);
}

/* Counted on across restarts; a time that has not been yet would make it seem to have lasted for ever. */
Test(record, since_when_unstaging_fails)
{
        _cleanup_free_ char *unknown = NULL, *later = NULL;
        json_t *o = rewritten(RECORD(",\"unstageSince\":12345"), &unknown);

        cr_assert_eq(json_integer_value(json_object_get(o, "unstageSince")), 12345);
        cr_assert_null(unknown);
        json_decref(o);
        o = rewritten(RECORD(",\"unstageSince\":9000000000000000000"), &later);
        cr_assert_null(json_object_get(o, "unstageSince"));
        json_decref(o);
        free(TAKE_PTR(later));
        o = rewritten(RECORD(",\"unstageSince\":-1"), &later);
        cr_assert_null(json_object_get(o, "unstageSince"));
        json_decref(o);
        free(TAKE_PTR(later));
        /* as an older berthd keeps it, which does not know what it is, while a pod has the volume again */
        o = rewritten(RECORD(",\"unstageSince\":12345,\"publishes\":[{\"target\":\"/a\",\"readOnly\":false}]"), &later);
        cr_assert_null(json_object_get(o, "unstageSince"), "a silence that is over counts");
        json_decref(o);
}
