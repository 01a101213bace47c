/*
 * cuda_twins: every operation of the GPU backend against the reference, and the rules of
 * kernels/device.h. Needs a GPU, or the library of tests/kernels/simulated; runs where no build
 * tree is.
 *
 *     cuda_twins [--small] [FOLDER of liblaminar-cuda.so or "-" [PATTERN of test names]...]
 *
 * --small: without the cases that a simulated GPU would take long for.
 */
#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/kernels/cuda_twins/gpu.h"

/* Whether the name is like one of the patterns; without any, all are wanted. */
static bool is_wanted(const char *name, int n_patterns, char **patterns)
{
    bool wanted = n_patterns <= 0;

    for (int i = 0; i < n_patterns; i++)
        wanted |= fnmatch(patterns[i], name, 0) == 0;
    return wanted;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_device),
        cmocka_unit_test(test_transfers),
        cmocka_unit_test(test_pinned_copies),
        cmocka_unit_test(test_marks),
        cmocka_unit_test(test_dequant),
        cmocka_unit_test(test_rms_norm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_argmax_twins),
        cmocka_unit_test(test_argmax_waits),
        cmocka_unit_test(test_elementwise_rows),
        cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_matmul_twins),
        cmocka_unit_test(test_matmul_float_tails),
        cmocka_unit_test(test_matmul_tiles),
        cmocka_unit_test(test_matmul_bound_has_teeth),
        cmocka_unit_test(test_matmul_alignment),
        cmocka_unit_test(test_matmul_rows),
        cmocka_unit_test(test_matmul_three),
        cmocka_unit_test(test_matmul_nan),
        cmocka_unit_test(test_product_only),
        cmocka_unit_test(test_arrange_twins),
        cmocka_unit_test(test_arrange_three),
        cmocka_unit_test(test_arrange_tiles),
        cmocka_unit_test(test_arrange_refuses),
        cmocka_unit_test(test_arrange_bf16),
        cmocka_unit_test(test_kv_write),
        cmocka_unit_test(test_rope_kv),
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_attention_twins),
        cmocka_unit_test(test_attention_bound_has_teeth),
        cmocka_unit_test(test_attention_chunks),
        cmocka_unit_test(test_attention_company),
        cmocka_unit_test(test_attention_behind_a_write),
    };

    struct CMUnitTest wanted[sizeof(tests) / sizeof(tests[0])];
    size_t n_wanted = 0;

    gpu_is_slow = argc > 1 && strcmp(argv[1], "--small") == 0;
    argc -= gpu_is_slow;
    argv += gpu_is_slow;
    if (argc > 1 && strcmp(argv[1], "-") != 0)
        gpu_folder = argv[1];
    for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++) {
        if (is_wanted(tests[i].name, argc - 2, argv + 2))
            wanted[n_wanted++] = tests[i];
    }
    if (n_wanted == 0) {
        (void)fprintf(stderr, "no test is named like '%s'\n", argv[2]);
        return 2;
    }
    return _cmocka_run_group_tests("cuda_twins", wanted, n_wanted, gpu_setup, gpu_teardown);
}
