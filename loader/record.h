/*
 * record: the checksums of a model file, and how they lie in a file of their own. Pure.
 *
 * What a worker computes on is cut into chunks: each unit into pieces of 4 MiB counted from its
 * first byte, and the extents that are read in small ranges (embedding rows, norms) into pieces of
 * 16 KiB, so that checking one row costs one small read. Each chunk has an XXH3-64 sum, or none
 * while it was never read.
 *
 * As a file, in words of 8 bytes, little-endian:
 *
 *     magic | version | identity [8] | layout | n_chunks | known bits | sums [n_chunks] | own XXH3
 *
 * The file is believed only if it has exactly the size, layout and identity that we expect, so a
 * hostile one can make us allocate nothing. Not thread-safe.
 */
#ifndef LAMINAR_LOADER_RECORD_H
#define LAMINAR_LOADER_RECORD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/manifest.h"

#define LAM_RECORD_CHUNK_BYTES ((uint64_t)4 << 20)
#define LAM_RECORD_SMALL_CHUNK_BYTES ((uint64_t)16 << 10)

/* Which bytes the sums are of. All but the digest come from the file system: if those are equal and
 * the digest is not, the bytes changed without having been written. */
struct lam_record_identity {
    uint64_t device;
    uint64_t inode;
    uint64_t bytes; /* of a model in several files: a hash of what stat says of each */
    int64_t mtime_s, mtime_ns;
    int64_t ctime_s, ctime_ns;
    uint64_t digest; /* XXH3 of the model's header */
};

struct lam_record_extent {
    uint64_t file_offset;
    uint64_t bytes;
    uint64_t chunk_bytes;
    uint64_t first_chunk;
};

struct lam_record_chunk {
    uint64_t file_offset;
    uint64_t bytes;
};

struct lam_record {
    struct lam_record_identity identity;
    uint32_t n_units;
    uint32_t n_extents; /* the units, in their order, then the others */
    struct lam_record_extent *extents;
    uint64_t n_chunks;
    uint64_t n_known;
    uint64_t *sums;  /* [n_chunks] */
    uint64_t *known; /* bitmap of chunks */
};

/* A record that knows nothing yet. Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_record_init(const struct lam_record_identity *identity,
    const struct lam_manifest *manifest, struct lam_record *ret_record, struct lam_err *err);

void lam_record_done(struct lam_record *record); /* a zeroed struct is allowed */

void lam_record_forget(struct lam_record *record); /* all sums */

/*
 * Takes the sums over from the bytes of a file; untouched on errors. LAM_INVALID_ARGUMENT: damaged,
 * or no record. LAM_NOT_FOUND: of another version, another file, or this file before it was written
 * to. LAM_DATA_LOSS: of this file, whose header had another digest.
 */
LAM_MUST_USE enum lam_status lam_record_parse(
    struct lam_record *record, const void *bytes, uint64_t n_bytes, struct lam_err *err);

/* Size of the file. */
uint64_t lam_record_file_bytes(const struct lam_record *record);

/* Appends the file to an empty buffer. False without memory. */
LAM_MUST_USE bool lam_record_format(const struct lam_record *record, struct lam_buf *buf);

struct lam_record_chunk lam_record_chunk(const struct lam_record *record, uint64_t chunk);

/* The chunks of extent `index`: [*ret_first, *ret_first + *ret_n). */
void lam_record_chunks_of(
    const struct lam_record *record, uint32_t index, uint64_t *ret_first, uint64_t *ret_n);

/* The small chunk that holds the byte at file_offset; false: it is in none. */
LAM_MUST_USE bool lam_record_find_small(
    const struct lam_record *record, uint64_t file_offset, uint64_t *ret_chunk);

bool lam_record_knows(const struct lam_record *record, uint64_t chunk);

/* First sight: the chunk was not known. */
void lam_record_set(struct lam_record *record, uint64_t chunk, uint64_t sum);

#endif
