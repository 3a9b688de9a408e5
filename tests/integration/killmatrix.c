/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The kill matrix. For every fault point (the list is made from the source), each time that a request reaches it: the agent
 * killed there, the mounter killed, both, and, where a point can fail, an error and a delay. Then the agent is started again if it is dead and
 * the request repeated, which must succeed; the data is there; and after the unmount nothing is left. A mounter that dies while
 * its agent lives, or a delay, must not even be noticed by who asked.
 *
 * Each scenario is gone through once with every point written down; that tells which points it reaches and how often.
 *
 * The driver is the one that storage.h finds in the environment. Where each case takes seconds, killmatrix/sample goes through each of the
 * driver's own points once, at a time and with an action chosen by chance, and through as many other cases as BERTH_MATRIX="seconds=N
 * seed=S" allows. BERTH_MATRIX="only=TEXT" goes through all cases that say TEXT, such as "kill-both at rbd." or a whole one that failed.
 */

#include <criterion/criterion.h>

#include "storage.h"

#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "base/cleanup.h"
#include "base/fd.h"

#define DATA "this must survive everything\n"
#define CLEAN_SECONDS 40.0 /* a watcher that died is listed for a while */
#define FIRE_SECONDS 40.0
#define POINTS_MAX 128
#define LOCKED_IMAGES 16U
#define CALL_USEC (120 * UINT64_C(1000000))

static const struct {
        const char *name;
        bool can_fail;
        const char *driver; /* "": of all */
} all_points[] = {
#define FAULT(name, can_fail, driver) { name, can_fail, driver },
#include "fault-points.h"
#undef FAULT
};

typedef struct Matrix Matrix;

typedef struct Scenario {
        const char *name, *drivers; /* as Storage.points; NULL: any */
        const char *fs_type, *size;
        const char *only; /* NULL, or a part of the names that are of interest */
        bool abandons;    /* the request is not repeated */
        void (*begin)(Matrix *x);   /* once; may be NULL */
        void (*prepare)(Matrix *x); /* each time, before the request */
        ErrorCode (*request)(Matrix *x, char **ret_text);
        void (*verify)(Matrix *x); /* after the request has succeeded; leaves the volume mounted, or not */
        unsigned cases_max;        /* 0: any number */
} Scenario;

struct Matrix {
        Fixture f;
        const Storage *storage;
        const Scenario *s;
        char *target, *image, *spec, *trace;
        char label[160];
        unsigned n_cases, n_locked;
        uint64_t size; /* Expand */
        pid_t holder;
        bool lost; /* the records */
};

typedef struct Reached {
        const char *name;
        bool can_fail;
        unsigned n;
} Reached;

/* ---- what scenarios are made of ---- */

static void matrix_start(Matrix *x)
{
        storage_start(x->storage, &x->f, "[Mounters]\nWarm=1\n[Agent]\nLingerSec=200ms\n");
}

/* A dry run, after whatever reconcile is under way. */
static int reconcile_look(Matrix *x, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_message_ sd_bus_message *call = NULL;
        uint64_t deadline = now_boottime_usec() + CALL_USEC;
        int r = client_connect(x->f.socket, deadline, &bus, err);

        if (r >= 0)
                r = client_new_call(bus, "Reconcile", &call, err);
        if (r >= 0)
                r = sd_bus_message_append(call, "b", 1);
        return r < 0 ? r : client_call(bus, call, deadline, NULL, err);
}

static const char *scenario_fs_type(const Matrix *x, const Scenario *s)
{
        return x->storage->is_share ? NULL : str_or(s->fs_type, x->storage->grown);
}

static Volume matrix_volume(const Matrix *x)
{
        return (Volume) { .image = x->image, .fs_type = scenario_fs_type(x, x->s), .size = x->storage->is_share ? NULL : x->s->size,
                          .params = x->storage->params };
}

static ErrorCode request_mount(Matrix *x, char **ret_text)
{
        Volume v = matrix_volume(x);

        return try_mount(&x->f, x->target, &v, ret_text);
}

static ErrorCode request_unmount(Matrix *x, char **ret_text)
{
        Error err = ERROR_INIT;
        ErrorCode code = fixture_unmount(&x->f, x->target, &err);

        *ret_text = TAKE_PTR(err.text);
        error_done(&err);
        return code;
}

static ErrorCode request_expand(Matrix *x, char **ret_text)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        uint64_t deadline = now_boottime_usec() + CALL_USEC, size = 0;
        Error err = ERROR_INIT;
        int r = client_connect(x->f.socket, deadline, &bus, &err);

        if (r >= 0)
                r = client_expand(bus, x->target, x->size, deadline, &size, &err);
        ErrorCode code = r < 0 ? err.code : ERROR_NONE;
        *ret_text = TAKE_PTR(err.text);
        error_done(&err);
        return code;
}

/* Started anew without its records, the agent adopts what it finds; then comes the unmount. */
static ErrorCode request_after_loss(Matrix *x, char **ret_text)
{
        if (!x->lost) {
                _cleanup_free_ char *records = format("%s/volumes", x->f.runtime_dir);

                x->lost = true;
                fixture_stop(&x->f, SIGKILL);
                RUN_OK("find", records, "-name", "*.json", "-delete");
                matrix_start(x);
        }
        (void) reconcile_look(x, NULL);
        return request_unmount(x, ret_text);
}

/* The key of the volume that has a record, or NULL; freed by the caller. */
static char *recorded_key(const Matrix *x)
{
        _cleanup_free_ char *records = format("%s/volumes", x->f.runtime_dir);
        _cleanup_closedir_ DIR *d = opendir(records);

        for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
                size_t n = strlen(e->d_name);
                if (n > 5 && strcmp(e->d_name + n - 5, ".json") == 0)
                        return strndup(e->d_name, n - 5);
        }
        return NULL;
}

static ErrorCode ask_force(Matrix *x, const char *key, char **ret_text)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_message_ sd_bus_message *call = NULL;
        uint64_t deadline = now_boottime_usec() + CALL_USEC;
        Error err = ERROR_INIT;
        int r = client_connect(x->f.socket, deadline, &bus, &err);

        if (r >= 0)
                r = client_new_call(bus, "ForceDetach", &call, &err);
        if (r >= 0)
                r = bus_append_bytes(call, key);
        if (r >= 0)
                r = client_call(bus, call, deadline, NULL, &err);
        ErrorCode code = r < 0 ? err.code : ERROR_NONE;
        free(*ret_text);
        *ret_text = TAKE_PTR(err.text);
        error_done(&err);
        return code;
}

/* As a person would: again while something else is at work on it, until there is nothing to detach. */
static ErrorCode request_force(Matrix *x, char **ret_text)
{
        ErrorCode code;
        static const struct timespec pause = { .tv_nsec = 20000000 };

        for (double end = now_seconds() + CLEAN_SECONDS;; nanosleep(&pause, NULL)) {
                _cleanup_free_ char *key = recorded_key(x);

                if (!key)
                        return ERROR_NONE;
                code = ask_force(x, key, ret_text);
                if (code != ERROR_BUSY || now_seconds() > end)
                        return code == ERROR_NOT_FOUND ? ERROR_NONE : code;
        }
}

static void must(Matrix *x, const char *what, ErrorCode (*request)(Matrix *x, char **ret_text))
{
        _cleanup_free_ char *text = NULL;
        ErrorCode code = request(x, &text);

        cr_assert_eq(code, ERROR_NONE, "%s: %s: %s: %s", x->label, what, error_code_name(code), text);
}

static void must_mount(Matrix *x)
{
        must(x, "the mount", request_mount);
}

static void must_unmount(Matrix *x)
{
        must(x, "the unmount", request_unmount);
}

/* An mkfs that is through leaves no intent, and a write that was cut short no temporary file; NULL if there is none. Freed by the caller. */
static char *leftover_state(const Matrix *x)
{
        static const char *const names[] = { "formats", "volumes" };

        for (size_t i = 0; i < ELEMENTSOF(names); i++) {
                _cleanup_free_ char *path = format("%s/%s", x->f.state_dir, names[i]);
                _cleanup_closedir_ DIR *d = opendir(path);

                for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d))
                        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 && (i == 0 || e->d_name[0] == '.'))
                                return format("the state file %s/%s", path, e->d_name);
        }
        return NULL;
}

static void must_become_clean(Matrix *x)
{
        struct timespec pause = { .tv_nsec = 2000000 };

        /* a look may be dear, and what is still there may be so for seconds */
        for (double end = now_seconds() + CLEAN_SECONDS;; nanosleep(&pause, NULL)) {
                _cleanup_free_ char *what = NULL;

                if (storage_all_clean(x->storage, &x->f, &what)) {
                        what = leftover_state(x);
                        if (!what)
                                return;
                }
                cr_assert(now_seconds() < end, "%s: there still is %s", x->label, what);
                if (pause.tv_nsec < 200000000)
                        pause.tv_nsec += pause.tv_nsec / 4;
        }
}

/* A blank image, or one that is formatted and holds the data. */
static void begin_with_data(Matrix *x)
{
        const char *type = scenario_fs_type(x, x->s);

        x->size = str_equal(type, "xfs") ? 300 << 20 : 16 << 20;
        x->image = x->storage->is_share ? x->storage->make(&x->f, x->s->name, x->size)
                                        : storage_make_formatted(x->storage, &x->f, x->s->name, x->size, type, NULL);
        must_mount(x);
        write_line(x->target, "data", DATA);
        must_unmount(x);
        must_become_clean(x);
}

static void prepare_nothing(Matrix *x)
{
}

static void prepare_mounted(Matrix *x)
{
        must_mount(x);
}

/* The pod's mount is stale: the request replaces it. */
static void prepare_stale(Matrix *x)
{
        must_mount(x);
        x->storage->renew(x->image);
}

static void prepare_blank(Matrix *x)
{
        _cleanup_free_ char *name = format("blank-%u", x->n_cases);

        free(x->image);
        x->image = x->storage->make(&x->f, name, 8 << 20);
}

static void prepare_missing(Matrix *x)
{
        _cleanup_free_ char *name = format("new-%u", x->n_cases);

        free(x->image);
        x->image = x->storage->name(&x->f, name);
}

/* Locked by a client of another node that is no more: the case in tests/vm has made these. */
static void prepare_locked(Matrix *x)
{
        _cleanup_free_ char *image = format("locked-%u", x->n_locked++);

        free(x->image);
        x->image = TAKE_PTR(image);
}

static void prepare_expand(Matrix *x)
{
        x->size += 64 << 20;
        must_mount(x);
}

/* e2fsck asks for it: a flag in the superblock, which has no checksum here (struct ext2_super_block, s_state). */
static void begin_without_checksums(Matrix *x)
{
        x->image = storage_make_formatted(x->storage, &x->f, x->s->name, 16 << 20, "ext4", (char *[]) { "-O", "^metadata_csum", NULL });
        must_mount(x);
        write_line(x->target, "data", DATA);
        must_unmount(x);
        must_become_clean(x);
}

static void prepare_errors(Matrix *x)
{
        static const uint8_t state[2] = { 2, 0 };

        x->storage->write(x->image, 1024 + 0x3a, state, sizeof(state));
}

/* Unmounted, but another mount namespace holds it: the kernel will let the device go as soon as that ends. */
static void prepare_held(Matrix *x)
{
        must_mount(x);
        x->holder = holder_start(NULL);
        must_unmount(x);
}

static void verify_data(Matrix *x)
{
        expect_line(x->target, "data", DATA);
}

static void prepare_loss(Matrix *x)
{
        must_mount(x);
        x->lost = false;
}

static void verify_unmounted(Matrix *x)
{
        cr_assert_eq(fixture_count_mounts(x->target), 0, "%s: the target is mounted", x->label);
}

static void verify_held(Matrix *x)
{
        verify_data(x);
        holder_end(x->holder);
}

static void verify_new(Matrix *x)
{
        write_line(x->target, "data", DATA);
        must_unmount(x);
        must_become_clean(x);
        must_mount(x);
        verify_data(x);
        must_unmount(x);
        x->storage->remove(x->image);
}

static void verify_size(Matrix *x)
{
        uint64_t size = x->storage->size(x->image);

        verify_data(x);
        cr_assert_eq(size, x->size, "%s: the image has %" PRIu64 " bytes", x->label, size);
}

/* As prepare_held(), of a volume whose device the kernel will not let go: by force only. */
static void verify_forced(Matrix *x)
{
        holder_end(x->holder);
        verify_unmounted(x);
}

static const Scenario scenarios[] = {
        { "mount", NULL, "ext4", NULL, NULL, false, begin_with_data, prepare_nothing, request_mount, verify_data, 0 },
        { "unmount", NULL, "ext4", NULL, NULL, false, begin_with_data, prepare_mounted, request_unmount, verify_unmounted, 0 },
        { "format", "loop rbd", "ext4", NULL, NULL, false, NULL, prepare_blank, request_mount, verify_new, 0 },
        { "create", "loop nfs", "ext4", "8M", NULL, false, NULL, prepare_missing, request_mount, verify_new, 0 },
        { "expand", "loop rbd", NULL, NULL, NULL, false, begin_with_data, prepare_expand, request_expand, verify_size, 0 },
        { "abandon", "loop nfs rbd", "ext4", NULL, NULL, true, begin_with_data, prepare_nothing, request_mount, verify_data, 0 },
        { "fsck", "loop rbd", "ext4", NULL, "program.", false, begin_without_checksums, prepare_errors, request_mount, verify_data, 0 },
        { "adopt", "loop nfs rbd", "ext4", NULL, "agent.reconcile", false, begin_with_data, prepare_loss, request_after_loss, verify_unmounted, 0 },
        { "held", "loop", "ext4", NULL, "-keep", false, begin_with_data, prepare_held, request_mount, verify_held, 0 },
        { "renew", "nfs", NULL, NULL, "-clear", false, begin_with_data, prepare_stale, request_mount, verify_data, 0 },
        { "fence", "rbd", "ext4", NULL, "rbd.", false, NULL, prepare_locked, request_mount, verify_new, LOCKED_IMAGES },
        { "force", "rbd", "ext4", NULL, "-force", false, begin_with_data, prepare_held, request_force, verify_forced, 0 },
        { "force-nbd", "nbd", "ext4", NULL, "nbd.", false, begin_with_data, prepare_held, request_force, verify_forced, 0 },
};

/* ---- the matrix ---- */

static const Scenario *scenario_find(const char *name)
{
        for (size_t i = 0; i < ELEMENTSOF(scenarios); i++)
                if (strcmp(scenarios[i].name, name) == 0)
                        return &scenarios[i];
        abort();
}

static void matrix_init(Matrix *x)
{
        _cleanup_free_ char *at = NULL;

        *x = (Matrix) {};
        fixture_init_faulty(&x->f);
        x->storage = storage_begin(&x->f);
        x->spec = format("%s/fault", x->f.dir);
        x->trace = format("%s/trace", x->f.dir);
        at = format("@%s", x->spec);
        setenv("BERTH_FAULT", at, 1);
        setenv("BERTH_FAULT_TRACE", x->trace, 1);
        x->target = fixture_target(&x->f, "5e4b6f2e-0000-4000-8000-000000000001", "vol");
        matrix_start(x);
}

static void matrix_begin(Matrix *x, const Scenario *s)
{
        x->s = s;
        snprintf(x->label, sizeof(x->label), "%s, its beginning", s->name);
        free(TAKE_PTR(x->image));
        x->size = 300 << 20;
        if (s->begin)
                s->begin(x);
}

static void matrix_done(Matrix *x)
{
        fixture_done(&x->f);
        free(x->target);
        free(x->image);
        free(x->spec);
        free(x->trace);
}

/*
 * When this is answered, whatever berthd and its mounters did for earlier requests is through: each is a single thread, and a
 * reconcile asks the mounter that was used last.
 */
static void matrix_settle(Matrix *x)
{
        _cleanup_error_ Error err = ERROR_INIT;

        cr_assert(reconcile_look(x, &err) >= 0, "%s: reconcile: %s", x->label, err.text);
}

/* From the request's success to the machine as it was. */
static void matrix_conclude(Matrix *x)
{
        x->s->verify(x);
        must_unmount(x);
        must_become_clean(x);
}

/* Goes through the scenario once and counts; the number of different points that it reached. */
static size_t matrix_trace(Matrix *x, Reached ret[static POINTS_MAX])
{
        size_t n = 0;

        snprintf(x->label, sizeof(x->label), "%s, undisturbed", x->s->name);
        x->n_cases++;
        x->s->prepare(x);
        matrix_settle(x);
        write_text(x->trace, "");
        must(x, "the request", x->s->request);
        if (x->s->verify == verify_unmounted)
                must_become_clean(x);
        matrix_settle(x);
        _cleanup_free_ char *trace = read_text(x->trace);
        matrix_conclude(x);

        for (size_t i = 0; i < ELEMENTSOF(all_points); i++) {
                Reached r = { .name = all_points[i].name, .can_fail = all_points[i].can_fail };
                size_t length = strlen(r.name);

                for (const char *p = trace, *end; (end = strchr(p, '\n')); p = end + 1)
                        r.n += (size_t) (end - p) == length && memcmp(p, r.name, length) == 0;
                if (r.n > 0 && (!x->s->only || strstr(r.name, x->s->only)))
                        ret[n++] = r;
        }
        return n;
}

static bool spec_is_gone(void *arg)
{
        const Matrix *x = arg;

        return access(x->spec, F_OK) < 0;
}

static void matrix_arm(Matrix *x, const char *point, unsigned hit, const char *action)
{
        _cleanup_free_ char *spec = format("%s=%s@%u\n", point, action, hit);
        _cleanup_free_ char *temporary = format("%s.new", x->spec), *count = format("%s.count", x->spec);

        (void) unlink(count);
        write_text(temporary, spec);
        cr_assert(rename(temporary, x->spec) >= 0);
}

/*
 * Whether the point was reached as often as in the undisturbed run. A retry, such as of LOOP_CONFIGURE on a device that another process of the
 * machine was faster to take, happens then and not now; the first time always comes.
 */
static bool matrix_fired(Matrix *x)
{
        if (!spec_is_gone(x))
                (void) reconcile_look(x, NULL);
        if (unlink(x->spec) < 0)
                return true; /* whoever did it has removed it */
        fprintf(stderr, "%s: not reached\n", x->label);
        return false;
}

static void case_label(Matrix *x, const Scenario *s, const char *point, unsigned hit, const char *action)
{
        snprintf(x->label, sizeof(x->label), "%s, %s at %s, time %u", s->name, action, point, hit);
}

static void matrix_case(Matrix *x, const char *point, unsigned hit, const char *action)
{
        _cleanup_free_ char *text = NULL;
        bool agent_dies = strncmp(action, "kill-agent", 10) == 0 || strcmp(action, "kill-both") == 0;

        x->n_cases++;
        case_label(x, x->s, point, hit, action);
        fprintf(stderr, "%s\n", x->label);
        x->s->prepare(x);
        matrix_settle(x);
        matrix_arm(x, point, hit, action);
        ErrorCode code = x->s->request(x, &text);
        if (hit > 1 && !matrix_fired(x))
                agent_dies = false;
        else
                wait_until(spec_is_gone, x, FIRE_SECONDS, x->label);
        if (agent_dies) {
                cr_assert_eq(waitpid(x->f.agent, NULL, 0), x->f.agent, "%s: %s", x->label, strerror(errno));
                x->f.agent = 0;
                matrix_start(x);
        } else if (strcmp(action, "kill-mounter") == 0 || strncmp(action, "delay", 5) == 0)
                cr_assert_eq(code, ERROR_NONE, "%s: it was noticed: %s: %s", x->label, error_code_name(code), text);
        if (x->s->abandons) {
                must_unmount(x);
                must_become_clean(x);
        } else {
                must(x, "the repeat", x->s->request);
                matrix_conclude(x);
        }
}

/*
 * OUTLIVES: the mounter goes on when the next agent has looked at the node and the repeat has come. In a guest that takes so long that it
 * would be through by then, as after kill-agent.
 */
#define OUTLIVES "kill-agent:300"
static const char *const actions[] = { "kill-agent", OUTLIVES, "kill-mounter", "kill-both", "fail:ENOSPC", "delay:50" };

static bool action_is_meant(const Matrix *x, const Scenario *s, const Reached *point, const char *action)
{
        if (s->abandons)
                return strcmp(action, "kill-both") == 0;
        if (strcmp(action, OUTLIVES) == 0)
                return x->storage == &storage_loop && strncmp(point->name, "agent.", 6) != 0;
        return point->can_fail || strncmp(action, "kill", 4) == 0;
}

static void matrix_run(const char *name)
{
        Reached points[POINTS_MAX];
        Matrix x;

        matrix_init(&x);
        matrix_begin(&x, scenario_find(name));
        size_t n = matrix_trace(&x, points);
        for (size_t i = 0; i < n; i++)
                for (unsigned hit = 1; hit <= points[i].n; hit++)
                        for (size_t k = 0; k < ELEMENTSOF(actions); k++)
                                if (action_is_meant(&x, x.s, &points[i], actions[k]))
                                        matrix_case(&x, points[i].name, hit, actions[k]);
        fprintf(stderr, "%s: %u cases at %zu points\n", name, x.n_cases, n);
        matrix_done(&x);
}

TestSuite(killmatrix, .timeout = 400);

#define MATRIX_TEST(name)                                                                                    \
        Test(killmatrix, name)                                                                               \
        {                                                                                                    \
                matrix_run(#name);                                                                           \
        }

MATRIX_TEST(mount)
MATRIX_TEST(unmount)
MATRIX_TEST(format)
MATRIX_TEST(create)
MATRIX_TEST(expand)
MATRIX_TEST(fsck)
MATRIX_TEST(abandon)
MATRIX_TEST(held)
MATRIX_TEST(adopt)

/* ---- all scenarios, and a choice of their cases ---- */

/* A scenario that has begun, while another one is gone through. */
typedef struct Scene {
        const Scenario *s;
        char *image;
        uint64_t size;
        unsigned n_cases;
        Reached points[POINTS_MAX];
        size_t n_points;
} Scene;

typedef struct Case {
        Scene *scene;
        const Reached *point;
        unsigned hit;
        const char *action;
} Case;

typedef struct Sample {
        Scene scenes[ELEMENTSOF(scenarios)];
        size_t n_scenes;
        Case *cases;
        size_t n_cases;
        uint64_t seed, random;
        double seconds;   /* for cases beside those that must be */
        const char *only; /* NULL, or a part of what the cases say that are gone through, all of them */
} Sample;

static void scene_enter(Matrix *x, Scene *scene)
{
        x->s = scene->s;
        free(x->image);
        x->image = TAKE_PTR(scene->image);
        x->size = scene->size;
}

static void scene_leave(Matrix *x, Scene *scene)
{
        scene->image = TAKE_PTR(x->image);
        scene->size = x->size;
        scene->n_cases++;
}

/* The data of one that begins alike will do: each leaves it as it was. */
static bool scene_begin_alike(Matrix *x, const Sample *sample, Scene *scene)
{
        for (size_t i = 0; i < sample->n_scenes; i++) {
                const Scene *other = &sample->scenes[i];

                if (!scene->s->begin || other->s->begin != scene->s->begin || !other->image ||
                    !str_equal(scenario_fs_type(x, other->s), scenario_fs_type(x, scene->s)))
                        continue;
                scene->image = strdup(other->image);
                scene->size = other->size;
                scene_enter(x, scene);
                return true;
        }
        return false;
}

/* One that asks for the same thing reaches the same points. */
static bool scene_trace_alike(const Sample *sample, Scene *scene)
{
        for (size_t i = 0; i < sample->n_scenes; i++) {
                const Scene *other = &sample->scenes[i];

                if (other->s->prepare != scene->s->prepare || other->s->request != scene->s->request || other->s->verify != scene->s->verify ||
                    !str_equal(other->s->only, scene->s->only))
                        continue;
                memcpy(scene->points, other->points, sizeof(scene->points));
                scene->n_points = other->n_points;
                return true;
        }
        return false;
}

static void sample_trace(Matrix *x, Sample *sample)
{
        for (size_t i = 0; i < ELEMENTSOF(scenarios); i++) {
                Scene *scene = &sample->scenes[sample->n_scenes];

                if (scenarios[i].drivers && !strstr(scenarios[i].drivers, x->storage->points))
                        continue;
                scene->s = &scenarios[i];
                if (!scene_begin_alike(x, sample, scene))
                        matrix_begin(x, scene->s);
                if (!scene_trace_alike(sample, scene))
                        scene->n_points = matrix_trace(x, scene->points);
                fprintf(stderr, "%s: %zu points\n", scene->s->name, scene->n_points);
                scene_leave(x, scene);
                sample->n_scenes++;
        }
}

static void sample_done(Sample *sample)
{
        for (size_t i = 0; i < sample->n_scenes; i++)
                free(sample->scenes[i].image);
        free(sample->cases);
        free(sample);
}

static bool sample_reaches(const Sample *sample, const char *point)
{
        for (size_t i = 0; i < sample->n_scenes; i++)
                for (size_t k = 0; k < sample->scenes[i].n_points; k++)
                        if (strcmp(sample->scenes[i].points[k].name, point) == 0)
                                return true;
        return false;
}

/* Of those that all drivers have in common a share has the agent's: it formats nothing, and stages in its own way. */
static bool point_is_of(const Storage *s, const char *point, const char *driver)
{
        if (*driver)
                return strcmp(driver, s->points) == 0;
        if (s->own_points)
                return false;
        return !s->is_share || strncmp(point, "agent.", 6) == 0;
}

/* A point that no scenario reaches would not be tested by anybody. */
static void expect_all_reached(const Matrix *x, const Sample *sample)
{
        _cleanup_free_ char *missing = strdup("");

        for (size_t k = 0; k < ELEMENTSOF(all_points); k++) {
                if (!point_is_of(x->storage, all_points[k].name, all_points[k].driver) || sample_reaches(sample, all_points[k].name))
                        continue;
                char *longer = format("%s %s", missing, all_points[k].name);
                free(missing);
                missing = longer;
        }
        cr_assert_str_empty(missing, "no scenario reaches:%s", missing);
}

/* All cases, in an order by chance. */
static void sample_fill(const Matrix *x, Sample *sample)
{
        size_t n_max = ELEMENTSOF(scenarios) * POINTS_MAX * ELEMENTSOF(actions) * 4;

        sample->cases = calloc(n_max, sizeof(Case));
        for (size_t i = 0; i < sample->n_scenes; i++) {
                Scene *scene = &sample->scenes[i];
                for (size_t p = 0; p < scene->n_points; p++)
                        for (unsigned hit = 1; hit <= scene->points[p].n; hit++)
                                for (size_t k = 0; k < ELEMENTSOF(actions); k++)
                                        if (action_is_meant(x, scene->s, &scene->points[p], actions[k]) && sample->n_cases < n_max)
                                                sample->cases[sample->n_cases++] =
                                                                (Case) { scene, &scene->points[p], hit, actions[k] };
        }
        for (size_t i = sample->n_cases; i > 1; i--) {
                size_t k = below(&sample->random, (unsigned) i);
                Case c = sample->cases[k];

                sample->cases[k] = sample->cases[i - 1];
                sample->cases[i - 1] = c;
        }
}

static void sample_case(Matrix *x, Case *c)
{
        if (c->scene->s->cases_max == 0 || c->scene->n_cases < c->scene->s->cases_max) {
                scene_enter(x, c->scene);
                matrix_case(x, c->point->name, c->hit, c->action);
                scene_leave(x, c->scene);
        }
        c->scene = NULL; /* done */
}

/* The first case at the point that is not done; one with a new file system takes twice the time, and comes only if there is no other. */
static Case *sample_find(const Sample *sample, const char *point)
{
        Case *dear = NULL;

        for (size_t i = 0; i < sample->n_cases; i++) {
                Case *c = &sample->cases[i];

                if (!c->scene || strcmp(c->point->name, point) != 0)
                        continue;
                if (c->scene->s->verify != verify_new)
                        return c;
                dear = dear ? dear : c;
        }
        return dear;
}

/* Each point that is the driver's own, at one of its times and with one of its actions. */
static void sample_run_own(Matrix *x, Sample *sample)
{
        for (size_t k = 0; k < ELEMENTSOF(all_points); k++) {
                Case *c = strcmp(all_points[k].driver, x->storage->points) == 0 ? sample_find(sample, all_points[k].name) : NULL;

                if (c)
                        sample_case(x, c);
        }
}

static void sample_run_only(Matrix *x, Sample *sample)
{
        for (size_t i = 0; i < sample->n_cases; i++) {
                const Case *c = &sample->cases[i];

                case_label(x, c->scene->s, c->point->name, c->hit, c->action);
                if (strstr(x->label, sample->only))
                        sample_case(x, &sample->cases[i]);
        }
}

static void read_choice(Sample *sample)
{
        const char *choice = getenv("BERTH_MATRIX"), *p;
        struct timespec ts;

        clock_gettime(CLOCK_REALTIME, &ts);
        sample->seed = choice && (p = strstr(choice, "seed=")) ? strtoull(p + 5, NULL, 0) : (uint64_t) ts.tv_nsec ^ (uint64_t) ts.tv_sec << 30;
        sample->seconds = choice && (p = strstr(choice, "seconds=")) ? atof(p + 8) : 0;
        sample->only = choice && (p = strstr(choice, "only=")) ? p + 5 : NULL;
        sample->random = sample->seed;
}

/* The suite's limit is for one scenario on a fast machine; its own one is the alarm. */
Test(killmatrix, sample, .timeout = 86400)
{
        Sample *sample = calloc(1, sizeof(*sample));
        Matrix x;

        read_choice(sample);
        matrix_init(&x);
        (void) alarm(600 + (unsigned) sample->seconds); /* instead of the fixture's */
        double begun = now_seconds();
        sample_trace(&x, sample);
        expect_all_reached(&x, sample);
        sample_fill(&x, sample);
        fprintf(stderr, "seed %" PRIu64 ", %zu cases to choose from, %.0f s\n", sample->seed, sample->n_cases, now_seconds() - begun);
        if (sample->only)
                sample_run_only(&x, sample);
        else
                sample_run_own(&x, sample);
        fprintf(stderr, "the driver's own points: %.0f s\n", now_seconds() - begun);
        for (size_t i = 0; i < sample->n_cases && now_seconds() - begun < sample->seconds; i++)
                if (sample->cases[i].scene)
                        sample_case(&x, &sample->cases[i]);
        fprintf(stderr, "%u cases in %.0f s\n", x.n_cases, now_seconds() - begun);
        sample_done(sample);
        matrix_done(&x);
}
