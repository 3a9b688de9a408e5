/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Target strings, taken apart. Pure: no system calls, used by berthd (which must not touch targets) and by
 * mounters (which do). Invariant of a parsed Target: relative has no ".", ".." or empty component.
 */

#include "protocol/target.h"

#include <limits.h>
#include <string.h>

static bool component_is_valid(const char *s, size_t n)
{
        return n > 0 && n <= NAME_MAX && !(n == 1 && s[0] == '.') && !(n == 2 && s[0] == '.' && s[1] == '.');
}

/* The part of path below root, or NULL. A root is given without trailing slash, "/" as "". */
static const char *path_below(const char *path, const char *root)
{
        size_t n = strlen(root);

        while (n > 0 && root[n - 1] == '/')
                n--;
        if (strncmp(path, root, n) != 0 || path[n] != '/' || !path[n + 1])
                return NULL;
        return path + n + 1;
}

/* Whether relative matches a pattern whose "*" components stand for any one name. */
static bool components_match(const char *relative, const char *pattern)
{
        for (;;) {
                size_t r = strcspn(relative, "/"), p = strcspn(pattern, "/");

                if (!(p == 1 && pattern[0] == '*') && (r != p || memcmp(relative, pattern, p) != 0))
                        return false;
                relative += r;
                pattern += p;
                if (!*relative || !*pattern)
                        return *relative == *pattern;
                relative++;
                pattern++;
        }
}

static bool is_pod_volume(const char *relative)
{
        const char *driver = relative;

        if (!components_match(relative, "pods/*/volumes/*/*"))
                return false;
        for (unsigned i = 0; i < 3; i++)
                driver += strcspn(driver, "/") + 1;
        return memchr(driver, '~', strcspn(driver, "/")) != NULL;
}

static int target_build(Target *t, TargetKind kind, const char *root, const char *relative)
{
        size_t n = strlen(root);

        while (n > 0 && root[n - 1] == '/')
                n--;
        t->kind = kind;
        t->relative = strdup(relative);
        t->root = n == 0 ? strdup("/") : strndup(root, n);
        if (!t->relative || !t->root || asprintf(&t->path, "%.*s/%s", (int) n, root, relative) < 0) {
                t->path = NULL;
                return -ENOMEM;
        }
        if (kind == TARGET_POD) {
                const char *uid = relative + strlen("pods/");
                t->pod_uid = strndup(uid, strcspn(uid, "/"));
                if (!t->pod_uid)
                        return -ENOMEM;
        }
        return 0;
}

static int check_components(const char *path, Error *err)
{
        for (const char *p = path + 1;;) {
                size_t n = strcspn(p, "/");

                if (!component_is_valid(p, n))
                        return error_set(err, ERROR_TARGET_INVALID, EINVAL,
                                         "Target %s has an empty, too long, '.' or '..' component", path);
                if (!p[n])
                        return 0;
                p += n + 1;
        }
}

static int target_find(const char *path, const Settings *s, Target *t)
{
        const char *roots[] = { s->kubelet_root_resolved, s->kubelet_root };

        for (size_t i = 0; i < ELEMENTSOF(roots); i++) {
                const char *relative = roots[i] ? path_below(path, roots[i]) : NULL;
                if (!relative)
                        continue;
                /* whichever way it was spelled, the resolved root names it */
                const char *root = str_or(s->kubelet_root_resolved, s->kubelet_root);
                if (is_pod_volume(relative))
                        return target_build(t, TARGET_POD, root, relative);
                if (components_match(relative, "plugins/kubernetes.io/flexvolume/*/*/mounts/*"))
                        return target_build(t, TARGET_GLOBAL, root, relative);
        }
        STRV_FOREACH (dir, s->targets_allow) {
                const char *relative = path_below(path, *dir);
                if (relative)
                        return target_build(t, TARGET_ALLOWED, *dir, relative);
        }
        return -EPERM;
}

int target_parse(const char *path, const Settings *settings, Target *ret, Error *err)
{
        _cleanup_target_ Target t = TARGET_INIT;
        size_t n = strlen(path);

        if (path[0] != '/')
                return error_set(err, ERROR_TARGET_INVALID, EINVAL, "Target '%s' is not an absolute path", path);
        if (n >= PATH_MAX)
                return error_set(err, ERROR_TARGET_INVALID, ENAMETOOLONG,
                                 "Target path is %zu bytes long, at most %d are possible", n, PATH_MAX - 1);
        if (n > 1 && path[n - 1] == '/')
                n--;

        _cleanup_free_ char *trimmed = strndup(path, n);
        if (!trimmed)
                return error_oom(err);
        int r = check_components(trimmed, err);
        if (r < 0)
                return r;

        r = target_find(trimmed, settings, &t);
        if (r == -ENOMEM)
                return error_oom(err);
        if (r < 0)
                return error_set(err, ERROR_TARGET_NOT_ALLOWED, EPERM,
                                 "Target %s is neither a volume directory of a pod below %s nor allowed by "
                                 "configuration",
                                 trimmed, settings->kubelet_root);
        *ret = t;
        t = TARGET_INIT;
        return 0;
}

void target_done(Target *t)
{
        free(t->path);
        free(t->root);
        free(t->relative);
        free(t->pod_uid);
        *t = TARGET_INIT;
}
