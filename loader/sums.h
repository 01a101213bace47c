/*
 * sums: XXH3 of chunks of memory, several at once.
 *
 * One core that sums one chunk waits for memory most of the time: what is fetched ahead of it ends
 * with each page. Chunks that are walked side by side keep more of memory's requests under way.
 * docs/perf/notebook.md, "Loader", has both beside a plain sum of the same bytes.
 */
#ifndef LAMINAR_LOADER_SUMS_H
#define LAMINAR_LOADER_SUMS_H

#include <stdint.h>

#define LAM_SUMS_MAX 4u

/*
 * ret_sums[i] is XXH3_64bits of the i-th chunk of bytes[0, n_bytes), of which all but the last have
 * chunk_bytes. At most LAM_SUMS_MAX chunks; n_bytes > 0. [any thread]
 */
void lam_sums(
    const unsigned char *bytes, uint64_t n_bytes, uint64_t chunk_bytes, uint64_t *ret_sums);

#endif
