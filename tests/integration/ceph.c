/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See ceph.h. Runs in the tests. */

#include "ceph.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The value of "name=value" in the description that tests/lab/ceph writes. */
static char *value_of(const char *text, const char *name)
{
        size_t n = strlen(name);

        for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
                if (strncmp(line, name, n) == 0 && line[n] == '=')
                        return strndup(line + n + 1, strcspn(line + n + 1, " \n"));
        cr_assert(false, "the lab does not tell %s", name);
        return NULL;
}

void ceph_start(Ceph *c, const char *dir)
{
        _cleanup_free_ char *ready = NULL, *text = NULL, *error = NULL;

        if (RUN("sh", "-c", "command -v ceph-mon ceph-osd rbd ceph >/dev/null") != 0)
                cr_skip_test("Ceph is not installed");
        *c = (Ceph) {};
        cr_assert(asprintf(&c->dir, "%s/ceph", dir) >= 0 && asprintf(&ready, "%s/ceph.ready", dir) >= 0);
        int status = run((char *[]) { (char *) CEPH_LAB, (char *) "up", c->dir, NULL }, NULL, &error);
        cr_assert_eq(status, 0, "Ceph does not start: %s", error);
        text = read_text(ready);
        c->conf = value_of(text, "conf");
        c->monitor_v1 = value_of(text, "mon_v1");
        c->monitor_v2 = value_of(text, "mon_v2");
        c->fsid = value_of(text, "fsid");
        c->admin_key = value_of(text, "admin_key");
        c->kube_key = value_of(text, "kube_key");
        c->address = strndup(c->monitor_v1, strcspn(c->monitor_v1, ":"));
}

void ceph_stop(Ceph *c)
{
        if (!c->dir)
                return;
        (void) RUN((char *) CEPH_LAB, "down", c->dir);
        char **strings[] = { &c->dir, &c->conf, &c->address, &c->monitor_v1, &c->monitor_v2, &c->fsid, &c->admin_key, &c->kube_key };
        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                free(*strings[i]);
        *c = (Ceph) {};
}

char *ceph_output(const Ceph *c, char *const *argv)
{
        char *all[32] = { (char *) "timeout", (char *) "30", argv[0], (char *) "-c", c->conf };
        _cleanup_free_ char *error = NULL;
        char *out = NULL;
        size_t n = 5;

        for (char *const *a = argv + 1; *a && n < ELEMENTSOF(all) - 1; a++)
                all[n++] = *a;
        int status = run(all, &out, &error);
        cr_assert_eq(status, 0, "%s %s %s: status %d, %s%s", argv[0], argv[1], argv[2] ? argv[2] : "", status, out, error);
        return out;
}

void ceph_run(const Ceph *c, char *const *argv)
{
        free(ceph_output(c, argv));
}

time_t ceph_blocklisted_until(const Ceph *c, const char *address)
{
        char *argv[] = { (char *) "ceph", (char *) "osd", (char *) "blocklist", (char *) "ls", NULL };
        _cleanup_free_ char *text = ceph_output(c, argv);
        size_t n = strlen(address);
        struct tm tm = {};

        /* "127.0.0.1:0/77 2031-11-27T12:00:00.123456+0000" */
        for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
                if (strncmp(line, address, n) == 0 && line[n] == ' ') {
                        cr_assert(strptime(line + n + 1, "%Y-%m-%dT%H:%M:%S", &tm), "%s", text);
                        return timegm(&tm);
                }
        return 0;
}

pid_t ceph_pid(const Ceph *c, const char *daemon)
{
        _cleanup_free_ char *path = NULL, *text = NULL;

        cr_assert(asprintf(&path, "%s/%s.pid", c->dir, daemon) >= 0);
        text = read_text(path);
        pid_t pid = atoi(text);
        cr_assert(pid > 1);
        return pid;
}

void rbd_volume_init(MounterVolume *v, const Ceph *c, const char *image)
{
        const char *const options[][2] = { { "monitors", c->monitor_v1 }, { "pool", "kube" }, { "image", image }, { "user", "kube" } };

        *v = (MounterVolume) { .fs_type = strdup("ext4") };
        for (size_t i = 0; i < ELEMENTSOF(options); i++)
                cr_assert(strmap_set(&v->source, options[i][0], options[i][1]) >= 0);
        cr_assert(strmap_set(&v->secrets, "key", c->kube_key) >= 0);
}
