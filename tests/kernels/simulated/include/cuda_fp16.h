/* cuda_fp16: __half and __half2 as kernels/cuda uses them. Each operation is rounded once. */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_CUDA_FP16_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_CUDA_FP16_H

#include "tests/kernels/simulated/include/device_code.h"

struct __half {
    unsigned short bits;
};
struct alignas(4) __half2 {
    __half x, y;
};

static inline float __half2float(__half half)
{
    uint32_t exponent = half.bits >> 10 & 31;
    uint32_t fraction = half.bits & 1023;
    uint32_t sign = static_cast<uint32_t>(half.bits & 0x8000) << 16;

    if (exponent == 31)
        return sim_bits<float>(sign | 0x7F800000u | fraction << 13);
    if (exponent == 0) {
        float tiny = static_cast<float>(fraction) * 0x1p-24f;
        return sign != 0 ? -tiny : tiny;
    }
    return sim_bits<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

/* To nearest even; NaN becomes the one that the instruction makes. */
static inline __half __float2half_rn(float value)
{
    uint32_t bits = sim_bits<uint32_t>(value);
    uint32_t sign = bits >> 16 & 0x8000;
    uint32_t size = bits & 0x7FFFFFFF;

    if (size > 0x7F800000)
        return {0x7FFF};
    if (size >= 0x477FF000) /* 65520 */
        return {static_cast<unsigned short>(sign | 0x7C00)};
    if (size < 0x38800000) /* 2^-14: the last bit of the sum is worth 2^-24 */
        size = sim_bits<uint32_t>(fabsf(value) + 0.5f) - sim_bits<uint32_t>(0.5f);
    else
        size = (size + 0xFFF + (size >> 13 & 1) - (112u << 23)) >> 13;
    return {static_cast<unsigned short>(sign | size)};
}
static inline __half __float2half(float value)
{
    return __float2half_rn(value);
}

/* Of a double with one rounding: what is lost on the way to f32 makes its last bit odd. */
static inline __half sim_half_of(double value)
{
    float near = static_cast<float>(value);

    if (near != value && near == near && fabsf(near) <= 0x1p127f) {
        uint32_t bits = sim_bits<uint32_t>(near);
        bits -= fabs(static_cast<double>(near)) > fabs(value); /* towards 0 */
        near = sim_bits<float>(bits | 1);
    }
    return __float2half_rn(near);
}
static inline __half __ushort_as_half(unsigned short bits)
{
    return {bits};
}
static inline unsigned short __half_as_ushort(__half half)
{
    return half.bits;
}
static inline __half2 __halves2half2(__half x, __half y)
{
    return {x, y};
}
static inline __half2 __half2half2(__half both)
{
    return {both, both};
}
static inline __half2 __floats2half2_rn(float x, float y)
{
    return {__float2half_rn(x), __float2half_rn(y)};
}
static inline float2 __half22float2(__half2 pair)
{
    return {__half2float(pair.x), __half2float(pair.y)};
}
static inline float __low2float(__half2 pair)
{
    return __half2float(pair.x);
}
static inline float __high2float(__half2 pair)
{
    return __half2float(pair.y);
}

/* Sums and products are exact in a double, but for bits of fma far below its result. */
static inline __half2 __hadd2(__half2 a, __half2 b)
{
    return {sim_half_of(static_cast<double>(__half2float(a.x)) + __half2float(b.x)),
        sim_half_of(static_cast<double>(__half2float(a.y)) + __half2float(b.y))};
}
static inline __half2 __hsub2(__half2 a, __half2 b)
{
    return {sim_half_of(static_cast<double>(__half2float(a.x)) - __half2float(b.x)),
        sim_half_of(static_cast<double>(__half2float(a.y)) - __half2float(b.y))};
}
static inline __half2 __hmul2(__half2 a, __half2 b)
{
    return __floats2half2_rn(
        __half2float(a.x) * __half2float(b.x), __half2float(a.y) * __half2float(b.y));
}
static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return {
        sim_half_of(static_cast<double>(__half2float(a.x)) * __half2float(b.x) + __half2float(c.x)),
        sim_half_of(
            static_cast<double>(__half2float(a.y)) * __half2float(b.y) + __half2float(c.y))};
}

#endif
