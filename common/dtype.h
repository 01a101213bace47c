/*
 * dtype: the number formats that weights come in, with their sizes. Layout only; the arithmetic is
 * in kernels/. The enum values are GGUF's type ids, so a file's id is checked and cast, never
 * translated.
 */
#ifndef LAMINAR_COMMON_DTYPE_H
#define LAMINAR_COMMON_DTYPE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

enum lam_dtype {
    LAM_F32 = 0,
    LAM_F16 = 1,
    LAM_Q4_0 = 2,
    LAM_Q4_1 = 3,
    LAM_Q5_0 = 6,
    LAM_Q5_1 = 7,
    LAM_Q8_0 = 8,
    LAM_Q4_K = 12,
    LAM_Q5_K = 13,
    LAM_Q6_K = 14,
    LAM_BF16 = 30,
    LAM_DTYPE_END = 31, /* one past the largest id: table size */
};

struct lam_dtype_info {
    const char *name;     /* as GGUF writes it, for example "Q4_1"; NULL: a type unknown to us */
    uint32_t block_elems; /* weights in a block */
    uint32_t block_bytes;
};

/* True for the types above. id: any number from a file. */
bool lam_dtype_known(uint32_t id);

/* How GGUF writes a type, of those above or another that files have; NULL: no such id. */
const char *lam_dtype_name(uint32_t id);

/* The table entry. dtype must be known (asserted). */
const struct lam_dtype_info *lam_dtype_info(enum lam_dtype dtype);

/*
 * Bytes of a row of n_elems. Errors: returns false when n_elems is no multiple of the block or the
 * size overflows.
 */
LAM_MUST_USE bool lam_dtype_row_bytes(enum lam_dtype dtype, uint64_t n_elems, uint64_t *ret_bytes);

#endif
