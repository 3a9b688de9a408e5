/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What berth reads and writes of RBD images by librbd, beside a real Ceph: the proof of blankness, what is kept with the image, who uses
 * it, fencing, growing. The image's bytes are read through rbd-fuse, as the kernel's device would give them.
 */

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ceph.h"
#include "mounters/block/internal.h"
#include "mounters/rbd-image.h"
#include "mounters/rbd-use.h"

#define MIB UINT64_C(1048576)

static Fixture f;
static Ceph ceph;
static Mounter m = { .runtime_fd = -EBADF, .state_fd = -EBADF, .lock_fd = -EBADF };

/* A node: a connection of its own, as client.kube. */
typedef struct Node {
        RbdClusters clusters;
        RbdCluster *cluster;
        StrMap options;
        RbdSource source;
} Node;

static void setup(void)
{
        fixture_init(&f);
        ceph_start(&ceph, f.dir);
        cr_assert_eq(settings_defaults(&m.settings), 0);
        m.settings.rbd_osd_timeout_usec = 5000000;
}

static void teardown(void)
{
        settings_done(&m.settings);
        ceph_stop(&ceph);
        fixture_done(&f);
}

TestSuite(rbd_image, .init = setup, .fini = teardown, .timeout = 180);

static void node_start(Node *n, const char *image)
{
        _cleanup_error_ Error err = ERROR_INIT;

        *n = (Node) {};
        strmap_set(&n->options, "monitors", ceph.monitor_v2);
        strmap_set(&n->options, "pool", "kube");
        strmap_set(&n->options, "image", image);
        strmap_set(&n->options, "user", "kube");
        cr_assert_eq(rbd_source_read(&m.settings, &n->options, &n->source, &err), 0, "%s", err.text);
        cr_assert_eq(rbd_cluster_get(&n->clusters, &m.settings, &n->source, ceph.kube_key, &n->cluster, &err), 0, "%s", err.text);
}

static void node_stop(Node *n)
{
        rbd_clusters_done(&n->clusters);
        rbd_source_done(&n->source);
        strmap_done(&n->options);
}

static void image_open(Node *n, RbdImage *i)
{
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(rbd_image_open(n->cluster, &n->source, i, &err), 0, "%s", err.text);
}

static void image_create(const char *name, const char *size, const char *features)
{
        _cleanup_free_ char *spec = NULL;

        cr_assert(asprintf(&spec, "kube/%s", name) >= 0);
        CEPH_RBD(&ceph, (char *) "create", (char *) "--size", (char *) size, (char *) "--image-feature", (char *) features, spec);
}

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

Test(rbd_image, a_writer_elsewhere_is_seen_and_named)
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
Test(rbd_image, a_lock_left_by_a_client_of_this_node_is_taken)
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

Test(rbd_image, a_lock_of_a_person_counts)
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

Test(rbd_image, fencing_ends_the_others_writes)
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
Test(rbd_image, who_wrote_last_is_fenced_when_its_watch_expired)
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

Test(rbd_image, what_is_kept_changes_only_from_what_was_read)
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
Test(rbd_image, who_wakes_up_late_does_not_overwrite_the_note)
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
Test(rbd_image, each_map_has_a_note_of_its_own)
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
Test(rbd_image, who_gives_way_puts_the_note_back)
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
Test(rbd_image, a_frozen_owner_is_fenced_for_years)
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
        setup();
}

TestSuite(rbd_nodes, .init = nodes_setup, .fini = teardown, .timeout = 180);

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
Test(rbd_image, fencing_by_hand)
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
Test(rbd_image, fencing_by_hand_of_who_is_not_seen)
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
