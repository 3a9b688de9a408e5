/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The proof that a device is blank: every allocated byte is read and is zero. Runs in mounters, as part of the
 * step Format that must finish; blocks for as long as the reading takes.
 *
 * Invariants: no sampling; whatever cannot be read, or is not as large as it was, is not blank; what the
 * storage does not vouch for is read. The reads bypass the page cache where the device allows that, both
 * because a cache proves nothing about the device and because a hundred gigabytes of zeros would evict what others need.
 */

#include "mounters/block/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#define CHUNK (4UL * 1024 * 1024)
#define ALIGNMENT 4096UL /* no logical block is larger */

typedef struct ExtentList {
        BlockExtent *items;
        size_t n, allocated;
        uint64_t device_size, total; /* bytes */
} ExtentList;

static void extent_list_done(ExtentList *l)
{
        free(l->items);
        *l = (ExtentList) {};
}

/* Adds an extent, widened to the alignment of direct I/O and cut to the device's size. */
static int extent_add(const BlockExtent *e, void *arg)
{
        ExtentList *l = arg;
        uint64_t start = e->offset & ~(ALIGNMENT - 1), end = l->device_size;

        if (e->size == 0 || e->offset >= l->device_size)
                return 0;
        if (e->size < l->device_size - e->offset)
                end = e->offset + e->size;
        if (l->device_size - end > ALIGNMENT)
                end = (end + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
        else
                end = l->device_size;

        BlockExtent *last = l->n > 0 ? &l->items[l->n - 1] : NULL;
        if (last && start >= last->offset && start <= last->offset + last->size) {
                if (end <= last->offset + last->size)
                        return 0;
                l->total += end - (last->offset + last->size);
                last->size = end - last->offset;
                return 0;
        }
        if (l->n == l->allocated) {
                size_t want = l->allocated ? l->allocated * 2 : 64;
                BlockExtent *grown = reallocarray(l->items, want, sizeof(*grown));
                if (!grown)
                        return -ENOMEM;
                l->items = grown;
                l->allocated = want;
        }
        l->items[l->n++] = (BlockExtent) { start, end - start };
        l->total += end - start;
        return 0;
}

int block_check_size(const char *what, uint64_t storage_size, uint64_t device_size, Error *err)
{
        /* a device consists of whole blocks; what the storage has beyond them nobody reads or writes through it */
        if (storage_size >= device_size && storage_size - device_size < ALIGNMENT)
                return 0;
        return error_set(err, ERROR_DEVICE_CHANGED, EAGAIN, "%s has %" PRIu64 " bytes now, and its device %" PRIu64, what, storage_size,
                         device_size);
}

static int extents_collect(const BlockStorage *s, uint64_t size, ExtentList *ret, Error *err)
{
        _cleanup_(extent_list_done) ExtentList l = { .device_size = size };
        int r = -EOPNOTSUPP;

        if (s && s->extents)
                r = s->extents(s->userdata, size, extent_add, &l, err);
        if (r == -EOPNOTSUPP) {
                if (err)
                        error_done(err);
                l.n = 0;
                l.total = 0;
                r = extent_add(&(BlockExtent) { 0, size }, &l);
        }
        if (r < 0)
                return err && error_is_set(err)
                                       ? r
                                       : error_set(err, ERROR_DEVICE_ERROR, r,
                                                   "Cannot tell which parts of the storage are allocated: %s",
                                                   strerror(-r));
        *ret = l;
        l = (ExtentList) {};
        return 0;
}

/* The index of the first byte that is not zero, or n. n is a multiple of 512. */
static size_t first_nonzero(const uint8_t *p, size_t n)
{
        const uint64_t *words = (const uint64_t *) p;

        for (size_t i = 0; i < n / 8; i += 64) {
                uint64_t any = 0;
                for (size_t j = 0; j < 64; j++)
                        any |= words[i + j];
                if (!any)
                        continue;
                for (size_t k = i * 8; k < n; k++)
                        if (p[k])
                                return k;
        }
        return n;
}

typedef struct BlankReader {
        Mounter *m;
        const BlockStorage *s; /* may be NULL */
        int fd;        /* the caller's: buffered */
        int direct_fd; /* -EBADF where direct I/O does not work */
        uint8_t *buffer;
        uint64_t done, total;
} BlankReader;

/* One read of at most size bytes; the number read, a multiple of 512 and more than 0. */
static int reader_read(BlankReader *b, uint64_t offset, size_t size, size_t *ret, Error *err)
{
        char name[PATH_MAX];

        for (;;) {
                int fd = b->direct_fd >= 0 ? b->direct_fd : b->fd;
                ssize_t n = pread(fd, b->buffer, size, (off_t) offset);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno == EINVAL && b->direct_fd >= 0) {
                        b->direct_fd = close_fd(b->direct_fd); /* the alignment does not suit it */
                        continue;
                }
                if (n < 0)
                        return error_set(err, ERROR_DEVICE_ERROR, errno,
                                         "Reading %s between offsets %" PRIu64 " and %" PRIu64
                                         " failed: %m. It cannot be proved blank",
                                         device_name(b->fd, name, sizeof(name)), offset, offset + size);
                if (n == 0 || n % 512 != 0)
                        return error_set(err, ERROR_DEVICE_ERROR, EIO,
                                         "%s gave only %zd of %zu bytes at offset %" PRIu64
                                         ". It cannot be proved blank",
                                         device_name(b->fd, name, sizeof(name)), n, size, offset);
                if (b->direct_fd < 0)
                        (void) posix_fadvise(b->fd, (off_t) offset, n, POSIX_FADV_DONTNEED);
                *ret = (size_t) n;
                return 0;
        }
}

/* The same bytes as the storage has them: zeros that only the device shows are data that a repair would bring back. */
static int reader_storage(BlankReader *b, uint64_t offset, size_t size, Error *err)
{
        char name[PATH_MAX];

        if (!b->s || !b->s->read)
                return 0;
        int r = b->s->read(b->s->userdata, offset, b->buffer, size, err);
        if (r < 0)
                return r;
        size_t i = first_nonzero(b->buffer, size);
        if (i == size)
                return 0;
        return error_set(err, ERROR_NOT_BLANK, EEXIST,
                         "%s shows zeros, but its storage holds 0x%02x at offset %" PRIu64
                         ": an index that the device believes is wrong (of RBD images: rbd object-map rebuild)",
                         device_name(b->fd, name, sizeof(name)), b->buffer[i], offset + i);
}

static int reader_extent(BlankReader *b, const BlockExtent *e, Error *err)
{
        char name[PATH_MAX];

        for (uint64_t at = e->offset, end = e->offset + e->size; at < end;) {
                size_t want = end - at < CHUNK ? (size_t) (end - at) : CHUNK, n = 0;

                int r = reader_read(b, at, want, &n, err);
                if (r < 0)
                        return r;
                size_t i = first_nonzero(b->buffer, n);
                if (i < n) {
                        const char *device = device_name(b->fd, name, sizeof(name));
                        return error_set(err, ERROR_NOT_BLANK, EEXIST,
                                         "%s is not blank: no known signature was found on it, but its byte at "
                                         "offset %" PRIu64 " is 0x%02x. Look at it with: hexdump -C -s %" PRIu64
                                         " -n 512 %s",
                                         device, at + i, b->buffer[i], at + i, device);
                }
                r = reader_storage(b, at, n, err);
                if (r < 0)
                        return r;
                at += n;
                b->done += n;
                mounter_progress(b->m, "proof", b->done, b->total);
        }
        return 0;
}

static int reader_run(BlankReader *b, const ExtentList *l, Error *err)
{
        char link[32];
        int r = 0;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", b->fd);
        b->direct_fd = open(link, O_RDONLY | O_DIRECT | O_CLOEXEC | O_NOCTTY);
        b->buffer = aligned_alloc(ALIGNMENT, CHUNK);
        if (!b->buffer)
                r = error_oom(err);
        for (size_t i = 0; r >= 0 && i < l->n; i++)
                r = reader_extent(b, &l->items[i], err);
        free(b->buffer);
        b->direct_fd = close_fd(b->direct_fd);
        return r;
}

int block_prove_blank(Mounter *m, int fd, uint64_t size, const BlockStorage *s, Error *err)
{
        _cleanup_(extent_list_done) ExtentList l = {};
        uint64_t now = 0;
        char name[PATH_MAX];

        int r = device_size(fd, &now, err);
        if (r < 0)
                return r;
        if (now != size)
                goto changed;
        /* What is dirty in the device's cache is not yet allocated in the storage. */
        r = device_drop_cache(fd, err);
        if (r < 0)
                return r;
        r = extents_collect(s, size, &l, err);
        if (r < 0)
                return r;
        if (l.total > m->settings.max_proof_bytes)
                return error_set(err, ERROR_PROOF_TOO_LARGE, EFBIG,
                                 "To prove that %s is blank, %" PRIu64
                                 " bytes would have to be read; at most %" PRIu64 " are allowed",
                                 device_name(fd, name, sizeof(name)), l.total, m->settings.max_proof_bytes);

        BlankReader b = { .m = m, .s = s, .fd = fd, .direct_fd = -EBADF, .total = l.total };
        r = reader_run(&b, &l, err);
        if (r < 0)
                return r;
        r = device_size(fd, &now, err);
        if (r < 0)
                return r;
        if (now == size)
                return 0;
changed:
        return error_set(err, ERROR_DEVICE_CHANGED, EAGAIN, "The size of %s changed from %" PRIu64 " to %" PRIu64
                         " bytes meanwhile", device_name(fd, name, sizeof(name)), size, now);
}
