/* SPDX-License-Identifier: LGPL-2.1-or-later */

/*
 * berthctl mount: what the kubelet's mount does, from the command line. Secrets are read from files, since
 * arguments are shown by ps. Blocks until the agent answers.
 */

#include "ctl.h"
#include "output.h"

enum {
        OPTION_TARGET = OPTION_OWN,
        OPTION_DRIVER,
        OPTION_OPTION,
        OPTION_FS_TYPE,
        OPTION_READ_ONLY,
        OPTION_MOUNT_OPTION,
        OPTION_SECRET_FILE,
        OPTION_VOLUME_NAME,
        OPTION_POD_NAME,
        OPTION_POD_NAMESPACE,
        OPTION_POD_UID,
};

static const struct option options[] = {
        CTL_OPTIONS,
        { "target", required_argument, NULL, OPTION_TARGET },
        { "driver", required_argument, NULL, OPTION_DRIVER },
        { "option", required_argument, NULL, OPTION_OPTION },
        { "fs-type", required_argument, NULL, OPTION_FS_TYPE },
        { "read-only", no_argument, NULL, OPTION_READ_ONLY },
        { "mount-option", required_argument, NULL, OPTION_MOUNT_OPTION },
        { "secret-file", required_argument, NULL, OPTION_SECRET_FILE },
        { "volume-name", required_argument, NULL, OPTION_VOLUME_NAME },
        { "pod-name", required_argument, NULL, OPTION_POD_NAME },
        { "pod-namespace", required_argument, NULL, OPTION_POD_NAMESPACE },
        { "pod-uid", required_argument, NULL, OPTION_POD_UID },
        {},
};

static int add_option(Ctl *c, MountParams *p, int option)
{
        const struct {
                int option;
                char **field;
        } strings[] = {
                { OPTION_TARGET, &p->target },         { OPTION_DRIVER, &p->driver },
                { OPTION_FS_TYPE, &p->fs_type },       { OPTION_VOLUME_NAME, &p->volume_name },
                { OPTION_POD_NAME, &p->pod_name },     { OPTION_POD_NAMESPACE, &p->pod_namespace },
                { OPTION_POD_UID, &p->pod_uid },
        };
        int r = 0;

        if (option == OPTION_OPTION)
                return ctl_add_pair(c, &p->source, optarg);
        if (option == OPTION_SECRET_FILE)
                return ctl_add_secret(c, &p->secrets, optarg);
        if (option == OPTION_READ_ONLY)
                p->read_only = true;
        else if (option == OPTION_MOUNT_OPTION)
                r = strv_append(&p->mount_options, optarg);
        for (size_t i = 0; i < ELEMENTSOF(strings); i++)
                if (strings[i].option == option)
                        r = str_replace(strings[i].field, optarg);
        if (r < 0)
                ctl_usage(c, "Out of memory");
        return r;
}

typedef struct Mount {
        const MountParams *params;
        uint64_t deadline_usec;
        char *volume;
} Mount;

static int ask_mount(sd_bus *bus, void *userdata, Error *err)
{
        Mount *m = userdata;

        return client_mount(bus, m->params, m->deadline_usec, &m->volume, err);
}

static ExitStatus mount_run(Ctl *c, int argc, char **argv)
{
        _cleanup_mount_params_ MountParams p = MOUNT_PARAMS_INIT;
        _cleanup_error_ Error err = ERROR_INIT;
        _cleanup_free_ char *volume = NULL;
        Mount m = { &p, c->deadline_usec, NULL };
        int option, r;

        while ((option = ctl_next_option(c, argc, argv, options)) != 0)
                if (option < 0 || add_option(c, &p, option) < 0)
                        return c->status;
        if (optind < argc)
                return ctl_usage(c, "Too many arguments: %s", argv[optind]);
        if (!p.target || !p.driver)
                return ctl_usage(c, "--%s is missing", p.target ? "driver" : "target");

        r = ctl_ask(c, ask_mount, &m, &err);
        volume = m.volume;
        if (r < 0)
                return ctl_fail(&err);
        if (c->json) {
                _cleanup_json_ json_t *j = json_pack("{s:s}", "volume", volume);
                print_json(j);
        }
        return STATUS_OK;
}

const Verb verb_mount = {
        .name = "mount",
        .arguments = "--target DIR --driver KIND --option KEY=VALUE…",
        .summary = "Attach, stage and publish a volume at a directory",
        .help = "  --target DIR          an existing directory: a pod's volume directory, or one below [Targets] Allow=\n"
                "  --driver KIND         loop, nfs or rbd\n"
                "  --option KEY=VALUE    what the driver needs to find the volume, such as path=F or size=64M; repeat it\n"
                "  --fs-type TYPE        ext4 (default), ext3, ext2, xfs or btrfs\n"
                "  --read-only           mount read-only\n"
                "  --mount-option X      one option of the mount; repeat it\n"
                "  --secret-file KEY=F   a secret, read from the file F; repeat it\n"
                "  --volume-name NAME    the name of the PersistentVolume or of the pod's volume\n"
                "  --pod-name NAME, --pod-namespace NAME, --pod-uid UID\n"
                "                        for whom it is mounted; shown by list and explain\n\n"
                "Repeating it is harmless. With --json: the volume's D-Bus object path.\n",
        .run = mount_run,
};
