/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Formatting: the only place in berth that lets an mkfs loose on a device that it did not make itself. Runs in
 * mounters as a step that must finish; may block for long.
 *
 *      lock → look → (no intent: never formatted before, proof of blankness) → nothing changed since → look again →
 *      (no intent: intent, look once more) → mkfs → look → memory → intent removed
 *      (what takes long between "nothing changed" and mkfs has both asked once more)
 *
 * Invariants:
 * - One descriptor carries the lock from the first look to the end of mkfs, and each look goes through it. mkfs
 *   itself is no guard: mke2fs without a terminal overwrites what is there without a word.
 * - Without an intent every allocated byte has been read and was zero, and the storage says that nothing was
 *   written since. With one (for this very storage, this size and this type) what is there is the torso of our own mkfs, as
 *   far as libblkid does not know better: mke2fs and mkfs.btrfs write the superblock that libblkid knows last,
 *   after everything else; mkfs.xfs writes it early with sb_inprogress set, and clears that last.
 * - So an intent must not be there unless mkfs begins: others' data on what was never more than proved blank would pass for a torso. It is
 *   written last of all that may fail or take its time, and taken back, as far as the storage answers, where nothing came of it.
 * - The memory is written before the intent goes, and the intent is gone before anybody mounts. A crash between any two
 *   steps leaves a state from which the same request goes on.
 */

#include "mounters/block/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include <time.h>

#include "base/fault.h"
#include "base/strmap.h"
#include "protocol/client.h"

#define ANSWER_OLD_USEC UINT64_C(5000000)
#define SETTLE_MAX 3U

/* What a look at the device, together with the intent, allows. */
typedef enum FormatPlan {
        PLAN_BEGIN,    /* nothing is there and no intent fits: needs the proof */
        PLAN_AGAIN,    /* an intent fits and nothing that libblkid knows is there: the torso of our mkfs */
        PLAN_FORCE,    /* an intent fits and its XFS is there, unfinished */
        PLAN_FINISHED, /* the file system is there, complete */
        _PLAN_MAX,
        _PLAN_INVALID = -EINVAL,
} FormatPlan;

typedef struct Format {
        Mounter *m;
        const MounterVolume *v;
        const BlockStorage *s;
        const char *fs_type;
        int fd;
        uint64_t size;
        FormatIntent intent;
        bool has_intent;
        bool proved; /* it was proved blank a moment ago */
        bool fresh;  /* and the intent is this call's */
        uint64_t asked_usec; /* when the storage was last asked whether anything has changed */
        char *uuid; /* of what is or will be there */
} Format;

static void format_done(Format *f)
{
        f->fd = close_fd(f->fd);
        format_intent_done(&f->intent);
        free(f->uuid);
}

/* The intent is for what is asked now; otherwise the device has to be proved blank anew. */
static bool format_intent_fits(const Format *f)
{
        return f->has_intent && f->intent.size == f->size && str_equal(f->intent.fs_type, f->fs_type);
}

/* Something is on the device: is it ours? */
static int format_judge_found(Format *f, const ProbeResult *p, FormatPlan *ret, Error *err)
{
        bool good = p->outcome == PROBE_EXPECTED && !p->bad_checksum && p->uuid;

        if (!good || (f->has_intent && !str_equal(p->uuid, f->intent.uuid))) {
                int r;
                if (good) /* the type fits, but it is not what we began */
                        r = error_set(err, ERROR_NOT_BLANK, EEXIST, "%s holds another %s (UUID %s)", f->v->device,
                                      p->type, p->uuid);
                else
                        r = probe_refuse(f->fd, f->fs_type, p, err);
                if (f->proved) {
                        err->code = ERROR_DEVICE_CHANGED;
                        error_prefix(err, "It was written to while it was examined");
                } else if (f->has_intent) {
                        /* Not FILESYSTEM_MISMATCH, whose remedy would be wrong: it stays unfinished for any type. */
                        if (err->code == ERROR_FILESYSTEM_MISMATCH)
                                err->code = ERROR_NOT_BLANK;
                        error_prefix(err,
                                     "A formatting as %s (UUID %s) was begun and interrupted, and something "
                                     "else was "
                                     "put there since; if that is to stay, run: berthctl forget --formatted "
                                     "VOLUME",
                                     f->intent.fs_type, f->intent.uuid);
                }
                return r;
        }

        int r = 0;
        if (f->has_intent && str_equal(f->fs_type, "xfs"))
                r = probe_xfs_in_progress(f->fd, err);
        if (r < 0)
                return r;
        if (r > 0 && !format_intent_fits(f))
                return error_set(err, ERROR_NOT_BLANK, EEXIST,
                                 "%s holds an unfinished xfs of our own, but had %" PRIu64
                                 " bytes then and has %" PRIu64 " now",
                                 f->v->device, f->intent.size, f->size);
        if (str_replace(&f->uuid, p->uuid) < 0)
                return error_oom(err);
        *ret = r > 0 ? PLAN_FORCE : PLAN_FINISHED;
        return 0;
}

static int format_look(Format *f, FormatPlan *ret, Error *err)
{
        _cleanup_probe_ ProbeResult p = {};

        int r = block_probe_full(f->fd, f->fs_type, &p, err);
        if (r < 0)
                return r;
        if (p.outcome != PROBE_NOTHING)
                return format_judge_found(f, &p, ret, err);
        *ret = format_intent_fits(f) ? PLAN_AGAIN : PLAN_BEGIN;
        return 0;
}

static int format_version(Format *f, char **ret, Error *err)
{
        /*
         * Pages that are dirty in the device's cache have not touched the storage yet, and so have not changed its
         * version: write them first.
         */
        int r = device_drop_cache(f->fd, err);
        if (r < 0 || !f->s->verify)
                return r;
        return f->s->verify(f->s->userdata, f->size, ret, err);
}

/*
 * The version may be a time stamp taken from the kernel's coarse clock: two writes in one tick leave the same
 * stamp. So let the tick end in which the version was read: whatever is written from now on gets a later one.
 */
static void clock_tick_wait(void)
{
        struct timespec start, now, pause = { .tv_nsec = 500L * 1000 };

        clock_gettime(CLOCK_REALTIME_COARSE, &start);
        do {
                (void) nanosleep(&pause, NULL);
                clock_gettime(CLOCK_REALTIME_COARSE, &now);
        } while (now.tv_sec == start.tv_sec && now.tv_nsec == start.tv_nsec);
}

/* mkfs takes what the device has then: more than that was not proved blank. */
static int format_same_size(Format *f, Error *err)
{
        uint64_t size;

        int r = device_size(f->fd, &size, err);
        if (r >= 0 && size != f->size)
                r = error_set(err, ERROR_DEVICE_CHANGED, EAGAIN,
                              "The size of %s changed from %" PRIu64 " to %" PRIu64 " bytes while it was examined",
                              f->v->device, f->size, size);
        return r;
}

static int format_unchanged(Format *f, const char *version, Error *err)
{
        _cleanup_free_ char *now = NULL;

        f->asked_usec = now_boottime_usec();
        int r = format_version(f, &now, err);
        if (r >= 0)
                r = format_same_size(f, err);
        if (r < 0)
                return r;
        if (!str_equal(version, now))
                return error_set(err, ERROR_DEVICE_CHANGED, EAGAIN,
                                 "The storage of %s was changed while it was examined", f->v->device);
        return 0;
}

/* Chooses the UUID and writes it down. Durable when it returns. */
static int format_write_intent(Format *f, Error *err)
{
        char uuid[37];

        block_new_uuid(uuid);
        format_intent_done(&f->intent);
        f->has_intent = false;
        if (str_replace(&f->intent.uuid, uuid) < 0 || str_replace(&f->intent.fs_type, f->fs_type) < 0 ||
            str_replace(&f->uuid, uuid) < 0)
                return error_oom(err);
        f->intent.size = f->size;
        int r = intent_write(f->m, f->s, f->v->identity, &f->intent, err);
        FAULT_POINT("format.after-intent");
        if (r < 0) {
                /* what was not answered may be done yet, and this after it */
                (void) intent_remove(f->m, f->s, NULL);
                return r;
        }
        f->has_intent = true;
        f->fresh = true;
        return 0;
}

/* What is seen now is what was seen before; last its size, so that nothing stands between that and mkfs. */
static int format_look_again(Format *f, FormatPlan plan, Error *err)
{
        FormatPlan now = _PLAN_INVALID;
        int r = format_look(f, &now, err);

        if (r >= 0 && now != plan)
                r = error_set(err, ERROR_DEVICE_CHANGED, EAGAIN, "What is on %s changed while it was examined",
                              f->v->device);
        return r < 0 ? r : format_same_size(f, err);
}

/*
 * What the storage said a while ago may not be so any more: a node that does not reach its OSDs for half a minute, which writing the intent and looking
 * through the device wait for, is no longer seen by others, and they take the image.
 */
static bool format_answer_is_old(const Format *f)
{
        return f->asked_usec == 0 || now_boottime_usec() - f->asked_usec > ANSWER_OLD_USEC;
}

/* Its version can show at any time what has happened meanwhile. */
static int format_settle(Format *f, FormatPlan plan, const char *version, Error *err)
{
        for (unsigned k = 0; k < SETTLE_MAX; k++) {
                int r = version || format_answer_is_old(f) ? format_unchanged(f, version, err) : 0;
                if (r >= 0)
                        r = format_look_again(f, plan, err);
                if (r < 0 || !format_answer_is_old(f))
                        return r;
        }
        return error_set(err, ERROR_TIMED_OUT, ETIMEDOUT, "The storage of %s answers so slowly that others may have taken it meanwhile", f->v->device);
}

/*
 * The storage is asked before the intent is written, which may take long and fail, and after it not unless it did take long, or the storage has a version,
 * which a node tells by itself.
 */
static int format_prepare(Format *f, FormatPlan plan, const char *version, Error *err)
{
        int r = format_settle(f, plan, version, err);

        if (r < 0 || plan != PLAN_BEGIN)
                return r;
        r = format_write_intent(f, err);
        /* now the intent fits, so the look that sees the same as before says AGAIN */
        return r < 0 ? r : format_settle(f, PLAN_AGAIN, version, err);
}

/*
 * The last look, and mkfs. Where nothing has been written after all, the intent of this very call is taken back, so that the
 * next one proves blankness again.
 */
static int format_make(Format *f, FormatPlan plan, const char *version, Error *err)
{
        bool untouched = true; /* by mkfs */
        int r = format_prepare(f, plan, version, err);

        if (r >= 0) {
                r = block_mkfs(f->m, f->v->device, f->fd, f->fs_type, f->intent.uuid, plan == PLAN_FORCE, err);
                if (r >= 0)
                        return 0;
                /* Once mkfs may have begun to write, the intent must stay. */
                if (err->code != ERROR_TOOL_MISSING && (!version || format_unchanged(f, version, NULL) < 0))
                        untouched = false;
        }
        if (f->fresh && untouched)
                (void) intent_remove(f->m, f->s, NULL);
        return r;
}

/* mkfs said success: see for ourselves. */
static int format_confirm(Format *f, Error *err)
{
        FormatPlan now = _PLAN_INVALID;

        int r = format_look(f, &now, err);
        if (r >= 0 && now != PLAN_FINISHED)
                r = error_set(err, ERROR_FORMAT_FAILED, EIO,
                              "mkfs reported success, but no %s with UUID %s is on %s", f->fs_type,
                              f->intent.uuid, f->v->device);
        return r;
}

static int format_finish(Format *f, MounterResult *r, Error *err)
{
        int q = 0;

        if (f->has_intent) {
                q = block_remember(f->m, f->s, f->v->identity, f->fs_type, f->uuid, f->size, err);
                if (q >= 0)
                        q = intent_remove(f->m, f->s, err);
        }
        if (q >= 0 && (str_replace(&r->uuid, f->uuid) < 0 || str_replace(&r->fs_type, f->fs_type) < 0))
                q = error_oom(err);
        return q;
}

static int format_open(Format *f, Error *err)
{
        uint64_t minimum = block_minimum_size(f->fs_type);

        int r = device_open(f->v, O_RDWR, &f->fd, err);
        if (r >= 0)
                r = device_lock(f->fd, err);
        if (r >= 0)
                r = device_size(f->fd, &f->size, err);
        if (r >= 0)
                r = intent_read(f->m, f->s, &f->intent, err);
        if (r < 0)
                return r;
        f->has_intent = r > 0;
        if (f->size < minimum)
                return error_set(err, ERROR_TOO_SMALL, ENOSPC,
                                 "%s has %" PRIu64 " bytes, and the smallest %s has %" PRIu64, f->v->device,
                                 f->size, f->fs_type, minimum);
        return 0;
}

int block_format(Mounter *m, const MounterVolume *v, const BlockStorage *s, MounterResult *r, Error *err)
{
        _cleanup_(format_done) Format f = { .m = m, .v = v, .s = s, .fd = -EBADF };
        _cleanup_error_ Error own = ERROR_INIT;
        _cleanup_free_ char *version = NULL;
        FormatPlan plan = _PLAN_INVALID;

        if (!err) /* the code is branched on */
                err = &own;
        f.fs_type = block_fs_type(v->fs_type, err);
        if (!f.fs_type)
                return -EINVAL;
        if (v->read_only)
                return error_set(err, ERROR_NOT_FORMATTED, EROFS, "%s would have to be formatted", v->device);
        int q = format_open(&f, err);
        if (q >= 0)
                q = format_look(&f, &plan, err);
        if (q < 0)
                return q;

        if (plan != PLAN_FINISHED) {
                /* Also with an intent: the memory is written only once mkfs was complete. */
                q = block_was_formatted(m, s, err);
                if (q != 0)
                        return q < 0 ? q : memory_refuse(m, s, f.fd, err);
                q = format_version(&f, &version, err);
                if (q < 0)
                        return q;
                clock_tick_wait();
                if (plan == PLAN_BEGIN) {
                        q = block_prove_blank(m, f.fd, f.size, s, err);
                        FAULT_POINT("format.after-proof");
                        if (q < 0)
                                return q;
                        f.proved = true;
                }
                q = format_make(&f, plan, version, err);
                if (q >= 0) {
                        f.proved = f.fresh = false;
                        q = format_confirm(&f, err);
                        FAULT_POINT("format.after-confirm");
                }
                if (q < 0)
                        return q;
        }
        return format_finish(&f, r, err);
}
