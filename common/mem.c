/* mem: see mem.h. */
#include "common/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/size.h"

void *lam_calloc(size_t count, size_t size)
{
    uint64_t bytes;

    if (lam_fault_hit("alloc") || !lam_size_mul(count, size, &bytes))
        return NULL;
    return calloc(bytes ? bytes : 1, 1);
}

void *lam_realloc(void *block, size_t count, size_t size)
{
    uint64_t bytes;

    if (lam_fault_hit("alloc") || !lam_size_mul(count, size, &bytes))
        return NULL;
    return realloc(block, bytes ? bytes : 1);
}

char *lam_strndup(const char *text, size_t length)
{
    char *copy = lam_calloc(length + 1, 1);

    if (copy && length)
        memcpy(copy, text, length);
    return copy;
}

char *lam_strdup(const char *text)
{
    return lam_strndup(text, strlen(text));
}

void lam_free(void *block)
{
    free(block);
}

void *lam_aligned_calloc(size_t align, size_t bytes)
{
    void *block = NULL;

    if (lam_fault_hit("alloc") || posix_memalign(&block, align, bytes ? bytes : 1) != 0)
        return NULL;
    memset(block, 0, bytes);
    return block;
}

enum lam_status lam_arena_init(struct lam_arena *arena, uint64_t cap_bytes, struct lam_err *err)
{
    unsigned char *base = lam_aligned_calloc(64, cap_bytes);

    if (!base)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for an arena of %llu bytes",
            (unsigned long long)cap_bytes);
    *arena = (struct lam_arena){.base = base, .cap_bytes = cap_bytes};
    return LAM_OK;
}

void *lam_arena_alloc(struct lam_arena *arena, uint64_t count, uint64_t size, uint64_t align)
{
    uint64_t begin;
    uint64_t bytes;

    assert(align > 0 && align <= 64 && (align & (align - 1)) == 0);
    if (lam_fault_hit("alloc"))
        return NULL;
    if (!lam_size_align_up(arena->used_bytes, align, &begin) || !lam_size_mul(count, size, &bytes))
        return NULL;
    if (!lam_size_range_ok(begin, bytes, arena->cap_bytes))
        return NULL;
    arena->used_bytes = begin + bytes;
    if (arena->used_bytes > arena->high_bytes)
        arena->high_bytes = arena->used_bytes;
    memset(arena->base + begin, 0, bytes);
    return arena->base + begin;
}

void lam_arena_reset(struct lam_arena *arena)
{
    arena->used_bytes = 0;
}

void lam_arena_done(struct lam_arena *arena)
{
    lam_free(arena->base);
    *arena = (struct lam_arena){0};
}
