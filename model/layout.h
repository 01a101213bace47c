/*
 * layout: which tensors a llama model consists of: name, role and shape, as functions of the spec.
 * spec.c checks a file against it, manifest.c places units by it, `laminar synth` writes by it.
 */
#ifndef LAMINAR_MODEL_LAYOUT_H
#define LAMINAR_MODEL_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "model/manifest.h"
#include "model/spec.h"

/* The roles of a layer are the first of enum lam_tensor_role. */
#define LAM_LAYER_ROLES ((uint32_t)LAM_T_FFN_DOWN + 1)

struct lam_layout_tensor {
    char name[64];
    uint64_t n_rows;
    uint64_t n_cols;
    bool is_vector; /* stored as f32, one row */
};

/* The tensor of a role; `layer` is read for a layer's roles only. LAM_T_OUTPUT: the untied head. */
struct lam_layout_tensor lam_layout_tensor(
    const struct lam_spec *spec, enum lam_tensor_role role, uint32_t layer);

#endif
