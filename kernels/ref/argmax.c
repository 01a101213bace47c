/* argmax: see argmax.h. */
#include "kernels/ref/argmax.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stddef.h>

void lam_argmax_rows(const struct lam_argmax_args *args, uint32_t row_begin, uint32_t row_end)
{
    assert(args->n_cols >= 1 && args->n_cols <= INT32_MAX);
    for (uint32_t t = row_begin; t < row_end; t++) {
        const float *x = args->x + (size_t)t * args->n_cols;
        float top = -INFINITY;

        args->out[t] = 0;
        for (uint32_t i = 0; i < args->n_cols; i++) {
            float value = x[i] > FLT_MAX ? FLT_MAX : x[i];
            if (!(value > top)) /* a NaN neither */
                continue;
            top = value;
            args->out[t] = (int32_t)i;
        }
    }
}
