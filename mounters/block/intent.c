/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Format intents: <state dir>/formats/<lasting id>.json, or what the storage's keeper holds for it, says that mkfs was begun on a storage proved blank,
 * with which file system type and UUID and on how many bytes. Runs in mounters; blocks on the node's own disk, or on the storage.
 *
 * Invariants: durable before mkfs starts, and not there long before (format.c); its removal durable before the new file system is first mounted. So
 * while an intent exists nobody's data can be in what mkfs has made, and only then may mkfs start again
 * without a new proof. An intent that cannot be read refuses everything: neither formatting nor mounting
 * is known to be right.
 */

#include "mounters/block/internal.h"

#include <string.h>
#include <time.h>

#include "base/fd.h"
#include "base/strmap.h"

#define WHAT "formats"
#define INTENT_VERSION 1

void format_intent_done(FormatIntent *i)
{
        free(i->fs_type);
        free(i->uuid);
        *i = (FormatIntent) {};
}

int intent_read(Mounter *m, const BlockStorage *s, FormatIntent *ret, Error *err)
{
        _cleanup_json_ json_t *object = NULL;
        _cleanup_intent_ FormatIntent i = {};
        char place[STATE_PLACE_MAX];

        int r = state_read(m, s, WHAT, &object, err);
        if (r < 0)
                error_prefix(err, "A formatting of this volume may have been begun");
        if (r <= 0)
                return r;

        const char *id = json_string_value(json_object_get(object, "id"));
        const char *type = json_string_value(json_object_get(object, "fsType"));
        const char *uuid = json_string_value(json_object_get(object, "uuid"));
        json_int_t version = json_integer_value(json_object_get(object, "version"));
        json_int_t size = json_integer_value(json_object_get(object, "size"));

        /* The name inside must be the storage's: a copied or renamed record is no permission to format. */
        if (version != INTENT_VERSION || !str_equal(id, s->lasting_id) || !type ||
            block_minimum_size(type) == 0 || !uuid || strlen(uuid) != 36 || size <= 0)
                return error_set(err, ERROR_RECORD_FAILED, EBADMSG,
                                 "A formatting of this volume was begun, and its record %s is not valid",
                                 state_place(s, WHAT, place, sizeof(place)));
        if (str_replace(&i.fs_type, type) < 0 || str_replace(&i.uuid, uuid) < 0)
                return error_oom(err);
        i.size = (uint64_t) size;
        *ret = i;
        i = (FormatIntent) {};
        return 1;
}

int intent_write(Mounter *m, const BlockStorage *s, const char *identity, const FormatIntent *i, Error *err)
{
        _cleanup_json_ json_t *object =
                        json_pack("{s:i, s:s, s:s*, s:s, s:s, s:I, s:I}", "version", INTENT_VERSION, "id",
                                  s->lasting_id, "identity", identity, "fsType", i->fs_type, "uuid", i->uuid,
                                  "size", (json_int_t) i->size, "begun", (json_int_t) time(NULL));
        if (!object)
                return error_set(err, ERROR_RECORD_FAILED, EINVAL, "Cannot describe the formatting of %s as JSON",
                                 s->lasting_id);
        return state_write(m, s, WHAT, object, err);
}

int intent_remove(Mounter *m, const BlockStorage *s, Error *err)
{
        return state_remove(m, s, WHAT, err);
}

int intent_exists(Mounter *m, const BlockStorage *s, Error *err)
{
        _cleanup_free_ char *name = NULL, *path = NULL, *text = NULL;

        if (s->keeper)
                return s->keeper->read(s->userdata, WHAT, &text, err);
        name = state_file_name(s->lasting_id);
        if (!name || asprintf(&path, WHAT "/%s", name) < 0) {
                path = NULL;
                return 1;
        }
        return faccessat(m->state_fd, path, F_OK, 0) >= 0 || errno != ENOENT;
}
