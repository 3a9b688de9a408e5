/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * NFS sources as text: server, path, subDir and options checked, made canonical and named. Pure, in a
 * mounter; reached by whatever a pod's author writes.
 *
 * Invariants: two sources have the same key only if they mean the same mount: server, export and superblock
 * options, each in one spelling. What a publish alone is about (subDir, readOnly, …) is no part of it. No
 * component of a path is "." or "..".
 */

#include "mounters/nfs-source.h"

#include <arpa/inet.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/digest.h"
#include "mounters/fs/mount.h"
#include "protocol/names.h"

#define HOST_MAX 253U
#define LABEL_MAX 63U
#define EXPORT_MAX 1024U /* MNTPATHLEN of NFSv3; the kernel has no more either */
#define SUB_DIR_MAX 1024U
#define OPTIONS_MAX 1024U
#define SHOWN_MAX 120 /* of a string that somebody made long on purpose */

static const char *const version_names[_NFS_VERSION_MAX] = {
                [NFS_VERSION_ANY] = "any", [NFS_VERSION_3] = "3",     [NFS_VERSION_4_0] = "4.0",
                [NFS_VERSION_4_1] = "4.1", [NFS_VERSION_4_2] = "4.2",
};

const char *nfs_version_to_string(NfsVersion v)
{
        return v >= 0 && v < _NFS_VERSION_MAX ? version_names[v] : "invalid";
}

void nfs_source_done(NfsSource *s)
{
        free(s->host);
        free(s->server);
        free(s->export);
        free(s->sub_dir);
        strv_free(s->options);
        free(s->identity);
        free(s->key);
        free(s->group);
        *s = NFS_SOURCE_INIT;
}

/* ---- the server ---- */

static bool is_alphanumeric(char c)
{
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Letters, digits, '-' and '_' in labels. The last label of a name is no number: resolvers take "10.1" for
 * an address. */
static bool host_name_is_valid(const char *s)
{
        size_t n = 0;
        bool numeric = true;

        if (strlen(s) > HOST_MAX)
                return false;
        for (;; s++) {
                if (*s == '.' || *s == 0) {
                        if (n == 0 || n > LABEL_MAX || s[-1] == '-')
                                return false;
                        if (*s == 0)
                                return !numeric;
                        n = 0;
                        numeric = true;
                        continue;
                }
                if (!is_alphanumeric(*s) && *s != '_' && !(*s == '-' && n > 0))
                        return false;
                numeric = numeric && *s >= '0' && *s <= '9';
                n++;
        }
}

static bool zone_is_valid(const char *zone)
{
        size_t n = 0;

        for (; zone[n]; n++)
                if (!is_alphanumeric(zone[n]) && !strchr("._-", zone[n]))
                        return false;
        return n > 0 && n <= 15;
}

/* An IPv6 address in its one spelling; an IPv4 address in disguise becomes what it is. */
static int canonical_ipv6(const char *text, char **ret)
{
        const char *zone = strchr(text, '%');
        char plain[INET6_ADDRSTRLEN], out[INET6_ADDRSTRLEN];
        size_t n = zone ? (size_t) (zone - text) : strlen(text);
        struct in6_addr a;

        if (n >= sizeof(plain) || (zone && !zone_is_valid(zone + 1)))
                return -EINVAL;
        memcpy(plain, text, n);
        plain[n] = 0;
        if (inet_pton(AF_INET6, plain, &a) != 1 || (zone && !IN6_IS_ADDR_LINKLOCAL(&a)))
                return -EINVAL;
        if (IN6_IS_ADDR_V4MAPPED(&a))
                return inet_ntop(AF_INET, &a.s6_addr[12], out, sizeof(out)) && (*ret = strdup(out))
                                       ? 0
                                       : -ENOMEM;
        if (!inet_ntop(AF_INET6, &a, out, sizeof(out)))
                return -EINVAL;
        return asprintf(ret, "%s%s", out, zone ? zone : "") < 0 ? -ENOMEM : 0;
}

static int server_invalid(const char *server, const char *problem, Error *err)
{
        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "server '%.*s' %s", SHOWN_MAX, server,
                         problem);
}

static int parse_bracketed(NfsSource *s, const char *server, Error *err)
{
        size_t n = strlen(server);
        _cleanup_free_ char *inner = n > 2 && server[n - 1] == ']' ? strndup(server + 1, n - 2) : NULL;
        int r = inner ? canonical_ipv6(inner, &s->host) : -EINVAL;

        if (r == -ENOMEM)
                return error_oom(err);
        return r < 0 ? server_invalid(server, "is not an IPv6 address in brackets, such as [fd00::1]", err)
                     : 0;
}

static int parse_server(NfsSource *s, const char *server, Error *err)
{
        struct in_addr v4;
        int r = 0;

        if (server[0] == '[') {
                r = parse_bracketed(s, server, err);
                if (r < 0)
                        return r;
                s->is_numeric = true;
        } else if (strchr(server, ':')) {
                _cleanup_free_ char *address = NULL;
                return server_invalid(
                                server,
                                canonical_ipv6(server, &address) >= 0
                                                ? "is an IPv6 address: write it in brackets, as [fd00::1]"
                                                : "holds a colon: the path goes into option path, a port "
                                                  "into mountOptions",
                                err);
        } else {
                s->host = strdup(server);
                size_t n = strlen(server);
                if (!s->host)
                        return error_oom(err);
                if (n > 1 && server[n - 1] == '.')
                        s->host[n - 1] = 0;
                s->is_numeric = inet_pton(AF_INET, s->host, &v4) == 1;
                if (!s->is_numeric && !host_name_is_valid(s->host))
                        return server_invalid(server, "is neither a host name nor an address", err);
                for (char *p = s->host; *p; p++)
                        if (*p >= 'A' && *p <= 'Z')
                                *p = (char) (*p - 'A' + 'a');
        }
        if (asprintf(&s->server, strchr(s->host, ':') ? "[%s]" : "%s", s->host) < 0) {
                s->server = NULL;
                return error_oom(err);
        }
        return 0;
}

/* ---- which servers are allowed ---- */

static bool prefix_matches(const uint8_t *a, const uint8_t *b, unsigned bits)
{
        unsigned n = bits / 8, rest = bits % 8;

        return memcmp(a, b, n) == 0 && (rest == 0 || (a[n] ^ b[n]) >> (8 - rest) == 0);
}

/* "10.0.0.0/8", "fd00::1", "[fd00::1]": the family, address and number of bits that count; false: it is
 * none. */
static bool network_parse(const char *entry, int *ret_family, uint8_t address[static 16], unsigned *ret_bits)
{
        const char *slash = strchr(entry, '/');
        size_t n = slash ? (size_t) (slash - entry) : strlen(entry);
        char text[INET6_ADDRSTRLEN + 2];
        unsigned bits;

        if (n >= 2 && entry[0] == '[' && entry[n - 1] == ']') {
                entry++;
                n -= 2;
        }
        if (n >= sizeof(text))
                return false;
        memcpy(text, entry, n);
        text[n] = 0;
        if (inet_pton(AF_INET, text, address) == 1)
                *ret_family = AF_INET;
        else if (inet_pton(AF_INET6, text, address) == 1)
                *ret_family = AF_INET6;
        else
                return false;
        bits = *ret_family == AF_INET ? 32 : 128;
        *ret_bits = bits;
        return !slash || (parse_unsigned(slash + 1, ret_bits) >= 0 && *ret_bits <= bits);
}

bool nfs_address_is_allowed(int family, const void *address, char *const *allowed)
{
        static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
        const uint8_t *bytes = address;
        uint8_t network[16];
        unsigned bits;
        int of;

        if (family == AF_INET6 && memcmp(bytes, mapped, sizeof(mapped)) == 0) {
                family = AF_INET;
                bytes += sizeof(mapped);
        }
        STRV_FOREACH (a, allowed)
                if (network_parse(*a, &of, network, &bits) && of == family &&
                    prefix_matches(bytes, network, bits))
                        return true;
        return false;
}

static bool name_is_allowed(const char *host, char *const *allowed)
{
        size_t n = strlen(host);

        STRV_FOREACH (a, allowed) {
                size_t k = strlen(*a);

                if (strcasecmp(*a, host) == 0)
                        return true;
                if ((*a)[0] == '*' && (*a)[1] == '.' && n > k - 1 &&
                    strcasecmp(host + n - (k - 1), *a + 1) == 0)
                        return true;
        }
        return false;
}

static int check_allowed(NfsSource *s, char *const *allowed, Error *err)
{
        uint8_t address[16], network[16];
        bool has_networks = false;
        unsigned bits;
        int family;

        if (strv_length(allowed) == 0)
                return 0;
        STRV_FOREACH (a, allowed)
                has_networks = has_networks || network_parse(*a, &family, network, &bits);
        if (s->is_numeric) {
                _cleanup_free_ char *plain = strndup(s->host, strcspn(s->host, "%"));
                if (!plain)
                        return error_oom(err);
                if (network_parse(plain, &family, address, &bits) &&
                    nfs_address_is_allowed(family, address, allowed))
                        return 0;
        } else if (name_is_allowed(s->host, allowed)) {
                return 0;
        } else if (has_networks) {
                s->check_address = true;
                return 0;
        }
        return error_set(err, ERROR_SERVER_NOT_ALLOWED, EPERM, "Server %s is not one that pods may use",
                         s->server);
}

/* ---- paths ---- */

static int path_invalid(const char *option, const char *path, const char *problem, Error *err)
{
        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "%s '%.*s' %s", option, SHOWN_MAX, path,
                         problem);
}

/* Without doubled and trailing slashes, and without a leading one; "" for the root. */
static int path_normalize(const char *option, const char *path, size_t max, char **ret, Error *err)
{
        _cleanup_free_ char *out = calloc(1, strlen(path) + 1);
        const char *whole = path;
        size_t n = 0;

        if (!out)
                return error_oom(err);
        for (const unsigned char *p = (const unsigned char *) path; *p; p++)
                if (*p < 0x20 || *p == 0x7f)
                        return path_invalid(option, path, "holds a control character", err);
        while (*path) {
                size_t k = strcspn(path, "/");

                if ((k == 1 && path[0] == '.') || (k == 2 && path[0] == '.' && path[1] == '.'))
                        return path_invalid(option, whole, "must not contain '.' or '..'", err);
                if (k > NAME_MAX)
                        return path_invalid(option, whole, "has a component of more than 255 bytes", err);
                if (k > 0) {
                        if (n > 0)
                                out[n++] = '/';
                        memcpy(out + n, path, k);
                        n += k;
                }
                path += k + (path[k] == '/');
        }
        if (n + 1 >= max)
                return path_invalid(option, out, "is too long: at most 1022 bytes are possible", err);
        *ret = TAKE_PTR(out);
        return 0;
}

static int parse_export(NfsSource *s, const StrMap *options, Error *err)
{
        const char *path = strmap_get(options, "path"), *share = strmap_get(options, "share");
        _cleanup_free_ char *relative = NULL;

        if (path && share && strcmp(path, share) != 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "Options path and share are the same and differ");
        if (!path)
                path = share;
        if (!path || !*path)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "Option path, the directory the server exports, is missing");
        if (path[0] != '/')
                return path_invalid("path", path, "is not absolute", err);
        int r = path_normalize("path", path, EXPORT_MAX, &relative, err);
        if (r < 0)
                return r;
        if (asprintf(&s->export, "/%s", relative) < 0) {
                s->export = NULL;
                return error_oom(err);
        }
        return 0;
}

static int parse_sub_dir(NfsSource *s, const StrMap *options, Error *err)
{
        const char *path = strmap_get(options, "subDir");
        _cleanup_free_ char *relative = NULL;

        if (!path || !*path)
                return 0;
        if (path[0] == '/')
                return path_invalid("subDir", path, "must be relative to the export", err);
        int r = path_normalize("subDir", path, SUB_DIR_MAX, &relative, err);
        if (r >= 0 && *relative)
                s->sub_dir = TAKE_PTR(relative);
        return r;
}

static int parse_octal(const char *text, mode_t *ret)
{
        size_t n = strspn(text, "01234567");

        if (n == 0 || n > 5 || text[n])
                return -EINVAL;
        unsigned long mode = strtoul(text, NULL, 8);
        if (mode > 03777) /* set-group-ID and sticky have a use for directories */
                return -EINVAL;
        *ret = (mode_t) mode;
        return 0;
}

/* How a subDir is to be made. */
static int parse_creation(NfsSource *s, const StrMap *options, Error *err)
{
        const char *create = strmap_get(options, "createSubDir"), *mode = strmap_get(options, "mode"),
                   *gid = strmap_get(options, "gid");
        unsigned n;

        if (create && strcmp(create, "true") != 0 && strcmp(create, "false") != 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "createSubDir must be \"true\" or \"false\"");
        s->create_sub_dir = create && strcmp(create, "true") == 0;
        if (mode && parse_octal(mode, &s->mode) < 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "mode '%.*s' is not an octal mode such as 2770", SHOWN_MAX, mode);
        if (gid && (parse_unsigned(gid, &n) < 0 || n == UINT_MAX))
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "gid '%.*s' is not the number of a group", SHOWN_MAX, gid);
        if (gid)
                s->gid = n;
        if (s->create_sub_dir && !s->sub_dir)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "createSubDir needs option subDir");
        if ((mode || gid) && !s->create_sub_dir)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                 "mode and gid are of a subDir that is made, and createSubDir is not "
                                 "\"true\"");
        return 0;
}

/* ---- options ---- */

static size_t name_length(const char *option)
{
        return strcspn(option, "=");
}

/* Of several ways to say the same thing only one may be used. */
static const char *option_group(const char *option, size_t *ret_length)
{
        static const struct {
                const char *names, *group;
        } groups[] = {
                        {" hard soft softerr ", "hard"},
                        {" ac noac ", "ac"},
                        {" cto nocto ", "cto"},
                        {" lock nolock ", "lock"},
                        {" acl noacl ", "acl"},
                        {" rdirplus nordirplus ", "rdirplus"},
                        {" resvport noresvport ", "resvport"},
                        {" sync async ", "sync"},
                        {" diratime nodiratime ", "diratime"},
                        {" atime noatime relatime strictatime ", "atime"},
        };
        char wanted[32];

        *ret_length = name_length(option);
        if (*ret_length + 3 > sizeof(wanted))
                return option;
        snprintf(wanted, sizeof(wanted), " %.*s ", (int) *ret_length, option);
        for (size_t i = 0; i < ELEMENTSOF(groups); i++)
                if (strstr(groups[i].names, wanted)) {
                        *ret_length = strlen(groups[i].group);
                        return groups[i].group;
                }
        return option;
}

static bool same_option(const char *a, const char *b)
{
        size_t n, k;
        const char *x = option_group(a, &n), *y = option_group(b, &k);

        return n == k && memcmp(x, y, n) == 0;
}

static int parse_version(NfsSource *s, const char *text, Error *err)
{
        static const struct {
                const char *text;
                NfsVersion version;
        } spellings[] = {
                        {"3", NFS_VERSION_3},     {"4.0", NFS_VERSION_4_0}, {"4.1", NFS_VERSION_4_1},
                        {"4.2", NFS_VERSION_4_2}, {"4", NFS_VERSION_4_2},
        };

        for (size_t i = 0; i < ELEMENTSOF(spellings); i++) {
                if (strcmp(text, spellings[i].text) != 0)
                        continue;
                if (s->version != NFS_VERSION_ANY && s->version != spellings[i].version)
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "The NFS version is given twice: %s and %s",
                                         nfs_version_to_string(s->version), text);
                s->version = spellings[i].version;
                return 0;
        }
        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                         "NFS version '%.*s' is not one of 4.2, 4.1, 4.0 and 3", SHOWN_MAX, text);
}

static int add_option(NfsSource *s, const char *option, Error *err)
{
        const char *value = strchr(option, '=');

        if (strncmp(option, "vers=", 5) == 0 || strncmp(option, "nfsvers=", 8) == 0)
                return parse_version(s, value + 1, err);
        int r = fs_option_check_nfs(option, err);
        if (r < 0)
                return r;
        if (strncmp(option, "port=", 5) == 0) {
                if (parse_unsigned(value + 1, &s->port) < 0 || s->port == 0 || s->port > 65535)
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "Mount option '%s' names no TCP port", option);
                return 0;
        }
        STRV_FOREACH (o, s->options) {
                if (strcmp(*o, option) == 0)
                        return 0;
                if (same_option(*o, option))
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "Mount options '%s' and '%s' contradict each other", *o, option);
        }
        return strv_append(&s->options, option) < 0 ? error_oom(err) : 0;
}

static int compare_strings(const void *a, const void *b)
{
        return strcmp(*(char *const *) a, *(char *const *) b);
}

static int parse_options(NfsSource *s, char *const *mount_options, char *const *defaults, Error *err)
{
        size_t size = 0;
        int r = 0;

        STRV_FOREACH (o, mount_options)
                if ((r = add_option(s, *o, err)) < 0)
                        return r;
        size_t n = strv_length(s->options);
        STRV_FOREACH (d, defaults) {
                bool given = (strncmp(*d, "vers=", 5) == 0 && s->version != NFS_VERSION_ANY) ||
                             (strncmp(*d, "port=", 5) == 0 && s->port != 0);

                for (size_t i = 0; i < n && !given; i++)
                        given = same_option(s->options[i], *d);
                if (!given && (r = add_option(s, *d, err)) < 0) {
                        error_prefix(err, "[NFS] MountOptions= of berthd.conf");
                        return r;
                }
        }
        n = strv_length(s->options);
        if (n > 1)
                qsort(s->options, n, sizeof(*s->options), compare_strings);
        STRV_FOREACH (o, s->options)
                size += strlen(*o) + 1;
        return size > OPTIONS_MAX ? error_set(err, ERROR_INVALID_ARGUMENT, E2BIG,
                                              "The mount options have more than %u bytes", OPTIONS_MAX)
                                  : 0;
}

const char *nfs_source_option(const NfsSource *s, const char *name)
{
        size_t n = strlen(name);

        STRV_FOREACH (o, s->options)
                if (name_length(*o) == n && memcmp(*o, name, n) == 0)
                        return (*o)[n] == '=' ? *o + n + 1 : "";
        return NULL;
}

/* ---- names ---- */

/* Colons separate the parts of the identity, so that of an export is written otherwise. */
static int append_escaped(FILE *f, const char *s)
{
        for (; *s; s++)
                if (*s == ':' || *s == '%')
                        fprintf(f, "%%%02X", (unsigned) *s);
                else
                        fputc(*s, f);
        return ferror(f) ? -ENOMEM : 0;
}

static int name_source(NfsSource *s, Error *err)
{
        const char *separator = "";
        char name[DIGEST_NAME_SIZE];
        size_t size = 0;
        _cleanup_fclose_ FILE *f = open_memstream(&s->identity, &size);

        if (!f)
                return error_oom(err);
        fprintf(f, "nfs:%s:", s->server);
        if (append_escaped(f, s->export) < 0)
                return error_oom(err);
        fputc(':', f);
        if (s->version != NFS_VERSION_ANY) {
                fprintf(f, "vers=%s", nfs_version_to_string(s->version));
                separator = ",";
        }
        if (s->port != 0) {
                fprintf(f, "%sport=%u", separator, s->port);
                separator = ",";
        }
        STRV_FOREACH (o, s->options) {
                fprintf(f, "%s%s", separator, *o);
                separator = ",";
        }
        if (fflush(f) != 0 || ferror(f))
                return error_oom(err);

        digest_name(s->identity, name);
        if (asprintf(&s->key, "nfs-%s", name) < 0) {
                s->key = NULL;
                return error_oom(err);
        }
        if (asprintf(&s->group, "nfs:%s", s->server) < 0) {
                s->group = NULL;
                return error_oom(err);
        }
        return 0;
}

static int check_names(const StrMap *options, Error *err)
{
        static const char *const known[] = {"server",       "path", "share", "subDir",
                                            "createSubDir", "mode", "gid",   "vers"};

        STRMAP_FOREACH (e, options) {
                bool found = false;

                for (size_t i = 0; i < ELEMENTSOF(known); i++)
                        found = found || strcmp(e->key, known[i]) == 0;
                if (!found)
                        return error_set(err, ERROR_UNKNOWN_OPTION, EINVAL,
                                         "Option '%.*s' is unknown to driver nfs", SHOWN_MAX, e->key);
        }
        return 0;
}

int nfs_source_parse(const StrMap *options, char *const *mount_options, const Settings *settings,
                     NfsSource *ret, Error *err)
{
        _cleanup_nfs_source_ NfsSource s = NFS_SOURCE_INIT;
        const char *server = strmap_get(options, "server"), *version = strmap_get(options, "vers");
        int r = check_names(options, err);

        if (r >= 0 && (!server || !*server))
                r = error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option server is missing");
        if (r >= 0)
                r = parse_server(&s, server, err);
        if (r >= 0)
                r = parse_export(&s, options, err);
        if (r >= 0)
                r = parse_sub_dir(&s, options, err);
        if (r >= 0)
                r = parse_creation(&s, options, err);
        if (r >= 0 && version && *version)
                r = parse_version(&s, version, err);
        if (r >= 0)
                r = parse_options(&s, mount_options, settings->nfs_mount_options, err);
        if (r >= 0)
                r = check_allowed(&s, settings->nfs_allowed_servers, err);
        if (r >= 0)
                r = name_source(&s, err);
        if (r < 0)
                return r;
        *ret = s;
        s = NFS_SOURCE_INIT;
        return 0;
}
