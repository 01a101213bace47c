/*
 * usage: what a worker says about its memory and its passes, as text and as JSON: for `ps`, and for
 * `run --profile`.
 */
#ifndef LAMINAR_CLI_USAGE_H
#define LAMINAR_CLI_USAGE_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "cli/client.h"

/* Some lines, indented. disk_bytes: read meanwhile; UINT64_MAX: not known. */
void lam_usage_print_memory(FILE *out, const struct lam_client_worker *worker);
void lam_usage_print_passes(FILE *out, const struct lam_client_worker *worker, uint64_t disk_bytes);

/* One line when the worker holds more than it may. */
void lam_usage_warn(FILE *out, const struct lam_client_worker *worker);

/* Objects; null when the worker did not say. */
json_t *lam_usage_memory_json(const struct lam_client_worker *worker);
json_t *lam_usage_profile_json(
    const struct lam_client_worker *worker, const struct lam_client_profile *profile);

#endif
