/* json: the few helpers around jansson that every --json output uses. */
#ifndef LAMINAR_CLI_JSON_H
#define LAMINAR_CLI_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* {"version": 1}: the beginning of every object that we print. NULL without memory. */
json_t *lam_json_begin(void);

/* A string of bytes that should be UTF-8 but come from a file: what is not becomes U+FFFD. */
json_t *lam_json_text(const char *text, size_t n_bytes);

/* [1, 2, 3] */
json_t *lam_json_ids(const int32_t *ids, size_t n);

/*
 * Prints the object and a newline to stdout and releases it; NULL (a part could not be built) and a
 * closed stdout are errors: LAM_RESOURCE_EXHAUSTED, LAM_UNAVAILABLE.
 */
LAM_MUST_USE enum lam_status lam_json_print(json_t *object, struct lam_err *err);

#endif
