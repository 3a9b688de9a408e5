/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What berth reads and writes of RBD images by librbd, beside a real Ceph: the proof of blankness, what is kept with the image, growing. The image's
 * bytes are read through rbd-fuse, as the kernel's device would give them.
 */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mounters/block/internal.h"
#include "rbd-node.h"

TestSuite(rbd_image, .init = ceph_setup, .fini = ceph_teardown, .timeout = 180);

/* Writes to the image as a client that is none of berth's. */
static void image_write(Node *n, const char *name, uint64_t offset, size_t size, int byte)
{
        rados_ioctx_t io;
        rbd_image_t image;
        char *data = malloc(size);

        memset(data, byte, size);
        cr_assert_eq(rados_ioctx_create(n->cluster->rados, "kube", &io), 0);
        cr_assert_eq(rbd_open(io, name, &image, NULL), 0);
        cr_assert_eq(rbd_write(image, offset, size, data), (ssize_t) size);
        cr_assert_eq(rbd_flush(image), 0);
        cr_assert_eq(rbd_close(image), 0);
        rados_ioctx_destroy(io);
        free(data);
}

static void image_discard(Node *n, const char *name, uint64_t offset, uint64_t size)
{
        rados_ioctx_t io;
        rbd_image_t image;

        cr_assert_eq(rados_ioctx_create(n->cluster->rados, "kube", &io), 0);
        cr_assert_eq(rbd_open(io, name, &image, NULL), 0);
        cr_assert_geq(rbd_discard(image, offset, size), 0);
        cr_assert_eq(rbd_close(image), 0);
        rados_ioctx_destroy(io);
}

/* --- the proof of blankness --- */

static unsigned n_extents;

static int counted_extents(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err);

typedef struct Counter {
        int (*found)(const BlockExtent *e, void *arg);
        void *arg;
} Counter;

static int count_extent(const BlockExtent *e, void *arg)
{
        const Counter *k = arg;

        n_extents++;
        return k->found(e, k->arg);
}

static int counted_extents(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        Counter k = { found, arg };

        return rbd_image_extents(userdata, size, count_extent, &k, err);
}

static int read_past_device(void *userdata, uint64_t offset, void *buffer, size_t size, Error *err)
{
        return rbd_image_read(userdata, offset, buffer, size, err);
}

/* On an image that has been opened before, with the device that it has now. */
static ErrorCode prove_opened(RbdImage *i, char **ret_text)
{
        _cleanup_free_ char *dir = NULL, *path = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        struct stat st;

        BlockStorage s = { .extents = counted_extents, .read = read_past_device, .userdata = i, .lasting_id = i->lasting_id };
        cr_assert(asprintf(&dir, "%s/fuse", f.dir) >= 0 && asprintf(&path, "%s/%s", dir, i->source->image) >= 0);
        cr_assert(mkdir(dir, 0700) >= 0 || errno == EEXIST);
        RUN_OK("timeout", "30", "rbd-fuse", "-c", ceph.conf, "-p", "kube", dir);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        cr_assert(fd >= 0 && fstat(fd, &st) >= 0, "%s: %s", path, strerror(errno));
        n_extents = 0;
        int r = block_prove_blank(&m, fd, (uint64_t) st.st_size, &s, &err);
        close(fd);
        cr_assert(umount2(dir, MNT_DETACH) >= 0, "%s", strerror(errno));
        if (ret_text)
                *ret_text = TAKE_PTR(err.text);
        return r < 0 ? err.code : ERROR_NONE;
}

/* By a fresh look at the image, as another process would have it. */
static ErrorCode prove(const char *name, char **ret_text)
{
        RbdImage i = RBD_IMAGE_INIT;
        Node n;

        node_start(&n, name);
        image_open(&n, &i);
        ErrorCode code = prove_opened(&i, ret_text);
        rbd_image_done(&i);
        node_stop(&n);
        return code;
}

static void expect_proof(const char *name, ErrorCode wanted, const char *part)
{
        _cleanup_free_ char *text = NULL;
        ErrorCode code = prove(name, &text);

        cr_assert_eq(code, wanted, "%s: %s (%s) instead of %s", name, error_code_name(code), str_or(text, ""), error_code_name(wanted));
        cr_assert(!part || strstr(text, part), "%s: '%s' does not say '%s'", name, text, part);
}

Test(rbd_image, proof_on_sparse_and_written_images)
{
        static const char *const features[] = { "layering", "layering,exclusive-lock,object-map,fast-diff,deep-flatten" };
        Node n;

        node_start(&n, "foo");
        for (size_t i = 0; i < ELEMENTSOF(features); i++) {
                char blank[16], zeros[16], end[16];
                snprintf(blank, sizeof(blank), "blank%zu", i);
                snprintf(zeros, sizeof(zeros), "zeros%zu", i);
                snprintf(end, sizeof(end), "end%zu", i);

                image_create(blank, "64M", features[i]);
                expect_proof(blank, ERROR_NONE, NULL);
                cr_assert_eq(n_extents, 0U, "nothing is allocated, so nothing has to be read");

                image_create(zeros, "64M", features[i]);
                image_write(&n, zeros, 0, 8 * MIB, 0);
                image_write(&n, zeros, 40 * MIB + 4096, 4096, 0);
                expect_proof(zeros, ERROR_NONE, NULL);
                cr_assert_geq(n_extents, 2U, "zeros that were written are allocated");
                image_write(&n, zeros, 40 * MIB + 4097, 1, 7);
                expect_proof(zeros, ERROR_NOT_BLANK, "41947137");

                image_create(end, "64M", features[i]);
                image_write(&n, end, 64 * MIB - 1, 1, 1);
                expect_proof(end, ERROR_NOT_BLANK, "67108863");
        }
        node_stop(&n);
}

/* The parent's data are the clone's until it writes its own. */
Test(rbd_image, proof_on_clones)
{
        Node n;

        node_start(&n, "foo");
        image_create("parent", "32M", "layering");
        CEPH_RBD(&ceph, (char *) "snap", (char *) "create", (char *) "kube/parent@blank");
        image_write(&n, "parent", 12 * MIB, 4096, 3);
        CEPH_RBD(&ceph, (char *) "snap", (char *) "create", (char *) "kube/parent@full");
        CEPH_RBD(&ceph, (char *) "clone", (char *) "--rbd-default-clone-format", (char *) "2", (char *) "kube/parent@blank",
                 (char *) "kube/clone-of-blank");
        CEPH_RBD(&ceph, (char *) "clone", (char *) "--rbd-default-clone-format", (char *) "2", (char *) "kube/parent@full",
                 (char *) "kube/clone-of-full");
        expect_proof("clone-of-blank", ERROR_NONE, NULL);
        expect_proof("clone-of-full", ERROR_NOT_BLANK, "12582912");
        image_write(&n, "clone-of-full", 12 * MIB, 4096, 0);
        expect_proof("clone-of-full", ERROR_NONE, NULL);
        image_write(&n, "clone-of-blank", 0, 512, 9);
        expect_proof("clone-of-blank", ERROR_NOT_BLANK, "offset 0 ");
        node_stop(&n);
}

/* What an image shows may lie where its own objects' numbers do not say, in objects that snapshots share, or in another image. */
Test(rbd_image, proof_on_images_of_unusual_layout)
{
        Node n;

        node_start(&n, "foo");
        /* the bytes of one object lie apart */
        CEPH_RBD(&ceph, (char *) "create", (char *) "--size", (char *) "64M", (char *) "--stripe-unit", (char *) "64K", (char *) "--stripe-count",
                 (char *) "5", (char *) "--image-feature", (char *) "layering,striping", (char *) "kube/striped");
        expect_proof("striped", ERROR_NONE, NULL);
        for (uint64_t at = 3 * MIB + 77777; at < 64 * MIB; at += 17 * MIB + 4321) {
                char offset[64];
                snprintf(offset, sizeof(offset), "offset %llu ", (unsigned long long) at);
                image_write(&n, "striped", at, 1, 1);
                expect_proof("striped", ERROR_NOT_BLANK, offset);
                image_write(&n, "striped", at, 1, 0);
                expect_proof("striped", ERROR_NONE, NULL);
        }

        /* the image's own bytes count, not those of its snapshots */
        image_create("snapped", "32M", "layering,exclusive-lock,object-map,fast-diff,deep-flatten");
        image_write(&n, "snapped", 8 * MIB, 8192, 4);
        CEPH_RBD(&ceph, (char *) "snap", (char *) "create", (char *) "--no-progress", (char *) "kube/snapped@full");
        expect_proof("snapped", ERROR_NOT_BLANK, "offset 8388608 ");
        image_discard(&n, "snapped", 8 * MIB, 4 * MIB);
        expect_proof("snapped", ERROR_NONE, NULL);
        image_write(&n, "snapped", 9 * MIB + 5, 1, 4);
        expect_proof("snapped", ERROR_NOT_BLANK, "offset 9437189 ");
        CEPH_RBD(&ceph, (char *) "snap", (char *) "create", (char *) "--no-progress", (char *) "kube/snapped@second");
        expect_proof("snapped", ERROR_NOT_BLANK, "offset 9437189 ");
        image_write(&n, "snapped", 9 * MIB + 5, 1, 0);
        expect_proof("snapped", ERROR_NONE, NULL);
        CEPH_RBD(&ceph, (char *) "snap", (char *) "rollback", (char *) "--no-progress", (char *) "kube/snapped@full");
        expect_proof("snapped", ERROR_NOT_BLANK, "offset 8388608 ");

        /* a clone of a clone; and what was cut off of one does not come back when it grows again */
        CEPH_RBD(&ceph, (char *) "clone", (char *) "--rbd-default-clone-format", (char *) "2", (char *) "kube/snapped@full", (char *) "kube/child");
        CEPH_RBD(&ceph, (char *) "snap", (char *) "create", (char *) "--no-progress", (char *) "kube/child@snap");
        CEPH_RBD(&ceph, (char *) "clone", (char *) "--rbd-default-clone-format", (char *) "2", (char *) "kube/child@snap", (char *) "kube/grandchild");
        expect_proof("grandchild", ERROR_NOT_BLANK, "offset 8388608 ");
        CEPH_RBD(&ceph, (char *) "resize", (char *) "--no-progress", (char *) "--allow-shrink", (char *) "--size", (char *) "8M", (char *) "kube/grandchild");
        CEPH_RBD(&ceph, (char *) "resize", (char *) "--no-progress", (char *) "--size", (char *) "32M", (char *) "kube/grandchild");
        expect_proof("grandchild", ERROR_NONE, NULL);
        CEPH_RBD(&ceph, (char *) "flatten", (char *) "--no-progress", (char *) "kube/child");
        expect_proof("child", ERROR_NOT_BLANK, "offset 8388608 ");

        /* one that is being moved shows what still lies in its source */
        image_create("moving", "16M", "layering");
        image_write(&n, "moving", 5 * MIB, 4096, 6);
        CEPH_RBD(&ceph, (char *) "migration", (char *) "prepare", (char *) "kube/moving", (char *) "kube/moved");
        expect_proof("moved", ERROR_NOT_BLANK, "offset 5242880 ");
        CEPH_RBD(&ceph, (char *) "migration", (char *) "execute", (char *) "--no-progress", (char *) "kube/moved");
        CEPH_RBD(&ceph, (char *) "migration", (char *) "commit", (char *) "--no-progress", (char *) "kube/moved");
        expect_proof("moved", ERROR_NOT_BLANK, "offset 5242880 ");
        node_stop(&n);
}

/* Stands for a device whose client believes an object map that does not know of an object: it shows zeros there. */
Test(rbd_image, proof_believes_no_object_map)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *path = NULL;
        RbdImage i = RBD_IMAGE_INIT;
        char object[128];
        Node n;

        cr_assert(asprintf(&path, "%s/device", f.dir) >= 0);
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && ftruncate(fd, 32 * MIB) >= 0);
        image_create("mapped", "32M", "layering,exclusive-lock,object-map,fast-diff,deep-flatten");
        node_start(&n, "mapped");
        image_open(&n, &i);
        BlockStorage s = { .extents = counted_extents, .read = read_past_device, .userdata = &i, .lasting_id = i.lasting_id };
        cr_assert_eq(block_prove_blank(&m, fd, 32 * MIB, &s, &err), 0, "%s", err.text);

        snprintf(object, sizeof(object), "rbd_data.%s.0000000000000003", i.id);
        cr_assert_eq(rados_write(i.io, object, "\0\0\0lost", 7, 4096), 0);
        cr_assert_lt(block_prove_blank(&m, fd, 32 * MIB, &s, &err), 0, "zeros of the device alone were proof");
        cr_assert_eq(err.code, ERROR_NOT_BLANK, "%s", err.text);
        cr_assert(strstr(err.text, "offset 12587011:"), "%s", err.text);
        error_done(&err);
        cr_assert_eq(rados_write(i.io, object, "\0\0\0\0\0\0\0", 7, 4096), 0);
        cr_assert_eq(block_prove_blank(&m, fd, 32 * MIB, &s, &err), 0, "%s", err.text);
        cr_assert_geq(n_extents, 1U);
        rbd_image_done(&i);
        node_stop(&n);
}

static int silent_read(void *userdata, uint64_t offset, void *buffer, size_t size, Error *err)
{
        kill(ceph_pid(&ceph, "osd"), SIGSTOP);
        return rbd_image_read(userdata, offset, buffer, size, err);
}

static int silent_extents(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        kill(ceph_pid(&ceph, "osd"), SIGSTOP);
        return rbd_image_extents(userdata, size, found, arg, err);
}

/* What the cluster does not answer is neither "nothing is allocated" nor "zeros". */
Test(rbd_image, proof_with_a_cluster_that_falls_silent)
{
        _cleanup_free_ char *path = NULL;
        Node n;

        cr_assert(asprintf(&path, "%s/device", f.dir) >= 0);
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && ftruncate(fd, 16 * MIB) >= 0);
        image_create("silent", "16M", "layering,exclusive-lock,object-map,fast-diff,deep-flatten");
        node_start(&n, "silent");
        image_write(&n, "silent", 4 * MIB, 4096, 0);
        for (unsigned k = 0; k < 2; k++) {
                _cleanup_error_ Error err = ERROR_INIT;
                RbdImage i = RBD_IMAGE_INIT;

                image_open(&n, &i);
                BlockStorage s = { .extents = k ? counted_extents : silent_extents, .read = silent_read, .userdata = &i, .lasting_id = i.lasting_id };
                int r = block_prove_blank(&m, fd, 16 * MIB, &s, &err);
                kill(ceph_pid(&ceph, "osd"), SIGCONT);
                cr_assert_lt(r, 0, "try %u: no answer was proof", k);
                cr_assert_eq(err.code, ERROR_OSDS_UNREACHABLE, "try %u: %s: %s", k, error_code_name(err.code), err.text);
                rbd_image_done(&i);
        }
        node_stop(&n);
}

/* Whoever has it open for reading only is not told that it has grown. */
Test(rbd_image, proof_covers_what_an_image_has_grown_by)
{
        static const char *const features[] = { "layering", "layering,exclusive-lock,object-map,fast-diff,deep-flatten" };
        Node other;

        node_start(&other, "foo");
        for (size_t k = 0; k < ELEMENTSOF(features); k++) {
                _cleanup_free_ char *text = NULL;
                RbdImage i = RBD_IMAGE_INIT, j = RBD_IMAGE_INIT;
                char name[16], spec[32];
                Node n;

                snprintf(name, sizeof(name), "growing%zu", k);
                snprintf(spec, sizeof(spec), "kube/%s", name);
                image_create(name, "16M", features[k]);
                node_start(&n, name);
                image_open(&n, &i);
                image_open(&n, &j);
                CEPH_RBD(&ceph, (char *) "resize", (char *) "--no-progress", (char *) "--size", (char *) "32M", spec);
                cr_assert_eq(prove_opened(&i, NULL), ERROR_NONE, "what it has grown by is blank too");
                image_write(&other, name, 24 * MIB, 512, 5);
                ErrorCode code = prove_opened(&j, &text);
                cr_assert_eq(code, ERROR_NOT_BLANK, "%s: %s", error_code_name(code), text);
                cr_assert(strstr(text, "offset 25165824 "), "%s", text);
                rbd_image_done(&i);
                rbd_image_done(&j);
                node_stop(&n);
        }
        node_stop(&other);
}

static void expect_size(RbdImage *i, uint64_t device_size, ErrorCode wanted, const char *part)
{
        _cleanup_error_ Error err = ERROR_INIT;
        int r = rbd_image_check_size(i, device_size, &err);

        cr_assert_eq(r < 0 ? err.code : ERROR_NONE, wanted, "%s: %s", error_code_name(err.code), str_or(err.text, ""));
        cr_assert(r >= 0 || strstr(err.text, part), "'%s' does not say '%s'", err.text, part);
}

/* The device as the kernel has it, and the image as the cluster has it now. */
Test(rbd_image, proof_refuses_a_device_of_another_size)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *path = NULL;
        RbdImage i = RBD_IMAGE_INIT;
        Node n;

        cr_assert(asprintf(&path, "%s/device", f.dir) >= 0);
        _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        cr_assert(fd >= 0 && ftruncate(fd, 16 * MIB) >= 0);
        image_create("sized", "16M", "layering");
        node_start(&n, "sized");
        image_open(&n, &i);
        BlockStorage s = { .extents = counted_extents, .userdata = &i, .lasting_id = i.lasting_id };
        cr_assert_eq(block_prove_blank(&m, fd, 16 * MIB, &s, &err), 0, "%s", err.text);
        expect_size(&i, 16 * MIB, ERROR_NONE, NULL);
        expect_size(&i, 16 * MIB - 512, ERROR_NONE, NULL); /* as of an image that ends within a block */
        expect_size(&i, 16 * MIB + 512, ERROR_DEVICE_CHANGED, "16777728");

        CEPH_RBD(&ceph, (char *) "resize", (char *) "--no-progress", (char *) "--size", (char *) "32M", (char *) "kube/sized");
        expect_size(&i, 16 * MIB, ERROR_DEVICE_CHANGED, "33554432");
        cr_assert_eq(i.size, 32 * MIB);
        cr_assert_lt(block_prove_blank(&m, fd, 16 * MIB, &s, &err), 0, "the kernel has not heard of it yet");
        cr_assert_eq(err.code, ERROR_DEVICE_CHANGED, "%s", err.text);
        error_done(&err);

        cr_assert(ftruncate(fd, 32 * MIB) >= 0);
        CEPH_RBD(&ceph, (char *) "resize", (char *) "--no-progress", (char *) "--allow-shrink", (char *) "--size", (char *) "16M",
                 (char *) "kube/sized");
        cr_assert_lt(block_prove_blank(&m, fd, 32 * MIB, &s, &err), 0, "it has shrunk");
        cr_assert_eq(err.code, ERROR_DEVICE_CHANGED, "%s", err.text);

        CEPH_RBD(&ceph, (char *) "rm", (char *) "--no-progress", (char *) "kube/sized");
        image_create("sized", "16M", "layering");
        expect_size(&i, 16 * MIB, ERROR_RBD_IMAGE_NOT_FOUND, "removed");
        rbd_image_done(&i);
        node_stop(&n);
}

/* --- what is kept with the image --- */

static int keep_read(void *userdata, const char *what, char **ret, Error *err)
{
        return rbd_image_keep_read(userdata, what, ret, err);
}

static int keep_write(void *userdata, const char *what, const char *text, Error *err)
{
        return rbd_image_keep_write(userdata, what, text, err);
}

static int keep_remove(void *userdata, const char *what, Error *err)
{
        return rbd_image_keep_remove(userdata, what, err);
}

static const BlockKeeper keeper = { keep_read, keep_write, keep_remove };

Test(rbd_image, intents_and_memories_travel_with_the_image)
{
        const FormatIntent intent = { .fs_type = (char *) "ext4", .uuid = (char *) "01234567-89ab-4cde-8f01-23456789abcd", .size = 64 * MIB };
        _cleanup_intent_ FormatIntent seen = {};
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage ia = RBD_IMAGE_INIT, ib = RBD_IMAGE_INIT;
        Node a, b;

        node_start(&a, "foo");
        node_start(&b, "foo");
        image_open(&a, &ia);
        image_open(&b, &ib);
        cr_assert_str_eq(ia.lasting_id, ib.lasting_id);
        const BlockStorage sa = { .keeper = &keeper, .userdata = &ia, .lasting_id = ia.lasting_id };
        const BlockStorage sb = { .keeper = &keeper, .userdata = &ib, .lasting_id = ib.lasting_id };

        cr_assert_eq(intent_exists(&m, &sb, &err), 0);
        cr_assert_eq(intent_write(&m, &sa, "rbd:x", &intent, &err), 0, "%s", err.text);
        cr_assert_eq(intent_exists(&m, &sb, &err), 1, "the other node sees it");
        cr_assert_eq(intent_read(&m, &sb, &seen, &err), 1, "%s", err.text);
        cr_assert_str_eq(seen.uuid, intent.uuid);
        cr_assert_eq(seen.size, intent.size);
        cr_assert_eq(block_was_formatted(&m, &sb, &err), 0);
        cr_assert_eq(block_remember(&m, &sb, "rbd:x", "ext4", intent.uuid, intent.size, &err), 0, "%s", err.text);
        cr_assert_eq(intent_remove(&m, &sb, &err), 0);
        cr_assert_eq(intent_remove(&m, &sb, &err), 0, "twice");
        cr_assert_eq(intent_exists(&m, &sa, &err), 0);
        cr_assert_eq(block_was_formatted(&m, &sa, &err), 1);
        cr_assert_eq(block_forget(&m, &sa, &err), 0);
        cr_assert_eq(block_was_formatted(&m, &sb, &err), 0);

        /* what cannot be read refuses: neither formatting nor mounting is known to be right */
        CEPH_RBD(&ceph, (char *) "image-meta", (char *) "set", (char *) "kube/foo", (char *) "berth.formats", (char *) "{}");
        cr_assert_lt(intent_read(&m, &sa, &seen, &err), 0);
        cr_assert_eq(err.code, ERROR_RECORD_FAILED);
        CEPH_RBD(&ceph, (char *) "image-meta", (char *) "set", (char *) "kube/foo", (char *) "berth.volumes", (char *) "nonsense");
        cr_assert_eq(block_was_formatted(&m, &sa, NULL), 1);

        /* and what the cluster does not answer is not "no" */
        pid_t osd = ceph_pid(&ceph, "osd");
        kill(osd, SIGSTOP);
        error_done(&err);
        int formatted = block_was_formatted(&m, &sb, &err);
        kill(osd, SIGCONT);
        cr_assert_lt(formatted, 0);
        cr_assert_eq(err.code, ERROR_OSDS_UNREACHABLE, "%s", err.text);

        rbd_image_done(&ia);
        rbd_image_done(&ib);
        node_stop(&a);
        node_stop(&b);
}

/* An image that is removed while it is open has nothing to keep anything with: that must not look like "written", nor bring its header back. */
Test(rbd_image, nothing_is_kept_with_an_image_that_is_gone)
{
        const FormatIntent intent = { .fs_type = (char *) "ext4", .uuid = (char *) "01234567-89ab-4cde-8f01-23456789abcd", .size = 64 * MIB };

        for (unsigned k = 0; k < 2; k++) {
                _cleanup_error_ Error err = ERROR_INIT;
                RbdImage i = RBD_IMAGE_INIT;
                char object[128];
                uint64_t size;
                time_t time;
                Node n;

                image_create("gone", "16M", "layering");
                node_start(&n, "gone");
                image_open(&n, &i);
                const BlockStorage s = { .keeper = &keeper, .userdata = &i, .lasting_id = i.lasting_id };
                cr_assert_eq(intent_write(&m, &s, "rbd:x", &intent, &err), 0, "%s", err.text);
                snprintf(object, sizeof(object), "rbd_header.%s", i.id);
                if (k == 0)
                        cr_assert_eq(rados_remove(i.io, object), 0, "its header alone");
                else
                        CEPH_RBD(&ceph, (char *) "rm", (char *) "--no-progress", (char *) "kube/gone");

                cr_assert_lt(intent_write(&m, &s, "rbd:x", &intent, &err), 0, "an intent was written to nothing");
                cr_assert_eq(err.code, ERROR_RBD_IMAGE_NOT_FOUND, "%s", err.text);
                cr_assert(strstr(err.text, i.id), "'%s' does not name %s", err.text, i.id);
                error_done(&err);
                cr_assert_lt(block_remember(&m, &s, "rbd:x", "ext4", intent.uuid, intent.size, &err), 0);
                cr_assert_eq(err.code, ERROR_RBD_IMAGE_NOT_FOUND, "%s", err.text);
                error_done(&err);
                cr_assert_lt(intent_remove(&m, &s, &err), 0, "nobody knows what an image held that is gone");
                cr_assert_eq(err.code, ERROR_RBD_IMAGE_NOT_FOUND, "%s", err.text);
                cr_assert_eq(rados_stat(i.io, object, &size, &time), -ENOENT, "the header was made anew");
                rbd_image_done(&i);
                node_stop(&n);
                if (k == 0)
                        CEPH_RBD(&ceph, (char *) "rm", (char *) "--no-progress", (char *) "kube/gone");
        }
}

/* --- a formatting that the cluster falls silent in --- */

typedef struct Outage {
        RbdImage *image;
        unsigned verifies, at_verify; /* 0: never */
        bool at_write, slow; /* slow: the write takes so long that somebody else has taken the image meanwhile */
        pid_t osd;
} Outage;

static int outage_verify(void *userdata, uint64_t size, char **ret_version, Error *err)
{
        Outage *o = userdata;

        if (++o->verifies == o->at_verify)
                kill(o->osd, SIGSTOP);
        if (o->slow && o->verifies > 2)
                return error_set(err, ERROR_IN_USE, EBUSY, "Image %s is in use", o->image->spec);
        return rbd_image_check_size(o->image, size, err);
}

static int outage_extents(void *userdata, uint64_t size, int (*found)(const BlockExtent *e, void *arg), void *arg, Error *err)
{
        return rbd_image_extents(((Outage *) userdata)->image, size, found, arg, err);
}

static int outage_keep_read(void *userdata, const char *what, char **ret, Error *err)
{
        return rbd_image_keep_read(((Outage *) userdata)->image, what, ret, err);
}

static int outage_keep_write(void *userdata, const char *what, const char *text, Error *err)
{
        Outage *o = userdata;

        if (o->at_write)
                kill(o->osd, SIGSTOP);
        int r = rbd_image_keep_write(o->image, what, text, err);
        if (o->slow)
                sleep(6);
        return r;
}

static int outage_keep_remove(void *userdata, const char *what, Error *err)
{
        return rbd_image_keep_remove(((Outage *) userdata)->image, what, err);
}

static const BlockKeeper outage_keeper = { outage_keep_read, outage_keep_write, outage_keep_remove };

static void write_at(const char *path, uint64_t offset, const char *text)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);

        cr_assert(fd >= 0 && pwrite(fd, text, strlen(text), (off_t) offset) == (ssize_t) strlen(text) && fsync(fd) >= 0, "%s: %s", path,
                  strerror(errno));
}

static ErrorCode format_on(const BlockStorage *s, const char *device, char **ret_text)
{
        _cleanup_error_ Error err = ERROR_INIT;
        MounterResult r = {};
        struct stat st;

        cr_assert(stat(device, &st) >= 0);
        const MounterVolume v = { .key = (char *) "rbd-key", .identity = (char *) "rbd:x", .fs_type = (char *) "ext4", .device = (char *) device,
                                  .device_number = st.st_rdev };
        int k = block_format(&m, &v, s, &r, &err);
        mounter_result_done(&r);
        *ret_text = TAKE_PTR(err.text);
        return k < 0 ? err.code : ERROR_NONE;
}

/*
 * The device is a loop on a file, which stands for the map: before mkfs, or while the intent is written, OSDs do not answer, or not before somebody else has
 * the image. Once they do, no intent is there, not even late, and what others have written meanwhile is no torso. That the file is as it was shows that no mkfs
 * ran.
 */
Test(rbd_image, formatting_that_was_cut_short_by_an_outage_leaves_no_intent)
{
        static const char *const names[] = { "at-verify", "at-write", "slow-write" };

        m.settings.rbd_osd_timeout_usec = 2000000;
        for (unsigned k = 0; k < ELEMENTSOF(names); k++) {
                _cleanup_free_ char *path = NULL, *device = NULL, *text = NULL, *again = NULL, *before = NULL, *after = NULL;
                RbdImage i = RBD_IMAGE_INIT;
                const char *name = names[k];
                Node n;

                path = fixture_image(&f, name, 64 * MIB);
                cr_assert_eq(run((char *[]) { (char *) "losetup", (char *) "--find", (char *) "--show", path, NULL }, &device, NULL), 0);
                device[strcspn(device, "\n")] = 0;
                image_create(name, "64M", "layering");
                node_start(&n, name);
                image_open(&n, &i);
                Outage o = { .image = &i, .at_verify = k == 0 ? 2 : 0, .at_write = k == 1, .slow = k == 2, .osd = ceph_pid(&ceph, "osd") };
                const BlockStorage s = { .extents = outage_extents, .verify = outage_verify, .keeper = &outage_keeper, .userdata = &o,
                                         .lasting_id = i.lasting_id };

                ErrorCode code = format_on(&s, device, &text);
                kill(o.osd, SIGCONT);
                cr_assert_eq(code, k == 2 ? ERROR_IN_USE : ERROR_OSDS_UNREACHABLE, "%s: %s: %s", name, error_code_name(code), str_or(text, ""));
                _cleanup_error_ Error err = ERROR_INIT;
                /* what was sent before is done before */
                cr_assert_eq(intent_exists(&m, &s, &err), 0, "%s: an intent is there, and no mkfs was begun: %s", name, str_or(err.text, ""));

                o.at_verify = 0;
                o.at_write = o.slow = false;
                image_write(&n, name, 5 * MIB, 4096, 7);
                write_at(device, 5 * MIB, "data");
                before = file_checksum(path);
                code = format_on(&s, device, &again);
                cr_assert_eq(code, ERROR_NOT_BLANK, "%s: %s: %s", name, error_code_name(code), str_or(again, ""));
                after = file_checksum(path);
                cr_assert_str_eq(before, after, "%s", name);
                RUN_OK("losetup", "--detach", device);
                rbd_image_done(&i);
                node_stop(&n);
        }
}

/* --- size --- */

Test(rbd_image, grows_and_never_shrinks)
{
        _cleanup_error_ Error err = ERROR_INIT;
        RbdImage i = RBD_IMAGE_INIT;
        Node n;

        image_create("grow", "16M", "layering,exclusive-lock,object-map,fast-diff,deep-flatten");
        node_start(&n, "grow");
        image_open(&n, &i);
        cr_assert_eq(rbd_image_grow(&i, 32 * MIB, &err), 0, "%s", err.text);
        cr_assert_eq(i.size, 32 * MIB);
        cr_assert_eq(rbd_image_grow(&i, 32 * MIB, &err), 0);
        cr_assert_lt(rbd_image_grow(&i, 16 * MIB, &err), 0);
        cr_assert_eq(err.code, ERROR_SHRINK);
        rbd_image_done(&i);
        image_open(&n, &i);
        cr_assert_eq(i.size, 32 * MIB);
        rbd_image_done(&i);
        node_stop(&n);
}
