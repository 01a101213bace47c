/*
 * sums_bench: what it costs one core to sum memory that is in no cache: a plain sum of the same
 * bytes, which is the least that reading them once more can cost, XXH3 chunk after chunk, and
 * lam_sums with chunks side by side as the loader has it; in pages of 4 KiB and in huge ones.
 *
 *   bazel run //bench:sums_bench
 *
 * prints processor time in milliseconds for each GB, the least of three.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "common/size.h"
#include "loader/pool.h"
#include "loader/sums.h"

#define BYTES (512 * LAM_MIB)
#define CHUNK_BYTES (4 * LAM_MIB)
#define ROUNDS 3

static volatile uint64_t sink; /* so that the sums are needed */

typedef uint64_t four_words __attribute__((vector_size(32), aligned(32)));

/* With the vectors that every processor of the last ten years has: more do not make it faster. */
#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static void
sum_plainly(const unsigned char *bytes)
{
    const four_words *words = (const four_words *)(const void *)bytes;
    four_words a = {0}, b = {0}, c = {0}, d = {0};

    for (uint64_t i = 0; i < BYTES / sizeof(*words); i += 4) {
        a += words[i];
        b += words[i + 1];
        c += words[i + 2];
        d += words[i + 3];
    }
    a += b + c + d;
    sink += a[0] + a[1] + a[2] + a[3];
}

static void sum_chunks(const unsigned char *bytes, uint64_t n_at_once)
{
    for (uint64_t at = 0; at < BYTES; at += n_at_once * CHUNK_BYTES) {
        uint64_t sums[LAM_SUMS_MAX];

        lam_sums(bytes + at, n_at_once * CHUNK_BYTES, CHUNK_BYTES, sums);
        sink += sums[0];
    }
}

static void sum_one(const unsigned char *bytes)
{
    sum_chunks(bytes, 1);
}

static void sum_four(const unsigned char *bytes)
{
    sum_chunks(bytes, 4);
}

static double cpu_ms(void)
{
    struct timespec now = {0};

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void measure(const char *name, void (*sum)(const unsigned char *), const unsigned char *base)
{
    double best = 0;

    for (int round = 0; round < ROUNDS; round++) {
        double begin = cpu_ms();

        sum(base);
        begin = cpu_ms() - begin;
        best = round == 0 || begin < best ? begin : best;
    }
    printf("  %-24s %6.1f ms for each GB\n", name, best / ((double)BYTES / 1e9));
}

static void measure_all(const char *pages, unsigned char *base)
{
    for (uint64_t at = 0; at < BYTES; at += sizeof(at))
        memcpy(base + at, &at, sizeof(at));
    printf("%s pages\n", pages);
    measure("plain sum", sum_plainly, base);
    measure("XXH3", sum_one, base);
    measure("XXH3, 4 side by side", sum_four, base);
}

int main(void)
{
    unsigned char *small =
        mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    struct lam_pool pool;
    struct lam_err err = {0};

    if (small == MAP_FAILED || lam_pool_init(BYTES, BYTES, &pool, &err) != LAM_OK) {
        fprintf(stderr, "sums_bench: no memory %s\n", err.text);
        return 1;
    }
    measure_all("4k", small);
    measure_all(pool.pages, pool.base);
    lam_pool_done(&pool);
    munmap(small, BYTES);
    return 0;
}
