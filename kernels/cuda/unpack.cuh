/*
 * unpack: eight neighbouring weights of a packed row as f32, bit for bit what kernels/ref/dequant.c
 * gives (these files are compiled without contraction of a * b + c). Rows may begin at any even
 * address. Not for matrix-vector products, which have their own reading of the same layouts.
 */
#ifndef LAMINAR_KERNELS_CUDA_UNPACK_CUH
#define LAMINAR_KERNELS_CUDA_UNPACK_CUH

#include <cuda_fp16.h>
#include <stdint.h>

#include "common/dtype.h"

static __device__ __forceinline__ uint32_t load_u16(const uint8_t *at)
{
    return *reinterpret_cast<const uint16_t *>(at);
}

static __device__ __forceinline__ float load_half(const uint8_t *at)
{
    return __half2float(__ushort_as_half(static_cast<unsigned short>(load_u16(at))));
}

static __device__ __forceinline__ uint64_t load_u64(const uint8_t *at)
{
    uint32_t low = load_u16(at) | load_u16(at + 2) << 16;
    uint32_t high = load_u16(at + 4) | load_u16(at + 6) << 16;

    return static_cast<uint64_t>(high) << 32 | low;
}

static __device__ __forceinline__ int byte_of(uint64_t bytes, int i)
{
    return static_cast<int>(bytes >> (8 * i) & 255);
}

/* Bytes of a block that holds `elems` weights. */
template <lam_dtype DTYPE> struct block_of;
template <> struct block_of<LAM_F32> {
    enum { elems = 1, bytes = 4 };
};
template <> struct block_of<LAM_F16> {
    enum { elems = 1, bytes = 2 };
};
template <> struct block_of<LAM_BF16> {
    enum { elems = 1, bytes = 2 };
};
template <> struct block_of<LAM_Q4_0> {
    enum { elems = 32, bytes = 18 };
};
template <> struct block_of<LAM_Q4_1> {
    enum { elems = 32, bytes = 20 };
};
template <> struct block_of<LAM_Q5_0> {
    enum { elems = 32, bytes = 22 };
};
template <> struct block_of<LAM_Q5_1> {
    enum { elems = 32, bytes = 24 };
};
template <> struct block_of<LAM_Q8_0> {
    enum { elems = 32, bytes = 34 };
};
template <> struct block_of<LAM_Q4_K> {
    enum { elems = 256, bytes = 144 };
};
template <> struct block_of<LAM_Q5_K> {
    enum { elems = 256, bytes = 176 };
};
template <> struct block_of<LAM_Q6_K> {
    enum { elems = 256, bytes = 210 };
};

template <lam_dtype DTYPE> static __device__ uint64_t row_bytes(uint32_t n_cols)
{
    return static_cast<uint64_t>(n_cols) / block_of<DTYPE>::elems * block_of<DTYPE>::bytes;
}

/* One weight of an unblocked format. */
template <lam_dtype DTYPE>
static __device__ __forceinline__ float unpack1(const uint8_t *row, uint32_t k)
{
    if (DTYPE == LAM_F32)
        return __uint_as_float(
            load_u16(row + 4 * (size_t)k) | load_u16(row + 4 * (size_t)k + 2) << 16);
    if (DTYPE == LAM_F16)
        return load_half(row + 2 * (size_t)k);
    return __uint_as_float(load_u16(row + 2 * (size_t)k) << 16);
}

/* Sixteen bytes: one load where the address allows it. */
static __device__ __forceinline__ uint4 load_u128(const uint8_t *at)
{
    if (reinterpret_cast<uintptr_t>(at) % 16 == 0)
        return *reinterpret_cast<const uint4 *>(at);
    uint64_t low = load_u64(at);
    uint64_t high = load_u64(at + 8);
    return make_uint4(static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
        static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32));
}

template <lam_dtype DTYPE>
static __device__ __forceinline__ void unpack8_float(const uint8_t *at, float *w)
{
    uint4 a = load_u128(at);
    uint4 b = DTYPE == LAM_F32 ? load_u128(at + 16) : a;
    uint32_t words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};

    for (int i = 0; i < 8; i++) {
        uint32_t half = i % 2 == 0 ? words[i / 2] & 0xFFFFu : words[i / 2] >> 16;
        if (DTYPE == LAM_F32)
            w[i] = __uint_as_float(words[i]);
        else if (DTYPE == LAM_BF16)
            w[i] = __uint_as_float(half << 16);
        else
            w[i] = __half2float(__ushort_as_half(static_cast<unsigned short>(half)));
    }
}

static __device__ __forceinline__ void unpack8_32(
    lam_dtype dtype, const uint8_t *block, int j, float *w)
{
    bool has_min = dtype == LAM_Q4_1 || dtype == LAM_Q5_1;
    bool has_fifth = dtype == LAM_Q5_0 || dtype == LAM_Q5_1;
    int bias = has_min ? 0 : has_fifth ? 16 : 8;
    float d = load_half(block);
    float m = has_min ? load_half(block + 2) : 0.0f;
    const uint8_t *after = block + (has_min ? 4 : 2);
    uint32_t fifth = has_fifth ? (load_u16(after) | load_u16(after + 2) << 16) >> j : 0;
    uint64_t bytes = load_u64(after + (has_fifth ? 4 : 0) + (j & 15));

    for (int i = 0; i < 8; i++) {
        int q = j < 16 ? byte_of(bytes, i) & 15 : byte_of(bytes, i) >> 4;
        q |= static_cast<int>(fifth >> i & 1) << 4;
        float product = d * static_cast<float>(q - bias);
        w[i] = has_min ? product + m : product;
    }
}

/* Q4_K, and Q5_K with high != NULL; j: weight in the block. */
static __device__ __forceinline__ void unpack8_k(
    const uint8_t *block, const uint8_t *high, const uint8_t *qs, int j, float *w)
{
    int s = j / 32;
    int l = j % 32;
    int a = block[4 + (s & 3)];
    int b = block[8 + (s & 3)];
    int c = block[12 + (s & 3)];
    int scale = s < 4 ? a & 63 : (c & 15) | a >> 6 << 4;
    int min = s < 4 ? b & 63 : c >> 4 | b >> 6 << 4;
    float sub_d = load_half(block) * static_cast<float>(scale);
    float sub_m = load_half(block + 2) * static_cast<float>(min);
    uint64_t bytes = load_u64(qs + s / 2 * 32 + l);
    uint64_t fifth = high != NULL ? load_u64(high + l) : 0;

    for (int i = 0; i < 8; i++) {
        int q = s % 2 == 0 ? byte_of(bytes, i) & 15 : byte_of(bytes, i) >> 4;
        q |= (byte_of(fifth, i) >> s & 1) << 4;
        w[i] = sub_d * static_cast<float>(q) - sub_m;
    }
}

static __device__ __forceinline__ void unpack8_q6_k(const uint8_t *block, int j, float *w)
{
    int half = j / 128;
    int quarter = j % 128 / 32;
    int l = j % 32;
    uint64_t low = load_u64(block + half * 64 + quarter % 2 * 32 + l);
    uint64_t high = load_u64(block + 128 + half * 32 + l);
    int scale = static_cast<int8_t>(block[192 + j / 16]);
    float d = load_half(block + 208) * static_cast<float>(scale);

    for (int i = 0; i < 8; i++) {
        int nibble = quarter < 2 ? byte_of(low, i) & 15 : byte_of(low, i) >> 4;
        int q = nibble | (byte_of(high, i) >> (2 * quarter) & 3) << 4;
        w[i] = d * static_cast<float>(q - 32);
    }
}

/* w[0..8) = weights k.. of the row; k a multiple of 8, all eight inside the row. */
template <lam_dtype DTYPE>
static __device__ __forceinline__ void unpack8(const uint8_t *row, uint32_t k, float *w)
{
    const int elems = block_of<DTYPE>::elems;
    const uint8_t *block = row + static_cast<size_t>(k / elems) * block_of<DTYPE>::bytes;
    int j = static_cast<int>(k % elems);

    if (elems == 1) {
        unpack8_float<DTYPE>(block, w);
    } else if (DTYPE == LAM_Q8_0) {
        float d = load_half(block);
        uint64_t bytes = load_u64(block + 2 + j);
        for (int i = 0; i < 8; i++)
            w[i] = static_cast<float>(static_cast<int8_t>(byte_of(bytes, i))) * d;
    } else if (DTYPE == LAM_Q4_K) {
        unpack8_k(block, NULL, block + 16, j, w);
    } else if (DTYPE == LAM_Q5_K) {
        unpack8_k(block, block + 16, block + 48, j, w);
    } else if (DTYPE == LAM_Q6_K) {
        unpack8_q6_k(block, j, w);
    } else {
        unpack8_32(DTYPE, block, j, w);
    }
}

#endif
