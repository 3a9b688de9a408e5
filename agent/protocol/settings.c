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
#include <stdio.h>
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
        KEY("Agent", "AdminGroup", KEY_STRING, admin_group, "berth"),
        KEY("Mounters", "Max", KEY_UNSIGNED, mounters_max, "16"),
        KEY("Mounters", "Warm", KEY_UNSIGNED, mounters_warm, "2"),
        KEY("Mounters", "QuarantineMax", KEY_UNSIGNED, mounters_quarantine_max, "64"),
        KEY("Mounters", "IdleSec", KEY_USEC, mounters_idle_usec, "60"),
        KEY("Mounters", "OperationsMax", KEY_UNSIGNED, mounters_operations_max, "10000"),
        KEY("Mounters", "MaxPerServer", KEY_UNSIGNED, mounters_max_per_server, "4"),
        KEY("Targets", "Allow", KEY_STRV, targets_allow, ""),
        KEY("Loop", "Directories", KEY_STRV, loop_directories, ""),
        KEY("Loop", "DirectIO", KEY_BOOLEAN, loop_direct_io, "yes"),
        KEY("RBD", "AllowedMonitors", KEY_STRV, rbd_allowed_monitors, ""),
        KEY("RBD", "AllowedPools", KEY_STRV, rbd_allowed_pools, ""),
        KEY("RBD", "KeyringDirectories", KEY_STRV, rbd_keyring_directories, "/etc/ceph"),
        KEY("RBD", "ConnectTimeoutSec", KEY_USEC, rbd_connect_timeout_usec, "10"),
        KEY("RBD", "OsdRequestTimeoutSec", KEY_USEC, rbd_osd_timeout_usec, "15"),
        KEY("RBD", "MapTimeoutSec", KEY_USEC, rbd_map_timeout_usec, "30"),
        KEY("RBD", "NbdReattachTimeoutSec", KEY_USEC, rbd_nbd_reattach_usec, "3600"),
        KEY("RBD", "MapOptions", KEY_STRV, rbd_map_options, ""),
        KEY("RBD", "InUseWaitSec", KEY_USEC, rbd_in_use_wait_usec, "40"),
        KEY("RBD", "Fence", KEY_STRING, rbd_fence, "never"),
        KEY("NFS", "AllowedServers", KEY_STRV, nfs_allowed_servers, ""),
        KEY("NFS", "PreflightTimeoutSec", KEY_USEC, nfs_preflight_timeout_usec, "5"),
        KEY("NFS", "MountOptions", KEY_STRV, nfs_mount_options, "hard timeo=100 retrans=3"),
        KEY("NFS", "ForceAfterSec", KEY_USEC, nfs_force_after_usec, "600"),
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

static bool key_equal(const struct Key *key, const Settings *a, const Settings *b)
{
        const void *x = (const char *) a + key->offset, *y = (const char *) b + key->offset;

        switch (key->type) {
        case KEY_STRING:
                return str_equal(*(char *const *) x, *(char *const *) y);
        case KEY_STRV:
                return strv_equal(*(char **const *) x, *(char **const *) y);
        case KEY_USEC:
        case KEY_SIZE:
                return *(const uint64_t *) x == *(const uint64_t *) y;
        case KEY_UNSIGNED:
                return *(const unsigned *) x == *(const unsigned *) y;
        case KEY_BOOLEAN:
                return *(const bool *) x == *(const bool *) y;
        }
        return false;
}

/* Where records, locks and targets lie, and who is asked: berthd's own data refers to it, so it stays until a restart. */
static bool key_is_fixed(const struct Key *key)
{
        return strcmp(key->section, "Paths") == 0;
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

/* Sets it and remembers what it was set to, for the mounters. */
static int key_give(Settings *s, const struct Key *key, const char *value)
{
        _cleanup_free_ char *name = NULL;
        int r = key_set(s, key, value);

        if (r < 0 || key_is_fixed(key))
                return r; /* paths have options of their own */
        return asprintf(&name, "%s.%s", key->section, key->name) < 0 ? -ENOMEM : strmap_set(&s->given, name, value);
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
                int r = key_give(s, key, str_or(value, ""));
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

static int settings_read(Settings *s, const char *config_file, Error *err)
{
        if (settings_defaults(s) < 0 || str_replace(&s->config_file, str_or(config_file, BERTH_CONFIG_FILE)) < 0)
                return error_oom(err);

        int r = apply_file(s, s->config_file, err);
        return r < 0 ? r : apply_drop_ins(s, s->config_file, err);
}

int settings_load(Settings *s, const char *config_file, Error *err)
{
        int r = settings_read(s, config_file, err);

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
        strmap_done(&s->given);
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

typedef struct Arguments {
        StrMap paths; /* by option */
        StrMap given; /* by "Section.Key": berthd's settings, which count instead of the file */
        bool no_config;
        char **rest;
} Arguments;

static void arguments_done(Arguments *a)
{
        strmap_done(&a->paths);
        strmap_done(&a->given);
        strv_free(a->rest);
}

/* "Section.Key=value". */
static int argument_given(Arguments *a, const char *text, Error *err)
{
        const char *value = strchr(text, '=');
        _cleanup_free_ char *name = value ? strndup(text, (size_t) (value - text)) : NULL;

        if (!value)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "--set takes Section.Key=VALUE, not '%s'", text);
        return !name || strmap_set(&a->given, name, value + 1) < 0 ? error_oom(err) : 0;
}

static int arguments_collect(Arguments *a, int argc, char **argv, Error *err)
{
        for (int i = 1; i < argc; i++) {
                const char *value = argument_value("--set", argc, argv, &i);
                bool known = value;

                if (value && argument_given(a, value, err) < 0)
                        return error_errno(err);
                if (strcmp(argv[i], "--no-config") == 0)
                        known = a->no_config = true;
                for (size_t k = 0; k < ELEMENTSOF(argument_table) && !known; k++) {
                        value = argument_value(argument_table[k].option, argc, argv, &i);
                        if (!value)
                                continue;
                        known = true;
                        if (value[0] != '/')
                                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                                 "%s takes an absolute path, not '%s'",
                                                 argument_table[k].option, value);
                        if (strmap_set(&a->paths, argument_table[k].option, value) < 0)
                                return error_oom(err);
                }
                if (!known && strv_append(&a->rest, argv[i]) < 0)
                        return error_oom(err);
        }
        return 0;
}

/* One that this version does not know is of no use to it; berthd has checked it. */
static int apply_given(Settings *s, const StrMap *given, Error *err)
{
        STRMAP_FOREACH (e, given) {
                const char *dot = strchr(e->key, '.');
                _cleanup_free_ char *section = strndup(e->key, dot ? (size_t) (dot - e->key) : 0);
                if (!section)
                        return error_oom(err);

                const struct Key *key = dot ? key_find(section, dot + 1) : NULL;
                int r = key ? key_give(s, key, e->value) : 0;
                if (r == -ENOMEM)
                        return error_oom(err);
                if (r < 0)
                        return error_set(err, ERROR_INVALID_ARGUMENT, r, "--set=%s has an invalid value '%s'", e->key, e->value);
        }
        return 0;
}

/* The file, if it is wanted, and what the command line says; not yet the defaults that depend on others. */
static int arguments_apply(Settings *s, const Arguments *a, Error *err)
{
        const char *config = strmap_get(&a->paths, "--config");
        int r = a->no_config ? (settings_defaults(s) < 0 ? error_oom(err) : 0) : settings_read(s, config, err);

        if (r < 0)
                return r;
        if (config && !a->no_config && access(config, R_OK) < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, errno, "Cannot read %s: %m", config);
        for (size_t k = 0; k < ELEMENTSOF(argument_table); k++) {
                const char *value = strmap_get(&a->paths, argument_table[k].option);
                if (value && str_replace((char **) ((char *) s + argument_table[k].offset), value) < 0)
                        return error_oom(err);
        }
        return apply_given(s, &a->given, err);
}

int settings_from_arguments(Settings *s, int argc, char **argv, char ***ret_rest, Error *err)
{
        _cleanup_settings_ Settings new = SETTINGS_INIT;
        _cleanup_(arguments_done) Arguments a = {};
        int r = arguments_collect(&a, argc, argv, err);

        if (r >= 0)
                r = arguments_apply(&new, &a, err);
        if (r >= 0)
                r = settings_complete(&new, err);
        if (r >= 0)
                r = settings_resolve(&new, err);
        if (r < 0)
                return r;

        settings_done(s);
        *s = new;
        new = SETTINGS_INIT;
        *ret_rest = TAKE_PTR(a.rest);
        return 0;
}

/* Leaves what cannot change at run time as it is in s, and names it. */
static int keep_fixed(Settings *new, const Settings *s, char ***ret_fixed)
{
        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                if (!key_is_fixed(&keys[i]) || key_equal(&keys[i], new, s))
                        continue;
                if (strv_append(ret_fixed, keys[i].name) < 0 ||
                    str_replace((char **) ((char *) new + keys[i].offset), *(char *const *) ((const char *) s + keys[i].offset)) < 0)
                        return -ENOMEM;
        }
        return str_replace(&new->kubelet_root_resolved, s->kubelet_root_resolved);
}

int settings_reload(Settings *s, int argc, char **argv, char ***ret_fixed, Error *err)
{
        _cleanup_settings_ Settings new = SETTINGS_INIT;
        _cleanup_(arguments_done) Arguments a = {};
        _cleanup_strv_ char **fixed = NULL;
        int r = arguments_collect(&a, argc, argv, err);

        if (r >= 0)
                r = arguments_apply(&new, &a, err);
        if (r >= 0 && keep_fixed(&new, s, &fixed) < 0)
                r = error_oom(err);
        if (r >= 0)
                r = settings_complete(&new, err);
        if (r < 0)
                return r;

        settings_done(s);
        *s = new;
        new = SETTINGS_INIT;
        *ret_fixed = TAKE_PTR(fixed);
        return 0;
}

/* As the file has it: parse_usec() and parse_size() read it back. */
static void print_usec(FILE *file, uint64_t usec)
{
        if (usec % 1000000 == 0)
                fprintf(file, "%" PRIu64, usec / 1000000);
        else
                fprintf(file, "%" PRIu64 "us", usec);
}

static void print_size(FILE *file, uint64_t size)
{
        static const char suffixes[] = "KMGTP";
        int i = -1;

        for (; size > 0 && size % 1024 == 0 && suffixes[i + 1]; i++)
                size /= 1024;
        fprintf(file, "%" PRIu64, size);
        if (i >= 0)
                fputc(suffixes[i], file);
}

static void print_value(FILE *file, const struct Key *key, const void *field)
{
        switch (key->type) {
        case KEY_STRING:
                fputs(str_or(*(char *const *) field, ""), file);
                break;
        case KEY_STRV:
                STRV_FOREACH (v, *(char ***) field)
                        fprintf(file, "%s%s", v == *(char ***) field ? "" : " ", *v);
                break;
        case KEY_USEC:
                print_usec(file, *(const uint64_t *) field);
                break;
        case KEY_UNSIGNED:
                fprintf(file, "%u", *(const unsigned *) field);
                break;
        case KEY_SIZE:
                print_size(file, *(const uint64_t *) field);
                break;
        case KEY_BOOLEAN:
                fputs(*(const bool *) field ? "yes" : "no", file);
                break;
        }
}

void settings_print(const Settings *s, FILE *file)
{
        const char *section = "";

        for (size_t i = 0; i < ELEMENTSOF(keys); i++) {
                if (!str_equal(section, keys[i].section))
                        fprintf(file, "%s[%s]\n", *section ? "\n" : "", keys[i].section);
                section = keys[i].section;
                fprintf(file, "%s=", keys[i].name);
                print_value(file, &keys[i], (const char *) s + keys[i].offset);
                fputc('\n', file);
        }
}

int settings_to_arguments(const Settings *s, char ***ret)
{
        _cleanup_strv_ char **v = NULL;

        if (strv_append(&v, "--no-config") < 0)
                return -ENOMEM;
        for (size_t k = 0; k < ELEMENTSOF(argument_table); k++) {
                const char *value = *(char *const *) ((const char *) s + argument_table[k].offset);
                _cleanup_free_ char *argument = NULL;

                if (!value || argument_table[k].offset == offsetof(Settings, config_file))
                        continue;
                if (asprintf(&argument, "%s=%s", argument_table[k].option, value) < 0 ||
                    strv_append(&v, argument) < 0)
                        return -ENOMEM;
        }
        STRMAP_FOREACH (e, &s->given) {
                _cleanup_free_ char *argument = NULL;

                if (asprintf(&argument, "--set=%s=%s", e->key, e->value) < 0 || strv_append(&v, argument) < 0)
                        return -ENOMEM;
        }
        *ret = TAKE_PTR(v);
        return 0;
}
