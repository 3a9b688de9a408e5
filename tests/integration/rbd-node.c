/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See rbd-node.h. Runs in the tests. */

#include "rbd-node.h"

#include <criterion/criterion.h>
#include <string.h>

Fixture f;
Ceph ceph;
Mounter m = { .runtime_fd = -EBADF, .state_fd = -EBADF, .lock_fd = -EBADF };

void ceph_setup(void)
{
        fixture_init(&f);
        ceph_start(&ceph, f.dir);
        cr_assert_eq(settings_defaults(&m.settings), 0);
        m.settings.rbd_osd_timeout_usec = 5000000;
}

void ceph_teardown(void)
{
        settings_done(&m.settings);
        ceph_stop(&ceph);
        fixture_done(&f);
}

void node_start(Node *n, const char *image)
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

void node_stop(Node *n)
{
        rbd_clusters_done(&n->clusters);
        rbd_source_done(&n->source);
        strmap_done(&n->options);
}

void image_open(Node *n, RbdImage *i)
{
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert_eq(rbd_image_open(n->cluster, &n->source, i, &err), 0, "%s", err.text);
}

void image_create(const char *name, const char *size, const char *features)
{
        _cleanup_free_ char *spec = NULL;

        cr_assert(asprintf(&spec, "kube/%s", name) >= 0);
        CEPH_RBD(&ceph, (char *) "create", (char *) "--size", (char *) size, (char *) "--image-feature", (char *) features, spec);
}
