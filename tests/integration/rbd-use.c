/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Who else uses an RBD image, beside a real Ceph: writers elsewhere are seen and named, locks, the note of who wrote last, and fencing, by configuration and by
 * hand. The others are librbd's clients, of this process or of one that can be frozen.
 */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "mounters/rbd-use.h"
#include "rbd-node.h"

TestSuite(rbd_use, .init = ceph_setup, .fini = ceph_teardown, .timeout = 180);

/* --- one writer --- */

typedef struct Writer {
        Node node;
        rados_ioctx_t io;
        rbd_image_t image;
        char *address;
} Writer;

static void writer_start(Writer *w, const char *name)
{
        node_start(&w->node, name);
        cr_assert_eq(rados_ioctx_create(w->node.cluster->rados, "kube", &w->io), 0);
        cr_assert_eq(rbd_open(w->io, name, &w->image, NULL), 0);
        cr_assert_eq(rbd_write(w->image, 0, 5, "hello"), 5);
        cr_assert_eq(rbd_flush(w->image), 0);
        w->address = rbd_cluster_address(w->node.cluster);
        cr_assert_not_null(w->address);
}

static void writer_stop(Writer *w)
{
        (void) rbd_close(w->image);
        rados_ioctx_destroy(w->io);
        node_stop(&w->node);
        free(w->address);
}

static int claim(RbdImage *i, RbdFence fence, char *const *own, Error *err)
{
        _cleanup_free_ char *noted = NULL;

        return rbd_use_claim(i, fence, own, &noted, err);
}

static char *holder_read(RbdImage *i)
{
        _cleanup_error_ Error err = ERROR_INIT;
        char *text = NULL;

        cr_assert(rbd_image_keep_read(i, "holder", &text, &err) >= 0, "%s", err.text);
        return text;
}

/* As of a map whose claim has just been made. */
static int note(RbdImage *i, const RbdDevice *d, Error *err)
{
        _cleanup_free_ char *before = holder_read(i);
        char *own[] = { d->address, NULL };
        const RbdNoting n = { .device = d, .node = "node-a", .own = own, .before = before };

        return rbd_use_note(i, &n, err);
}

Test(rbd_use, a_writer_elsewhere_is_seen_and_named)
{
        static const char *const names[] = { "locked", "simple" };
        static const char *const features[] = { "layering,exclusive-lock", "layering" };

        for (size_t k = 0; k < 2; k++) {
                _cleanup_error_ Error err = ERROR_INIT;
                RbdImage i = RBD_IMAGE_INIT;
                Writer w;
                Node n;

                image_create(names[k], "16M", features[k]);
                node_start(&n, names[k]);
                image_open(&n, &i);
                cr_assert_eq(claim(&i, RBD_FENCE_NEVER, NULL, &err), 0, "nobody is there: %s", err.text);
                writer_start(&w, names[k]);
                cr_assert_lt(claim(&i, RBD_FENCE_NEVER, NULL, &err), 0);
                cr_assert_eq(err.code, ERROR_IN_USE);
                cr_assert(strstr(err.text, w.address), "'%s' does not name %s", err.text, w.address);
                cr_assert_lt(claim(&i, RBD_FENCE_EXPIRED, NULL, &err), 0, "who is alive is not fenced");
                cr_assert_lt(rbd_use_confirm(&i, NULL, &err), 0);

                char *own[] = { w.address, NULL };
                cr_assert_eq(claim(&i, RBD_FENCE_NEVER, own, &err), 0, "a client of this node: %s", err.text);
                writer_stop(&w);
                cr_assert_eq(claim(&i, RBD_FENCE_NEVER, NULL, &err), 0, "it went in peace: %s", err.text);
                rbd_image_done(&i);
                node_stop(&n);
        }
}

/* Its unmap was ended before the OSDs answered: its watch is there for a while yet, and it serves other images. Only the lock goes. */
Test(rbd_use, a_lock_left_by_a_client_of_this_node_is_taken)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_rbd_locker_ RbdLocker before = {}, after = {};
        RbdImage i = RBD_IMAGE_INIT;
        Writer w;
        Node n;

        image_create("left", "16M", "layering,exclusive-lock");
        node_start(&n, "left");
        writer_start(&w, "left");
        char *own[] = { w.address, NULL };
        image_open(&n, &i);
        cr_assert_eq(rbd_image_locker(&i, &before, &err), 0, "%s", err.text);
        cr_assert_str_eq(before.address, w.address);
        cr_assert_eq(claim(&i, RBD_FENCE_NEVER, own, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_image_locker(&i, &after, &err), 0, "%s", err.text);
        cr_assert_null(after.client, "%s has the lock still, which its own kernel would fence it for", after.address);
        cr_assert_eq(ceph_blocklisted_until(&ceph, w.address), 0, "it was fenced");
        cr_assert_eq(rbd_write(w.image, 0, 5, "still"), 5, "it was fenced");
        rbd_image_done(&i);
        writer_stop(&w);
        node_stop(&n);
}

Test(rbd_use, a_lock_of_a_person_counts)
{
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        Node n;

        CEPH_RBD(&ceph, (char *) "lock", (char *) "add", (char *) "kube/foo", (char *) "maintenance");
        node_start(&n, "foo");
        image_open(&n, &i);
        cr_assert_lt(claim(&i, RBD_FENCE_NEVER, NULL, &err), 0);
        cr_assert_eq(err.code, ERROR_IN_USE, "%s", err.text);
        rbd_image_done(&i);
        node_stop(&n);
}

/* The cluster's default is an hour, which a frozen node may well outlast. */
static void expect_fenced_for_years(const char *address)
{
        time_t until = ceph_blocklisted_until(&ceph, address);

        cr_assert(until > 0, "%s is not on the blocklist", address);
        cr_assert(until - time(NULL) > 4 * 365 * 24 * 3600L, "%s is fenced for %ld s only", address, (long) (until - time(NULL)));
}

/* The writer's host is told by its address, and here there is one host only: what fences must take the other for another node. */
static char foreign_node[] = "192.0.2.1:0/1";

Test(rbd_use, fencing_ends_the_others_writes)
{
        char *own[] = { foreign_node, NULL };
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        Writer w;
        Node n;

        image_create("fenced", "16M", "layering");
        node_start(&n, "fenced");
        image_open(&n, &i);
        writer_start(&w, "fenced");

        char *same_host[] = { w.address, NULL }, *host_only = strdup(w.address);
        cr_assert_eq(claim(&i, RBD_FENCE_FORCE, same_host, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_write(w.image, 0, 5, "still"), 5, "a client of this node is never fenced");
        host_only[strlen(host_only) - 1] ^= 1;
        char *sibling[] = { host_only, NULL };
        cr_assert_lt(claim(&i, RBD_FENCE_FORCE, sibling, &err), 0, "nor is one that has died on it");
        cr_assert_eq(err.code, ERROR_IN_USE);
        free(host_only);

        cr_assert_eq(claim(&i, RBD_FENCE_FORCE, own, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_write(w.image, 0, 5, "never"), -ESHUTDOWN, "the fenced client cannot write");
        expect_fenced_for_years(w.address);
        rbd_image_done(&i);
        writer_stop(&w);
        node_stop(&n);
}

/* Its watch expires while it is frozen; whoever comes next fences whom the note names, and only then. */
Test(rbd_use, who_wrote_last_is_fenced_when_its_watch_expired)
{
        char *own[] = { foreign_node, NULL };
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        Writer w;
        Node n;

        image_create("noted", "16M", "layering");
        node_start(&n, "noted");
        image_open(&n, &i);
        writer_start(&w, "noted");
        RbdDevice d = { .address = w.address };
        cr_assert_eq(note(&i, &d, &err), 0, "%s", err.text);
        (void) rbd_close(w.image); /* as an expired watch: nobody watches, and the client lives */
        cr_assert_eq(claim(&i, RBD_FENCE_EXPIRED, own, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_open(w.io, "noted", &w.image, NULL), 0, "a client that may serve other images is not fenced");
        (void) rbd_close(w.image);
        d.alone = true;
        cr_assert_eq(note(&i, &d, &err), 0, "%s", err.text);
        cr_assert_eq(note(&i, &d, &err), 0);
        cr_assert_eq(claim(&i, RBD_FENCE_NEVER, own, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_open(w.io, "noted", &w.image, NULL), 0, "it was not fenced by configuration");
        (void) rbd_close(w.image);
        cr_assert_eq(claim(&i, RBD_FENCE_EXPIRED, own, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_open(w.io, "noted", &w.image, NULL), -ESHUTDOWN, "fenced");
        expect_fenced_for_years(w.address);
        w.image = NULL;
        rbd_image_done(&i);
        rados_ioctx_destroy(w.io);
        node_stop(&w.node);
        free(w.address);
        node_stop(&n);
}

/* --- the note --- */

static void expect_noted(RbdImage *i, const char *address)
{
        _cleanup_free_ char *text = holder_read(i);

        cr_assert(address ? text && strstr(text, address) : !text, "'%s' is noted instead of %s", str_or(text, ""), str_or(address, "nobody"));
}

Test(rbd_use, what_is_kept_changes_only_from_what_was_read)
{
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        Node n;

        node_start(&n, "foo");
        image_open(&n, &i);
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", "other", "one", &err), 0);
        expect_noted(&i, NULL);
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", NULL, "one", &err), 1, "%s", err.text);
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", NULL, "two", &err), 0);
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", "on", "two", &err), 0);
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", "one\n", "two", &err), 0);
        expect_noted(&i, "one");
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", "one", "two", &err), 1, "%s", err.text);
        expect_noted(&i, "two");
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", "one", NULL, &err), 0);
        cr_assert_eq(rbd_image_keep_swap(&i, "holder", "two", NULL, &err), 1, "%s", err.text);
        expect_noted(&i, NULL);
        rbd_image_done(&i);
        cr_assert_eq(err.code, ERROR_NONE);
        node_stop(&n);
}

/* A is frozen between its claim and its note; B comes, writes, and has gone or not when A is back. */
Test(rbd_use, who_wakes_up_late_does_not_overwrite_the_note)
{
        RbdDevice a = { .address = (char *) "192.0.2.8:0/8", .alone = true }, b = { .address = (char *) "192.0.2.9:0/9", .alone = true };
        char *own_a[] = { a.address, NULL }, *own_b[] = { b.address, NULL };
        RbdImage i = RBD_IMAGE_INIT;
        Node n;

        node_start(&n, "foo");
        image_open(&n, &i);
        for (unsigned round = 0; round < 2; round++) {
                _cleanup_free_ char *seen_a = NULL, *seen_b = NULL, *noted = NULL;
                _cleanup_error_ Error err = ERROR_INIT;
                cr_assert_eq(rbd_use_claim(&i, RBD_FENCE_NEVER, own_a, &seen_a, &err), 0, "%s", err.text);
                cr_assert_eq(rbd_use_claim(&i, RBD_FENCE_NEVER, own_b, &seen_b, &err), 0, "%s", err.text);
                const RbdNoting of_b = { .device = &b, .node = "node-b", .own = own_b, .before = seen_b };
                cr_assert_eq(rbd_use_note(&i, &of_b, &err), 0, "%s", err.text);
                const RbdNoting of_a = { .device = &a, .node = "node-a", .own = own_a, .before = seen_a };
                cr_assert_lt(rbd_use_note(&i, &of_a, &err), 0);
                cr_assert_eq(err.code, ERROR_IN_USE, "%s", err.text);
                cr_assert(strstr(err.text, "192.0.2.9:0/9 of node node-b"), "%s", err.text);
                expect_noted(&i, b.address);
                /* what A finds mapped is not its own to write, and B's is */
                error_done(&err);
                cr_assert_lt(rbd_use_noted(&i, own_a, NULL, &err), 0);
                cr_assert_eq(err.code, ERROR_IN_USE, "%s", err.text);
                error_done(&err);
                cr_assert_eq(rbd_use_noted(&i, own_b, &noted, &err), 0, "%s", err.text);
                cr_assert_not_null(noted);
        }
        rbd_image_done(&i);
        node_stop(&n);
}

/* The same client, which serves other images too, maps once more: who has read the former note has not seen that. */
Test(rbd_use, each_map_has_a_note_of_its_own)
{
        RbdDevice a = { .address = (char *) "192.0.2.8:0/8" }, b = { .address = (char *) "192.0.2.9:0/9" };
        char *own_b[] = { b.address, NULL };
        _cleanup_free_ char *seen = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        Node n;

        node_start(&n, "foo");
        image_open(&n, &i);
        cr_assert_eq(note(&i, &a, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_use_claim(&i, RBD_FENCE_NEVER, own_b, &seen, &err), 0, "%s", err.text);
        cr_assert_eq(note(&i, &a, &err), 0, "%s", err.text);
        const RbdNoting of_b = { .device = &b, .node = "node-b", .own = own_b, .before = seen };
        cr_assert_lt(rbd_use_note(&i, &of_b, &err), 0);
        cr_assert_eq(err.code, ERROR_IN_USE, "%s", err.text);
        expect_noted(&i, a.address);
        rbd_image_done(&i);
        node_stop(&n);
}

/* A client whose watch had expired is back and well: who has come for its image gives way, and the note names it again. */
Test(rbd_use, who_gives_way_puts_the_note_back)
{
        char *elsewhere[] = { foreign_node, NULL };
        _cleanup_error_ Error err = ERROR_INIT;
        RbdDevice b = { .address = foreign_node };
        RbdImage i = RBD_IMAGE_INIT;
        Writer w;
        Node n;

        image_create("back", "16M", "layering");
        node_start(&n, "back");
        image_open(&n, &i);
        writer_start(&w, "back");
        for (unsigned round = 0; round < 2; round++) {
                RbdDevice a = { .address = w.address };
                _cleanup_free_ char *before = holder_read(&i);
                const RbdNoting of_b = { .device = &b, .node = "node-b", .own = elsewhere, .before = before };
                error_done(&err);
                cr_assert_lt(rbd_use_note(&i, &of_b, &err), 0);
                cr_assert_eq(err.code, ERROR_IN_USE, "%s", err.text);
                cr_assert(strstr(err.text, w.address), "%s", err.text);
                expect_noted(&i, round == 0 ? NULL : w.address);
                error_done(&err);
                cr_assert_eq(note(&i, &a, &err), 0, "%s", err.text);
        }
        rbd_image_done(&i);
        writer_stop(&w);
        node_stop(&n);
}

/* --- a dead owner --- */

typedef struct Child {
        pid_t pid;
        int orders, answers; /* pipes */
} Child;

/* A client in a process of its own, which can be stopped: it has the lock, tells its address, and writes once more at each order, telling the result. */
static void child_run(const char *name, int orders, int answers)
{
        char order, *address;
        Writer w;

        (void) prctl(PR_SET_PDEATHSIG, (unsigned long) SIGKILL, 0L, 0L, 0L);
        writer_start(&w, name);
        address = w.address;
        if (write(answers, address, strlen(address) + 1) < 0)
                _exit(EXIT_FAILURE);
        while (read(orders, &order, 1) == 1) {
                int r = (int) rbd_write(w.image, 0, 5, "child");
                if (write(answers, &r, sizeof(r)) != sizeof(r))
                        break;
        }
        _exit(EXIT_SUCCESS);
}

/* Before this process has a connection of its own. */
static void child_start(Child *c, const char *name, char *address, size_t size)
{
        int to[2], from[2];

        cr_assert(pipe2(to, O_CLOEXEC) >= 0 && pipe2(from, O_CLOEXEC) >= 0);
        c->pid = fork();
        cr_assert(c->pid >= 0);
        if (c->pid == 0)
                child_run(name, to[0], from[1]);
        close(to[0]);
        close(from[1]);
        c->orders = to[1];
        c->answers = from[0];
        ssize_t n = read(c->answers, address, size);
        cr_assert(n > 0 && !address[n - 1], "the writer has not begun");
}

static int child_write(Child *c)
{
        int r = 0;

        cr_assert_eq(write(c->orders, "w", 1), 1);
        cr_assert_eq(read(c->answers, &r, sizeof(r)), (ssize_t) sizeof(r), "the writer has ended");
        return r;
}

static void child_end(Child *c)
{
        (void) kill(c->pid, SIGKILL);
        (void) waitpid(c->pid, NULL, 0);
        close(c->orders);
        close(c->answers);
}

static bool nobody_watches(void *p)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **watchers = NULL;

        cr_assert_eq(rbd_image_watchers(p, &watchers, &err), 0, "%s", err.text);
        return !watchers;
}

/* Nobody could have the lock without fencing it, so berth does so whatever Fence= says: the kernel and librbd would, too, but for an hour. */
Test(rbd_use, a_frozen_owner_is_fenced_for_years)
{
        char *own[] = { foreign_node, NULL }, address[128];
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        RbdLocker l = {};
        Child child;
        Writer w;
        Node n;

        image_create("frozen", "16M", "layering,exclusive-lock");
        child_start(&child, "frozen", address, sizeof(address));
        node_start(&n, "frozen");
        image_open(&n, &i);
        kill(child.pid, SIGSTOP);
        wait_until(nobody_watches, &i, 60, "the frozen writer is not seen any more");
        cr_assert_eq(claim(&i, RBD_FENCE_NEVER, own, &err), 0, "%s", err.text);
        expect_fenced_for_years(address);
        cr_assert_eq(rbd_image_locker(&i, &l, &err), 0, "%s", err.text);
        cr_assert_null(l.client, "its lock is broken");

        /* the next owner finds nothing that it would have to fence itself */
        writer_start(&w, "frozen");
        expect_fenced_for_years(address);
        kill(child.pid, SIGCONT);
        cr_assert_eq(child_write(&child), -ESHUTDOWN, "the fenced client cannot write");
        cr_assert_eq(rbd_write(w.image, 0, 5, "hello"), 5);
        child_end(&child);
        writer_stop(&w);
        rbd_image_done(&i);
        node_stop(&n);
}

/* --- several nodes: a network of the test's own, in which clients come from the address that is asked for --- */

static void nodes_setup(void)
{
        cr_assert(unshare(CLONE_NEWNET) >= 0, "%s", strerror(errno));
        RUN_OK("ip", "link", "set", "lo", "up");
        ceph_setup();
}

TestSuite(rbd_nodes, .init = nodes_setup, .fini = ceph_teardown, .timeout = 180);

static void child_start_from(Child *c, const char *source, const char *name, char *address, size_t size)
{
        RUN_OK("ip", "route", "replace", "local", ceph.address, "dev", "lo", "src", (char *) source, "table", "local");
        child_start(c, name, address, size);
        cr_assert_eq(strncmp(address, source, strlen(source)), 0, "%s does not come from %s", address, source);
        RUN_OK("ip", "route", "del", "local", ceph.address, "dev", "lo", "table", "local");
}

/* One of two others is of this node, which nobody is fenced of: so the other is not either. */
Test(rbd_nodes, nobody_is_fenced_when_the_image_is_refused)
{
        _cleanup_strv_ char **watchers = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        char addresses[2][128], sibling[160];
        RbdImage i = RBD_IMAGE_INIT;
        Child children[2];
        Node n;

        image_create("two", "16M", "layering");
        child_start_from(&children[0], "127.0.0.8", "two", addresses[0], sizeof(addresses[0]));
        child_start_from(&children[1], "127.0.0.9", "two", addresses[1], sizeof(addresses[1]));
        node_start(&n, "two");
        image_open(&n, &i);
        cr_assert_eq(rbd_image_watchers(&i, &watchers, &err), 0, "%s", err.text);
        cr_assert_eq(strv_length(watchers), 2U);
        /* that one of this node which comes last, with the address of a client that it does not have */
        snprintf(sibling, sizeof(sibling), "%.*s/1", (int) strcspn(watchers[1], "/"), watchers[1]);
        char *own[] = { sibling, NULL };
        cr_assert_lt(claim(&i, RBD_FENCE_FORCE, own, &err), 0);
        cr_assert_eq(err.code, ERROR_IN_USE, "%s", err.text);
        for (size_t k = 0; k < 2; k++) {
                cr_assert_eq(ceph_blocklisted_until(&ceph, addresses[k]), 0, "%s is fenced", addresses[k]);
                cr_assert_eq(child_write(&children[k]), 5);
        }

        /* of another node both, both are */
        char *elsewhere[] = { foreign_node, NULL };
        error_done(&err);
        cr_assert_eq(claim(&i, RBD_FENCE_FORCE, elsewhere, &err), 0, "%s", err.text);
        for (size_t k = 0; k < 2; k++) {
                expect_fenced_for_years(addresses[k]);
                cr_assert_eq(child_write(&children[k]), -ESHUTDOWN);
                child_end(&children[k]);
        }
        rbd_image_done(&i);
        node_stop(&n);
}

/* A person's lock, of this node, is left and respected, whoever else there is to fence. */
Test(rbd_nodes, a_lock_of_a_person_here_refuses)
{
        char address[128], *own[] = { (char *) "127.0.0.1:0/1", NULL };
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        RbdLocker l = {};
        Child child;
        Node n;

        image_create("kept", "16M", "layering");
        child_start_from(&child, "127.0.0.8", "kept", address, sizeof(address));
        CEPH_RBD(&ceph, (char *) "lock", (char *) "add", (char *) "kube/kept", (char *) "maintenance");
        node_start(&n, "kept");
        image_open(&n, &i);
        cr_assert_lt(claim(&i, RBD_FENCE_FORCE, own, &err), 0);
        cr_assert_eq(err.code, ERROR_IN_USE, "%s", err.text);
        cr_assert_eq(ceph_blocklisted_until(&ceph, address), 0, "%s is fenced", address);
        cr_assert_eq(child_write(&child), 5);
        cr_assert_eq(rbd_image_locker(&i, &l, &err), 0, "%s", err.text);
        cr_assert_str_eq(l.cookie, "maintenance");
        rbd_locker_done(&l);
        child_end(&child);
        rbd_image_done(&i);
        node_stop(&n);
}

/* librbd keeps what it knew of locks when it opened the image. */
static void image_reopen(Node *n, RbdImage *i)
{
        rbd_image_done(i);
        image_open(n, i);
}

static void fence_refused(RbdImage *i, char *const *own, const char *part)
{
        _cleanup_error_ Error err = ERROR_INIT;
        char **fenced = NULL;

        cr_assert_lt(rbd_use_fence(i, own, &fenced, &err), 0, "%s", part);
        cr_assert_eq(err.code, ERROR_NOTHING_TO_FENCE, "%s", err.text);
        cr_assert(strstr(err.text, part), "'%s' does not say '%s'", err.text, part);
        cr_assert_null(fenced);
}

/* Whoever has it open, whose lock it is, and who wrote it last; nobody of this node, and nobody who is not there. */
Test(rbd_use, fencing_by_hand)
{
        static const char *const features[] = { "layering", "layering,exclusive-lock" };
        char *own[] = { foreign_node, NULL };

        for (size_t k = 0; k < 2; k++) {
                _cleanup_error_ Error err = ERROR_INIT;
                _cleanup_strv_ char **fenced = NULL;
                RbdImage i = RBD_IMAGE_INIT;
                RbdLocker l = {};
                Writer w;
                Node n;

                image_create(k ? "hand-lock" : "hand", "16M", features[k]);
                node_start(&n, k ? "hand-lock" : "hand");
                image_open(&n, &i);
                fence_refused(&i, own, "Nobody holds");
                writer_start(&w, k ? "hand-lock" : "hand");
                image_reopen(&n, &i);
                char *same_host[] = { w.address, NULL };
                fence_refused(&i, same_host, "by this node itself");
                cr_assert_eq(rbd_write(w.image, 0, 5, "still"), 5);

                cr_assert_eq(rbd_use_fence(&i, own, &fenced, &err), 0, "%s", err.text);
                cr_assert(strv_length(fenced) == 1 && strcmp(fenced[0], w.address) == 0, "%s", fenced[0]);
                cr_assert_eq(rbd_write(w.image, 0, 5, "never"), -ESHUTDOWN, "the fenced client cannot write");
                image_reopen(&n, &i);
                cr_assert_eq(rbd_image_locker(&i, &l, &err), 0, "%s", err.text);
                cr_assert_null(l.client, "its lock is broken");
                expect_fenced_for_years(w.address); /* also after the lock is broken */
                cr_assert_eq(claim(&i, RBD_FENCE_NEVER, own, &err), 0, "the image is free: %s", err.text);
                rbd_image_done(&i);
                writer_stop(&w);
                node_stop(&n);
        }
}

/* It was cut short between the blocklist and the lock: a repeat finishes it. Who wrote last is fenced if its client is its own. */
Test(rbd_use, fencing_by_hand_of_who_is_not_seen)
{
        char *own[] = { foreign_node, NULL };
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_strv_ char **fenced = NULL, **again = NULL;
        RbdDevice d = { .address = (char *) "192.0.2.9:0/77", .alone = false };
        RbdImage i = RBD_IMAGE_INIT;
        RbdLocker l = {};
        Node n;

        node_start(&n, "foo");
        image_open(&n, &i);
        cr_assert_eq(note(&i, &d, &err), 0, "%s", err.text);
        fence_refused(&i, own, "ceph osd blocklist add 192.0.2.9:0/77");
        d.alone = true;
        cr_assert_eq(note(&i, &d, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_use_fence(&i, own, &fenced, &err), 0, "%s", err.text);
        cr_assert_str_eq(fenced[0], "192.0.2.9:0/77");

        CEPH_RBD(&ceph, (char *) "lock", (char *) "add", (char *) "kube/foo", (char *) "maintenance");
        image_reopen(&n, &i);
        cr_assert_eq(rbd_use_fence(&i, own, &again, &err), 0, "%s", err.text);
        cr_assert_eq(strv_length(again), 2U);
        image_reopen(&n, &i);
        cr_assert_eq(rbd_image_locker(&i, &l, &err), 0, "%s", err.text);
        cr_assert_null(l.client);
        rbd_image_done(&i);
        node_stop(&n);
}
