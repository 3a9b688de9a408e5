/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Volumes and publishes as objects: creation, look-up, the state and its one writer. No system calls and no
 * policy; what happens to a volume is decided in operation*.c.
 */

#include "daemon/volume.h"

#include <assert.h>
#include <string.h>

#include "base/log.h"

static const char *const state_names[_VOLUME_STATE_MAX] = {
        [VOLUME_ABSENT] = "absent",       [VOLUME_ATTACHING] = "attaching", [VOLUME_ATTACHED] = "attached",
        [VOLUME_STAGING] = "staging",     [VOLUME_STAGED] = "staged",       [VOLUME_UNSTAGING] = "unstaging",
        [VOLUME_DETACHING] = "detaching",
};

const char *volume_state_to_string(VolumeState state)
{
        return state >= 0 && state < _VOLUME_STATE_MAX ? state_names[state] : "invalid";
}

static const char *const health_names[_VOLUME_HEALTH_MAX] = {
        [VOLUME_HEALTH_UNKNOWN] = "unknown",
        [VOLUME_HEALTH_OK] = "ok",
        [VOLUME_HEALTH_DEGRADED] = "degraded",
        [VOLUME_HEALTH_CORRUPTED] = "corrupted",
};

const char *volume_health_to_string(VolumeHealth health)
{
        return health >= 0 && health < _VOLUME_HEALTH_MAX ? health_names[health] : "invalid";
}

VolumeState volume_state_from_string(const char *s)
{
        for (VolumeState i = 0; s && i < _VOLUME_STATE_MAX; i++)
                if (strcmp(state_names[i], s) == 0)
                        return i;
        return _VOLUME_STATE_INVALID;
}

Volume *volume_find(Manager *m, const char *key)
{
        Volume *v;

        HASH_FIND_STR(m->volumes, key, v);
        return v;
}

int volume_new(Manager *m, const char *key, const char *identity, const char *driver, Volume **ret)
{
        Volume *v = calloc(1, sizeof(*v));
        if (!v)
                return -ENOMEM;

        *v = (Volume) {
                .manager = m,
                .key = strdup(key),
                .identity = strdup(identity),
                .driver = strdup(driver),
                .state = VOLUME_ABSENT,
        };
        TAILQ_INIT(&v->publishes);
        TAILQ_INIT(&v->waiting);
        if (!v->key || !v->identity || !v->driver) {
                free(v->key);
                free(v->identity);
                free(v->driver);
                free(v);
                return -ENOMEM;
        }
        HASH_ADD_KEYPTR(hh, m->volumes, v->key, strlen(v->key), v);
        *ret = v;
        return 0;
}

void volume_free(Volume *v)
{
        Publish *p;

        while ((p = TAILQ_FIRST(&v->publishes)))
                publish_free(p);
        sd_event_source_disable_unref(v->cleanup_timer);
        HASH_DELETE(hh, v->manager->volumes, v);
        free(v->key);
        free(v->identity);
        free(v->driver);
        strmap_done(&v->source);
        free(v->fs_type);
        free(v->uuid);
        strv_free(v->mount_options);
        free(v->device);
        strv_free(v->attachments);
        free(v->last_error);
        free(v->health_reason);
        free(v->group);
        free(v->unknown);
        free(v);
}

void volume_gc(Volume *v)
{
        if (v->state == VOLUME_ABSENT && !v->holder && TAILQ_EMPTY(&v->waiting) && volume_is_unused(v))
                volume_free(v);
}

void volume_set_state(Volume *v, VolumeState state)
{
        assert(state >= 0 && state < _VOLUME_STATE_MAX);

        if (v->state == state)
                return;
        log_debug("Volume %s: %s -> %s", v->key, volume_state_to_string(v->state), volume_state_to_string(state));
        v->state = state;

        switch (state) {
        case VOLUME_ABSENT:
                free(TAKE_PTR(v->device));
                v->device_number = 0;
                v->foreign = false;
                break;
        case VOLUME_ATTACHING:
        case VOLUME_ATTACHED:
        case VOLUME_STAGING:
        case VOLUME_STAGED:
        case VOLUME_UNSTAGING:
        case VOLUME_DETACHING:
        case _VOLUME_STATE_MAX:
        case _VOLUME_STATE_INVALID:
                break;
        }
}

bool volume_is_unused(const Volume *v)
{
        return TAILQ_EMPTY(&v->publishes) && strv_length(v->attachments) == 0;
}

char *volume_staging_path(const Volume *v)
{
        char *path;

        return asprintf(&path, "%s/staging/%s", v->manager->settings.runtime_dir, v->key) < 0 ? NULL : path;
}

Volume *volume_find_by_attachment(Manager *m, const char *volume_name)
{
        for (Volume *v = m->volumes; v; v = v->hh.next)
                if (strv_contains(v->attachments, volume_name))
                        return v;
        return NULL;
}

Publish *publish_find(Manager *m, const char *target)
{
        Publish *p;

        HASH_FIND_STR(m->publishes, target, p);
        return p;
}

int publish_new(Volume *v, const char *target, Publish **ret)
{
        Publish *p = calloc(1, sizeof(*p));
        if (!p)
                return -ENOMEM;

        p->volume = v;
        p->target = strdup(target);
        if (!p->target) {
                free(p);
                return -ENOMEM;
        }
        HASH_ADD_KEYPTR(hh, v->manager->publishes, p->target, strlen(p->target), p);
        TAILQ_INSERT_TAIL(&v->publishes, p, of_volume);
        *ret = p;
        return 0;
}

void publish_free(Publish *p)
{
        HASH_DELETE(hh, p->volume->manager->publishes, p);
        TAILQ_REMOVE(&p->volume->publishes, p, of_volume);
        free(p->target);
        free(p->pod_name);
        free(p->pod_namespace);
        free(p->pod_uid);
        free(p->sub_dir);
        free(p);
}
