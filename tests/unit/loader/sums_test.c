/* sums: side by side they are what each chunk has alone, whatever the sizes. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <xxhash.h>

#include "loader/sums.h"

#define BYTES_MAX 40000u

static unsigned char bytes[BYTES_MAX];

static void every_chunk_has_the_sum_of_it_alone(void **state)
{
    static const uint64_t chunk_sizes[] = {1, 64, 255, 256, 1023, 1024, 1025, 4096, 9999};
    uint32_t value = 1;

    (void)state;
    for (uint32_t i = 0; i < BYTES_MAX; i++) {
        value = value * 1664525 + 1013904223;
        bytes[i] = (unsigned char)(value >> 24);
    }
    for (uint32_t s = 0; s < sizeof(chunk_sizes) / sizeof(*chunk_sizes); s++) {
        uint64_t chunk = chunk_sizes[s];

        for (uint64_t n = 1; n <= LAM_SUMS_MAX * chunk; n += n < 9 ? 1 : n / 3) {
            uint64_t sums[LAM_SUMS_MAX + 1] = {0};
            uint64_t c = 0;

            lam_sums(bytes, n, chunk, sums);
            for (; c * chunk < n; c++) {
                uint64_t left = n - c * chunk;

                assert_int_equal(
                    sums[c], XXH3_64bits(bytes + c * chunk, left < chunk ? left : chunk));
            }
            assert_int_equal(sums[c], 0); /* and not one more */
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_chunk_has_the_sum_of_it_alone)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
