/* Embedding rows: whatever is asked for, every pointer of a look-up leads to the right row. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/fault.h"
#include "worker/row_cache.h"

#define ROW_BYTES 12
#define ROWS_MAX 32

/* Row `id` in the pretended file. */
static void make_row(int32_t id, unsigned char row[ROW_BYTES])
{
    for (int i = 0; i < ROW_BYTES; i++)
        row[i] = (unsigned char)(id * 7 + i);
}

static void fill(struct lam_row_cache *cache)
{
    for (uint32_t i = 0; i < cache->n_misses; i++)
        make_row(cache->misses[i].id, cache->misses[i].row);
}

static void look_up_and_check(struct lam_row_cache *cache, const int32_t *ids, uint32_t n)
{
    const void *rows[ROWS_MAX];

    lam_row_cache_look_up(cache, ids, n, rows);
    fill(cache);
    for (uint32_t i = 0; i < n; i++) {
        unsigned char wanted[ROW_BYTES];
        make_row(ids[i], wanted);
        assert_memory_equal(rows[i], wanted, ROW_BYTES);
    }
}

static void test_second_look_up_misses_nothing(void **state)
{
    const int32_t ids[] = {0, 5, 31, 5};
    struct lam_row_cache cache;

    (void)state;
    assert_int_equal(
        lam_row_cache_init(&cache, ROW_BYTES, 1000 * ROW_BYTES, 32, ROWS_MAX, NULL), 0);
    assert_int_equal(cache.n_places, 32); /* never more places than rows */
    look_up_and_check(&cache, ids, 4);
    assert_int_equal(cache.n_misses, 3); /* 5 once */
    look_up_and_check(&cache, ids, 4);
    assert_int_equal(cache.n_misses, 0);
    lam_row_cache_done(&cache);
}

static void test_rows_that_collide_in_one_look_up(void **state)
{
    const int32_t ids[] = {1, 5, 9, 1, 5, 9, 13};
    const int32_t first[] = {9};
    struct lam_row_cache cache;

    (void)state;
    assert_int_equal(lam_row_cache_init(&cache, ROW_BYTES, 4 * ROW_BYTES, 100, ROWS_MAX, NULL), 0);
    look_up_and_check(&cache, first, 1);
    look_up_and_check(&cache, ids, 7); /* 9 is in its place and must stay there */
    look_up_and_check(&cache, first, 1);
    assert_int_equal(cache.n_misses, 0);
    lam_row_cache_done(&cache);
}

static void test_rows_that_never_came_are_asked_for_again(void **state)
{
    const int32_t ids[] = {1, 5, 2};
    const void *rows[3];
    struct lam_row_cache cache;

    (void)state;
    assert_int_equal(lam_row_cache_init(&cache, ROW_BYTES, 4 * ROW_BYTES, 100, ROWS_MAX, NULL), 0);
    lam_row_cache_look_up(&cache, ids, 3, rows);
    lam_row_cache_forget(&cache);
    look_up_and_check(&cache, ids, 3);
    assert_int_equal(cache.n_misses, 3);
    lam_row_cache_done(&cache);
}

static void test_random_look_ups(void **state)
{
    struct lam_row_cache cache;
    uint32_t random = 1;
    uint64_t n_hits = 0;

    (void)state;
    assert_int_equal(lam_row_cache_init(&cache, ROW_BYTES, 7 * ROW_BYTES, 50, ROWS_MAX, NULL), 0);
    for (int i = 0; i < 5000; i++) {
        int32_t ids[ROWS_MAX];
        uint32_t n;
        random = random * 1664525u + 1013904223u;
        n = (random >> 16) % (ROWS_MAX + 1);
        for (uint32_t k = 0; k < n; k++) {
            random = random * 1664525u + 1013904223u;
            ids[k] = (int32_t)((random >> 16) % 50);
        }
        look_up_and_check(&cache, ids, n);
        n_hits += n - cache.n_misses;
    }
    assert_true(n_hits > 1000);
    lam_row_cache_done(&cache);
}

static void test_out_of_memory(void **state)
{
    struct lam_row_cache cache;
    uint64_t nth = 0;
    enum lam_status status;

    (void)state;
    do {
        struct lam_err err = {0};
        lam_fault_arm("alloc", ++nth);
        status = lam_row_cache_init(&cache, ROW_BYTES, 4 * ROW_BYTES, 100, ROWS_MAX, &err);
        if (status != LAM_OK) {
            assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
            assert_non_null(strstr(err.text, "embedding rows"));
        }
    } while (lam_fault_fired());
    assert_int_equal(status, LAM_OK);
    assert_true(nth > 3);
    lam_fault_arm("alloc", 0);
    lam_row_cache_done(&cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_second_look_up_misses_nothing),
        cmocka_unit_test(test_rows_that_collide_in_one_look_up),
        cmocka_unit_test(test_rows_that_never_came_are_asked_for_again),
        cmocka_unit_test(test_random_look_ups),
        cmocka_unit_test(test_out_of_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
