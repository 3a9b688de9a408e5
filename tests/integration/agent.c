/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The agent under repeats, crowds and contradictions: every call of io.berth.Agent1 again and again, the same at once
 * from everywhere, many volumes at once, pods that share a volume, requests that differ from what is in force. Real berthd, real
 * mounters, real devices. Threads are clients and assert nothing; what they saw is judged by the test.
 */

#include <criterion/criterion.h>

#include "agent-client.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mount.h>
#include <time.h>

#include "fixture/internal.h"

#define MIB (UINT64_C(1) << 20)
#define TIMES 10

/* ---- every call ten times ---- */

static sd_bus *connect_agent(Fixture *f)
{
        _cleanup_error_ Error err = ERROR_INIT;
        sd_bus *bus = NULL;

        cr_assert(client_connect(f->socket, now_boottime_usec() + 60 * UINT64_C(1000000), &bus, &err) >= 0, "%s", err.text);
        return bus;
}

typedef struct Ask {
        const char *method;
        const char *bytes;  /* ay, or NULL */
        const char *string; /* s, or NULL */
        const char *type;   /* of a number or boolean that follows, or NULL */
        uint64_t number;
        ErrorCode code;
} Ask;

static void ask(sd_bus *bus, const Ask *a)
{
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_message_ sd_bus_message *call = NULL;

        cr_assert(client_new_call(bus, a->method, &call, &err) >= 0);
        if (a->bytes)
                cr_assert(bus_append_bytes(call, a->bytes) >= 0);
        if (a->string)
                cr_assert(sd_bus_message_append(call, "s", a->string) >= 0);
        if (a->type)
                cr_assert((*a->type == 't' ? sd_bus_message_append(call, "t", a->number)
                                           : sd_bus_message_append(call, "b", (int) a->number)) >= 0);
        (void) client_call(bus, call, now_boottime_usec() + 60 * UINT64_C(1000000), NULL, &err);
        cr_assert_eq(err.code, a->code, "%s: %s, not %s: %s", a->method, error_code_name(err.code), error_code_name(a->code), err.text);
}

Test(agent, each_call_ten_times)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 320 * MIB), *target = fixture_target(&f, "uid-1", "v");
        /* growing ext4 takes CAP_SYS_RESOURCE, which a container may lack */
        const Volume v = { .image = image, .fs_type = "xfs", .name = "pv" };
        _cleanup_bus_ sd_bus *bus = connect_agent(&f);
        uint64_t id = 0;

        for (unsigned i = 0; i < TIMES; i++) {
                mount_ok(&f, target, &v);
                cr_assert(id == 0 || id == mount_id(target), "the repeat made another mount");
                id = mount_id(target);
        }
        cr_assert_eq(fixture_count_mounts(target), 1);
        cr_assert_eq(fixture_count_loops(&f), 1);
        write_line(target, "file", "kept");

        _cleanup_free_ char *key = volume_property(&f, target, "Key");
        const Ask asks[] = {
                { .method = "Stats", .bytes = target },
                { .method = "Expand", .bytes = target, .type = "t" },
                { .method = "Expand", .bytes = target, .type = "t", .number = 384 * MIB },
                { .method = "Expand", .bytes = target, .type = "t", .number = 32 * MIB, .code = ERROR_SHRINK },
                { .method = "ListVolumes" },
                { .method = "Explain", .bytes = target },
                { .method = "Explain", .bytes = key },
                { .method = "GetStatus" },
                { .method = "Reconcile", .type = "b", .number = 1 },
                { .method = "Reconcile", .type = "b", .number = 0 },
                { .method = "Forget", .string = key, .type = "b", .code = ERROR_BUSY },
                { .method = "Forget", .string = key, .type = "b", .number = 1, .code = ERROR_BUSY },
        };
        for (size_t a = 0; a < ELEMENTSOF(asks); a++)
                for (unsigned i = 0; i < TIMES; i++)
                        ask(bus, &asks[a]);
        cr_assert_eq(id, mount_id(target));
        expect_line(target, "file", "kept");

        for (unsigned i = 0; i < TIMES; i++)
                unmount_ok(&f, target);
        wait_clean(&f, 5);
        cr_assert(rmdir(target) >= 0);
        for (unsigned i = 0; i < TIMES; i++)
                unmount_ok(&f, target);
        for (unsigned i = 0; i < TIMES; i++)
                ask(bus, &(Ask) { .method = "Forget", .string = key, .type = "b", .code = ERROR_NOT_FOUND });
        for (unsigned i = 0; i < TIMES; i++)
                ask(bus, &(Ask) { .method = "Stats", .bytes = target, .code = ERROR_NOT_FOUND });
        fixture_done(&f);
}

Test(agent, attach_and_detach_ten_times)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *other = fixture_image(&f, "b", 64 * MIB), *first = NULL;
        const Volume v = { .image = image, .name = "pv" };

        for (unsigned i = 0; i < TIMES; i++) {
                _cleanup_free_ char *device = NULL, *text = NULL;
                ErrorCode code = try_attach(&f, &v, &device, &text);

                cr_assert_eq(code, ERROR_NONE, "%s: %s", error_code_name(code), text);
                if (!first)
                        first = strdup(device);
                cr_assert_str_eq(device, first);
        }
        cr_assert_eq(fixture_count_loops(&f), 1);

        /* a second volume of the same name is a mix-up that must not be served with the first one's data */
        for (unsigned i = 0; i < TIMES; i++) {
                _cleanup_free_ char *text = NULL;

                cr_assert_eq(try_attach(&f, &(Volume) { .image = other, .name = "pv" }, NULL, &text), ERROR_CONFLICT);
                cr_assert(strstr(text, "pv"), "%s", text);
        }
        cr_assert_eq(fixture_count_loops(&f), 1);
        cr_assert_eq(count_volumes(&f), 1);
        for (unsigned i = 0; i < TIMES; i++)
                cr_assert_eq(try_detach(&f, "pv"), ERROR_NONE);
        fixture_done(&f);
}

Test(agent, attached_staged_and_bound)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *device = NULL, *pod = fixture_target(&f, "uid-1", "pv"),
                            *global = format("%s/plugins/kubernetes.io/flexvolume/berth/loop/mounts/pv", f.kubelet_root);
        const Volume v = { .image = image, .name = "pv" };

        RUN_OK("mkdir", "-p", global);
        cr_assert_eq(try_attach(&f, &v, &device, NULL), ERROR_NONE);
        mount_ok(&f, global, &v);
        mount_ok(&f, pod, &v);
        write_line(global, "file", "through the global mount");
        expect_line(pod, "file", "through the global mount");
        cr_assert_eq(fixture_count_loops(&f), 1);

        _cleanup_free_ char *missing = format("%s/missing", f.image_dir);
        cr_assert_eq(try_attach(&f, &(Volume) { .image = missing, .size = "64M", .name = "pv" }, NULL, NULL), ERROR_CONFLICT);
        cr_assert(access(missing, F_OK) < 0, "an image was made for a refused request");
        unmount_ok(&f, pod);
        unmount_ok(&f, global);
        cr_assert_eq(fixture_count_loops(&f), 1, "still attached by name");
        _cleanup_free_ char *state = volume_property(&f, "pv", "State");
        cr_assert_str_eq(state, "attached");

        /* detached while a pod has it: the pod goes on, and its end is the volume's */
        mount_ok(&f, pod, &v);
        cr_assert_eq(try_detach(&f, "pv"), ERROR_NONE);
        cr_assert_eq(fixture_count_loops(&f), 1);
        expect_line(pod, "file", "through the global mount");
        unmount_ok(&f, pod);
        fixture_expect_clean(&f);
        fixture_done(&f);
}

/* ---- crowds ---- */

typedef struct Crowd {
        Fixture *f;
        pthread_barrier_t barrier;
        char **images, **targets; /* strv */
        unsigned n_clients;
        bool one_volume;   /* all targets are of images[0] */
        unsigned n_repeats; /* of a call that fails, for tests that make them fail */
        unsigned n_rounds;
        atomic_uint n_ok, n_failed, n_loops;
        char *failure; /* the first; under lock */
        pthread_mutex_t lock;
        atomic_bool over;
} Crowd;

typedef struct Client {
        Crowd *crowd;
        unsigned number;
} Client;

static void crowd_note(Crowd *c, const char *what, const char *target, ErrorCode code, const char *text)
{
        if (code == ERROR_NONE) {
                c->n_ok++;
                return;
        }
        c->n_failed++;
        pthread_mutex_lock(&c->lock);
        if (!c->failure)
                c->failure = format("%s of %s: %s: %s", what, target, error_code_name(code), str_or(text, ""));
        pthread_mutex_unlock(&c->lock);
}

static void client_mount_one(Crowd *c, const char *target, const char *image)
{
        const struct timespec pause = { .tv_nsec = 10000000 };
        _cleanup_free_ char *text = NULL;
        ErrorCode code = ERROR_INTERNAL;

        for (unsigned i = 0; i <= c->n_repeats && code != ERROR_NONE; i++) {
                if (i > 0)
                        nanosleep(&pause, NULL);
                free(TAKE_PTR(text));
                code = try_mount(c->f, target, &(Volume) { .image = image }, &text);
        }
        crowd_note(c, "Mount", target, code, text);
}

static void client_unmount_one(Crowd *c, const char *target)
{
        const struct timespec pause = { .tv_nsec = 10000000 };
        _cleanup_error_ Error err = ERROR_INIT;
        ErrorCode code = ERROR_INTERNAL;

        for (unsigned i = 0; i <= c->n_repeats && code != ERROR_NONE; i++) {
                if (i > 0)
                        nanosleep(&pause, NULL);
                error_done(&err);
                code = fixture_unmount(c->f, target, &err);
        }
        crowd_note(c, "Unmount", target, code, err.text);
}

static void *client_main(void *arg)
{
        const Client *client = arg;
        Crowd *c = client->crowd;
        size_t n = strv_length(c->targets);

        for (unsigned round = 0; round < c->n_rounds; round++) {
                pthread_barrier_wait(&c->barrier);
                for (size_t i = client->number; i < n; i += c->n_clients)
                        client_mount_one(c, c->targets[i], c->images[c->one_volume ? 0 : i]);
                pthread_barrier_wait(&c->barrier);
                if (client->number == 0)
                        c->n_loops = fixture_count_loops(c->f);
                pthread_barrier_wait(&c->barrier);
                for (size_t i = client->number; i < n; i += c->n_clients)
                        client_unmount_one(c, c->targets[i]);
        }
        /* and without anybody waiting for the others: mounts beside unmounts of other volumes */
        for (size_t i = client->number; i < n; i += c->n_clients) {
                client_mount_one(c, c->targets[i], c->images[c->one_volume ? 0 : i]);
                client_unmount_one(c, c->targets[i]);
        }
        return NULL;
}

static void crowd_run(Crowd *c)
{
        _cleanup_free_ pthread_t *threads = calloc(c->n_clients, sizeof(*threads));
        _cleanup_free_ Client *clients = calloc(c->n_clients, sizeof(*clients));

        pthread_barrier_init(&c->barrier, NULL, c->n_clients);
        pthread_mutex_init(&c->lock, NULL);
        for (unsigned i = 0; i < c->n_clients; i++) {
                clients[i] = (Client) { c, i };
                cr_assert_eq(pthread_create(&threads[i], NULL, client_main, &clients[i]), 0);
        }
        for (unsigned i = 0; i < c->n_clients; i++)
                pthread_join(threads[i], NULL);
        pthread_barrier_destroy(&c->barrier);
        pthread_mutex_destroy(&c->lock);
        cr_assert_eq(c->n_failed, 0, "%u of %u calls failed: %s", c->n_failed, c->n_failed + c->n_ok, c->failure);
}

static void crowd_done(Crowd *c)
{
        strv_free(c->images);
        strv_free(c->targets);
        free(c->failure);
}

static void add_targets(Crowd *c, unsigned n)
{
        for (unsigned i = 0; i < n; i++) {
                _cleanup_free_ char *uid = format("uid-%u", i), *target = fixture_target(c->f, uid, "v");
                cr_assert(strv_append(&c->targets, target) >= 0);
        }
}

/* Copies of one image, sparse: 200 runs of mkfs would be most of the test. */
static void add_images(Crowd *c, unsigned n)
{
        _cleanup_free_ char *first = fixture_image_formatted(c->f, "0", 8 * MIB, "ext4");

        cr_assert(strv_append(&c->images, first) >= 0);
        for (unsigned i = 1; i < n; i++) {
                _cleanup_free_ char *image = format("%s/%u", c->f->image_dir, i);

                RUN_OK("cp", "--sparse=always", first, image);
                cr_assert(strv_append(&c->images, image) >= 0);
        }
}

typedef struct Same {
        Fixture *f;
        pthread_barrier_t *barrier;
        const char *image, *target;
        bool unmount;
        ErrorCode code;
} Same;

static void *same_main(void *arg)
{
        Same *s = arg;

        pthread_barrier_wait(s->barrier);
        s->code = s->unmount ? fixture_unmount(s->f, s->target, NULL) : try_mount(s->f, s->target, &(Volume) { .image = s->image }, NULL);
        return NULL;
}

#define SAME 64U

static void same_at_once(Fixture *f, const char *image, const char *target, bool unmount)
{
        pthread_t threads[SAME];
        Same calls[SAME];
        pthread_barrier_t barrier;

        pthread_barrier_init(&barrier, NULL, SAME);
        for (unsigned i = 0; i < SAME; i++) {
                calls[i] = (Same) { f, &barrier, image, target, unmount, ERROR_INTERNAL };
                cr_assert_eq(pthread_create(&threads[i], NULL, same_main, &calls[i]), 0);
        }
        for (unsigned i = 0; i < SAME; i++)
                pthread_join(threads[i], NULL);
        for (unsigned i = 0; i < SAME; i++)
                cr_assert_eq(calls[i].code, ERROR_NONE, "call %u: %s", i, error_code_name(calls[i].code));
        pthread_barrier_destroy(&barrier);
}

Test(agent, the_same_64_times_at_once)
{
        Fixture f;
        fixture_init(&f);
        gate_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v");

        gate_open(&f);
        for (unsigned round = 0; round < 3; round++) {
                same_at_once(&f, image, target, false);
                cr_assert_eq(fixture_count_loops(&f), 1);
                cr_assert_eq(fixture_count_mounts(target), 1);
                cr_assert_eq(count_volumes(&f), 1);
                _cleanup_free_ char *stage = volume_property(&f, target, "StagingPath");
                cr_assert_eq(fixture_count_mounts(stage), 1);
                same_at_once(&f, image, target, true);
                cr_assert_eq(fixture_count_mounts(target), 0);
                fixture_expect_clean(&f);
        }
        cr_assert_eq(gate_count(&f), 1, "mkfs ran %u times", gate_count(&f));
        gate_done(&f);
        fixture_done(&f);
}

Test(agent, one_volume_for_64_pods)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        Crowd c = { .f = &f, .n_clients = 64, .n_rounds = 2, .one_volume = true };

        add_images(&c, 1);
        add_targets(&c, 64);
        crowd_run(&c);
        cr_assert_eq(c.n_loops, 1, "%u devices for one image", c.n_loops);
        fixture_expect_clean(&f);
        crowd_done(&c);
        fixture_done(&f);
}

Test(agent, two_hundred_volumes)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        Crowd c = { .f = &f, .n_clients = 32, .n_rounds = 1 };

        add_images(&c, 200);
        add_targets(&c, 200);
        crowd_run(&c);
        cr_assert_eq(c.n_loops, 200, "%u devices for 200 images", c.n_loops);
        cr_assert_eq(c.n_ok, 800);
        wait_clean(&f, 5);
        cr_assert_eq(count_volumes(&f), 0);
        crowd_done(&c);
        fixture_done(&f);
}

/* ---- a crowd whose mounters are killed ---- */

static void kill_mounter(pid_t pid, void *arg)
{
        const Crowd *c = arg;
        pid_t parent, session;
        char name[64], state;

        if (process_stat(pid, &parent, &session, &state, name) && parent == c->f->agent && state != 'Z' &&
            strncmp(name, "mounter-", 8) == 0)
                kill(pid, SIGKILL);
}

static void *killer_main(void *arg)
{
        const struct timespec pause = { .tv_nsec = 150000000 };
        Crowd *c = arg;

        while (!c->over) {
                processes_foreach(kill_mounter, c);
                nanosleep(&pause, NULL);
        }
        return NULL;
}

Test(agent, mounters_killed_all_the_time)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        Crowd c = { .f = &f, .n_clients = 8, .n_rounds = 2, .n_repeats = 100 };
        pthread_t killer;

        add_images(&c, 24);
        add_targets(&c, 24);
        cr_assert_eq(pthread_create(&killer, NULL, killer_main, &c), 0);
        crowd_run(&c);
        c.over = true;
        pthread_join(killer, NULL);
        cr_assert_eq(c.n_loops, 24);
        wait_clean(&f, 10);
        cr_assert_eq(count_volumes(&f), 0);
        crowd_done(&c);
        fixture_done(&f);
}

/* ---- pods that share a volume ---- */

Test(agent, the_third_pod_takes_it_down)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *targets[3];
        const Volume v = { .image = image };

        for (unsigned i = 0; i < 3; i++) {
                _cleanup_free_ char *uid = format("uid-%u", i);
                targets[i] = fixture_target(&f, uid, "v");
                mount_ok(&f, targets[i], &v);
        }
        write_line(targets[0], "file", "shared");
        for (unsigned i = 0; i < 3; i++) {
                cr_assert_eq(fixture_count_loops(&f), 1, "detached before pod %u was gone", i);
                expect_line(targets[i], "file", "shared");
                unmount_ok(&f, targets[i]);
        }
        fixture_expect_clean(&f);
        free(targets[1]);
        free(targets[2]);
        fixture_done(&f);
}

Test(agent, read_only_beside_read_write)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *one = fixture_target(&f, "uid-1", "v"),
                            *two = fixture_target(&f, "uid-2", "v"), *three = fixture_target(&f, "uid-3", "v");
        const Volume rw = { .image = image }, ro = { .image = image, .read_only = true };

        /* nothing may be made for a reader */
        _cleanup_free_ char *before = file_checksum(image);
        mount_refused(&f, one, &ro, ERROR_NOT_FORMATTED, NULL);
        _cleanup_free_ char *after = file_checksum(image);
        cr_assert_str_eq(before, after);

        mount_ok(&f, one, &rw);
        write_line(one, "file", "written");
        mount_ok(&f, two, &ro);
        cr_assert(is_read_only(two) && !is_read_only(one));
        write_line(one, "file", "written again");
        expect_line(two, "file", "written again");
        unmount_ok(&f, one);
        cr_assert(is_read_only(two));
        expect_line(two, "file", "written again");
        mount_ok(&f, one, &rw);
        cr_assert(!is_read_only(one) && is_read_only(two));
        unmount_ok(&f, one);
        unmount_ok(&f, two);
        fixture_expect_clean(&f);

        mount_ok(&f, two, &ro);
        mount_ok(&f, three, &ro);
        for (unsigned i = 0; i < 3; i++)
                mount_refused(&f, one, &rw, ERROR_READ_ONLY_STAGE, NULL);
        cr_assert_eq(fixture_count_mounts(one), 0);
        expect_line(two, "file", "written again");
        unmount_ok(&f, two);
        mount_refused(&f, one, &rw, ERROR_READ_ONLY_STAGE, NULL);
        unmount_ok(&f, three);
        mount_ok(&f, one, &rw);
        write_line(one, "file", "once more");
        unmount_ok(&f, one);
        fixture_done(&f);
}

/* Attached for writing, staged for a reader: the writer has to wait for the reader only. */
Test(agent, access_while_attached_by_name)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image_formatted(&f, "a", 64 * MIB, "ext4"), *one = fixture_target(&f, "uid-1", "v"),
                            *two = fixture_target(&f, "uid-2", "v");
        const Volume rw = { .image = image, .name = "pv" }, ro = { .image = image, .name = "pv", .read_only = true };

        cr_assert_eq(try_attach(&f, &rw, NULL, NULL), ERROR_NONE);
        mount_ok(&f, one, &ro);
        mount_refused(&f, two, &rw, ERROR_READ_ONLY_STAGE, NULL);
        unmount_ok(&f, one);
        mount_ok(&f, two, &rw);
        write_line(two, "file", "x");
        unmount_ok(&f, two);
        cr_assert_eq(try_detach(&f, "pv"), ERROR_NONE);
        fixture_expect_clean(&f);

        /* attached for reading only: said so, not a mount error of the kernel's */
        cr_assert_eq(try_attach(&f, &ro, NULL, NULL), ERROR_NONE);
        mount_refused(&f, two, &rw, ERROR_READ_ONLY_STAGE, NULL);
        mount_ok(&f, one, &ro);
        expect_line(one, "file", "x");
        unmount_ok(&f, one);
        cr_assert_eq(try_detach(&f, "pv"), ERROR_NONE);
        fixture_done(&f);
}

/* ---- repeats that differ ---- */

Test(agent, a_repeat_that_differs)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *other = fixture_image(&f, "b", 64 * MIB),
                            *missing = format("%s/missing", f.image_dir), *target = fixture_target(&f, "uid-1", "v"),
                            *second = fixture_target(&f, "uid-2", "v");
        const Volume v = { .image = image, .option = "noatime" };
        _cleanup_free_ char *blank = file_checksum(other);

        mount_ok(&f, target, &v);
        write_line(target, "file", "kept");
        uint64_t id = mount_id(target);
        const struct {
                Volume v;
                const char *text;
        } repeats[] = {
                { { .image = other, .option = "noatime" }, "another volume" },
                { { .image = missing, .option = "noatime", .size = "64M" }, "another volume" },
                { { .image = image, .option = "noatime", .fs_type = "xfs" }, "xfs" },
                { { .image = image }, "mount options" },
                { { .image = image, .option = "nodiratime" }, "nodiratime" },
                { { .image = image, .option = "noatime", .read_only = true }, "read-only" },
        };
        for (size_t i = 0; i < ELEMENTSOF(repeats); i++) {
                for (unsigned k = 0; k < 2; k++)
                        mount_refused(&f, target, &repeats[i].v, ERROR_CONFLICT, repeats[i].text);
                cr_assert_eq(fixture_count_mounts(target), 1);
                cr_assert_eq(mount_id(target), id);
                cr_assert(!is_read_only(target));
                cr_assert_eq(fixture_count_loops(&f), 1, "repeat %zu attached something", i);
                cr_assert_eq(count_volumes(&f), 1);
        }
        cr_assert(access(missing, F_OK) < 0, "an image was made for a refused request");
        _cleanup_free_ char *still_blank = file_checksum(other);
        cr_assert_str_eq(blank, still_blank);
        expect_line(target, "file", "kept");

        /* options are those of the stage, which the second pod would share */
        mount_refused(&f, second, &repeats[4].v, ERROR_CONFLICT, "nodiratime");
        mount_ok(&f, second, &v);
        unmount_ok(&f, second);
        unmount_ok(&f, target);
        fixture_expect_clean(&f);
        mount_ok(&f, target, &repeats[4].v);
        unmount_ok(&f, target);
        fixture_done(&f);
}

/* ---- targets that are not as they should be ---- */

Test(agent, stacked_plain_and_gone_targets)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v"),
                            *never = fixture_target(&f, "uid-2", "v"), *file = format("%s/file", never);
        const Volume v = { .image = image };

        mount_ok(&f, target, &v);
        for (unsigned i = 0; i < 5; i++)
                cr_assert(mount("tmpfs", target, "tmpfs", 0, "size=1M") >= 0);
        cr_assert_eq(fixture_count_mounts(target), 6);
        unmount_ok(&f, target);
        cr_assert_eq(fixture_count_mounts(target), 0);
        fixture_expect_clean(&f);

        write_text(file, "not berth's");
        unmount_ok(&f, never);
        _cleanup_free_ char *content = read_text(file);
        cr_assert_str_eq(content, "not berth's");
        cr_assert(unlink(file) >= 0 && rmdir(never) >= 0);
        unmount_ok(&f, never);

        /* somebody else unmounted it, and even removed the directory */
        mount_ok(&f, target, &v);
        cr_assert(umount2(target, 0) >= 0);
        unmount_ok(&f, target);
        fixture_expect_clean(&f);
        mount_ok(&f, target, &v);
        cr_assert(umount2(target, 0) >= 0 && rmdir(target) >= 0);
        unmount_ok(&f, target);
        fixture_done(&f);
}

/* ---- the lasting memory ---- */

Test(agent, forget_that_it_was_formatted)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 * MIB), *target = fixture_target(&f, "uid-1", "v"), *key = NULL;
        const Volume v = { .image = image };

        mount_ok(&f, target, &v);
        key = volume_property(&f, target, "Key");
        unmount_ok(&f, target);
        cr_assert(truncate(image, 0) >= 0 && truncate(image, 64 * MIB) >= 0);
        mount_refused(&f, target, &v, ERROR_WAS_FORMATTED, key);
        fixture_expect_clean(&f);

        /* the remedy of the error, word for word; another volume's memory stays */
        _cleanup_free_ char *program = executable_path(&f, "berthctl");
        cr_assert_neq(RUN(program, "forget", "--formatted", "loop-1-2-3"), 0);
        mount_refused(&f, target, &v, ERROR_WAS_FORMATTED, key);
        RUN_OK(program, "forget", "--formatted", key);
        mount_ok(&f, target, &v);
        unmount_ok(&f, target);
        fixture_done(&f);
}
