/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The driver's options, made into what is to be mounted. Lexical: no name is resolved and no server asked.
 * Every string comes from a pod's author.
 */

#include <stdbool.h>
#include <sys/types.h>

#include "base/strmap.h"
#include "protocol/error.h"
#include "protocol/settings.h"

#define NFS_PORT 2049U

typedef enum NfsVersion {
        NFS_VERSION_ANY, /* the highest that both sides have */
        NFS_VERSION_3,
        NFS_VERSION_4_0,
        NFS_VERSION_4_1,
        NFS_VERSION_4_2,
        _NFS_VERSION_MAX,
        _NFS_VERSION_INVALID = -EINVAL,
} NfsVersion;

typedef struct NfsSource {
        char *host;    /* for the resolver: lower case, without brackets */
        char *server;  /* the same with brackets around IPv6: for people, the kernel and the identity */
        char *export;  /* absolute, without doubled or trailing slashes */
        char *sub_dir; /* relative, likewise; NULL: the export itself */
        bool create_sub_dir;
        mode_t mode; /* of a sub_dir that is made; (mode_t) -1: as it comes */
        gid_t gid;   /* likewise; (gid_t) -1 */
        NfsVersion version;
        unsigned port;      /* 0: the usual way to find it */
        bool is_numeric;    /* host is an address */
        bool check_address; /* only an address of it can tell whether the server is allowed */
        char **options; /* of the superblock, sorted, each once, defaults filled in; without vers and port */
        char *identity, *key, *group;
} NfsSource;

#define NFS_SOURCE_INIT ((NfsSource){.mode = (mode_t) -1, .gid = (gid_t) -1})

/* Errors: INVALID_ARGUMENT, UNKNOWN_OPTION, FORBIDDEN_OPTION, SERVER_NOT_ALLOWED. */
int nfs_source_parse(const StrMap *options, char *const *mount_options, const Settings *settings,
                     NfsSource *ret, Error *err);
void nfs_source_done(NfsSource *s);
#define _cleanup_nfs_source_ _cleanup_(nfs_source_done)

const char *nfs_version_to_string(NfsVersion v); /* "4.2"; a static string */
/* The value of a superblock option, "" if it stands alone, NULL if it is not there. */
const char *nfs_source_option(const NfsSource *s, const char *name);

/* Whether an address (struct in_addr or in6_addr, by family) is in a list of [NFS] AllowedServers=. */
bool nfs_address_is_allowed(int family, const void *address, char *const *allowed);
