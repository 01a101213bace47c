/*
 * cuda_twins: every operation of the GPU backend against the reference, and the rules of
 * kernels/device.h. Needs a GPU; runs where no build tree is.
 *
 *     cuda_twins [FOLDER of liblaminar-cuda.so or "-" [PATTERN of test names]]
 */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tests/kernels/cuda_twins/gpu.h"

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
        cmocka_unit_test(test_kv_write),
        cmocka_unit_test(test_rope_kv),
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_attention_twins),
        cmocka_unit_test(test_attention_bound_has_teeth),
        cmocka_unit_test(test_attention_chunks),
        cmocka_unit_test(test_attention_company),
    };

    if (argc > 1 && strcmp(argv[1], "-") != 0)
        gpu_folder = argv[1];
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    return cmocka_run_group_tests(tests, gpu_setup, gpu_teardown);
}
