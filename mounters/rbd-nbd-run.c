/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * What systemd starts in a volume's unit (rbd-unit.c), and becomes rbd-nbd: the first time to map the image, later, since the unit is started
 * again whenever rbd-nbd ends, to attach to the device that waits for it. Needs neither berthd nor a mounter, so a death during
 * an upgrade is mended like any other.
 *
 *      rbd-nbd-run RUNTIME-DIRECTORY KEY
 *
 * Invariants: an image is mapped once for each leave that a mounter gave (`first`, taken by unlink(2)); without a leave and without a
 * device of the volume's cookie there is nothing to do, and the unit ends.
 */

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/fd.h"
#include "base/log.h"
#include "mounters/nbd-device.h"
#include "mounters/rbd-unit.h"
#include "protocol/messages.h"

#define ARGUMENTS_MAX 65536U
#define WORDS_MAX 64U
/* One that dies at once, again and again, because the cluster is away, is not started ten times a second. */
#define TRY_SEC 5
#define PAUSE_SEC 2

static void slow_down(int dir_fd)
{
        struct timespec now = {};
        struct stat st;

        clock_gettime(CLOCK_REALTIME, &now);
        if (fstatat(dir_fd, NBD_PLACE_TRY, &st, AT_SYMLINK_NOFOLLOW) >= 0 && now.tv_sec >= st.st_mtim.tv_sec && now.tv_sec - st.st_mtim.tv_sec < TRY_SEC) {
                const struct timespec pause = { .tv_sec = PAUSE_SEC };
                (void) nanosleep(&pause, NULL);
        }
        _cleanup_close_ int fd = openat(dir_fd, NBD_PLACE_TRY, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0)
                (void) futimens(fd, NULL);
}

/* What it prints tells the mounter that it is complete: so what the last one printed goes first. */
static int output_begin(int dir_fd)
{
        if (unlinkat(dir_fd, NBD_PLACE_OUTPUT, 0) < 0 && errno != ENOENT)
                return -errno;
        _cleanup_close_ int fd = openat(dir_fd, NBD_PLACE_OUTPUT, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0600);
        return fd < 0 || dup2(fd, STDOUT_FILENO) < 0 ? -errno : 0;
}

static void log_death(const char *key, const NbdDevice *d)
{
        const LogField fields[] = {
                { "MESSAGE_ID", event_message_id(EVENT_NBD_DIED) },
                { "VOLUME", key },
                { NULL, NULL },
        };

        log_fields(LOG_WARNING, fields, "rbd-nbd of volume %s has ended under /dev/nbd%u; it is started again, and what is read and written waits", key,
                   d->number);
}

/* argv for rbd-nbd: the program, the verb, the device if there is one, and what the mounter has written. */
static int become(char *text, size_t size, const char *verb, const char *device)
{
        static char path[] = "PATH=/usr/sbin:/usr/bin:/sbin:/bin", locale[] = "LC_ALL=C";
        char *const environment[] = { path, locale, NULL };
        char *argv[WORDS_MAX + 6] = { text, (char *) verb };
        size_t n = 2;

        if (device) {
                argv[n++] = (char *) "--device";
                argv[n++] = (char *) device;
        }
        for (char *p = text + strlen(text) + 1; p < text + size; p += strlen(p) + 1) {
                if (n >= WORDS_MAX)
                        return -E2BIG;
                argv[n++] = p;
        }
        execve(argv[0], argv, environment);
        return -errno;
}

int main(int argc, char **argv)
{
        _cleanup_free_ char *place = NULL, *arguments = NULL;
        char cookie[128], device[32];
        size_t size = 0;
        NbdDevice d;

        log_open("berth-rbd-nbd", LOG_INFO);
        if (argc != 3 || strchr(argv[2], '/')) {
                log_error("Usage: rbd-nbd-run RUNTIME-DIRECTORY KEY: started by systemd in a unit that mounter-rbd makes");
                return EXIT_FAILURE;
        }
        if (asprintf(&place, "%s/" NBD_PLACES "/%s", argv[1], argv[2]) < 0) {
                place = NULL;
                return EXIT_FAILURE;
        }
        _cleanup_close_ int fd = open(place, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0 || read_file_at(fd, NBD_PLACE_ARGUMENTS, ARGUMENTS_MAX, &arguments, &size) < 0 || size < 2)
                return UNIT_STATUS_NOTHING;
        snprintf(cookie, sizeof(cookie), NBD_COOKIE_PREFIX "%s", argv[2]);
        int r = output_begin(fd);
        if (r >= 0)
                r = nbd_device_find(NBD_SYSFS, cookie, &d);
        if (r < 0) {
                log_error("Cannot begin with volume %s: %s", argv[2], strerror(-r));
                return EXIT_FAILURE;
        }
        if (r > 0) {
                snprintf(device, sizeof(device), "/dev/nbd%u", d.number);
                log_death(argv[2], &d);
                slow_down(fd);
                r = become(arguments, size, "attach", device);
        } else if (unlinkat(fd, NBD_PLACE_FIRST, 0) >= 0)
                r = become(arguments, size, "map", NULL);
        else
                return UNIT_STATUS_NOTHING;
        log_error("Cannot run %s: %s", arguments, strerror(-r));
        return EXIT_FAILURE;
}
