/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The key of a Ceph user: from the pod's Secret or from a keyring file of the node. Runs in the rbd mounter; reads local files only.
 *
 * Invariants: a volume's author can make berth read no file outside [RBD] KeyringDirectories= (openat2(2), no links); every buffer
 * that held a key is overwritten before it is freed; no text of an error quotes one.
 */

#include "mounters/rbd-source.h"

#include <fcntl.h>
#include <malloc.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"

#define KEYRING_MAX (64U * 1024U)

void rbd_secret_free(char *s)
{
        if (!s)
                return;
        explicit_bzero(s, malloc_usable_size(s));
        free(s);
}

static int base64_value(char c)
{
        static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *at = c ? strchr(alphabet, c) : NULL;

        return at ? (int) (at - alphabet) : -1;
}

int rbd_key_decode(const char *key, uint8_t ret[static 64])
{
        size_t n = strlen(key), size = 0, padding = 0;
        uint32_t bits = 0;

        if (n == 0 || n % 4 != 0 || n > 84)
                return -EINVAL;
        while (padding < 2 && key[n - 1 - padding] == '=')
                padding++;
        for (size_t i = 0; i < n; i++) {
                int v = i >= n - padding ? 0 : base64_value(key[i]);
                if (v < 0)
                        return -EINVAL;
                bits = bits << 6 | (uint32_t) v;
                if (i % 4 != 3)
                        continue;
                for (unsigned k = 0; k < 3; k++)
                        ret[size++] = (uint8_t) (bits >> (16 - 8 * k));
                bits = 0;
        }
        size -= padding;
        /* struct ceph_crypto_key: le16 type (1: AES), le32 and le32 time, le16 length, the key */
        if (size < 12 || ret[0] + (ret[1] << 8) != 1 || (size_t) (ret[10] + (ret[11] << 8)) != size - 12)
                return -EINVAL;
        return (int) size;
}

/* The end of the line that p is in. */
static const char *line_end(const char *p)
{
        return p + strcspn(p, "\r\n");
}

int rbd_keyring_parse(const char *text, const char *user, char **ret)
{
        size_t n_user = strlen(user);
        bool ours = false;

        for (const char *line = text; *line;) {
                const char *end = line_end(line), *p = line + strspn(line, " \t");

                line = end + strspn(end, "\r\n");
                if (*p == '[') {
                        ours = strncmp(p, "[client.", 8) == 0 && strncmp(p + 8, user, n_user) == 0 && p[8 + n_user] == ']';
                        continue;
                }
                if (!ours || strncmp(p, "key", 3) != 0)
                        continue;
                p += 3 + strspn(p + 3, " \t");
                if (*p != '=')
                        continue;
                p += 1 + strspn(p + 1, " \t");
                size_t n = (size_t) (end - p);
                while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
                        n--;
                char *key = strndup(p, n);
                if (!key)
                        return -ENOMEM;
                *ret = key;
                return 1;
        }
        return 0;
}

/* 1 and the key, 0: the file has none for the user, or -ENOENT and other errnos. */
static int keyring_read(int dir_fd, const char *path, const char *user, char **ret)
{
        _cleanup_close_ int fd = open_beneath(dir_fd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY,
                                              RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS);
        struct stat st;

        if (fd < 0)
                return fd;
        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || (st.st_mode & 022) || (st.st_uid != 0 && st.st_uid != geteuid()))
                return -EPERM;
        if (st.st_size > KEYRING_MAX)
                return -EFBIG;
        /* not read_file_at(): its buffer may move while it grows, and leave a copy */
        _cleanup_secret_ char *text = calloc(1, (size_t) st.st_size + 1);
        if (!text)
                return -ENOMEM;
        for (size_t at = 0; at < (size_t) st.st_size;) {
                ssize_t n = pread(fd, text + at, (size_t) st.st_size - at, (off_t) at);
                if (n < 0)
                        return -errno;
                if (n == 0)
                        break;
                at += (size_t) n;
        }
        return rbd_keyring_parse(text, user, ret);
}

static int keyring_invalid(const char *path, const char *user, int r, Error *err)
{
        if (r == 0)
                return error_set(err, ERROR_KEYRING_INVALID, ENOKEY, "Keyring %s has no key of client.%s", path, user);
        return error_set(err, ERROR_KEYRING_INVALID, r, "Cannot read keyring %s: %s", path,
                         r == -EPERM                    ? "it must be a regular file of root that nobody else can write"
                         : r == -ELOOP || r == -EXDEV ? "it is reached by a symbolic link or '..'"
                                                        : strerror(-r));
}

/* The path that remains below the directory, or NULL. */
static const char *path_below(const char *path, const char *dir)
{
        size_t n = strlen(dir);

        while (n > 1 && dir[n - 1] == '/')
                n--;
        if (strncmp(path, dir, n) != 0 || path[n] != '/')
                return NULL;
        return path + n + strspn(path + n, "/");
}

static int key_from_named_keyring(const Settings *settings, const RbdSource *s, char **ret, Error *err)
{
        STRV_FOREACH (dir, settings->rbd_keyring_directories) {
                const char *below = path_below(s->keyring, *dir);
                if (!below || !*below)
                        continue;
                _cleanup_close_ int fd = open(*dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
                int r = fd < 0 ? -errno : keyring_read(fd, below, s->user, ret);
                return r > 0 ? 0 : keyring_invalid(s->keyring, s->user, r, err);
        }
        return error_set(err, ERROR_KEYRING_INVALID, EPERM,
                         "Keyring %s does not lie in a directory of [RBD] KeyringDirectories=", s->keyring);
}

static int key_from_default_keyring(const Settings *settings, const RbdSource *s, char **ret, Error *err)
{
        _cleanup_free_ char *own = NULL;

        if (asprintf(&own, "ceph.client.%s.keyring", s->user) < 0) {
                own = NULL;
                return error_oom(err);
        }
        const char *const names[] = { own, "ceph.keyring", "keyring" };
        STRV_FOREACH (dir, settings->rbd_keyring_directories) {
                _cleanup_close_ int fd = open(*dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
                for (size_t i = 0; fd >= 0 && i < ELEMENTSOF(names); i++) {
                        int r = keyring_read(fd, names[i], s->user, ret);
                        if (r > 0)
                                return 0;
                        if (r < 0 && r != -ENOENT) {
                                _cleanup_free_ char *path = NULL;
                                if (asprintf(&path, "%s/%s", *dir, names[i]) < 0)
                                        path = NULL;
                                return keyring_invalid(str_or(path, names[i]), s->user, r, err);
                        }
                }
        }
        return error_set(err, ERROR_KEYRING_INVALID, ENOKEY,
                         "There is no key of client.%s: neither a Secret with `key` or `userKey`, nor option 'keyring', nor %s in a "
                         "directory of [RBD] KeyringDirectories=",
                         s->user, own);
}

int rbd_source_key(const Settings *settings, const RbdSource *s, const StrMap *secrets, char **ret, Error *err)
{
        _cleanup_secret_ char *key = NULL;
        uint8_t decoded[64];
        const char *given = strmap_get(secrets, "key");
        int r = 0;

        if (!given)
                given = strmap_get(secrets, "userKey");
        if (given) {
                key = strndup(given, strcspn(given, " \t\r\n")); /* a Secret made with echo ends with a newline */
                if (!key)
                        return error_oom(err);
        } else
                r = s->keyring ? key_from_named_keyring(settings, s, &key, err)
                               : key_from_default_keyring(settings, s, &key, err);
        if (r < 0)
                return r;
        r = rbd_key_decode(key, decoded);
        explicit_bzero(decoded, sizeof(decoded));
        if (r < 0)
                return error_set(err, ERROR_KEY_INVALID, EINVAL, "The key of client.%s is not a Ceph key (40 characters of base64)",
                                 s->user);
        *ret = TAKE_PTR(key);
        return 0;
}
