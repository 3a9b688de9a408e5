/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Mount options by allow-list (promise 5: they come from pod authors). Pure: no system calls.
 *
 * Left out on purpose: what weakens the node (suid, dev, errors=panic), what reaches another device or file
 * (journal_path=, logdev=, rtdev=, device=, usrjquota=, subvol=), what would show an inconsistent file system
 * (noload, norecovery, rescue=, degraded), and debugging aids. Options that only risk the volume's own data in a
 * power cut (nobarrier, data=writeback) are its owner's choice.
 */

#include "mounters/fs/mount.h"

#include <string.h>

typedef enum ValueKind {
        VALUE_NONE,      /* the bare word */
        VALUE_NUMBER,    /* decimal digits */
        VALUE_CHOICE,    /* one of a list */
        VALUE_CONTEXT,   /* an SELinux label, to be quoted */
        VALUE_WORD,      /* [A-Za-z0-9:_-], such as zstd:3 */
        VALUE_SIZE,      /* digits and one of k m g */
} ValueKind;

typedef enum Family {
        FAMILY_EXT = 1 << 0,
        FAMILY_JOURNAL = 1 << 1, /* ext3, ext4 */
        FAMILY_EXT4 = 1 << 2,
        FAMILY_XFS = 1 << 3,
        FAMILY_BTRFS = 1 << 4,
        FAMILY_NFS = 1 << 5,
        FAMILY_BLOCK = (1 << 5) - 1,
        FAMILY_ALL = FAMILY_BLOCK | FAMILY_NFS,
} Family;

static const struct {
        const char *fs_type;
        unsigned families;
} fs_types[] = {
        { "ext4", FAMILY_EXT | FAMILY_JOURNAL | FAMILY_EXT4 },
        { "ext3", FAMILY_EXT | FAMILY_JOURNAL },
        { "ext2", FAMILY_EXT },
        { "xfs", FAMILY_XFS },
        { "btrfs", FAMILY_BTRFS },
};

static const struct {
        const char *name;
        unsigned families;
        ValueKind kind;
        const char *choices; /* separated by blanks */
} allowed[] = {
        { "noatime", FAMILY_ALL, VALUE_NONE, NULL },
        { "atime", FAMILY_ALL, VALUE_NONE, NULL },
        { "relatime", FAMILY_ALL, VALUE_NONE, NULL },
        { "strictatime", FAMILY_ALL, VALUE_NONE, NULL },
        { "nodiratime", FAMILY_ALL, VALUE_NONE, NULL },
        { "diratime", FAMILY_ALL, VALUE_NONE, NULL },
        { "lazytime", FAMILY_BLOCK, VALUE_NONE, NULL },
        { "nolazytime", FAMILY_BLOCK, VALUE_NONE, NULL },
        { "sync", FAMILY_ALL, VALUE_NONE, NULL },
        { "async", FAMILY_ALL, VALUE_NONE, NULL },
        { "dirsync", FAMILY_ALL, VALUE_NONE, NULL },
        { "noexec", FAMILY_ALL, VALUE_NONE, NULL },
        { "nosuid", FAMILY_ALL, VALUE_NONE, NULL }, /* set anyway */
        { "nodev", FAMILY_ALL, VALUE_NONE, NULL },
        { "nosymfollow", FAMILY_ALL, VALUE_NONE, NULL },
        { "defaults", FAMILY_ALL, VALUE_NONE, NULL },
        { "discard", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "nodiscard", FAMILY_EXT4 | FAMILY_XFS | FAMILY_BTRFS, VALUE_NONE, NULL },
        { "context", FAMILY_ALL, VALUE_CONTEXT, NULL },
        { "fscontext", FAMILY_ALL, VALUE_CONTEXT, NULL },
        { "defcontext", FAMILY_ALL, VALUE_CONTEXT, NULL },
        { "rootcontext", FAMILY_ALL, VALUE_CONTEXT, NULL },

        { "acl", FAMILY_EXT | FAMILY_BTRFS | FAMILY_NFS, VALUE_NONE, NULL },
        { "noacl", FAMILY_EXT | FAMILY_BTRFS | FAMILY_NFS, VALUE_NONE, NULL },
        { "user_xattr", FAMILY_EXT, VALUE_NONE, NULL },
        { "nouser_xattr", FAMILY_EXT, VALUE_NONE, NULL },
        { "errors", FAMILY_EXT, VALUE_CHOICE, "remount-ro continue" }, /* panic would take the node down */
        { "grpid", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "bsdgroups", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "nogrpid", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "sysvgroups", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "usrquota", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "grpquota", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "prjquota", FAMILY_EXT4 | FAMILY_XFS, VALUE_NONE, NULL },
        { "quota", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },
        { "noquota", FAMILY_EXT | FAMILY_XFS, VALUE_NONE, NULL },

        { "commit", FAMILY_JOURNAL | FAMILY_BTRFS, VALUE_NUMBER, NULL },
        { "data", FAMILY_JOURNAL, VALUE_CHOICE, "ordered journal writeback" },
        { "barrier", FAMILY_JOURNAL, VALUE_CHOICE, "0 1" },
        { "nobarrier", FAMILY_EXT4 | FAMILY_BTRFS, VALUE_NONE, NULL },
        { "journal_checksum", FAMILY_EXT4, VALUE_NONE, NULL },
        { "nojournal_checksum", FAMILY_EXT4, VALUE_NONE, NULL },
        { "journal_async_commit", FAMILY_EXT4, VALUE_NONE, NULL },
        { "journal_ioprio", FAMILY_EXT4, VALUE_NUMBER, NULL },
        { "data_err", FAMILY_JOURNAL, VALUE_CHOICE, "abort ignore" },
        { "delalloc", FAMILY_EXT4, VALUE_NONE, NULL },
        { "nodelalloc", FAMILY_EXT4, VALUE_NONE, NULL },
        { "auto_da_alloc", FAMILY_EXT4, VALUE_NONE, NULL },
        { "noauto_da_alloc", FAMILY_EXT4, VALUE_NONE, NULL },
        { "stripe", FAMILY_EXT4, VALUE_NUMBER, NULL },
        { "inode_readahead_blks", FAMILY_EXT4, VALUE_NUMBER, NULL },
        { "max_batch_time", FAMILY_EXT4, VALUE_NUMBER, NULL },
        { "min_batch_time", FAMILY_EXT4, VALUE_NUMBER, NULL },
        { "init_itable", FAMILY_EXT4, VALUE_NUMBER, NULL },
        { "noinit_itable", FAMILY_EXT4, VALUE_NONE, NULL },
        { "i_version", FAMILY_EXT4, VALUE_NONE, NULL },
        { "block_validity", FAMILY_EXT4, VALUE_NONE, NULL },

        { "uquota", FAMILY_XFS, VALUE_NONE, NULL },
        { "gquota", FAMILY_XFS, VALUE_NONE, NULL },
        { "pquota", FAMILY_XFS, VALUE_NONE, NULL },
        { "uqnoenforce", FAMILY_XFS, VALUE_NONE, NULL },
        { "gqnoenforce", FAMILY_XFS, VALUE_NONE, NULL },
        { "pqnoenforce", FAMILY_XFS, VALUE_NONE, NULL },
        { "nouuid", FAMILY_XFS, VALUE_NONE, NULL }, /* a cloned image has its source's UUID */
        { "inode32", FAMILY_XFS, VALUE_NONE, NULL },
        { "inode64", FAMILY_XFS, VALUE_NONE, NULL },
        { "largeio", FAMILY_XFS, VALUE_NONE, NULL },
        { "nolargeio", FAMILY_XFS, VALUE_NONE, NULL },
        { "swalloc", FAMILY_XFS, VALUE_NONE, NULL },
        { "noalign", FAMILY_XFS, VALUE_NONE, NULL },
        { "wsync", FAMILY_XFS, VALUE_NONE, NULL },
        { "filestreams", FAMILY_XFS, VALUE_NONE, NULL },
        { "allocsize", FAMILY_XFS, VALUE_SIZE, NULL },
        { "logbufs", FAMILY_XFS, VALUE_NUMBER, NULL },
        { "logbsize", FAMILY_XFS, VALUE_SIZE, NULL },
        { "sunit", FAMILY_XFS, VALUE_NUMBER, NULL },
        { "swidth", FAMILY_XFS, VALUE_NUMBER, NULL },

        { "discard", FAMILY_BTRFS, VALUE_CHOICE, "async sync" },
        { "compress", FAMILY_BTRFS, VALUE_WORD, NULL },
        { "compress-force", FAMILY_BTRFS, VALUE_WORD, NULL },
        { "autodefrag", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "noautodefrag", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "datacow", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "nodatacow", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "datasum", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "nodatasum", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "flushoncommit", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "noflushoncommit", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "space_cache", FAMILY_BTRFS, VALUE_CHOICE, "v1 v2" },
        { "ssd", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "nossd", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "ssd_spread", FAMILY_BTRFS, VALUE_NONE, NULL },
        { "thread_pool", FAMILY_BTRFS, VALUE_NUMBER, NULL },
        { "max_inline", FAMILY_BTRFS, VALUE_SIZE, NULL },
        { "metadata_ratio", FAMILY_BTRFS, VALUE_NUMBER, NULL },

        { "hard", FAMILY_NFS, VALUE_NONE, NULL },
        { "soft", FAMILY_NFS, VALUE_NONE, NULL },
        { "softerr", FAMILY_NFS, VALUE_NONE, NULL },
        { "timeo", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "retrans", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "rsize", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "wsize", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "ac", FAMILY_NFS, VALUE_NONE, NULL },
        { "noac", FAMILY_NFS, VALUE_NONE, NULL },
        { "actimeo", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "acregmin", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "acregmax", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "acdirmin", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "acdirmax", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "cto", FAMILY_NFS, VALUE_NONE, NULL },
        { "nocto", FAMILY_NFS, VALUE_NONE, NULL },
        { "lookupcache", FAMILY_NFS, VALUE_CHOICE, "all none pos positive" },
        { "nconnect", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "sec", FAMILY_NFS, VALUE_CHOICE, "sys none krb5 krb5i krb5p" },
        { "xprtsec", FAMILY_NFS, VALUE_CHOICE, "none tls mtls" },
        { "lock", FAMILY_NFS, VALUE_NONE, NULL },
        { "nolock", FAMILY_NFS, VALUE_NONE, NULL },
        { "local_lock", FAMILY_NFS, VALUE_CHOICE, "none all flock posix" },
        { "rdirplus", FAMILY_NFS, VALUE_NONE, NULL },
        { "nordirplus", FAMILY_NFS, VALUE_NONE, NULL },
        { "resvport", FAMILY_NFS, VALUE_NONE, NULL },
        { "noresvport", FAMILY_NFS, VALUE_NONE, NULL },
        { "port", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "mountport", FAMILY_NFS, VALUE_NUMBER, NULL },
        { "nosharecache", FAMILY_NFS, VALUE_NONE, NULL }, /* set anyway */
};

static unsigned fs_families(const char *fs_type)
{
        for (size_t i = 0; i < ELEMENTSOF(fs_types); i++)
                if (strcmp(fs_type, fs_types[i].fs_type) == 0)
                        return fs_types[i].families;
        return 0;
}

static bool is_one_of(const char *value, const char *choices)
{
        size_t n = strlen(value);

        for (const char *p = choices; n > 0 && *p; p += strspn(p, " ")) {
                size_t k = strcspn(p, " ");
                if (k == n && memcmp(p, value, n) == 0)
                        return true;
                p += k;
        }
        return false;
}

/* Digits that a kernel of 32 bits still reads; with_suffix: one letter k, m or g after them. */
static bool is_number(const char *value, bool with_suffix)
{
        size_t n = strspn(value, "0123456789");

        if (n == 0 || n > 9)
                return false;
        if (with_suffix && value[n] && strchr("kKmMgG", value[n]))
                n++;
        return value[n] == 0;
}

static bool consists_of(const char *value, const char *extra)
{
        if (!*value || strlen(value) > 255)
                return false;
        for (const char *p = value; *p; p++) {
                bool alphanumeric = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
                                    (*p >= '0' && *p <= '9');
                if (!alphanumeric && !strchr(extra, *p))
                        return false;
        }
        return true;
}

static bool value_is_valid(ValueKind kind, const char *value, const char *choices)
{
        switch (kind) {
        case VALUE_NONE:
                return value == NULL;
        case VALUE_NUMBER:
                return value && is_number(value, false);
        case VALUE_SIZE:
                return value && is_number(value, true);
        case VALUE_CHOICE:
                return value && is_one_of(value, choices);
        case VALUE_WORD:
                return value == NULL || consists_of(value, ":_-");
        case VALUE_CONTEXT:
                /* commas (categories: s0:c1,c2) are why it is quoted; a quote cannot stand in it */
                return value && consists_of(value, ":_-.,");
        }
        return false;
}

/* A label's comma is inside its quotes; everywhere else a comma would start another option. */
static bool option_is_safe_text(const char *option)
{
        static const char *const labels[] = { "context=", "fscontext=", "defcontext=", "rootcontext=" };
        bool label = false;

        for (size_t i = 0; i < ELEMENTSOF(labels); i++)
                label = label || strncmp(option, labels[i], strlen(labels[i])) == 0;

        for (const unsigned char *p = (const unsigned char *) option; *p; p++)
                if (*p < 0x20 || *p == 0x7f || strchr("\"'\\", *p) || (*p == ',' && !label))
                        return false;
        return *option != 0;
}

static int option_append(char **options, const char *text)
{
        char *joined = NULL;

        if (asprintf(&joined, "%s,%s", *options, text) < 0)
                return -ENOMEM;
        free(*options);
        *options = joined;
        return 0;
}

/* The entry of the table that allows the option. */
static int option_find(const char *fs_type, unsigned families, const char *option, size_t *ret, Error *err)
{
        const char *equals = strchr(option, '='), *value = equals ? equals + 1 : NULL;
        size_t n = equals ? (size_t) (equals - option) : strlen(option);

        if (!option_is_safe_text(option))
                return error_set(err, ERROR_FORBIDDEN_OPTION, EINVAL,
                                 "Mount option '%s' is empty or holds a comma, a quote or a control character",
                                 option);
        if (strcmp(option, "ro") == 0 || strcmp(option, "rw") == 0)
                return error_set(err, ERROR_FORBIDDEN_OPTION, EINVAL,
                                 "Mount option '%s' is not possible: the volume's readOnly decides", option);
        for (size_t i = 0; i < ELEMENTSOF(allowed); i++)
                if ((allowed[i].families & families) && strlen(allowed[i].name) == n &&
                    memcmp(allowed[i].name, option, n) == 0 &&
                    value_is_valid(allowed[i].kind, value, allowed[i].choices)) {
                        *ret = i;
                        return 0;
                }
        return error_set(err, ERROR_FORBIDDEN_OPTION, EPERM, "Mount option '%.120s' is not allowed for %s", option,
                         fs_type);
}

static int option_check(const char *fs_type, unsigned families, const char *option, char **options, Error *err)
{
        _cleanup_free_ char *quoted = NULL;
        size_t i;
        int r = option_find(fs_type, families, option, &i, err);
        if (r < 0)
                return r;

        if (allowed[i].kind == VALUE_CONTEXT &&
            asprintf(&quoted, "%s=\"%s\"", allowed[i].name, strchr(option, '=') + 1) < 0) {
                quoted = NULL;
                return error_oom(err);
        }
        return option_append(options, quoted ? quoted : option) < 0 ? error_oom(err) : 0;
}

int fs_option_check_nfs(const char *option, Error *err)
{
        size_t i;

        return option_find("nfs", FAMILY_NFS, option, &i, err);
}

int fs_options_check(const char *fs_type, char *const *options, bool read_only, char **ret, Error *err)
{
        const char *type = str_or(fs_type, "ext4");
        unsigned families = fs_families(type);

        if (families == 0)
                return error_set(err, ERROR_UNKNOWN_FILESYSTEM, EINVAL, "File system '%s' is not supported",
                                 type);

        _cleanup_free_ char *joined = strdup(read_only ? "ro,nosuid,nodev" : "rw,nosuid,nodev");
        if (!joined)
                return error_oom(err);
        /*
         * One thread of the kernel completes the inode tables of all ext4 of the node, with a lock held that every umount of one
         * needs: a single volume that does not answer would hold up all others. A proved blank device reads as zeros anyway.
         */
        if ((families & FAMILY_EXT4) && !read_only && option_append(&joined, "noinit_itable") < 0)
                return error_oom(err);
        STRV_FOREACH (o, options) {
                int r = option_check(type, families, *o, &joined, err);
                if (r < 0)
                        return r;
        }
        *ret = TAKE_PTR(joined);
        return 0;
}
