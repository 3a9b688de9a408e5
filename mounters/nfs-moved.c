/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * See nfs-moved.h. The kernel keeps to the address that a volume was mounted from: after a fail-over by DNS its mount waits for a
 * machine that does not come back, and nothing mounted there can be moved. Who asks here has found it silent already.
 */

#include "mounters/nfs-moved.h"

#include <libmount/libmount.h>
#include <netdb.h>
#include <string.h>

#include "mounters/bounded.h"

typedef struct Lookup {
        char host[256];
        struct addrinfo *found;
} Lookup;

static int look_up(void *argument)
{
        Lookup *l = argument;
        const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };

        return getaddrinfo(l->host, NULL, &hints, &l->found);
}

/* None of them is where it is mounted from, and ret answers. */
static bool judge(const struct addrinfo *found, const NfsMount *mount, uint64_t usec, char ret[NFS_ADDRESS_MAX])
{
        char address[NFS_ADDRESS_MAX];
        unsigned n = 1;

        for (const struct addrinfo *a = found; a; a = a->ai_next, n++)
                if (getnameinfo(a->ai_addr, a->ai_addrlen, address, sizeof(address), NULL, 0, NI_NUMERICHOST) == 0 &&
                    strcmp(address, mount->address) == 0)
                        return false;
        for (const struct addrinfo *a = found; a; a = a->ai_next)
                if (getnameinfo(a->ai_addr, a->ai_addrlen, address, sizeof(address), NULL, 0, NI_NUMERICHOST) == 0 &&
                    nfs_null(address, mount->port, mount->version, usec / n) == 0) {
                        memcpy(ret, address, sizeof(address));
                        return true;
                }
        return false;
}

bool nfs_server_moved(Mounter *m, const NfsMount *found, uint64_t usec, char ret[NFS_ADDRESS_MAX])
{
        const char *end = strstr(found->source, ":/");
        int e = 0;

        /* "[fd00::1]:/x" is an address */
        if (!end || *found->source == '[' || (size_t) (end - found->source) >= sizeof(((Lookup *) NULL)->host) || !*found->address)
                return false;
        Lookup *l = calloc(1, sizeof(*l));
        if (!l)
                return false;
        memcpy(l->host, found->source, (size_t) (end - found->source));
        int r = bounded_call(m, usec, look_up, l, &e);
        if (r == -ETIMEDOUT) /* the thread still has it */
                return false;
        bool moved = r >= 0 && e == 0 && judge(l->found, found, usec, ret);
        if (l->found)
                freeaddrinfo(l->found);
        free(l);
        return moved;
}

bool nfs_mounted_only_at(const char *path, dev_t device)
{
        struct libmnt_table *table = mnt_new_table_from_file("/proc/self/mountinfo");
        struct libmnt_iter *iter = mnt_new_iter(MNT_ITER_FORWARD);
        struct libmnt_fs *fs = NULL;
        bool only = table && iter;

        while (only && mnt_table_next_fs(table, iter, &fs) == 0)
                only = mnt_fs_get_devno(fs) != device || strcmp(str_or(mnt_fs_get_target(fs), ""), path) == 0;
        mnt_free_iter(iter);
        mnt_unref_table(table);
        return only;
}
