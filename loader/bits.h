/* bits: a bitmap of units, as words of 64. The owner knows how many there are. */
#ifndef LAMINAR_LOADER_BITS_H
#define LAMINAR_LOADER_BITS_H

#include <stdbool.h>
#include <stdint.h>

static inline void lam_bit_set(uint64_t *bits, uint32_t i)
{
    bits[i / 64] |= (uint64_t)1 << (i % 64);
}

static inline void lam_bit_clear(uint64_t *bits, uint32_t i)
{
    bits[i / 64] &= ~((uint64_t)1 << (i % 64));
}

static inline bool lam_bit_is_set(const uint64_t *bits, uint32_t i)
{
    return (bits[i / 64] >> (i % 64) & 1) != 0;
}

#endif
