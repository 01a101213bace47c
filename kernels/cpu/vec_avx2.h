/*
 * vec_avx2: the vector vocabulary of the CPU kernels for AVX2 with FMA and F16C: 8 lanes. See
 * vec_avx512.h, which has the same names with 16 lanes and says what each does.
 */
#ifndef LAMINAR_KERNELS_CPU_VEC_AVX2_H
#define LAMINAR_KERNELS_CPU_VEC_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* Register tiles that fit 16 registers. */
enum { LANES = 8, TILE_PANELS = 1, TILE_ROWS = 4, TILE_VECS = 2 };

typedef __m256 vf;
typedef __m256i vi;

static inline vf v_zero(void)
{
    return _mm256_setzero_ps();
}

static inline vf v_set(float x)
{
    return _mm256_set1_ps(x);
}

static inline vf v_load(const float *p)
{
    return _mm256_loadu_ps(p);
}

static inline void v_store(float *p, vf x)
{
    _mm256_storeu_ps(p, x);
}

static inline __m256i v_first(uint32_t n)
{
    __m256i index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int32_t)n), index);
}

static inline vf v_load_n(const float *p, uint32_t n)
{
    return _mm256_maskload_ps(p, v_first(n));
}

static inline void v_store_n(float *p, vf x, uint32_t n)
{
    _mm256_maskstore_ps(p, v_first(n), x);
}

static inline vf v_keep_n(vf x, vf fill, uint32_t n)
{
    return _mm256_blendv_ps(fill, x, _mm256_castsi256_ps(v_first(n)));
}

static inline vf v_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

static inline vf v_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}

static inline vf v_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

static inline vf v_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}

static inline vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

static inline vf v_fma_alternate(vf a, vf b, vf c)
{
    return _mm256_fmaddsub_ps(a, b, c);
}

static inline vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

static inline vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

static inline vf v_zero_below(vf x, float limit, vf value)
{
    return _mm256_and_ps(value, _mm256_cmp_ps(x, v_set(limit), _CMP_NLT_UQ));
}

static inline vf v_even(vf x)
{
    return _mm256_moveldup_ps(x);
}

static inline vf v_odd(vf x)
{
    return _mm256_movehdup_ps(x);
}

static inline vf v_swap_pairs(vf x)
{
    return _mm256_permute_ps(x, 0xB1);
}

static inline float v_hsum(vf x)
{
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline float v_hmax(vf x)
{
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    return _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
}

static inline vi vi_zero(void)
{
    return _mm256_setzero_si256();
}

static inline vi vi_set(int32_t x)
{
    return _mm256_set1_epi32(x);
}

static inline vi vi_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}

static inline vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}

static inline vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}

static inline vi vi_repeat_byte(vi a, int i)
{
    __m128i index = _mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0C0C0C0C);

    index = _mm_add_epi8(index, _mm_set1_epi8((char)i));
    return _mm256_shuffle_epi8(a, _mm256_broadcastsi128_si256(index));
}

static inline vi vi_min_u8(vi a, vi b)
{
    return _mm256_min_epu8(a, b);
}

static inline vi vi_shl(vi a, unsigned n)
{
    return _mm256_slli_epi32(a, (int)n);
}

static inline vi vi_shr(vi a, unsigned n)
{
    return _mm256_srli_epi32(a, (int)n);
}

static inline vi vi_sar(vi a, unsigned n)
{
    return _mm256_srai_epi32(a, (int)n);
}

static inline vi vi_shl_lanes(vi a, vi n)
{
    return _mm256_sllv_epi32(a, n);
}

static inline vi vi_max_u32(vi a, vi b)
{
    return _mm256_max_epu32(a, b);
}

static inline uint32_t vi_hmax_u32(vi x)
{
    __m128i max = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0x4E));
    max = _mm_max_epu32(max, _mm_shuffle_epi32(max, 0xB1));
    return (uint32_t)_mm_cvtsi128_si32(max);
}

static inline int32_t vi_hsum(vi x)
{
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1));
    return _mm_cvtsi128_si32(sum);
}

static inline vi vi_bits(vf x)
{
    return _mm256_castps_si256(x);
}

static inline vf v_from_bits(vi x)
{
    return _mm256_castsi256_ps(x);
}

static inline vf v_from_int(vi x)
{
    return _mm256_cvtepi32_ps(x);
}

static inline vi v_to_int(vf x)
{
    return _mm256_cvtps_epi32(x);
}

static inline void vi_store_i8(int8_t *p, vi x)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));

    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(words, words));
}

static inline vf v_from_f16_low(vi x)
{
    __m256i low = _mm256_and_si256(x, _mm256_set1_epi32(0xFFFF));
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));

    return _mm256_cvtph_ps(words);
}

static inline vf v_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

static inline void v_store_f16(void *p, vf x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

static inline vi vi_gather(const uint8_t *base, vi offsets)
{
    return _mm256_i32gather_epi32((const int *)(const void *)base, offsets, 1);
}

static inline vi vi_load_16x2(const uint8_t *const *rows, size_t offset)
{
    __m256i x = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(rows[0] + offset)));

    return _mm256_inserti128_si256(x, _mm_loadu_si128((const __m128i *)(rows[4] + offset)), 1);
}

static inline void vi_load_turned(const uint8_t *const *rows, size_t offset, vi ret[4])
{
    __m256i a = vi_load_16x2(rows + 0, offset);
    __m256i b = vi_load_16x2(rows + 1, offset);
    __m256i c = vi_load_16x2(rows + 2, offset);
    __m256i d = vi_load_16x2(rows + 3, offset);
    __m256i ab_low = _mm256_unpacklo_epi32(a, b);
    __m256i ab_high = _mm256_unpackhi_epi32(a, b);
    __m256i cd_low = _mm256_unpacklo_epi32(c, d);
    __m256i cd_high = _mm256_unpackhi_epi32(c, d);

    ret[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
    ret[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
    ret[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
    ret[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
}

/* Exact while w <= 127: the pairs' sums then fit 16 bits. */
static inline vi vi_dot(vi acc, vi w, vi x)
{
    __m256i pairs = _mm256_maddubs_epi16(w, x);

    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* Signed 8-bit weights stay signed here: their sign moves to x, so that the pairs' sums fit 16
 * bits. */
enum { WIDE_SHIFT = 0 };

static inline vi vi_widen(vi w)
{
    return w;
}

static inline vi vi_dot_wide(vi acc, vi w, vi x)
{
    return vi_dot(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

#endif
