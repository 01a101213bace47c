/*
 * dequant: packed weights to f32, one row at a time. The definition of every format: its results
 * equal the Python package `gguf` bit for bit (tests/kernels/dequant_test.c), and all other kernels
 * are held to it.
 */
#ifndef LAMINAR_KERNELS_REF_DEQUANT_H
#define LAMINAR_KERNELS_REF_DEQUANT_H

#include <stdint.h>

#include "common/dtype.h"

/* Unpacks n_cols weights (a multiple of the block, asserted) from `row`, at any alignment, into
 * out. */
void lam_dequant_row(enum lam_dtype dtype, const void *row, uint32_t n_cols, float *out);

#endif
