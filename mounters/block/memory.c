/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The lasting memory: which volumes have been formatted, one small JSON file each in <state dir>/volumes; and
 * the durable files below the state directory in general, which intent.c uses too. Runs in mounters; blocks on
 * the node's own disk only (fsync).
 *
 * Invariants: a file is durable when the function that wrote it returns, its directory included; a memory that
 * is there but cannot be read counts as "was formatted", because the opposite mistake destroys data.
 */

#include "mounters/block/internal.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "base/fault.h"
#include "base/fd.h"
#include "base/strmap.h"

#define WHAT "volumes"
#define FILE_SIZE_MAX (64U * 1024U)
#define MEMORY_VERSION 1

int state_directory_open(Mounter *m, const char *name)
{
        int fd = openat(m->state_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        if (fd >= 0)
                return fd;
        if (errno != ENOENT)
                return -errno;
        if (mkdirat(m->state_fd, name, 0700) < 0 && errno != EEXIST)
                return -errno;

        /* m->state_fd may be O_PATH, which cannot be synced */
        _cleanup_close_ int parent = openat(m->state_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (parent < 0 || fsync(parent) < 0)
                return -errno;
        fd = openat(m->state_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        return fd < 0 ? -errno : fd;
}

char *state_file_name(const char *lasting_id)
{
        static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
        char *name = NULL;
        size_t n = lasting_id ? strlen(lasting_id) : 0;

        /* 16: room for ".json" here and for the "..tmp" of the temporary name */
        if (n == 0 || n > NAME_MAX - 16 || lasting_id[0] == '.' || strspn(lasting_id, allowed) != n)
                return NULL;
        return asprintf(&name, "%s.json", lasting_id) < 0 ? NULL : name;
}

const char *state_place(const BlockStorage *s, const char *what, char *buffer, size_t size)
{
        const char *id = str_or(s->lasting_id, "(no name)");

        snprintf(buffer, size, s->keeper ? "\"%s\" of %s, kept with the volume" : "%s/%s.json in the state directory", what,
                 id);
        return buffer;
}

static int record_failed(const BlockStorage *s, const char *what, int error, const char *verb, Error *err)
{
        char place[STATE_PLACE_MAX];

        return error_set(err, ERROR_RECORD_FAILED, error, "Cannot %s %s: %s", verb,
                         state_place(s, what, place, sizeof(place)), strerror(error < 0 ? -error : error));
}

static int file_write(Mounter *m, const BlockStorage *s, const char *what, const char *name, const char *text, Error *err)
{
        _cleanup_close_ int dir = state_directory_open(m, what);
        if (dir < 0)
                return record_failed(s, what, dir, "make the directory of", err);
        int r = write_file_atomic_at(dir, name, text, strlen(text), WRITE_SYNC);
        return r < 0 ? record_failed(s, what, r, "write", err) : 0;
}

int state_write(Mounter *m, const BlockStorage *s, const char *what, json_t *object, Error *err)
{
        _cleanup_free_ char *name = state_file_name(s->lasting_id), *text = json_dumps(object, JSON_INDENT(2));

        if (!name || !text)
                return record_failed(s, what, EINVAL, "name or write", err);
        FAULT_POINT("state.before-write");
        int r = s->keeper ? s->keeper->write(s->userdata, what, text, err) : file_write(m, s, what, name, text, err);
        FAULT_POINT("state.after-write");
        return r;
}

static int file_remove(Mounter *m, const BlockStorage *s, const char *what, const char *name, Error *err)
{
        _cleanup_close_ int dir = state_directory_open(m, what);
        if (dir < 0)
                return record_failed(s, what, dir, "make the directory of", err);
        if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
                return record_failed(s, what, errno, "remove", err);
        /* Even if it was gone already: the removal may be an earlier process', and not yet durable. */
        if (fsync(dir) < 0)
                return record_failed(s, what, errno, "make durable the removal of", err);
        return 0;
}

int state_remove(Mounter *m, const BlockStorage *s, const char *what, Error *err)
{
        _cleanup_free_ char *name = state_file_name(s->lasting_id);
        if (!name)
                return record_failed(s, what, EINVAL, "remove", err);
        FAULT_POINT("state.before-remove");
        int r = s->keeper ? s->keeper->remove(s->userdata, what, err) : file_remove(m, s, what, name, err);
        FAULT_POINT("state.after-remove");
        return r;
}

static int state_text(Mounter *m, const BlockStorage *s, const char *what, char **ret, size_t *ret_size, Error *err)
{
        _cleanup_free_ char *name = state_file_name(s->lasting_id), *path = NULL;
        int r;

        if (!name)
                return record_failed(s, what, EINVAL, "name or read", err);
        if (s->keeper) {
                r = s->keeper->read(s->userdata, what, ret, err);
                *ret_size = r > 0 ? strlen(*ret) : 0;
                return r;
        }
        if (asprintf(&path, "%s/%s", what, name) < 0) {
                path = NULL;
                return error_oom(err);
        }
        r = read_file_at(m->state_fd, path, FILE_SIZE_MAX, ret, ret_size);
        if (r == -ENOENT)
                return 0;
        return r < 0 ? record_failed(s, what, r, "read", err) : 1;
}

int state_read(Mounter *m, const BlockStorage *s, const char *what, json_t **ret, Error *err)
{
        _cleanup_free_ char *text = NULL;
        size_t size = 0;

        int r = state_text(m, s, what, &text, &size, err);
        if (r <= 0)
                return r;
        json_t *object = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(object)) {
                json_decref(object);
                return record_failed(s, what, EBADMSG, "read", err);
        }
        *ret = object;
        return 1;
}

int block_remember(Mounter *m, const BlockStorage *s, const char *identity, const char *fs_type,
                   const char *uuid, uint64_t size, Error *err)
{
        _cleanup_json_ json_t *object = json_pack("{s:i, s:s*, s:s*, s:s, s:s, s:I, s:I}", "version", MEMORY_VERSION,
                                                  "id", s->keeper ? s->lasting_id : NULL, "identity", identity,
                                                  "fsType", fs_type, "uuid", uuid, "size", (json_int_t) size,
                                                  "formatted", (json_int_t) time(NULL));
        if (!object)
                return error_set(err, ERROR_RECORD_FAILED, EINVAL,
                                 "Cannot describe the new file system of %s as JSON", s->lasting_id);
        return state_write(m, s, WHAT, object, err);
}

int block_was_formatted(Mounter *m, const BlockStorage *s, Error *err)
{
        _cleanup_json_ json_t *object = NULL;
        _cleanup_error_ Error e = ERROR_INIT;

        if (!s->lasting_id)
                return error_set(err, ERROR_INTERNAL, EINVAL, "The storage has no lasting name");
        int r = state_read(m, s, WHAT, &object, &e);
        if (r >= 0 || e.code == ERROR_RECORD_FAILED)
                return r != 0;
        error_move(err, &e); /* the storage did not answer: nobody knows */
        return r;
}

int memory_refuse(Mounter *m, const BlockStorage *s, int fd, Error *err)
{
        _cleanup_json_ json_t *object = NULL;
        char name[PATH_MAX], place[STATE_PLACE_MAX], when[64] = "at an unknown time";
        const char *device = device_name(fd, name, sizeof(name)), *type, *uuid, *id;
        struct tm tm;

        if (state_read(m, s, WHAT, &object, NULL) <= 0)
                return error_set(err, ERROR_WAS_FORMATTED, EEXIST,
                                 "%s seems never to have held a file system, but there is a memory of it, "
                                 "%s, that cannot be read",
                                 device, state_place(s, WHAT, place, sizeof(place)));
        time_t t = (time_t) json_integer_value(json_object_get(object, "formatted"));
        if (t > 0 && gmtime_r(&t, &tm))
                strftime(when, sizeof(when), "at %Y-%m-%dT%H:%M:%SZ", &tm);
        type = json_string_value(json_object_get(object, "fsType"));
        uuid = json_string_value(json_object_get(object, "uuid"));
        id = json_string_value(json_object_get(object, "id"));
        /* a clone or a mirror has its parent's memory, but perhaps not its data */
        return error_set(err, ERROR_WAS_FORMATTED, EEXIST,
                         "No file system is found on %s, but %s (UUID %s) was made on %s %s", device,
                         str_or(type, "one"), str_or(uuid, "unknown"),
                         id && !str_equal(id, s->lasting_id) ? "the image that it is a copy of" : "it", when);
}

int block_forget(Mounter *m, const BlockStorage *s, Error *err)
{
        /*
         * The intent goes first: without it the device has to be proved blank again, and should the second
         * removal fail, the memory still refuses.
         */
        int r = intent_remove(m, s, err);
        return r < 0 ? r : state_remove(m, s, WHAT, err);
}

int block_forget_identity(Mounter *m, const char *identity, Error *err)
{
        int fd = state_directory_open(m, WHAT);
        _cleanup_closedir_ DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
        unsigned n = 0;

        if (!dir) {
                close_fd(fd);
                return error_set(err, ERROR_RECORD_FAILED, fd < 0 ? fd : errno,
                                 "Cannot list " WHAT " in the state directory");
        }
        for (struct dirent *d; (d = readdir(dir));) {
                _cleanup_json_ json_t *object = NULL;
                size_t size = strlen(d->d_name);

                if (size < 6 || strcmp(d->d_name + size - 5, ".json") != 0)
                        continue;
                d->d_name[size - 5] = 0;
                const BlockStorage s = { .lasting_id = d->d_name };
                if (state_read(m, &s, WHAT, &object, NULL) <= 0 ||
                    !str_equal(json_string_value(json_object_get(object, "identity")), identity))
                        continue;
                int r = block_forget(m, &s, err);
                if (r < 0)
                        return r;
                n++;
        }
        return n > 0 ? 0
                     : error_set(err, ERROR_NOT_FOUND, ENOENT, "There is no memory of a file system on %s",
                                 identity);
}
