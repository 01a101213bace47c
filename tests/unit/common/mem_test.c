/* mem: sizes that overflow, zeroed memory, fault points, arenas. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/fault.h"
#include "common/mem.h"

static bool all_zero(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i])
            return false;
    return true;
}

static void test_zeroed(void **state)
{
    unsigned char *block = lam_calloc(100, 3);
    /* Not constants: the compiler would refuse them, a file would not. */
    volatile size_t huge = SIZE_MAX / 2 + 1;

    (void)state;
    assert_non_null(block);
    assert_true(all_zero(block, 300));
    lam_free(block);
    block = lam_calloc(0, 8);
    assert_non_null(block); /* empty is no failure */
    lam_free(block);
    assert_null(lam_calloc(huge, 2));
    assert_null(lam_realloc(NULL, huge, 2));
    lam_free(NULL);
}

static void test_resize(void **state)
{
    uint32_t *block = lam_calloc(2, sizeof *block);
    uint32_t *larger;
    volatile size_t huge = SIZE_MAX;

    (void)state;
    assert_non_null(block);
    block[1] = 77;
    assert_null(lam_realloc(block, huge, sizeof *block));
    assert_int_equal(block[1], 77); /* the old block is alive */
    larger = lam_realloc(block, 1000, sizeof *block);
    assert_non_null(larger);
    assert_int_equal(larger[1], 77);
    larger[999] = 1;
    lam_free(larger);
}

static void test_strings(void **state)
{
    char *copy = lam_strndup("hello", 3);

    (void)state;
    assert_string_equal(copy, "hel");
    lam_free(copy);
    copy = lam_strndup(NULL, 0);
    assert_string_equal(copy, "");
    lam_free(copy);
    copy = lam_strdup("hello");
    assert_string_equal(copy, "hello");
    lam_free(copy);
}

static void test_aligned(void **state)
{
    static const size_t aligns[] = {8, 64, 4096};

    (void)state;
    for (size_t i = 0; i < sizeof aligns / sizeof aligns[0]; i++) {
        unsigned char *block = lam_aligned_calloc(aligns[i], 5000);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % aligns[i], 0);
        assert_true(all_zero(block, 5000));
        lam_free(block);
    }
}

/* Every door to the heap is a fault point. */
static void test_faults(void **state)
{
    struct lam_arena arena = {0};
    struct lam_err err = {0};

    (void)state;
    lam_fault_arm("alloc", 1);
    assert_null(lam_calloc(1, 1));
    lam_fault_arm("alloc", 1);
    assert_null(lam_realloc(NULL, 1, 1));
    lam_fault_arm("alloc", 1);
    assert_null(lam_strdup("x"));
    lam_fault_arm("alloc", 1);
    assert_null(lam_aligned_calloc(64, 1));
    lam_fault_arm("alloc", 1);
    assert_int_equal(lam_arena_init(&arena, 100, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "100 bytes"));
    assert_null(arena.base);
    lam_arena_done(&arena);
    assert_int_equal(lam_arena_init(&arena, 100, &err), LAM_OK);
    lam_fault_arm("alloc", 1);
    assert_null(lam_arena_alloc(&arena, 1, 1, 1));
    assert_non_null(lam_arena_alloc(&arena, 1, 1, 1));
    lam_arena_done(&arena);
}

static void test_arena(void **state)
{
    struct lam_arena arena;
    unsigned char *a;
    unsigned char *b;

    (void)state;
    assert_int_equal(lam_arena_init(&arena, 256, NULL), LAM_OK);
    a = lam_arena_alloc(&arena, 3, 1, 1);
    b = lam_arena_alloc(&arena, 2, 8, 64);
    assert_non_null(a);
    assert_int_equal(b - a, 64);
    assert_int_equal((uintptr_t)b % 64, 0);
    assert_int_equal(arena.used_bytes, 80);
    assert_null(lam_arena_alloc(&arena, 177, 1, 1)); /* one byte too many */
    assert_null(lam_arena_alloc(&arena, UINT64_MAX, 8, 8));
    assert_null(lam_arena_alloc(&arena, UINT64_MAX, 1, 8));
    assert_int_equal(arena.used_bytes, 80); /* a failure takes nothing */
    memset(b, 0xff, 16);
    assert_non_null(lam_arena_alloc(&arena, 176, 1, 1));
    assert_int_equal(arena.high_bytes, 256);
    lam_arena_reset(&arena);
    assert_int_equal(arena.used_bytes, 0);
    assert_int_equal(arena.high_bytes, 256); /* the largest use stays known */
    a = lam_arena_alloc(&arena, 256, 1, 64);
    assert_non_null(a);
    assert_true(all_zero(a, 256)); /* used memory comes back zeroed */
    lam_arena_done(&arena);
    assert_null(arena.base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zeroed),
        cmocka_unit_test(test_resize),
        cmocka_unit_test(test_strings),
        cmocka_unit_test(test_aligned),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_arena),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
