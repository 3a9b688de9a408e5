/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What the rbd mounter asks a cluster before it maps an image: a connection, the image, who watches it and who holds its lock. The first volume of a
 * cluster, which makes the connection, beside the second, and beside the command that shows the same. A real Ceph of one node (tests/lab/ceph) on a
 * loopback address; mapping itself is measured in a guest (tests/vm/cases/rbd-bench), since it needs a kernel with Ceph's client.
 */

#include <fcntl.h>
#include <string.h>

#include "base/fd.h"
#include "bench/bench.h"
#include "mounters/rbd-image.h"

#define IMAGES 2U

typedef struct Lab {
        char *dir, *conf, *monitor, *key;
        Settings settings;
        StrMap options[IMAGES];
        RbdSource sources[IMAGES]; /* strings of the options */
} Lab;

static char *lab_value(const char *text, const char *name)
{
        size_t n = strlen(name);

        for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL)
                if (strncmp(line, name, n) == 0 && line[n] == '=')
                        return format_string("%.*s", (int) strcspn(line + n + 1, "\n"), line + n + 1);
        die("the lab does not tell %s", name);
}

static void lab_start(Lab *lab, const char *dir)
{
        char *ceph = (char *) BENCH_CEPH_LAB, *ready = format_string("%s/ceph.ready", dir), *text = NULL;
        _cleanup_error_ Error e = ERROR_INIT;

        *lab = (Lab) { .dir = format_string("%s/ceph", dir), .settings = SETTINGS_INIT };
        process_run((char *[]) { ceph, "up", lab->dir, NULL }, NULL, 0);
        if (read_file_at(AT_FDCWD, ready, 65536, &text, NULL) < 0 || settings_defaults(&lab->settings) < 0)
                die("cannot read %s", ready);
        lab->conf = lab_value(text, "conf");
        lab->monitor = lab_value(text, "mon_v2");
        lab->key = lab_value(text, "kube_key");
        for (unsigned i = 0; i < IMAGES; i++) {
                char *spec = format_string("kube/image-%u", i);
                const char *const options[][2] = { { "monitors", lab->monitor }, { "pool", "kube" }, { "user", "kube" }, { "image", spec + 5 } };

                process_run((char *[]) { "rbd", "-c", lab->conf, "create", "--size", "64M", spec, NULL }, NULL, 0);
                for (size_t k = 0; k < ELEMENTSOF(options); k++)
                        if (strmap_set(&lab->options[i], options[k][0], options[k][1]) < 0)
                                die("out of memory");
                if (rbd_source_read(&lab->settings, &lab->options[i], &lab->sources[i], &e) < 0)
                        die("%s: %s", spec, e.text);
                free(spec);
        }
        free(text);
        free(ready);
}

static void lab_stop(Lab *lab)
{
        process_run((char *[]) { (char *) BENCH_CEPH_LAB, "down", lab->dir, NULL }, NULL, 0);
        for (unsigned i = 0; i < IMAGES; i++) {
                rbd_source_done(&lab->sources[i]);
                strmap_erase(&lab->options[i]);
        }
        settings_done(&lab->settings);
        free(lab->dir);
        free(lab->conf);
        free(lab->monitor);
        free(lab->key);
}

/* Microseconds of what is asked before a map. */
static double look(const Lab *lab, RbdClusters *clusters, unsigned image)
{
        _cleanup_rbd_image_ RbdImage i = RBD_IMAGE_INIT;
        _cleanup_rbd_locker_ RbdLocker locker = {};
        _cleanup_strv_ char **watchers = NULL;
        _cleanup_error_ Error e = ERROR_INIT;
        double start = now_usec();
        RbdCluster *cluster;

        int r = rbd_cluster_get(clusters, &lab->settings, &lab->sources[image], lab->key, &cluster, &e);
        if (r >= 0)
                r = rbd_image_open(cluster, &lab->sources[image], &i, &e);
        if (r >= 0)
                r = rbd_image_watchers(&i, &watchers, &e);
        if (r >= 0)
                r = rbd_image_locker(&i, &locker, &e);
        if (r < 0)
                die("image-%u: %s", image, e.text);
        return now_usec() - start;
}

void measure_rbd(const Plan *plan, Report *r, const Programs *programs, const char *dir, Volume *volumes)
{
        Samples s_first = {}, s_second = {}, s_command = {};
        Lab lab;

        if (access("/usr/bin/ceph-mon", X_OK) < 0) {
                fputs("bench: Ceph is not installed, and not measured\n", stderr);
                return;
        }
        lab_start(&lab, dir);
        for (unsigned i = 0; i < plan->rbd_rounds; i++) {
                RbdClusters clusters = {};
                char *command[] = { "rbd", "-c", lab.conf, "status", "kube/image-0", NULL };

                samples_add(&s_first, look(&lab, &clusters, 0));
                samples_add(&s_second, look(&lab, &clusters, 1));
                rbd_clusters_done(&clusters);
                double start = now_usec();
                process_run(command, NULL, 0);
                samples_add(&s_command, now_usec() - start);
        }
        lab_stop(&lab);
        report_section(r, "What is asked of a Ceph cluster before an image is mapped");
        report_samples(r, "rbd_first", "the first volume of a cluster: connects", &s_first);
        report_samples(r, "rbd_second", "the second one", &s_second);
        report_samples(r, "rbd_command", "rbd status", &s_command);
        report_figure(r, "rbd_second_over_first", "the second over the first", samples_median(&s_second) / samples_median(&s_first),
                      UNIT_RATIO);
        report_goal(r, "rbd_command_over_second", "the command over the second", samples_median(&s_command) / samples_median(&s_second),
                    UNIT_RATIO, BOUND_AT_LEAST, 3.0);
        samples_done(&s_first);
        samples_done(&s_second);
        samples_done(&s_command);
}
