/* preset: see preset.h. */
#include "model/preset.h"

#include <math.h>
#include <string.h>

/* What Llama 3.1 was extended from, and which wave lengths stay as they were. */
#define ROPE_OLD_CTX 8192.0
#define ROPE_LOW_FACTOR 1.0
#define ROPE_HIGH_FACTOR 4.0
#define TWO_PI 6.283185307179586

#define SHAPE(label, layers, width, heads, kv, dim, ff, vocab, ctx, base, tied)                    \
    .spec = {.architecture = "llama",                                                              \
        .name = label,                                                                             \
        .n_layers = layers,                                                                        \
        .n_embd = width,                                                                           \
        .n_heads = heads,                                                                          \
        .n_kv_heads = kv,                                                                          \
        .head_dim = dim,                                                                           \
        .n_ff = ff,                                                                                \
        .n_vocab = vocab,                                                                          \
        .n_ctx_train = ctx,                                                                        \
        .rope_dim = dim,                                                                           \
        .rope_base = base,                                                                         \
        .rope_scale = 1,                                                                           \
        .norm_eps = 1e-5F,                                                                         \
        .tied_head = tied}

static const struct lam_preset presets[] = {
    {SHAPE("tiny", 4, 256, 4, 2, 64, 768, 1024, 2048, 1e4F, false)},
    {SHAPE("small", 8, 1024, 16, 4, 64, 2816, 32000, 8192, 1e4F, false)},
    {SHAPE("smollm2-135m", 30, 576, 9, 3, 64, 1536, 49152, 8192, 1e5F, true)},
    {SHAPE("llama3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5F, true),
        .rope_factor = 32},
    {SHAPE("llama3.2-3b", 28, 3072, 24, 8, 128, 8192, 128256, 131072, 5e5F, true),
        .rope_factor = 32},
    {SHAPE("mistral-7b", 32, 4096, 32, 8, 128, 14336, 32768, 32768, 1e6F, false)},
    {SHAPE("llama2-7b", 32, 4096, 32, 32, 128, 11008, 32000, 4096, 1e4F, false)},
    {SHAPE("llama2-13b", 40, 5120, 40, 40, 128, 13824, 32000, 4096, 1e4F, false)},
    {SHAPE("llama3-8b", 32, 4096, 32, 8, 128, 14336, 128256, 8192, 5e5F, false)},
    {SHAPE("llama3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, 131072, 5e5F, false),
        .rope_factor = 8},
    {SHAPE("llama3-70b", 80, 8192, 64, 8, 128, 28672, 128256, 8192, 5e5F, false)},
    {SHAPE("llama3.1-405b", 126, 16384, 128, 8, 128, 53248, 128256, 131072, 5e5F, false),
        .rope_factor = 8},
};

const struct lam_preset *lam_preset_find(const char *name)
{
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].spec.name, name) == 0)
            return &presets[i];
    return NULL;
}

float lam_preset_rope_freq(const struct lam_preset *preset, uint32_t i)
{
    const struct lam_spec *spec = &preset->spec;
    double frequency = pow((double)spec->rope_base, -2.0 * i / spec->rope_dim);
    double wave = TWO_PI / frequency;
    double factor = (double)preset->rope_factor;
    double smooth;

    if (wave < ROPE_OLD_CTX / ROPE_HIGH_FACTOR)
        return 1;
    if (wave > ROPE_OLD_CTX / ROPE_LOW_FACTOR)
        return preset->rope_factor;
    smooth = (ROPE_OLD_CTX / wave - ROPE_LOW_FACTOR) / (ROPE_HIGH_FACTOR - ROPE_LOW_FACTOR);
    return (float)(1 / ((1 - smooth) / factor + smooth));
}
