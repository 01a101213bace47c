/* Creating backends: names, descriptions, the instruction set's choice, and every failing
 * allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/fault.h"
#include "kernels/cpu/cpu.h"
#include "tests/kernels/twin.h"

static void test_names(void **state)
{
    (void)state;
    assert_ptr_equal(lam_kernels_by_name("ref"), lam_kernels_ref());
    assert_ptr_equal(lam_kernels_by_name("cpu"), lam_kernels_cpu());
    assert_null(lam_kernels_by_name("gpu"));
    assert_null(lam_kernels_by_name(""));
    assert_string_equal(lam_kernels_ref()->name, "ref");
    assert_string_equal(lam_kernels_cpu()->name, "cpu");
}

static void test_describe(void **state)
{
    static const char *const texts[] = {"avx2, 1 thread", "avx512-vnni, 3 threads"};
    struct lam_kernel_config config = twin_config();

    (void)state;
    for (uint32_t i = 0; i < 2; i++) {
        struct lam_kernels *kernels = NULL;
        struct lam_err err = {0};
        config.n_threads = 1 + 2 * i;
        enum lam_cpu_level level = i == 0 ? LAM_CPU_AVX2 : LAM_CPU_AVX512;
        enum lam_status status = lam_cpu_create(&config, level, &kernels, &err);
        if (status == LAM_UNIMPLEMENTED) {
            assert_non_null(strstr(err.text, "--kernels ref"));
            continue;
        }
        assert_int_equal(status, LAM_OK);
        assert_string_equal(lam_kernels_cpu()->describe(kernels), texts[i]);
        lam_kernels_cpu()->destroy(kernels);
    }
}

/* No thread count: one per core that the process may use, so at least one. */
static void test_thread_count_is_found(void **state)
{
    struct lam_kernel_config config = twin_config();
    struct lam_kernels *kernels = NULL;

    (void)state;
    if (lam_kernels_cpu()->create(&config, &kernels, NULL) != LAM_OK)
        return;
    assert_null(strstr(lam_kernels_cpu()->describe(kernels), " 0 "));
    lam_kernels_cpu()->destroy(kernels);
}

static void fail_each_allocation(const struct lam_kernel_ops *ops)
{
    struct lam_kernel_config config = twin_config();

    config.n_threads = 2;
    for (uint64_t n = 1;; n++) {
        struct lam_kernels *kernels = NULL;
        struct lam_err err = {0};
        lam_fault_arm("alloc", n);
        enum lam_status status = ops->create(&config, &kernels, &err);
        bool fired = lam_fault_fired();
        lam_fault_arm("alloc", 0);
        if (!fired) {
            assert_true(status == LAM_OK || status == LAM_UNIMPLEMENTED);
            ops->destroy(kernels);
            return;
        }
        assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
        assert_null(kernels);
        assert_true(err.text[0] != '\0');
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    fail_each_allocation(lam_kernels_ref());
    fail_each_allocation(lam_kernels_cpu());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_thread_count_is_found),
        cmocka_unit_test(test_no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
