/* reals: what measurements do with their numbers. */
#ifndef LAMINAR_COMMON_REALS_H
#define LAMINAR_COMMON_REALS_H

#include <stddef.h>

/* Sorts values[n], the smallest first; none of them is NaN. So values[n / 2] is their median. */
void lam_reals_sort(double *values, size_t n);

#endif
