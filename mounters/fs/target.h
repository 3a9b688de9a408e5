/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Targets, reached safely (promise 5). target_parse() has checked the string; here the directory is opened
 * below its root by openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS.
 */

#include "protocol/target.h"

/*
 * Opens the target itself, O_PATH | O_DIRECTORY. For publishing only: on an unpublish a mounted target may be a
 * dead server, and an open descriptor makes umount2(2) answer EBUSY.
 * Errors: TARGET_MISSING, TARGET_INVALID (a link on the way, not a directory).
 */
int target_open(const Target *t, Error *err);

/*
 * Opens the parent directory, O_PATH | O_DIRECTORY; *ret_name points to the last component within t->relative.
 * -ENOENT in the return value with ERROR_TARGET_MISSING if the parent is gone.
 */
int target_open_parent(const Target *t, const char **ret_name, Error *err);
