/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Maps of the kernel's RBD client in sysfs, and the line that makes one. Reads sysfs; writes nothing. Runs in the rbd mounter.
 */

#include "mounters/rbd-device.h"

#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "base/fd.h"

#define ATTRIBUTE_MAX 4096U
#define TAG "key=berth-"
#define SPACES " \f\n\r\t\v"

void rbd_device_done(RbdDevice *d)
{
        free(d->fsid);
        free(d->pool);
        free(d->space);
        free(d->image);
        free(d->snapshot);
        free(d->image_id);
        free(d->address);
        free(d->identity);
        free(d->key);
        *d = RBD_DEVICE_INIT;
}

/*
 * One option after another: what lies between commas in the second word. Words end where the kernel ends them; the others are addresses and names,
 * which may look like options. *p: NULL at first, which finds the list; false at its end.
 */
static bool config_option(const char *config_info, const char **p, const char **ret, size_t *n)
{
        if (!*p) {
                const char *addresses = config_info + strspn(config_info, SPACES);
                *p = addresses + strcspn(addresses, SPACES);
                *p += strspn(*p, SPACES);
        } else
                *p += **p == ',';
        *ret = *p;
        *n = strcspn(*p, "," SPACES);
        *p += *n;
        return *n > 0 || **p == ',';
}

static bool option_is(const char *option, size_t n, const char *name)
{
        return n == strlen(name) && memcmp(option, name, n) == 0;
}

bool rbd_config_is_own(const char *config_info, const char *key)
{
        const char *p = NULL, *option;
        size_t n, n_tag = strlen(TAG);

        while (config_option(config_info, &p, &option, &n))
                if (n > n_tag && memcmp(option, TAG, n_tag) == 0 && option_is(option + n_tag, n - n_tag, key))
                        return true;
        return false;
}

bool rbd_config_is_alone(const char *config_info)
{
        const char *p = NULL, *option;
        bool alone = false;
        size_t n;

        while (config_option(config_info, &p, &option, &n))
                if (option_is(option, n, "noshare"))
                        alone = true;
                else if (option_is(option, n, "share"))
                        alone = false;
        return alone;
}

bool rbd_config_times_out(const char *config_info)
{
        static const char name[] = "osd_request_timeout=";
        const char *p = NULL, *option;
        bool times_out = false;
        size_t n;

        while (config_option(config_info, &p, &option, &n))
                if (n > strlen(name) && memcmp(option, name, strlen(name)) == 0)
                        times_out = strtoul(option + strlen(name), NULL, 10) > 0;
        return times_out;
}

static int attribute_read(int dir_fd, const char *name, char **ret)
{
        char *text = NULL;
        int r = read_file_at(dir_fd, name, ATTRIBUTE_MAX, &text, NULL);

        if (r < 0)
                return r;
        text[strcspn(text, "\n")] = 0;
        free(*ret);
        *ret = text;
        return 0;
}

static int attribute_number(int dir_fd, const char *name, int64_t *ret)
{
        _cleanup_free_ char *text = NULL;
        int r = attribute_read(dir_fd, name, &text);

        if (r >= 0)
                *ret = strtoll(text, NULL, 10);
        return r;
}

/* What its key is made of. */
static int device_names(int fd, RbdDevice *d)
{
        const struct {
                const char *attribute;
                char **field;
        } names[] = {
                { "cluster_fsid", &d->fsid }, { "pool", &d->pool },         { "pool_ns", &d->space },
                { "name", &d->image },        { "current_snap", &d->snapshot },
        };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                int r = attribute_read(fd, names[i].attribute, names[i].field);
                if (r < 0)
                        return r;
        }
        if (strcmp(d->snapshot, "-") == 0) {
                free(d->snapshot);
                d->snapshot = NULL;
        }
        d->identity = rbd_identity(d->fsid, d->pool, d->space, d->image, d->snapshot);
        d->key = d->identity ? rbd_key(d->identity) : NULL;
        return d->key ? 0 : -ENOMEM;
}

/* -ENOENT if it is not that of the key (NULL: any): of a thousand others a third is read. */
static int device_read(int fd, const char *name, const char *key, RbdDevice *ret)
{
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        _cleanup_free_ char *config = NULL;
        int64_t major_number = 0, minor_number = 0, ro = 0;
        char path[64];

        int r = parse_unsigned(name, &d.number);
        if (r >= 0)
                r = device_names(fd, &d);
        if (r >= 0 && key && strcmp(d.key, key) != 0)
                return -ENOENT;
        if (r >= 0)
                r = attribute_read(fd, "image_id", &d.image_id);
        if (r >= 0)
                r = attribute_read(fd, "client_addr", &d.address);
        if (r >= 0)
                r = attribute_number(fd, "major", &major_number);
        if (r >= 0)
                r = attribute_number(fd, "minor", &minor_number);
        if (r >= 0)
                r = attribute_number(fd, "pool_id", &d.pool_id);
        if (r < 0)
                return r;
        d.device_number = makedev((unsigned) major_number, (unsigned) minor_number);
        if (attribute_read(fd, "config_info", &config) >= 0) {
                d.own = rbd_config_is_own(config, d.key);
                d.alone = rbd_config_is_alone(config);
                d.times_out = rbd_config_times_out(config);
        }
        snprintf(path, sizeof(path), "/sys/block/rbd%u", d.number);
        _cleanup_close_ int block_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        d.read_only = d.snapshot || (block_fd >= 0 && attribute_number(block_fd, "ro", &ro) >= 0 && ro != 0);
        *ret = d;
        d = RBD_DEVICE_INIT;
        return 0;
}

/* Each map's directory, until visit answers other than 0; -ENOENT or -ENODEV is none of those. */
static int devices_visit(const char *sysfs, int (*visit)(int fd, const char *name, void *userdata), void *userdata)
{
        _cleanup_free_ char *path = NULL;

        if (asprintf(&path, "%s/devices", sysfs) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        _cleanup_closedir_ DIR *dir = opendir(path);
        if (!dir)
                return errno == ENOENT ? 0 : -errno;
        for (struct dirent *e; (e = readdir(dir));) {
                if (e->d_name[0] < '0' || e->d_name[0] > '9')
                        continue;
                _cleanup_close_ int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                int r = fd < 0 ? -errno : visit(fd, e->d_name, userdata);
                if (r != 0 && r != -ENOENT && r != -ENODEV)
                        return r;
        }
        return 0;
}

typedef struct Each {
        const char *key; /* NULL: all */
        int (*f)(RbdDevice *d, void *userdata);
        void *userdata;
} Each;

static int each_visit(int fd, const char *name, void *userdata)
{
        const Each *e = userdata;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        int r = device_read(fd, name, e->key, &d);

        return r < 0 ? r : e->f(&d, e->userdata);
}

int rbd_device_each(const char *sysfs, int (*f)(RbdDevice *d, void *userdata), void *userdata)
{
        return devices_visit(sysfs, each_visit, &(Each) { NULL, f, userdata });
}

typedef struct Search {
        RbdDevice best;
        bool found;
} Search;

static int search_visit(RbdDevice *d, void *userdata)
{
        Search *s = userdata;

        if (s->found && (s->best.own > d->own || (s->best.own == d->own && s->best.read_only <= d->read_only)))
                return 0;
        rbd_device_done(&s->best);
        s->best = *d;
        *d = RBD_DEVICE_INIT;
        s->found = true;
        return 0;
}

int rbd_device_find(const char *sysfs, const char *key, RbdDevice *ret)
{
        Search s = { .found = false };
        int r = devices_visit(sysfs, each_visit, &(Each) { key, search_visit, &s });

        if (r < 0) {
                rbd_device_done(&s.best);
                return r;
        }
        if (s.found)
                *ret = s.best;
        return s.found;
}

typedef struct Other {
        const RbdDevice *than;
        RbdDevice *ret;
} Other;

/* Not by its names: an image, or its pool, may have been renamed since. */
static int other_visit(int fd, const char *name, void *userdata)
{
        const Other *o = userdata;
        _cleanup_rbd_device_ RbdDevice d = RBD_DEVICE_INIT;
        _cleanup_free_ char *id = NULL;
        int r = attribute_read(fd, "image_id", &id);

        if (r < 0 || strcmp(id, o->than->image_id) != 0)
                return r;
        r = device_read(fd, name, NULL, &d);
        if (r < 0 || d.read_only || d.device_number == o->than->device_number || d.pool_id != o->than->pool_id ||
            strcmp(d.fsid, o->than->fsid) != 0)
                return r;
        *o->ret = d;
        d = RBD_DEVICE_INIT;
        return 1;
}

int rbd_device_find_other(const char *sysfs, const RbdDevice *d, RbdDevice *ret)
{
        return devices_visit(sysfs, other_visit, &(Other) { d, ret });
}

static int addresses_visit(int fd, const char *name, void *userdata)
{
        _cleanup_free_ char *address = NULL;
        char ***addresses = userdata;
        int r = attribute_read(fd, "client_addr", &address);

        return r >= 0 && !strv_contains(*addresses, address) ? strv_append(addresses, address) : r;
}

int rbd_device_addresses(const char *sysfs, char ***ret)
{
        _cleanup_strv_ char **addresses = NULL;
        int r = devices_visit(sysfs, addresses_visit, &addresses);

        if (r >= 0)
                *ret = TAKE_PTR(addresses);
        return r;
}

/* --- the line --- */

static bool options_have(char *const *options, const char *name)
{
        size_t n = strlen(name);

        STRV_FOREACH (o, options)
                if (strncmp(*o, name, n) == 0 && ((*o)[n] == 0 || (*o)[n] == '='))
                        return true;
        return false;
}

/* The line is words between spaces, the second one options between commas. */
static bool word_is_safe(const char *s, bool option)
{
        for (const char *p = s; *p; p++)
                if ((unsigned char) *p <= ' ' || *p == 0x7f || (option && (*p == ',' || *p == '=')))
                        return false;
        return *s;
}

int rbd_map_line(const RbdMapLine *p, char **ret, Error *err)
{
        const char *const options[] = { p->user, p->fsid, p->key, *p->space ? p->space : "x", p->ms_mode ? p->ms_mode : "x" };
        const char *const words[] = { p->addresses, p->pool, p->image, p->snapshot ? p->snapshot : "x" };
        char *line = NULL;
        size_t size = 0;

        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                if (!word_is_safe(options[i], true))
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "A name cannot be passed to the kernel as a map option");
        for (size_t i = 0; i < ELEMENTSOF(words); i++)
                if (!word_is_safe(words[i], false))
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "A name cannot be passed to the kernel as a word");
        STRV_FOREACH (o, p->defaults)
                if (rbd_map_option_check(*o, RBD_TRUST_OPERATOR, err) < 0)
                        return -EINVAL;
        STRV_FOREACH (o, p->options)
                if (rbd_map_option_check(*o, RBD_TRUST_VOLUME, err) < 0)
                        return -EINVAL;

        FILE *f = open_memstream(&line, &size);
        if (!f)
                return error_oom(err);
        fprintf(f, "%s name=%s," TAG "%s,fsid=%s,mount_timeout=%u", p->addresses, p->user, p->key, p->fsid, p->timeout_sec);
        if (p->ms_mode && !options_have(p->options, "ms_mode") && !options_have(p->defaults, "ms_mode"))
                fprintf(f, ",ms_mode=%s", p->ms_mode);
        if (*p->space)
                fprintf(f, ",_pool_ns=%s", p->space);
        if (p->alone)
                fputs(",noshare", f);
        STRV_FOREACH (o, p->defaults)
                fprintf(f, ",%s", *o);
        STRV_FOREACH (o, p->options)
                fprintf(f, ",%s", *o);
        if (p->read_only)
                fputs(",read_only", f);
        else if (p->locks)
                /*
                 * The lock is taken with the first read, before anything is believed of what is read: a former owner that is frozen is fenced
                 * by that. Not "exclusive", which would refuse the lock even to librbd for growing the image.
                 */
                fprintf(f, ",lock_on_read,lock_timeout=%u", p->timeout_sec);
        fprintf(f, " %s %s %s", p->pool, p->image, p->snapshot ? p->snapshot : "-");
        if (fclose(f) != 0) {
                free(line);
                return error_oom(err);
        }
        if (size >= 4095) { /* sysfs takes a page */
                free(line);
                return error_set(err, ERROR_INVALID_ARGUMENT, E2BIG, "Names, monitors and map options together are too long for the kernel");
        }
        *ret = line;
        return 0;
}
