/*
 * synth_model: a model file that does not exist yet: its header, and any stretch of its bytes on
 * demand. Random weights of sane scale in the shape of a preset, and a byte-level vocabulary that
 * is as large as the shape says.
 *
 * Matrices are scaled so that activations stay near 1 through all layers and logits have a standard
 * deviation of 2: neither flat nor certain. Norms are 1. The bytes depend on nothing but the
 * request.
 */
#ifndef LAMINAR_CLI_SYNTH_MODEL_H
#define LAMINAR_CLI_SYNTH_MODEL_H

#include <stdint.h>

#include "cli/synth_pattern.h"
#include "common/buf.h"
#include "common/status.h"
#include "model/preset.h"
#include "model/spec.h"

/* Types of a whole file, as a table of flags wants its choices. */
#define LAM_SYNTH_TYPES "f32|f16|bf16|q8_0|q4_0|q4_1|q5_0|q5_1|q4_k|q5_k|q6_k|q4_k_m"

struct lam_synth_request {
    const struct lam_preset *preset;
    const char *type;  /* one of LAM_SYNTH_TYPES (asserted) */
    uint32_t n_layers; /* 0: the preset's */
    uint64_t seed;
};

#define LAM_SYNTH_PATTERNS_MAX 16u

/* One tensor of the file: a stretch of a pattern, or given bytes. */
struct lam_synth_part {
    uint64_t offset; /* in the file */
    uint64_t bytes;
    const struct lam_synth_pattern *pattern; /* NULL: given */
    uint64_t phase;                          /* where in the pattern it begins */
    const float *given;                      /* repeated after given_bytes; [given_bytes / 4] */
    uint64_t given_bytes;
};

struct lam_synth_model {
    struct lam_spec spec;
    struct lam_buf header;
    struct lam_buf keys; /* of the header, as lam_gguf_put_keys wants them */
    uint64_t n_keys;
    uint64_t file_bytes;
    uint64_t n_weights;
    struct lam_synth_part *parts; /* [n_parts], ascending offsets */
    uint32_t n_parts;
    struct lam_synth_pattern patterns[LAM_SYNTH_PATTERNS_MAX];
    uint32_t n_patterns;
    float *rope_freqs; /* [rope_dim / 2], or NULL */
    float one;
};

/*
 * Errors: LAM_INVALID_ARGUMENT when rows of the shape are no multiple of the type's block;
 * LAM_RESOURCE_EXHAUSTED. Release with lam_synth_model_done in every case; do not move it.
 */
LAM_MUST_USE enum lam_status lam_synth_model_init(
    struct lam_synth_model *model, const struct lam_synth_request *request, struct lam_err *err);

void lam_synth_model_done(struct lam_synth_model *model);

/* Bytes [at, at + n) of the file into out; zeros behind its end. [any thread] */
void lam_synth_model_read(
    const struct lam_synth_model *model, uint64_t at, uint8_t *out, uint64_t n);

#endif
