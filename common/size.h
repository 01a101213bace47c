/*
 * size: arithmetic on sizes that come from outside.
 *
 * Every count, offset and length from a file or a message goes through these functions before use.
 * Each returns false on overflow and then leaves *ret alone. The idea is written once, here,
 * because checks scattered over a parser do not converge.
 */
#ifndef LAMINAR_COMMON_SIZE_H
#define LAMINAR_COMMON_SIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/status.h"

#define LAM_KIB ((uint64_t)1 << 10)
#define LAM_MIB ((uint64_t)1 << 20)
#define LAM_GIB ((uint64_t)1 << 30)

LAM_MUST_USE static inline bool lam_size_add(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *ret = sum;
    return true;
}

LAM_MUST_USE static inline bool lam_size_mul(uint64_t a, uint64_t b, uint64_t *ret)
{
    uint64_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *ret = product;
    return true;
}

/* Rounds `a` up to a multiple of `align`, a power of two. */
LAM_MUST_USE static inline bool lam_size_align_up(uint64_t a, uint64_t align, uint64_t *ret)
{
    uint64_t padded;
    if (!lam_size_add(a, align - 1, &padded))
        return false;
    *ret = padded & ~(align - 1);
    return true;
}

/* Is [offset, offset + length) inside [0, limit)? */
static inline bool lam_size_range_ok(uint64_t offset, uint64_t length, uint64_t limit)
{
    return offset <= limit && length <= limit - offset;
}

/* For values of our own that cannot overflow: plain rounding. */
static inline uint64_t lam_align_down(uint64_t a, uint64_t align)
{
    return a & ~(align - 1);
}

static inline uint64_t lam_align_up(uint64_t a, uint64_t align)
{
    return (a + align - 1) & ~(align - 1);
}

/*
 * Reads a size as people write it: "3GiB", "3072MiB", "3GB" (powers of ten), "3.5" (GiB), "75%" of
 * `whole`. Case does not matter. whole: what a percentage refers to, 0 when a percentage makes no
 * sense here. Errors: LAM_INVALID_ARGUMENT with three valid examples.
 */
LAM_MUST_USE enum lam_status lam_size_parse(
    const char *text, uint64_t whole, uint64_t *ret_bytes, struct lam_err *err);

/* Writes "3.50 GiB", "512 KiB" or "17 B" into buf and returns buf. 24 bytes always suffice. */
char *lam_size_format(uint64_t bytes, char *buf, uint64_t buf_bytes);

#endif
