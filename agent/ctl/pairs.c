/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * KEY=VALUE arguments: options of a driver, and secrets, which are read from files, since arguments are shown by ps. Runs in berthctl.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/fd.h"
#include "ctl.h"
#include "protocol/names.h"

/* The file's content without one newline at its end; erased by the caller through the map. */
static int read_secret(StrMap *secrets, const char *key, const char *path)
{
        char *content = NULL;
        size_t size = 0;

        (void) prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L); /* no core with it */
        int r = read_file_at(AT_FDCWD, path, REQUEST_STRING_MAX, &content, &size);
        if (r < 0)
                return r;

        if (size > 0 && content[size - 1] == '\n')
                content[--size] = 0;
        r = memchr(content, 0, size) ? -EINVAL : strmap_add(secrets, key, content);
        explicit_bzero(content, size);
        free(content);
        return r;
}

static int add(Ctl *c, StrMap *map, const char *option, const char *argument, int (*f)(StrMap *map, const char *key, const char *value))
{
        const char *value = strchr(argument, '=');
        _cleanup_free_ char *key = value && value > argument ? strndup(argument, (size_t) (value - argument)) : NULL;
        int r;

        if (!key) {
                ctl_usage(c, "--%s takes KEY=VALUE, not %s", option, argument);
                return -1;
        }
        r = f(map, key, value + 1);
        if (r == -EEXIST)
                ctl_usage(c, "%s is given twice", key);
        else if (r < 0)
                ctl_usage(c, "Cannot use %s: %s", value + 1, strerror(-r));
        return r;
}

int ctl_add_pair(Ctl *c, StrMap *map, const char *argument)
{
        return add(c, map, "option", argument, strmap_add);
}

int ctl_add_secret(Ctl *c, StrMap *map, const char *argument)
{
        return add(c, map, "secret-file", argument, read_secret);
}
