/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Configuration: /etc/berth/berthd.conf and its drop-ins berthd.conf.d/<name>.conf (sorted by name, a later one wins), with the
 * command line's directories on top. Read by berthd, which passes what it read on to each mounter: a file that is being edited,
 * or has become wrong, counts for nobody until berthd has accepted it. Read also
 * by the shim (which needs [FlexVolume] alone and must answer `init` with the agent down).
 *
 * An unknown section or key, or a value that cannot be read, is an error that names file and key: a typing
 * error must not silently become a default. A missing file is fine.
 */

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/strmap.h"
#include "protocol/error.h"

typedef struct Settings {
        /* command line, and [Paths] of the file */
        char *config_file;
        char *socket;       /* Socket= */
        char *runtime_dir;  /* RuntimeDirectory=: records, locks, staging; tmpfs */
        char *state_dir;    /* StateDirectory=: intents, memory, images */
        char *kubelet_root; /* KubeletRoot= as configured */
        char *mounter_dir;  /* MounterDirectory= */
        char *kubelet_root_resolved; /* realpath of kubelet_root, by settings_resolve(); not configurable */

        /* [Agent] */
        uint64_t request_timeout_usec; /* RequestTimeoutSec=: answered by then, whatever happens */
        uint64_t step_timeout_usec;    /* StepTimeoutSec=: a killable step is killed after it */
        uint64_t reconcile_interval_usec; /* ReconcileIntervalSec=: full reconcile and health checks, with jitter */
        uint64_t linger_usec;          /* LingerSec=: an unpublished stage is undone after it */
        unsigned max_connections;      /* MaxConnections= */
        unsigned max_requests;         /* MaxRequests=: queued and running */
        char *admin_group;             /* AdminGroup=: may look over the system bus; "": nobody but root */

        /* [Mounters], for each kind */
        unsigned mounters_max;            /* Max=: processes at work at once */
        unsigned mounters_warm;           /* Warm=: kept started and idle */
        unsigned mounters_quarantine_max; /* QuarantineMax=: stuck processes before new requests are refused */
        uint64_t mounters_idle_usec;      /* IdleSec=: beyond Warm, an idle one is retired after it */
        unsigned mounters_operations_max; /* OperationsMax=: one is retired after so many */

        unsigned mounters_max_per_server; /* MaxPerServer=: of them, for one server; see daemon/mounter-group.h */

        /* [Targets] */
        char **targets_allow; /* Allow= */

        /* [Loop] */
        char **loop_directories; /* Directories= */
        bool loop_direct_io;     /* DirectIO= */

        /* [RBD] */
        char **rbd_allowed_monitors;       /* AllowedMonitors=: host or host:port; NULL: all */
        char **rbd_allowed_pools;          /* AllowedPools=: pool or pool/namespace; NULL: all */
        char **rbd_keyring_directories;    /* KeyringDirectories= */
        uint64_t rbd_connect_timeout_usec; /* ConnectTimeoutSec=: of librados; in whole seconds, at least one */
        uint64_t rbd_osd_timeout_usec;     /* OsdRequestTimeoutSec=: likewise, of librados' requests */
        uint64_t rbd_map_timeout_usec;     /* MapTimeoutSec=: the kernel client's mount_timeout and lock_timeout */
        uint64_t rbd_nbd_reattach_usec;    /* NbdReattachTimeoutSec=: how long I/O waits for an rbd-nbd that has died */
        char **rbd_map_options;            /* MapOptions=: for every map of the kernel client */
        uint64_t rbd_in_use_wait_usec;     /* InUseWaitSec=: how long a volume in use elsewhere is waited for */
        char *rbd_fence;                   /* Fence=: never, expired or force */

        /* [NFS] */
        char **nfs_allowed_servers;         /* AllowedServers=: names, *.domains, addresses, networks; empty: all */
        uint64_t nfs_preflight_timeout_usec; /* PreflightTimeoutSec=: all looks at a server before a mount */
        char **nfs_mount_options;           /* MountOptions=: where the volume says nothing else */
        uint64_t nfs_force_after_usec;      /* ForceAfterSec=: a stage nobody uses and whose server is dead; 0: never */

        /* [Format] */
        uint64_t max_proof_bytes; /* MaxProofBytes=: more to read than this and the proof is refused */

        /* [FlexVolume] */
        bool flexvolume_attach; /* Attach=: capabilities.attach of init */
        char *node_name;        /* NodeName=: default the host's name */

        StrMap given; /* "Section.Key" to the text it was set to, but for [Paths] */
} Settings;

#define SETTINGS_INIT ((Settings) {})

/* The compiled-in defaults. 0 or -ENOMEM. */
int settings_defaults(Settings *s);
/*
 * Defaults, then config_file (NULL: the default path) and its drop-ins. Only files that may not be written by others than
 * root and are readable count; anything else is an error. Errors: INVALID_ARGUMENT.
 */
int settings_load(Settings *s, const char *config_file, Error *err);
/* Fills kubelet_root_resolved. Touches the root's path only (never a volume below it); at start. */
int settings_resolve(Settings *s, Error *err);
void settings_done(Settings *s);
/* Every key with its value in force, as a configuration file that would give the same. */
void settings_print(const Settings *s, FILE *file);

/* Parsers shared with command lines: "64M", "1G", "512" (bytes, binary suffixes K M G T P); -EINVAL, -ERANGE. */
int parse_size(const char *s, uint64_t *ret);
/* "10", "10s", "5min", "100ms": microseconds; a bare number is seconds. */
int parse_usec(const char *s, uint64_t *ret);
int parse_unsigned(const char *s, unsigned *ret);
int parse_boolean(const char *s, bool *ret);

/*
 * The options that berthd and the mounters have in common, with one table for parsing, for passing on to
 * mounters and for --help: --config --socket --runtime-dir --state-dir --kubelet-root --mounter-dir; and for mounters --no-config
 * (read no file) and --set=Section.Key=VALUE (as if a file said it; unknown keys are ignored).
 * settings_from_arguments() parses argv (berthd's whole command line; extra options are returned in *ret_rest
 * as they stand), loads the file and resolves.
 */
int settings_from_arguments(Settings *s, int argc, char **argv, char ***ret_rest, Error *err);
/*
 * Reads it all anew. On failure s stays as it is. What berthd cannot change while it runs ([Paths]) keeps its value; *ret_fixed (strv,
 * owned by the caller) names those of it that now differ from the file.
 */
int settings_reload(Settings *s, int argc, char **argv, char ***ret_fixed, Error *err);
/* The arguments that make a mounter see the same settings; strv, owned by the caller. */
int settings_to_arguments(const Settings *s, char ***ret);

#define _cleanup_settings_ _cleanup_(settings_done)
