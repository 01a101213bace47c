/* rope_table: cosines and sines of a call's positions, in double. Used by every backend on the
 * host. */
#ifndef LAMINAR_KERNELS_REF_ROPE_TABLE_H
#define LAMINAR_KERNELS_REF_ROPE_TABLE_H

#include "kernels/ops.h"

/* Fills rows [row_begin, row_end) of args->table. */
void lam_rope_table_rows(
    const struct lam_rope_table_args *args, uint32_t row_begin, uint32_t row_end);

#endif
