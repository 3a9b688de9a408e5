/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The index of a snapshot: records and scanned devices are matched by key, mounts by device. Pure. Everything is looked up in sorted
 * arrays, so thousands of volumes and mounts cost n log n.
 */

#include "daemon/reconcile/index.h"

#include <string.h>

/* ---- looking things up ---- */

static int compare_mounts(const void *a, const void *b)
{
        return strcmp(((const MountView *) a)->target, ((const MountView *) b)->target);
}

static int compare_volumes(const void *a, const void *b)
{
        return strcmp(((const VolumeView *) a)->key, ((const VolumeView *) b)->key);
}

static int compare_devices(const void *a, const void *b)
{
        const StepDevice *x = a, *y = b;
        int r = strcmp(x->key, y->key);

        return r != 0 ? r : x->device_number < y->device_number ? -1 : x->device_number > y->device_number;
}

void snapshot_sort(Snapshot *s)
{
        if (s->n_mounts > 1)
                qsort(s->mounts, s->n_mounts, sizeof(MountView), compare_mounts);
        if (s->n_volumes > 1)
                qsort(s->volumes, s->n_volumes, sizeof(VolumeView), compare_volumes);
        if (s->n_devices > 1)
                qsort(s->devices, s->n_devices, sizeof(StepDevice), compare_devices);
}

const MountView *snapshot_find_mount(const Snapshot *s, const char *target, dev_t device)
{
        const MountView wanted = { .target = (char *) target };
        const MountView *found = s->n_mounts ? bsearch(&wanted, s->mounts, s->n_mounts, sizeof(MountView),
                                                       compare_mounts)
                                             : NULL;
        const MountView *end = s->mounts + s->n_mounts;

        if (!found)
                return NULL;
        while (found > s->mounts && strcmp(found[-1].target, target) == 0)
                found--;
        for (; found < end && strcmp(found->target, target) == 0; found++)
                if (device == 0 || found->device == device)
                        return found;
        return NULL;
}

static const VolumeView *find_volume(const Snapshot *s, const char *key)
{
        const VolumeView wanted = { .key = (char *) key };

        return s->n_volumes ? bsearch(&wanted, s->volumes, s->n_volumes, sizeof(VolumeView), compare_volumes)
                            : NULL;
}

static bool kind_is_in(char *const *kinds, const char *key)
{
        size_t n = strcspn(key, "-");

        STRV_FOREACH (kind, kinds)
                if (strlen(*kind) == n && memcmp(*kind, key, n) == 0)
                        return true;
        return false;
}

bool snapshot_knows(const Snapshot *s, const char *key)
{
        return kind_is_in(s->kinds, key);
}

bool snapshot_judges(const Snapshot *s, const char *key)
{
        return snapshot_knows(s, key) || (strv_length(s->kinds) > 0 && !kind_is_in(s->silent, key));
}

/* ---- matching ---- */

void index_done(Index *x)
{
        free(x->entries);
        free(x->by_device);
        free(x->by_number);
        free(x->publishes);
}

static int compare_by_device(const void *a, const void *b)
{
        const Entry *x = *(Entry *const *) a, *y = *(Entry *const *) b;

        return x->device < y->device ? -1 : x->device > y->device;
}

static int compare_by_number(const void *a, const void *b)
{
        const StepDevice *x = *(const StepDevice *const *) a, *y = *(const StepDevice *const *) b;

        return x->device_number < y->device_number ? -1 : x->device_number > y->device_number;
}

static int compare_publishes(const void *a, const void *b)
{
        return strcmp(((const PublishEntry *) a)->target, ((const PublishEntry *) b)->target);
}

/* The volume that a device is of; if several records claim it, the one that is staged. */
static Entry *index_find_device(const Index *x, dev_t device)
{
        const Entry wanted = { .device = device }, *p = &wanted;
        Entry **found = device != 0 && x->n_by_device ?
                                bsearch(&p, x->by_device, x->n_by_device, sizeof(Entry *), compare_by_device) :
                                NULL;
        Entry **end = x->by_device + x->n_by_device;

        if (!found)
                return NULL;
        while (found > x->by_device && found[-1]->device == device)
                found--;
        for (Entry **e = found; e < end && (*e)->device == device; e++)
                if ((*e)->stage)
                        return *e;
        return *found;
}

PublishEntry *index_find_publish(const Index *x, const char *target)
{
        const PublishEntry wanted = { .target = target };

        return x->n_publishes ? bsearch(&wanted, x->publishes, x->n_publishes, sizeof(PublishEntry),
                                        compare_publishes)
                              : NULL;
}

Entry *index_find_key(const Snapshot *s, const Index *x, const char *key)
{
        const VolumeView *v = find_volume(s, key);
        size_t low = x->n_volumes, high = x->n_entries;

        if (v)
                return &x->entries[v - s->volumes];
        while (low < high) {
                size_t middle = low + (high - low) / 2;

                if (strcmp(x->entries[middle].key, key) < 0)
                        low = middle + 1;
                else
                        high = middle;
        }
        return low < x->n_entries && strcmp(x->entries[low].key, key) == 0 ? &x->entries[low] : NULL;
}

/* Merges two lists that are both sorted by key: which devices are of which record, and which are of none. */
static void index_match(const Snapshot *s, Index *x)
{
        size_t k = 0;

        for (size_t i = 0; i < s->n_volumes; i++) {
                const VolumeView *v = &s->volumes[i];

                x->entries[i] = (Entry){.key = v->key, .device = v->device, .foreign = v->foreign, .volume = v};
        }
        x->n_entries = x->n_volumes = s->n_volumes;
        for (size_t i = 0; i < s->n_devices; i++) {
                const StepDevice *d = &s->devices[i];

                while (k < s->n_volumes && strcmp(s->volumes[k].key, d->key) < 0)
                        k++;
                Entry *e = k < s->n_volumes && strcmp(s->volumes[k].key, d->key) == 0 ? &x->entries[k] : NULL;
                if (!e)
                        x->entries[x->n_entries++] = (Entry) { .key = d->key, .device = (dev_t) d->device_number,
                                                               .foreign = d->foreign, .scanned = d };
                else if (!e->scanned || d->device_number == e->device ||
                         (e->scanned->foreign && !d->foreign && e->scanned->device_number != e->device))
                        e->scanned = d;
        }
}

/*
 * Killed between attaching and the record of it, as stage does in one step: the mount tells which device it was. Where something
 * is published the record is newer than that, and what differs is strange.
 */
static void index_move(const Snapshot *s, Index *x)
{
        for (size_t i = 0; i < s->n_mounts; i++) {
                const MountView *m = &s->mounts[i];
                Entry *e = m->stage ? index_find_key(s, x, m->stage) : NULL;

                if (!e || !e->volume || e->volume->n_publishes > 0 || !e->scanned || e->device == m->device ||
                    (dev_t) e->scanned->device_number != m->device)
                        continue;
                e->device = m->device;
                e->foreign = e->scanned->foreign;
                e->moved = true;
        }
}

/* A device's number is given to another soon after it was let go; a record may not have noticed. */
static bool device_is_reused(const Snapshot *s, const Index *x, const Entry *e)
{
        const StepDevice wanted = { .device_number = e->device }, *p = &wanted;
        const StepDevice **found = s->n_devices ? bsearch(&p, x->by_number, s->n_devices, sizeof(*x->by_number),
                                                          compare_by_number)
                                                : NULL;

        return e->volume && e->device != 0 && found && strcmp((*found)->key, e->key) != 0;
}

static void index_devices(const Snapshot *s, Index *x)
{
        for (size_t i = 0; i < s->n_devices; i++)
                x->by_number[i] = &s->devices[i];
        if (s->n_devices > 1)
                qsort(x->by_number, s->n_devices, sizeof(*x->by_number), compare_by_number);
        for (size_t i = 0; i < x->n_entries; i++) {
                Entry *e = &x->entries[i];

                e->reused = device_is_reused(s, x, e);
                if (e->device != 0 && !e->reused)
                        x->by_device[x->n_by_device++] = e;
        }
        if (x->n_by_device > 1)
                qsort(x->by_device, x->n_by_device, sizeof(Entry *), compare_by_device);
}

/* Where the mount at a staging path belongs: to the device of that key it shows, or as something strange to the key. */
static void index_stage(const Snapshot *s, Index *x, const MountView *m)
{
        Entry *first = index_find_key(s, x, m->stage), *end = x->entries + x->n_entries;

        for (Entry *e = first; e && e < end && strcmp(e->key, m->stage) == 0; e++)
                if (e->device != 0 && e->device == m->device && !e->reused) {
                        e->stage = m;
                        return;
                }
        for (Entry *e = first; e && e < end && strcmp(e->key, m->stage) == 0; e++)
                e->strange = m;
}

Entry *index_find_published(const Index *x, const MountView *m)
{
        Entry *e = m->is_target && strcmp(m->root, "/") == 0 ? index_find_device(x, m->device) : NULL;

        return e && !e->second && (e->stage || !e->foreign) ? e : NULL;
}

/* One device a key: an image may have a second one, which is an operator's. */
static void index_choose(Index *x)
{
        for (size_t i = x->n_volumes, next; i < x->n_entries; i = next) {
                Entry *best = &x->entries[i];

                for (next = i; next < x->n_entries && strcmp(x->entries[next].key, best->key) == 0; next++) {
                        Entry *e = &x->entries[next];

                        e->second = true;
                        if (!best->stage && (e->stage || (best->foreign && !e->foreign)))
                                best = e;
                }
                best->second = false;
        }
}

static void index_mounts(const Snapshot *s, Index *x)
{
        for (size_t i = 0; i < s->n_mounts; i++)
                if (s->mounts[i].stage)
                        index_stage(s, x, &s->mounts[i]);
        index_choose(x);
        for (size_t i = 0; i < s->n_mounts; i++) {
                Entry *e = index_find_published(x, &s->mounts[i]);
                if (e)
                        e->published = true;
        }
        for (size_t i = 0; i < s->n_volumes; i++)
                for (size_t k = 0; k < s->volumes[i].n_publishes; k++)
                        x->publishes[x->n_publishes++].target = s->volumes[i].publishes[k].target;
        if (x->n_publishes > 1)
                qsort(x->publishes, x->n_publishes, sizeof(PublishEntry), compare_publishes);
}

int index_build(const Snapshot *s, Index *ret)
{
        size_t n = s->n_volumes + s->n_devices + 1, n_publishes = 1;

        for (size_t i = 0; i < s->n_volumes; i++)
                n_publishes += s->volumes[i].n_publishes;
        Index x = {
                .entries = calloc(n, sizeof(Entry)),
                .by_device = calloc(n, sizeof(Entry *)),
                .by_number = calloc(s->n_devices + 1, sizeof(StepDevice *)),
                .publishes = calloc(n_publishes, sizeof(PublishEntry)),
        };
        if (!x.entries || !x.by_device || !x.by_number || !x.publishes) {
                index_done(&x);
                return -ENOMEM;
        }
        index_match(s, &x);
        index_move(s, &x);
        index_devices(s, &x);
        index_mounts(s, &x);
        *ret = x;
        return 0;
}
