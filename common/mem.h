/*
 * mem: the only door to the heap. Sizes are checked, every allocation is a fault point ("alloc"),
 * and nothing else in the tree calls malloc. Hot paths allocate nothing: they use arenas made at
 * start.
 */
#ifndef LAMINAR_COMMON_MEM_H
#define LAMINAR_COMMON_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

/* count * size zeroed bytes, or NULL (no memory, or the product overflows). Free with lam_free. */
LAM_MUST_USE void *lam_calloc(size_t count, size_t size);

/* Resizes to count * size bytes; new bytes are not zeroed. NULL leaves the old block alive. */
LAM_MUST_USE void *lam_realloc(void *block, size_t count, size_t size);

/* A NUL-terminated copy of text[0, length), or NULL. */
LAM_MUST_USE char *lam_strndup(const char *text, size_t length);
LAM_MUST_USE char *lam_strdup(const char *text);

/* NULL is allowed. */
void lam_free(void *block);

/* Zeroed bytes aligned to `align`, a power of two and multiple of sizeof(void *). lam_free. */
LAM_MUST_USE void *lam_aligned_calloc(size_t align, size_t bytes);

/*
 * Arena: a bump allocator over one block, freed as a whole.
 * `high_bytes` remembers the largest use, so a plan can be held against what happened.
 */
struct lam_arena {
    unsigned char *base;
    uint64_t cap_bytes;
    uint64_t used_bytes;
    uint64_t high_bytes;
};

/* Takes cap_bytes from the heap (64-byte aligned). Errors: LAM_RESOURCE_EXHAUSTED. */
LAM_MUST_USE enum lam_status lam_arena_init(
    struct lam_arena *arena, uint64_t cap_bytes, struct lam_err *err);

/* `count * size` bytes at `align`, zeroed; NULL when the arena is full. Never grows. */
LAM_MUST_USE void *lam_arena_alloc(
    struct lam_arena *arena, uint64_t count, uint64_t size, uint64_t align);

/* Forgets all allocations; pointers into the arena die. */
void lam_arena_reset(struct lam_arena *arena);

/* Gives the block back. A zeroed struct is allowed. */
void lam_arena_done(struct lam_arena *arena);

#endif
