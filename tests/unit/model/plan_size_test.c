/* plan_size: what the plan leaves to a device's kernels is what they say that they need
 * (kernels/device.h), byte for byte. The formula stands in two places because model/ and kernels/
 * know nothing of each other; it had drifted once, with 32 parts of a context here and 64 there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/size.h"
#include "kernels/device.h"
#include "tests/unit/model/plan_fixture.h"

#define N_MODELS 300

static uint32_t max_of(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* As the worker makes its kernels (worker/start.c). */
static uint64_t needed(const struct lam_spec *spec, const struct lam_plan *plan)
{
    struct lam_kernel_config config = {
        .max_rows = max_of(plan->prefill_chunk, plan->n_seqs),
        .max_cols = max_of(max_of(spec->n_ff, spec->n_embd), spec->n_heads * spec->head_dim),
        .max_seqs = plan->n_seqs,
        .max_ctx = plan->n_ctx,
        .n_heads = spec->n_heads,
        .head_dim = spec->head_dim,
    };

    return lam_align_up(lam_device_workspace_bytes(&config), LAM_PLAN_ALIGN);
}

static void compare(const struct lam_plan_request *request)
{
    struct lam_plan plan;

    assert_int_equal(lam_plan_make(request, &plan, NULL), LAM_OK);
    assert_true(plan.fits);
    assert_int_equal(
        plan.arenas[0].regions[LAM_REGION_WORKSPACE].bytes, needed(request->spec, &plan));
    lam_plan_done(&plan);
}

static void the_workspace_is_what_kernels_need(void **state)
{
    struct plan_random random = {7};

    (void)state;
    for (uint32_t m = 0; m < N_MODELS; m++) {
        struct plan_fixture fixture;
        struct lam_plan_device device;
        struct lam_plan_request request;
        plan_random_model(&random, &fixture);
        plan_fixture_gpus(&device, 1, 64 * LAM_GIB);
        request = plan_fixture_request(&fixture, &device, 1);
        request.n_ctx = 0;
        request.n_seqs = (uint32_t)plan_random_in(&random, 1, 70);
        request.prefill_chunk = (uint32_t)plan_random_in(&random, 1, 700);
        compare(&request);
        plan_fixture_done(&fixture);
    }
}

static void of_published_shapes_too(void **state)
{
    const struct lam_spec specs[] = {plan_fixture_8b(), plan_fixture_70b()};

    (void)state;
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct plan_fixture fixture;
        struct lam_plan_device device;
        struct lam_plan_request request;
        plan_fixture_init(&fixture, &specs[i], true, LAM_Q4_K);
        plan_fixture_gpus(&device, 1, 4 * LAM_GIB);
        request = plan_fixture_request(&fixture, &device, 1);
        compare(&request);
        plan_fixture_done(&fixture);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_workspace_is_what_kernels_need),
        cmocka_unit_test(of_published_shapes_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
