/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * What the suites that try to break the agent share: short calls, calls that run beside the test, processes that hold a volume,
 * and a mkfs that waits to be let go. As in the fixture, everything here asserts by itself unless it says otherwise.
 */

#include <jansson.h>
#include <pthread.h>

#include "fixture/fixture.h"

#define _cleanup_json_ _cleanup_(json_decrefp)

/* A printf that aborts when out of memory. */
char *format(const char *text, ...) _printf_(1, 2);

/* ---- chance: the same numbers from the same state ---- */

uint64_t chance(uint64_t *state);
unsigned below(uint64_t *state, unsigned n);

/* ---- one call on a connection of its own; ERROR_NONE on success ---- */

typedef struct Volume {
        const char *image;
        const char *fs_type; /* NULL: default */
        const char *option;  /* one mount option, or NULL */
        const char *size;    /* option size= of the source, or NULL */
        const char *name;    /* volumeName, or NULL */
        bool read_only;
        /* What the driver's requests say; NULL: loop_params() */
        MountParams (*params)(const char *target, const char *image, const char *fs_type, bool read_only);
} Volume;

MountParams volume_params(const Volume *v, const char *target);
/* ret_text (may be NULL) gets the error's text, freed by the caller. */
ErrorCode try_mount(Fixture *f, const char *target, const Volume *v, char **ret_text);
ErrorCode try_attach(Fixture *f, const Volume *v, char **ret_device, char **ret_text);
ErrorCode try_detach(Fixture *f, const char *name);
/* Assert success; mount() returns nothing else. */
void mount_ok(Fixture *f, const char *target, const Volume *v);
void unmount_ok(Fixture *f, const char *target);
/* Asserts the error and that its text names `text` (NULL: anything). */
void mount_refused(Fixture *f, const char *target, const Volume *v, ErrorCode code, const char *text);

/* berthctl with --json; asserts exit status 0. */
json_t *berthctl(Fixture *f, char *const *args);
#define BERTHCTL(f, ...) berthctl(f, (char *[]) { __VA_ARGS__, "--json", NULL })
/* A string property of the volume at target, by Explain; freed by the caller. */
char *volume_property(Fixture *f, const char *target, const char *property);
unsigned count_volumes(Fixture *f);

/* ---- the file system of a mounted target ---- */

void write_line(const char *target, const char *name, const char *line);
void expect_line(const char *target, const char *name, const char *line);
bool is_read_only(const char *target);
uint64_t mount_id(const char *target);

/* ---- calls beside the test ---- */

/* A Mount, Unmount or Attach in a process of its own, which tells its outcome by its exit status. */
typedef struct Call {
        pid_t pid;
        double started;
        double seconds; /* how long it took; after call_wait() */
} Call;

typedef enum CallKind { CALL_MOUNT, CALL_UNMOUNT, CALL_ATTACH } CallKind;

Call call_start(Fixture *f, CallKind kind, const char *target, const Volume *v);
bool call_runs(const Call *c);
ErrorCode call_wait(Call *c);
/* Kills the client: its connection is closed without a word. */
void call_abandon(Call *c);

/* ---- holders ---- */

/*
 * A process that keeps something of a volume. In a mount namespace of its own, which has a copy of every mount that
 * there is now, or (device not NULL) with nothing but an open descriptor of the device.
 */
pid_t holder_start(const char *device);
void holder_end(pid_t pid);

/* ---- a mke2fs that waits ---- */

/*
 * Puts a program in mke2fs' place, in this mount namespace only, that writes a line to a file, waits until gate_open() and then is the
 * real one. Before fixture_start().
 */
void gate_init(Fixture *f);
unsigned gate_count(Fixture *f); /* how often mke2fs was begun */
pid_t gate_caller(Fixture *f);   /* the mounter that began it first */
void gate_wait(Fixture *f, unsigned n); /* until it has been begun n times */
void gate_open(Fixture *f);
/* Takes it away again. */
void gate_done(Fixture *f);

/* Waits, up to seconds, until fixture_is_clean(); fails naming what is left. */
void wait_clean(Fixture *f, double seconds);
