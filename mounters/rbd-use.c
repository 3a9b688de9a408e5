/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * One writer, and fencing. Runs in the rbd mounter; asks the cluster, within its time limits.
 *
 * Invariants: who does not answer is not free; what is done about whom is decided about all before anything is done, so that nobody is fenced for an
 * image that is refused in the end; nobody is fenced unless the configuration or a person at the command line says so, but a dead owner of the exclusive
 * lock, and never a living client of this node; a fenced client is blocklisted before its lock is broken, so that it cannot write any more when somebody
 * else begins, and for years: nothing but its own end makes it harmless. A lock is therefore taken from a dead owner here, before the image is mapped:
 * the kernel and librbd would blocklist that one too, but for an hour, and the cluster keeps the first entry as it is.
 *
 * The note: who writes an image without exclusive-lock, for those who come when its watch has expired. It may have gone in peace: such a one is fenced
 * only where its client served this image alone, since a shared one may be serving others, in good health. Invariant: a map that may be written was
 * noted before the first write, by replacing exactly the note that its claim had read, and afterwards nobody else was seen, and the note was still its
 * own. So whoever replaces a note has read whom it names, has seen that one watch no more, and has fenced it as Fence= says; who was frozen anywhere
 * between claim and the last look and finds the note to be another's gives its map up and writes neither image nor note. Each note is unlike all others,
 * so none is taken for a former one. A map that is given up puts the former note back. What no note helps against is a writer that freezes when all this is
 * done, and is not fenced (Fence=never, or a client that serves other images too).
 */

#include "mounters/rbd-use.h"

#include <jansson.h>
#include <string.h>
#include <systemd/sd-id128.h>

#include "base/fault.h"
#include "protocol/messages.h"

#define HOLDER "holder"
/*
 * A node that was frozen may come back after a holiday; the cluster's own default is an hour. Not by rbd_blocklist_expire_seconds: librbd of Ceph 16 sends
 * what the monitors refuse.
 */
#define FENCE_SECONDS (5U * 365U * 24U * 3600U)

RbdFence rbd_fence_from_string(const char *s)
{
        static const char *const names[_RBD_FENCE_MAX] = { "never", "expired", "force" };

        for (RbdFence i = 0; i < _RBD_FENCE_MAX; i++)
                if (strcmp(names[i], s) == 0)
                        return i;
        return _RBD_FENCE_INVALID;
}

bool rbd_address_host(const char *address, char *buffer, size_t size)
{
        const char *slash = strrchr(address, '/'), *start = address, *end;

        if (!slash)
                return false;
        if (*start == '[') {
                start++;
                end = strchr(start, ']');
        } else
                end = memchr(start, ':', (size_t) (slash - start));
        if (!end || end == start || (size_t) (end - start) >= size)
                return false;
        memcpy(buffer, start, (size_t) (end - start));
        buffer[end - start] = 0;
        return true;
}

int rbd_use_others(char *const *watchers, char *const *own, char ***ret)
{
        _cleanup_strv_ char **others = NULL;

        STRV_FOREACH (w, watchers)
                if (!strv_contains(own, *w) && strv_append(&others, *w) < 0)
                        return -ENOMEM;
        *ret = TAKE_PTR(others);
        return 0;
}

/* For texts; NULL if out of memory. */
static char *join(char *const *addresses)
{
        char *list = NULL;

        STRV_FOREACH (a, addresses) {
                char *longer = NULL;
                if (asprintf(&longer, "%s%s%s", list ? list : "", list ? ", " : "", *a) < 0)
                        longer = NULL;
                free(list);
                list = longer;
                if (!list)
                        break;
        }
        return list;
}

static int in_use(const RbdImage *i, char *const *others, Error *err)
{
        _cleanup_free_ char *list = join(others);

        return error_set(err, ERROR_IN_USE, EBUSY, "Image %s is in use by %s (a client that died is listed for another half minute)",
                         i->spec, str_or(list, "somebody"));
}

/* --- the note of who wrote last --- */

typedef struct Note {
        char *text; /* as it is with the image */
        char *address, *node;
        bool alone;
} Note;

static void note_done(Note *n)
{
        free(n->text);
        free(n->address);
        free(n->node);
        *n = (Note) {};
}
#define _cleanup_note_ _cleanup_(note_done)

/* ret->address stays NULL if it cannot be read. */
static int note_parse(const char *text, Note *ret, Error *err)
{
        json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        const char *address = json_string_value(json_object_get(j, "address"));
        char host[64];
        int r = 0;

        if (address && rbd_address_host(address, host, sizeof(host)) &&
            (str_replace(&ret->address, address) < 0 || str_replace(&ret->node, json_string_value(json_object_get(j, "node"))) < 0))
                r = error_oom(err);
        ret->alone = json_is_true(json_object_get(j, "alone"));
        json_decref(j);
        return r;
}

/* ret->text stays NULL if there is none. */
static int note_read(RbdImage *i, Note *ret, Error *err)
{
        int r = rbd_image_keep_read(i, HOLDER, &ret->text, err);

        return r <= 0 ? r : note_parse(ret->text, ret, err);
}

/* Unlike any other, also where a client that serves several images maps this one once more: who has read the former has not read this one. */
static int note_format(const RbdNoting *n, char **ret, Error *err)
{
        char map[SD_ID128_STRING_MAX];
        sd_id128_t id;
        int r = sd_id128_randomize(&id);
        json_t *j = r < 0 ? NULL : json_pack("{s:i, s:s, s:s, s:s, s:b}", "version", 1, "map", sd_id128_to_string(id, map), "address",
                                             n->device->address, "node", n->node, "alone", (int) n->device->alone);

        *ret = j ? json_dumps(j, JSON_SORT_KEYS) : NULL;
        json_decref(j);
        return *ret ? 0 : error_oom(err);
}

/* --- fencing --- */

/* All that the cluster knows of an image's users, asked before anything is done about any of them. The lock is looked at before the watchers. */
typedef struct Users {
        RbdLocker locker;
        char **watchers, **others; /* others: without this node's own */
        Note note;
} Users;

static void users_done(Users *u)
{
        rbd_locker_done(&u->locker);
        strv_free(u->watchers);
        strv_free(u->others);
        note_done(&u->note);
        *u = (Users) {};
}
#define _cleanup_users_ _cleanup_(users_done)

static int users_look(RbdImage *i, char *const *own, Users *u, Error *err)
{
        int r = rbd_image_locker(i, &u->locker, err);

        if (r >= 0)
                r = note_read(i, &u->note, err);
        if (r >= 0)
                r = rbd_image_watchers(i, &u->watchers, err);
        if (r >= 0 && rbd_use_others(u->watchers, own, &u->others) < 0)
                r = error_oom(err);
        return r;
}

/* A client that died on this very node must not take the node's living ones with it: they have the same address but another nonce. */
static bool is_of_this_node(const char *address, char *const *own)
{
        char host[64], other[64];

        if (!rbd_address_host(address, host, sizeof(host)))
                return true;
        STRV_FOREACH (o, own)
                if (rbd_address_host(*o, other, sizeof(other)) && strcmp(host, other) == 0)
                        return true;
        return false;
}

static int fence_address(RbdImage *i, const char *address, const char *why, Error *err)
{
        char copy[128];

        snprintf(copy, sizeof(copy), "%s", address);
        FAULT_POINT("rbd.before-fence");
        int r = rados_blocklist_add(i->cluster->rados, copy, FENCE_SECONDS);
        FAULT_POINT("rbd.after-fence");
        if (r < 0)
                return rbd_request_failed(i->source, r, ERROR_ATTACH_FAILED, "Fencing the former holder", err);
        log_event(LOG_WARNING, EVENT_FENCED, "Image %s: client %s was fenced (blocklisted): %s", i->spec, address, why);
        return 0;
}

/* The lock of a client that is fenced now. */
static int fence_lock(RbdImage *i, const RbdLocker *l, Error *err)
{
        int r = rbd_image_break_lock(i, l, err);

        if (r >= 0)
                log_warning("Image %s: the lock of %s at %s was broken", i->spec, l->client, l->address);
        return r;
}

/*
 * A client watches before it takes the lock, and gives the lock back before it ceases to watch: who had the lock, was not seen after that, and has it
 * still, is dead.
 */
static int owner_is_dead(RbdImage *i, const Users *u, Error *err)
{
        _cleanup_rbd_locker_ RbdLocker now = {};

        if (!u->locker.address || strv_contains(u->watchers, u->locker.address))
                return 0;
        int r = rbd_image_locker(i, &now, err);
        return r < 0 ? r : str_equal(now.client, u->locker.client) && str_equal(now.cookie, u->locker.cookie);
}

/* Who wrote last and is seen no more is dead, cut off, or has gone in peace: in the last case it does no harm to fence it. */
static bool note_is_fenceable(const RbdImage *i, const Note *n, char *const *own)
{
        if (!n->address || is_of_this_node(n->address, own))
                return false;
        if (!n->alone)
                log_warning("Image %s: client %s of node %s wrote it last and does not watch it any more; it is not fenced, since it may serve "
                            "other images (it was mapped with Fence=never there)", i->spec, n->address, str_or(n->node, "?"));
        return n->alone;
}

/* What a claim does about whom, beside the watchers: decided about all of them before anything is done. */
typedef struct Plan {
        bool watchers, former, owner, lock;
} Plan;

/* `rbd lock add` is a person's or another program's word that the image is taken; the lock of the feature is "auto …". */
static bool lock_is_by_hand(const RbdLocker *l)
{
        return l->cookie && strncmp(l->cookie, "auto ", 5) != 0;
}

static int plan_check(const RbdImage *i, RbdFence fence, const Users *u, char *const *own, Error *err)
{
        if (u->others && fence != RBD_FENCE_FORCE)
                return in_use(i, u->others, err);
        STRV_FOREACH (o, u->others)
                if (is_of_this_node(*o, own))
                        return in_use(i, u->others, err);
        if (lock_is_by_hand(&u->locker) && (fence == RBD_FENCE_NEVER || is_of_this_node(str_or(u->locker.address, ""), own)))
                return error_set(err, ERROR_IN_USE, EBUSY, "Image %s is locked by %s at %s (rbd lock ls %s)", i->spec, u->locker.client,
                                 str_or(u->locker.address, "?"), i->spec);
        return 0;
}

/*
 * A dead owner of the lock is fenced whatever Fence= says: the kernel or librbd would do so in taking it over. Of a living client of this node, whose lock
 * was left by an unmap that failed, the lock alone is taken: it does not have the image any more, and others, which it may serve, would be fenced with it.
 * Its watch may be there for a while yet. The kernel, not finding that watch any more, would blocklist its own client, and every volume of the node with it.
 */
static int plan_make(RbdImage *i, RbdFence fence, const Users *u, char *const *own, Plan *ret, Error *err)
{
        const char *owner = u->locker.address, *former = u->note.address;
        int r = plan_check(i, fence, u, own, err);
        Plan p = { .watchers = u->others };

        if (r < 0)
                return r;
        r = owner && strv_contains(own, owner) ? 1 : owner_is_dead(i, u, err);
        if (r < 0)
                return r;
        p.lock = r > 0 || (owner && strv_contains(u->others, owner));
        p.owner = r > 0 && !strv_contains(own, owner);
        p.former = fence != RBD_FENCE_NEVER && !(p.owner && str_equal(former, owner)) && !(former && strv_contains(u->others, former)) &&
                   note_is_fenceable(i, &u->note, own);
        *ret = p;
        return 0;
}

static int plan_execute(RbdImage *i, const Users *u, const Plan *p, Error *err)
{
        int r = 0;

        STRV_FOREACH (o, u->others)
                if (r >= 0 && p->watchers)
                        r = fence_address(i, *o, "Fence=force, and the image is wanted here", err);
        if (r >= 0 && p->former)
                r = fence_address(i, u->note.address, "it wrote the image last and does not watch it any more", err);
        if (r >= 0 && p->owner)
                r = fence_address(i, u->locker.address, "it holds the image's lock and does not watch it any more", err);
        return r >= 0 && p->lock ? fence_lock(i, &u->locker, err) : r;
}

/* --- claim and confirm --- */

static int others_watching(RbdImage *i, char *const *own, char ***ret, Error *err)
{
        _cleanup_strv_ char **watchers = NULL;
        int r = rbd_image_watchers(i, &watchers, err);

        if (r < 0)
                return r;
        return rbd_use_others(watchers, own, ret) < 0 ? error_oom(err) : 0;
}

int rbd_use_own_server(RbdImage *i, const char *self, char ***own, char **ret, Error *err)
{
        _cleanup_strv_ char **others = NULL, **here = NULL;
        char host[64], other[64];
        int r = others_watching(i, *own, &others, err);

        if (r < 0)
                return r;
        if (!rbd_address_host(self, host, sizeof(host)))
                return error_set(err, ERROR_INTERNAL, EINVAL, "'%s' is not the address of a client", self);
        STRV_FOREACH (o, others)
                if (rbd_address_host(*o, other, sizeof(other)) && strcmp(host, other) == 0 && strv_append(&here, *o) < 0)
                        return error_oom(err);
        if (!here)
                return error_set(err, ERROR_DEVICE_CHANGED, ESTALE, "rbd-nbd of this node (%s) does not have image %s open", host, i->spec);
        if (here[1])
                return in_use(i, others, err);
        if (strv_append(own, here[0]) < 0 || str_replace(ret, here[0]) < 0)
                return error_oom(err);
        return 0;
}

int rbd_use_claim(RbdImage *i, RbdFence fence, char *const *own, char **ret_noted, Error *err)
{
        _cleanup_users_ Users u = {};
        Plan p = {};
        int r = users_look(i, own, &u, err);

        if (r >= 0)
                r = plan_make(i, fence, &u, own, &p, err);
        if (r >= 0)
                r = plan_execute(i, &u, &p, err);
        if (r >= 0)
                *ret_noted = TAKE_PTR(u.note.text);
        return r;
}

int rbd_use_confirm(RbdImage *i, char *const *own, Error *err)
{
        _cleanup_strv_ char **others = NULL;
        int r = others_watching(i, own, &others, err);

        if (r < 0)
                return r;
        return others ? in_use(i, others, err) : 0;
}

/* --- writing the note --- */

static int taken(const RbdImage *i, const Note *n, Error *err)
{
        return error_set(err, ERROR_IN_USE, EBUSY, "Image %s was taken by client %s of node %s since it was mapped here", i->spec,
                         str_or(n->address, "?"), str_or(n->node, "?"));
}

int rbd_use_noted(RbdImage *i, char *const *own, char **ret_noted, Error *err)
{
        _cleanup_note_ Note note = {};
        int r = note_read(i, &note, err);

        if (r < 0)
                return r;
        if (note.address && !is_of_this_node(note.address, own))
                r = taken(i, &note, err);
        if (ret_noted)
                *ret_noted = TAKE_PTR(note.text);
        return r < 0 ? r : 0;
}

/* Whether it is this one still, after nobody else was seen. */
static int note_confirm(RbdImage *i, const RbdNoting *n, const char *text, Error *err)
{
        _cleanup_note_ Note now = {};
        int r = rbd_use_confirm(i, n->own, err);

        if (r >= 0)
                r = note_read(i, &now, err);
        return r < 0 || str_equal(now.text, text) ? r : taken(i, &now, err);
}

int rbd_use_note(RbdImage *i, const RbdNoting *n, Error *err)
{
        _cleanup_free_ char *text = NULL;
        int r = note_format(n, &text, err);

        if (r >= 0)
                r = rbd_image_keep_swap(i, HOLDER, n->before, text, err);
        if (r == 0) {
                _cleanup_note_ Note now = {};
                r = note_read(i, &now, err);
                return r < 0 ? r : taken(i, &now, err);
        }
        if (r < 0)
                return r;
        FAULT_POINT("rbd.noted");
        r = note_confirm(i, n, text, err);
        /* nothing was written by this map, and will not be: who wrote last is who was noted before, unless somebody has come since */
        if (r < 0)
                (void) rbd_image_keep_swap(i, HOLDER, text, n->before, NULL);
        return r < 0 ? r : 0;
}

/* --- by hand --- */

static int holder_add(char ***holders, const char *address, char *const *own, bool *ret_here, Error *err)
{
        if (is_of_this_node(address, own)) {
                *ret_here = true;
                return 0;
        }
        return strv_contains(*holders, address) || strv_append(holders, address) >= 0 ? 0 : error_oom(err);
}

/* Who has it open, whose lock it is, and who wrote it last, as far as that one's client served nothing else. */
static int holders_find(const Users *u, char *const *own, char ***holders, bool *ret_here, Error *err)
{
        int r = 0;

        STRV_FOREACH (w, u->watchers)
                if (r >= 0)
                        r = holder_add(holders, *w, own, ret_here, err);
        if (r >= 0 && u->locker.address)
                r = holder_add(holders, u->locker.address, own, ret_here, err);
        if (r >= 0 && u->note.address && u->note.alone && !is_of_this_node(u->note.address, own))
                r = holder_add(holders, u->note.address, own, ret_here, err);
        return r;
}

static int nobody_to_fence(const RbdImage *i, const Note *note, bool here, char *const *own, Error *err)
{
        if (here)
                return error_set(err, ERROR_NOTHING_TO_FENCE, EPERM,
                                 "Image %s is held by this node itself, which is never fenced; unmount it here", i->spec);
        if (note->address && !is_of_this_node(note->address, own))
                return error_set(err, ERROR_NOTHING_TO_FENCE, ENOENT,
                                 "Nobody holds image %s (any more). Client %s of node %s wrote it last, and may serve other images by now: if that "
                                 "node is dead, ceph osd blocklist add %s", i->spec, note->address, str_or(note->node, "?"), note->address);
        return error_set(err, ERROR_NOTHING_TO_FENCE, ENOENT, "Nobody holds image %s", i->spec);
}

int rbd_use_fence(RbdImage *i, char *const *own, char ***ret, Error *err)
{
        _cleanup_strv_ char **holders = NULL;
        _cleanup_users_ Users u = {};
        bool here = false;
        int r = users_look(i, own, &u, err);

        if (r >= 0)
                r = holders_find(&u, own, &holders, &here, err);
        if (r >= 0 && !holders)
                r = nobody_to_fence(i, &u.note, here, own, err);
        STRV_FOREACH (h, holders)
                if (r >= 0)
                        r = fence_address(i, *h, "by hand (berthctl fence)", err);
        if (r >= 0 && u.locker.address && strv_contains(holders, u.locker.address))
                r = fence_lock(i, &u.locker, err);
        if (r >= 0)
                *ret = TAKE_PTR(holders);
        return r;
}
