/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthd stopped and killed, and started again: volumes and their mounts stay as they are, requests are answered as if nothing
 * had happened, what was at work is neither lost nor begun twice, and no record, however spoiled, keeps it from starting.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>

#include "base/fd.h"
#include "fixture/internal.h"
#include "protocol/names.h"

#define MIB (UINT64_C(1) << 20)
#define SHORT_LINGER "[Agent]\nLingerSec=1\n"

static void pause_milliseconds(unsigned ms)
{
        const struct timespec ts = { .tv_sec = ms / 1000, .tv_nsec = (long) (ms % 1000) * 1000000 };

        nanosleep(&ts, NULL);
}

/* ---- volumes outlive their agent ---- */

typedef enum Repeat { REPEAT_MOUNTS, UNMOUNT_ONLY } Repeat;

static void survive(int signal, Repeat repeat)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *a = fixture_image(&f, "a", 64 * MIB), *b = fixture_image(&f, "b", 64 * MIB), *c = fixture_image(&f, "c", 64 * MIB);
        const Volume volumes[] = {
                { .image = a, .option = "noatime" },
                { .image = a, .option = "noatime", .read_only = true },
                { .image = b, .fs_type = "ext3" },
                { .image = c, .name = "pv with blanks" },
        };
        char *targets[ELEMENTSOF(volumes)];
        uint64_t ids[ELEMENTSOF(volumes)];

        cr_assert_eq(try_attach(&f, &volumes[3], NULL, NULL), ERROR_NONE);
        for (size_t i = 0; i < ELEMENTSOF(volumes); i++) {
                _cleanup_free_ char *uid = format("uid-%zu", i);
                targets[i] = fixture_target(&f, uid, "tab\t new\nline \xff");
                mount_ok(&f, targets[i], &volumes[i]);
                ids[i] = mount_id(targets[i]);
                if (!volumes[i].read_only)
                        write_line(targets[i], "file", volumes[i].image);
        }
        for (unsigned round = 0; round < 3; round++) {
                fixture_stop(&f, signal);
                for (size_t i = 0; i < ELEMENTSOF(volumes); i++)
                        expect_line(targets[i], "file", volumes[i].image);
                fixture_start(&f, NULL);
                cr_assert_eq(fixture_count_loops(&f), 3);
                cr_assert_eq(count_volumes(&f), 3);
                for (size_t i = 0; i < ELEMENTSOF(volumes) && repeat == REPEAT_MOUNTS; i++) {
                        mount_ok(&f, targets[i], &volumes[i]);
                        cr_assert_eq(mount_id(targets[i]), ids[i], "the repeat made another mount");
                        cr_assert_eq(fixture_count_mounts(targets[i]), 1);
                }
        }
        if (repeat == REPEAT_MOUNTS) {
                cr_assert_eq(try_attach(&f, &volumes[3], NULL, NULL), ERROR_NONE);
                mount_refused(&f, targets[0], &volumes[2], ERROR_CONFLICT, NULL);
                mount_refused(&f, targets[0], &volumes[1], ERROR_CONFLICT, "read-only");
                mount_refused(&f, targets[0], &(Volume) { .image = a }, ERROR_CONFLICT, "mount options");
        }
        for (size_t i = 0; i < ELEMENTSOF(volumes); i++) {
                unmount_ok(&f, targets[i]);
                cr_assert_eq(fixture_count_mounts(targets[i]), 0);
        }
        cr_assert_eq(fixture_count_loops(&f), 1, "only the one that is attached by name is left");
        cr_assert_eq(try_detach(&f, volumes[3].name), ERROR_NONE);
        fixture_expect_clean(&f);
        for (size_t i = 0; i < ELEMENTSOF(volumes); i++)
                free(targets[i]);
        fixture_done(&f);
}

Test(restart, stopped)
{
        survive(SIGTERM, REPEAT_MOUNTS);
}

Test(restart, killed)
{
        survive(SIGKILL, REPEAT_MOUNTS);
}

Test(restart, stopped_and_only_unmounted)
{
        survive(SIGTERM, UNMOUNT_ONLY);
}

Test(restart, killed_and_only_unmounted)
{
        survive(SIGKILL, UNMOUNT_ONLY);
}

/* What the last agent had still to give back is given back by the next. */
Test(restart, while_something_is_held)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, SHORT_LINGER);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");

        mount_ok(&f, target, &(Volume) { .image = image });
        pid_t holder = holder_start(NULL);
        unmount_ok(&f, target);
        cr_assert_eq(fixture_count_loops(&f), 1);
        fixture_stop(&f, SIGKILL);
        fixture_start(&f, SHORT_LINGER);
        pause_milliseconds(500);
        cr_assert_eq(fixture_count_loops(&f), 1);
        holder_end(holder);
        wait_clean(&f, 1 + 5);
        cr_assert_eq(count_volumes(&f), 0);
        fixture_done(&f);
}

/* ---- mkfs outlives its agent ---- */

typedef enum Killed { KILL_AGENT, KILL_MOUNTER_TOO } Killed;

static void during_mkfs(int signal, Killed killed, const char *size)
{
        Fixture f;
        fixture_init(&f);
        gate_init(&f);
        fixture_start(&f, SHORT_LINGER);
        _cleanup_free_ char *image = size ? format("%s/a", f.image_dir) : fixture_image(&f, "a", 64 * MIB),
                            *target = fixture_target(&f, "uid-1", "v");
        const Volume v = { .image = image, .size = size };
        Call first = call_start(&f, CALL_MOUNT, target, &v);

        gate_wait(&f, 1);
        fixture_stop(&f, signal);
        ErrorCode code = call_wait(&first);
        cr_assert(code == ERROR_AGENT_UNREACHABLE || code == ERROR_SHUTTING_DOWN, "answered %s", error_code_name(code));
        if (killed == KILL_MOUNTER_TOO)
                kill(gate_caller(&f), SIGKILL);

        fixture_start(&f, SHORT_LINGER);
        Call second = call_start(&f, CALL_MOUNT, target, &v);
        pause_milliseconds(700);
        cr_assert(call_runs(&second), "answered while mke2fs is still at work");
        cr_assert_eq(gate_count(&f), 1, "mke2fs was begun twice");
        gate_open(&f);
        code = call_wait(&second);
        cr_assert_eq(code, ERROR_NONE, "answered %s", error_code_name(code));
        cr_assert_eq(gate_count(&f), size && killed == KILL_MOUNTER_TOO ? 2 : 1, "mke2fs was begun %u times", gate_count(&f));
        cr_assert_eq(fixture_count_loops(&f), 1);
        write_line(target, "file", "x");
        unmount_ok(&f, target);
        wait_clean(&f, 1 + 5);
        cr_assert_eq(fixture_count_mounts(target), 0);
        gate_done(&f);
        fixture_done(&f);
}

Test(restart, killed_during_mkfs)
{
        during_mkfs(SIGKILL, KILL_AGENT, NULL);
}

Test(restart, stopped_during_mkfs)
{
        during_mkfs(SIGTERM, KILL_AGENT, NULL);
}

Test(restart, killed_during_mkfs_with_its_mounter)
{
        during_mkfs(SIGKILL, KILL_MOUNTER_TOO, NULL);
}

Test(restart, killed_while_the_image_is_made)
{
        during_mkfs(SIGKILL, KILL_AGENT, "64M");
}

/* Nobody asks again: the survivor ends its work and everything is given back. */
Test(restart, killed_during_mkfs_and_forgotten)
{
        Fixture f;
        fixture_init(&f);
        gate_init(&f);
        fixture_start(&f, SHORT_LINGER);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");
        Call c = call_start(&f, CALL_MOUNT, target, &(Volume) { .image = image });

        gate_wait(&f, 1);
        fixture_stop(&f, SIGKILL);
        (void) call_wait(&c);
        fixture_start(&f, SHORT_LINGER);
        pause_milliseconds(1500);
        cr_assert_eq(fixture_count_loops(&f), 1, "detached below a mke2fs at work");
        gate_open(&f);
        wait_clean(&f, 1 + 10);
        cr_assert_eq(fixture_count_mounts(target), 0);
        gate_done(&f);
        fixture_done(&f);
}

/* ---- records ---- */

static char *record_path(Fixture *f, const char *key, const char *suffix)
{
        return format("%s/volumes/%s.json%s", f->runtime_dir, key, suffix);
}

static unsigned count_set_aside(Fixture *f, bool removed)
{
        _cleanup_free_ char *path = format("%s/volumes", f->runtime_dir);
        _cleanup_closedir_ DIR *d = opendir(path);
        unsigned n = 0;

        for (struct dirent *e = readdir(d); e; e = readdir(d)) {
                if (!strstr(e->d_name, ".bad"))
                        continue;
                n++;
                if (removed)
                        cr_assert(unlinkat(dirfd(d), e->d_name, 0) >= 0);
        }
        return n;
}

static bool has_volume(void *arg)
{
        return count_volumes(arg) == 2;
}

/* One of two volumes has its record spoiled while no agent runs. */
static void spoiled(const char *content, bool truncated, Repeat repeat)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, SHORT_LINGER);
        _cleanup_free_ char *a = fixture_image(&f, "a", 64 * MIB), *b = fixture_image(&f, "b", 64 * MIB), *one = fixture_target(&f, "uid-1", "v"),
                            *two = fixture_target(&f, "uid-2", "v");

        mount_ok(&f, one, &(Volume) { .image = a });
        mount_ok(&f, two, &(Volume) { .image = b });
        write_line(one, "file", "kept");
        _cleanup_free_ char *key = volume_property(&f, one, "Key"), *record = record_path(&f, key, ""), *good = read_text(record);
        uint64_t id = mount_id(one);

        for (unsigned i = 1; i <= 2; i++) {
                fixture_stop(&f, SIGKILL);
                if (truncated)
                        good[strlen(good) / 2] = 0;
                write_text(record, truncated ? good : content);
                fixture_start(&f, SHORT_LINGER);
                cr_assert_eq(count_set_aside(&f, false), i, "what was set aside is kept, each time");
        }
        unmount_ok(&f, two);
        mount_ok(&f, two, &(Volume) { .image = b });
        expect_line(one, "file", "kept");

        if (repeat == REPEAT_MOUNTS) {
                mount_ok(&f, one, &(Volume) { .image = a });
                cr_assert_eq(mount_id(one), id);
        } else {
                wait_until(has_volume, &f, 5, "the volume is known again from what the kernel shows");
        }
        cr_assert_eq(fixture_count_loops(&f), 2);
        unmount_ok(&f, one);
        unmount_ok(&f, two);
        cr_assert_eq(count_set_aside(&f, true), 2);
        wait_clean(&f, 1 + 5);
        fixture_done(&f);
}

Test(restart, record_truncated)
{
        spoiled(NULL, true, REPEAT_MOUNTS);
}

Test(restart, record_truncated_and_only_unmounted)
{
        spoiled(NULL, true, UNMOUNT_ONLY);
}

Test(restart, record_empty)
{
        spoiled("", false, REPEAT_MOUNTS);
}

Test(restart, record_garbage)
{
        spoiled("\x7f\x45\x4c\x46 no JSON at all {{{{", false, REPEAT_MOUNTS);
}

Test(restart, record_of_a_newer_version)
{
        spoiled("{\"version\":2,\"key\":\"loop-1-2-3\",\"identity\":\"loop:1:2:3\",\"driver\":\"loop\",\"state\":\"staged\",\"source\":{}}",
                false, UNMOUNT_ONLY);
}

Test(restart, record_of_another_key)
{
        spoiled("{\"version\":1,\"key\":\"loop-1-2-3\",\"identity\":\"loop:1:2:3\",\"driver\":\"loop\",\"state\":\"absent\",\"source\":{}}",
                false, REPEAT_MOUNTS);
}

Test(restart, record_with_values_of_the_wrong_type)
{
        spoiled("{\"version\":1,\"key\":[],\"identity\":{},\"driver\":3,\"state\":null,\"source\":[],\"publishes\":{}}", false,
                REPEAT_MOUNTS);
}

/* Opening the one would wait for ever, and the other may lead to any disk: set aside, as what it is. */
Test(restart, record_that_is_no_file)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, SHORT_LINGER);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v"), *copy = format("%s/copy", f.dir);

        mount_ok(&f, target, &(Volume) { .image = image });
        _cleanup_free_ char *key = volume_property(&f, target, "Key"), *record = record_path(&f, key, "");
        uint64_t id = mount_id(target);
        for (unsigned i = 1; i <= 3; i++) {
                fixture_stop(&f, SIGKILL);
                RUN_OK("mv", record, copy);
                cr_assert((i == 1 ? mkfifo(record, 0600) : i == 2 ? symlink(copy, record) : mkdir(record, 0700)) >= 0, "%s", strerror(errno));
                fixture_start(&f, SHORT_LINGER);
                cr_assert_eq(count_set_aside(&f, false), i);
                mount_ok(&f, target, &(Volume) { .image = image });
                cr_assert_eq(mount_id(target), id);
        }
        _cleanup_free_ char *last = record_path(&f, key, ".bad2");
        cr_assert(rmdir(last) >= 0, "%s", strerror(errno));
        cr_assert_eq(count_set_aside(&f, true), 2);
        unmount_ok(&f, target);
        wait_clean(&f, 1 + 5);
        fixture_done(&f);
}

/* ---- a second agent in the same directory ---- */

/* Started by hand, say. It must not put right what it takes for a dead one's, on whatever socket it would serve. */
Test(restart, a_second_berthd)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v"),
                            *berthd = executable_path(&f, "berthd"), *mounters = format("%s/mounters", f.dir), *socket = format("%s/second.sock", f.dir),
                            *leftover = format("%s/volumes/.some.json.tmp", f.runtime_dir);

        mount_ok(&f, target, &(Volume) { .image = image });
        _cleanup_free_ char *key = volume_property(&f, target, "Key"), *record = record_path(&f, key, "");
        cr_assert(kill(f.agent, SIGSTOP) >= 0);
        _cleanup_free_ char *before = read_text(record);
        cr_assert(umount2(target, 0) >= 0); /* what the second would find, and write down */
        write_text(leftover, "of a write that is under way");
        char *const sockets[] = { f.socket, socket };
        for (size_t i = 0; i < ELEMENTSOF(sockets); i++) {
                _cleanup_free_ char *err = NULL, *now = NULL;
                char *argv[] = { "timeout", "20", berthd, "--config", f.config, "--socket", sockets[i], "--runtime-dir", f.runtime_dir,
                                 "--state-dir", f.state_dir, "--kubelet-root", f.kubelet_root, "--mounter-dir", mounters, NULL };

                cr_assert_eq(run(argv, NULL, &err), 1, "it served, or crashed: %s", err);
                cr_assert(strstr(err, "Another berthd") && strstr(err, f.runtime_dir), "%s", err);
                now = read_text(record);
                cr_assert_str_eq(now, before, "it changed the record");
                cr_assert_eq(access(leftover, F_OK), 0, "it removed what the first was writing");
        }
        cr_assert(unlink(leftover) >= 0 && kill(f.agent, SIGCONT) >= 0);
        mount_ok(&f, target, &(Volume) { .image = image });
        cr_assert_eq(fixture_count_mounts(target), 1);
        unmount_ok(&f, target);
        wait_clean(&f, 5);
        fixture_done(&f);
}

/* ---- devices of another agent on the same machine ---- */

Test(restart, devices_of_another_agent)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, SHORT_LINGER);
        _cleanup_free_ char *image = format("%s/elsewhere.img", f.dir), *device = NULL;
        struct loop_info64 info;
        struct stat st;

        write_text(image, "");
        cr_assert(truncate(image, 16 * MIB) >= 0 && stat(image, &st) >= 0);
        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", image, NULL }, &device, NULL), 0);
        device[strcspn(device, "\n")] = 0;
        int fd = open(device, O_RDWR | O_CLOEXEC);
        cr_assert(fd >= 0 && ioctl(fd, LOOP_GET_STATUS64, &info) >= 0);
        snprintf((char *) info.lo_file_name, LO_NAME_SIZE, VOLUME_TAG_PREFIX "loop-%u-%u-%llu", major(st.st_dev), minor(st.st_dev),
                 (unsigned long long) st.st_ino);
        cr_assert(ioctl(fd, LOOP_SET_STATUS64, &info) >= 0);
        close(fd);

        for (unsigned i = 0; i < 2; i++) {
                json_decref(BERTHCTL(&f, "reconcile"));
                pause_milliseconds(1200); /* LingerSec= is over */
                cr_assert_eq(count_volumes(&f), 0, "it was adopted");
                cr_assert_eq(fixture_count_loops(&f), 1, "it was detached");
                fixture_stop(&f, SIGKILL);
                fixture_start(&f, SHORT_LINGER);
        }
        RUN_OK("losetup", "-d", device);
        fixture_done(&f);
}

/*
 * What the record calls the volume's device is another image's, as it happens when its number is given away after a crash. (The
 * test rewrites the record: numbers are given away machine-wide, to whoever asks.) The volume has its own data or none.
 */
static void record_set_device(const char *path, const char *device)
{
        json_t *record = json_load_file(path, 0, NULL);
        unsigned number;

        cr_assert_not_null(record);
        cr_assert_eq(sscanf(device, "/dev/loop%u", &number), 1);
        json_object_set_new(record, "device", json_string(device));
        json_object_set_new(record, "deviceNumber", json_integer((json_int_t) makedev(7, number)));
        cr_assert(json_dump_file(record, path, 0) >= 0);
        json_decref(record);
}

static void device_taken(Repeat repeat)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a", 64 * MIB, "ext4"),
                            *other = fixture_image_formatted(&f, "b", 64 * MIB, "ext4"), *target = fixture_target(&f, "uid-1", "v"), *device = NULL, *foreign = NULL;
        const Volume v = { .image = image, .name = "pv" };
        ErrorCode code = ERROR_INTERNAL;

        mount_ok(&f, target, &(Volume) { .image = other });
        write_line(target, "whose", "other's");
        unmount_ok(&f, target);
        mount_ok(&f, target, &v);
        write_line(target, "whose", "own");
        unmount_ok(&f, target);

        cr_assert_eq(try_attach(&f, &v, &device, NULL), ERROR_NONE);
        _cleanup_free_ char *key = volume_property(&f, "pv", "Key"), *record = record_path(&f, key, "");
        fixture_stop(&f, SIGKILL);
        RUN_OK("losetup", "-d", device);
        cr_assert_eq(run((char *[]) { "losetup", "--find", "--show", other, NULL }, &foreign, NULL), 0);
        foreign[strcspn(foreign, "\n")] = 0;
        record_set_device(record, foreign);
        fixture_start(&f, NULL);
        if (repeat == REPEAT_MOUNTS) {
                for (unsigned i = 0; i < 3 && code != ERROR_NONE; i++) {
                        _cleanup_free_ char *text = NULL;

                        code = try_mount(&f, target, &v, &text);
                        cr_assert(code == ERROR_NONE || code == ERROR_DEVICE_CHANGED, "%s: %s", error_code_name(code), text);
                        cr_assert_eq(fixture_count_mounts(target), code == ERROR_NONE);
                }
                cr_assert_eq(code, ERROR_NONE, "it stays without its device: %s", error_code_name(code));
                expect_line(target, "whose", "own");
                unmount_ok(&f, target);
        }
        cr_assert_eq(try_detach(&f, "pv"), ERROR_NONE);
        cr_assert_eq(fixture_count_loops(&f), 1, "the other's device was detached");
        RUN_OK("losetup", "-d", foreign);
        wait_clean(&f, 5);
        fixture_done(&f);
}

Test(restart, the_device_has_become_anothers)
{
        device_taken(REPEAT_MOUNTS);
}

Test(restart, the_device_has_become_anothers_and_is_detached)
{
        device_taken(UNMOUNT_ONLY);
}

/* ---- restarts all the time ---- */

#define CLIENTS 6
#define ROUNDS 6

/* As a kubelet: repeats until it succeeds. Exit status 0, or 1 and a line that tells. */
static _Noreturn void client_main(Fixture *f, unsigned number, const char *image, const char *target)
{
        _cleanup_free_ char *path = format("%s/file", target), *line = format("client %u", number);

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (unsigned round = 0; round < ROUNDS; round++) {
                double end = now_seconds() + 60;
                ErrorCode code;

                while ((code = try_mount(f, target, &(Volume) { .image = image }, NULL)) != ERROR_NONE && now_seconds() < end)
                        pause_milliseconds(20);
                if (code == ERROR_NONE) {
                        _cleanup_free_ char *content = NULL;
                        int r = read_file_at(AT_FDCWD, path, 4096, &content, NULL);

                        if ((round == 0 && r != -ENOENT) || (round > 0 && (r < 0 || strcmp(content, line) != 0))) {
                                fprintf(stderr, "client %u, round %u: read %d '%s'\n", number, round, r, str_or(content, ""));
                                _exit(1);
                        }
                        write_text(path, line);
                        while ((code = fixture_unmount(f, target, NULL)) != ERROR_NONE && now_seconds() < end)
                                pause_milliseconds(20);
                }
                if (code != ERROR_NONE || fixture_count_mounts(target) != 0) {
                        fprintf(stderr, "client %u, round %u: %s\n", number, round, error_code_name(code));
                        _exit(1);
                }
        }
        _exit(0);
}

Test(restart, again_and_again_under_load)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, SHORT_LINGER);
        char *images[CLIENTS], *targets[CLIENTS];
        pid_t pids[CLIENTS];
        unsigned n_left = CLIENTS, n_restarts = 0;

        for (unsigned i = 0; i < CLIENTS; i++) {
                _cleanup_free_ char *name = format("%u", i);
                images[i] = fixture_image(&f, name, 32 * MIB);
                targets[i] = fixture_target(&f, name, "v");
                fflush(NULL);
                pids[i] = fork();
                if (pids[i] == 0)
                        client_main(&f, i, images[i], targets[i]);
        }
        srand(1); /* the pauses only; what they meet differs each time */
        while (n_left > 0) {
                if (n_restarts < 12) {
                        pause_milliseconds((unsigned) (rand() % 60));
                        fixture_stop(&f, n_restarts % 3 == 2 ? SIGTERM : SIGKILL);
                        fixture_start(&f, SHORT_LINGER);
                        n_restarts++;
                }
                for (unsigned i = 0; i < CLIENTS; i++) {
                        int status;

                        if (pids[i] == 0 || waitpid(pids[i], &status, n_restarts < 12 ? WNOHANG : 0) != pids[i])
                                continue;
                        cr_assert_eq(status, 0, "client %u failed", i);
                        pids[i] = 0;
                        n_left--;
                }
        }
        wait_clean(&f, 1 + 10);
        cr_assert_eq(count_volumes(&f), 0);
        for (unsigned i = 0; i < CLIENTS; i++) {
                free(images[i]);
                free(targets[i]);
        }
        fixture_done(&f);
}
