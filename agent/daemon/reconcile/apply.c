/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Carrying out a plan: records are mended here; whatever touches storage becomes an operation of its own, so one volume's failure
 * never stops another's. The world may have changed since the snapshot: each step looks whether its volume is still as it
 * was judged, and leaves one that an operation has taken meanwhile alone. Runs in berthd.
 */

#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"
#include "daemon/operation.h"
#include "daemon/reconcile/reconcile.h"
#include "daemon/store.h"
#include "protocol/target.h"

static int adopt_volume(Manager *m, const PlanStep *s)
{
        const StepDevice *d = s->device;
        _cleanup_free_ char *driver = strndup(d->key, strcspn(d->key, "-"));
        Volume *v;
        int r;

        if (!driver)
                return -ENOMEM;
        if (!volume_key_is_valid(d->key) || !pool_kind_is_valid(driver))
                return -EBADMSG;
        if (volume_find(m, d->key))
                return 0;
        r = volume_new(m, d->key, d->identity, driver, &v);
        if (r < 0)
                return r;
        v->device_number = (dev_t) d->device_number;
        v->foreign = d->foreign;
        v->read_only = d->read_only;
        v->rebuilt = true;
        /* without a stage it is as if unstaged by half: its directory may still be there */
        volume_set_state(v, s->mount ? VOLUME_STAGED : VOLUME_UNSTAGING);
        v->stage_read_only = s->mount && s->mount->read_only;
        if ((d->image && *d->image && (r = strmap_set(&v->source, "path", d->image)) < 0) ||
            (r = str_replace(&v->device, d->device)) < 0 ||
            (s->mount && (r = str_replace(&v->fs_type, s->mount->fs_type)) < 0))
                return r;
        return store_write(v);
}

static int adopt_publish(Manager *m, const PlanStep *s)
{
        _cleanup_target_ Target t = TARGET_INIT;
        Volume *v = volume_find(m, s->volume);
        Publish *p;
        int r;

        if (!v || v->holder || publish_find(m, s->target))
                return 0;
        r = target_parse(s->target, &m->settings, &t, NULL);
        if (r < 0)
                return r;
        r = publish_new(v, s->target, &p);
        if (r < 0)
                return r;
        p->read_only = s->mount->read_only;
        p->pod_uid = TAKE_PTR(t.pod_uid);
        return store_write(v);
}

static int unpublish(Manager *m, const PlanStep *s)
{
        const Volume *v = volume_find(m, s->volume);

        /*
         * Behind the others of this plan, of which one may fail again and again; but not behind a request for the same target:
         * what that leaves there is for the next look.
         */
        if (!v || (v->holder && v->holder->type != OPERATION_UNMOUNT) || operation_is_pending(m, s->target))
                return 0;
        return operation_begin_unmount(m, s->target);
}

static int republish(Manager *m, const PlanStep *s)
{
        const Volume *v = volume_find(m, s->volume);

        return !v || v->holder ? 0 : operation_begin_republish(m, s->target);
}

static int clean_up(Volume *v, const PlanStep *s)
{
        if (v->state == VOLUME_ABSENT) {
                int r = store_remove(v);
                volume_gc(v);
                return r;
        }
        volume_schedule_cleanup(v, s->at_once ? 0 : v->manager->settings.linger_usec);
        return 0;
}

int reconcile_apply(Manager *m, const PlanStep *step)
{
        Volume *v = step->volume ? volume_find(m, step->volume) : NULL;
        Publish *p;

        switch (step->type) {
        case PLAN_ADOPT_VOLUME:
                return adopt_volume(m, step);
        case PLAN_ADOPT_PUBLISH:
                return adopt_publish(m, step);
        case PLAN_DROP_PUBLISH:
                p = publish_find(m, step->target);
                if (!v || v->holder || !p || p->volume != v)
                        return 0;
                publish_free(p);
                return store_write(v);
        case PLAN_UNPUBLISH:
                return unpublish(m, step);
        case PLAN_REPUBLISH:
                return republish(m, step);
        case PLAN_CORRECT_STATE:
                if (!v || v->holder)
                        return 0;
                if (step->device) {
                        if (str_replace(&v->device, step->device->device) < 0)
                                return -ENOMEM;
                        v->device_number = (dev_t) step->device->device_number;
                        v->foreign = step->device->foreign;
                }
                volume_set_state(v, step->state);
                v->step = NULL;
                return store_write(v);
        case PLAN_CLEANUP:
                return v && !v->holder && volume_is_unused(v) ? clean_up(v, step) : 0;
        case PLAN_REPORT:
                return 0;
        case _PLAN_STEP_TYPE_MAX:
        case _PLAN_STEP_TYPE_INVALID:
                break;
        }
        return -EINVAL;
}

void reconcile_sweep_locks(Manager *m)
{
        int fd = openat(m->runtime_fd, "locks", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_closedir_ DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;

        if (!dir)
                close_fd(fd);
        for (struct dirent *d; dir && (d = readdir(dir));) {
                if (!volume_key_is_valid(d->d_name) || volume_find(m, d->d_name))
                        continue;
                /* who opened it before it goes starts over with a new file: lock_file_take() */
                _cleanup_close_ int lock_fd = lock_file_take(dirfd(dir), d->d_name);
                if (lock_fd >= 0)
                        (void) lock_file_remove(dirfd(dir), d->d_name);
        }
}
