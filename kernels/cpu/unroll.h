/*
 * unroll: loops over register tiles and the calls in them must vanish, whatever the optimisation
 * level, or the tile lives in memory. Under the address sanitizer they stay: unrolled and checked,
 * they take minutes to compile.
 */
#ifndef LAMINAR_KERNELS_CPU_UNROLL_H
#define LAMINAR_KERNELS_CPU_UNROLL_H

#ifndef __has_feature
#define __has_feature(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define LAM_UNROLL
#define LAM_INLINE static inline
#elif defined(__clang__)
#define LAM_UNROLL _Pragma("clang loop unroll(full)")
#define LAM_INLINE static inline __attribute__((always_inline))
#else
#define LAM_UNROLL _Pragma("GCC unroll 16")
#define LAM_INLINE static inline __attribute__((always_inline))
#endif

#endif
