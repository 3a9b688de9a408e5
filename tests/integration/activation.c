/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthd under a service manager: the listening socket is passed to it (sd_listen_fds(3)), the first request is one that waited in it,
 * and READY, STATUS and WATCHDOG are told (sd_notify(3)).
 */

#include <criterion/criterion.h>

#include "fixture/fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#define SOCKET_MODE 0600

static int bound_socket(const char *path, int type)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, type, 0);

        cr_assert(fd >= 0 && strlen(path) < sizeof(address.sun_path));
        memcpy(address.sun_path, path, strlen(path) + 1);
        cr_assert_eq(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0, "bind(%s): %m", path);
        return fd;
}

/* What systemd does for a socket unit: descriptor 3, LISTEN_FDS, LISTEN_PID. */
static void start_activated(Fixture *f, int listen_fd, const char *notify)
{
        _cleanup_free_ char *program = executable_path(f, "berthd");
        char *argv[8] = { program };

        cr_assert(asprintf(&argv[1], "--config=%s", f->config) > 0);
        cr_assert(asprintf(&argv[2], "--socket=%s", f->socket) > 0);
        cr_assert(asprintf(&argv[3], "--runtime-dir=%s", f->runtime_dir) > 0);
        cr_assert(asprintf(&argv[4], "--state-dir=%s", f->state_dir) > 0);
        cr_assert(asprintf(&argv[5], "--kubelet-root=%s", f->kubelet_root) > 0);
        cr_assert(asprintf(&argv[6], "--mounter-dir=%s/mounters", f->build_dir) > 0);

        f->agent = fork();
        cr_assert(f->agent >= 0);
        if (f->agent == 0) {
                char pid[16];
                int log = open(f->log, O_WRONLY | O_CREAT | O_APPEND, 0600);

                snprintf(pid, sizeof(pid), "%d", getpid());
                setenv("LISTEN_PID", pid, 1);
                setenv("LISTEN_FDS", "1", 1);
                setenv("NOTIFY_SOCKET", notify, 1);
                setenv("WATCHDOG_USEC", "500000", 1);
                setenv("WATCHDOG_PID", pid, 1);
                dup2(log, 1);
                dup2(log, 2);
                if (listen_fd == 3)
                        fcntl(3, F_SETFD, 0);
                else
                        dup2(listen_fd, 3);
                execv(program, argv);
                _exit(127);
        }
        for (unsigned i = 1; i < 7; i++)
                free(argv[i]);
}

/* Reads notifications until one has the line. */
static void expect_notification(int fd, const char *line)
{
        double end = now_seconds() + 20;
        char buffer[1024];

        for (;;) {
                struct pollfd p = { .fd = fd, .events = POLLIN };
                cr_assert(now_seconds() < end && poll(&p, 1, 20000) > 0, "no %s came", line);
                ssize_t n = recv(fd, buffer, sizeof(buffer) - 1, 0);
                cr_assert(n >= 0);
                buffer[n] = 0;
                if (strstr(buffer, line))
                        return;
        }
}

Test(activation, socket_is_taken_over_and_notifications_come, .timeout = 60)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_free_ char *notify = NULL, *config = NULL, *image = fixture_image_formatted(&f, "a.img", 16 << 20, "ext4"),
                            *target = fixture_target(&f, "uid-1", "v");
        struct stat before, after;

        cr_assert(asprintf(&notify, "%s/notify", f.dir) > 0);
        cr_assert(asprintf(&config, "[Loop]\nDirectories=%s\n", f.image_dir) > 0);
        write_text(f.config, config);
        cr_assert_eq(chmod(f.config, 0600), 0);
        int notify_fd = bound_socket(notify, SOCK_DGRAM | SOCK_CLOEXEC);
        int fd = bound_socket(f.socket, SOCK_STREAM | SOCK_CLOEXEC);
        cr_assert_eq(chmod(f.socket, SOCKET_MODE), 0);
        cr_assert_eq(listen(fd, 16), 0);
        cr_assert_eq(stat(f.socket, &before), 0);

        /* a request that is there before the agent is, as with the first FlexVolume call after a boot */
        pid_t early = fork();
        cr_assert(early >= 0);
        if (early == 0) {
                _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);
                _exit(fixture_mount(&f, &p, NULL) == ERROR_NONE ? 0 : 1);
        }
        start_activated(&f, fd, notify);
        expect_notification(notify_fd, "READY=1");
        expect_notification(notify_fd, "STATUS=");
        expect_notification(notify_fd, "WATCHDOG=1");

        int status;
        cr_assert_eq(waitpid(early, &status, 0), early);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the request that had waited failed");
        cr_assert_eq(fixture_count_mounts(target), 1);

        /* the socket is the service manager's: it is neither replaced nor removed */
        cr_assert_eq(fixture_unmount(&f, target, NULL), ERROR_NONE);
        kill(f.agent, SIGTERM);
        expect_notification(notify_fd, "STOPPING=1");
        fixture_stop(&f, SIGTERM);
        cr_assert_eq(stat(f.socket, &after), 0);
        cr_assert(before.st_ino == after.st_ino && (after.st_mode & 07777) == SOCKET_MODE);
        close(fd);
        close(notify_fd);
        cr_assert_eq(unlink(f.socket), 0);
        fixture_done(&f);
}

/* An operator's image directory may lie on storage that does not answer: starting must not touch it, nor make it. */
Test(activation, leaves_an_operators_directories_alone, .timeout = 60)
{
        Fixture f;
        fixture_init(&f);
        _cleanup_free_ char *elsewhere = NULL, *standard = NULL, *config = NULL;

        cr_assert(asprintf(&elsewhere, "%s/elsewhere", f.dir) > 0);
        cr_assert(asprintf(&standard, "%s/loop", f.state_dir) > 0);
        cr_assert(asprintf(&config, "[Loop]\nDirectories=%s %s\n", elsewhere, standard) > 0);
        fixture_start(&f, config);
        cr_assert(access(elsewhere, F_OK) < 0, "%s was made", elsewhere);
        cr_assert_eq(access(standard, F_OK), 0, "%s was not made", standard);
        fixture_done(&f);
}
