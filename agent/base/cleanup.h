/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * Scope-bound release of *process* resources: memory, descriptors, library handles.
 *
 * Kernel side effects (a map, a mount, a file system) are never undone from here: a crash skips these
 * attributes, so such effects are undone by recorded steps instead (see agent/daemon/volume.h).
 *
 * A variable with a cleanup attribute must be initialised where it is declared: pointers to NULL,
 * descriptors to -EBADF.
 */

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(f) __attribute__((cleanup(f)))
#define _printf_(a, b) __attribute__((format(printf, a, b)))
#define _warn_unused_ __attribute__((warn_unused_result))
#define _unused_ __attribute__((unused))

/* Moves ownership out of a variable: the cleanup then sees the harmless value. */
#define TAKE_PTR(p)                                                                                          \
        ({                                                                                                   \
                __typeof__(p) *_pp = &(p);                                                                   \
                __typeof__(p) _p = *_pp;                                                                     \
                *_pp = NULL;                                                                                 \
                _p;                                                                                          \
        })
#define TAKE_FD(fd)                                                                                          \
        ({                                                                                                   \
                int *_fdp = &(fd);                                                                           \
                int _fd = *_fdp;                                                                             \
                *_fdp = -EBADF;                                                                              \
                _fd;                                                                                         \
        })

/* Defines `void freep(type *p)` for use with _cleanup_(), calling func(*p) for a non-NULL pointer. */
#define DEFINE_POINTER_CLEANUP(type, func)                                                                   \
        static inline _unused_ void func##p(type *p)                                                         \
        {                                                                                                    \
                if (*p)                                                                                      \
                        func(*p);                                                                            \
        }                                                                                                    \
        struct _berth_dummy_##func /* swallows the semicolon */

static inline void freep(void *p)
{
        free(*(void **) p);
}

/*
 * Closes and returns -EBADF, so that `fd = close_fd(fd)` is idempotent. close() is never retried: on Linux
 * the descriptor is released even when it answers EINTR (close(2)). errno is left as it was.
 */
static inline int close_fd(int fd)
{
        if (fd >= 0) {
                int saved = errno;
                close(fd);
                errno = saved;
        }
        return -EBADF;
}

static inline void closep(int *fd)
{
        *fd = close_fd(*fd);
}

DEFINE_POINTER_CLEANUP(FILE *, fclose);
DEFINE_POINTER_CLEANUP(DIR *, closedir);

#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)
#define _cleanup_fclose_ _cleanup_(fclosep)
#define _cleanup_closedir_ _cleanup_(closedirp)

#define ELEMENTSOF(a) (sizeof(a) / sizeof((a)[0]))
