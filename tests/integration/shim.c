/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The FlexVolume driver as a process: the contract with the kubelet, whatever state the agent and the process' own
 * descriptors are in; then all recorded calls of a real kubelet against a real agent.
 */

#include <criterion/criterion.h>

#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/fd.h"
#include "fixture/fixture.h"
#include "protocol/names.h"

extern char **environ;

#define SECRET "aHVudGVyMi1odW50ZXIy"
#define SECRET_JSON                                                                                          \
        "{\"path\":\"/nonexistent\",\"kubernetes.io/secret/key\":\"" SECRET "\","                            \
        "\"kubernetes.io/readwrite\":\"rw\",\"kubernetes.io/fsType\":\"\"}"

static const char *status_of(const json_t *reply)
{
        return json_string_value(json_object_get(reply, "status"));
}

static const char *message_of(const json_t *reply)
{
        const char *s = json_string_value(json_object_get(reply, "message"));

        return s ? s : "";
}

/* Calls and asserts the status; the message must have `text` in it (NULL: whatever it is). */
static void expect(Fixture *f, char *const *args, const char *status, const char *text)
{
        json_t *reply = shim(f, args);

        cr_assert_str_eq(status_of(reply), status, "%s: %s, not %s: %s", args[0], status_of(reply), status, message_of(reply));
        cr_assert(!text || strstr(message_of(reply), text), "%s: '%s' does not tell '%s'", args[0], message_of(reply), text);
        json_decref(reply);
}
#define EXPECT(f, status, text, ...) expect(f, (char *[]) { __VA_ARGS__, NULL }, status, text)

static char *driver_path(Fixture *f)
{
        char *path = NULL;

        cr_assert(asprintf(&path, "%s/plugins/berth~loop/loop", f->dir) > 0);
        return path;
}

/* A shim that runs beside the test: its standard output and error are one socket, each write one message. */
typedef struct Running {
        pid_t pid;
        int fd;
} Running;

static Running shim_start(Fixture *f, char *const *args)
{
        _cleanup_free_ char *path = driver_path(f);
        char *argv[8] = { path };
        posix_spawn_file_actions_t actions;
        Running s = { .fd = -EBADF };
        int pair[2];

        for (size_t i = 0; args[i]; i++)
                argv[i + 1] = args[i];
        cr_assert(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) >= 0);
        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, pair[1], 1);
        posix_spawn_file_actions_adddup2(&actions, pair[1], 2);
        cr_assert_eq(posix_spawn(&s.pid, path, &actions, NULL, argv, environ), 0);
        posix_spawn_file_actions_destroy(&actions);
        close(pair[1]);
        s.fd = pair[0];
        return s;
}

/* Waits for its end; asserts one write with one JSON value and exit status 0. */
static json_t *shim_end(Running *s)
{
        char buffer[65536], rest[16];
        json_error_t e;
        int status;
        ssize_t n = recv(s->fd, buffer, sizeof(buffer), 0);

        cr_assert_gt(n, 0, "no answer");
        cr_assert_eq(recv(s->fd, rest, sizeof(rest), 0), 0, "it wrote more than once");
        cr_assert_eq(waitpid(s->pid, &status, 0), s->pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %#x", (unsigned) status);
        close(s->fd);

        json_t *reply = json_loadb(buffer, (size_t) n, JSON_REJECT_DUPLICATES, &e);
        cr_assert(json_is_object(reply), "%s: %.*s", e.text, (int) n, buffer);
        return reply;
}

static void expect_failure(Running *s, const char *text)
{
        json_t *reply = shim_end(s);

        cr_assert_str_eq(status_of(reply), "Failure");
        cr_assert(strstr(message_of(reply), text), "'%s' does not tell '%s'", message_of(reply), text);
        json_decref(reply);
}

/* A socket in the agent's place that takes connections and says nothing. */
static int silent_agent(Fixture *f)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        snprintf(address.sun_path, sizeof(address.sun_path), "%s", f->socket);
        cr_assert(fd >= 0 && bind(fd, (struct sockaddr *) &address, sizeof(address)) >= 0 && listen(fd, 8) >= 0);
        return fd;
}

static int accept_shim(int listener)
{
        struct pollfd p = { .fd = listener, .events = POLLIN };

        cr_assert_eq(poll(&p, 1, 20000), 1, "the shim did not connect");
        return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

Test(shim, agent_down)
{
        Fixture f;
        fixture_init(&f);
        double start = now_seconds();
        const char *unreachable = "io.berth.Error.AgentUnreachable";
        char host[256] = "";

        gethostname(host, sizeof(host) - 1);
        setenv(BERTH_CONFIG_ENV, f.config, 1);
        EXPECT(&f, "Success", NULL, "init");
        EXPECT(&f, "Failure", unreachable, "mount", "/dir", "{}");
        EXPECT(&f, "Failure", unreachable, "unmount", "/dir");
        EXPECT(&f, "Failure", unreachable, "mountdevice", "/dir", "/dev/loop0", "{}");
        EXPECT(&f, "Failure", unreachable, "unmountdevice", "/dir");
        EXPECT(&f, "Failure", unreachable, "attach", "{\"kubernetes.io/pvOrVolumeName\":\"v\"}", host);
        EXPECT(&f, "Failure", unreachable, "isattached", "{\"kubernetes.io/pvOrVolumeName\":\"v\"}", host);
        EXPECT(&f, "Failure", unreachable, "waitforattach", "/dev/loop0", "{}");
        EXPECT(&f, "Failure", unreachable, "detach", "v", host);
        EXPECT(&f, "Failure", unreachable, "expandfs", "{}", "/dev/loop0", "/dir", "100", "10");
        EXPECT(&f, "Success", NULL, "expandvolume", "{}", "/dir", "100", "10");
        EXPECT(&f, "Success", NULL, "attach", "{}", "another-node");
        EXPECT(&f, "Success", NULL, "waitforattach", "", "{}");
        EXPECT(&f, "Success", NULL, "detach", "v", "another-node");
        EXPECT(&f, "Not supported", NULL, "getvolumename", "{}");
        EXPECT(&f, "Not supported", NULL, "no-such-call");
        EXPECT(&f, "Failure", "\\xff", "expandfs", "{}", "/dev/loop0", "/dir", "\xff", "10");
        cr_assert_lt(now_seconds() - start, 30, "17 calls took too long");
        fixture_done(&f);
}

/* The texts may come from anywhere: the answer is JSON nevertheless. */
Test(shim, hostile_arguments)
{
        Fixture f;
        fixture_init(&f);
        static char huge[REQUEST_JSON_MAX - 1], deep[REQUEST_JSON_MAX - 1];
        const char *invalid = "io.berth.Error.InvalidArgument";

        memset(huge, 'x', sizeof(huge) - 1);
        memset(deep, '[', sizeof(deep) - 1);
        EXPECT(&f, "Failure", invalid, "mount", "/dir", huge);
        EXPECT(&f, "Failure", "nested too deeply", "mount", "/dir", deep);
        EXPECT(&f, "Failure", "twice", "mount", "/dir", "{\"a\":\"1\",\"a\":\"2\"}");
        EXPECT(&f, "Failure", "NUL", "mount", "/dir", "{\"a\":\"\\u0000\"}");
        EXPECT(&f, "Failure", "UTF-8", "mount", "/dir", "{\"a\":\"\xff\"}");
        EXPECT(&f, "Failure", "'a' is not a string", "mount", "/dir", "{\"a\":{\"b\":[]}}");
        EXPECT(&f, "Failure", "'kubernetes.io/secret/k'", "mount", "/dir", "{\"kubernetes.io/secret/k\":\"%%%\"}");
        EXPECT(&f, "Failure", invalid, "mount", "", "");
        EXPECT(&f, "Failure", "2 arguments", "mount", huge);
        EXPECT(&f, "Not supported", NULL, huge, huge);
        fixture_done(&f);
}

Test(shim, arguments_are_overwritten)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_close_ int listener = silent_agent(&f);
        Running s = shim_start(&f, (char *[]) { "mount", "/some/target", SECRET_JSON, NULL });
        int connection = accept_shim(listener);
        _cleanup_free_ char *path = NULL, *content = NULL;
        size_t size = 0;

        cr_assert(asprintf(&path, "/proc/%d/cmdline", s.pid) > 0);
        cr_assert(read_file_at(AT_FDCWD, path, 1 << 20, &content, &size) >= 0);
        for (size_t i = 0; i < size; i++)
                cr_assert_eq(content[i], 0, "the command line still has something at byte %zu of %zu", i, size);

        kill(s.pid, SIGTERM);
        expect_failure(&s, "io.berth.Error.InProgress");
        close(connection);
        fixture_done(&f);
}

/* A core dump would have the secrets, and so would another process of the user. */
Test(shim, not_dumpable)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_close_ int listener = silent_agent(&f);
        Running s = shim_start(&f, (char *[]) { "mount", "/some/target", SECRET_JSON, NULL });
        int connection = accept_shim(listener);
        char path[64];
        struct stat st;

        /* not dumpable: its files belong to root, whoever runs it, and may be read with capabilities only */
        snprintf(path, sizeof(path), "/proc/%d/environ", s.pid);
        cr_assert(stat(path, &st) >= 0 && st.st_uid == 0);
        pid_t child = fork();
        if (child == 0) {
                if (setresuid(65534, 65534, 65534) < 0)
                        _exit(2);
                int fd = open(path, O_RDONLY);
                _exit(fd < 0 && errno == EACCES ? 0 : 1);
        }
        int status;
        waitpid(child, &status, 0);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);

        kill(s.pid, SIGTERM);
        expect_failure(&s, "io.berth.Error.InProgress");
        close(connection);
        fixture_done(&f);
}

Test(shim, deadline)
{
        Fixture f;
        fixture_init(&f);
        setenv(BERTH_TIMEOUT_ENV, "1", 1);

        /* the agent takes no notice at all */
        _cleanup_close_ int listener = silent_agent(&f);
        double start = now_seconds();
        Running s = shim_start(&f, (char *[]) { "mount", "/some/target", SECRET_JSON, NULL });
        int connection = accept_shim(listener);
        json_t *reply = shim_end(&s);
        double took = now_seconds() - start;
        cr_assert_str_eq(status_of(reply), "Failure");
        cr_assert(took > 0.9 && took < 5, "answered after %.3f s", took);
        json_decref(reply);
        close(connection);

        /* it only ever shortens */
        setenv(BERTH_TIMEOUT_ENV, "100000", 1);
        s = shim_start(&f, (char *[]) { "unmount", "/some/target", NULL });
        connection = accept_shim(listener);
        kill(s.pid, SIGTERM);
        expect_failure(&s, "io.berth.Error.InProgress");
        close(connection);
        fixture_done(&f);
}

/* All mounters of the agent at once: a step begun now does not end before they are let go on. */
static void signal_mounters(Fixture *f, int signal)
{
        _cleanup_free_ char *path = NULL, *children = NULL;
        char *save = NULL;
        unsigned n = 0;

        cr_assert(asprintf(&path, "/proc/%d/task/%d/children", f->agent, f->agent) > 0);
        children = read_text(path);
        for (char *pid = strtok_r(children, " ", &save); pid; pid = strtok_r(NULL, " ", &save), n++)
                cr_assert(kill(atoi(pid), signal) >= 0);
        cr_assert_gt(n, 0, "the agent has no warm mounter");
}

/* The work takes longer than the kubelet waits: that is told, and a repeat joins it. */
Test(shim, deadline_with_work_in_progress)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "a", 64 << 20), *json = NULL;

        cr_assert(asprintf(&json, "{\"path\":\"%s\"}", image) > 0);
        signal_mounters(&f, SIGSTOP);
        setenv(BERTH_TIMEOUT_ENV, "1", 1);
        double start = now_seconds();
        EXPECT(&f, "Failure", "io.berth.Error.InProgress", "mount", target, json);
        double took = now_seconds() - start;
        cr_assert(took > 0.9 && took < 5, "answered after %.3f s", took);

        signal_mounters(&f, SIGCONT);
        unsetenv(BERTH_TIMEOUT_ENV);
        EXPECT(&f, "Success", NULL, "mount", target, json);
        cr_assert_eq(fixture_count_mounts(target), 1);
        EXPECT(&f, "Success", NULL, "unmount", target);
        fixture_done(&f);
}

Test(shim, deadline_with_stopped_agent)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v");

        setenv(BERTH_TIMEOUT_ENV, "1", 1);
        EXPECT(&f, "Success", NULL, "unmount", target);
        kill(f.agent, SIGSTOP);
        double start = now_seconds();
        EXPECT(&f, "Failure", NULL, "unmount", target);
        double took = now_seconds() - start;
        kill(f.agent, SIGCONT);
        cr_assert(took > 0.9 && took < 5, "answered after %.3f s", took);
        fixture_done(&f);
}

Test(shim, signals)
{
        static const int signals[] = { SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXCPU };
        Fixture f;
        fixture_init(&f);
        _cleanup_close_ int listener = silent_agent(&f);

        for (size_t i = 0; i < ELEMENTSOF(signals); i++) {
                Running s = shim_start(&f, (char *[]) { "mount", "/some/target", SECRET_JSON, NULL });
                int connection = accept_shim(listener);
                kill(s.pid, SIGPIPE);
                kill(s.pid, SIGUSR1);
                kill(s.pid, signals[i]);
                expect_failure(&s, "io.berth.Error.InProgress");
                close(connection);
        }
        fixture_done(&f);
}

/* Runs it through sh, with whatever that does to descriptors; the exit status must be 0. */
static char *through_shell(Fixture *f, const char *script)
{
        _cleanup_free_ char *path = driver_path(f);
        char *out;

        int status = run((char *[]) { "sh", "-c", (char *) script, path, NULL }, &out, NULL);
        cr_assert_eq(status, 0, "%s: status %d", script, status);
        return out;
}

Test(shim, odd_descriptors)
{
        Fixture f;
        fixture_init(&f);
        static const char *const scripts[] = {
                "\"$0\" init <&-",
                "\"$0\" init 2>&-",
                "\"$0\" init <&- 2>&-",
                "\"$0\" unmount /dir <&- 2>&-",
                "\"$0\" init 2>&1",
                "\"$0\" mount /dir '{' 2>&1",
        };

        for (size_t i = 0; i < ELEMENTSOF(scripts); i++) {
                _cleanup_free_ char *out = through_shell(&f, scripts[i]);
                json_error_t e;
                json_t *reply = json_loads(out, JSON_REJECT_DUPLICATES, &e);

                cr_assert(json_is_object(reply), "%s: %s", scripts[i], out);
                json_decref(reply);
        }
        /* nowhere to write to: still no signal, and no other exit status */
        _cleanup_free_ char *none = through_shell(&f, "\"$0\" init >&-"),
                            *closed = through_shell(&f, "{ \"$0\" init; echo $? >&2; } 2>&1 >/dev/full"),
                            *pipe = through_shell(&f, "{ sleep 0.2; \"$0\" init; echo $? >&2; } 2>&1 1>/dev/null | cat");
        cr_assert_str_eq(none, "");
        cr_assert_str_eq(closed, "0\n");
        cr_assert_str_eq(pipe, "0\n");
        fixture_done(&f);
}

Test(shim, broken_configuration)
{
        Fixture f;
        fixture_init(&f);

        write_text(f.config, "[FlexVolume\nAttach=maybe\n");
        setenv(BERTH_CONFIG_ENV, f.config, 1);
        EXPECT(&f, "Success", NULL, "init");
        EXPECT(&f, "Failure", f.config, "attach", "{}", "a-node");

        write_text(f.config, "[FlexVolume]\nAttach=yes\nNodeName=a-node\n");
        json_t *reply = SHIM(&f, "init");
        cr_assert(json_is_true(json_object_get(json_object_get(reply, "capabilities"), "attach")));
        json_decref(reply);
        EXPECT(&f, "Failure", "io.berth.Error.AgentUnreachable", "attach", "{}", "A-Node");
        EXPECT(&f, "Success", NULL, "attach", "{}", "b-node");

        /* [Paths] Socket= counts where the environment does not name one */
        unsetenv(BERTH_SOCKET_ENV);
        write_text(f.config, "[Paths]\nSocket=/nonexistent/elsewhere.sock\n");
        EXPECT(&f, "Failure", "/nonexistent/elsewhere.sock", "unmount", "/dir");
        fixture_done(&f);
}

/* ---- the recorded calls ---- */

typedef struct Replay {
        Fixture *f;
        bool attach;     /* attach:true */
        bool by_hand;    /* something was unmounted without berth */
        json_t *states;  /* pid of a call: what its target was then */
        char **targets;  /* mounted by the replay and not yet unmounted */
        char **unmounted; /* targets that were unmounted, or tried to be, at least once */
        char *device;    /* what attach answered last */
        char *attached;  /* the name it was for */
        unsigned n_calls, n_mounts, n_unmounts;
} Replay;

/* Replaces each `from` in s (which is freed). */
static char *substitute(char *s, const char *from, const char *to)
{
        for (char *at; (at = strstr(s, from));) {
                char *out = NULL;
                cr_assert(asprintf(&out, "%.*s%s%s", (int) (at - s), s, to, at + strlen(from)) >= 0);
                free(s);
                s = out;
        }
        return s;
}

static char *translate_path(Replay *r, const char *path)
{
        static const char root[] = "/var/lib/kubelet/";
        char *s = NULL;

        cr_assert_eq(strncmp(path, root, strlen(root)), 0, "%s", path);
        cr_assert(asprintf(&s, "%s/%s", r->f->kubelet_root, path + strlen(root)) > 0);
        s = substitute(s, "/volumes/lab~flex/", "/volumes/berth~loop/");
        s = substitute(s, "/volumes/lab~att/", "/volumes/berth~loop/");
        return substitute(s, "/flexvolume/lab/att/", "/flexvolume/berth/loop/");
}

/* The recorded driver's options become the loop driver's. */
static char *translate_options(Replay *r, const char *json)
{
        static const char *const others[] = { "empty", "lsep", "special", "tab", "image" };
        json_error_t e;
        json_t *options = json_loads(json, 0, &e);
        const char *image = json_string_value(json_object_get(options, "image"));

        cr_assert_not_null(options, "%s", e.text);
        if (image) {
                json_object_set_new(options, "path", json_sprintf("%s/%s.img", r->f->image_dir, image));
                json_object_set_new(options, "size", json_string("32M"));
        }
        for (size_t i = 0; i < ELEMENTSOF(others); i++)
                json_object_del(options, others[i]);
        char *s = json_dumps(options, JSON_COMPACT);
        json_decref(options);
        return s;
}

static char *translate(Replay *r, const char *argument)
{
        if (argument[0] == '{')
                return translate_options(r, argument);
        if (strncmp(argument, "/dev/", 5) == 0)
                return strdup(r->device ? r->device : argument);
        if (argument[0] == '/')
                return translate_path(r, argument);
        return strdup(argument);
}

static void unmount_by_hand(Replay *r, const char *target)
{
        for (; fixture_count_mounts(target) > 0; r->by_hand = true)
                cr_assert(umount2(target, MNT_DETACH) >= 0, "%s: %s", target, strerror(errno));
}

/* Brings the target into the state it had when the kubelet called. */
static void prepare_target(Replay *r, const char *call, const char *target, const char *state)
{
        bool mount_call = strncmp(call, "mount", 5) == 0;

        if (strcmp(state, "dir") == 0)
                unmount_by_hand(r, target);
        cr_assert(mkdir_parents(target, 0750) >= 0);
        /* mounted by somebody else before berth ever heard of it */
        if (strcmp(state, "mountpoint") == 0 && !mount_call && fixture_count_mounts(target) == 0 &&
            !strv_contains(r->unmounted, target))
                cr_assert(mount("tmpfs", target, "tmpfs", 0, "size=1M") >= 0);
}

static void after_mount(Replay *r, const char *target)
{
        cr_assert_eq(fixture_count_mounts(target), 1, "%s has %u mounts", target, fixture_count_mounts(target));
        if (!strv_contains(r->targets, target))
                cr_assert(strv_append(&r->targets, target) >= 0);
        r->n_mounts++;
}

/* The kubelet removes the directory: it must be free and empty. */
static void after_unmount(Replay *r, const char *target)
{
        cr_assert_eq(fixture_count_mounts(target), 0, "%s is still mounted", target);
        cr_assert(rmdir(target) >= 0, "%s: %s", target, strerror(errno));
        strv_remove(r->targets, target);
        cr_assert(strv_append(&r->unmounted, target) >= 0);
        r->n_unmounts++;
}

static void after_attach(Replay *r, const json_t *reply, char *const *args)
{
        json_error_t e;
        const char *device = json_string_value(json_object_get(reply, "device"));

        cr_assert(device && strncmp(device, "/dev/loop", 9) == 0, "device %s", device);
        if (strcmp(args[0], "waitforattach") == 0) {
                cr_assert_str_eq(device, args[1], "waitforattach answers another device than attach did");
                return;
        }
        json_t *options = json_loads(args[1], 0, &e);
        cr_assert(str_replace(&r->device, device) >= 0);
        cr_assert(str_replace(&r->attached, json_string_value(json_object_get(options, "kubernetes.io/pvOrVolumeName"))) >= 0);
        json_decref(options);
}

static void after_call(Replay *r, const json_t *reply, char *const *args)
{
        const char *call = args[0];

        if (strcmp(call, "init") == 0)
                cr_assert_eq(json_is_true(json_object_get(json_object_get(reply, "capabilities"), "attach")), r->attach);
        else if (strncmp(call, "mount", 5) == 0)
                after_mount(r, args[1]);
        else if (strncmp(call, "unmount", 7) == 0)
                after_unmount(r, args[1]);
        else if (strcmp(call, "attach") == 0 || strcmp(call, "waitforattach") == 0)
                after_attach(r, reply, args);
        else if (strcmp(call, "detach") == 0)
                cr_assert(str_replace(&r->attached, NULL) >= 0);
}

/* Two volumes of one name: the kubelet takes them for one. The second must not get the first one's data. */
static bool is_collision(const char *call, char *const *args)
{
        return strcmp(call, "waitforattach") == 0 && strstr(args[2], "/colb.img");
}

static void replay_call(Replay *r, const json_t *line)
{
        const json_t *argv = json_object_get(line, "argv");
        const char *call = json_string_value(json_array_get(argv, 0)), *pid = json_string_value(json_object_get(line, "pid"));
        const char *state = json_string_value(json_object_get(r->states, pid));
        _cleanup_strv_ char **args = NULL;
        const char *expected = strcmp(call, "getvolumename") == 0 ? "Not supported" : "Success";

        for (size_t i = 0; i < json_array_size(argv); i++) {
                _cleanup_free_ char *argument = i == 0 ? strdup(call) : translate(r, json_string_value(json_array_get(argv, i)));
                cr_assert(strv_append(&args, argument) >= 0);
        }
        if (strncmp(call, "mount", 5) == 0 || strncmp(call, "unmount", 7) == 0)
                prepare_target(r, call, args[1], state ? state : "");
        if (is_collision(call, args))
                expected = "Failure";

        json_t *reply = shim(r->f, args);
        cr_assert_str_eq(status_of(reply), expected, "%s (recorded pid %s): %s %s", call, pid, status_of(reply), message_of(reply));
        if (is_collision(call, args))
                cr_assert(strstr(message_of(reply), "io.berth.Error.Conflict"), "%s", message_of(reply));
        else if (strcmp(expected, "Success") == 0)
                after_call(r, reply, args);
        json_decref(reply);
        r->n_calls++;
}

/* All lines of a recording; first the answers, since they tell what the targets were. */
static json_t *read_recording(const char *name, json_t *states)
{
        _cleanup_free_ char *path = NULL, *content = NULL;
        json_t *lines = json_array();
        char *save = NULL;

        cr_assert(asprintf(&path, "%s/%s.jsonl", KUBELET_DATA_DIR, name) > 0);
        content = read_text(path);
        for (char *text = strtok_r(content, "\n", &save); text; text = strtok_r(NULL, "\n", &save)) {
                json_error_t e;
                json_t *line = json_loads(text, 0, &e), *pid = json_object_get(line, "pid");

                cr_assert_not_null(line, "%s: %s", name, e.text);
                if (json_object_get(line, "op"))
                        json_object_set(states, json_string_value(pid), json_object_get(line, "target_before"));
                json_array_append_new(lines, line);
        }
        return lines;
}

/* What the recording left behind on its node is taken down as the kubelet would. */
static void replay_rest(Replay *r)
{
        while (r->targets && r->targets[0]) {
                _cleanup_free_ char *target = strdup(r->targets[strv_length(r->targets) - 1]);
                EXPECT(r->f, "Success", NULL, strstr(target, "/mounts/") ? "unmountdevice" : "unmount", target);
                after_unmount(r, target);
        }
        if (r->attached)
                EXPECT(r->f, "Success", NULL, "detach", r->attached, "labnode");
}

static bool is_clean(void *arg)
{
        _cleanup_free_ char *what = NULL;

        return fixture_is_clean(arg, &what);
}

static void replay(const char *name, bool attach, unsigned n_calls_min)
{
        Fixture f;
        fixture_init(&f);
        Replay r = { .f = &f, .attach = attach, .states = json_object() };
        json_t *lines = read_recording(name, r.states);

        setenv(BERTH_CONFIG_ENV, f.config, 1);
        fixture_start(&f, attach ? "[FlexVolume]\nAttach=yes\nNodeName=labnode\n[Agent]\nLingerSec=1\n" : "[Agent]\nLingerSec=1\n");
        for (size_t i = 0; i < json_array_size(lines); i++) {
                const json_t *line = json_array_get(lines, i);
                const char *driver = json_string_value(json_object_get(line, "driver"));

                /* of the two drivers of the lab only one did something in each recording */
                if (json_object_get(line, "argv") && strcmp(driver, attach ? "lab~att/att" : "lab~flex/flex") == 0)
                        replay_call(&r, line);
        }
        replay_rest(&r);
        cr_assert_geq(r.n_calls, n_calls_min, "only %u calls", r.n_calls);
        cr_assert(r.n_mounts > 0 && r.n_unmounts > 0);

        json_decref(lines);
        json_decref(r.states);
        strv_free(r.targets);
        strv_free(r.unmounted);
        free(r.device);
        free(r.attached);
        /*
         * Reconcile may see that before the kubelet asks for the unmount, which then finds nothing to do, and the stage is undone after
         * LingerSec=. What berth itself unmounts is gone when it answers.
         */
        if (r.by_hand)
                wait_until(is_clean, &f, 20, "nothing is left of the recording");
        fixture_done(&f);
}

#define REPLAY(test, name, attach, n)                                                                        \
        Test(shim, replay_##test)                                                                            \
        {                                                                                                    \
                replay(name, attach, n);                                                                     \
        }
REPLAY(attach_false, "1-attach-false", false, 10)
REPLAY(attach_true, "2-attach-true", true, 15)
REPLAY(name_collision, "2c-attach-true-name-collision", true, 10)
REPLAY(mount_fails, "3-mount-fails", false, 19)
REPLAY(manifest_removed, "4-sigkill-manifest-removed", false, 6)
REPLAY(manifest_kept, "4b-sigkill-manifest-kept", false, 3)
REPLAY(reboot, "4c-reboot-like", false, 5)
REPLAY(attach_true_sigkill, "4e-attach-true-sigkill", true, 10)
REPLAY(device_busy, "4f-device-busy-after-unmount", false, 8)
REPLAY(hang, "5-hang", false, 10)
REPLAY(hang_kill, "5b-hang-kill", false, 4)
REPLAY(mountpoint_states, "6-mountpoint-states", false, 20)
REPLAY(api, "7-api-pod-pvc", false, 8)

/* ---- what the recordings do not have ---- */

static char *options_json(const char *format, ...) _printf_(1, 2);
static char *options_json(const char *format, ...)
{
        va_list ap;
        char *s = NULL;

        va_start(ap, format);
        cr_assert(vasprintf(&s, format, ap) > 0);
        va_end(ap);
        return s;
}

Test(shim, unknown_options_are_named)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "a", 64 << 20),
                            *unknown = options_json("{\"path\":\"%s\",\"lsep\":\"\\u2028\"}", image),
                            *forbidden = options_json("{\"path\":\"%s\",\"mountOptions\":\"noatime,suid\"}", image);

        EXPECT(&f, "Failure", "io.berth.Error.UnknownOption", "mount", target, unknown);
        EXPECT(&f, "Failure", "io.berth.Error.ForbiddenOption", "mount", target, forbidden);
        cr_assert_eq(fixture_count_mounts(target), 0);
        fixture_done(&f);
}

Test(shim, expand)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "a", 320 << 20),
                            *json = options_json("{\"path\":\"%s\",\"kubernetes.io/fsType\":\"xfs\"}", image);

        /* xfs: growing a mounted ext4 needs CAP_SYS_RESOURCE, which a container's root may lack */
        EXPECT(&f, "Success", NULL, "mount", target, json);
        EXPECT(&f, "Success", NULL, "expandvolume", json, target, "402653184", "335544320");
        json_t *reply = SHIM(&f, "expandfs", json, "/dev/loop0", target, "402653184", "335544320");
        cr_assert_str_eq(status_of(reply), "Success", "%s", message_of(reply));
        cr_assert_eq(json_integer_value(json_object_get(reply, "volumeNewSize")), 402653184);
        json_decref(reply);
        EXPECT(&f, "Failure", "io.berth.Error.Shrink", "expandfs", json, "/dev/loop0", target, "335544320", "402653184");
        EXPECT(&f, "Success", NULL, "unmount", target);
        fixture_done(&f);
}

Test(shim, is_attached)
{
        Fixture f;
        fixture_init(&f);
        setenv(BERTH_CONFIG_ENV, f.config, 1);
        fixture_start(&f, "[FlexVolume]\nAttach=yes\nNodeName=labnode\n");
        _cleanup_free_ char *image = fixture_image(&f, "a", 64 << 20),
                            *json = options_json("{\"path\":\"%s\",\"kubernetes.io/pvOrVolumeName\":\"pv one\"}", image);
        static const struct {
                const char *call[4];
                bool attached;
        } steps[] = { { {}, false }, { { "attach" }, true }, { { "detach" }, false } };

        for (size_t i = 0; i < ELEMENTSOF(steps); i++) {
                if (i == 1)
                        EXPECT(&f, "Success", NULL, "attach", json, "labnode");
                if (i == 2)
                        EXPECT(&f, "Success", NULL, "detach", "pv one", "labnode");
                json_t *reply = SHIM(&f, "isattached", json, "labnode");
                cr_assert_str_eq(status_of(reply), "Success", "%s", message_of(reply));
                cr_assert_eq(json_is_true(json_object_get(reply, "attached")), steps[i].attached, "step %zu", i);
                json_decref(reply);
        }
        fixture_done(&f);
}

/* A controller elsewhere attaches in name only; the node's own calls must not leave a hold that nobody drops. */
Test(shim, attached_by_another_node)
{
        Fixture f;
        fixture_init(&f);
        setenv(BERTH_CONFIG_ENV, f.config, 1);
        fixture_start(&f, "[FlexVolume]\nAttach=yes\nNodeName=labnode\n");
        _cleanup_free_ char *global = options_json("%s/plugins/kubernetes.io/flexvolume/berth/loop/mounts/v", f.kubelet_root),
                            *target = fixture_target(&f, "uid-1", "v"), *image = fixture_image(&f, "a", 64 << 20),
                            *json = options_json("{\"path\":\"%s\",\"kubernetes.io/pvOrVolumeName\":\"v\"}", image);

        cr_assert(mkdir_parents(global, 0750) >= 0);
        EXPECT(&f, "Success", NULL, "attach", json, "controller-asks-for-another");
        EXPECT(&f, "Success", NULL, "waitforattach", "", json);
        EXPECT(&f, "Success", NULL, "mountdevice", global, "", json);
        EXPECT(&f, "Success", NULL, "mount", target, json);
        cr_assert_eq(fixture_count_mounts(global), 1);
        cr_assert_eq(fixture_count_mounts(target), 1);
        cr_assert_eq(fixture_count_loops(&f), 1);
        EXPECT(&f, "Success", NULL, "unmount", target);
        EXPECT(&f, "Success", NULL, "unmountdevice", global);
        fixture_done(&f);
}

Test(shim, stacked_and_odd_targets)
{
        Fixture f;
        fixture_init(&f);
        fixture_start(&f, NULL);
        _cleanup_free_ char *target = fixture_target(&f, "uid-1", "tab\t new\nline \"quote\" \xff\\040"),
                            *image = fixture_image(&f, "a", 64 << 20), *json = options_json("{\"path\":\"%s\"}", image);

        EXPECT(&f, "Success", NULL, "mount", target, json);
        cr_assert_eq(fixture_count_mounts(target), 1);
        cr_assert(mount("tmpfs", target, "tmpfs", 0, "size=1M") >= 0);
        EXPECT(&f, "Success", NULL, "unmount", target);
        cr_assert_eq(fixture_count_mounts(target), 0);
        EXPECT(&f, "Success", NULL, "unmount", target); /* a plain directory */
        cr_assert(rmdir(target) >= 0);
        EXPECT(&f, "Success", NULL, "unmount", target); /* gone */
        EXPECT(&f, "Failure", "TargetMissing", "mount", target, json);
        fixture_done(&f);
}
