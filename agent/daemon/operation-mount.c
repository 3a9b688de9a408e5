/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Mount (attach + stage + publish) and Attach. advance looks at the volume's state and does what is missing, so a repeat, a
 * restart in the middle and a volume left half way by an earlier failure all take the same road. Runs in berthd.
 */

#include <string.h>

#include "base/log.h"
#include "daemon/operation-internal.h"
#include "daemon/store.h"

static void fail(Operation *op, Error *err)
{
        error_move(&op->error, err);
        op->step = STEP_NONE;
        op->undoing = true;
        operation_undo(op);
}

#define FAIL(op, ...)                                                                                        \
        do {                                                                                                 \
                _cleanup_error_ Error _err = ERROR_INIT;                                                     \
                error_set(&_err, __VA_ARGS__);                                                               \
                fail(op, &_err);                                                                             \
        } while (0)

/* ---- before there is a volume ---- */

/* What does not exist cannot be what the target or the name stands for: said before it is made, not after. */
static int check_creation(const Operation *op, Error *err)
{
        const Publish *p = op->target ? publish_find(op->manager, op->target) : NULL;
        const Volume *v = op->type == OPERATION_ATTACH
                                          ? volume_find_by_attachment(op->manager, op->params.volume_name)
                                          : NULL;

        if (p)
                return error_set(err, ERROR_CONFLICT, EBUSY,
                                 "Target %s holds another volume, %s, not one that is yet to be made",
                                 op->target, p->volume->identity);
        if (v)
                return error_set(err, ERROR_CONFLICT, EBUSY, "Volume name '%s' is attached to another volume, %s",
                                 op->params.volume_name, v->identity);
        return 0;
}

static void advance_resolve(Operation *op)
{
        if (!op->resolved) {
                operation_run_step(op, STEP_RESOLVE);
                return;
        }
        if (op->result.create) {
                _cleanup_error_ Error err = ERROR_INIT;

                if (op->created)
                        FAIL(op, ERROR_IMAGE_NOT_FOUND, ENOENT, "The image was made and is gone again");
                else if (check_creation(op, &err) < 0)
                        fail(op, &err);
                else
                        operation_run_step(op, STEP_CREATE);
                return;
        }
        if (!op->key || !op->identity || !volume_key_is_valid(op->key)) {
                FAIL(op, ERROR_INTERNAL, EBADMSG, "The mounter gave no valid key for the source");
                return;
        }

        Volume *v = volume_find(op->manager, op->key);
        /* the key of a shared volume is made of its whole identity, which cannot be read back from the kernel */
        if (v && v->rebuilt && op->shared && strcmp(v->driver, op->params.driver) == 0 &&
            str_replace(&v->identity, op->identity) < 0) {
                FAIL(op, ERROR_INTERNAL, ENOMEM, "Out of memory");
                return;
        }
        if (!v && volume_new(op->manager, op->key, op->identity, op->params.driver, &v) < 0) {
                FAIL(op, ERROR_INTERNAL, ENOMEM, "Out of memory");
                return;
        }
        if (strcmp(v->identity, op->identity) != 0 || strcmp(v->driver, op->params.driver) != 0) {
                FAIL(op, ERROR_CONFLICT, EEXIST, "Key %s is that of volume %s, not of %s", op->key, v->identity,
                     op->identity);
                return;
        }
        v->shared = op->shared;
        if (op->group_name) {
                free(v->group);
                v->group = TAKE_PTR(op->group_name);
        }
        operation_lock_volume(op, v);
}

/* ---- is it the same as what is there? ---- */

/* Options of a shared volume that are of each publish, not of the stage. */
static const char *const publish_options[] = { "subDir", "createSubDir", "mode", "gid" };

static const char *requested_sub_dir(const Operation *op)
{
        return str_or(strmap_get(&op->params.source, publish_options[0]), "");
}

static int check_target(Operation *op, Error *err)
{
        const Publish *p = op->target ? publish_find(op->manager, op->target) : NULL;

        if (!p)
                return 0;
        if (p->volume != op->volume)
                return error_set(err, ERROR_CONFLICT, EBUSY, "Target %s holds another volume, %s, not %s",
                                 op->target, p->volume->identity, op->volume->identity);
        if (p->sub_dir && strcmp(p->sub_dir, requested_sub_dir(op)) != 0)
                return error_set(err, ERROR_CONFLICT, EBUSY, "Target %s holds subDir '%s' of the volume, asked for is '%s'",
                                 op->target, p->sub_dir, requested_sub_dir(op));
        if (p->read_only != op->params.read_only)
                return error_set(err, ERROR_CONFLICT, EBUSY, "Target %s is mounted %s, asked for is %s",
                                 op->target, p->read_only ? "read-only" : "read-write",
                                 op->params.read_only ? "read-only" : "read-write");
        return 0;
}

static int check_stage(const Operation *op, Error *err)
{
        const Volume *v = op->volume;
        const char *fs_type = str_or(op->params.fs_type, "");

        if (v->shared)
                return 0; /* all that the stage depends on is in its identity */
        if (v->stage_read_only && !op->params.read_only)
                return error_set(err, ERROR_READ_ONLY_STAGE, EROFS,
                                 "Volume %s is staged read-only, asked for is read-write", v->key);
        if (*fs_type && v->fs_type && strcmp(fs_type, v->fs_type) != 0)
                return error_set(err, ERROR_CONFLICT, EBUSY,
                                 "Volume %s is staged as %s, asked for is fsType %s", v->key, v->fs_type,
                                 fs_type);
        if (!v->rebuilt && !strv_equal(op->params.mount_options, v->mount_options)) {
                STRV_FOREACH (o, op->params.mount_options)
                        if (!strv_contains(v->mount_options, *o))
                                return error_set(err, ERROR_CONFLICT, EBUSY,
                                                 "Volume %s is staged without mount option '%s', which is "
                                                 "asked for",
                                                 v->key, *o);
                return error_set(err, ERROR_CONFLICT, EBUSY,
                                 "Volume %s is staged with other mount options than asked for", v->key);
        }
        return 0;
}

/*
 * What Resolve left to attaching is not found out where somebody else has attached the volume already, perhaps since: nobody gains another's rights by
 * naming the same source.
 */
static bool must_prove(Operation *op)
{
        bool must = op->unproven && op->volume->state != VOLUME_ABSENT;

        op->unproven = false;
        return must;
}

static int check_source(const Operation *op, Error *err)
{
        if (str_equal(op->key, op->volume->key))
                return 0;
        return error_set(err, ERROR_DEVICE_CHANGED, ESTALE, "The source of volume %s leads to another one now, %s", op->volume->key,
                         str_or(op->identity, "?"));
}

/* ---- attach and stage ---- */

/* As it is called now: the record may have the name of an image that is gone and whose inode number this one was given. */
static int take_source(Operation *op)
{
        Volume *v = op->volume;

        strmap_done(&v->source);
        int r = strmap_copy(&op->params.source, &v->source);
        for (size_t i = 0; r >= 0 && v->shared && i < ELEMENTSOF(publish_options); i++)
                strmap_remove(&v->source, publish_options[i]);
        return r;
}

static int take_device(Operation *op)
{
        op->volume->read_only = op->params.read_only && !op->volume->shared;
        op->attach_begun = true;
        return take_source(op);
}

static int take_stage(Operation *op)
{
        Volume *v = op->volume;
        char **options = NULL;
        int r = strv_copy(op->params.mount_options, &options);

        if (r < 0)
                return r;
        strv_free(v->mount_options);
        v->mount_options = options;
        v->stage_read_only = op->params.read_only && !v->shared;
        op->stage_begun = true;
        v->rebuilt = false;
        return str_replace(&v->fs_type, str_or(op->params.fs_type, NULL));
}

/* What was rebuilt from the kernel is as the first request says that asks for it: a repeat of the one that had made it. */
static int take_rebuilt(Operation *op, Error *err)
{
        Volume *v = op->volume;
        _cleanup_strv_ char **options = NULL;

        if (!v->rebuilt)
                return 0;
        if (strv_copy(op->params.mount_options, &options) < 0 || take_source(op) < 0)
                return error_oom(err);
        strv_free(v->mount_options);
        v->mount_options = TAKE_PTR(options);
        v->rebuilt = false;
        return 0;
}

static void begin_attach(Operation *op)
{
        if (take_device(op) < 0)
                FAIL(op, ERROR_INTERNAL, ENOMEM, "Out of memory");
        else
                operation_run_step(op, STEP_ATTACH);
}

/* The answer of STAGE may ask for something to be done first; then it is called again, once. */
static void begin_stage(Operation *op)
{
        const char *next = op->step == STEP_STAGE ? op->result.next : NULL;

        if (next && op->prepared) {
                FAIL(op, ERROR_FORMAT_FAILED, EIO, "After it was prepared, volume %s still asks for %s",
                     op->volume->key, next);
                return;
        }
        if (next) {
                Step step = strcmp(next, "format") == 0 ? STEP_FORMAT
                            : strcmp(next, "fsck") == 0 ? STEP_FSCK
                                                        : STEP_NONE;
                if (step == STEP_NONE)
                        FAIL(op, ERROR_INTERNAL, EBADMSG, "The mounter asks for an unknown step '%s'", next);
                else
                        operation_run_step(op, step);
                return;
        }
        /* what is not attached is attached by the same call: a mounter's wake-up costs as much as attaching */
        bool attached = op->volume->state == VOLUME_ATTACHED || op->volume->state == VOLUME_STAGING;
        if ((attached ? take_source(op) : take_device(op)) < 0 || take_stage(op) < 0)
                FAIL(op, ERROR_INTERNAL, ENOMEM, "Out of memory");
        else
                operation_run_step(op, STEP_STAGE);
}

/* ---- publish ---- */

static int publish_prepare(Operation *op)
{
        Publish *p = publish_find(op->manager, op->target);
        int r;

        if (p)
                return 0; /* a repeat: publish looks whether it still is so */
        r = publish_new(op->volume, op->target, &p);
        if (r < 0)
                return r;
        op->publish_begun = true;
        p->read_only = op->params.read_only;
        if (op->volume->shared && (r = str_replace(&p->sub_dir, requested_sub_dir(op))) < 0)
                return r;
        if ((r = str_replace(&p->pod_name, op->params.pod_name)) < 0 ||
            (r = str_replace(&p->pod_namespace, op->params.pod_namespace)) < 0)
                return r;
        return str_replace(&p->pod_uid, op->params.pod_uid);
}

static void advance_publish(Operation *op)
{
        if (op->done) {
                if (op->publish_begun && !operation_is_awaited(op)) {
                        /* answered with an error, or the caller died: it must not find the target mounted later */
                        op->done = false;
                        op->undoing = true;
                        operation_undo(op);
                        return;
                }
                operation_finish(op);
                return;
        }
        if (!operation_is_awaited(op)) {
                operation_finish(op); /* staged, never published: lingers for a repeat */
                return;
        }
        if (publish_prepare(op) < 0)
                FAIL(op, ERROR_INTERNAL, ENOMEM, "Out of memory");
        else
                operation_run_step(op, STEP_PUBLISH);
}

/*
 * What is at a target is stale, and is replaced as a repeat of its Mount would do it. Nothing is made for it on the storage, and nothing
 * is begun if the target was unmounted meanwhile.
 */
void operation_advance_republish(Operation *op)
{
        const Publish *p = publish_find(op->manager, op->target);

        if (op->done)
                operation_republish_next(op);
        if (op->done || !p || !p->sub_dir || (op->volume && (p->volume != op->volume || op->volume->state != VOLUME_STAGED))) {
                operation_finish(op);
                return;
        }
        if (!op->volume) {
                operation_lock_volume(op, p->volume);
                return;
        }
        strmap_done(&op->params.source);
        op->params.read_only = p->read_only;
        if (strmap_copy(&op->volume->source, &op->params.source) < 0 ||
            (*p->sub_dir && strmap_set(&op->params.source, publish_options[0], p->sub_dir) < 0))
                FAIL(op, ERROR_INTERNAL, ENOMEM, "Out of memory");
        else
                operation_run_step(op, STEP_PUBLISH);
}

int operation_begin_republish(Manager *m, const char *target)
{
        return operation_is_pending(m, target) ? 0 : operation_begin_at(m, OPERATION_REPUBLISH, target);
}

/*
 * A plan begins one of a volume, since it leaves alone what is at work, and would begin with the same one again.
 * In the order of the list, so that each has its turn and there is an end; not after one that is stale still, whose
 * stage is too, or whose mounter died.
 */
void operation_republish_next(const Operation *op)
{
        const Publish *p = op->volume ? publish_find(op->manager, op->target) : NULL;

        if (!p || p->volume != op->volume || p->stale)
                return;
        while ((p = TAILQ_NEXT(p, of_volume)))
                if (p->stale && p->sub_dir && !operation_is_pending(op->manager, p->target)) {
                        if (operation_begin_republish(op->manager, p->target) < 0)
                                log_debug("Out of memory: target %s is mounted anew later", p->target);
                        return;
                }
}

static void advance_attach(Operation *op)
{
        Volume *v = op->volume;

        if (!operation_is_awaited(op)) {
                operation_finish(op); /* a hold in nobody's name would never be dropped; what is attached lingers for a repeat */
                return;
        }
        if (!strv_contains(v->attachments, op->params.volume_name) &&
            strv_append(&v->attachments, op->params.volume_name) < 0) {
                FAIL(op, ERROR_INTERNAL, ENOMEM, "Out of memory");
                return;
        }
        op->done = true;
        operation_finish(op);
}

/* A volumeName is all that Detach brings, so it may stand for one volume only. */
static int check_volume_name(const Operation *op, Error *err)
{
        const Volume *other = op->type == OPERATION_ATTACH
                                              ? volume_find_by_attachment(op->manager, op->params.volume_name)
                                              : NULL;

        if (other && other != op->volume)
                return error_set(err, ERROR_CONFLICT, EBUSY, "Volume name '%s' is attached to another volume, %s",
                                 op->params.volume_name, other->identity);
        return 0;
}

/* The device or the stage is read-only, the request is not, and nobody needs it as it is. */
static bool must_reattach(const Operation *op)
{
        const Volume *v = op->volume;

        return !op->params.read_only && TAILQ_EMPTY(&v->publishes) &&
               (v->state == VOLUME_STAGED ? v->stage_read_only
                                          : v->read_only && strv_length(v->attachments) == 0);
}

/* Its mount is beyond use, and only a name holds it, or a repeat's hope. */
static bool must_stage_anew(const Operation *op)
{
        return op->volume->health == VOLUME_HEALTH_CORRUPTED && TAILQ_EMPTY(&op->volume->publishes);
}

void operation_advance_mount(Operation *op)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Volume *v = op->volume;

        if (!v) {
                advance_resolve(op);
                return;
        }
        if (must_prove(op)) {
                operation_run_step(op, STEP_RESOLVE);
                return;
        }
        if (check_source(op, &err) < 0 || check_target(op, &err) < 0 || check_volume_name(op, &err) < 0) {
                fail(op, &err);
                return;
        }
        switch (v->state) {
        case VOLUME_ABSENT:
        case VOLUME_ATTACHING:
        case VOLUME_DETACHING:
                if (op->type == OPERATION_ATTACH)
                        begin_attach(op);
                else
                        begin_stage(op);
                return;
        case VOLUME_ATTACHED:
                if (op->type == OPERATION_ATTACH)
                        advance_attach(op);
                else if (must_reattach(op))
                        operation_run_step(op, STEP_DETACH);
                else
                        begin_stage(op);
                return;
        case VOLUME_STAGING:
        case VOLUME_UNSTAGING:
                /* somebody else's, left half way: with which options, nobody knows */
                if (op->stage_begun)
                        begin_stage(op);
                else
                        operation_run_step(op, STEP_UNSTAGE);
                return;
        case VOLUME_STAGED:
                if (op->type == OPERATION_ATTACH)
                        advance_attach(op);
                else if (must_reattach(op) || must_stage_anew(op))
                        operation_run_step(op, STEP_UNSTAGE);
                else if (check_stage(op, &err) >= 0 && take_rebuilt(op, &err) >= 0)
                        advance_publish(op);
                else if (TAILQ_EMPTY(&v->publishes))
                        operation_run_step(op, STEP_UNSTAGE); /* it only lingers: nobody needs it as it is */
                else
                        fail(op, &err);
                return;
        case _VOLUME_STATE_MAX:
        case _VOLUME_STATE_INVALID:
                break;
        }
        FAIL(op, ERROR_INTERNAL, EINVAL, "Volume %s is in an impossible state", v->key);
}

void operation_undo(Operation *op)
{
        Publish *p = op->target && op->volume ? publish_find(op->manager, op->target) : NULL;

        if (!op->volume || op->type == OPERATION_UNMOUNT || op->type == OPERATION_EXPAND ||
            op->type == OPERATION_STATS) {
                operation_finish(op);
                return;
        }
        if (op->publish_begun && p && !op->done) {
                operation_run_step(op, STEP_UNPUBLISH);
                return;
        }
        if (op->attach_begun || op->stage_begun) {
                /* in a mount that only came too late, what is staged may wait for the repeat */
                if (!error_is_set(&op->error)) {
                        operation_finish(op);
                        return;
                }
                operation_release_volume(op);
                return;
        }
        operation_finish(op);
}
