/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The snapshot: mount table by libmount, devices by sysfs, records from memory. Runs in berthd; reads /proc and /sys only,
 * which never wait for storage. Never called within a request: one parse of 10,000 mounts takes some 30 ms.
 */

#include <libmount.h>
#include <malloc.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"

DEFINE_POINTER_CLEANUP(struct libmnt_table *, mnt_unref_table);
DEFINE_POINTER_CLEANUP(struct libmnt_iter *, mnt_free_iter);

#define LOOP_MAJOR 7U

/* Mount points that matter to berth: publishes' targets and everything below the staging root. */
typedef struct MountedSet {
        char *target;
        UT_hash_handle hh;
} MountedSet;

static void mounted_free(MountedSet *set)
{
        MountedSet *s, *next;

        HASH_ITER (hh, set, s, next) {
                HASH_DELETE(hh, set, s);
                free(s->target);
                free(s);
        }
}
DEFINE_POINTER_CLEANUP(MountedSet *, mounted_free);

static int mounted_add(MountedSet **set, const char *target)
{
        MountedSet *s;

        HASH_FIND_STR(*set, target, s);
        if (s)
                return 0;
        s = calloc(1, sizeof(*s));
        if (!s || !(s->target = strdup(target))) {
                free(s);
                return -ENOMEM;
        }
        HASH_ADD_KEYPTR(hh, *set, s->target, strlen(s->target), s);
        return 0;
}

static bool mounted_contains(MountedSet *set, const char *target)
{
        MountedSet *s;

        HASH_FIND_STR(set, target, s);
        return s != NULL;
}

static int read_mounts(Manager *m, const char *staging_root, MountedSet **ret, char ***ret_stages)
{
        _cleanup_(mnt_unref_tablep) struct libmnt_table *table = mnt_new_table();
        _cleanup_(mnt_free_iterp) struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
        struct libmnt_fs *fs;
        size_t n = strlen(staging_root);

        if (!table || !iter)
                return -ENOMEM;
        int r = mnt_table_parse_file(table, "/proc/self/mountinfo");
        if (r != 0)
                return r < 0 ? r : -EIO;

        while (mnt_table_next_fs(table, iter, &fs) == 0) {
                const char *target = mnt_fs_get_target(fs);
                bool stage = target && strncmp(target, staging_root, n) == 0 && target[n] == '/';

                if (!target || !(stage || publish_find(m, target)))
                        continue;
                r = mounted_add(ret, target);
                if (r >= 0 && stage)
                        r = strv_append(ret_stages, target + n + 1);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* Whether sysfs shows the device, and for a loop device that a file is bound to it. */
static bool device_is_present(dev_t number)
{
        char path[64];

        snprintf(path, sizeof(path), "/sys/dev/block/%u:%u%s", major(number), minor(number),
                 major(number) == LOOP_MAJOR ? "/loop" : "");
        return access(path, F_OK) >= 0;
}

static int view_publishes(const Volume *v, MountedSet *mounted, VolumeView *view)
{
        const Publish *p;

        TAILQ_FOREACH(p, &v->publishes, of_volume) {
                PublishView *grown = reallocarray(view->publishes, view->n_publishes + 1, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                view->publishes = grown;
                grown[view->n_publishes] = (PublishView) { .target = strdup(p->target),
                                                           .mounted = mounted_contains(mounted, p->target) };
                if (!grown[view->n_publishes++].target)
                        return -ENOMEM;
        }
        return 0;
}

static int view_volume(const Volume *v, MountedSet *mounted, VolumeView *view)
{
        _cleanup_free_ char *staging = volume_staging_path(v);

        *view = (VolumeView) {
                .key = strdup(v->key),
                .state = v->state,
                .step = v->step,
                .busy = v->holder != NULL,
                .device_expected = v->device_number != 0,
                .device_present = v->device_number != 0 && device_is_present(v->device_number),
                .staged = staging && mounted_contains(mounted, staging),
                .attached_by_name = strv_length(v->attachments) > 0,
                .cleanup_scheduled = v->cleanup_timer != NULL,
        };
        if (!view->key || !staging)
                return -ENOMEM;
        return view_publishes(v, mounted, view);
}

static int snapshot_fill(Manager *m, Snapshot *s)
{
        _cleanup_(mounted_freep) MountedSet *mounted = NULL;
        _cleanup_strv_ char **stages = NULL;
        _cleanup_free_ char *root = NULL;
        int r;

        if (asprintf(&root, "%s/staging", m->settings.state_dir) < 0)
                return -ENOMEM;
        r = read_mounts(m, root, &mounted, &stages);
        if (r < 0)
                return r;

        s->volumes = calloc(HASH_COUNT(m->volumes) + 1, sizeof(VolumeView));
        if (!s->volumes)
                return -ENOMEM;
        for (const Volume *v = m->volumes; v; v = v->hh.next) {
                r = view_volume(v, mounted, &s->volumes[s->n_volumes++]);
                if (r < 0)
                        return r;
        }
        STRV_FOREACH (key, stages) {
                if (volume_find(m, *key) || strv_contains(s->unknown_stages, *key))
                        continue;
                r = strv_append(&s->unknown_stages, *key);
                if (r < 0)
                        return r;
        }
        return 0;
}

int reconcile_observe(Manager *m, Snapshot *ret, Error *err)
{
        _cleanup_snapshot_ Snapshot s = {};
        int r = snapshot_fill(m, &s);

        malloc_trim(0); /* a table of thousands of mounts is 5 MiB that are not needed until the next time */
        if (r == -ENOMEM)
                return error_oom(err);
        if (r < 0)
                return error_set(err, ERROR_INTERNAL, r, "Cannot read the mount table: %s", strerror(-r));
        *ret = s;
        s = (Snapshot) {};
        return 0;
}

void snapshot_done(Snapshot *s)
{
        for (size_t i = 0; i < s->n_volumes; i++) {
                for (size_t k = 0; k < s->volumes[i].n_publishes; k++)
                        free(s->volumes[i].publishes[k].target);
                free(s->volumes[i].publishes);
                free(s->volumes[i].key);
        }
        free(s->volumes);
        strv_free(s->unknown_stages);
        *s = (Snapshot) {};
}
