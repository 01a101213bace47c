/*
 * twin: what the kernel tests share. A test runs one call on the reference and on a fast backend
 * and compares; buffers have guard words around them and are poisoned with NaN, so a kernel that
 * writes outside or forgets a value fails.
 */
#ifndef LAMINAR_TESTS_KERNELS_TWIN_H
#define LAMINAR_TESTS_KERNELS_TWIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

/* A small generator (xorshift) with a fixed seed per test: failures repeat. */
struct twin_rng {
    uint64_t state;
};

uint32_t twin_random(struct twin_rng *rng);
/* Uniform in [-1, 1]. */
float twin_uniform(struct twin_rng *rng);

/* n floats between guards, filled with NaN. */
float *twin_floats(size_t n);
/* The same with uniform numbers in [-scale, scale]. */
float *twin_random_floats(struct twin_rng *rng, size_t n, float scale);
/* Rows in which the largest value is hard to find, in turn from kind `first` on: among equals, at
 * the end, beside NaN, infinities and zeros of both signs, and nowhere. */
enum { TWIN_PEAK_KINDS = 8 };
float *twin_peaks(struct twin_rng *rng, uint32_t first, uint32_t n_rows, uint32_t n_cols);
/* Fails the test when a guard word changed; frees. */
void twin_free(float *floats);

/* A packed matrix of plausible weights (scales near 0.02, random numbers), 2 bytes past an aligned
 * address. */
uint8_t *twin_weights(struct twin_rng *rng, enum lam_dtype dtype, uint32_t n_rows, uint32_t n_cols);
void twin_weights_free(uint8_t *weights);

/* x as a fast backend sees it with quantised weights: 8 bits per 32 numbers, back in f32. */
void twin_quantise(const float *x, size_t n, float *out);

/* A context of each kind under test: the reference, and the CPU backend at both levels. */
struct twin_backend {
    const char *name;
    const struct lam_kernel_ops *ops;
    struct lam_kernels *kernels;
};

enum { TWIN_FAST_MAX = 2 };

/* Fast backends that this CPU can run, n_threads each. */
struct twin_set {
    struct twin_backend ref;
    struct twin_backend fast[TWIN_FAST_MAX];
    uint32_t n_fast;
};

struct lam_kernel_config twin_config(void);
void twin_set_init(struct twin_set *set, uint32_t n_threads);
void twin_set_done(struct twin_set *set);

/* The dtypes that weights come in. */
extern const enum lam_dtype twin_dtypes[];
extern const size_t twin_n_dtypes;

#endif
