/*
 * gemm64_lanes: what a lane makes of the words and scales of packed formats for gemm64.cuh, in
 * whatever order they lie: pairs of F16, columns 4t with 4t + 2 and 4t + 1 with 4t + 3.
 */
#ifndef LAMINAR_KERNELS_CUDA_GEMM64_LANES_CUH
#define LAMINAR_KERNELS_CUDA_GEMM64_LANES_CUH

#include "kernels/cuda/gemm64.cuh"

/* Q4_K and Q5_K: scales and minima of a row, of groups t and t + 4 in lane t, F16. */
struct lane_scales_k {
    uint32_t scales;
    uint32_t mins;

    /* head: where the 16 bytes of d, dmin and scales are. */
    __device__ __forceinline__ void unpack(uint32_t head, uint32_t lane)
    {
        uint32_t t = lane % 4;
        uint32_t a = *smem_at(head + 4 + t);
        uint32_t b = *smem_at(head + 8 + t);
        uint32_t c = *smem_at(head + 12 + t);

        scales = bits_of(small_integers((a & 63) | ((c & 15) | a >> 6 << 4) << 16, 0));
        mins = bits_of(small_integers((b & 63) | (c >> 4 | b >> 6 << 4) << 16, 0));
    }

    __device__ __forceinline__ __half2 scale_of(uint32_t group, uint32_t lane) const
    {
        uint32_t both = __shfl_sync(0xFFFFFFFFu, scales, (lane & ~3u) + group % 4);

        return as_half2(twice(both, group >= 4));
    }

    __device__ __forceinline__ uint32_t minima(bool upper) const
    {
        return twice(mins, upper);
    }
};

/* Four weights of a group; fifths: a byte for each, with a bit for each group. */
template <bool FIFTH>
static __device__ __forceinline__ void pairs_k(
    uint32_t word, uint32_t fifths, uint32_t group, __half2 scale, uint32_t (&w)[2])
{
    uint32_t q[2] = {byte_pair<0>(word, group % 2 * 4, 15), byte_pair<1>(word, group % 2 * 4, 15)};

    if (FIFTH) {
        uint32_t bits = fifths >> group;
        q[0] |= (bits & 0x00010001u) << 4;
        q[1] |= bits >> 4 & 0x00100010u;
    }
    w[0] = bits_of(__hmul2(small_integers(q[0], 0), scale));
    w[1] = bits_of(__hmul2(small_integers(q[1], 0), scale));
}

/* Q6_K: two scales of 8 bits in a word's lower half, as F16. */
static __device__ __forceinline__ uint32_t scales_q6_k(uint32_t two)
{
    return bits_of(small_integers(__byte_perm(two ^ 0x8080u, 0, 0x4140), 128));
}

static __device__ __forceinline__ void pairs_q6_k(
    uint32_t low, uint32_t high, uint32_t quarter, __half2 scale, uint32_t (&w)[2])
{
    low >>= quarter / 2 * 4;
    high >>= quarter * 2;
    uint32_t q[2] = {byte_pair<0>(low, 0, 15) | byte_pair<0>(high, 0, 3) << 4,
        byte_pair<1>(low, 0, 15) | byte_pair<1>(high, 0, 3) << 4};

    w[0] = bits_of(__hmul2(small_integers(q[0], 32), scale));
    w[1] = bits_of(__hmul2(small_integers(q[1], 32), scale));
}

/* Blocks of 32 with four or five bits: half s of a word's bytes; fifth: its four bits. */
template <lam_dtype DTYPE> struct pairs_block {
    static const bool FIFTH = DTYPE == LAM_Q5_0 || DTYPE == LAM_Q5_1;
    static const bool MIN = DTYPE == LAM_Q4_1 || DTYPE == LAM_Q5_1;
    enum : uint32_t {
        HEAD = MIN ? 4 : 2,
        BYTES = HEAD + (FIFTH ? 4 : 0) + 16,
        BIAS = MIN     ? 0
               : FIFTH ? 16
                       : 8,
        /* Bits 0 to 3 of a word to bit 4 of its bytes. */
        SPREAD = 0x02040810u,
    };

    static __device__ __forceinline__ void unpack(
        uint32_t word, uint32_t s, uint32_t fifth, __half2 d, __half2 m, uint32_t (&w)[2])
    {
        uint32_t bits = FIFTH ? (fifth & 15) * SPREAD & 0x10101010u : 0;

#pragma unroll
        for (uint32_t p = 0; p < 2; p++) {
            uint32_t q = word >> (4 * s + 8 * p) & 0x000F000Fu;
            q |= bits >> 8 * p & 0x00100010u;
            __half2 value = small_integers(q, BIAS);
            w[p] = bits_of(MIN ? __hfma2(value, d, m) : __hmul2(value, d));
        }
    }
};

static __device__ __forceinline__ void pairs_q8_0(uint32_t word, __half2 d, uint32_t (&w)[2])
{
    word ^= 0x80808080u;
    w[0] = bits_of(__hmul2(small_integers(byte_pair<0>(word, 0, 255), 128), d));
    w[1] = bits_of(__hmul2(small_integers(byte_pair<1>(word, 0, 255), 128), d));
}

/* The F16 at an offset in shared memory, twice. */
static __device__ __forceinline__ __half2 two_of(uint32_t at)
{
    return as_half2(twice(smem_u16(at), false));
}

#endif
