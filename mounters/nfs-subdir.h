/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "mounters/nfs-source.h"

/*
 * A private, unattached copy of the mount at staging_path, with s->sub_dir as its root, which is made if it
 * is missing and s says so. Asks the server, without limit. -ESTALE and -EIO come without an Error: the
 * stage itself does not work. Errors: SUB_DIRECTORY, EXPORT_DENIED.
 */
int nfs_subdir_clone(const char *staging_path, const NfsSource *s, int *ret_tree_fd, Error *err);
