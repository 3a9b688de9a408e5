/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Volumes that something else still holds after their unmount, as a container does that is killed seconds later: by a copy of
 * the mounts in a namespace of its own, or by nothing but the open device. Unmount is answered at once all the same; the rest
 * follows in the background, and a new pod in the meantime is served.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <string.h>
#include <time.h>

#define MIB (UINT64_C(1) << 20)
#define HELD_SECONDS 2.0
#define AT_ONCE_SECONDS 1.5
#define GONE_SECONDS 5.0

static void sleep_until(double end)
{
        for (double left; (left = end - now_seconds()) > 0;) {
                const struct timespec pause = { .tv_sec = (time_t) left, .tv_nsec = (long) ((left - (double) (time_t) left) * 1e9) };
                nanosleep(&pause, NULL);
        }
}

/* Returns when the unmount was answered. */
static double unmount_at_once(Fixture *f, const char *target)
{
        double start = now_seconds();

        unmount_ok(f, target);
        double seconds = now_seconds() - start;
        cr_assert(seconds < AT_ONCE_SECONDS, "Unmount took %.2f s", seconds);
        cr_assert_eq(fixture_count_mounts(target), 0);
        return now_seconds();
}

typedef enum Between { BETWEEN_NOTHING, BETWEEN_MOUNT, BETWEEN_MOUNT_KEPT } Between;

static void held(bool device_only, const char *fs_type, Between between)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        bool xfs = strcmp(fs_type, "xfs") == 0;
        _cleanup_free_ char *image = fixture_image(&f, "a", (xfs ? 320 : 128) * MIB), *one = fixture_target(&f, "uid-1", "v"),
                            *two = fixture_target(&f, "uid-2", "v");
        const Volume v = { .image = image, .fs_type = fs_type };

        mount_ok(&f, one, &v);
        write_line(one, "file", "from the first pod");
        _cleanup_free_ char *device = volume_property(&f, one, "Device");
        pid_t holder = holder_start(device_only ? device : NULL);
        double unmounted = unmount_at_once(&f, one);
        cr_assert_eq(fixture_count_loops(&f), 1, "the holder does not hold");
        _cleanup_json_ json_t *volumes = BERTHCTL(&f, "list");
        cr_assert_eq(json_array_size(volumes), 1, "what is still to be done is not to be seen");

        if (between != BETWEEN_NOTHING) {
                mount_ok(&f, two, &v);
                expect_line(two, "file", "from the first pod");
                write_line(two, "file", "from the second pod");
                cr_assert_eq(fixture_count_loops(&f), 1, "the image has two devices");
        }
        if (between == BETWEEN_MOUNT)
                unmounted = unmount_at_once(&f, two);

        sleep_until(unmounted + HELD_SECONDS);
        holder_end(holder);
        if (between == BETWEEN_MOUNT_KEPT) {
                sleep_until(now_seconds() + 1); /* a cleanup that still ran would now do harm */
                expect_line(two, "file", "from the second pod");
                write_line(two, "file", "and again");
                cr_assert_eq(fixture_count_loops(&f), 1);
                unmount_ok(&f, two);
        }
        wait_clean(&f, GONE_SECONDS);
        cr_assert_eq(count_volumes(&f), 0);

        mount_ok(&f, one, &v);
        expect_line(one, "file", between == BETWEEN_NOTHING ? "from the first pod" : between == BETWEEN_MOUNT ? "from the second pod" : "and again");
        unmount_ok(&f, one);
        fixture_done(&f);
}

Test(held, in_another_namespace)
{
        held(false, "ext4", BETWEEN_NOTHING);
}

Test(held, by_its_device)
{
        held(true, "ext4", BETWEEN_NOTHING);
}

Test(held, in_another_namespace_and_mounted_meanwhile)
{
        held(false, "ext4", BETWEEN_MOUNT);
}

Test(held, by_its_device_and_mounted_meanwhile)
{
        held(true, "ext4", BETWEEN_MOUNT);
}

Test(held, in_another_namespace_and_used_on)
{
        held(false, "ext4", BETWEEN_MOUNT_KEPT);
}

Test(held, by_its_device_and_used_on)
{
        held(true, "ext4", BETWEEN_MOUNT_KEPT);
}

Test(held, xfs_in_another_namespace_and_used_on)
{
        held(false, "xfs", BETWEEN_MOUNT_KEPT);
}

Test(held, btrfs_in_another_namespace_and_mounted_meanwhile)
{
        held(false, "btrfs", BETWEEN_MOUNT);
}

/* The stage itself is in use by a process of this namespace: the target is free, so the pod is. */
Test(held, the_stage_by_a_process_here)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *one = fixture_target(&f, "uid-1", "v");
        const Volume v = { .image = image };

        mount_ok(&f, one, &v);
        _cleanup_free_ char *stage = volume_property(&f, one, "StagingPath");
        pid_t holder = holder_start(stage);
        double unmounted = unmount_at_once(&f, one);
        cr_assert_eq(fixture_count_mounts(stage), 1);
        sleep_until(unmounted + HELD_SECONDS);
        cr_assert_eq(fixture_count_mounts(stage), 1);
        holder_end(holder);
        wait_clean(&f, GONE_SECONDS);
        fixture_done(&f);
}

/* The target is in use by a process of this namespace, which is the caller's to end: refused, naming it, and nothing is given up. */
Test(held, the_target_by_a_process_here)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *one = fixture_target(&f, "uid-1", "v");
        const Volume v = { .image = image };
        _cleanup_error_ Error err = ERROR_INIT;

        mount_ok(&f, one, &v);
        write_line(one, "file", "kept");
        pid_t holder = holder_start(one);
        _cleanup_free_ char *pid = format("%d", (int) holder);
        bool told = false;
        for (unsigned i = 0; i < 10 && (i < 3 || !told); i++) {
                cr_assert_eq(fixture_unmount(&f, one, &err), ERROR_BUSY);
                told = told || strstr(err.text, pid); /* the search for who it is ends early on a busy machine */
        }
        cr_assert(told, "'%s' does not tell who", err.text);
        expect_line(one, "file", "kept");
        mount_ok(&f, one, &v); /* still there, so a repeat finds it */
        holder_end(holder);
        unmount_ok(&f, one);
        fixture_done(&f);
}

/* Eight at once: none waits for another's holder. */
Test(held, eight_at_once)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        char *targets[8], *images[8];
        pid_t holder;

        for (unsigned i = 0; i < 8; i++) {
                _cleanup_free_ char *name = format("%u", i);
                images[i] = fixture_image(&f, name, 32 * MIB);
                targets[i] = fixture_target(&f, name, "v");
                mount_ok(&f, targets[i], &(Volume) { .image = images[i] });
        }
        holder = holder_start(NULL);
        for (unsigned i = 0; i < 8; i++)
                unmount_at_once(&f, targets[i]);
        cr_assert_eq(fixture_count_loops(&f), 8);
        sleep_until(now_seconds() + HELD_SECONDS);
        holder_end(holder);
        wait_clean(&f, GONE_SECONDS);
        for (unsigned i = 0; i < 8; i++) {
                free(images[i]);
                free(targets[i]);
        }
        fixture_done(&f);
}
