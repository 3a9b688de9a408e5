/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Records: read or refused with a reason; what was read is written in a form that reads the same. */

#include "fuzz.h"

#include "daemon/manager.h"
#include "daemon/store.h"

static Manager manager;

/* The record of the text's volume as it would be written, or NULL if the text is refused. */
static char *rewrite(const char *text, size_t size)
{
        _cleanup_error_ Error err = ERROR_INIT;
        Volume *v = NULL;

        if (store_parse(&manager, text, size, &v, &err) < 0) {
                FUZZ_ASSERT(!v && err.code != ERROR_NONE && err.text && *err.text);
                return NULL;
        }
        FUZZ_ASSERT(volume_key_is_valid(v->key));
        char *written = store_serialize(v);
        FUZZ_ASSERT(written);
        volume_free(v);
        return written;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *once = rewrite((const char *) data, size);

        if (once) {
                _cleanup_free_ char *twice = rewrite(once, strlen(once));
                FUZZ_ASSERT(twice && strcmp(once, twice) == 0);
        }
        return 0;
}
