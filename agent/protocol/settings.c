/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthd.conf by libeconf, and the command line's share. Runs at start (and in the shim), on local files
 * only. One table (`keys`) knows every key; man page and tests read from it.
 */

#include "protocol/settings.h"

#include <dirent.h>
#include <inttypes.h>
#include <libeconf.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include "build.h"
#include "protocol/names.h"

typedef enum KeyType { KEY_STRING, KEY_STRV, KEY_USEC, KEY_UNSIGNED, KEY_SIZE, KEY_BOOLEAN } KeyType;

static const struct Key {
        const char *section, *name;
        KeyType type;
        size_t offset;
        const char *fallback;
} keys[] = {
#define KEY(section, name, type, field, fallback) { section, name, type, offsetof(Settings, field), fallback }
        KEY("Paths", "Socket", KEY_STRING, socket, BERTH_SOCKET_DEFAULT),
        KEY("Paths", "RuntimeDirectory", KEY_STRING, runtime_dir, "/run/berth"),
        KEY("Paths", "StateDirectory", KEY_STRING, state_dir, "/var/lib/berth"),
        KEY("Paths", "KubeletRoot", KEY_STRING, kubelet_root, "/var/lib/kubelet"),
        KEY("Paths", "MounterDirectory", KEY_STRING, mounter_dir, BERTH_MOUNTER_DIR),
        KEY("Agent", "RequestTimeoutSec", KEY_USEC, request_timeout_usec, "100"),
        KEY("Agent", "StepTimeoutSec", KEY_USEC, step_timeout_usec, "60"),
        KEY("Agent", "ReconcileIntervalSec", KEY_USEC, reconcile_interval_usec, "60"),
        KEY("Agent", "LingerSec", KEY_USEC, linger_usec, "180"),
        KEY("Agent", "MaxConnections", KEY_UNSIGNED, max_connections, "512"),
        KEY("Agent", "MaxRequests", KEY_UNSIGNED, max_requests, "4096"),
        KEY("Mounters", "Max", KEY_UNSIGNED, mounters_max, "16"),
        KEY("Mounters", "Warm", KEY_UNSIGNED, mounters_warm, "2"),
        KEY("Mounters", "QuarantineMax", KEY_UNSIGNED, mounters_quarantine_max, "64"),
        KEY("Mounters", "IdleSec", KEY_USEC, mounters_idle_usec, "60"),
        KEY("Mounters", "OperationsMax", KEY_UNSIGNED, mounters_operations_max, "10000"),
        KEY("Targets", "Allow", KEY_STRV, targets_allow, ""),
        KEY("Loop", "Directories", KEY_STRV, loop_directories, ""),
        KEY("Loop", "DirectIO", KEY_BOOLEAN, loop_direct_io, "yes"),
        KEY("Format", "MaxProofBytes", KEY_SIZE, max_proof_bytes, "1T"),
        KEY("FlexVolume", "Attach", KEY_BOOLEAN, flexvolume_attach, "no"),
        KEY("FlexVolume", "NodeName", KEY_STRING, node_name, ""),
#undef KEY
};

static const struct {
        const char *option;
        size_t offset;
} argument_table[] = {
        { "--config", offsetof(Settings, config_file) },
        { "--socket", offsetof(Settings, socket) },
        { "--runtime-dir", offsetof(Settings, runtime_dir) },
        { "--state-dir", offsetof(Settings, state_dir) },
        { "--kubelet-root", offsetof(Settings, kubelet_root) },
        { "--mounter-dir", offsetof(Settings, mounter_dir) },
};

int parse_unsigned(const char *s, unsigned *ret)
{
        char *end;

        if (*s < '0' || *s > '9')
                return -EINVAL;
        errno = 0;
        unsigned long n = strtoul(s, &end, 10);
        if (*end)
                return -EINVAL;
        if (errno || n > UINT_MAX)
                return -ERANGE;
        *ret = (unsigned) n;
        return 0;
}

/* A decimal number without sign, and where it ends. */
static int parse_number(const char *s, uint64_t *ret, const char **ret_end)
{
        char *end;

        if (*s < '0' || *s > '9')
                return -EINVAL;
        errno = 0;
        unsigned long long n = strtoull(s, &end, 10);
        if (errno)
                return -ERANGE;
        *ret = n;
        *ret_end = end;
        return 0;
}

int parse_size(const char *s, uint64_t *ret)
{
        static const char suffixes[] = "KMGTP";
        const char *end;
        uint64_t n;
        int r = parse_number(s, &n, &end);
        if (r < 0)
                return r;

        if (*end) {
                const char *suffix = strchr(suffixes, *end >= 'a' ? *end - 'a' + 'A' : *end);
                if (!suffix)
                        return -EINVAL;
                unsigned shift = 10 * (unsigned) (suffix - suffixes + 1);
                if (n > UINT64_MAX >> shift)
                        return -ERANGE;
                n <<= shift;
                end++;
                if (end[0] == 'i' && end[1] == 'B')
                        end += 2;
                if (*end)
                        return -EINVAL;
        }
        *ret = n;
        return 0;
}

int parse_usec(const char *s, uint64_t *ret)
{
        static const struct {
                const char *suffix;
                uint64_t usec;
        } units[] = {
                { "", 1000000 },      { "s", 1000000 },    { "sec", 1000000 }, { "ms", 1000 }, { "us", 1 },
                { "min", 60000000 },  { "m", 60000000 },   { "h", 3600000000 },
        };
        const char *end;
        uint64_t n;
        int r = parse_number(s, &n, &end);
        if (r < 0)
                return r;

        end += strspn(end, " ");
        for (size_t i = 0; i < ELEMENTSOF(units); i++) {
                if (strcmp(end, units[i].suffix) != 0)
                        continue;
                if (n > UINT64_MAX / units[i].usec)
                        return -ERANGE;
                *ret = n * units[i].usec;
                return 0;
        }
        return -EINVAL;
}

int parse_boolean(const char *s, bool *ret)
{
        static const char *const yes[] = {"yes", "true", "1", "on"}, *const no[] = {"no", "false", "0", "off"};

        for (size_t i = 0; i < ELEMENTSOF(yes); i++) {
                if (strcmp(s, yes[i]) == 0) {
                        *ret = true;
                        return 0;
                }
                if (strcmp(s, no[i]) == 0) {
                        *ret = false;
                        return 0;
                }
        }
        return -EINVAL;
}

static int key_set(Settings *s, const struct Key *key, const char *value)
{
        void *field = (char *) s + key->offset;
        char **v;
        int r;

        switch (key->type) {
        case KEY_STRING:
                return str_replace(field, value);
        case KEY_STRV:
                r = strv_split(value, &v);
                if (r < 0)
                        return r;
                strv_free(*(char ***) field);
                *(char ***) field = v;
                return 0;
        case KEY_USEC:
                return parse_usec(value, field);
        case KEY_UNSIGNED:
                return parse_unsigned(value, field);
        case KEY_SIZE:
                return parse_size(value, field);
        case KEY_BOOLEAN:
                return parse_boolean(value, field);
        }
        return -EINVAL;
}

int settings_defaults(Settings *s)
{
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                int r = key_set(s, &keys[i], keys[i].fallback);
                if (r < 0)
                        return r;
        }
        return 0;
}

static void key_file_free(econf_file *f)
{
        econf_freeFile(f);
}
static void econf_strings_free(char **v)
{
        econf_freeArray(v);
}
DEFINE_POINTER_CLEANUP(econf_file *, key_file_free);
DEFINE_POINTER_CLEANUP(char **, econf_strings_free);

static const struct Key *key_find(const char *section, const char *name)
{
        for (size_t i = 0; i < ELEMENTSOF(keys); i++)
                if (strcmp(keys[i].section, section) == 0 && strcmp(keys[i].name, name) == 0)
                        return &keys[i];
        return NULL;
}

static int apply_section(Settings *s, econf_file *f, const char *path, const char *section, Error *err)
{
        _cleanup_(econf_strings_freep) char **names = NULL;
        size_t n = 0;
        econf_err e = econf_getKeys(f, section, &n, &names);

        if (e == ECONF_NOKEY)
                return 0;
        if (e != ECONF_SUCCESS)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Cannot read section [%s] of %s: %s",
                                 section, path, econf_errString(e));
        for (size_t i = 0; i < n; i++) {
                const struct Key *key = key_find(section, names[i]);
                if (!key)
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "%s has an unknown key %s= in [%s]", path, names[i], section);
                _cleanup_free_ char *value = NULL;
                e = econf_getStringValue(f, section, names[i], &value);
                if (e != ECONF_SUCCESS)
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Cannot read %s= of %s: %s",
                                         names[i], path, econf_errString(e));
                int r = key_set(s, key, str_or(value, ""));
                if (r == -ENOMEM)
                        return error_oom(err);
                if (r < 0)
                        return error_set(err, ERROR_INVALID_ARGUMENT, r,
                                         "%s has an invalid value '%s' for %s= in [%s]", path,
                                         str_or(value, ""), names[i], section);
        }
        return 0;
}

static int apply_file(Settings *s, const char *path, Error *err)
{
        _cleanup_(key_file_freep) econf_file *f = NULL;
        _cleanup_(econf_strings_freep) char **sections = NULL;
        struct stat st;
        size_t n = 0;

        if (stat(path, &st) < 0)
                return errno == ENOENT ? 0
                                       : error_set(err, ERROR_INVALID_ARGUMENT, errno, "Cannot read %s: %m",
                                                   path);
        if (!S_ISREG(st.st_mode) || (st.st_mode & 022) || (st.st_uid != 0 && st.st_uid != geteuid()))
                return error_set(err, ERROR_INVALID_ARGUMENT, EPERM,
                                 "%s must be a regular file of root that nobody else can write", path);

        econf_err e = econf_readFile(&f, path, "=", "#");
        if (e != ECONF_SUCCESS)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Cannot read %s: %s", path,
                                 econf_errString(e));
        e = econf_getGroups(f, &n, &sections);
        if (e != ECONF_SUCCESS && e != ECONF_NOGROUP)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Cannot read %s: %s", path,
                                 econf_errString(e));
        for (size_t i = 0; i < n; i++) {
                int r = apply_section(s, f, path, sections[i], err);
                if (r < 0)
                        return r;
        }
        return 0;
}

static int is_drop_in(const struct dirent *d)
{
        size_t n = strlen(d->d_name);

        return d->d_name[0] != '.' && n > 5 && strcmp(d->d_name + n - 5, ".conf") == 0;
}

static int apply_drop_ins(Settings *s, const char *config_file, Error *err)
{
        _cleanup_free_ char *dir = NULL;
        struct dirent **entries = NULL;
        int r = 0;

        if (asprintf(&dir, "%s.d", config_file) < 0)
                return error_oom(err);
        int n = scandir(dir, &entries, is_drop_in, alphasort);
        if (n < 0)
                return errno == ENOENT ? 0
                                       : error_set(err, ERROR_INVALID_ARGUMENT, errno, "Cannot read %s: %m",
                                                   dir);

        for (int i = 0; i < n; i++) {
                _cleanup_free_ char *path = NULL;
                if (r >= 0 && asprintf(&path, "%s/%s", dir, entries[i]->d_name) < 0)
                        r = error_oom(err);
                if (r >= 0)
                        r = apply_file(s, path, err);
                free(entries[i]);
        }
        free(entries);
        return r;
}

/* Defaults that depend on other keys. */
static int settings_complete(Settings *s, Error *err)
{
        char name[HOST_NAME_MAX + 1] = "";

        if (!s->loop_directories) {
                _cleanup_free_ char *dir = NULL;
                if (asprintf(&dir, "%s/loop", s->state_dir) < 0 || strv_append(&s->loop_directories, dir) < 0)
                        return error_oom(err);
        }
        if (!*s->node_name) {
                (void) gethostname(name, sizeof(name) - 1);
                if (str_replace(&s->node_name, name) < 0)
                        return error_oom(err);
        }
        return 0;
}

int settings_load(Settings *s, const char *config_file, Error *err)
{
        if (settings_defaults(s) < 0 || str_replace(&s->config_file, str_or(config_file, BERTH_CONFIG_FILE)) < 0)
                return error_oom(err);

        int r = apply_file(s, s->config_file, err);
        if (r >= 0)
                r = apply_drop_ins(s, s->config_file, err);
        return r < 0 ? r : settings_complete(s, err);
}

int settings_resolve(Settings *s, Error *err)
{
        char resolved[PATH_MAX];

        if (!realpath(s->kubelet_root, resolved)) {
                if (errno != ENOENT)
                        return error_set(err, ERROR_INVALID_ARGUMENT, errno,
                                         "Cannot resolve the kubelet root %s: %m", s->kubelet_root);
                /* a node whose kubelet has not started yet */
                snprintf(resolved, sizeof(resolved), "%s", s->kubelet_root);
        }
        return str_replace(&s->kubelet_root_resolved, resolved) < 0 ? error_oom(err) : 0;
}

void settings_done(Settings *s)
{
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                void *field = (char *) s + keys[i].offset;
                if (keys[i].type == KEY_STRING)
                        free(*(char **) field);
                else if (keys[i].type == KEY_STRV)
                        strv_free(*(char ***) field);
        }
        free(s->config_file);
        free(s->kubelet_root_resolved);
        *s = SETTINGS_INIT;
}

/* "--option=value" or "--option value": the value, with *i moved past it. */
static const char *argument_value(const char *option, int argc, char **argv, int *i)
{
        size_t n = strlen(option);

        if (strncmp(argv[*i], option, n) != 0)
                return NULL;
        if (argv[*i][n] == '=')
                return argv[*i] + n + 1;
        if (argv[*i][n] == 0)
                return *i + 1 < argc ? argv[++*i] : "";
        return NULL;
}

static int argument_collect(StrMap *given, char ***rest, int argc, char **argv, Error *err)
{
        for (int i = 1; i < argc; i++) {
                bool known = false;

                for (size_t k = 0; k < ELEMENTSOF(argument_table) && !known; k++) {
                        const char *value = argument_value(argument_table[k].option, argc, argv, &i);
                        if (!value)
                                continue;
                        known = true;
                        if (value[0] != '/')
                                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                                 "%s takes an absolute path, not '%s'",
                                                 argument_table[k].option, value);
                        if (strmap_set(given, argument_table[k].option, value) < 0)
                                return error_oom(err);
                }
                if (!known && strv_append(rest, argv[i]) < 0)
                        return error_oom(err);
        }
        return 0;
}

int settings_from_arguments(Settings *s, int argc, char **argv, char ***ret_rest, Error *err)
{
        _cleanup_settings_ Settings new = SETTINGS_INIT;
        _cleanup_strmap_ StrMap given = STRMAP_INIT;
        _cleanup_strv_ char **rest = NULL;
        int r = argument_collect(&given, &rest, argc, argv, err);
        if (r < 0)
                return r;

        const char *config = strmap_get(&given, "--config"), *state = strmap_get(&given, "--state-dir");
        r = settings_load(&new, config, err);
        if (r < 0)
                return r;
        if (config && access(config, R_OK) < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, errno, "Cannot read %s: %m", config);

        /* the default of [Loop] Directories= lies in the state directory, wherever that ends up */
        _cleanup_free_ char *loop_default = NULL;
        if (asprintf(&loop_default, "%s/loop", new.state_dir) < 0)
                return error_oom(err);
        if (state && strv_length(new.loop_directories) == 1 &&
            strcmp(new.loop_directories[0], loop_default) == 0) {
                strv_free(TAKE_PTR(new.loop_directories));
                if (str_replace(&new.state_dir, state) < 0)
                        return error_oom(err);
                r = settings_complete(&new, err);
                if (r < 0)
                        return r;
        }
        for (size_t k = 0; k < ELEMENTSOF(argument_table); k++) {
                const char *value = strmap_get(&given, argument_table[k].option);
                if (value && str_replace((char **) ((char *) &new + argument_table[k].offset), value) < 0)
                        return error_oom(err);
        }
        r = settings_resolve(&new, err);
        if (r < 0)
                return r;

        settings_done(s);
        *s = new;
        new = SETTINGS_INIT;
        *ret_rest = TAKE_PTR(rest);
        return 0;
}

int settings_to_arguments(const Settings *s, char ***ret)
{
        _cleanup_strv_ char **v = NULL;

        for (size_t k = 0; k < ELEMENTSOF(argument_table); k++) {
                const char *value = *(char *const *) ((const char *) s + argument_table[k].offset);
                _cleanup_free_ char *argument = NULL;

                if (!value ||
                    (argument_table[k].offset == offsetof(Settings, config_file) && access(value, F_OK) < 0))
                        continue;
                if (asprintf(&argument, "%s=%s", argument_table[k].option, value) < 0 ||
                    strv_append(&v, argument) < 0)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(v);
        return 0;
}
