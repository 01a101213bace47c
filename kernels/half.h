/*
 * half: 16-bit floats, one at a time, without any instruction set beyond the baseline. Widening
 * keeps every bit of a NaN's payload (as numpy does); narrowing rounds to nearest even.
 */
#ifndef LAMINAR_KERNELS_HALF_H
#define LAMINAR_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline float lam_f32_from_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static inline uint32_t lam_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

/* Little-endian 16 and 32 bits at any address. */
static inline uint32_t lam_load_u16(const void *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

static inline uint32_t lam_load_u32(const void *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

static inline float lam_f32_from_f16(uint32_t half)
{
    uint32_t sign = (half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u;
    uint32_t fraction = half & 0x3FFu;

    if (exponent == 0) { /* zero or a subnormal: fraction * 2^-24, exact in f32 */
        float magnitude = (float)fraction * 0x1p-24f;
        return lam_f32_from_bits(sign | lam_f32_to_bits(magnitude));
    }
    if (exponent == 31)
        return lam_f32_from_bits(sign | 0x7F800000u | fraction << 13);
    return lam_f32_from_bits(sign | (exponent + 112u) << 23 | fraction << 13);
}

static inline float lam_f32_from_bf16(uint32_t half)
{
    return lam_f32_from_bits(half << 16);
}

/* Round to nearest even; beyond 65504 becomes infinity; a NaN stays a (quiet) NaN. */
static inline uint16_t lam_f16_from_f32(float value)
{
    uint32_t bits = lam_f32_to_bits(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;

    if (magnitude > 0x7F800000u)
        return (uint16_t)(sign | 0x7E00u | (magnitude >> 13 & 0x3FFu));
    if (magnitude >= 0x47800000u) /* 65536 and more */
        return (uint16_t)(sign | 0x7C00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: let an f32 addition round to the grid of 2^-24 */
        float rounded = lam_f32_from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (lam_f32_to_bits(rounded) - 0x3F000000u));
    }
    /* Rounding may carry into the exponent, and at 65520 into infinity: both are right. */
    magnitude += 0xFFFu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | ((magnitude >> 13) - (112u << 10)));
}

#endif
