/* order: the emulated device's own order of a matrix: every bit the other way round. */
#include "tests/kernels/emulated/order.h"

#include <assert.h>
#include <string.h>

#include "common/mem.h"

static uint64_t bytes_of(enum lam_dtype dtype, uint64_t n_out, uint64_t n_cols)
{
    uint64_t row_bytes;
    bool whole = lam_dtype_row_bytes(dtype, n_cols, &row_bytes);

    assert(whole);
    return n_out * row_bytes;
}

static void turn(unsigned char *at, uint64_t bytes)
{
    for (uint64_t i = 0; i < bytes; i++)
        at[i] = (unsigned char)~at[i];
}

void emulated_arrange(const struct lam_arrange_args *args)
{
    turn(args->weight, bytes_of(args->dtype, args->n_out, args->n_cols));
}

void emulated_matmul(struct lam_kernels *kernels, const struct lam_matmul_args *args)
{
    struct lam_matmul_args plain = *args;
    void *copies[3] = {NULL, NULL, NULL};

    for (uint32_t m = 0; m < args->n_mats; m++) {
        const struct lam_matmul_mat *mat = &args->mats[m];
        uint64_t bytes = bytes_of(mat->dtype, mat->n_out, args->n_cols);

        if (!mat->arranged)
            continue;
        copies[m] = lam_calloc(bytes, 1);
        if (!copies[m]) {
            kernels->broken = true;
            continue;
        }
        memcpy(copies[m], mat->weight, bytes);
        turn(copies[m], bytes);
        plain.mats[m].weight = copies[m];
        plain.mats[m].arranged = false;
    }
    kernels->inner->matmul(kernels->kernels, &plain);
    for (uint32_t m = 0; m < 3; m++)
        lam_free(copies[m]);
}
