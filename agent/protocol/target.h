/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The lexical half of the target rule (promise 5): which strings may name a target at all. It looks at the
 * string only. The other half, reaching the directory without following links, is mounters/fs/target.h.
 *
 * A target is
 *      <kubelet root>/pods/<uid>/volumes/<vendor~driver>/<name>                               (a pod's volume)
 *      <kubelet root>/plugins/kubernetes.io/flexvolume/<vendor>/<driver>/mounts/<name>        (attach:true's global)
 *      <a directory of [Targets] Allow=>/<one or more names>
 */

#include "protocol/error.h"
#include "protocol/settings.h"

typedef enum TargetKind {
        TARGET_POD,
        TARGET_GLOBAL,
        TARGET_ALLOWED,
        _TARGET_KIND_MAX,
        _TARGET_KIND_INVALID = -EINVAL,
} TargetKind;

typedef struct Target {
        TargetKind kind;
        char *path;     /* canonical: the resolved root joined with relative; the name under which it is kept */
        char *root;     /* the resolved directory below which no link is followed */
        char *relative; /* path below root, without leading slash; its last component is the mount point */
        char *pod_uid;  /* TARGET_POD only, else NULL */
} Target;

#define TARGET_INIT ((Target) {})

/*
 * Checks and takes apart a path as given in a request: absolute, at most PATH_MAX - 1 bytes, no empty, "."
 * or ".." component, no component over NAME_MAX bytes; a single trailing slash is accepted. Any other byte
 * but NUL may stand in it. The kubelet root is accepted as configured and as resolved (it is often a link).
 * Errors: TARGET_INVALID (malformed), TARGET_NOT_ALLOWED (elsewhere).
 */
int target_parse(const char *path, const Settings *settings, Target *ret, Error *err);
void target_done(Target *t);

#define _cleanup_target_ _cleanup_(target_done)
