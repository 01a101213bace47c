/* Pages of the KV cache: never shared, never lost, handed out again after a release. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "worker/kv.h"

#define WORDS_MAX 256

static const struct lam_kv_config small = {
    .n_slots = 3, .n_pages = 10, .page_tokens = 4, .pages_per_slot = 8};

/* Every page is owned exactly once: by a slot or by the free stack. */
static void check_conserved(const struct lam_kv *kv)
{
    uint32_t n_seen[64] = {0};

    for (uint32_t slot = 0; slot < kv->config.n_slots; slot++)
        for (uint32_t i = 0; i < lam_kv_owned(kv, slot); i++)
            n_seen[lam_kv_table(kv, slot)[i]]++;
    for (uint32_t i = 0; i < kv->n_free; i++)
        n_seen[kv->free[i]]++;
    for (uint32_t page = 0; page < kv->config.n_pages; page++)
        assert_int_equal(n_seen[page], 1);
}

static void test_grows_by_whole_pages(void **state)
{
    uint32_t words[WORDS_MAX];
    struct lam_kv kv;

    (void)state;
    assert_true(lam_kv_words(&small) <= WORDS_MAX);
    lam_kv_init(&kv, &small, words);
    assert_int_equal(lam_kv_pages_for(&kv, 0), 0);
    assert_int_equal(lam_kv_pages_for(&kv, 4), 1);
    assert_int_equal(lam_kv_pages_for(&kv, 5), 2);
    assert_true(lam_kv_reserve(&kv, 1, 4));
    assert_int_equal(lam_kv_owned(&kv, 1), 1);
    assert_true(lam_kv_reserve(&kv, 1, 5));
    assert_int_equal(lam_kv_owned(&kv, 1), 2);
    assert_true(lam_kv_reserve(&kv, 1, 2)); /* never shrinks */
    assert_int_equal(lam_kv_owned(&kv, 1), 2);
    check_conserved(&kv);
}

static void test_growth_keeps_the_table(void **state)
{
    uint32_t words[WORDS_MAX];
    struct lam_kv kv;
    uint32_t before[2];

    (void)state;
    lam_kv_init(&kv, &small, words);
    assert_true(lam_kv_reserve(&kv, 0, 8));
    memcpy(before, lam_kv_table(&kv, 0), sizeof before);
    assert_true(lam_kv_reserve(&kv, 2, 8));
    assert_true(lam_kv_reserve(&kv, 0, 20));
    assert_memory_equal(before, lam_kv_table(&kv, 0), sizeof before);
    check_conserved(&kv);
}

static void test_refuses_without_change(void **state)
{
    uint32_t words[WORDS_MAX];
    struct lam_kv kv;

    (void)state;
    lam_kv_init(&kv, &small, words);
    assert_true(lam_kv_reserve(&kv, 0, 32));
    assert_true(lam_kv_reserve(&kv, 1, 4));
    assert_int_equal(kv.n_free, 1);
    assert_false(lam_kv_reserve(&kv, 1, 16));
    assert_int_equal(lam_kv_owned(&kv, 1), 1);
    assert_int_equal(kv.n_free, 1);
    lam_kv_release(&kv, 0);
    assert_true(lam_kv_reserve(&kv, 1, 16));
    check_conserved(&kv);
}

static void test_last_given_back_is_first_handed_out(void **state)
{
    uint32_t words[WORDS_MAX];
    struct lam_kv kv;
    uint32_t page;

    (void)state;
    lam_kv_init(&kv, &small, words);
    assert_true(lam_kv_reserve(&kv, 0, 1));
    page = lam_kv_table(&kv, 0)[0];
    lam_kv_release(&kv, 0);
    assert_true(lam_kv_reserve(&kv, 2, 1));
    assert_int_equal(lam_kv_table(&kv, 2)[0], page);
}

static void test_random_use_conserves_pages(void **state)
{
    uint32_t words[WORDS_MAX];
    struct lam_kv kv;
    uint32_t random = 1;
    uint32_t n_refused = 0;

    (void)state;
    lam_kv_init(&kv, &small, words);
    for (int i = 0; i < 5000; i++) {
        random = random * 1664525u + 1013904223u;
        if ((random >> 24) % 4 == 0)
            lam_kv_release(&kv, (random >> 16) % 3);
        else if (!lam_kv_reserve(&kv, (random >> 16) % 3, (random >> 8) % 33))
            n_refused++;
        check_conserved(&kv);
    }
    assert_in_range(n_refused, 1, 4999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grows_by_whole_pages),
        cmocka_unit_test(test_growth_keeps_the_table),
        cmocka_unit_test(test_refuses_without_change),
        cmocka_unit_test(test_last_given_back_is_first_handed_out),
        cmocka_unit_test(test_random_use_conserves_pages),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
