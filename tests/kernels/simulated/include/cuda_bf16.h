/* cuda_bf16: __nv_bfloat16 and its pairs as kernels/cuda uses them. */
#ifndef LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_CUDA_BF16_H
#define LAMINAR_TESTS_KERNELS_SIMULATED_INCLUDE_CUDA_BF16_H

#include "tests/kernels/simulated/include/device_code.h"

struct __nv_bfloat16 {
    unsigned short bits;
};
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};

static inline float __bfloat162float(__nv_bfloat16 half)
{
    return sim_bits<float>(static_cast<uint32_t>(half.bits) << 16);
}
/* To nearest even. */
static inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    uint32_t bits = sim_bits<uint32_t>(value);

    if (value != value)
        return {0x7FFF};
    return {static_cast<unsigned short>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16)};
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return {bits};
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 half)
{
    return half.bits;
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline float __low2float(__nv_bfloat162 pair)
{
    return __bfloat162float(pair.x);
}
static inline float __high2float(__nv_bfloat162 pair)
{
    return __bfloat162float(pair.y);
}

#endif
