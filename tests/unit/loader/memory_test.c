/* memory: reading what the kernel says about itself, and what follows for the pool. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/size.h"
#include "loader/memory.h"

static void fields_are_found_by_their_whole_name(void **state)
{
    static const char text[] = "MemTotal:       24731700 kB\n"
                               "MemAvailable:   23000000 kB\n"
                               "inactive_file 12345\n"
                               "Huge: 99999999999999999999999\n"
                               "Last:\t7";
    uint64_t value = 1;

    (void)state;
    assert_true(lam_memory_field(text, "MemTotal", &value));
    assert_int_equal(value, 24731700);
    assert_true(lam_memory_field(text, "inactive_file", &value));
    assert_int_equal(value, 12345);
    assert_true(lam_memory_field(text, "Last", &value));
    assert_int_equal(value, 7);
    assert_false(lam_memory_field(text, "Mem", &value));
    assert_false(lam_memory_field(text, "Available", &value));
    assert_false(lam_memory_field(text, "Huge", &value)); /* over 64 bits */
    assert_false(lam_memory_field("", "Mem", &value));
    assert_int_equal(value, 7);
}

/* A group whose limit was above that of a group inside it was not asked what it had left: a pool
 * was made that its neighbours' memory left no room for. */
static void each_group_leaves_what_it_leaves(void **state)
{
    struct lam_memory memory = {.total_bytes = 64 * LAM_GIB, .available_bytes = 60 * LAM_GIB};

    (void)state;
    lam_memory_apply_limit(&memory, 8 * LAM_GIB, LAM_GIB); /* ours */
    assert_int_equal(memory.total_bytes, 8 * LAM_GIB);
    assert_int_equal(memory.available_bytes, 7 * LAM_GIB);
    lam_memory_apply_limit(&memory, 10 * LAM_GIB, 9 * LAM_GIB); /* the one around it */
    assert_int_equal(memory.total_bytes, 8 * LAM_GIB);
    assert_int_equal(memory.available_bytes, LAM_GIB);
    lam_memory_apply_limit(
        &memory, UINT64_MAX - 4095, 9 * LAM_GIB); /* no limit, as version 1 has it */
    assert_int_equal(memory.total_bytes, 8 * LAM_GIB);
    assert_int_equal(memory.available_bytes, LAM_GIB);
    lam_memory_apply_limit(&memory, 9 * LAM_GIB, 9 * LAM_GIB + 1); /* over it for a moment */
    assert_int_equal(memory.available_bytes, 0);
}

static void this_machine_has_memory(void **state)
{
    struct lam_memory memory;

    (void)state;
    assert_int_equal(lam_memory_read(&memory, NULL), LAM_OK);
    assert_true(memory.total_bytes > 16 * LAM_MIB);
    assert_in_range(memory.available_bytes, 1, memory.total_bytes);
}

static void the_budget_is_what_was_asked_for_and_needed(void **state)
{
    const struct lam_memory memory = {.total_bytes = 16 * LAM_GIB, .available_bytes = 8 * LAM_GIB};
    struct lam_err err = {0};
    uint64_t bytes = 0;
    char room[24];

    (void)state;
    assert_int_equal(lam_memory_budget(&memory, "auto", LAM_GIB, &bytes, &err), LAM_OK);
    assert_int_equal(bytes, LAM_GIB);
    assert_int_equal(lam_memory_budget(&memory, "auto", 100 * LAM_GIB, &bytes, &err), LAM_OK);
    assert_int_equal(bytes, 6 * LAM_GIB);
    assert_int_equal(lam_memory_budget(&memory, "3GiB", 100 * LAM_GIB, &bytes, &err), LAM_OK);
    assert_int_equal(bytes, 3 * LAM_GIB);
    assert_int_equal(lam_memory_budget(&memory, "25%", 100 * LAM_GIB, &bytes, &err), LAM_OK);
    assert_int_equal(bytes, 4 * LAM_GIB);
    assert_int_equal(lam_memory_budget(&memory, "free-1GiB", 100 * LAM_GIB, &bytes, &err), LAM_OK);
    assert_int_equal(bytes, 7 * LAM_GIB);
    assert_int_equal(
        lam_memory_budget(&memory, "free-8GiB", LAM_GIB, &bytes, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "smaller margin"));
    assert_int_equal(
        lam_memory_budget(&memory, "free-10%", LAM_GIB, &bytes, &err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_memory_budget(&memory, "12GiB", LAM_GIB, &bytes, &err), LAM_OK);
    assert_int_equal(bytes, LAM_GIB);
    assert_int_equal(
        lam_memory_budget(&memory, "75%", 100 * LAM_GIB, &bytes, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, lam_size_format(8 * LAM_GIB, room, sizeof(room))));
    assert_non_null(strstr(err.text, "--ram"));
    assert_int_equal(
        lam_memory_budget(&memory, "many", LAM_GIB, &bytes, &err), LAM_INVALID_ARGUMENT);
    assert_int_equal(bytes, LAM_GIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fields_are_found_by_their_whole_name),
        cmocka_unit_test(each_group_leaves_what_it_leaves),
        cmocka_unit_test(this_machine_has_memory),
        cmocka_unit_test(the_budget_is_what_was_asked_for_and_needed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
