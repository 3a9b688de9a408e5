/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The fixture judged by itself: a proof that nothing was left behind is worth what it can see. Runs as root,
 * without berthd.
 */

#include <criterion/criterion.h>

#include "fixture/fixture.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fd.h"

static void expect_left(Fixture *f, const char *what)
{
        _cleanup_free_ char *left = NULL;

        cr_assert(!fixture_is_clean(f, &left), "%s was not noticed", what);
        cr_assert(strstr(left, what), "seen is '%s', not %s", left, what);
}

Test(fixture, sees_mounts_loops_and_records)
{
        Fixture f;
        _cleanup_free_ char *odd = NULL, *image = NULL, *record = NULL, *device = NULL;

        fixture_init(&f);
        fixture_expect_clean(&f);

        odd = fixture_target(&f, "uid", "a b\tc\nd\\e");
        RUN_OK("mount", "-n", "-t", "tmpfs", "none", odd);
        expect_left(&f, "a mount at ");
        cr_assert_eq(fixture_count_mounts(odd), 1, "%u mounts at the path with unusual bytes", fixture_count_mounts(odd));
        cr_assert_eq(umount2(odd, 0), 0);

        image = fixture_image(&f, "image", 1 << 20);
        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", image, NULL }, &device, NULL), 0);
        device[strcspn(device, "\n")] = 0;
        expect_left(&f, device);
        cr_assert_eq(fixture_count_loops(&f), 1, "%u loop devices", fixture_count_loops(&f));
        cr_assert_eq(unlink(image), 0);
        cr_assert_eq(fixture_count_loops(&f), 1, "a deleted backing file was not noticed");
        RUN_OK("losetup", "-d", device);

        cr_assert(asprintf(&record, "%s/volumes/x.json", f.runtime_dir) > 0);
        RUN_OK("mkdir", "-p", "-m", "700", f.state_dir);
        _cleanup_free_ char *dir = strndup(record, strlen(record) - strlen("/x.json"));
        RUN_OK("mkdir", "-p", dir);
        write_text(record, "{}");
        expect_left(&f, "x.json");
        cr_assert_eq(unlink(record), 0);
        fixture_done(&f);
}

/* A test that dies on the way must leave nothing: its janitor is all that is left then. */
Test(fixture, janitor_clears_away_after_a_crash)
{
        int pipes[2];
        char dir[256] = "";
        struct stat st;
        bool gone = false;

        if (geteuid() != 0)
                cr_skip("needs root for mounts and loop devices");
        cr_assert_eq(pipe2(pipes, O_CLOEXEC), 0);
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                Fixture f;

                (void) freopen("/dev/null", "w", stderr); /* the janitor's words on the crash below */
                fixture_init(&f);
                _cleanup_free_ char *image = fixture_image_formatted(&f, "image", 8 << 20, "ext4");
                _cleanup_free_ char *target = fixture_target(&f, "uid", "v");
                RUN_OK("mount", "-n", "-o", "loop", image, target);
                cr_assert_gt(write(pipes[1], f.dir, strlen(f.dir)), 0);
                kill(getpid(), SIGKILL);
        }
        close(pipes[1]);
        cr_assert_gt(read(pipes[0], dir, sizeof(dir) - 1), 0, "the child did not get to its end");
        waitpid(pid, NULL, 0);
        for (double end = now_seconds() + 10; !gone && now_seconds() < end;)
                gone = stat(dir, &st) < 0;
        cr_assert(gone, "%s is still there", dir);

        Fixture f = { .dir = dir };
        cr_assert_eq(fixture_count_loops(&f), 0, "a loop device is left");
}
