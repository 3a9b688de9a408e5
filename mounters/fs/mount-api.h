/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The mount API of Linux 5.2 and 5.12, which glibc 2.34 (RHEL 9) does not wrap. Each returns what the system call
 * does: -1 with errno on failure.
 */

/* in this order: glibc's enum of MS_* names must be seen before the kernel's macros */
#include <sys/mount.h>

#include <linux/mount.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline int sys_open_tree(int dir_fd, const char *path, unsigned flags)
{
        return (int) syscall(SYS_open_tree, dir_fd, path, flags);
}

static inline int sys_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
        return (int) syscall(SYS_move_mount, from_fd, from, to_fd, to, flags);
}

static inline int sys_mount_setattr(int dir_fd, const char *path, unsigned flags, struct mount_attr *attr)
{
        return (int) syscall(SYS_mount_setattr, dir_fd, path, flags, attr, sizeof(*attr));
}
