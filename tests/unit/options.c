/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Mount options by allow-list: what passes, what is refused, and that nothing can smuggle in a second option. */

#include <criterion/criterion.h>
#include <string.h>

#include "mounters/fs/mount.h"

static char *checked(const char *fs_type, const char *option, bool read_only, ErrorCode expected)
{
        char *options[] = { (char *) option, NULL }, *joined = NULL;
        _cleanup_error_ Error err = ERROR_INIT;
        int r = fs_options_check(fs_type, option ? options : NULL, read_only, &joined, &err);

        cr_assert_eq(err.code, expected, "%s with '%s' gave %s: %s", fs_type, str_or(option, ""), error_code_name(err.code),
                     str_or(err.text, ""));
        cr_assert_eq(r < 0, expected != ERROR_NONE);
        if (expected == ERROR_FORBIDDEN_OPTION && option && *option)
                cr_assert(strstr(err.text, option), "the error must name '%s': %s", option, err.text);
        return joined;
}

Test(options, what_is_always_there)
{
        _cleanup_free_ char *rw = checked("xfs", NULL, false, ERROR_NONE), *ro = checked("", NULL, true, ERROR_NONE),
                            *ext4 = checked("", NULL, false, ERROR_NONE);

        cr_assert_str_eq(rw, "rw,nosuid,nodev");
        cr_assert_str_eq(ro, "ro,nosuid,nodev");
        cr_assert_str_eq(ext4, "rw,nosuid,nodev,noinit_itable");
}

Test(options, order_is_kept)
{
        char *options[] = { "noatime", "commit=30", "errors=remount-ro", NULL };
        _cleanup_free_ char *joined = NULL;

        cr_assert(fs_options_check("ext4", options, false, &joined, NULL) >= 0);
        cr_assert_str_eq(joined, "rw,nosuid,nodev,noinit_itable,noatime,commit=30,errors=remount-ro");
}

Test(options, allowed)
{
        static const char *const cases[][2] = {
                { "ext4", "lazytime" },  { "ext4", "noexec" },         { "ext4", "data=journal" }, { "ext4", "barrier=0" },
                { "ext3", "commit=5" },  { "ext2", "errors=continue" }, { "xfs", "allocsize=64m" }, { "xfs", "logbsize=256k" },
                { "xfs", "nouuid" },     { "xfs", "discard" },         { "btrfs", "compress=zstd:3" },
                { "btrfs", "compress" }, { "btrfs", "discard=async" }, { "btrfs", "commit=10" },   { "", "discard" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                free(checked(cases[i][0], cases[i][1], false, ERROR_NONE));
}

Test(options, forbidden)
{
        static const char *const cases[][2] = {
                { "ext4", "suid" },           { "ext4", "dev" },
                { "ext4", "ro" },             { "ext4", "rw" },
                { "ext4", "remount" },        { "ext4", "bind" },
                { "ext4", "rshared" },        { "ext4", "loop" },
                { "ext4", "errors=panic" },   { "ext4", "errors" },
                { "ext4", "errors=" },        { "ext4", "errors=remount-ro continue" },
                { "ext4", "data=" },          { "ext4", "journal_path=/dev/sda" },
                { "ext4", "journal_dev=8" },  { "ext4", "usrjquota=/etc/passwd" },
                { "ext4", "noload" },         { "ext4", "sb=32768" },
                { "ext4", "commit=-1" },      { "ext4", "commit=1e3" },
                { "ext4", "commit=99999999999" }, { "ext4", "noatime=1" },
                { "ext4", "abort" },          { "ext4", "debug" },
                { "ext4", "offset=4096" },    { "ext4", "X-mount.mkdir" },
                { "ext4", "x-systemd.automount" }, { "ext4", "helper=/bin/sh" },
                { "ext2", "commit=5" },       { "ext2", "data=journal" },
                { "xfs", "norecovery" },      { "xfs", "logdev=/dev/sda" },
                { "xfs", "rtdev=/dev/sda" },  { "xfs", "commit=5" },
                { "btrfs", "device=/dev/sda" }, { "btrfs", "subvol=/" },
                { "btrfs", "rescue=all" },    { "btrfs", "degraded" },
                { "btrfs", "compress=zstd 3" }, { "ext4", "user_id=0" },
                { "ext4", "NOATIME" },        { "ext4", " noatime" },
                { "ext4", "noatime " },       { "ext4", "" },
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++)
                free(checked(cases[i][0], cases[i][1], false, ERROR_FORBIDDEN_OPTION));
}

/* CVE-2026-6437 and its like: a value that brings along an option of its own. */
Test(options, no_second_option_in_one)
{
        static const char *const cases[] = {
                "noatime,suid",     "commit=5,suid",        "errors=remount-ro,dev", "data=ordered\nsuid", "noatime\tsuid",
                "noatime\\054suid", "context=\"x\",suid",   "context=a\"b",          "context='a'",        "compress=zstd,suid",
                "xcontext=a,suid",  "discard,context=a:b:c,suid",
        };

        for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
                free(checked("ext4", cases[i], false, ERROR_FORBIDDEN_OPTION));
                free(checked("btrfs", cases[i], false, ERROR_FORBIDDEN_OPTION));
        }
}

Test(options, selinux_labels_are_quoted)
{
        static const char *const names[] = { "context", "fscontext", "defcontext", "rootcontext" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *option = NULL, *wanted = NULL, *joined = NULL;

                cr_assert(asprintf(&option, "%s=system_u:object_r:container_file_t:s0:c1,c2", names[i]) >= 0);
                cr_assert(asprintf(&wanted, "rw,nosuid,nodev,%s=\"system_u:object_r:container_file_t:s0:c1,c2\"", names[i]) >= 0);
                joined = checked("xfs", option, false, ERROR_NONE);
                cr_assert_str_eq(joined, wanted);
        }
        free(checked("ext4", "context", false, ERROR_FORBIDDEN_OPTION));
        free(checked("ext4", "context=", false, ERROR_FORBIDDEN_OPTION));
}

Test(options, unknown_file_systems)
{
        static const char *const types[] = { "ntfs", "vfat", "EXT4", "ext4,ext3", "tmpfs", "auto", "nfs" };

        for (size_t i = 0; i < ELEMENTSOF(types); i++)
                free(checked(types[i], NULL, false, ERROR_UNKNOWN_FILESYSTEM));
}
