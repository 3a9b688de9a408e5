/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * RBD images through librbd. Runs in the rbd mounter; each request blocks for [RBD] OsdRequestTimeoutSec= at most, since librados has
 * been told so (rbd-cluster.c).
 *
 * Invariants: looking at an image changes nothing in the cluster, not even a watcher; librbd itself would shrink an image without a
 * word, so sizes are compared here; what the cluster did not answer is never taken for "no".
 */

#include "mounters/rbd-image.h"

#include <inttypes.h>
#include <string.h>

#include "base/fault.h"

#define LIST_MAX 64U
#define KEEP_MAX (64U * 1024U)
#define HEADER_MAX (sizeof(((RbdImage *) NULL)->id) + 16)
#define HEADER "rbd_header."
#define LOCK "rbd_lock" /* librbd's name, RBD_LOCK_NAME */

void rbd_image_done(RbdImage *i)
{
        if (i->image)
                rbd_close(i->image);
        if (i->io)
                rados_ioctx_destroy(i->io);
        free(i->spec);
        free(i->lasting_id);
        *i = RBD_IMAGE_INIT;
}

int rbd_request_failed(const RbdSource *s, int r, ErrorCode other, const char *what, Error *err)
{
        _cleanup_free_ char *spec = rbd_source_spec(s);
        const char *image = spec ? spec : s->image;

        switch (-r) {
        case ETIMEDOUT:
                return error_set(err, ERROR_OSDS_UNREACHABLE, r, "%s of %s: the OSDs of the pool do not answer", what, image);
        case EPERM:
        case EACCES:
                return error_set(err, ERROR_CAPS_MISSING, r, "%s of %s: client.%s may not do that", what, image, s->user);
        case ESHUTDOWN: /* EBLOCKLISTED */
                return error_set(err, ERROR_DEVICE_ERROR, r, "%s of %s: this client has been fenced (blocklisted)", what, image);
        default:
                return error_set(err, other, r, "%s of %s failed: %s", what, image, strerror(-r));
        }
}

static int image_gone(const RbdImage *i, const char *what, Error *err)
{
        return error_set(err, ERROR_RBD_IMAGE_NOT_FOUND, ENOENT, "%s of %s: the image (ID %s) has been removed meanwhile", what, i->spec, i->id);
}

static int open_failed(RbdImage *i, int r, Error *err)
{
        const RbdSource *s = i->source;
        rbd_image_t head = NULL;
        bool exists = true;

        if (r != -ENOENT)
                return r == -ENOSYS || r == -ENOTSUP
                               ? error_set(err, ERROR_FEATURES_UNSUPPORTED, r,
                                           "librbd of this node does not know a feature of %s", i->spec)
                               : rbd_request_failed(s, r, ERROR_DEVICE_ERROR, "Opening", err);
        if (*s->space && rbd_namespace_exists(i->io, s->space, &exists) >= 0 && !exists)
                return error_set(err, ERROR_NAMESPACE_NOT_FOUND, r, "Pool %s has no namespace %s", s->pool, s->space);
        if (s->snapshot && rbd_open_read_only(i->io, s->image, &head, NULL) >= 0) {
                rbd_close(head);
                return error_set(err, ERROR_SNAPSHOT_NOT_FOUND, r, "Image %s/%s has no snapshot %s", s->pool, s->image,
                                 s->snapshot);
        }
        return error_set(err, ERROR_RBD_IMAGE_NOT_FOUND, r, "There is no image %s", i->spec);
}

static int image_stat(RbdImage *i, Error *err)
{
        rbd_image_info_t info;
        int r = rbd_stat(i->image, &info, sizeof(info));

        if (r >= 0)
                r = rbd_get_features(i->image, &i->features);
        if (r < 0)
                return rbd_request_failed(i->source, r, ERROR_DEVICE_ERROR, "Looking at the header", err);
        i->size = info.size;
        return 0;
}

static int image_inspect(RbdImage *i, Error *err)
{
        int r = image_stat(i, err);

        if (r < 0)
                return r;
        /* format 1, which neither has IDs nor can be made since 2017 */
        if (rbd_get_id(i->image, i->id, sizeof(i->id)) < 0 || !*i->id)
                return error_set(err, ERROR_FEATURES_UNSUPPORTED, EOPNOTSUPP, "Image %s has the old format 1; convert it: rbd migration",
                                 i->spec);
        i->pool_id = rados_ioctx_get_id(i->io);
        if (asprintf(&i->lasting_id, "rbd-%s-%" PRId64 "-%s", i->cluster->fsid, i->pool_id, i->id) < 0) {
                i->lasting_id = NULL;
                return error_oom(err);
        }
        return 0;
}

/* And the namespace in it, which need not exist. */
static int pool_open(RbdCluster *c, const RbdSource *source, rados_ioctx_t *ret, Error *err)
{
        rados_ioctx_t io = NULL;
        int r = rados_ioctx_create(c->rados, source->pool, &io);

        if (r == -ENOENT)
                return error_set(err, ERROR_POOL_NOT_FOUND, r, "The cluster has no pool %s", source->pool);
        if (r == -ETIMEDOUT)
                return error_set(err, ERROR_MONITORS_UNREACHABLE, r, "The monitors of %s do not answer any more", c->mon_host);
        if (r < 0)
                return rbd_request_failed(source, r, ERROR_DEVICE_ERROR, "Opening the pool", err);
        rados_ioctx_set_namespace(io, source->space);
        *ret = io;
        return 0;
}

int rbd_image_open(RbdCluster *c, const RbdSource *source, RbdImage *ret, Error *err)
{
        _cleanup_rbd_image_ RbdImage i = { .cluster = c, .source = source, .spec = rbd_source_spec(source) };

        if (!i.spec)
                return error_oom(err);
        int r = pool_open(c, source, &i.io, err);
        if (r < 0)
                return r;
        r = rbd_open_read_only(i.io, source->image, &i.image, source->snapshot);
        if (r < 0) {
                i.image = NULL;
                return open_failed(&i, r, err);
        }
        r = image_inspect(&i, err);
        if (r < 0)
                return r;
        *ret = i;
        i = RBD_IMAGE_INIT;
        return 0;
}

/* What is read of rbd_id.<image>: a string with its length, little endian, before it. */
static int header_name(const uint8_t *text, int n, char *buffer, size_t size)
{
        uint32_t length = n < 4 ? 0 : text[0] | (uint32_t) text[1] << 8 | (uint32_t) text[2] << 16 | (uint32_t) text[3] << 24;

        if (length == 0 || length > (uint32_t) n - 4)
                return -EBADMSG;
        int k = snprintf(buffer, size, HEADER "%.*s", (int) length, (const char *) text + 4);
        return k < 0 || (size_t) k >= size ? -EBADMSG : 0;
}

/*
 * 0 if the user may read, or write, the object, -ENOENT if there is none. The write that is tried is one that always fails, after the OSD has looked at the
 * user's rights: for an object that exists and does not exist. It does not wait until a full cluster has room again.
 */
static int object_try(rados_ioctx_t io, const char *object, bool writes)
{
        if (!writes)
                return rados_stat(io, object, NULL, NULL);
        rados_write_op_t op = rados_create_write_op();
        if (!op)
                return -ENOMEM;
        rados_write_op_assert_exists(op);
        rados_write_op_create(op, LIBRADOS_CREATE_EXCLUSIVE, NULL);
        int r = rados_write_op_operate(op, io, object, NULL, LIBRADOS_OPERATION_FULL_TRY);
        rados_release_write_op(op);
        return r == -EEXIST || r == -ENOSPC || r == -EDQUOT ? 0 : r;
}

/* The name of the image's header. */
static int header_find(rados_ioctx_t io, const char *image, char *buffer, size_t size)
{
        char object[RBD_NAME_MAX + 16];
        uint8_t id[128];

        snprintf(object, sizeof(object), "rbd_id.%s", image);
        int r = rados_read(io, object, (char *) id, sizeof(id), 0);
        return r < 0 ? r : header_name(id, r, buffer, size);
}

/* Reads the header. ret: the pool with the image's data, where that is not the one with its header; -1: it is. */
static int header_read(rados_ioctx_t io, const char *header, int64_t *ret)
{
        uint8_t b[8] = {};
        uint64_t size, pool = 0;
        time_t changed;
        size_t used = 0;
        int stat = 0, exec = 0;
        rados_read_op_t op = rados_create_read_op();

        if (!op)
                return -ENOMEM;
        rados_read_op_stat(op, &size, &changed, &stat);
        rados_read_op_exec_user_buf(op, "rbd", "get_data_pool", NULL, 0, (char *) b, sizeof(b), &used, &exec);
        int r = rados_read_op_operate(op, io, header, LIBRADOS_OPERATION_NOFLAG);
        rados_release_read_op(op);
        if (r < 0)
                return r;
        if (used != sizeof(b))
                return -EBADMSG;
        for (unsigned i = 0; i < sizeof(b); i++)
                pool |= (uint64_t) b[i] << 8 * i;
        *ret = (int64_t) pool;
        return 0;
}

/* Rights to the pool with the header say nothing of that with the data. Any object of the image will do, one that does not exist as well. */
static int data_try(RbdCluster *c, rados_ioctx_t io, int64_t pool, const RbdSource *source, const char *header, bool writes)
{
        rados_ioctx_t data = NULL;
        char object[192];
        int r = rados_ioctx_create2(c->rados, pool, &data);

        if (r < 0)
                return r;
        rados_ioctx_set_namespace(data, source->space);
        snprintf(object, sizeof(object), "rbd_data.%" PRId64 ".%s.0000000000000000", rados_ioctx_get_id(io), header + strlen(HEADER));
        r = object_try(data, object, writes);
        rados_ioctx_destroy(data);
        return r == -ENOENT ? 0 : r;
}

/* A map reads the header, and for writing watches it, which is a write. */
static int rights_try(RbdCluster *c, rados_ioctx_t io, const RbdSource *source, const char *header, bool writes)
{
        int64_t pool = -1;
        int r = header_read(io, header, &pool);

        if (r >= 0 && writes)
                r = object_try(io, header, true);
        return r < 0 || pool < 0 ? r : data_try(c, io, pool, source, header, writes);
}

static int look_by_opening(RbdCluster *c, const RbdSource *source, RbdLook look, Error *err)
{
        _cleanup_rbd_image_ RbdImage i = RBD_IMAGE_INIT;
        int r = rbd_image_open(c, source, &i, err);

        return r < 0 || look == RBD_LOOK_NAME ? r : rbd_image_check_rights(&i, look == RBD_LOOK_WRITE && !source->snapshot, err);
}

int rbd_image_look(RbdCluster *c, const RbdSource *source, RbdLook look, Error *err)
{
        _cleanup_rbd_image_ RbdImage i = RBD_IMAGE_INIT;
        char header[160];

        if (source->snapshot && look != RBD_LOOK_NAME)
                return look_by_opening(c, source, look, err);
        int r = pool_open(c, source, &i.io, err);
        if (r < 0)
                return r;
        r = header_find(i.io, source->image, header, sizeof(header));
        if (r >= 0 && look != RBD_LOOK_NAME)
                r = rights_try(c, i.io, source, header, look == RBD_LOOK_WRITE);
        rbd_image_done(&i);
        if (r >= 0)
                return 0;
        if (r == -ETIMEDOUT || r == -EPERM)
                return rbd_request_failed(source, r, ERROR_DEVICE_ERROR, r == -EPERM && look == RBD_LOOK_WRITE ? "Writing" : "Looking", err);
        /* what is not plain is told by opening it, such as a name that leads nowhere */
        return look_by_opening(c, source, look, err);
}

/* The object that watchers watch, that is locked, and that has the metadata. */
static void header_object(const RbdImage *i, char *buffer, size_t size)
{
        snprintf(buffer, size, HEADER "%s", i->id);
}

int rbd_image_check_rights(RbdImage *i, bool writes, Error *err)
{
        char object[HEADER_MAX];

        header_object(i, object, sizeof(object));
        int r = rights_try(i->cluster, i->io, i->source, object, writes);
        return r < 0 ? rbd_request_failed(i->source, r, ERROR_DEVICE_ERROR, writes ? "Writing" : "Reading", err) : 0;
}

int rbd_image_check_primary(RbdImage *i, Error *err)
{
        rbd_mirror_image_info_t info = {};
        bool primary = true;

        if (!(i->features & (RBD_FEATURE_JOURNALING | RBD_FEATURE_NON_PRIMARY)))
                return 0;
        if (i->features & RBD_FEATURE_NON_PRIMARY)
                primary = false;
        else {
                int r = rbd_mirror_image_get_info(i->image, &info, sizeof(info));
                if (r < 0)
                        return rbd_request_failed(i->source, r, ERROR_DEVICE_ERROR, "Asking for the mirror state", err);
                primary = info.state != RBD_MIRROR_IMAGE_ENABLED || info.primary;
                rbd_mirror_image_get_info_cleanup(&info);
        }
        return primary ? 0
                       : error_set(err, ERROR_IMAGE_NOT_PRIMARY, EROFS,
                                   "Image %s is the mirrored copy of one in another cluster and cannot be written here", i->spec);
}

/* --- who uses it --- */

int rbd_image_watchers(RbdImage *i, char ***ret, Error *err)
{
        _cleanup_strv_ char **addresses = NULL;
        rbd_image_watcher_t watchers[LIST_MAX];
        size_t n = LIST_MAX;

        int r = rbd_watchers_list(i->image, watchers, &n);
        if (r == -ERANGE)
                return error_set(err, ERROR_IN_USE, EBUSY, "Image %s is in use by %zu clients", i->spec, n);
        if (r < 0)
                return rbd_request_failed(i->source, r, ERROR_DEVICE_ERROR, "Listing the watchers", err);
        for (size_t k = 0; k < n && r >= 0; k++)
                r = strv_append(&addresses, watchers[k].addr);
        rbd_watchers_list_cleanup(watchers, n);
        if (r < 0)
                return error_oom(err);
        *ret = TAKE_PTR(addresses);
        return 0;
}

void rbd_locker_done(RbdLocker *l)
{
        free(l->client);
        free(l->cookie);
        free(l->address);
        *l = (RbdLocker) {};
}

/* "v1:10.0.0.7:0/4102" to "10.0.0.7:0/4102". */
static const char *address_without_type(const char *address)
{
        static const char *const types[] = { "v1:", "v2:", "any:" };

        for (size_t i = 0; i < ELEMENTSOF(types); i++)
                if (strncmp(address, types[i], strlen(types[i])) == 0)
                        return address + strlen(types[i]);
        return address;
}

/* Not by librbd, which of an image that is open for reading knows what it was when it was opened. */
int rbd_image_locker(RbdImage *i, RbdLocker *ret, Error *err)
{
        char object[HEADER_MAX], tag[256], clients[4096], cookies[4096], addresses[4096];
        size_t n_tag = sizeof(tag), n_clients = sizeof(clients), n_cookies = sizeof(cookies), n_addresses = sizeof(addresses);
        _cleanup_rbd_locker_ RbdLocker l = {};
        int exclusive;

        header_object(i, object, sizeof(object));
        ssize_t n = rados_list_lockers(i->io, object, LOCK, &exclusive, tag, &n_tag, clients, &n_clients, cookies, &n_cookies, addresses,
                                       &n_addresses);
        if (n == -ENOENT || n == 0)
                return 0;
        if (n < 0)
                return rbd_request_failed(i->source, (int) n, ERROR_DEVICE_ERROR, "Listing the locks", err);
        /* strings one after another; the first holder is as good as any */
        if (str_replace(&l.client, clients) < 0 || str_replace(&l.cookie, cookies) < 0 ||
            str_replace(&l.address, address_without_type(addresses)) < 0)
                return error_oom(err);
        *ret = l;
        l = (RbdLocker) {};
        return 0;
}

/* Not by librbd, which would open the image for writing, and blocklist the holder once more for an hour. */
int rbd_image_break_lock(RbdImage *i, const RbdLocker *l, Error *err)
{
        char object[HEADER_MAX];

        header_object(i, object, sizeof(object));
        FAULT_POINT("rbd.before-break");
        int r = rados_break_lock(i->io, object, LOCK, l->client, l->cookie);
        FAULT_POINT("rbd.after-break");
        return r < 0 && r != -ENOENT ? rbd_request_failed(i->source, r, ERROR_ATTACH_FAILED, "Breaking the lock of the former holder", err) : 0;
}

/* --- what is written --- */

/* Opened for writing, librbd asks the owner of the exclusive lock for it, and the kernel gives it up for that moment. */
static int image_resize(RbdImage *i, uint64_t size)
{
        rbd_image_t image = NULL;
        int r = rbd_open(i->io, i->source->image, &image, NULL);

        if (r < 0)
                return r;
        r = FAULT_ERROR("rbd.before-grow");
        if (r >= 0)
                r = rbd_resize2(image, size, false, NULL, NULL);
        FAULT_POINT("rbd.after-grow");
        int q = rbd_close(image);
        return r < 0 ? r : q;
}

int rbd_image_grow(RbdImage *i, uint64_t size, Error *err)
{
        rbd_image_info_t info;

        if (size < i->size)
                return error_set(err, ERROR_SHRINK, EINVAL, "Image %s has %" PRIu64 " bytes, %" PRIu64 " would be smaller", i->spec,
                                 i->size, size);
        if (size == i->size)
                return 0;
        int r = image_resize(i, size);
        if (r == -EROFS)
                return error_set(err, ERROR_GROW_FAILED, r,
                                 "Image %s cannot grow while a client holds its lock and does not give it up (it is mapped with the option "
                                 "exclusive)", i->spec);
        if (r < 0)
                return rbd_request_failed(i->source, r, ERROR_GROW_FAILED, "Growing", err);
        r = rbd_stat(i->image, &info, sizeof(info));
        i->size = r >= 0 && info.size > size ? info.size : size;
        return 0;
}

/*
 * Metadata are written by the OSD's own class "rbd", as librbd does in the end. librbd itself would ask the owner of the exclusive lock, our own map in
 * the kernel, to give it up for that, and would leave a watcher for half a minute if this process were killed.
 */
typedef struct Call {
        char *data;
        size_t size;
        FILE *file;
} Call;

static void call_string(Call *c, const char *s)
{
        uint32_t n = (uint32_t) strlen(s);
        const uint8_t le[4] = { (uint8_t) n, (uint8_t) (n >> 8), (uint8_t) (n >> 16), (uint8_t) (n >> 24) };

        fwrite(le, 1, sizeof(le), c->file);
        fwrite(s, 1, n, c->file);
}

static int call_begin(Call *c, Error *err)
{
        c->file = open_memstream(&c->data, &c->size);
        return c->file ? 0 : error_oom(err);
}

/* What the OSD looks at first, in the same request, so that nothing comes between: without effect unless it is met. */
typedef struct Condition {
        const char *key, *value;
        bool met;
} Condition;

/* The OSD would make a missing header anew for what is set, and nobody would ever look there: hence assert_exists. */
static int call_execute(RbdImage *i, const char *object, const char *method, const Call *c, Condition *condition)
{
        rados_write_op_t op = rados_create_write_op();
        int met = 0, r;

        if (!op)
                return -ENOMEM;
        rados_write_op_assert_exists(op);
        if (condition)
                rados_write_op_omap_cmp(op, condition->key, LIBRADOS_CMPXATTR_OP_EQ, condition->value, strlen(condition->value), &met);
        rados_write_op_exec(op, "rbd", method, c->data, c->size, NULL);
        r = rados_write_op_operate(op, i->io, object, NULL, LIBRADOS_OPERATION_NOFLAG);
        rados_release_write_op(op);
        if (condition)
                condition->met = r >= 0;
        return r == -ECANCELED && condition ? 0 : r;
}

/* To remove a key that is not there is success to the class, so ENOENT always says that the image (or its pool) is gone. */
static int call_run(RbdImage *i, const char *method, Call *c, Condition *condition, const char *what, Error *err)
{
        char object[HEADER_MAX];
        int r = fclose(c->file) == 0 ? 0 : -ENOMEM;

        header_object(i, object, sizeof(object));
        if (r >= 0)
                r = FAULT_ERROR("rbd.before-keep");
        if (r >= 0)
                r = call_execute(i, object, method, c, condition);
        FAULT_POINT("rbd.after-keep");
        free(c->data);
        if (r == -ENOENT)
                return image_gone(i, what, err);
        return r < 0 ? rbd_request_failed(i->source, r, ERROR_RECORD_FAILED, what, err) : 0;
}

int rbd_image_keep_read(RbdImage *i, const char *what, char **ret, Error *err)
{
        char key[64];
        size_t size = 4096;

        if (i->source->snapshot) /* what is or was done to the image is nothing to its snapshot */
                return 0;
        snprintf(key, sizeof(key), "berth.%s", what);
        for (;;) {
                _cleanup_free_ char *value = calloc(1, size + 1);
                if (!value)
                        return error_oom(err);
                size_t n = size;
                int r = rbd_metadata_get(i->image, key, value, &n);
                if (r == -ENOENT)
                        return 0;
                if (r == -ERANGE && size < KEEP_MAX) {
                        size = KEEP_MAX;
                        continue;
                }
                if (r < 0)
                        return rbd_request_failed(i->source, r, ERROR_RECORD_FAILED, "Reading the metadata", err);
                *ret = TAKE_PTR(value);
                return 1;
        }
}

static int keep_write(RbdImage *i, const char *key, const char *text, Condition *condition, Error *err)
{
        static const char one[4] = { 1 }; /* a map of one entry */
        Call c = {};
        int r = call_begin(&c, err);

        if (r < 0)
                return r;
        fwrite(one, 1, sizeof(one), c.file);
        call_string(&c, key);
        call_string(&c, text);
        return call_run(i, "metadata_set", &c, condition, "Writing the metadata", err);
}

static int keep_remove(RbdImage *i, const char *key, Condition *condition, Error *err)
{
        Call c = {};
        int r = call_begin(&c, err);

        if (r < 0)
                return r;
        call_string(&c, key);
        return call_run(i, "metadata_remove", &c, condition, "Removing the metadata", err);
}

int rbd_image_keep_write(RbdImage *i, const char *what, const char *text, Error *err)
{
        char key[64];

        snprintf(key, sizeof(key), "berth.%s", what);
        return keep_write(i, key, text, NULL, err);
}

int rbd_image_keep_remove(RbdImage *i, const char *what, Error *err)
{
        char key[64];

        snprintf(key, sizeof(key), "berth.%s", what);
        return keep_remove(i, key, NULL, err);
}

int rbd_image_keep_swap(RbdImage *i, const char *what, const char *before, const char *text, Error *err)
{
        char key[64], omap_key[80];
        Condition condition = { .key = omap_key, .value = str_or(before, "") }; /* one that is not there compares as empty */

        snprintf(key, sizeof(key), "berth.%s", what);
        snprintf(omap_key, sizeof(omap_key), "metadata_%s", key); /* as the class has it */
        int r = text ? keep_write(i, key, text, &condition, err) : keep_remove(i, key, &condition, err);
        return r < 0 ? r : condition.met;
}

/* --- what is allocated --- */

/* By its ID: under its name there may be another by now. */
static int image_reopen(RbdImage *i, Error *err)
{
        rbd_image_t image = NULL;
        int r = rbd_open_by_id_read_only(i->io, i->id, &image, i->source->snapshot);

        if (r == -ENOENT)
                return image_gone(i, "Opening", err);
        if (r < 0)
                return rbd_request_failed(i->source, r, ERROR_DEVICE_ERROR, "Opening", err);
        (void) rbd_close(i->image);
        i->image = image;
        return image_stat(i, err);
}

int rbd_image_check_size(RbdImage *i, uint64_t device_size, Error *err)
{
        int r = image_reopen(i, err);

        return r < 0 ? r : block_check_size(i->spec, i->size, device_size, err);
}

typedef struct Extents {
        int (*found)(const BlockExtent *e, void *arg);
        void *arg;
        int r;
} Extents;

static int on_diff(uint64_t offset, size_t size, int exists, void *arg)
{
        Extents *x = arg;
        const BlockExtent e = { .offset = offset, .size = size };

        if (exists)
                x->r = x->found(&e, x->arg);
        return x->r;
}

/*
 * whole_object=0: objects are asked, not the object map, which is wrong after a crash and newer in the memory of who holds the lock; include_parent=1: what
 * a clone shows of its parent counts.
 */
int rbd_image_extents(RbdImage *i, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        Extents x = { found, arg, 0 };
        int r = rbd_image_check_size(i, size, err);

        if (r < 0)
                return r;
        r = rbd_diff_iterate2(i->image, NULL, 0, i->size, 1, 0, on_diff, &x);
        if (x.r < 0)
                return x.r;
        return r < 0 ? rbd_request_failed(i->source, r, ERROR_DEVICE_ERROR, "Listing what is allocated", err) : 0;
}

/* Without the exclusive lock, which our own map holds, librbd has no object map to believe: it asks for every object. */
int rbd_image_read(RbdImage *i, uint64_t offset, void *buffer, size_t size, Error *err)
{
        ssize_t n = rbd_read2(i->image, offset, size, buffer, LIBRADOS_OP_FLAG_FADVISE_NOCACHE);

        if (n < 0)
                return rbd_request_failed(i->source, (int) n, ERROR_DEVICE_ERROR, "Reading", err);
        return (size_t) n == size ? 0
                                  : error_set(err, ERROR_DEVICE_ERROR, EIO, "Image %s gave only %zd of %zu bytes at offset %" PRIu64, i->spec, n,
                                              size, offset);
}
