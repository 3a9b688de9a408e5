/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Configuration: /etc/berth/berthd.conf and its drop-ins berthd.conf.d/<name>.conf (sorted by name, a later one wins), with the
 * command line's directories on top. Read by berthd, by each mounter (berthd passes its own options on) and
 * by the shim (which needs [FlexVolume] alone and must answer `init` with the agent down).
 *
 * An unknown section or key, or a value that cannot be read, is an error that names file and key: a typing
 * error must not silently become a default. A missing file is fine.
 */

#include <stdbool.h>
#include <stdint.h>

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

        /* [Mounters], for each kind */
        unsigned mounters_max;            /* Max=: processes at work at once */
        unsigned mounters_warm;           /* Warm=: kept started and idle */
        unsigned mounters_quarantine_max; /* QuarantineMax=: stuck processes before new requests are refused */
        uint64_t mounters_idle_usec;      /* IdleSec=: beyond Warm, an idle one is retired after it */
        unsigned mounters_operations_max; /* OperationsMax=: one is retired after so many */

        /* [Targets] */
        char **targets_allow; /* Allow= */

        /* [Loop] */
        char **loop_directories; /* Directories= */
        bool loop_direct_io;     /* DirectIO= */

        /* [Format] */
        uint64_t max_proof_bytes; /* MaxProofBytes=: more to read than this and the proof is refused */

        /* [FlexVolume] */
        bool flexvolume_attach; /* Attach=: capabilities.attach of init */
        char *node_name;        /* NodeName=: default the host's name */
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

/* Parsers shared with command lines: "64M", "1G", "512" (bytes, binary suffixes K M G T P); -EINVAL, -ERANGE. */
int parse_size(const char *s, uint64_t *ret);
/* "10", "10s", "5min", "100ms": microseconds; a bare number is seconds. */
int parse_usec(const char *s, uint64_t *ret);
int parse_unsigned(const char *s, unsigned *ret);
int parse_boolean(const char *s, bool *ret);

/*
 * The options that berthd and the mounters have in common, with one table for parsing, for passing on to
 * mounters and for --help: --config --socket --runtime-dir --state-dir --kubelet-root --mounter-dir.
 * settings_from_arguments() parses argv (berthd's whole command line; extra options are returned in *ret_rest
 * as they stand), loads the file and resolves.
 */
int settings_from_arguments(Settings *s, int argc, char **argv, char ***ret_rest, Error *err);
/* The arguments that make a mounter see the same settings; strv, owned by the caller. */
int settings_to_arguments(const Settings *s, char ***ret);

#define _cleanup_settings_ _cleanup_(settings_done)
