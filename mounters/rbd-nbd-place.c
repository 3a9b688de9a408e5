/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Files for rbd-nbd. Runs in the rbd mounter, with the volume's lock held; writes to the runtime directory's tmpfs only.
 *
 * Invariants: the key is in `conf` alone, and no longer than the map; what a volume's author wrote is an argument of its own or a number
 * or a word of a list, so that it cannot become another option; rbd-nbd keeps nothing back: what it has acknowledged survives its death.
 */

#include "mounters/rbd-nbd-place.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "mounters/nbd-device.h"
#include "mounters/rbd-monitors.h"
#include "mounters/rbd-unit.h"

#define CONF "conf"
#define IMAGE "image"
#define CONF_MAX 8192U
#define KEY_LINE "\nkey = "

static int place_path(const char *volume_key, char *buffer, size_t size)
{
        return snprintf(buffer, size, NBD_PLACES "/%s", volume_key) < (int) size ? 0 : -ENAMETOOLONG;
}

static int place_open(int runtime_fd, const char *volume_key)
{
        char path[128];
        int r = place_path(volume_key, path, sizeof(path));
        int fd = r < 0 ? r : openat(runtime_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        return r >= 0 && fd < 0 ? -errno : fd;
}

/* --- the configuration --- */

/* Both modes are named, the preferred one first. */
static const char *client_mode(const char *ms_mode)
{
        return strcmp(ms_mode, "crc") == 0             ? "crc"
               : strcmp(ms_mode, "secure") == 0        ? "secure"
               : strcmp(ms_mode, "prefer-secure") == 0 ? "secure crc"
                                                       : "crc secure";
}

int nbd_config_format(const NbdConfig *c, char *buffer, size_t size)
{
        const char *mode = c->ms_mode && strcmp(c->ms_mode, "legacy") != 0 ? client_mode(c->ms_mode) : NULL;
        /*
         * No cache: with one, writes that librbd holds back and has acknowledged would be lost with the process, while the file system, which goes on, takes
         * them as written. All monitors are greeted at once; no admin socket, and no log but of errors, to the journal.
         */
        int n = snprintf(buffer, size,
                         "[global]\n"
                         "mon_host = %s" KEY_LINE "%s\n"
                         "keyring = /dev/null\n"
                         "auth_client_required = cephx\n"
                         "client_mount_timeout = %u\n"
                         "rados_osd_op_timeout = %u\n"
                         "mon_client_hunt_parallel = %u\n"
                         "rbd_cache = false\n"
                         "log_file =\nlog_to_stderr = false\nerr_to_stderr = true\nlog_to_syslog = false\nadmin_socket =\n"
                         "%s%s%s%s%s%s%s%s%s%s%s%s",
                         c->mon_host, c->secret, c->connect_sec, c->request_sec, c->n_monitors, mode ? "ms_client_mode = " : "",
                         mode ? mode : "", mode ? "\n" : "", mode ? "ms_mon_client_mode = " : "", mode ? mode : "", mode ? "\n" : "",
                         c->read_policy ? "rbd_read_from_replica_policy = " : "", c->read_policy ? c->read_policy : "",
                         c->read_policy ? "\n" : "", c->compression_hint ? "rbd_compression_hint = " : "",
                         c->compression_hint ? c->compression_hint : "", c->compression_hint ? "\n" : "");

        return n < 0 || (size_t) n >= size ? -EMSGSIZE : 0;
}

/* The value of a map option: the volume's own before the operator's. NULL if it is not given. */
static const char *option_value(const Settings *settings, const RbdSource *s, const char *name)
{
        char *const *const lists[] = { settings->rbd_map_options, s->map_options };
        const char *value = NULL;
        size_t n = strlen(name);

        for (size_t i = 0; i < ELEMENTSOF(lists); i++)
                STRV_FOREACH (o, lists[i])
                        if (strncmp(*o, name, n) == 0 && ((*o)[n] == '=' || (*o)[n] == 0))
                                value = (*o)[n] ? *o + n + 1 : "";
        return value;
}

static int options_check(const Settings *settings, const RbdSource *s, Error *err)
{
        int r = 0;

        STRV_FOREACH (o, settings->rbd_map_options)
                if (r >= 0)
                        r = rbd_map_option_check(*o, RBD_TRUST_OPERATOR, err);
        STRV_FOREACH (o, s->map_options)
                if (r >= 0)
                        r = rbd_map_option_check(*o, RBD_TRUST_VOLUME, err);
        return r;
}

static int conf_write(Mounter *m, const NbdPlacePlan *p, int fd, Error *err)
{
        const RbdSource *s = p->image->source;
        const Settings *settings = &m->settings;
        const char *policy = option_value(settings, s, "read_from_replica"), *timeout = option_value(settings, s, "osd_request_timeout");
        const char *ms_mode = option_value(settings, s, "ms_mode");
        bool legacy = ms_mode && strcmp(ms_mode, "legacy") == 0;
        _cleanup_free_ char *mon_host = rbd_source_mon_host(s);
        _cleanup_rbd_addresses_ RbdAddresses a = RBD_ADDRESSES_INIT;
        char text[CONF_MAX];

        if (!mon_host)
                return error_oom(err);
        /* messenger 1 is not to be had by an option: by addresses alone */
        int r = legacy ? rbd_monitors_answering(s, 1, settings->rbd_connect_timeout_usec, &a, err) : 0;
        if (r < 0)
                return r;
        const NbdConfig c = {
                .mon_host = legacy ? a.mon_host : mon_host,
                .secret = p->secret,
                .ms_mode = ms_mode,
                .read_policy = !policy ? NULL : strcmp(policy, "no") == 0 ? "default" : policy,
                .compression_hint = option_value(settings, s, "compression_hint"),
                .connect_sec = (unsigned) ((settings->rbd_map_timeout_usec + 999999) / 1000000),
                .request_sec = timeout ? (unsigned) strtoul(timeout, NULL, 10) : 0,
                .n_monitors = (unsigned) s->n_monitors,
        };
        r = nbd_config_format(&c, text, sizeof(text));
        if (r >= 0)
                r = write_file_atomic_at(fd, CONF, text, strlen(text), 0);
        explicit_bzero(text, sizeof(text));
        return r < 0 ? error_set(err, ERROR_RECORD_FAILED, r, "Cannot write the configuration of rbd-nbd: %s", strerror(-r)) : 0;
}

/* --- arguments, image --- */

static void argument(FILE *f, const char *format, ...) _printf_(2, 3);
static void argument(FILE *f, const char *format, ...)
{
        va_list args;

        va_start(args, format);
        vfprintf(f, format, args);
        va_end(args);
        fputc(0, f);
}

static int arguments_write(Mounter *m, const NbdPlacePlan *p, int fd, Error *err)
{
        const RbdSource *s = p->image->source;
        _cleanup_free_ char *text = NULL;
        size_t size = 0;
        FILE *f = open_memstream(&text, &size);

        if (!f)
                return error_oom(err);
        argument(f, "%s", p->program);
        argument(f, "-f");
        argument(f, "--conf");
        argument(f, "%s/" NBD_PLACES "/%s/" CONF, m->settings.runtime_dir, p->volume_key);
        argument(f, "--name");
        argument(f, "client.%s", s->user);
        argument(f, "--try-netlink");
        argument(f, "--cookie");
        argument(f, NBD_COOKIE_PREFIX "%s", p->volume_key);
        /* no --io-timeout: a request that takes longer would end the connection, and rbd-nbd the device with it */
        argument(f, "--reattach-timeout");
        argument(f, "%" PRIu64, (m->settings.rbd_nbd_reattach_usec + 999999) / 1000000);
        if (p->read_only)
                argument(f, "--read-only");
        if (p->exclusive)
                argument(f, "--exclusive");
        argument(f, "%s", p->image->spec);
        if (fclose(f) != 0)
                return error_oom(err);
        int r = write_file_atomic_at(fd, NBD_PLACE_ARGUMENTS, text, size, 0);
        return r < 0 ? error_set(err, ERROR_RECORD_FAILED, r, "Cannot write the arguments of rbd-nbd: %s", strerror(-r)) : 0;
}

static int image_write(const NbdPlacePlan *p, int fd, Error *err)
{
        const RbdImage *i = p->image;
        const RbdSource *s = i->source;
        _cleanup_free_ char *text = NULL;
        json_t *j = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s*, s:s, s:I, s:b}", "version", 1, "fsid", i->cluster->fsid, "pool", s->pool,
                              "namespace", s->space, "image", s->image, "snapshot", s->snapshot, "id", i->id, "poolId",
                              (json_int_t) i->pool_id, "readOnly", (int) p->read_only);

        if (j)
                text = json_dumps(j, JSON_SORT_KEYS);
        json_decref(j);
        if (!text) /* or a name that is not UTF-8, which JSON cannot hold */
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "The names of image %s cannot be recorded", i->spec);
        int r = write_file_atomic_at(fd, IMAGE, text, strlen(text), 0);
        return r < 0 ? error_set(err, ERROR_RECORD_FAILED, r, "Cannot record what rbd-nbd maps: %s", strerror(-r)) : 0;
}

int nbd_place_make(Mounter *m, const NbdPlacePlan *p, Error *err)
{
        char path[128];
        int r = place_path(p->volume_key, path, sizeof(path));

        if (r >= 0 && mkdirat(m->runtime_fd, NBD_PLACES, 0700) < 0 && errno != EEXIST)
                r = -errno;
        if (r >= 0 && mkdirat(m->runtime_fd, path, 0700) < 0 && errno != EEXIST)
                r = -errno;
        _cleanup_close_ int fd = r < 0 ? r : place_open(m->runtime_fd, p->volume_key);
        if (fd < 0)
                return error_set(err, ERROR_RECORD_FAILED, fd, "Cannot make the directory %s/%s: %s", m->settings.runtime_dir, path,
                                 strerror(-fd));
        r = options_check(&m->settings, p->image->source, err);
        if (r >= 0)
                r = image_write(p, fd, err);
        if (r >= 0)
                r = arguments_write(m, p, fd, err);
        if (r >= 0)
                r = conf_write(m, p, fd, err);
        if (r < 0)
                return r;
        /* the leave last: with it everything is there */
        r = write_file_atomic_at(fd, NBD_PLACE_FIRST, "", 0, 0);
        return r < 0 ? error_set(err, ERROR_RECORD_FAILED, r, "Cannot write below %s/%s: %s", m->settings.runtime_dir, path, strerror(-r)) : 0;
}

bool nbd_place_forbid(Mounter *m, const char *volume_key)
{
        _cleanup_close_ int fd = place_open(m->runtime_fd, volume_key);

        return fd >= 0 && unlinkat(fd, NBD_PLACE_FIRST, 0) >= 0;
}

bool nbd_place_exists(Mounter *m, const char *volume_key)
{
        char path[128];

        return place_path(volume_key, path, sizeof(path)) >= 0 && faccessat(m->runtime_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) >= 0;
}

bool nbd_place_is_complete(Mounter *m, const char *volume_key)
{
        _cleanup_close_ int fd = place_open(m->runtime_fd, volume_key);
        _cleanup_free_ char *text = NULL;

        return fd >= 0 && read_file_at(fd, NBD_PLACE_OUTPUT, CONF_MAX, &text, NULL) >= 0 && strstr(text, "/dev/nbd") && strchr(text, '\n');
}

/* --- the end, and what is read --- */

static void conf_overwrite(int fd, const char *name)
{
        static const char zeros[CONF_MAX];
        _cleanup_close_ int file = openat(fd, name, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
        struct stat st;

        if (file >= 0 && fstat(file, &st) >= 0 && st.st_size > 0)
                (void) write_full(file, zeros, (size_t) st.st_size < sizeof(zeros) ? (size_t) st.st_size : sizeof(zeros));
}

int nbd_place_erase(Mounter *m, const char *volume_key)
{
        /* a temporary name is left by one that was killed while it wrote */
        static const char *const names[] = { NBD_PLACE_TRY, NBD_PLACE_OUTPUT, CONF, "." CONF ".tmp", IMAGE, "." IMAGE ".tmp", NBD_PLACE_ARGUMENTS,
                                             "." NBD_PLACE_ARGUMENTS ".tmp", NBD_PLACE_FIRST, "." NBD_PLACE_FIRST ".tmp" };
        char path[128];
        int r = place_path(volume_key, path, sizeof(path));
        _cleanup_close_ int fd = r < 0 ? r : place_open(m->runtime_fd, volume_key);

        if (fd < 0)
                return fd == -ENOENT ? 0 : fd;
        conf_overwrite(fd, CONF);
        conf_overwrite(fd, "." CONF ".tmp");
        for (size_t i = 0; i < ELEMENTSOF(names); i++)
                if (unlinkat(fd, names[i], 0) < 0 && errno != ENOENT)
                        return -errno;
        return unlinkat(m->runtime_fd, path, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

int nbd_place_read(int runtime_fd, const char *volume_key, RbdDevice *d)
{
        _cleanup_close_ int fd = place_open(runtime_fd, volume_key);
        _cleanup_free_ char *text = NULL;
        int r = fd < 0 ? fd : read_file_at(fd, IMAGE, CONF_MAX, &text, NULL);
        const char *fsid, *pool, *space, *image, *snapshot = NULL, *id;
        json_int_t pool_id = 0;

        if (r < 0)
                return r;
        json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        r = json_unpack(j, "{s:s, s:s, s:s, s:s, s?:s, s:s, s:I}", "fsid", &fsid, "pool", &pool, "namespace", &space, "image", &image,
                        "snapshot", &snapshot, "id", &id, "poolId", &pool_id) < 0
                    ? -EBADMSG
                    : 0;
        if (r >= 0 && (str_replace(&d->fsid, fsid) < 0 || str_replace(&d->pool, pool) < 0 || str_replace(&d->space, space) < 0 ||
                       str_replace(&d->image, image) < 0 || str_replace(&d->snapshot, snapshot) < 0 || str_replace(&d->image_id, id) < 0))
                r = -ENOMEM;
        d->pool_id = pool_id;
        json_decref(j);
        return r;
}

int nbd_place_secret(Mounter *m, const char *volume_key, char **ret)
{
        _cleanup_close_ int fd = place_open(m->runtime_fd, volume_key);
        _cleanup_close_ int file = fd < 0 ? fd : openat(fd, CONF, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        char text[CONF_MAX] = "";
        int r = 0;

        if (fd < 0 || file < 0)
                return fd == -ENOENT || errno == ENOENT ? 0 : -errno;
        ssize_t n = pread(file, text, sizeof(text) - 1, 0);
        const char *line = n > 0 ? strstr(text, KEY_LINE) : NULL;
        if (line) {
                line += strlen(KEY_LINE);
                *ret = strndup(line, strcspn(line, "\n"));
                r = *ret ? 1 : -ENOMEM;
        }
        explicit_bzero(text, sizeof(text));
        return r;
}
