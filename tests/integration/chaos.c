/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Random kills. Clients (processes) mount, write with checksums, verify, unmount in random order, alone and sharing volumes, and give
 * requests up in the middle, while berthd and its mounters get SIGKILL at random times. After each kill: no target mounted
 * twice, no image with two devices. Every so many kills the clients pause, and kernel and records must tell the same, to the last file.
 * The driver is the one that storage.h finds in the environment.
 * Data is verified at every mount, and the UUID of each file system that berth made: formatted twice would be another.
 *
 * BERTH_CHAOS="kills=N seed=S clients=C pause=MSEC check=K" in the environment chooses (tests/chaos does): pause is the longest time between
 * two kills, check after how many everybody pauses. What happened is written into shared memory; a failure prints the seed and the end
 * of that. The seed fixes what everybody wants to do, not how fast they are at it.
 */

#include <criterion/criterion.h>

#include "storage.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "fixture/internal.h"

#define CLIENTS_MAX 64U
#define SHARED_VOLUMES 4U
#define SLOTS (SHARED_VOLUMES + 1U) /* a client's volumes: the shared ones and its own */
#define OWN SHARED_VOLUMES
#define IMAGE_SIZE (8U << 20)
#define PAYLOAD 16384U
#define HISTORY_MAX 8192U
#define HISTORY_SHOWN 300U
#define CALL_SECONDS 240.0
#define SETTLE_SECONDS 30.0
#define KILLS_A_CHECK 10U
#define PAUSE_MSEC 120U
#define KILLS_A_LINE 500U
#define AGENT_CONFIG "[Agent]\nLingerSec=1\n"

typedef enum OwnKind {
        OWN_FORMATTED, /* a file system from before */
        OWN_BLANK,     /* a blank image each time: formatted by the first mount */
        OWN_MISSING,   /* made by the first mount, where the driver does that */
        _OWN_KIND_MAX,
} OwnKind;

/* What a client has been told, or has written itself, and so may rely on. */
typedef struct Slot {
        bool mounted;
        uint64_t sequence; /* of its file on the volume; 0: none */
        char image[256];
} Slot;

typedef struct Client {
        pid_t pid;
        atomic_bool paused;
        Slot slots[SLOTS];
        uint64_t n_mounts, n_formats;
} Client;

typedef struct World {
        atomic_bool pause, stop, failed;
        atomic_uint n_history;
        unsigned n_clients;
        Client clients[CLIENTS_MAX];
        struct {
                double at;
                char text[200];
        } history[HISTORY_MAX];
        char failure[1024];
} World;

typedef struct Chaos {
        Fixture f;
        const Storage *storage;
        World *w; /* shared with the clients */
        unsigned n_kills, n_clients, pause_msec, kills_a_check;
        uint64_t seed, random;
        double began;
} Chaos;

/* ---- what happened ---- */

static void pause_msec(unsigned msec)
{
        struct timespec ts = { .tv_sec = msec / 1000, .tv_nsec = (long) (msec % 1000) * 1000000 };

        nanosleep(&ts, NULL);
}

static _printf_(2, 3) void note(Chaos *x, const char *text, ...)
{
        unsigned i = atomic_fetch_add(&x->w->n_history, 1) % HISTORY_MAX;
        va_list ap;

        x->w->history[i].at = now_seconds() - x->began;
        va_start(ap, text);
        vsnprintf(x->w->history[i].text, sizeof(x->w->history[i].text), text, ap);
        va_end(ap);
}

/* The first failure counts; everybody stops. */
static _printf_(2, 3) void fail(Chaos *x, const char *text, ...)
{
        va_list ap;

        if (atomic_exchange(&x->w->failed, true))
                return;
        va_start(ap, text);
        vsnprintf(x->w->failure, sizeof(x->w->failure), text, ap);
        va_end(ap);
        note(x, "FAILED: %.180s", x->w->failure);
}

static void print_history(const Chaos *x)
{
        unsigned n = atomic_load(&x->w->n_history);

        for (unsigned i = n > HISTORY_SHOWN ? n - HISTORY_SHOWN : 0; i < n; i++)
                fprintf(stderr, "%9.3f %s\n", x->w->history[i % HISTORY_MAX].at, x->w->history[i % HISTORY_MAX].text);
}

/* ---- a client ---- */

typedef struct Self {
        Chaos *x;
        unsigned number;
        Client *c;
        uint64_t random;
        OwnKind kind;
        uint64_t n_images;
        uint8_t uuid[16];
        bool has_uuid;
} Self;

static void client_end(Self *s)
{
        _exit(atomic_load(&s->x->w->failed) ? 1 : 0);
}

#define CLIENT_FAIL(s, ...)                                                                                  \
        do {                                                                                                 \
                fail((s)->x, __VA_ARGS__);                                                                   \
                client_end(s);                                                                               \
        } while (0)

/* Between two operations: here a check may look. */
static void client_pause(Self *s)
{
        if (atomic_load(&s->x->w->failed))
                client_end(s);
        while (atomic_load(&s->x->w->pause)) {
                atomic_store(&s->c->paused, true);
                pause_msec(1);
                if (atomic_load(&s->x->w->failed))
                        client_end(s);
        }
        atomic_store(&s->c->paused, false);
}

static char *client_target(const Self *s, unsigned slot)
{
        return format("%s/pods/5e4b6f2e-0000-4000-8000-%012u/volumes/berth~loop/v%u", s->x->f.kubelet_root, s->number, slot);
}

/* What a request may be answered with while agents and mounters die. */
static bool is_passing(ErrorCode code)
{
        switch (code) {
        case ERROR_AGENT_UNREACHABLE:
        case ERROR_SHUTTING_DOWN:
        case ERROR_MOUNTER_DIED:
        case ERROR_MOUNTER_UNAVAILABLE:
        case ERROR_IN_PROGRESS:
        case ERROR_LOCKED:
        case ERROR_BUSY:
                return true;
        default:
                return false;
        }
}

static Volume client_volume(const Self *s, unsigned slot)
{
        return (Volume) { .image = s->c->slots[slot].image, .fs_type = "ext4", .params = s->x->storage->params,
                          .size = slot == OWN && s->kind == OWN_MISSING ? "8M" : NULL };
}

static void client_repeat(Self *s, unsigned slot, bool mount)
{
        _cleanup_free_ char *target = client_target(s, slot);
        const char *what = mount ? "mount" : "unmount", *image = s->c->slots[slot].image;
        Volume v = client_volume(s, slot);
        double end = now_seconds() + CALL_SECONDS;
        unsigned n = 0;

        for (;;) {
                _cleanup_free_ char *text = NULL;
                Error err = ERROR_INIT;
                ErrorCode code;

                if (mount)
                        code = try_mount(&s->x->f, target, &v, &text);
                else {
                        code = fixture_unmount(&s->x->f, target, &err);
                        text = TAKE_PTR(err.text);
                        error_done(&err);
                }
                n++;
                if (code == ERROR_NONE)
                        break;
                note(s->x, "client %u: %s v%u: %s: %.100s", s->number, what, slot, error_code_name(code), text);
                if (!is_passing(code))
                        CLIENT_FAIL(s, "client %u: %s of %s: %s: %s", s->number, what, image, error_code_name(code), text);
                if (now_seconds() > end)
                        CLIENT_FAIL(s, "client %u: %s of %s: no success in %.0f s and %u tries", s->number, what, image, CALL_SECONDS, n);
                if (atomic_load(&s->x->w->failed))
                        client_end(s);
                pause_msec((5 + below(&s->random, 40)) * (s->x->pause_msec > PAUSE_MSEC ? 5 : 1)); /* asking takes an emulated processor */
        }
        s->c->slots[slot].mounted = mount;
        s->c->n_mounts += mount;
        note(s->x, "client %u: %sed v%u (%.80s), try %u", s->number, what, slot, strrchr(image, '/') ? strrchr(image, '/') + 1 : image, n);
}

/* Sends the request and dies before the answer, as far as the agent can tell. */
static void client_give_up(Self *s, unsigned slot)
{
        _cleanup_free_ char *target = client_target(s, slot);
        Volume v = client_volume(s, slot);
        _cleanup_mount_params_ MountParams p = volume_params(&v, target);
        uint64_t deadline = now_boottime_usec() + below(&s->random, 40000);
        _cleanup_bus_ sd_bus *bus = NULL;
        Error err = ERROR_INIT;
        int r = client_connect(s->x->f.socket, deadline, &bus, &err);

        if (r >= 0)
                r = client_mount(bus, &p, deadline, NULL, &err);
        note(s->x, "client %u: gave up a mount of v%u (%s)", s->number, slot, r < 0 ? error_code_name(err.code) : "answered");
        error_done(&err);
}

static void payload(const Self *s, unsigned slot, uint64_t sequence, char ret[static PAYLOAD])
{
        uint64_t state = s->x->seed ^ (uint64_t) s->number << 48 ^ (uint64_t) slot << 40 ^ sequence;

        for (size_t i = 0; i < PAYLOAD; i += sizeof(state)) {
                uint64_t word = chance(&state);
                memcpy(ret + i, &word, sizeof(word));
        }
}

/* The file that was written last is there, every byte of it. */
static void client_verify(Self *s, unsigned slot)
{
        _cleanup_free_ char *target = client_target(s, slot), *path = format("%s/c%u", target, s->number), *content = NULL;
        uint64_t sequence = s->c->slots[slot].sequence;
        char wanted[PAYLOAD];
        size_t size = 0;

        if (fixture_count_mounts(target) != 1)
                CLIENT_FAIL(s, "client %u: %s has %u mounts after success", s->number, target, fixture_count_mounts(target));
        if (sequence == 0)
                return;
        int r = read_file_at(AT_FDCWD, path, PAYLOAD + 1, &content, &size);
        if (r < 0)
                CLIENT_FAIL(s, "client %u: %s of v%u is lost: %s", s->number, path, slot, strerror(-r));
        payload(s, slot, sequence, wanted);
        if (size != PAYLOAD || memcmp(content, wanted, PAYLOAD) != 0)
                CLIENT_FAIL(s, "client %u: %s does not hold what was written at %" PRIu64, s->number, path, sequence);
}

static void client_write(Self *s, unsigned slot)
{
        _cleanup_free_ char *target = client_target(s, slot), *path = format("%s/c%u", target, s->number),
                            *temporary = format("%s/c%u.new", target, s->number);
        _cleanup_close_ int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
                            dir_fd = open(target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        uint64_t sequence = s->c->slots[slot].sequence + 1;
        char data[PAYLOAD];

        payload(s, slot, sequence, data);
        if (fd < 0 || dir_fd < 0 || write_full(fd, data, PAYLOAD) < 0 || fsync(fd) < 0 || rename(temporary, path) < 0 || fsync(dir_fd) < 0)
                CLIENT_FAIL(s, "client %u: cannot write %s: %s", s->number, path, strerror(errno));
        s->c->slots[slot].sequence = sequence;
}

/* As the kubelet: a directory before, none afterwards. */
static void client_mount_slot(Self *s, unsigned slot)
{
        _cleanup_free_ char *target = client_target(s, slot);
        int r = mkdir_parents(target, 0750);

        if (r < 0)
                CLIENT_FAIL(s, "client %u: cannot make %s: %s", s->number, target, strerror(-r));
        if (below(&s->random, 8) == 0)
                client_give_up(s, slot);
        if (below(&s->random, 10) == 0)
                return; /* and is unmounted, whatever came of it */
        client_repeat(s, slot, true);
        client_verify(s, slot);
}

static void client_unmount_slot(Self *s, unsigned slot)
{
        _cleanup_free_ char *target = client_target(s, slot);

        client_repeat(s, slot, false);
        if (rmdir(target) < 0)
                CLIENT_FAIL(s, "client %u: %s after its unmount: %s", s->number, target, strerror(errno));
}

/* The UUID in the superblock (struct ext2_super_block) of an image that berth has formatted never changes. */
static void client_check_uuid(Self *s)
{
        const char *image = s->c->slots[OWN].image;
        uint8_t uuid[16];

        if (!s->x->storage->read(image, 1024 + 0x68, uuid, sizeof(uuid)))
                CLIENT_FAIL(s, "client %u: cannot read %s: %s", s->number, image, strerror(errno));
        if (s->has_uuid && memcmp(uuid, s->uuid, sizeof(uuid)) != 0)
                CLIENT_FAIL(s, "client %u: %s was formatted a second time", s->number, image);
        memcpy(s->uuid, uuid, sizeof(uuid));
        s->has_uuid = true;
}

static void client_new_image(Self *s)
{
        Slot *slot = &s->c->slots[OWN];

        slot->sequence = 0;
        s->has_uuid = false;
        _cleanup_free_ char *name = format("own-%u-%" PRIu64, s->number, s->n_images++),
                            *image = s->kind == OWN_MISSING ? s->x->storage->name(&s->x->f, name)
                                                            : s->x->storage->make(&s->x->f, name, IMAGE_SIZE);
        snprintf(slot->image, sizeof(slot->image), "%s", image);
}

static void client_use(Self *s, unsigned slot)
{
        client_mount_slot(s, slot);
        for (unsigned n = below(&s->random, 4); n > 0 && s->c->slots[slot].mounted; n--) {
                client_write(s, slot);
                if (slot == OWN)
                        client_check_uuid(s);
                client_pause(s);
                if (below(&s->random, 4) == 0)
                        client_repeat(s, slot, true);
                client_verify(s, slot);
                pause_msec(below(&s->random, 30));
        }
        if (s->c->slots[slot].mounted) /* else nobody knows yet */
                client_pause(s);
        client_unmount_slot(s, slot);
        client_pause(s);
}

static void client_main(Chaos *x, unsigned number)
{
        Self s = { .x = x, .number = number, .c = &x->w->clients[number], .kind = (OwnKind) (number % _OWN_KIND_MAX) };

        (void) prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (s.kind == OWN_MISSING && !x->storage->makes_images)
                s.kind = OWN_BLANK;
        s.random = x->seed + number * UINT64_C(1000003) + 1;
        while (!atomic_load(&x->w->stop)) {
                client_pause(&s);
                if (below(&s.random, 10) < 4) {
                        client_use(&s, below(&s.random, SHARED_VOLUMES));
                        continue;
                }
                if (s.kind != OWN_FORMATTED)
                        client_new_image(&s);
                for (unsigned n = 1 + below(&s.random, 3); n > 0; n--)
                        client_use(&s, OWN);
                s.c->n_formats += s.has_uuid;
                if (s.kind != OWN_FORMATTED && x->storage->drops_used)
                        x->storage->remove(s.c->slots[OWN].image);
        }
        /* whoever has left is paused for good */
        atomic_store(&s.c->paused, true);
        client_end(&s);
}

static void clients_start(Chaos *x)
{
        fflush(NULL);
        for (unsigned i = 0; i < x->n_clients; i++) {
                pid_t pid = fork();

                cr_assert(pid >= 0, "fork: %s", strerror(errno));
                if (pid == 0)
                        client_main(x, i);
                x->w->clients[i].pid = pid;
        }
}

/* ---- the checks ---- */

typedef struct Check {
        Chaos *x;
        unsigned n_mounts, n_devices, n_images, n_targets;
        const char *images[CLIENTS_MAX * SLOTS]; /* of the volumes that somebody has mounted, each once */
        char *devices[CLIENTS_MAX * SLOTS * 2]; /* the images */
        char device_names[CLIENTS_MAX * SLOTS * 2][16];
        char *found_mounts[CLIENTS_MAX * SLOTS * 2];
        char problem[512];
} Check;

#define PROBLEM(k, ...)                                                                                      \
        do {                                                                                                 \
                if (!*(k)->problem)                                                                          \
                        snprintf((k)->problem, sizeof((k)->problem), __VA_ARGS__);                           \
        } while (0)

static void check_done(Check *k)
{
        for (unsigned i = 0; i < k->n_devices; i++)
                free(k->devices[i]);
        for (unsigned i = 0; i < k->n_mounts; i++)
                free(k->found_mounts[i]);
}

static void found_mount(const char *mount_point, void *arg)
{
        Check *k = arg;

        if (!path_is_below(mount_point, k->x->f.dir) || strcmp(mount_point, k->x->f.runtime_dir) == 0)
                return;
        /* again at this very place: the table is not read in one piece either */
        for (unsigned i = 0; i < k->n_mounts; i++)
                if (strcmp(k->found_mounts[i], mount_point) == 0 && fixture_count_mounts(mount_point) > 1)
                        PROBLEM(k, "%s is mounted twice", mount_point);
        if (k->n_mounts < ELEMENTSOF(k->found_mounts))
                k->found_mounts[k->n_mounts++] = strdup(mount_point);
        else
                PROBLEM(k, "there are more than %u mounts", k->n_mounts);
}

/* A look at all devices takes a while, in which one may go and another come: both at the same time is what counts. */
static bool are_bound_together(const Storage *s, const char *one, const char *other, const char *image)
{
        ino_t before = s->binding(one, image), meanwhile = s->binding(other, image);

        return before != 0 && meanwhile != 0 && s->binding(one, image) == before;
}

static void found_device(const char *name, const char *image, void *arg)
{
        Check *k = arg;

        for (unsigned i = 0; i < k->n_devices; i++)
                if (strcmp(k->devices[i], image) == 0 && are_bound_together(k->x->storage, k->device_names[i], name, image))
                        PROBLEM(k, "%s has two devices, %s and %s", image, k->device_names[i], name);
        if (k->n_devices < ELEMENTSOF(k->devices)) {
                snprintf(k->device_names[k->n_devices], sizeof(k->device_names[0]), "%s", name);
                k->devices[k->n_devices++] = strdup(image);
        } else
                PROBLEM(k, "there are more than %u devices", k->n_devices);
}

/* What must be true at any moment. */
static void check_always(Check *k)
{
        mounts_foreach(found_mount, k);
        k->x->storage->devices(&k->x->f, found_device, k);
}

static bool check_has_image(const Check *k, const char *image)
{
        for (unsigned i = 0; i < k->n_images; i++)
                if (strcmp(k->images[i], image) == 0)
                        return true;
        return false;
}

static bool check_has_mount(const Check *k, const char *mount_point)
{
        for (unsigned i = 0; i < k->n_mounts; i++)
                if (strcmp(k->found_mounts[i], mount_point) == 0)
                        return true;
        return false;
}

/* What the clients were told, against the mount table. */
static void check_targets(Check *k)
{
        for (unsigned c = 0; c < k->x->n_clients; c++)
                for (unsigned i = 0; i < SLOTS; i++) {
                        Self s = { .x = k->x, .number = c };
                        const Slot *slot = &k->x->w->clients[c].slots[i];
                        _cleanup_free_ char *target = client_target(&s, i);

                        if (slot->mounted != check_has_mount(k, target))
                                PROBLEM(k, "%s is %smounted", target, slot->mounted ? "not " : "");
                        k->n_targets += slot->mounted;
                        if (slot->mounted && !check_has_image(k, slot->image))
                                k->images[k->n_images++] = slot->image;
                }
        if (k->n_mounts != k->n_targets + k->n_images)
                PROBLEM(k, "there are %u mounts for %u targets and %u volumes", k->n_mounts, k->n_targets, k->n_images);
        for (unsigned i = 0; i < k->n_devices; i++)
                if (!check_has_image(k, k->devices[i]))
                        PROBLEM(k, "%s is attached and nobody has it mounted", k->devices[i]);
        if (k->n_devices != k->n_images)
                PROBLEM(k, "there are %u devices for %u volumes", k->n_devices, k->n_images);
}

static unsigned count_publishes(Check *k, const char *path)
{
        json_error_t e;
        _cleanup_json_ json_t *record = json_load_file(path, 0, &e);
        const char *image = json_string_value(json_object_get(json_object_get(record, "source"), k->x->storage->source_key));
        const char *state = json_string_value(json_object_get(record, "state")), *step = json_string_value(json_object_get(record, "step"));
        json_t *publishes = json_object_get(record, "publishes"), *publish; /* the record's */
        size_t i;

        if (!record || !image || !state || !step) {
                PROBLEM(k, "the record %s: %s", path, record ? "not complete" : e.text);
                return 0;
        }
        if (strcmp(state, "staged") != 0 || *step || !check_has_image(k, image))
                PROBLEM(k, "the record %s of %s says '%s', step '%s'", path, image, state, step);
        json_array_foreach (publishes, i, publish) {
                const char *target = json_string_value(json_object_get(publish, "target"));
                if (!target || !check_has_mount(k, target))
                        PROBLEM(k, "the record %s names %s, which is not mounted", path, target ? target : "no target");
        }
        return (unsigned) json_array_size(publishes);
}

/* The entries of a directory, none of which may be of another sort than it should; records are looked into. */
static unsigned check_directory(Check *k, const char *base, const char *name, unsigned *ret_publishes)
{
        _cleanup_free_ char *dir = format("%s/%s", base, name);
        _cleanup_closedir_ DIR *d = opendir(dir);
        unsigned n = 0;

        for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
                _cleanup_free_ char *path = format("%s/%s", dir, e->d_name);

                if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
                        continue;
                n++;
                if (ret_publishes)
                        *ret_publishes += count_publishes(k, path);
        }
        return n;
}

static void check_files(Check *k)
{
        unsigned n_publishes = 0, n_records = check_directory(k, k->x->f.runtime_dir, "volumes", &n_publishes),
                 n_locks = check_directory(k, k->x->f.runtime_dir, "locks", NULL),
                 n_stages = check_directory(k, k->x->f.runtime_dir, "staging", NULL),
                 n_intents = check_directory(k, k->x->f.state_dir, "formats", NULL);

        if (n_records != k->n_images || n_publishes != k->n_targets)
                PROBLEM(k, "there are %u records with %u publishes for %u volumes at %u targets", n_records, n_publishes, k->n_images,
                        k->n_targets);
        if (n_stages != k->n_images)
                PROBLEM(k, "there are %u staging directories for %u volumes", n_stages, k->n_images);
        if (n_locks > k->n_images)
                PROBLEM(k, "there are %u lock files for %u volumes", n_locks, k->n_images);
        /* an intent belongs to an image whose first mount was cut short; the image may be gone by now */
        if (n_intents > 0)
                note(k->x, "%u intents", n_intents);
}

/* While the clients pause: everything must come to agree. */
static bool check_all(Chaos *x, char *ret_problem, size_t size)
{
        unsigned pause = 5; /* a look may be dear, and what is still there may be so for seconds */

        for (double end = now_seconds() + SETTLE_SECONDS;; pause += pause < 200 ? pause / 4 : 0) {
                Check k = { .x = x };

                check_always(&k);
                check_targets(&k);
                check_files(&k);
                check_done(&k);
                _cleanup_free_ char *stray = *k.problem ? NULL : x->storage->stray(&x->f);
                if (stray)
                        PROBLEM(&k, "there is %s", stray);
                if (!*k.problem)
                        return true;
                if (now_seconds() > end) {
                        snprintf(ret_problem, size, "%s", k.problem);
                        return false;
                }
                pause_msec(pause);
        }
}

static void chaos_check_quiet(Chaos *x)
{
        double end = now_seconds() + CALL_SECONDS;
        char problem[512];

        atomic_store(&x->w->pause, true);
        for (unsigned i = 0; i < x->n_clients && !atomic_load(&x->w->failed);) {
                if (atomic_load(&x->w->clients[i].paused))
                        i++;
                else if (now_seconds() > end)
                        fail(x, "client %u does not come to rest", i);
                else
                        pause_msec(1);
        }
        note(x, "all quiet");
        if (!atomic_load(&x->w->failed) && !check_all(x, problem, sizeof(problem)))
                fail(x, "%.0f s after everybody stopped, %s", SETTLE_SECONDS, problem);
        atomic_store(&x->w->pause, false);
}

/* ---- the killer ---- */

typedef struct Victims {
        const Chaos *x;
        pid_t pids[256];
        unsigned n;
} Victims;

/* A mounter of the agent, or one that has outlived its agent and is ours now. */
static void collect_mounter(pid_t pid, void *arg)
{
        Victims *v = arg;
        pid_t parent, session;
        char name[64], state;

        if (process_stat(pid, &parent, &session, &state, name) && state != 'Z' && strncmp(name, "mounter-", 8) == 0 &&
            strcmp(name + 8, v->x->storage->driver) == 0 &&
            (parent == v->x->f.agent || parent == getpid()) && v->n < ELEMENTSOF(v->pids))
                v->pids[v->n++] = pid;
}

static void kill_mounters(Chaos *x, bool all)
{
        Victims v = { .x = x };

        processes_foreach(collect_mounter, &v);
        if (v.n == 0)
                return;
        unsigned one = below(&x->random, v.n);
        for (unsigned i = 0; i < v.n; i++)
                if (all || i == one)
                        kill(v.pids[i], SIGKILL);
        note(x, "KILL %u of %u mounters", all ? v.n : 1, v.n);
}

static bool is_awaited(const Chaos *x, pid_t pid)
{
        for (unsigned i = 0; i < x->n_clients; i++)
                if (pid == x->w->clients[i].pid)
                        return true;
        return pid == x->f.agent;
}

/* What outlived its berthd became ours. 10,000 kills leave more of them than there are process IDs. */
static void reap_orphans(Chaos *x)
{
        siginfo_t si = {};

        while (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) >= 0 && si.si_pid != 0 && !is_awaited(x, si.si_pid)) {
                (void) waitpid(si.si_pid, NULL, WNOHANG);
                si = (siginfo_t) {};
        }
}

static void kill_agent(Chaos *x)
{
        note(x, "KILL berthd");
        fixture_stop(&x->f, SIGKILL);
}

/*
 * By default kills come thick and fast. Where a mount takes seconds most do so too, so that what comes back is killed again, and one of eight leaves it the
 * time that was asked for.
 */
static unsigned chaos_pause(Chaos *x)
{
        bool brief = x->pause_msec > PAUSE_MSEC && below(&x->random, 8) != 0;

        return below(&x->random, brief ? x->pause_msec / 30 : x->pause_msec);
}

static void chaos_kill(Chaos *x)
{
        Check k = { .x = x };
        unsigned what = below(&x->random, 100);

        if (what < 45)
                kill_agent(x);
        else if (what < 80)
                kill_mounters(x, false);
        else if (what < 90)
                kill_mounters(x, true);
        else {
                kill_mounters(x, true);
                kill_agent(x);
        }
        check_always(&k);
        check_done(&k);
        if (*k.problem)
                fail(x, "right after a kill %s", k.problem);
        if (x->f.agent == 0) {
                pause_msec(below(&x->random, 30)); /* systemd takes its time as well */
                storage_start(x->storage, &x->f, AGENT_CONFIG);
                note(x, "berthd is back");
        }
}

/* ---- the test ---- */

static void read_choice(Chaos *x)
{
        const char *choice = getenv("BERTH_CHAOS"), *p;
        struct timespec ts;

        clock_gettime(CLOCK_REALTIME, &ts);
        x->n_kills = choice && (p = strstr(choice, "kills=")) ? (unsigned) atoi(p + 6) : 500;
        x->n_clients = choice && (p = strstr(choice, "clients=")) ? (unsigned) atoi(p + 8) : 16;
        x->pause_msec = choice && (p = strstr(choice, "pause=")) ? (unsigned) atoi(p + 6) : PAUSE_MSEC;
        x->kills_a_check = choice && (p = strstr(choice, "check=")) ? (unsigned) atoi(p + 6) : KILLS_A_CHECK;
        if (x->kills_a_check == 0)
                x->kills_a_check = 1;
        if (x->pause_msec == 0)
                x->pause_msec = 1;
        x->seed = choice && (p = strstr(choice, "seed=")) ? strtoull(p + 5, NULL, 0) : (uint64_t) ts.tv_nsec ^ (uint64_t) ts.tv_sec << 30;
        if (x->n_clients == 0 || x->n_clients > CLIENTS_MAX)
                x->n_clients = CLIENTS_MAX;
        x->random = x->seed;
}

static void make_volumes(Chaos *x)
{
        for (unsigned i = 0; i < SHARED_VOLUMES + x->n_clients; i++) {
                bool shared = i < SHARED_VOLUMES;
                _cleanup_free_ char *name = shared ? format("shared-%u", i) : format("own-%u", i - SHARED_VOLUMES), *image = NULL;

                if (!shared && (i - SHARED_VOLUMES) % _OWN_KIND_MAX != OWN_FORMATTED)
                        continue;
                image = storage_make_formatted(x->storage, &x->f, name, IMAGE_SIZE, "ext4", NULL);
                for (unsigned c = 0; c < x->n_clients; c++)
                        if (shared || c == i - SHARED_VOLUMES) {
                                Slot *slot = &x->w->clients[c].slots[shared ? i : OWN];
                                snprintf(slot->image, sizeof(slot->image), "%s", image);
                        }
        }
}

/* When all have unmounted. A watcher that died is listed for a while. */
static bool chaos_is_clean(Chaos *x, char *ret_problem, size_t size)
{
        for (double end = now_seconds() + SETTLE_SECONDS;;) {
                _cleanup_free_ char *what = NULL;

                if (storage_all_clean(x->storage, &x->f, &what))
                        return true;
                if (now_seconds() > end) {
                        snprintf(ret_problem, size, "%s", what);
                        return false;
                }
                pause_msec(20);
        }
}

static void clients_end(Chaos *x)
{
        atomic_store(&x->w->stop, true);
        for (unsigned i = 0; i < x->n_clients; i++) {
                int status;

                while (waitpid(x->w->clients[i].pid, &status, 0) < 0 && errno == EINTR)
                        ;
                if (status != 0)
                        fail(x, "client %u ended with wait status %#x", i, (unsigned) status);
        }
}

TestSuite(chaos);

Test(chaos, random_kills)
{
        Chaos x = {};
        uint64_t n_mounts = 0, n_formats = 0;
        char problem[512];

        read_choice(&x);
        fixture_init(&x.f);
        x.storage = storage_begin(&x.f);
        cr_assert(!x.storage->is_share, "the random kills look at devices and file systems, of which driver %s has none", x.storage->driver);
        (void) alarm(120 + x.n_kills * (2 + x.pause_msec / 100)); /* the fixture's own limit is for tests of seconds */
        x.w = mmap(NULL, sizeof(World), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        cr_assert(x.w != MAP_FAILED, "mmap: %s", strerror(errno));
        x.began = now_seconds();
        make_volumes(&x);
        storage_start(x.storage, &x.f, AGENT_CONFIG);
        clients_start(&x);
        for (unsigned i = 1; i <= x.n_kills && !atomic_load(&x.w->failed); i++) {
                pause_msec(chaos_pause(&x));
                chaos_kill(&x);
                if (i % x.kills_a_check == 0)
                        chaos_check_quiet(&x);
                reap_orphans(&x);
                if (i % KILLS_A_LINE == 0)
                        fprintf(stderr, "%u of %u kills, seed %" PRIu64 ", %.0f s\n", i, x.n_kills, x.seed, now_seconds() - x.began);
        }
        clients_end(&x);
        chaos_check_quiet(&x);
        if (!atomic_load(&x.w->failed) && !chaos_is_clean(&x, problem, sizeof(problem)))
                fail(&x, "%.0f s after everybody left there still is %s", SETTLE_SECONDS, problem);
        for (unsigned i = 0; i < x.n_clients; i++) {
                n_mounts += x.w->clients[i].n_mounts;
                n_formats += x.w->clients[i].n_formats;
        }
        fprintf(stderr, "%u kills, %u clients, seed %" PRIu64 ": %" PRIu64 " mounts, %" PRIu64 " file systems made, %.0f s\n", x.n_kills,
                x.n_clients, x.seed, n_mounts, n_formats, now_seconds() - x.began);
        if (atomic_load(&x.w->failed))
                print_history(&x);
        cr_assert(!atomic_load(&x.w->failed), "seed %" PRIu64 ": %s", x.seed, x.w->failure);
        fixture_done(&x.f);
}
