/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Options of an rbd volume, as text: parsing, limits, allow-lists, identity. Pure; runs in the rbd mounter (and in tests and the
 * fuzzer). The keyring, which is a file, is in rbd-keyring.c.
 */

#include "mounters/rbd-source.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/digest.h"

void rbd_source_done(RbdSource *s)
{
        free(s->monitors);
        strv_free(s->map_options);
        *s = RBD_SOURCE_INIT;
}

/* --- names --- */

static const char *name_problem(const char *name, const char *forbidden)
{
        if (strlen(name) > RBD_NAME_MAX)
                return "is longer than 96 bytes";
        if (name[0] == '-')
                return "begins with a hyphen";
        for (const char *p = name; *p; p++)
                if ((unsigned char) *p <= ' ' || *p == 0x7f)
                        return "has white space or a control character in it";
                else if (strchr(forbidden, *p))
                        return "has a character in it that separates names or options";
        return NULL;
}

/* ',' ends a map option: only what is passed as one must not have it. */
static int name_take(const StrMap *source, const char *key, const char *forbidden, const char **ret, Error *err)
{
        const char *value = strmap_get(source, key), *problem;

        if (!value || !*value)
                return 0;
        problem = name_problem(value, forbidden);
        if (problem)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option '%s' %s", key, problem);
        *ret = value;
        return 0;
}

/* --- monitors --- */

static int monitor_invalid(const char *token, size_t n, const char *problem, Error *err)
{
        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Monitor '%.*s' of option 'monitors' %s",
                         n < 100 ? (int) n : 100, token, problem);
}

static bool host_is_valid(const char *host)
{
        uint8_t address[16];

        if (strchr(host, ':'))
                return inet_pton(AF_INET6, host, address) == 1;
        return *host && host[0] != '-' && host[0] != '.' &&
               strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == strlen(host);
}

/* "[v1:|v2:]host[:port][/nonce]", an IPv6 host in brackets. */
static int monitor_parse(const char *token, size_t n, RbdMonitor *ret, Error *err)
{
        RbdMonitor m = {};
        const char *p = token, *end = token + n, *host, *host_end;
        unsigned port = 0;

        if (n > 3 && p[0] == 'v' && (p[1] == '1' || p[1] == '2') && p[2] == ':') {
                m.protocol = (uint8_t) (p[1] - '0');
                p += 3;
        }
        if (p < end && *p == '[') {
                host = ++p;
                host_end = memchr(p, ']', (size_t) (end - p));
                if (!host_end || !memchr(host, ':', (size_t) (host_end - host)))
                        return monitor_invalid(token, n, "has brackets that hold no IPv6 address", err);
                p = host_end + 1;
        } else {
                host = p;
                while (p < end && *p != ':' && *p != '/')
                        p++;
                host_end = p;
        }
        if ((size_t) (host_end - host) >= sizeof(m.host))
                return monitor_invalid(token, n, "is too long", err);
        memcpy(m.host, host, (size_t) (host_end - host));
        if (!host_is_valid(m.host))
                return monitor_invalid(token, n, "is neither an address nor a name", err);
        if (p < end && *p == ':') {
                const char *digits = ++p;
                while (p < end && *p >= '0' && *p <= '9' && p - digits < 6)
                        port = port * 10 + (unsigned) (*p++ - '0');
                if (p == digits || port == 0 || port > UINT16_MAX)
                        return monitor_invalid(token, n, "has an impossible port", err);
                m.port = (uint16_t) port;
        }
        if (p < end && *p == '/') { /* the nonce of a monitor is always 0 and of no use */
                p++;
                while (p < end && *p >= '0' && *p <= '9')
                        p++;
        }
        if (p != end)
                return monitor_invalid(token, n, "is followed by something else", err);
        *ret = m;
        return 0;
}

static int compare_monitors(const void *a, const void *b)
{
        const RbdMonitor *x = a, *y = b;
        int r = strcmp(x->host, y->host);

        if (r == 0)
                r = (int) x->port - (int) y->port;
        return r != 0 ? r : (int) x->protocol - (int) y->protocol;
}

static int monitor_add(RbdSource *s, const char *token, size_t n, Error *err)
{
        RbdMonitor m;
        int r;

        if (s->n_monitors == RBD_MONITORS_MAX)
                return error_set(err, ERROR_INVALID_ARGUMENT, E2BIG, "Option 'monitors' names more than %u",
                                 RBD_MONITORS_MAX);
        r = monitor_parse(token, n, &m, err);
        if (r < 0)
                return r;
        for (size_t i = 0; i < s->n_monitors; i++)
                if (compare_monitors(&s->monitors[i], &m) == 0)
                        return 0;
        RbdMonitor *grown = reallocarray(s->monitors, s->n_monitors + 1, sizeof(*grown));
        if (!grown)
                return error_oom(err);
        s->monitors = grown;
        grown[s->n_monitors++] = m;
        return 0;
}

/* Commas or spaces between; Ceph's own "[v2:…,v1:…]" groups are taken as what is in them. */
static int monitors_parse(RbdSource *s, const char *list, Error *err)
{
        bool group = false;

        for (const char *p = list + strspn(list, ", "); *p; p += strspn(p, ", ")) {
                if (p[0] == '[' && p[1] == 'v') {
                        if (group)
                                return monitor_invalid(p, strcspn(p, ", "), "opens a second bracket", err);
                        group = true;
                        p++;
                }
                size_t n = strcspn(p, ", "), skip = n;
                if (group && n > 0 && p[n - 1] == ']' && (n < 2 || p[n - 2] != ':')) {
                        /* "v2:[::1]:3300]": the group's bracket is the one too many */
                        size_t open = 0, close = 0;
                        for (size_t i = 0; i < n; i++) {
                                open += p[i] == '[';
                                close += p[i] == ']';
                        }
                        if (close > open) {
                                group = false;
                                n--;
                        }
                }
                int r = monitor_add(s, p, n, err);
                if (r < 0)
                        return r;
                p += skip;
        }
        if (group)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option 'monitors' has a bracket that is not closed");
        if (s->n_monitors == 0)
                return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option 'monitors' is missing");
        qsort(s->monitors, s->n_monitors, sizeof(*s->monitors), compare_monitors);
        return 0;
}

char *rbd_source_mon_host(const RbdSource *s)
{
        char *text = NULL;

        for (size_t i = 0; i < s->n_monitors; i++) {
                const RbdMonitor *m = &s->monitors[i];
                bool six = strchr(m->host, ':');
                char port[8] = "", protocol[8] = "", *longer = NULL;

                if (m->port)
                        snprintf(port, sizeof(port), ":%u", m->port);
                if (m->protocol && m->port)
                        snprintf(protocol, sizeof(protocol), "v%u:", m->protocol);
                if (asprintf(&longer, "%s%s%s%s%s%s%s", text ? text : "", text ? "," : "", protocol, six ? "[" : "", m->host,
                             six ? "]" : "", port) < 0) {
                        free(text);
                        return NULL;
                }
                free(text);
                text = longer;
        }
        return text;
}

/* --- allow-lists --- */

static bool monitor_is_allowed(const RbdMonitor *m, char *const *allowed)
{
        STRV_FOREACH (a, allowed) {
                RbdMonitor entry;
                _cleanup_error_ Error ignored = ERROR_INIT;
                const char *text = *a;

                /* lists of berthd.conf are split at commas, so that groups of Ceph's own come apart */
                if (monitor_parse(text, strlen(text), &entry, &ignored) >= 0 && strcmp(entry.host, m->host) == 0 &&
                    (entry.port == 0 || entry.port == m->port))
                        return true;
        }
        return false;
}

static bool pool_is_allowed(const RbdSource *s, char *const *allowed)
{
        size_t n = strlen(s->pool);

        STRV_FOREACH (a, allowed)
                if (strncmp(*a, s->pool, n) == 0 &&
                    ((*a)[n] == 0 || ((*a)[n] == '/' && strcmp(*a + n + 1, s->space) == 0)))
                        return true;
        return false;
}

static int source_check_allowed(const Settings *settings, const RbdSource *s, Error *err)
{
        if (settings->rbd_allowed_monitors)
                for (size_t i = 0; i < s->n_monitors; i++)
                        if (!monitor_is_allowed(&s->monitors[i], settings->rbd_allowed_monitors))
                                return error_set(err, ERROR_CLUSTER_FORBIDDEN, EPERM,
                                                 "Monitor %s is not in [RBD] AllowedMonitors=",
                                                 s->monitors[i].host);
        if (settings->rbd_allowed_pools && !pool_is_allowed(s, settings->rbd_allowed_pools))
                return error_set(err, ERROR_CLUSTER_FORBIDDEN, EPERM, "Pool %s%s%s is not in [RBD] AllowedPools=",
                                 s->pool, *s->space ? "/" : "", s->space);
        return 0;
}

/* --- features --- */

static const char *const feature_names[RBD_FEATURES_NAMED] = {
        "layering",     "striping",   "exclusive-lock", "object-map", "fast-diff",   "deep-flatten",
        "journaling",   "data-pool",  "operations",     "migrating",  "non-primary", "dirty-cache",
};

uint64_t rbd_feature_bit(const char *name)
{
        for (unsigned i = 0; i < RBD_FEATURES_NAMED; i++)
                if (strcmp(feature_names[i], name) == 0)
                        return UINT64_C(1) << i;
        return strcmp(name, "stripingv2") == 0 ? UINT64_C(1) << 1 : 0;
}

char *rbd_feature_names(uint64_t features)
{
        char *text = strdup("");

        for (unsigned i = 0; text && i < 64; i++) {
                char bit[16], *longer = NULL;
                if (!(features & UINT64_C(1) << i))
                        continue;
                snprintf(bit, sizeof(bit), "bit %u", i);
                if (asprintf(&longer, "%s%s%s", text, *text ? ", " : "", i < RBD_FEATURES_NAMED ? feature_names[i] : bit) < 0)
                        longer = NULL;
                free(text);
                text = longer;
        }
        return text;
}

static int features_parse(RbdSource *s, const char *list, Error *err)
{
        _cleanup_strv_ char **names = NULL;
        int r = strv_split(list, &names);

        if (r < 0)
                return error_oom(err);
        STRV_FOREACH (name, names) {
                uint64_t bit = rbd_feature_bit(*name);
                if (bit == 0)
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "Option 'imagefeatures' names an unknown feature");
                s->features |= bit;
        }
        s->has_features = names;
        return 0;
}

/* --- map options --- */

/* Of the kernel's rbd and libceph options those that harm nobody but the volume itself. */
static const struct {
        const char *name;
        const char *values; /* NULL: takes none; "": a number of 1 to 86400; else the values, each followed by a space */
        RbdTrust trust;
} map_options[] = {
        { "alloc_size", "", RBD_TRUST_VOLUME },
        { "queue_depth", "", RBD_TRUST_VOLUME },
        { "lock_on_read", NULL, RBD_TRUST_VOLUME },
        { "notrim", NULL, RBD_TRUST_VOLUME },
        { "abort_on_full", NULL, RBD_TRUST_VOLUME },
        { "compression_hint", "none compressible incompressible ", RBD_TRUST_VOLUME },
        { "read_from_replica", "no balance localize ", RBD_TRUST_VOLUME },
        { "ms_mode", "legacy crc secure prefer-crc prefer-secure ", RBD_TRUST_VOLUME },
        { "osd_request_timeout", "", RBD_TRUST_VOLUME },
        { "noshare", NULL, RBD_TRUST_VOLUME },
        { "exclusive", NULL, RBD_TRUST_OPERATOR },
        { "share", NULL, RBD_TRUST_OPERATOR },
        { "crc", NULL, RBD_TRUST_OPERATOR },
        { "nocrc", NULL, RBD_TRUST_OPERATOR },
        { "tcp_nodelay", NULL, RBD_TRUST_OPERATOR },
        { "notcp_nodelay", NULL, RBD_TRUST_OPERATOR },
        { "cephx_sign_messages", NULL, RBD_TRUST_OPERATOR },
        { "nocephx_sign_messages", NULL, RBD_TRUST_OPERATOR },
        { "cephx_require_signatures", NULL, RBD_TRUST_OPERATOR },
        { "nocephx_require_signatures", NULL, RBD_TRUST_OPERATOR },
        { "osdkeepalive", "", RBD_TRUST_OPERATOR },
        { "osd_idle_ttl", "", RBD_TRUST_OPERATOR },
};

static bool map_value_is_valid(const char *values, const char *value)
{
        size_t n = value ? strlen(value) : 0;
        unsigned number;

        if (!values || !value)
                return !values && !value;
        if (!*values)
                return parse_unsigned(value, &number) >= 0 && number >= 1 && number <= 86400;
        for (const char *p = values; *p; p += strcspn(p, " ") + 1)
                if (strcspn(p, " ") == n && memcmp(p, value, n) == 0)
                        return true;
        return false;
}

int rbd_map_option_check(const char *option, RbdTrust trust, Error *err)
{
        size_t n = strcspn(option, "=");
        const char *value = option[n] ? option + n + 1 : NULL;

        for (size_t i = 0; i < ELEMENTSOF(map_options); i++) {
                if (strlen(map_options[i].name) != n || memcmp(map_options[i].name, option, n) != 0)
                        continue;
                if (map_options[i].trust > trust)
                        break;
                if (!map_value_is_valid(map_options[i].values, value))
                        return error_set(err, ERROR_INVALID_ARGUMENT, EINVAL,
                                         "Map option '%s' does not take that value", map_options[i].name);
                return 0;
        }
        return error_set(err, ERROR_FORBIDDEN_OPTION, EPERM,
                         "A map option is not one of those that a volume may have (such as osd_request_timeout=, queue_depth=, "
                         "ms_mode=, noshare)");
}

static int map_options_parse(RbdSource *s, const char *list, Error *err)
{
        int r = strv_split(list, &s->map_options);

        if (r < 0)
                return error_oom(err);
        STRV_FOREACH (o, s->map_options) {
                r = rbd_map_option_check(*o, RBD_TRUST_VOLUME, err);
                if (r < 0)
                        return r;
        }
        return 0;
}

/* --- the whole --- */

static int source_check_options(const StrMap *source, Error *err)
{
        static const char *const known[] = { "monitors", "pool",     "namespace",   "image",         "snapshot", "user",
                                             "keyring",  "mounter", "imageformat", "imagefeatures", "mapOptions" };

        STRMAP_FOREACH (e, source) {
                bool found = false;
                for (size_t i = 0; i < ELEMENTSOF(known) && !found; i++)
                        found = strcmp(known[i], e->key) == 0;
                if (found)
                        continue;
                if (strcmp(e->key, "key") == 0 || strcmp(e->key, "userKey") == 0 || strcmp(e->key, "secret") == 0)
                        return error_set(err, ERROR_UNKNOWN_OPTION, EINVAL,
                                         "Option '%s' would show the key to everybody who can read the volume's definition; keep it "
                                         "in the Secret that secretRef names, or in a keyring on the node",
                                         e->key);
                return error_set(err, ERROR_UNKNOWN_OPTION, EINVAL, "Option '%.100s' is not known to driver rbd", e->key);
        }
        return 0;
}

static int mapper_parse(const char *value, RbdMapper *ret, Error *err)
{
        static const char *const names[_RBD_MAPPER_MAX] = { "auto", "krbd", "nbd" };

        for (RbdMapper i = 0; value && i < _RBD_MAPPER_MAX; i++)
                if (strcmp(names[i], value) == 0) {
                        *ret = i;
                        return 0;
                }
        return value ? error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option 'mounter' must be auto, krbd or nbd") : 0;
}

static int names_read(const StrMap *source, RbdSource *s, Error *err)
{
        int r = name_take(source, "pool", "/@", &s->pool, err);

        if (r >= 0)
                r = name_take(source, "namespace", "/@,=", &s->space, err);
        if (r >= 0)
                r = name_take(source, "image", "/@", &s->image, err);
        if (r >= 0)
                r = name_take(source, "snapshot", "/@", &s->snapshot, err);
        if (r >= 0)
                r = name_take(source, "user", "/@,=", &s->user, err);
        if (r >= 0 && !s->image)
                r = error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option 'image' is missing");
        if (r >= 0 && s->keyring && (s->keyring[0] != '/' || strlen(s->keyring) >= 4096))
                r = error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option 'keyring' must be an absolute path");
        return r;
}

int rbd_source_read(const Settings *settings, const StrMap *source, RbdSource *ret, Error *err)
{
        _cleanup_rbd_source_ RbdSource s = { .pool = "rbd", .space = "", .user = "admin",
                                             .keyring = str_or(strmap_get(source, "keyring"), NULL) };
        const char *format = strmap_get(source, "imageformat");
        int r = source_check_options(source, err);

        if (r >= 0)
                r = names_read(source, &s, err);
        if (r >= 0)
                r = monitors_parse(&s, str_or(strmap_get(source, "monitors"), ""), err);
        if (r >= 0)
                r = mapper_parse(strmap_get(source, "mounter"), &s.mapper, err);
        if (r >= 0)
                r = map_options_parse(&s, str_or(strmap_get(source, "mapOptions"), ""), err);
        if (r >= 0)
                r = features_parse(&s, str_or(strmap_get(source, "imagefeatures"), ""), err);
        if (r >= 0 && format && parse_unsigned(format, &s.image_format) < 0)
                r = error_set(err, ERROR_INVALID_ARGUMENT, EINVAL, "Option 'imageformat' must be 1 or 2");
        if (r >= 0)
                r = source_check_allowed(settings, &s, err);
        if (r < 0)
                return r;
        *ret = s;
        s = RBD_SOURCE_INIT;
        return 0;
}

char *rbd_identity(const char *fsid, const char *pool, const char *space, const char *image, const char *snapshot)
{
        char *text;

        return asprintf(&text, "rbd:%s/%s%s%s/%s%s%s", fsid, pool, *space ? "/" : "", space, image, snapshot ? "@" : "",
                        snapshot ? snapshot : "") < 0
                       ? NULL
                       : text;
}

char *rbd_key(const char *identity)
{
        char digest[DIGEST_NAME_SIZE], *key;

        digest_name(identity, digest);
        return asprintf(&key, "rbd-%s", digest) < 0 ? NULL : key;
}

char *rbd_source_spec(const RbdSource *s)
{
        char *text;

        return asprintf(&text, "%s%s%s/%s%s%s", s->pool, *s->space ? "/" : "", s->space, s->image, s->snapshot ? "@" : "",
                        s->snapshot ? s->snapshot : "") < 0
                       ? NULL
                       : text;
}
