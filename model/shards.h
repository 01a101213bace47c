/*
 * shards: a model that was split into several GGUF files, seen as one. Pure.
 *
 * Tools that split a model (models above some 50 GB come that way) name the files
 * NAME-00001-of-00003.gguf and so on, put all metadata into the first, give each file a table of
 * its own tensors, and number them: split.no (from 0), split.count, split.tensors.count (of all
 * files together). A cut may go through a layer.
 *
 * Everything above this works on one file, so it gets one: a header that no disk holds, with the
 * first shard's metadata and the tensors of all, and behind it the data of each shard:
 *
 *     | header | ...| shard 0, from its first tensor | 0 | shard 1, from its first tensor | 0 | ...
 *              ^ span 0                                  ^ span 1
 *
 * A span begins at multiples of LAM_SHARDS_ALIGN both here and in its file, so direct reads of it
 * are as direct as those of a single file; between the end of a shard and the next span there are
 * zeros. A file that was never split is one span that begins at 0, under its own header.
 */
#ifndef LAMINAR_MODEL_SHARDS_H
#define LAMINAR_MODEL_SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"
#include "model/gguf.h"

#define LAM_SHARDS_MAX 512u
#define LAM_SHARDS_ALIGN 16384u /* less than the gap that a layer may have (model/manifest.h) */

/* What a file says about itself. count 1: it is a whole model. */
struct lam_shard_numbers {
    uint32_t index; /* from 0 */
    uint32_t count;
    uint64_t n_tensors; /* of all shards */
};

/* Errors: LAM_INVALID_ARGUMENT when the numbers make no sense. */
LAM_MUST_USE enum lam_status lam_shards_number(
    const struct lam_gguf *gguf, struct lam_shard_numbers *ret_numbers, struct lam_err *err);

/*
 * The file name of shard `index` by that of the first, without directories: "a-00001-of-00003.gguf"
 * gives "a-00002-of-00003.gguf" for 1. False: the first one's name is not of that form, or is too
 * long for text.
 */
LAM_MUST_USE bool lam_shards_name(
    const char *first_name, uint32_t index, uint32_t count, char *text, size_t text_bytes);

struct lam_shard {
    const struct lam_gguf *gguf;
    const void *header; /* the bytes that gguf was parsed from */
    uint64_t file_bytes;
};

/* A shard's place among all bytes of the model. */
struct lam_span {
    uint64_t begin;       /* of the model's bytes */
    uint64_t file_offset; /* of the shard, what is at `begin` */
    uint64_t bytes;       /* up to the shard's end */
};

/*
 * Makes one of shards[n], in order, n <= LAM_SHARDS_MAX: the header into an empty buffer, the spans
 * into ret_spans[n], the size of all into *ret_bytes. n = 1: a copy of nothing, ret_header stays
 * empty. Errors: LAM_INVALID_ARGUMENT when they are not the n shards of one model: wrong numbers,
 * a tensor that is there twice or missing; LAM_RESOURCE_EXHAUSTED.
 */
LAM_MUST_USE enum lam_status lam_shards_merge(const struct lam_shard *shards, uint32_t n,
    struct lam_buf *ret_header, struct lam_span *ret_spans, uint64_t *ret_bytes,
    struct lam_err *err);

/* The span that holds the byte at offset: the last that begins at or before it. spans: [n]; offset
 * is not in the header of a split model, which is before the first span. */
uint32_t lam_shards_find(const struct lam_span *spans, uint32_t n, uint64_t offset);

#endif
