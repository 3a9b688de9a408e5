/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Warm librados connections. Runs in the rbd mounter, whose process they last as long as; blocks for the time limits at most.
 *
 * Invariants: nothing of the node's configuration is read (a ceph.conf would bring logs, admin sockets and a keyring of its own);
 * a connection is used again only for the same monitors, user and key, so that nobody gains another's access; the key is passed to
 * librados alone, and kept here as a digest.
 */

#include "mounters/rbd-cluster.h"

#include <string.h>

#include "base/digest.h"
#include "mounters/rbd-monitors.h"

static void cluster_free(RbdCluster *c)
{
        if (c->rados)
                rados_shutdown(c->rados);
        free(c->mon_host);
        free(c->user);
        free(c);
}
DEFINE_POINTER_CLEANUP(RbdCluster *, cluster_free);

void rbd_clusters_done(RbdClusters *c)
{
        for (size_t i = 0; i < RBD_CLUSTERS_MAX; i++)
                if (c->items[i])
                        cluster_free(c->items[i]);
        *c = (RbdClusters) {};
}

void rbd_cluster_drop(RbdClusters *c, RbdCluster *cluster)
{
        for (size_t i = 0; i < RBD_CLUSTERS_MAX; i++)
                if (c->items[i] == cluster) {
                        cluster_free(cluster);
                        c->items[i] = NULL;
                }
}

/* librados takes whole seconds; a fraction is refused and leaves the default, hence the look. */
static int conf_set_seconds(rados_t r, const char *name, uint64_t usec, Error *err)
{
        char text[24], seen[64] = "";
        uint64_t seconds = (usec + 999999) / 1000000;

        snprintf(text, sizeof(text), "%llu", (unsigned long long) (seconds > 0 ? seconds : 1));
        int k = rados_conf_set(r, name, text);
        if (k >= 0)
                k = rados_conf_get(r, name, seen, sizeof(seen));
        if (k < 0 || strtoull(seen, NULL, 10) != strtoull(text, NULL, 10))
                return error_set(err, ERROR_INTERNAL, k < 0 ? k : -EINVAL, "librados does not take %s=%s (it has '%s')", name, text,
                                 seen);
        return 0;
}

static int cluster_configure(rados_t r, const Settings *settings, const char *mon_host, const char *key, Error *err)
{
        const struct {
                const char *name, *value;
        } options[] = {
                { "mon_host", mon_host },
                { "keyring", "/dev/null" },
                { "key", key },
                { "auth_client_required", "cephx" },
                { "log_to_stderr", "false" },
                { "err_to_stderr", "false" },
                { "log_file", "" },
                { "log_to_syslog", "false" },
                { "admin_socket", "" },
                { "rbd_cache", "false" }, /* nothing is written through librbd but metadata and size */
        };

        for (size_t i = 0; i < ELEMENTSOF(options); i++) {
                int k = rados_conf_set(r, options[i].name, options[i].value);
                if (k < 0)
                        return error_set(err, ERROR_INTERNAL, k, "librados does not take option %s: %s", options[i].name,
                                         strerror(-k));
        }
        int k = conf_set_seconds(r, "client_mount_timeout", settings->rbd_connect_timeout_usec, err);
        if (k >= 0)
                k = conf_set_seconds(r, "rados_mon_op_timeout", settings->rbd_connect_timeout_usec, err);
        if (k >= 0)
                k = conf_set_seconds(r, "rados_osd_op_timeout", settings->rbd_osd_timeout_usec, err);
        return k;
}

static int connect_failed(const RbdSource *s, const char *mon_host, int r, Error *err)
{
        switch (-r) {
        case ETIMEDOUT:
                return error_set(err, ERROR_MONITORS_UNREACHABLE, r, "No monitor of %s answered", mon_host);
        case EACCES:
        case EPERM:
                return error_set(err, ERROR_KEY_REFUSED, r, "The monitors of %s refuse client.%s: it does not exist, or its key is another",
                                 mon_host, s->user);
        case EINVAL:
        case ENOENT:
                return error_set(err, ERROR_MONITORS_UNREACHABLE, r, "No monitor of %s has an address that can be used (are the names resolved?)",
                                 mon_host);
        default:
                return error_set(err, ERROR_MONITORS_UNREACHABLE, r, "Cannot connect to the monitors %s: %s", mon_host, strerror(-r));
        }
}

static int cluster_connect(const Settings *settings, const RbdSource *s, const char *mon_host, const char *key, RbdCluster **ret,
                           Error *err)
{
        _cleanup_(cluster_freep) RbdCluster *c = calloc(1, sizeof(*c));
        _cleanup_rbd_addresses_ RbdAddresses a = RBD_ADDRESSES_INIT;
        char name[RBD_NAME_MAX + 8];
        int r = rbd_monitors_answering(s, 0, settings->rbd_connect_timeout_usec, &a, err);

        if (r < 0)
                return r;
        if (!c || str_replace(&c->mon_host, mon_host) < 0 || str_replace(&c->user, s->user) < 0)
                return error_oom(err);
        snprintf(name, sizeof(name), "client.%s", s->user);
        r = rados_create2(&c->rados, "ceph", name, 0);
        if (r < 0) {
                c->rados = NULL;
                return error_set(err, ERROR_INTERNAL, r, "Cannot begin with librados as %s: %s", name, strerror(-r));
        }
        r = cluster_configure(c->rados, settings, a.mon_host, key, err);
        if (r < 0)
                return r;
        r = rados_connect(c->rados);
        if (r < 0)
                return connect_failed(s, mon_host, r, err);
        r = rados_cluster_fsid(c->rados, c->fsid, sizeof(c->fsid));
        if (r < 0)
                return error_set(err, ERROR_MONITORS_UNREACHABLE, r, "The cluster of %s does not tell its fsid: %s", mon_host,
                                 strerror(-r));
        *ret = TAKE_PTR(c);
        return 0;
}

int rbd_cluster_get(RbdClusters *c, const Settings *settings, const RbdSource *s, const char *key, RbdCluster **ret, Error *err)
{
        _cleanup_free_ char *mon_host = rbd_source_mon_host(s);
        uint8_t digest[32];
        size_t oldest = 0;

        if (!mon_host)
                return error_oom(err);
        digest_sha256(key, strlen(key), digest);
        for (size_t i = 0; i < RBD_CLUSTERS_MAX; i++) {
                RbdCluster *x = c->items[i];
                if (x && strcmp(x->mon_host, mon_host) == 0 && strcmp(x->user, s->user) == 0 &&
                    memcmp(x->key_digest, digest, sizeof(digest)) == 0) {
                        x->used = ++c->n_used;
                        *ret = x;
                        return 0;
                }
                if (!x || (c->items[oldest] && x->used < c->items[oldest]->used))
                        oldest = i;
        }

        RbdCluster *new = NULL;
        int r = cluster_connect(settings, s, mon_host, key, &new, err);
        if (r < 0)
                return r;
        memcpy(new->key_digest, digest, sizeof(digest));
        new->used = ++c->n_used;
        if (c->items[oldest])
                cluster_free(c->items[oldest]);
        c->items[oldest] = *ret = new;
        return 0;
}

char *rbd_cluster_address(const RbdCluster *c)
{
        char *all = NULL, *one;

        if (rados_getaddrs(c->rados, &all) < 0)
                return NULL;
        one = strdup(all);
        rados_buffer_free(all);
        return one;
}
