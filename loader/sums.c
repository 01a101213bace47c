/* sums: see the header. */
#include "loader/sums.h"

#include <assert.h>
#if defined(__x86_64__)
#define XXH_STATIC_LINKING_ONLY /* for states that are no allocations */
#include <xxh_x86dispatch.h>    /* XXH3 with the widest vectors that this processor has */
#else
#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>
#endif

/* Of one chunk before the next has its turn. XXH3 keeps a quarter of it in its state until the next
 * comes; with steps of 4 KiB that is less, and half of the gain is gone. */
#define STEP_BYTES 1024u

/* Asked for ahead in each chunk: a page. With less the bytes are late, with more the four chunks'
 * push each other out of the first cache: docs/perf/notebook.md, "Loader", has the sweep. */
#define AHEAD_BYTES 4096u
#define LINE_BYTES 64u

static void fetch_step(const unsigned char *bytes)
{
    for (uint32_t at = 0; at < STEP_BYTES; at += LINE_BYTES)
        __builtin_prefetch(bytes + at, 0, 3);
}

void lam_sums(
    const unsigned char *bytes, uint64_t n_bytes, uint64_t chunk_bytes, uint64_t *ret_sums)
{
    XXH3_state_t states[LAM_SUMS_MAX];
    uint64_t n_chunks = (n_bytes + chunk_bytes - 1) / chunk_bytes;
    uint64_t all_bytes = n_bytes < chunk_bytes ? n_bytes : chunk_bytes;

    assert(n_bytes > 0 && n_chunks <= LAM_SUMS_MAX);
    if (n_chunks == 1) {
        ret_sums[0] = XXH3_64bits(bytes, n_bytes);
        return;
    }
    for (uint64_t c = 0; c < n_chunks; c++)
        XXH3_64bits_reset(&states[c]);
    for (uint64_t at = 0; at < all_bytes; at += STEP_BYTES) {
        for (uint64_t c = 0; c < n_chunks; c++) {
            uint64_t begin = c * chunk_bytes + at;
            uint64_t end = begin - at + chunk_bytes < n_bytes ? begin - at + chunk_bytes : n_bytes;

            if (begin + AHEAD_BYTES + STEP_BYTES <= end)
                fetch_step(bytes + begin + AHEAD_BYTES);
            if (begin < end)
                XXH3_64bits_update(
                    &states[c], bytes + begin, end - begin < STEP_BYTES ? end - begin : STEP_BYTES);
        }
    }
    for (uint64_t c = 0; c < n_chunks; c++)
        ret_sums[c] = XXH3_64bits_digest(&states[c]);
}
