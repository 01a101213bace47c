/*
 * integrity: are these the bytes that the model file had when we first read them?
 *
 * The sums of record.h, taken at first sight, compared ever after; kept in a file of its own under
 * a cache directory, so that the next run compares with what this one saw. Trouble with the cache
 * (no directory, a full or read-only disk, a damaged record) costs the memory of earlier runs,
 * never the start: lam_integrity_note says so in words. docs/design/004-integrity.md has the
 * reasons.
 *
 * All functions but open and close may be called from any thread.
 */
#ifndef LAMINAR_LOADER_INTEGRITY_H
#define LAMINAR_LOADER_INTEGRITY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "loader/file.h"
#include "loader/record.h"
#include "loader/sums.h"

struct lam_integrity;

struct lam_integrity_counts {
    uint64_t chunks;
    uint64_t known;        /* that have a sum, from this run or an earlier one */
    uint64_t compared;     /* checks so far that had a sum to compare with */
    uint64_t recorded;     /* chunks first seen in this run */
    uint64_t crc_failures; /* checks that found other bytes; a second try counts again */
};

/*
 * file outlives it. dir: the cache, made if it is not there; NULL: in memory only.
 * Errors: LAM_DATA_LOSS when the file's header has changed without the file having been written to;
 * LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_integrity_open(const struct lam_file *file, const char *dir,
    struct lam_integrity **ret_integrity, struct lam_err *err);

/* Does not save. NULL is allowed. */
void lam_integrity_close(struct lam_integrity *integrity);

/* What went wrong with the cache at open, or "". */
const char *lam_integrity_note(const struct lam_integrity *integrity);

/* Path of the record; "" when it is in memory only. Valid until close. */
const char *lam_integrity_path(const struct lam_integrity *integrity);

/* Forgets all sums: what is read next is believed. */
void lam_integrity_forget(struct lam_integrity *integrity);

struct lam_record_chunk lam_integrity_chunk(const struct lam_integrity *integrity, uint64_t chunk);

/* The chunks of a unit: [*ret_first, *ret_first + *ret_n). */
void lam_integrity_chunks_of(
    const struct lam_integrity *integrity, uint32_t unit, uint64_t *ret_first, uint64_t *ret_n);

/*
 * Sums up the chunk's bytes and compares, or records at first sight. The caller has made sure that
 * the file had not changed after they were read. Errors: LAM_DATA_LOSS naming file and offset.
 */
LAM_MUST_USE enum lam_status lam_integrity_check(
    struct lam_integrity *integrity, uint64_t chunk, const void *bytes, struct lam_err *err);

/* The same for n_chunks that lie next to each other in one unit, at most LAM_SUMS_MAX: bytes are
 * those of the first. All are compared; the error is that of the first that differs. */
LAM_MUST_USE enum lam_status lam_integrity_check_run(struct lam_integrity *integrity,
    uint64_t chunk, uint64_t n_chunks, const void *bytes, struct lam_err *err);

/*
 * Reads [offset, offset + n_bytes) through the page cache, checked wherever the record has small
 * chunks; twice where the first try brought other bytes. Elsewhere it is a plain read: headers are
 * known by their digest, weights of units come through lam_integrity_check.
 * scratch: LAM_RECORD_SMALL_CHUNK_BYTES. Errors: as lam_file_read and lam_integrity_check.
 */
LAM_MUST_USE enum lam_status lam_integrity_read(struct lam_integrity *integrity, uint64_t offset,
    void *out, uint64_t n_bytes, unsigned char *scratch, struct lam_err *err);

/* lam_integrity_read is coming: begins to read from the disk what it compares, which is more than
 * the range. */
void lam_integrity_expect(struct lam_integrity *integrity, uint64_t offset, uint64_t n_bytes);

/* Is there something new to save? */
bool lam_integrity_is_dirty(struct lam_integrity *integrity);

/*
 * Writes the record, wholly or not at all. Nothing to do without a directory or news. After an
 * error the record lives in memory only. Errors: LAM_RESOURCE_EXHAUSTED (a full disk, among
 * others), LAM_PERMISSION_DENIED, LAM_UNAVAILABLE.
 */
LAM_MUST_USE enum lam_status lam_integrity_save(
    struct lam_integrity *integrity, struct lam_err *err);

void lam_integrity_count(struct lam_integrity *integrity, struct lam_integrity_counts *ret_counts);

#endif
