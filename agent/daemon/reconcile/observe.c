/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The snapshot: mount table by libmount, devices by sysfs, records from memory, locks by flock(2) on tmpfs. Runs in
 * berthd; reads only what never waits for storage. Never within a request: one parse of 10,000 mounts takes some 30 ms.
 */

#include <fcntl.h>
#include <libmount.h>
#include <limits.h>
#include <malloc.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/fd.h"
#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"
#include "protocol/target.h"

DEFINE_POINTER_CLEANUP(struct libmnt_table *, mnt_unref_table);
DEFINE_POINTER_CLEANUP(struct libmnt_iter *, mnt_free_iter);

#define LOOP_MAJOR 7U
#define NBD_MAJOR 43U
#define SUPERBLOCKS_SIZE_MAX (4U * 1024U * 1024U)

typedef struct MountReader {
        Manager *manager;
        const char *staging_root;
        Snapshot *snapshot;
        size_t allocated;
} MountReader;

static const char *below(const char *path, const char *root)
{
        size_t n = strlen(root);

        return strncmp(path, root, n) == 0 && path[n] == '/' ? path + n + 1 : NULL;
}

static bool could_be_target(Manager *m, const char *path)
{
        _cleanup_target_ Target t = TARGET_INIT;

        return target_parse(path, &m->settings, &t, NULL) >= 0 && strcmp(t.path, path) == 0;
}

/*
 * The block device of a mount. btrfs mounts, and others, have numbers of their own there, with the device in the
 * source only: sysfs translates its name.
 */
static dev_t mount_device(struct libmnt_fs *fs)
{
        const char *source = mnt_fs_get_srcpath(fs), *name = source ? below(source, "/dev") : NULL;
        dev_t number = mnt_fs_get_devno(fs);
        unsigned major_number, minor_number;
        _cleanup_free_ char *text = NULL;
        char path[PATH_MAX];

        if (major(number) != 0 || !name || strchr(name, '/') ||
            snprintf(path, sizeof(path), "/sys/class/block/%s/dev", name) >= (int) sizeof(path) ||
            read_file_at(AT_FDCWD, path, 64, &text, NULL) < 0 ||
            sscanf(text, "%u:%u", &major_number, &minor_number) != 2)
                return number;
        return makedev(major_number, minor_number);
}

static int mount_add(MountReader *r, struct libmnt_fs *fs)
{
        const char *target = mnt_fs_get_target(fs), *options = mnt_fs_get_vfs_options(fs), *key;
        Snapshot *s = r->snapshot;
        bool is_target, is_stage;

        if (!target)
                return 0;
        key = below(target, r->staging_root);
        is_stage = key && !strchr(key, '/');
        is_target = !key && could_be_target(r->manager, target);
        if (!key && !is_target)
                return 0;

        if (s->n_mounts == r->allocated) {
                size_t want = r->allocated ? r->allocated * 2 : 64;
                MountView *grown = reallocarray(s->mounts, want, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                s->mounts = grown;
                r->allocated = want;
        }
        MountView *v = &s->mounts[s->n_mounts++];
        *v = (MountView) {
                .target = strdup(target),
                .stage = is_stage ? strdup(key) : NULL,
                .within = key && !is_stage ? strndup(key, strcspn(key, "/")) : NULL,
                .is_target = is_target,
                .device = mount_device(fs),
                .read_only = options && mnt_optstr_get_option(options, "ro", NULL, NULL) == 0,
                .fs_type = strdup(str_or(mnt_fs_get_fstype(fs), "")),
                .root = strdup(str_or(mnt_fs_get_root(fs), "/")),
        };
        return v->target && v->fs_type && v->root && (!key || v->stage || v->within) ? 0 : -ENOMEM;
}

static int read_mounts(MountReader *reader)
{
        _cleanup_(mnt_unref_tablep) struct libmnt_table *table = mnt_new_table();
        _cleanup_(mnt_free_iterp) struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
        struct libmnt_fs *fs;

        if (!table || !iter)
                return -ENOMEM;
        int r = mnt_table_parse_file(table, "/proc/self/mountinfo");
        if (r != 0)
                return r < 0 ? r : -EIO;
        while (mnt_table_next_fs(table, iter, &fs) == 0) {
                r = mount_add(reader, fs);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Superblocks of NFS, which stand for the devices that it has not; a file of the kernel's own that asks no server. */
typedef struct Superblocks {
        dev_t *numbers; /* sorted */
        size_t n;
} Superblocks;

static int compare_numbers(const void *a, const void *b)
{
        const dev_t *x = a, *y = b;

        return *x < *y ? -1 : *x > *y;
}

static int read_superblocks(Superblocks *ret)
{
        _cleanup_free_ char *text = NULL;
        unsigned major_number, minor_number;
        size_t allocated = 0;

        if (read_file_at(AT_FDCWD, "/proc/fs/nfsfs/volumes", SUPERBLOCKS_SIZE_MAX, &text, NULL) < 0)
                return 0; /* no NFS at all */
        /* NV SERVER PORT DEV FSID FSC */
        for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
                if (sscanf(line, "%*s %*s %*s %u:%u", &major_number, &minor_number) != 2)
                        continue;
                if (ret->n == allocated) {
                        size_t want = allocated ? allocated * 2 : 16;
                        dev_t *grown = reallocarray(ret->numbers, want, sizeof(*grown));
                        if (!grown)
                                return -ENOMEM;
                        ret->numbers = grown;
                        allocated = want;
                }
                ret->numbers[ret->n++] = makedev(major_number, minor_number);
        }
        if (ret->n > 1)
                qsort(ret->numbers, ret->n, sizeof(dev_t), compare_numbers);
        return 0;
}

static bool superblock_is_present(const Superblocks *s, dev_t number)
{
        return s->n > 0 && bsearch(&number, s->numbers, s->n, sizeof(dev_t), compare_numbers);
}

/* Whether sysfs shows the device, and for one that is there without being anything, that something is bound to it. */
static bool device_is_present(dev_t number)
{
        char path[64];

        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u%s", major(number), minor(number),
                 major(number) == LOOP_MAJOR  ? "/loop"
                 : major(number) == NBD_MAJOR ? "/pid"
                                              : "");
        return access(path, F_OK) >= 0;
}

/* Whether a process of a former berthd holds the volume's lock. Its file is made only by those who work. */
static bool lock_is_held(const Manager *m, const char *key)
{
        _cleanup_free_ char *name = NULL;

        if (asprintf(&name, "locks/%s", key) < 0)
                return true;
        if (faccessat(m->runtime_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
                return false;
        _cleanup_close_ int fd = lock_file_take(m->runtime_fd, name);
        return fd == -EWOULDBLOCK;
}

static int view_volume(const Volume *v, const Superblocks *superblocks, VolumeView *view)
{
        const Publish *p;
        size_t n = 0;

        *view = (VolumeView) {
                .key = strdup(v->key),
                .state = v->state,
                .step = v->step,
                .busy = v->holder != NULL,
                .at_work = !v->holder && v->step && lock_is_held(v->manager, v->key),
                .attached_by_name = strv_length(v->attachments) > 0,
                .cleanup_scheduled = v->cleanup_timer != NULL,
                .foreign = v->foreign,
                .device = v->device_number,
                .device_present = v->device_number != 0 && (major(v->device_number) == 0 ?
                                                                            superblock_is_present(superblocks, v->device_number) :
                                                                            device_is_present(v->device_number)),
                .health = v->health,
        };
        if (!view->key)
                return -ENOMEM;
        TAILQ_FOREACH(p, &v->publishes, of_volume)
                n++;
        view->publishes = calloc(n ? n : 1, sizeof(PublishView));
        if (!view->publishes)
                return -ENOMEM;
        TAILQ_FOREACH(p, &v->publishes, of_volume) {
                PublishView *publish = &view->publishes[view->n_publishes++];

                *publish = (PublishView) {
                        .target = strdup(p->target),
                        .stale = p->stale && p->sub_dir && !v->rebuilt,
                        .replacing = p->replacing && p->sub_dir && !v->rebuilt,
                };
                if (!publish->target)
                        return -ENOMEM;
        }
        return 0;
}

static int snapshot_fill(Manager *m, Snapshot *s)
{
        _cleanup_free_ char *root = NULL;
        Superblocks superblocks = {};
        int r;

        if (asprintf(&root, "%s/staging", m->settings.runtime_dir) < 0)
                return -ENOMEM;
        r = read_mounts(&(MountReader) { .manager = m, .staging_root = root, .snapshot = s });
        if (r < 0)
                return r;
        s->volumes = calloc(HASH_COUNT(m->volumes) + 1, sizeof(VolumeView));
        if (!s->volumes)
                return -ENOMEM;
        r = read_superblocks(&superblocks);
        for (const Volume *v = m->volumes; v && r >= 0; v = v->hh.next)
                r = view_volume(v, &superblocks, &s->volumes[s->n_volumes++]);
        free(superblocks.numbers);
        if (r < 0)
                return r;
        snapshot_sort(s);
        return 0;
}

int reconcile_observe(Manager *m, Snapshot *ret, Error *err)
{
        int r = snapshot_fill(m, ret);

        malloc_trim(0); /* a table of thousands of mounts is 5 MiB that are not needed until the next time */
        if (r == -ENOMEM)
                return error_oom(err);
        return r < 0 ? error_set(err, ERROR_INTERNAL, r, "Cannot read the mount table: %s", strerror(-r)) : 0;
}

void snapshot_done(Snapshot *s)
{
        for (size_t i = 0; i < s->n_volumes; i++) {
                for (size_t k = 0; k < s->volumes[i].n_publishes; k++)
                        free(s->volumes[i].publishes[k].target);
                free(s->volumes[i].publishes);
                free(s->volumes[i].key);
        }
        for (size_t i = 0; i < s->n_mounts; i++) {
                free(s->mounts[i].target);
                free(s->mounts[i].stage);
                free(s->mounts[i].within);
                free(s->mounts[i].fs_type);
                free(s->mounts[i].root);
        }
        free(s->volumes);
        free(s->mounts);
        step_devices_free(s->devices, s->n_devices);
        strv_free(s->kinds);
        strv_free(s->silent);
        *s = (Snapshot) {};
}
