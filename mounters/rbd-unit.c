/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * Transient units over sd-bus, by the service manager's own socket: it answers also where no D-Bus daemon runs, and while one is being restarted.
 * Runs in the rbd mounter; each call has a time limit.
 *
 * Invariant: nothing that a volume's author wrote, and no secret, is a property of the unit, which everybody may read. rbd-nbd-run takes both
 * from files of root's.
 */

#include "mounters/rbd-unit.h"

#include <linux/capability.h>
#include <stdarg.h>
#include <string.h>

#include "mounters/nbd-device.h"
#include "protocol/bus-util.h"

#define MANAGER_ADDRESS "unix:path=/run/systemd/private"
#define MANAGER_PATH "/org/freedesktop/systemd1"
#define MANAGER_INTERFACE "org.freedesktop.systemd1.Manager"
#define UNIT_INTERFACE "org.freedesktop.systemd1.Unit"
#define CALL_USEC (10 * UINT64_C(1000000))
#define RESTART_USEC (100 * UINT64_C(1000))
#define UNIT_STATUS_EXEC 203 /* systemd.exec(5): there is no such program */
#define STOP_USEC (20 * UINT64_C(1000000))

void rbd_unit_name(const char *volume_key, char ret[static UNIT_NAME_MAX])
{
        snprintf(ret, UNIT_NAME_MAX, "berth-nbd-%.80s.service", volume_key);
}

/* systemd.unit(5), "String escaping for inclusion in unit names"; the path is absolute and has no empty parts. */
char *rbd_unit_of_mount(const char *path)
{
        size_t n = strlen(path);
        char *text = malloc(n * 4 + sizeof(".mount")), *to = text;

        if (!text)
                return NULL;
        for (const char *p = path + (*path == '/'); *p; p++)
                if (*p == '/')
                        *to++ = '-';
                else if ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || *p == ':' || *p == '_' ||
                         (*p == '.' && p > path + 1))
                        *to++ = *p;
                else
                        to += sprintf(to, "\\x%02x", (unsigned char) *p);
        memcpy(to, ".mount", sizeof(".mount"));
        return text;
}

static int manager_open(sd_bus **ret, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        int r = sd_bus_new(&bus);

        if (r >= 0)
                r = sd_bus_set_address(bus, MANAGER_ADDRESS);
        if (r >= 0)
                r = sd_bus_start(bus);
        if (r >= 0)
                r = sd_bus_set_method_call_timeout(bus, CALL_USEC);
        if (r < 0)
                return error_set(err, ERROR_RBD_NBD_FAILED, r,
                                 "Cannot connect to systemd, in a unit of which rbd-nbd would run (%s): %s", MANAGER_ADDRESS, strerror(-r));
        *ret = TAKE_PTR(bus);
        return 0;
}

/* --- properties --- */

static int property(sd_bus_message *m, const char *name, const char *type, ...)
{
        va_list args;
        int r = sd_bus_message_open_container(m, 'r', "sv");

        if (r >= 0)
                r = sd_bus_message_append_basic(m, 's', name);
        if (r >= 0)
                r = sd_bus_message_open_container(m, 'v', type);
        if (r >= 0) {
                va_start(args, type);
                r = sd_bus_message_appendv(m, type, args);
                va_end(args);
        }
        if (r >= 0)
                r = sd_bus_message_close_container(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

static int properties_service(sd_bus_message *m, const UnitPlan *p)
{
        _cleanup_free_ char *description = NULL;

        if (asprintf(&description, "rbd-nbd for volume %s", p->volume_key) < 0) {
                description = NULL;
                return -ENOMEM;
        }
        int r = property(m, "Description", "s", description);
        if (r >= 0)
                r = property(m, "Documentation", "as", 1, "man:berth-flexvolume(8)");
        /* not forking: of a process that is not the main one systemd does not heed the exit status below */
        if (r >= 0)
                r = property(m, "Type", "s", "exec");
        if (r >= 0)
                r = property(m, "ExecStart", "a(sasb)", 1, p->program, 3, p->program, p->runtime_dir, p->volume_key, 0);
        /* also when it was asked to end: the device goes on waiting for a server. rbd-nbd-run knows when there is none left */
        if (r >= 0)
                r = property(m, "Restart", "s", "always");
        if (r >= 0)
                r = property(m, "RestartUSec", "t", RESTART_USEC);
        /* nor is one whose package has been removed: that is for the next look at the volume */
        if (r >= 0)
                r = property(m, "RestartPreventExitStatus", "(aiai)", 2, UNIT_STATUS_NOTHING, UNIT_STATUS_EXEC, 0);
        if (r >= 0)
                r = property(m, "SuccessExitStatus", "(aiai)", 1, UNIT_STATUS_NOTHING, 0);
        if (r >= 0)
                r = property(m, "StartLimitIntervalUSec", "t", UINT64_C(0));
        if (r >= 0)
                r = property(m, "TimeoutStopUSec", "t", STOP_USEC);
        if (r >= 0)
                r = property(m, "CollectMode", "s", "inactive-or-failed");
        return r < 0 ? r : property(m, "SyslogIdentifier", "s", "berth-rbd-nbd");
}

/*
 * At shutdown it ends after the volume is unmounted, by berth-drain.service or by systemd, and before the network goes. Nobody stops it
 * otherwise: neither by hand nor with what restarts services after an upgrade of a library.
 */
static int properties_order(sd_bus_message *m, const UnitPlan *p)
{
        _cleanup_free_ char *path = NULL, *stage = NULL;

        if (asprintf(&path, "%s/staging/%s", p->runtime_dir, p->volume_key) < 0) {
                path = NULL;
                return -ENOMEM;
        }
        stage = rbd_unit_of_mount(path);
        if (!stage)
                return -ENOMEM;
        int r = property(m, "DefaultDependencies", "b", 0);
        if (r >= 0)
                r = property(m, "Conflicts", "as", 1, "shutdown.target");
        if (r >= 0)
                r = property(m, "Before", "as", 3, "shutdown.target", "berth-drain.service", stage);
        if (r >= 0)
                r = property(m, "After", "as", 3, "network.target", "network-online.target", "systemd-journald.socket");
        if (r >= 0)
                r = property(m, "RefuseManualStop", "b", 1);
        return r < 0 ? r : property(m, "IgnoreOnIsolate", "b", 1);
}

/* Nothing that makes a mount namespace of its own, in which a volume's mounts would be held. */
static int properties_sandbox(sd_bus_message *m)
{
        int r = property(m, "UMask", "u", 0077U);

        /* without it no page of the volume can be written back, which is what a node short of memory needs */
        if (r >= 0)
                r = property(m, "OOMScoreAdjust", "i", -900);
        /* a connection for each OSD */
        if (r >= 0)
                r = property(m, "LimitNOFILE", "t", UINT64_C(65536));
        if (r >= 0)
                r = property(m, "LimitNOFILESoft", "t", UINT64_C(65536));
        /* it has the key in its memory */
        if (r >= 0)
                r = property(m, "LimitCORE", "t", UINT64_C(0));
        if (r >= 0)
                r = property(m, "NoNewPrivileges", "b", 1);
        if (r >= 0)
                r = property(m, "CapabilityBoundingSet", "t", UINT64_C(1) << CAP_SYS_ADMIN);
        if (r >= 0)
                r = property(m, "RestrictAddressFamilies", "(bas)", 1, 4, "AF_UNIX", "AF_NETLINK", "AF_INET", "AF_INET6");
        if (r >= 0)
                r = property(m, "SystemCallArchitectures", "as", 1, "native");
        if (r >= 0)
                r = property(m, "LockPersonality", "b", 1);
        if (r >= 0)
                r = property(m, "RestrictRealtime", "b", 1);
        if (r >= 0)
                r = property(m, "RestrictSUIDSGID", "b", 1);
        return r < 0 ? r : property(m, "RestrictNamespaces", "t", UINT64_C(0));
}

static int properties(sd_bus_message *m, const UnitPlan *p)
{
        int r = sd_bus_message_open_container(m, 'a', "(sv)");

        if (r >= 0)
                r = properties_service(m, p);
        if (r >= 0)
                r = properties_order(m, p);
        if (r >= 0)
                r = properties_sandbox(m);
        return r < 0 ? r : sd_bus_message_close_container(m);
}

/* --- the three requests --- */

int rbd_unit_start(const UnitPlan *p, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_message_ sd_bus_message *m = NULL;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        char name[UNIT_NAME_MAX];
        int r = manager_open(&bus, err);

        if (r < 0)
                return r;
        rbd_unit_name(p->volume_key, name);
        r = sd_bus_message_new_method_call(bus, &m, NULL, MANAGER_PATH, MANAGER_INTERFACE, "StartTransientUnit");
        if (r >= 0)
                r = sd_bus_message_append(m, "ss", name, "fail");
        if (r >= 0)
                r = properties(m, p);
        if (r >= 0)
                r = sd_bus_message_append(m, "a(sa(sv))", 0);
        if (r >= 0)
                r = sd_bus_call(bus, m, CALL_USEC, &e, NULL);
        if (r < 0 && sd_bus_error_has_name(&e, "org.freedesktop.systemd1.UnitExists"))
                return 0;
        return r < 0 ? error_set(err, ERROR_RBD_NBD_FAILED, r, "systemd does not start %s: %s", name, str_or(e.message, strerror(-r))) : 0;
}

static UnitState state_of(const char *text)
{
        return strcmp(text, "inactive") == 0 ? UNIT_GONE
               : strcmp(text, "active") == 0 ? UNIT_RUNNING
               : strcmp(text, "failed") == 0 ? UNIT_FAILED
                                             : UNIT_CHANGING;
}

/* What is queued has not begun, and the unit looks as before. */
static bool has_job(sd_bus *bus, const char *path)
{
        _cleanup_message_ sd_bus_message *m = NULL;
        uint32_t id = 0;

        return sd_bus_get_property(bus, NULL, path, UNIT_INTERFACE, "Job", NULL, &m, "(uo)") >= 0 &&
               sd_bus_message_read(m, "(uo)", &id, NULL) >= 0 && id != 0;
}

/* The job before the state: a job that is done by the first call shows in the second; the other way round both would belong to no one moment. */
int rbd_unit_state(const char *volume_key, UnitState *ret, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        _cleanup_free_ char *path = NULL, *state = NULL;
        char name[UNIT_NAME_MAX];
        bool queued = false;
        int r = manager_open(&bus, err);

        if (r < 0)
                return r;
        rbd_unit_name(volume_key, name);
        r = sd_bus_path_encode(MANAGER_PATH "/unit", name, &path);
        if (r >= 0) {
                queued = has_job(bus, path);
                r = sd_bus_get_property_string(bus, NULL, path, UNIT_INTERFACE, "ActiveState", &e, &state);
        }
        if (r < 0 && !sd_bus_error_has_name(&e, SD_BUS_ERROR_UNKNOWN_OBJECT))
                return error_set(err, ERROR_RBD_NBD_FAILED, r, "systemd does not tell the state of %s: %s", name,
                                 str_or(e.message, strerror(-r)));
        *ret = r < 0 ? UNIT_GONE : state_of(state);
        if ((*ret == UNIT_GONE || *ret == UNIT_FAILED) && queued)
                *ret = UNIT_CHANGING;
        return 0;
}

int rbd_unit_kill(const char *volume_key, Error *err)
{
        _cleanup_bus_ sd_bus *bus = NULL;
        _cleanup_bus_error_ sd_bus_error e = SD_BUS_ERROR_NULL;
        char name[UNIT_NAME_MAX];
        int r = manager_open(&bus, err);

        if (r < 0)
                return r;
        rbd_unit_name(volume_key, name);
        r = sd_bus_call_method(bus, NULL, MANAGER_PATH, MANAGER_INTERFACE, "KillUnit", &e, NULL, "ssi", name, "all", 9);
        if (r < 0 && (sd_bus_error_has_name(&e, "org.freedesktop.systemd1.NoSuchUnit") ||
                      sd_bus_error_has_name(&e, "org.freedesktop.systemd1.NoSuchProcess") || r == -ESRCH))
                return 0;
        return r < 0 ? error_set(err, ERROR_RBD_NBD_FAILED, r, "systemd does not end %s: %s", name, str_or(e.message, strerror(-r))) : 0;
}
