/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Nodes, and the four ways through a full cycle. The benchmark enters a node's mount namespace before it
 * measures there, so that bare system calls and commands work among the same other mounts as berthd.
 *
 * Directories that all nodes see lie in the benchmark's own directory; what would be a tmpfs on a node
 * (/run) is a tmpfs here too, mounted before the namespaces part.
 */

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "bench/bench.h"
#include "protocol/client.h"

/* Cheap ones: binds of one directory of a tmpfs, as projected volumes and secrets are on a node. */
static void add_other_mounts(const char *dir, unsigned n)
{
        _cleanup_free_ char *root = format_string("%s/other", dir);
        _cleanup_free_ char *source = format_string("%s/source", root);

        make_directory(root);
        if (mount("tmpfs", root, "tmpfs", 0, "size=16m,nr_inodes=0") < 0)
                die("%s: %m", root);
        make_directory(source);
        for (unsigned i = 1; i < n; i++) {
                _cleanup_free_ char *path = format_string("%s/%u", root, i);

                if (mkdir(path, 0700) < 0 || mount(source, path, NULL, MS_BIND, NULL) < 0)
                        die("%s: %m", path);
        }
}

/* The socket on which berthd says READY=1 (sd_notify(3)). */
static int notify_socket(const char *path)
{
        struct sockaddr_un sa = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

        (void) unlink(path);
        if (strlen(path) >= sizeof sa.sun_path)
                die("%s is too long for a socket", path);
        snprintf(sa.sun_path, sizeof sa.sun_path, "%s", path);
        if (fd < 0 || bind(fd, (struct sockaddr *) &sa, sizeof sa) < 0)
                die("%s: %m", path);
        return fd;
}

static void wait_ready(Node *n, int fd)
{
        char message[4096] = "";

        while (!strstr(message, "READY=1")) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                ssize_t size = poll(&p, 1, 100) > 0 ? recv(fd, message, sizeof message - 1, 0) : 0;

                message[size > 0 ? size : 0] = '\0';
                if (waitpid(n->agent, NULL, WNOHANG) != 0)
                        die("berthd ended at its start; its log is %s/berthd.log", n->dir);
        }
}

/* Returns what it took from here to READY=1. */
static double start_agent(Node *n, const Programs *programs, const char *dir)
{
        _cleanup_free_ char *config = format_string("%s/berthd.conf", n->dir);
        _cleanup_free_ char *log = format_string("%s/berthd.log", n->dir);
        _cleanup_free_ char *notify = format_string("%s/notify", n->dir);
        _cleanup_free_ char *runtime_dir = format_string("%s/run", n->dir);
        _cleanup_free_ char *state_dir = format_string("%s/state", n->dir);
        _cleanup_free_ char *text = format_string("[Loop]\nDirectories=%s/images\n", dir);
        _cleanup_close_ int fd = notify_socket(notify);
        char *argv[] = {programs->berthd,
                        "--config",
                        config,
                        "--socket",
                        n->socket,
                        "--runtime-dir",
                        runtime_dir,
                        "--state-dir",
                        state_dir,
                        "--kubelet-root",
                        n->kubelet_root,
                        "--mounter-dir",
                        programs->mounter_dir,
                        NULL};

        write_text(config, text);
        n->started_usec = now_usec();
        n->agent = fork();
        if (n->agent < 0)
                die("fork: %m");
        if (n->agent == 0) {
                int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
                int in = open("/dev/null", O_RDONLY | O_CLOEXEC);

                setenv("NOTIFY_SOCKET", notify, 1);
                if (out < 0 || in < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0)
                        _exit(127);
                execv(argv[0], argv);
                _exit(127);
        }
        wait_ready(n, fd);
        return now_usec() - n->started_usec;
}

sd_bus *node_connect(const Node *n)
{
        _cleanup_error_ Error err = ERROR_INIT;
        sd_bus *bus = NULL;

        if (client_connect(n->socket, now_boottime_usec() + 10 * UINT64_C(1000000), &bus, &err) < 0)
                die("%s", err.text);
        return bus;
}

void node_start(Node *n, const Programs *programs, const char *dir, unsigned other_mounts)
{
        static unsigned n_nodes;
        _cleanup_free_ char *plugin = format_string("%s/berth~loop", dir);
        _cleanup_free_ char *runtime_dir = NULL, *state_dir = NULL;

        *n = (Node){
                        .dir = format_string("%s/node-%u", dir, n_nodes++),
                        .kubelet_root = format_string("%s/kubelet", dir),
                        .driver = format_string("%s/loop", plugin),
        };
        n->socket = format_string("%s/run/berthd.sock", n->dir);
        runtime_dir = format_string("%s/run", n->dir);
        state_dir = format_string("%s/state", n->dir);
        make_directory(runtime_dir);
        make_directory(state_dir);
        make_directory(plugin);
        if (symlink(programs->shim, n->driver) < 0 && errno != EEXIST)
                die("%s: %m", n->driver);
        if (unshare(CLONE_NEWNS) < 0)
                die("unshare: %m");
        n->namespace_fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        if (n->namespace_fd < 0)
                die("/proc/self/ns/mnt: %m");
        add_other_mounts(n->dir, other_mounts);
        if (mount("tmpfs", runtime_dir, "tmpfs", 0, "mode=0755") < 0)
                die("%s: %m", runtime_dir);
        start_agent(n, programs, dir);
        n->bus = node_connect(n);
        setenv("BERTH_SOCKET", n->socket, 1);
}

double node_restart(Node *n, const Programs *programs, const char *dir)
{
        double ready;

        sd_bus_flush_close_unref(n->bus);
        kill(n->agent, SIGKILL);
        if (waitpid(n->agent, NULL, 0) != n->agent)
                die("waitpid: %m");
        ready = start_agent(n, programs, dir);
        n->bus = node_connect(n);
        return ready;
}

void node_wait_idle(const Node *n)
{
        uint64_t last = UINT64_MAX;
        double since = now_usec(), end = since + 60e6;

        while (now_usec() - since < 300e3) {
                uint64_t ticks = process_ticks(n->agent);

                if (ticks != last) {
                        last = ticks;
                        since = now_usec();
                }
                wait_step(end, "berthd to be idle");
        }
}

void node_enter(const Node *n)
{
        if (setns(n->namespace_fd, CLONE_NEWNS) < 0)
                die("setns: %m");
        setenv("BERTH_SOCKET", n->socket, 1);
}

void node_stop(Node *n)
{
        sd_bus_flush_close_unref(n->bus);
        kill(n->agent, SIGTERM);
        if (waitpid(n->agent, NULL, 0) != n->agent)
                die("waitpid: %m");
        close(n->namespace_fd);
        free(n->dir);
        free(n->socket);
        free(n->kubelet_root);
        free(n->driver);
}

static void shim_call(char *const *argv)
{
        char output[4096];

        process_run(argv, output, sizeof output);
        if (!strstr(output, "\"Success\""))
                die("%s %s: %s", argv[0], argv[1], output);
}

/* The options as the kubelet writes them; image paths of the benchmark need no escaping. */
static void shim_mount(const Node *n, const Volume *v)
{
        _cleanup_free_ char *json = format_string(
                        "{\"kubernetes.io/fsType\":\"ext4\",\"kubernetes.io/pod.name\":\"web-0\","
                        "\"kubernetes.io/pod.namespace\":\"default\","
                        "\"kubernetes.io/pod.uid\":\"00000000-0000-4000-8000-000000000000\","
                        "\"kubernetes.io/pvOrVolumeName\":\"data\",\"kubernetes.io/readwrite\":\"rw\","
                        "\"kubernetes.io/serviceAccount.name\":\"default\",\"path\":\"%s\"}",
                        v->image);
        char *argv[] = { n->driver, "mount", v->target, json, NULL };

        shim_call(argv);
}

static void shim_unmount(const Node *n, const Volume *v)
{
        char *argv[] = { n->driver, "unmount", v->target, NULL };

        shim_call(argv);
}

/* What an administrator's script would do; set -e makes any failure the shell's. */
static void commands_run(const Volume *v)
{
        _cleanup_free_ char *script =
                        format_string("set -e; d=$(losetup -f --show --direct-io=on %1$s); test \"$(blkid "
                                      "-p -o value -s TYPE $d)\" = ext4; "
                                      "mount -t ext4 -o nosuid,nodev $d %2$s; mount --bind %2$s %3$s; "
                                      "umount %3$s; umount %2$s; losetup -d $d",
                                      v->image, v->staging, v->target);
        char *argv[] = { "/bin/sh", "-c", script, NULL };

        process_run(argv, NULL, 0);
}

double cycle(Way way, Node *n, Volume *v)
{
        double start = now_usec();

        switch (way) {
        case WAY_BARE:
                bare_mount(v);
                volume_expect_mounted(v);
                bare_unmount(v);
                break;
        case WAY_API:
                api_mount(n->bus, v);
                volume_expect_mounted(v);
                api_unmount(n->bus, v);
                break;
        case WAY_SHIM:
                shim_mount(n, v);
                volume_expect_mounted(v);
                shim_unmount(n, v);
                break;
        case WAY_COMMANDS:
                commands_run(v);
                return now_usec() - start;
        default:
                die("no such way");
        }
        WAIT_FOR(!volume_is_attached(v), 30, "the device to be gone");
        return now_usec() - start;
}
