/*
 * verify: reads everything that a worker would ever compute on, once, from the drive and not from
 * the page cache, and compares it with the record (integrity.h), or makes the record.
 */
#ifndef LAMINAR_LOADER_VERIFY_H
#define LAMINAR_LOADER_VERIFY_H

#include <stdint.h>

#include "common/status.h"
#include "loader/file.h"
#include "loader/integrity.h"

#define LAM_VERIFY_PLACES_MAX 1000u

struct lam_verify_config {
    const struct lam_file *file;
    struct lam_integrity *integrity;
    /* Ten times a second, and at the end, on the caller's thread. */
    void (*on_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};

struct lam_verify_result {
    uint64_t total_bytes;
    uint64_t n_different; /* chunks that differ, twice in a row */
    uint32_t n_places;    /* the first of them, in the order in which they were found */
    struct lam_record_chunk places[LAM_VERIFY_PLACES_MAX];
};

/*
 * Reads and compares; differences are a result, not an error. The record is not saved.
 * Errors: LAM_DATA_LOSS when the file changes meanwhile, LAM_UNAVAILABLE for a read error,
 * LAM_RESOURCE_EXHAUSTED; *ret_result is then not filled.
 */
LAM_MUST_USE enum lam_status lam_verify(const struct lam_verify_config *config,
    struct lam_verify_result *ret_result, struct lam_err *err);

#endif
