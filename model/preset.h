/*
 * preset: shapes of well-known models, and small ones for tests, by name: for `laminar synth`.
 * Source of the numbers: the models' published configurations.
 */
#ifndef LAMINAR_MODEL_PRESET_H
#define LAMINAR_MODEL_PRESET_H

#include "model/spec.h"

/* Names, as a table of flags wants its choices. */
#define LAM_PRESET_CHOICES                                                                         \
    "tiny|small|smollm2-135m|llama3.2-1b|llama3.2-3b|mistral-7b|llama2-7b|llama2-13b|llama3-8b|"   \
    "llama3.1-8b|llama3-70b|llama3.1-405b"

struct lam_preset {
    struct lam_spec spec; /* .name is the preset's */
    float rope_factor;    /* Llama 3.1: positions beyond the first 8192; 0: no such factors */
};

/* NULL when no preset has this name. */
const struct lam_preset *lam_preset_find(const char *name);

/*
 * Llama 3.1 frequency factor `i` of spec.rope_dim / 2, for tensor rope_freqs.weight: 1 for short
 * wave lengths, rope_factor for long ones, smooth between.
 */
float lam_preset_rope_freq(const struct lam_preset *preset, uint32_t i);

#endif
