/* layout: see layout.h. Source of the names: ggml's docs/gguf.md, "Standardized tensor names". */
#include "model/layout.h"

#include <stdio.h>

static const char *const role_names[LAM_T_ROLES] = {
    [LAM_T_ATTN_NORM] = "attn_norm",
    [LAM_T_ATTN_Q] = "attn_q",
    [LAM_T_ATTN_K] = "attn_k",
    [LAM_T_ATTN_V] = "attn_v",
    [LAM_T_ATTN_OUT] = "attn_output",
    [LAM_T_FFN_NORM] = "ffn_norm",
    [LAM_T_FFN_GATE] = "ffn_gate",
    [LAM_T_FFN_UP] = "ffn_up",
    [LAM_T_FFN_DOWN] = "ffn_down",
    [LAM_T_OUTPUT_NORM] = "output_norm",
    [LAM_T_OUTPUT] = "output",
    [LAM_T_ROPE_FREQS] = "rope_freqs",
    [LAM_T_EMBEDDING] = "token_embd",
};

struct lam_layout_tensor lam_layout_tensor(
    const struct lam_spec *spec, enum lam_tensor_role role, uint32_t layer)
{
    struct lam_layout_tensor tensor = {.n_rows = 1, .n_cols = spec->n_embd};
    uint64_t q_width = (uint64_t)spec->n_heads * spec->head_dim;
    uint64_t kv_width = (uint64_t)spec->n_kv_heads * spec->head_dim;

    switch (role) {
    case LAM_T_ATTN_NORM:
    case LAM_T_FFN_NORM:
    case LAM_T_OUTPUT_NORM:
        tensor.is_vector = true;
        break;
    case LAM_T_ROPE_FREQS:
        tensor.is_vector = true;
        tensor.n_cols = spec->rope_dim / 2;
        break;
    case LAM_T_ATTN_Q:
        tensor.n_rows = q_width;
        break;
    case LAM_T_ATTN_K:
    case LAM_T_ATTN_V:
        tensor.n_rows = kv_width;
        break;
    case LAM_T_ATTN_OUT:
        tensor.n_rows = spec->n_embd;
        tensor.n_cols = q_width;
        break;
    case LAM_T_FFN_GATE:
    case LAM_T_FFN_UP:
        tensor.n_rows = spec->n_ff;
        break;
    case LAM_T_FFN_DOWN:
        tensor.n_rows = spec->n_embd;
        tensor.n_cols = spec->n_ff;
        break;
    case LAM_T_OUTPUT:
    case LAM_T_EMBEDDING:
        tensor.n_rows = spec->n_vocab;
        break;
    case LAM_T_ROLES:
        break;
    }
    if ((uint32_t)role < LAM_LAYER_ROLES)
        snprintf(tensor.name, sizeof tensor.name, "blk.%u.%s.weight", layer, role_names[role]);
    else
        snprintf(tensor.name, sizeof tensor.name, "%s.weight", role_names[role]);
    return tensor;
}
