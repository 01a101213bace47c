/* batch: what auto makes of small and large units, and what is raised. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/size.h"
#include "worker/batch.h"

static struct lam_batch_facts facts_of(uint64_t unit_bytes, uint32_t n_slots)
{
    return (struct lam_batch_facts){.n_units = 32,
        .unit_bytes_total = 32 * unit_bytes,
        .n_slots = n_slots,
        .n_ahead_bytes = 32 * LAM_MIB};
}

static void auto_fills_the_drive_with_small_units(void **state)
{
    struct lam_batch_facts facts = facts_of(8 * LAM_MIB, 16);
    struct lam_batch batch = lam_batch_choose(&facts, 0, 0);

    (void)state;
    assert_int_equal(batch.n_units, 4);
    assert_int_equal(batch.n_credits, 8);
    assert_non_null(strstr(batch.why, "4 of 32 units a request (auto)"));
    facts = facts_of(7 * LAM_MIB, 16); /* rounded up: 4 of 7 MiB are not enough */
    assert_int_equal(lam_batch_choose(&facts, 0, 0).n_units, 5);
}

static void auto_asks_for_large_units_one_by_one(void **state)
{
    struct lam_batch_facts facts = facts_of(400 * LAM_MIB, 3);
    struct lam_batch batch = lam_batch_choose(&facts, 0, 0);

    (void)state;
    assert_int_equal(batch.n_units, 1);
    assert_int_equal(batch.n_credits, 3);
}

static void auto_leaves_room_for_two_batches(void **state)
{
    (void)state;
    for (uint32_t n_slots = 1; n_slots < 12; n_slots++) {
        struct lam_batch_facts facts = facts_of(LAM_MIB, n_slots);
        uint32_t n = lam_batch_choose(&facts, 0, 0).n_units;

        assert_true(n == 1 || 2 * n + 1 <= n_slots);
        assert_true(2 * (n + 1) + 1 > n_slots);
    }
}

static void auto_asks_for_nothing_that_stays(void **state)
{
    struct lam_batch_facts facts = facts_of(LAM_MIB, 0);
    struct lam_batch batch = lam_batch_choose(&facts, 0, 0);

    (void)state;
    assert_int_equal(batch.n_units, 1);
    assert_non_null(strstr(batch.why, "all units stay"));
    facts = facts_of(LAM_MIB, 8);
    facts.n_ahead_bytes = 0; /* a loader that does not say */
    assert_int_equal(lam_batch_choose(&facts, 0, 0).n_units, 1);
}

static void a_number_is_taken_at_its_word(void **state)
{
    struct lam_batch_facts facts = facts_of(400 * LAM_MIB, 3);

    (void)state;
    assert_int_equal(lam_batch_choose(&facts, 5, 0).n_units, 5);
    assert_int_equal(lam_batch_choose(&facts, 5, 0).n_credits, 10);
    assert_int_equal(lam_batch_choose(&facts, 5, 7).n_credits, 7);
    assert_int_equal(lam_batch_choose(&facts, 5, 2).n_credits, 5); /* less could never be given */
    assert_int_equal(lam_batch_choose(&facts, 1000, 0).n_units, 32);
}

static void what_is_held_is_credit_too(void **state)
{
    struct lam_batch_facts facts = facts_of(400 * LAM_MIB, 8);
    uint32_t before = lam_batch_choose(&facts, 1, 0).n_credits;

    (void)state;
    facts.n_held = 3;
    assert_int_equal(lam_batch_choose(&facts, 1, 0).n_credits, before + 3);
    assert_int_equal(lam_batch_choose(&facts, 1, 2).n_credits, 2); /* given: taken at its word */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_fills_the_drive_with_small_units),
        cmocka_unit_test(auto_asks_for_large_units_one_by_one),
        cmocka_unit_test(auto_leaves_room_for_two_batches),
        cmocka_unit_test(auto_asks_for_nothing_that_stays),
        cmocka_unit_test(a_number_is_taken_at_its_word),
        cmocka_unit_test(what_is_held_is_credit_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
