/* rope_table: see rope_table.h. Double, because an angle of 100,000 radians has 2 digits left in
 * f32. */
#include "kernels/ref/rope_table.h"

#include <math.h>
#include <stddef.h>

void lam_rope_table_rows(
    const struct lam_rope_table_args *args, uint32_t row_begin, uint32_t row_end)
{
    for (uint32_t i = 0; i < args->rope_dim / 2; i++) {
        double exponent = -2.0 * i / args->rope_dim;
        double frequency = pow((double)args->base, exponent) / (double)args->scale;
        if (args->factors != NULL)
            frequency /= (double)args->factors[i];
        for (uint32_t t = row_begin; t < row_end; t++) {
            double angle = args->positions[t] * frequency;
            float *cos_sin = args->table + (size_t)t * args->rope_dim + 2 * (size_t)i;
            cos_sin[0] = (float)cos(angle);
            cos_sin[1] = (float)sin(angle);
        }
    }
}
