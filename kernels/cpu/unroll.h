/*
 * unroll: loops over register tiles must vanish, whatever the optimisation level, or the tile lives in
 * memory. Under the address sanitizer they stay: unrolled and checked, they take minutes to compile.
 */
#ifndef LAMINAR_KERNELS_CPU_UNROLL_H
#define LAMINAR_KERNELS_CPU_UNROLL_H

#ifndef __has_feature
#define __has_feature(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define LAM_UNROLL
#elif defined(__clang__)
#define LAM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define LAM_UNROLL _Pragma("GCC unroll 16")
#endif

#define LAM_INLINE static inline __attribute__((always_inline))

#endif
