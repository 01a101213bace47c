/*
 * manifest: the model file as a list of units.
 *
 * A unit is what the loader reads, keeps and evicts together, and what a worker computes on between
 * one acquire and one release: one contiguous extent of the file and the table of the tensors in
 * it. Units stand in the order in which a pass needs them:
 *
 *     layer 0, layer 1, ... layer L-1, head tile 0, head tile 1, ...
 *
 * The head is cut into row tiles no larger than the largest layer (or 1 MiB), so that a pool of a
 * few layers can stream it. A pass needs a few rows of the embedding matrix, and those are gathered
 * (`embedding`). In a tied model the head tiles are ranges of the same matrix; in another one the
 * matrix is a unit behind all others, the *table*, which no pass walks over and nobody streams: a
 * loader with room for it keeps it (model/kept.h), and rows are read where they lie.
 *
 * A layer whose tensors do not lie together in the file (gaps above 64 KiB and 1/16 of its
 * size) is refused by name.
 */
#ifndef LAMINAR_MODEL_MANIFEST_H
#define LAMINAR_MODEL_MANIFEST_H

#include <stdbool.h>
#include <stdint.h>

#include "common/dtype.h"
#include "common/status.h"
#include "model/gguf.h"
#include "model/spec.h"

/* The matrices and vectors of a layer, and of the head. */
enum lam_tensor_role {
    LAM_T_ATTN_NORM,   /* f32 [D] */
    LAM_T_ATTN_Q,      /* [H*d, D] */
    LAM_T_ATTN_K,      /* [K*d, D] */
    LAM_T_ATTN_V,      /* [K*d, D] */
    LAM_T_ATTN_OUT,    /* [D, H*d] */
    LAM_T_FFN_NORM,    /* f32 [D] */
    LAM_T_FFN_GATE,    /* [F, D] */
    LAM_T_FFN_UP,      /* [F, D] */
    LAM_T_FFN_DOWN,    /* [D, F] */
    LAM_T_OUTPUT_NORM, /* f32 [D]; small, copied at start: see `vectors` */
    LAM_T_OUTPUT,      /* [rows, D]: a tile of the head */
    LAM_T_ROPE_FREQS,  /* f32 [rope_dim / 2]; optional, Llama 3 frequency factors */
    LAM_T_EMBEDDING,   /* [V, D] */
    LAM_T_ROLES,
};

struct lam_unit_tensor {
    enum lam_tensor_role role;
    enum lam_dtype dtype;
    uint64_t n_rows;
    uint64_t n_cols;    /* row length in weights */
    uint64_t row_begin; /* first row within the whole matrix: > 0 in head tiles only */
    uint64_t offset;    /* of its first byte, from unit.file_offset */
    uint64_t bytes;
};

#define LAM_UNIT_TENSORS_MAX 16u

enum lam_unit_kind { LAM_UNIT_LAYER, LAM_UNIT_HEAD, LAM_UNIT_TABLE };

struct lam_unit {
    enum lam_unit_kind kind;
    uint32_t layer;       /* for layers: 0..L-1; for head tiles: the tile's number; table: 0 */
    uint64_t file_offset; /* exact first byte; any alignment */
    uint64_t bytes;
    uint32_t n_tensors;
    struct lam_unit_tensor tensors[LAM_UNIT_TENSORS_MAX];
};

/* A tensor outside of units: gathered by row or read once at start. */
struct lam_extent {
    enum lam_dtype dtype;
    uint64_t n_rows;
    uint64_t n_cols;
    uint64_t row_bytes;
    uint64_t file_offset;
    uint64_t bytes; /* 0: absent */
};

struct lam_manifest {
    uint32_t n_units;       /* of a pass */
    struct lam_unit *units; /* [n_units], in pass order, and the table behind them */
    bool has_table;         /* units[n_units] is the embedding, which no other unit has */
    uint64_t unit_bytes_max;
    uint64_t unit_bytes_total; /* what one pass walks over */
    struct lam_extent embedding;
    struct lam_extent output_norm;
    struct lam_extent rope_freqs;
};

/* Errors: LAM_INVALID_ARGUMENT with the tensor's name. Destroy with lam_manifest_done. */
LAM_MUST_USE enum lam_status lam_manifest_build(const struct lam_gguf *gguf,
    const struct lam_spec *spec, struct lam_manifest *ret_manifest, struct lam_err *err);

void lam_manifest_done(struct lam_manifest *manifest); /* a zeroed struct is allowed */

/* The unit that row `id` of the embedding lies in: the table, or a tile of the head. Its tensor's
 * row_begin counts from the matrix's first row. */
uint32_t lam_manifest_row_unit(const struct lam_manifest *manifest, uint64_t id);

/* The tensor of that role in the unit, or NULL. */
const struct lam_unit_tensor *lam_unit_find(const struct lam_unit *unit, enum lam_tensor_role role);

#endif
