/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/*
 * berthd's side of io.berth.Mounter1 for tests: the real mounter executable, started on a socketpair as berthd starts
 * it. Everything here fails the test when it cannot do its work.
 */

#include "fixture/fixture.h"
#include "mounters/mounter.h"
#include "protocol/bus-util.h"

typedef struct MounterClient {
        Fixture *f;
        pid_t pid;
        sd_bus *bus;
        unsigned n_progress; /* signals Progress that came */
} MounterClient;

/* Writes berthd.conf ([Loop], [Targets], and extra: whole sections, or NULL) and starts <build>/mounters/mounter-<kind>. */
void mounter_client_start(MounterClient *c, Fixture *f, const char *kind, const char *extra_config);
/* Closes the connection and waits for the end of the process, whose exit status must be 0. */
void mounter_client_stop(MounterClient *c);
/* Only closes the connection; the caller waits. */
void mounter_client_disconnect(MounterClient *c);

/* The request as berthd sends it: every field that is set. The caller frees it. */
sd_bus_message *mounter_request(MounterClient *c, const char *method, const MounterVolume *v);
/* Calls and waits. r and err may be NULL; what r held is freed first. */
ErrorCode mounter_call(MounterClient *c, const char *method, const MounterVolume *v, MounterResult *r, Error *err);
#define MOUNTER_OK(c, method, v, r)                                                                          \
        do {                                                                                                 \
                _cleanup_error_ Error _e = ERROR_INIT;                                                       \
                cr_assert_eq(mounter_call((c), (method), (v), (r), &_e), ERROR_NONE, "%s: %s", (method),     \
                             str_or(_e.text, error_code_name(_e.code)));                                     \
        } while (0)
#define MOUNTER_FAILS(c, method, v, expected)                                                                \
        do {                                                                                                 \
                _cleanup_error_ Error _e = ERROR_INIT;                                                       \
                ErrorCode _code = mounter_call((c), (method), (v), NULL, &_e);                               \
                cr_assert_eq(_code, (expected), "%s gave %s (%s) instead of %s", (method),                   \
                             error_code_name(_code), str_or(_e.text, ""), error_code_name(expected));        \
        } while (0)

/* A loop volume on an image: the fields a request starts with. */
void volume_init(MounterVolume *v, const char *image, const char *size, const char *fs_type);
void volume_free(MounterVolume *v);
/* Resolve, Create where it is missing, and Resolve again: fills key, identity and staging path. */
void volume_resolve(MounterClient *c, MounterVolume *v);
/* Attach: fills device, number and foreign. */
void volume_attach(MounterClient *c, MounterVolume *v);
/* Stage, with Format and Fsck where they are asked for. */
void volume_stage(MounterClient *c, MounterVolume *v);
/* All of it, up to being staged. */
void volume_up(MounterClient *c, MounterVolume *v);
/* Unstage and Detach, until gone. */
void volume_down(MounterClient *c, MounterVolume *v);
