/*
 * spec: what a model is, in numbers: the architecture read from the file's metadata and checked
 * against itself and against the tensors. Everything after this (planner, worker, gateway) trusts
 * these fields.
 *
 * Glossary (STYLE.md): T tokens, D model width, H query heads, K key/value heads, d head size,
 * F feed-forward width, V vocabulary, L layers.
 */
#ifndef LAMINAR_MODEL_SPEC_H
#define LAMINAR_MODEL_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"
#include "model/gguf.h"

#define LAM_LAYERS_MAX 1024u

struct lam_spec {
    char architecture[32]; /* "llama" */
    char name[128];        /* general.name, or "" */
    uint32_t n_layers;     /* L */
    uint32_t n_embd;       /* D */
    uint32_t n_heads;      /* H */
    uint32_t n_kv_heads;   /* K, divides H */
    uint32_t head_dim;     /* d */
    uint32_t n_ff;         /* F */
    uint32_t n_vocab;      /* V = rows of the embedding */
    uint32_t n_ctx_train;
    uint32_t rope_dim; /* rotated part of d, even */
    float rope_base;
    float rope_scale; /* linear scaling: positions are divided by this; 1 for none */
    float norm_eps;
    bool tied_head; /* the output head is the embedding matrix */
};

/*
 * Errors: LAM_UNIMPLEMENTED names an architecture or feature that this build does not run;
 * LAM_INVALID_ARGUMENT names the field and the value. Checks that every tensor of the forward pass
 * exists with the right shape, so that a worker never meets a missing one.
 */
LAM_MUST_USE enum lam_status lam_spec_read(
    const struct lam_gguf *gguf, struct lam_spec *ret_spec, struct lam_err *err);

#endif
