/*
 * verify: reads everything that a worker would ever compute on, once, from the drive and not from
 * the page cache, and compares it with the record (integrity.h), or makes the record.
 */
#ifndef LAMINAR_LOADER_VERIFY_H
#define LAMINAR_LOADER_VERIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/file.h"
#include "loader/integrity.h"

#define LAM_VERIFY_PLACES_MAX 1000u
#define LAM_VERIFY_THREADS_MAX 4u
#define LAM_VERIFY_PART_BYTES 32u

struct lam_verify_config {
    const struct lam_file *file;
    struct lam_integrity *integrity;
    uint32_t n_threads; /* that read ahead of each other, 1..LAM_VERIFY_THREADS_MAX */
    /* Ten times a second, and at the end, on the caller's thread. */
    void (*on_progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    /* The first LAM_VERIFY_PLACES_MAX differences, as they are found, on threads that read. May be
     * NULL. */
    void (*on_difference)(void *arg, const struct lam_record_chunk *place);
    /* After about LAM_RECORD_CHUNK_BYTES that took took_ns to read and to sum, on the thread that
     * did: it may wait. False: no more. May be NULL. */
    bool (*on_step)(void *arg, uint64_t took_ns);
    void *arg;
};

struct lam_verify_result {
    uint64_t total_bytes; /* of the file: a tied head, which has two sums, counts once */
    uint64_t n_chunks;
    uint64_t n_compared;  /* the others were seen for the first time */
    uint64_t n_different; /* chunks that differ, twice in a row */
    uint32_t n_places;    /* the first of them, in the order in which they were found */
    struct lam_record_chunk places[LAM_VERIFY_PLACES_MAX];
};

/*
 * Reads and compares; differences are a result, not an error. The record is not saved.
 * Errors: LAM_DATA_LOSS when the file changes meanwhile, LAM_UNAVAILABLE for a read error,
 * LAM_CANCELLED after a false from on_step, LAM_RESOURCE_EXHAUSTED; *ret_result is then not filled.
 */
LAM_MUST_USE enum lam_status lam_verify(const struct lam_verify_config *config,
    struct lam_verify_result *ret_result, struct lam_err *err);

/* "layer 3", "head 0", "embedding" or "norms": what lies there. Returns text. */
const char *lam_verify_name_part(const struct lam_manifest *manifest,
    const struct lam_record_chunk *place, char text[LAM_VERIFY_PART_BYTES]);

#endif
