/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * The interface descriptions (agent/protocol/io.berth.*.xml) against what the processes really serve, asked by
 * Introspect on the running objects: names, signatures, arguments, directions, access.
 */

#include <criterion/criterion.h>

#include "fixture/fixture.h"

#include <expat.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "protocol/names.h"

/* One interface as lines such as "method Mount in ay target", sorted. */
typedef struct Description {
        const char *interface; /* the one that is wanted */
        bool inside;
        char member[128];
        char kind[16];
        char **lines; /* strv */
} Description;

static const char *attribute(const char **attributes, const char *name)
{
        for (; attributes && *attributes; attributes += 2)
                if (strcmp(attributes[0], name) == 0)
                        return attributes[1];
        return "";
}

static void add_line(Description *d, const char *what, const char *type, const char *name)
{
        _cleanup_free_ char *line = NULL;

        cr_assert(asprintf(&line, "%s %s %s %s %s", d->kind, d->member, what, type, name) > 0);
        cr_assert_eq(strv_append(&d->lines, line), 0);
}

static void element_start(void *userdata, const char *element, const char **attributes)
{
        Description *d = userdata;
        const char *name = attribute(attributes, "name"), *type = attribute(attributes, "type");

        if (strcmp(element, "interface") == 0)
                d->inside = strcmp(name, d->interface) == 0;
        if (!d->inside)
                return;
        if (strcmp(element, "method") == 0 || strcmp(element, "signal") == 0 || strcmp(element, "property") == 0) {
                snprintf(d->member, sizeof(d->member), "%s", name);
                snprintf(d->kind, sizeof(d->kind), "%s", element);
                add_line(d, attribute(attributes, "access"), type, "");
        } else if (strcmp(element, "arg") == 0) {
                bool is_signal = strcmp(d->kind, "signal") == 0;
                add_line(d, is_signal ? "out" : str_or(attribute(attributes, "direction"), "in"), type, name);
        }
}

static void element_end(void *userdata, const char *element)
{
        Description *d = userdata;

        if (strcmp(element, "interface") == 0)
                d->inside = false;
}

/* The order of members does not matter, that of a member's arguments does. */
static int compare_members(const void *a, const void *b)
{
        const char *x = *(const char *const *) a, *y = *(const char *const *) b;
        size_t n = strcspn(strchr(x, ' ') + 1, " "), m = strcspn(strchr(y, ' ') + 1, " ");
        int c = strncmp(strchr(x, ' ') + 1, strchr(y, ' ') + 1, n < m ? n : m);

        return c != 0 ? c : (n > m) - (n < m);
}

static char **describe(const char *xml, const char *interface, const char *origin)
{
        Description d = { .interface = interface };
        XML_Parser parser = XML_ParserCreate(NULL);

        XML_SetUserData(parser, &d);
        XML_SetElementHandler(parser, element_start, element_end);
        enum XML_Status status = XML_Parse(parser, xml, (int) strlen(xml), 1);
        cr_assert_eq(status, XML_STATUS_OK, "%s, line %lu: %s", origin, XML_GetCurrentLineNumber(parser),
                     XML_ErrorString(XML_GetErrorCode(parser)));
        XML_ParserFree(parser);
        cr_assert(d.lines, "%s does not describe %s", origin, interface);

        /* a stable sort: by member, then by place */
        size_t n = strv_length(d.lines);
        for (size_t i = 1; i < n; i++)
                for (size_t k = i; k > 0 && compare_members(&d.lines[k - 1], &d.lines[k]) > 0; k--) {
                        char *swapped = d.lines[k];
                        d.lines[k] = d.lines[k - 1];
                        d.lines[k - 1] = swapped;
                }
        return d.lines;
}

static void expect_same(const char *introspected, const char *interface)
{
        _cleanup_free_ char *path = NULL, *xml = NULL;

        cr_assert(asprintf(&path, "%s/%s.xml", INTERFACE_DIR, interface) > 0);
        xml = read_text(path);
        _cleanup_strv_ char **described = describe(xml, interface, path), **served = describe(introspected, interface, "Introspect");

        STRV_FOREACH (line, described)
                cr_expect(strv_contains(served, *line), "described and not served: %s", *line);
        STRV_FOREACH (line, served)
                cr_expect(strv_contains(described, *line), "served and not described: %s", *line);
        cr_assert(strv_equal(described, served), "%s: the arguments of a member stand in another order", interface);
}

static char *introspect(sd_bus *bus, const char *path)
{
        _cleanup_message_ sd_bus_message *reply = NULL;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        const char *xml;

        int r = sd_bus_call_method(bus, NULL, path, "org.freedesktop.DBus.Introspectable", "Introspect", &e, &reply, "");
        cr_assert_geq(r, 0, "Introspect of %s: %s", path, str_or(e.message, strerror(-r)));
        cr_assert_geq(sd_bus_message_read(reply, "s", &xml), 0);
        return strdup(xml);
}

Test(interfaces, berthd_serves_agent_and_volume_as_described)
{
        Fixture f;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *volume = NULL;

        fixture_init(&f);
        fixture_start(&f, NULL);
        {
                _cleanup_bus_ sd_bus *bus = NULL;
                _cleanup_free_ char *image = fixture_image_formatted(&f, "i", 8 << 20, "ext4");
                _cleanup_free_ char *target = fixture_target(&f, "uid", "v"), *agent_xml = NULL, *volume_xml = NULL;
                _cleanup_mount_params_ MountParams p = loop_params(target, image, "ext4", false);

                cr_assert_eq(client_connect(f.socket, UINT64_MAX, &bus, &err), 0, "%s", str_or(err.text, ""));
                agent_xml = introspect(bus, AGENT_PATH);
                expect_same(agent_xml, AGENT_INTERFACE);

                cr_assert_eq(client_mount(bus, &p, UINT64_MAX, &volume, &err), 0, "%s", str_or(err.text, ""));
                volume_xml = introspect(bus, volume);
                expect_same(volume_xml, VOLUME_INTERFACE);
                cr_assert_eq(client_unmount(bus, target, UINT64_MAX, &err), 0, "%s", str_or(err.text, ""));
        }
        fixture_done(&f);
}

/* The mounter as berthd starts it: its end of a socket pair is descriptor 3. */
static pid_t start_mounter(Fixture *f, int fd)
{
        _cleanup_free_ char *mounter = executable_path(f, "mounter-loop");
        char *argv[] = { mounter,       "--config",    f->config,         "--runtime-dir",  f->runtime_dir, "--state-dir",
                         f->state_dir, "--kubelet-root", f->kubelet_root, NULL };

        write_text(f->config, "");
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
                char text[16];

                snprintf(text, sizeof(text), "%d", getpid());
                setenv("LISTEN_PID", text, 1);
                setenv("LISTEN_FDS", "1", 1);
                if (fd == 3)
                        (void) fcntl(fd, F_SETFD, 0);
                else
                        (void) dup2(fd, 3);
                execv(argv[0], argv);
                _exit(127);
        }
        return pid;
}

Test(interfaces, mounter_serves_mounter_as_described)
{
        Fixture f;
        int pair[2], status;

        fixture_init(&f);
        cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        pid_t pid = start_mounter(&f, pair[1]);
        close(pair[1]);
        {
                _cleanup_bus_ sd_bus *bus = NULL;
                _cleanup_free_ char *xml = NULL;

                cr_assert_geq(sd_bus_new(&bus), 0);
                cr_assert_geq(sd_bus_set_fd(bus, pair[0], pair[0]), 0);
                cr_assert_geq(sd_bus_start(bus), 0);
                xml = introspect(bus, MOUNTER_PATH);
                expect_same(xml, MOUNTER_INTERFACE);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the mounter ended with wait status %#x", (unsigned) status);
        fixture_done(&f);
}
