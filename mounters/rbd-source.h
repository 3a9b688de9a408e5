/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The rbd kind's options, as the PersistentVolume's `rbd` field has them: what a pod's author wrote, checked as text and against
 * the lists of berthd.conf. Nothing here knows of librados or the kernel.
 *
 * Names are refused that any of their readers would read as something else: sysfs takes a line of words, a map option ends at
 * a comma, an image is named pool/namespace/image@snapshot.
 */

#include <netinet/in.h>

#include "mounters/mounter.h"

/* RBD's own limits, and what fits into the line that sysfs takes (one page). */
#define RBD_NAME_MAX 96U
#define RBD_MONITORS_MAX 16U
#define RBD_FEATURES_NAMED 12U

typedef enum RbdMapper {
        RBD_MAPPER_AUTO,
        RBD_MAPPER_KRBD,
        RBD_MAPPER_NBD,
        _RBD_MAPPER_MAX,
        _RBD_MAPPER_INVALID = -EINVAL,
} RbdMapper;

typedef struct RbdMonitor {
        char host[254];   /* an address, IPv6 without brackets, or a name */
        uint16_t port;    /* 0: not given */
        uint8_t protocol; /* messenger 1 or 2; 0: not given */
} RbdMonitor;

/* Strings belong to the volume's source. */
typedef struct RbdSource {
        RbdMonitor *monitors; /* owned */
        size_t n_monitors;
        const char *pool, *space /* the namespace, "" by default */, *image, *snapshot /* NULL: the image itself */;
        const char *user;     /* without "client." */
        const char *keyring;  /* NULL: not given */
        RbdMapper mapper;
        char **map_options;   /* owned */
        unsigned image_format; /* 0: not given */
        uint64_t features;     /* as asked for */
        bool has_features;
} RbdSource;

#define RBD_SOURCE_INIT ((RbdSource) {})
void rbd_source_done(RbdSource *s);
#define _cleanup_rbd_source_ _cleanup_(rbd_source_done)

/*
 * Reads and checks the options. Errors: UNKNOWN_OPTION, INVALID_ARGUMENT, FORBIDDEN_OPTION (a map option), CLUSTER_FORBIDDEN. No text
 * quotes a value that might be a secret.
 */
int rbd_source_read(const Settings *settings, const StrMap *source, RbdSource *ret, Error *err);

/* "rbd:<fsid>/<pool>[/<namespace>]/<image>[@<snapshot>]" and its key, "rbd-<32 hex digits>". NULL if out of memory. */
char *rbd_identity(const char *fsid, const char *pool, const char *space, const char *image, const char *snapshot);
char *rbd_key(const char *identity);
/* "<pool>[/<namespace>]/<image>[@<snapshot>]", for texts. NULL if out of memory. */
char *rbd_source_spec(const RbdSource *s);

/* Monitors as librados takes them in mon_host; the same for each order. NULL if out of memory. */
char *rbd_source_mon_host(const RbdSource *s);

/* Features by name, with commas between; unknown bits as "bit 12". The caller frees it; NULL if out of memory. */
char *rbd_feature_names(uint64_t features);
/* 0 for a name that is not known. */
uint64_t rbd_feature_bit(const char *name);

/* What of a map option list the kernel would take is checked here, for [RBD] MapOptions= (trusted) and the volume's own. */
typedef enum RbdTrust { RBD_TRUST_VOLUME, RBD_TRUST_OPERATOR } RbdTrust;
int rbd_map_option_check(const char *option, RbdTrust trust, Error *err);

/*
 * The key of the user: the Secret's `key` or `userKey`, else from the keyring that is named, else from ceph.client.<user>.keyring, ceph.keyring or
 * keyring in [RBD] KeyringDirectories=. base64 text; the caller erases and frees it (rbd_secret_free). Errors: KEYRING_INVALID,
 * KEY_INVALID.
 */
int rbd_source_key(const Settings *settings, const RbdSource *s, const StrMap *secrets, char **ret, Error *err);
void rbd_secret_free(char *s);
DEFINE_POINTER_CLEANUP(char *, rbd_secret_free);
#define _cleanup_secret_ _cleanup_(rbd_secret_freep)

/* Decodes a key into the bytes that the kernel's keyring takes: at most 64. The size, or -EINVAL. */
int rbd_key_decode(const char *key, uint8_t ret[static 64]);
/* Finds [client.<user>] key = … in a keyring's text: 1 and *ret, 0 if there is none. Pure. */
int rbd_keyring_parse(const char *text, const char *user, char **ret);
