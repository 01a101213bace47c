/*
 * synth_shards: a model of synth_model.h as the files that are written of it: one, or the shards of
 * a split model (model/shards.h), named and numbered as the splitting tools of llama.cpp do it.
 *
 * The model's tensors go into shards in file order; another one begins where the next tensor would
 * make this one larger than wanted. The first has all metadata. Immutable after init.
 */
#ifndef LAMINAR_CLI_SYNTH_SHARDS_H
#define LAMINAR_CLI_SYNTH_SHARDS_H

#include <stdint.h>

#include "cli/synth_model.h"
#include "common/buf.h"
#include "common/status.h"

struct lam_synth_shard {
    struct lam_buf header;
    uint64_t data_begin; /* of its tensors, in the model's file */
    uint64_t file_bytes;
};

struct lam_synth_shards {
    const struct lam_synth_model *model; /* outlives the shards */
    struct lam_synth_shard *items;       /* [n], n > 0 */
    uint32_t n;
};

/*
 * shard_bytes_max: 0 for one file. Errors: LAM_INVALID_ARGUMENT when there would be more than
 * LAM_SHARDS_MAX; LAM_RESOURCE_EXHAUSTED. Release with lam_synth_shards_done in every case.
 */
LAM_MUST_USE enum lam_status lam_synth_shards_init(struct lam_synth_shards *shards,
    const struct lam_synth_model *model, uint64_t shard_bytes_max, struct lam_err *err);

void lam_synth_shards_done(struct lam_synth_shards *shards); /* a zeroed struct is allowed */

/* The path of shard `index`: `path` itself if there is one; NAME-00001-of-00003.gguf for both NAME
 * and NAME.gguf. False: too long for text. */
LAM_MUST_USE bool lam_synth_shards_path(const struct lam_synth_shards *shards, const char *path,
    uint32_t index, char *text, size_t text_bytes);

/* Bytes [at, at + n) of shard `index` into out; zeros behind its end. [any thread] */
void lam_synth_shards_read(
    const struct lam_synth_shards *shards, uint32_t index, uint64_t at, uint8_t *out, uint64_t n);

#endif
