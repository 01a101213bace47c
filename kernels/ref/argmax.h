/* argmax: the column of a row's largest value, for every backend on the host. */
#ifndef LAMINAR_KERNELS_REF_ARGMAX_H
#define LAMINAR_KERNELS_REF_ARGMAX_H

#include "kernels/ops.h"

/* Fills out[row_begin, row_end). */
void lam_argmax_rows(const struct lam_argmax_args *args, uint32_t row_begin, uint32_t row_end);

#endif
