/*
 * gemv_lanes: what a lane makes of the words and scales of packed formats for gemv_int8.cuh, in
 * whatever order they lie: signed bytes for the tensor core, scales in f32. Where a format has an
 * offset instead of a minimum, weights are moved to the top of their bytes, where flipping one bit
 * makes a signed number of them; the scale takes the factor back.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMV_LANES_CUH
#define LAMINAR_KERNELS_CUDA_GEMV_LANES_CUH

#include "kernels/cuda/gemv_int8.cuh"

/* Bits FROM.. of each byte to bits TO.. */
static __device__ __forceinline__ uint32_t moved(uint32_t word, uint32_t from, uint32_t to)
{
    return from < to ? word << (to - from) : word >> (from - to);
}

/* Formats of four or five bits in blocks of 32. */
template <lam_dtype DTYPE> struct lanes_block {
    static const bool FIFTH = DTYPE == LAM_Q5_0 || DTYPE == LAM_Q5_1;
    static const bool MIN = DTYPE == LAM_Q4_1 || DTYPE == LAM_Q5_1;
    enum : uint32_t {
        HEAD = MIN ? 4 : 2,
        BYTES = HEAD + (FIFTH ? 4 : 0) + 16,
        /* Where the lowest bit of a weight goes in its byte. */
        RAISED = MIN     ? 0
                 : FIFTH ? 3
                         : 4,
        FOUR_BITS = (0x0F0F0F0Fu << RAISED) & 0xFFFFFFFFu,
        FIFTH_BIT = 0x10101010u << RAISED,
        SIGN = MIN ? 0 : 0x80808080u,
        /* Bits 0 to 3 of a word to the fifth bits of its bytes. */
        SPREAD = 0x02040810u,
    };
    static constexpr float FACTOR = 1.0f / static_cast<float>(1u << RAISED);

    /* Four bytes of a block: their low halves are weights of its first 16, the high ones of the
     * others; fifth: bits of the first in 0 to 3, of the second from second_at on. */
    static __device__ __forceinline__ void unpack(
        uint32_t word, uint32_t fifth, uint32_t second_at, uint32_t (&w)[2])
    {
        w[0] = word << RAISED & FOUR_BITS;
        w[1] = (RAISED < 4 ? word >> (4 - RAISED) : word) & FOUR_BITS;
        if (FIFTH) {
            w[0] |= (fifth & 15) * (SPREAD << RAISED) & FIFTH_BIT;
            w[1] |= (fifth >> second_at & 15) * (SPREAD << RAISED) & FIFTH_BIT;
        }
        w[0] ^= SIGN;
        w[1] ^= SIGN;
    }
};

/* Q4_K and Q5_K. head: the first 16 bytes of a block. Scales of its groups t and t + 4. */
template <typename FORMAT>
static __device__ __forceinline__ void k_scales(
    const uint32_t (&head)[4], uint32_t t, group_scales<FORMAT> (&parts)[2])
{
    uint32_t a = head[1] >> 8 * t & 255;
    uint32_t b = head[2] >> 8 * t & 255;
    uint32_t c = head[3] >> 8 * t & 255;
    float d = half_bits(head[0] & 0xFFFFu);
    float dmin = half_bits(head[0] >> 16);

    parts[0] = {{d * static_cast<float>(a & 63)}, -(dmin * static_cast<float>(b & 63))};
    parts[1] = {{d * static_cast<float>((c & 15) | a >> 6 << 4)},
        -(dmin * static_cast<float>(c >> 4 | b >> 6 << 4))};
}

/* Q6_K, raised by two bits. all: the block's d times Q6_K_FACTOR; two: scales of a group's halves. */
static constexpr float Q6_K_FACTOR = 0.25f;

template <typename FORMAT>
static __device__ __forceinline__ group_scales<FORMAT> q6_k_scales(float all, uint32_t two)
{
    return {{all * static_cast<float>(static_cast<int8_t>(two & 255)),
                all * static_cast<float>(static_cast<int8_t>(two >> 8))},
        0};
}

/* Weights of the quarter of 128 whose low bits are in `low`, whose high ones in `high`. */
static __device__ __forceinline__ uint32_t q6_k_word(uint32_t low, uint32_t high, uint32_t quarter)
{
    return ((moved(low, quarter / 2 * 4, 2) & 0x3C3C3C3Cu) |
               (moved(high, quarter * 2, 6) & 0xC0C0C0C0u)) ^
           0x80808080u;
}

#endif
