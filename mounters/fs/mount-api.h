/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * The mount API of Linux 5.2 and 5.12, which glibc 2.34 (RHEL 9) does not wrap, and statmount() of Linux 6.8, of which
 * older headers know nothing. Each returns what the system call does: -1 with errno on failure.
 */

/* in this order: glibc's enum of MS_* names must be seen before the kernel's macros */
#include <sys/mount.h>

#include <linux/mount.h>
#include <stddef.h>
#include <stdint.h>
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

static inline int sys_fsopen(const char *type, unsigned flags)
{
        return (int) syscall(SYS_fsopen, type, flags);
}

static inline int sys_fsconfig(int fd, unsigned command, const char *key, const char *value)
{
        return (int) syscall(SYS_fsconfig, fd, command, key, value, 0);
}

static inline int sys_fsmount(int fd, unsigned flags, unsigned attributes)
{
        return (int) syscall(SYS_fsmount, fd, flags, attributes);
}

#define MOUNT_STATE_OPTIONS UINT64_C(0x80) /* STATMOUNT_MNT_OPTS; Linux 6.11 */
#ifndef SYS_statmount
#define SYS_statmount 457 /* where berth is built; alpha and mips have numbers of their own */
#endif

/* struct statmount: what we read of it. Strings are in what follows the first 512 bytes. */
typedef struct MountStateBuffer {
        uint32_t size;
        uint32_t options; /* offset in strings */
        uint64_t mask;    /* what was filled in */
        uint64_t unread[62];
        char strings[3584];
} MountStateBuffer;
_Static_assert(offsetof(MountStateBuffer, strings) == 512, "struct statmount of the kernel");

/* id as STATX_MNT_ID_UNIQUE tells it. */
static inline int sys_statmount(uint64_t id, uint64_t mask, MountStateBuffer *ret)
{
        const struct {
                uint32_t size, unused;
                uint64_t id, mask;
        } request = { .size = sizeof(request), .id = id, .mask = mask };

        return (int) syscall(SYS_statmount, &request, ret, sizeof(*ret), 0);
}
