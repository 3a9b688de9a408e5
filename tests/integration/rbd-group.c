/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Many volumes of a Ceph cluster that says nothing, beside one of a cluster that answers: few mounters wait, and the other's requests are
 * answered meanwhile. A real berthd, a real Ceph, and for the silent cluster a socket that nobody serves.
 */

#include <criterion/criterion.h>

#include "agent-client.h"
#include "ceph.h"

#include <arpa/inet.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define CALLERS 12U
#define PER_SERVER 2U
#define CONNECT_SECONDS 4
#define CONFIG "[RBD]\nConnectTimeoutSec=4\n[Mounters]\nMaxPerServer=2\nMax=4\n"

/* Its connections are taken by the kernel, and never greeted. */
static int silent_open(char *ret, size_t size)
{
        struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t n = sizeof(a);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        cr_assert(fd >= 0 && bind(fd, (struct sockaddr *) &a, n) == 0 && listen(fd, 128) == 0 &&
                                  getsockname(fd, (struct sockaddr *) &a, &n) == 0,
                  "%s", strerror(errno));
        snprintf(ret, size, "127.0.0.1:%u", ntohs(a.sin_port));
        return fd;
}

static ErrorCode call_mount(Fixture *f, const Ceph *ceph, const char *monitors, const char *target, const char *image)
{
        const char *const options[][2] = { { "monitors", monitors }, { "pool", "kube" }, { "user", "kube" }, { "image", image } };
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;

        if (str_replace(&p.target, target) < 0 || str_replace(&p.driver, "rbd") < 0 || strmap_set(&p.secrets, "key", ceph->kube_key) < 0)
                return ERROR_INTERNAL;
        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                if (strmap_set(&p.source, options[i][0], options[i][1]) < 0)
                        return ERROR_INTERNAL;
        return fixture_mount(f, &p, &err);
}

static unsigned count_busy(Fixture *f)
{
        _cleanup_json_ json_t *status = BERTHCTL(f, "status");
        unsigned n = 0;
        json_t *m;
        size_t i;

        json_array_foreach (json_object_get(status, "mounters"), i, m)
                n += str_equal(json_string_value(json_object_get(m, "kind")), "rbd") &&
                     str_equal(json_string_value(json_object_get(m, "state")), "busy");
        return n;
}

Test(rbd_group, one_dead_cluster_leaves_room_for_another, .timeout = 180)
{
        unsigned most = 0, n_tried = 0, n_refused = 0, n_served = 0, n_running = CALLERS;
        pid_t callers[CALLERS];
        char silent[32];
        double slowest = 0;
        Fixture f;
        Ceph ceph;

        fixture_init(&f);
        ceph_start(&ceph, f.dir);
        int fd = silent_open(silent, sizeof(silent));
        _cleanup_free_ char *mounter = executable_path(&f, "mounter-rbd"), *link = format("%s/mounters/mounter-rbd", f.dir);
        cr_assert_eq(symlink(mounter, link), 0, "%s", strerror(errno));
        fixture_start(&f, CONFIG);
        _cleanup_free_ char *target = fixture_target(&f, "uid-live", "v");
        cr_assert_eq(call_mount(&f, &ceph, ceph.monitor_v2, target, "nothing"), ERROR_RBD_IMAGE_NOT_FOUND, "the cluster is alive");

        for (unsigned i = 0; i < CALLERS; i++) {
                _cleanup_free_ char *uid = format("uid-%u", i), *dead = fixture_target(&f, uid, "v"), *image = format("image-%u", i);
                callers[i] = fork();
                if (callers[i] == 0)
                        _exit((int) call_mount(&f, &ceph, silent, dead, image));
        }
        while (n_running > 0) {
                unsigned n = count_busy(&f);
                double start = now_seconds();

                most = n > most ? n : most;
                ErrorCode code = call_mount(&f, &ceph, ceph.monitor_v2, target, "nothing");
                cr_assert_eq(code, ERROR_RBD_IMAGE_NOT_FOUND, "%s", error_code_name(code));
                slowest = now_seconds() - start > slowest ? now_seconds() - start : slowest;
                n_served++;
                for (unsigned i = 0; i < CALLERS; i++) {
                        int status;
                        if (callers[i] == 0 || waitpid(callers[i], &status, WNOHANG) == 0)
                                continue;
                        callers[i] = 0;
                        n_running--;
                        cr_assert(WIFEXITED(status), "a caller ended by a signal");
                        n_tried += WEXITSTATUS(status) == (int) ERROR_MONITORS_UNREACHABLE;
                        n_refused += WEXITSTATUS(status) == (int) ERROR_TIMED_OUT;
                }
        }
        printf("# %u waited for the silent cluster, %u were refused, %u requests for the other were served, the slowest in %.2f s\n", n_tried,
               n_refused, n_served, slowest);
        cr_assert(most > 0 && most <= PER_SERVER + 1, "%u mounters were busy at once", most); /* and one for the living */
        cr_assert_eq(n_tried + n_refused, CALLERS, "%u tried, %u refused", n_tried, n_refused);
        cr_assert(n_refused > 0 && n_tried >= PER_SERVER);
        cr_assert_lt(slowest, CONNECT_SECONDS, "the living cluster's requests waited for the silent one's");
        close(fd);
        ceph_stop(&ceph);
        fixture_done(&f);
}
