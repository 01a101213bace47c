/*
 * vec_avx512: the vector vocabulary of the CPU kernels for AVX-512 with VNNI: 16 lanes. vec_avx2.h
 * has the same names with 8 lanes; the kernels are written once over this vocabulary and compiled
 * once per header.
 *
 *   vf  f32 lanes          vi  32-bit integer lanes, also seen as 4 bytes per lane
 */
#ifndef LAMINAR_KERNELS_CPU_VEC_AVX512_H
#define LAMINAR_KERNELS_CPU_VEC_AVX512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* Register tiles that fit 32 registers: matmul panels x rows, attention vectors x rows. */
enum { LANES = 16, TILE_PANELS = 2, TILE_ROWS = 4, TILE_VECS = 4 };

typedef __m512 vf;
typedef __m512i vi;

static inline vf v_zero(void)
{
    return _mm512_setzero_ps();
}

static inline vf v_set(float x)
{
    return _mm512_set1_ps(x);
}

static inline vf v_load(const float *p)
{
    return _mm512_loadu_ps(p);
}

static inline void v_store(float *p, vf x)
{
    _mm512_storeu_ps(p, x);
}

static inline __mmask16 v_first(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}

/* The first n lanes (0..LANES) from memory, zero in the rest. */
static inline vf v_load_n(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(v_first(n), p);
}

static inline void v_store_n(float *p, vf x, uint32_t n)
{
    _mm512_mask_storeu_ps(p, v_first(n), x);
}

/* x in the first n lanes, fill in the rest. */
static inline vf v_keep_n(vf x, vf fill, uint32_t n)
{
    return _mm512_mask_mov_ps(fill, v_first(n), x);
}

static inline vf v_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c, one rounding. */
static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* Even lanes a * b - c, odd lanes a * b + c. */
static inline vf v_fma_alternate(vf a, vf b, vf c)
{
    return _mm512_fmaddsub_ps(a, b, c);
}

/* The larger; b when either is a NaN. */
static inline vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

/* Zero where x < limit, else value. */
static inline vf v_zero_below(vf x, float limit, vf value)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, v_set(limit), _CMP_NLT_UQ), value);
}

static inline vf v_even(vf x)
{
    return _mm512_moveldup_ps(x);
}

static inline vf v_odd(vf x)
{
    return _mm512_movehdup_ps(x);
}

/* Lanes 0 and 1 exchanged, 2 and 3, ... */
static inline vf v_swap_pairs(vf x)
{
    return _mm512_permute_ps(x, 0xB1);
}

static inline float v_hsum(vf x)
{
    return _mm512_reduce_add_ps(x);
}

static inline float v_hmax(vf x)
{
    return _mm512_reduce_max_ps(x);
}

static inline vi vi_zero(void)
{
    return _mm512_setzero_si512();
}

static inline vi vi_set(int32_t x)
{
    return _mm512_set1_epi32(x);
}

static inline vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

static inline vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}

static inline vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}

static inline vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}

/* Byte i of each lane, four times. */
static inline vi vi_repeat_byte(vi a, int i)
{
    __m128i index = _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C);

    index = _mm_add_epi8(index, _mm_set1_epi8((char)i));
    return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(index));
}

static inline vi vi_min_u8(vi a, vi b)
{
    return _mm512_min_epu8(a, b);
}

static inline vi vi_shl(vi a, unsigned n)
{
    return _mm512_slli_epi32(a, n);
}

static inline vi vi_shr(vi a, unsigned n)
{
    return _mm512_srli_epi32(a, n);
}

static inline vi vi_sar(vi a, unsigned n)
{
    return _mm512_srai_epi32(a, n);
}

static inline vi vi_shl_lanes(vi a, vi n)
{
    return _mm512_sllv_epi32(a, n);
}

static inline vi vi_max_u32(vi a, vi b)
{
    return _mm512_max_epu32(a, b);
}

static inline uint32_t vi_hmax_u32(vi x)
{
    return _mm512_reduce_max_epu32(x);
}

static inline int32_t vi_hsum(vi x)
{
    return _mm512_reduce_add_epi32(x);
}

static inline vi vi_bits(vf x)
{
    return _mm512_castps_si512(x);
}

static inline vf v_from_bits(vi x)
{
    return _mm512_castsi512_ps(x);
}

static inline vf v_from_int(vi x)
{
    return _mm512_cvtepi32_ps(x);
}

/* To the nearest integer, ties to even. */
static inline vi v_to_int(vf x)
{
    return _mm512_cvtps_epi32(x);
}

/* LANES bytes, saturated. */
static inline void vi_store_i8(int8_t *p, vi x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(x));
}

/* The f16 in the low half of each lane. */
static inline vf v_from_f16_low(vi x)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x));
}

static inline vf v_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

static inline void v_store_f16(void *p, vf x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

/* The 32 bits at base + offsets[lane]. */
static inline vi vi_gather(const uint8_t *base, vi offsets)
{
    return _mm512_i32gather_epi32(offsets, base, 1);
}

static inline vi vi_load_16x4(const uint8_t *const *rows, size_t offset)
{
    __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[0] + offset)));

    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(rows[4] + offset)), 1);
    x = _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(rows[8] + offset)), 2);
    return _mm512_inserti32x4(x, _mm_loadu_si128((const __m128i *)(rows[12] + offset)), 3);
}

/* Reads 16 bytes at rows[lane] + offset and turns them: ret[j] holds dword j of every row. */
static inline void vi_load_turned(const uint8_t *const *rows, size_t offset, vi ret[4])
{
    __m512i a = vi_load_16x4(rows + 0, offset);
    __m512i b = vi_load_16x4(rows + 1, offset);
    __m512i c = vi_load_16x4(rows + 2, offset);
    __m512i d = vi_load_16x4(rows + 3, offset);
    __m512i ab_low = _mm512_unpacklo_epi32(a, b);
    __m512i ab_high = _mm512_unpackhi_epi32(a, b);
    __m512i cd_low = _mm512_unpacklo_epi32(c, d);
    __m512i cd_high = _mm512_unpackhi_epi32(c, d);

    ret[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
    ret[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
    ret[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
    ret[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

/* acc + the dot product of 4 unsigned bytes of w (up to 127) and 4 signed bytes of x, per lane. */
static inline vi vi_dot(vi acc, vi w, vi x)
{
    return _mm512_dpbusd_epi32(acc, w, x);
}

/* Signed 8-bit weights as vi_dot_wide wants them: here unsigned, 128 too large. */
enum { WIDE_SHIFT = 7 };

static inline vi vi_widen(vi w)
{
    return _mm512_xor_si512(w, _mm512_set1_epi8(-128));
}

static inline vi vi_dot_wide(vi acc, vi w, vi x)
{
    return _mm512_dpbusd_epi32(acc, w, x);
}

#endif
