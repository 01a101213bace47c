/*
 * plan_forecast: the predicted time against a simulation of what a worker will do with the plan:
 * copies in order on every link, each into its place of the ring as soon as that is free, computing
 * one piece after the other. This is where the claim is tested that dealt layers keep all links
 * busy, and that ranges do not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "common/size.h"
#include "tests/unit/model/plan_fixture.h"
#include "worker/ring.h"

#define N_PASSES 6u

/* One device while time passes. */
struct lane {
    double link_free;
    struct lam_ring ring;
    double used[LAM_RING_PLACES]; /* when a piece had been computed on */
};

/* Of the streamed pieces of a device, the one after p, round and round. */
static uint32_t next_streamed(const struct lam_plan *plan, uint32_t p)
{
    uint32_t device = plan->pieces[p].device;

    do
        p = (p + 1) % plan->n_pieces;
    while (plan->pieces[p].device != device || plan->pieces[p].tier == LAM_TIER_DEVICE);
    return p;
}

/* Copies a piece; returns when it is there. */
static double copy(struct lane *lane, const struct lam_plan *plan, uint32_t p, double link_rate)
{
    const struct lam_plan_piece *piece = &plan->pieces[p];
    const struct lam_ring_place *place;

    lam_ring_add(
        &lane->ring, piece->device_bytes, plan->pieces[next_streamed(plan, p)].device_bytes);
    place = lam_ring_at(&lane->ring, lane->ring.n - 1);
    if (place->n_before > 0) {
        double free = lane->used[(place->n_before - 1) % LAM_RING_PLACES];
        lane->link_free = free > lane->link_free ? free : lane->link_free;
    }
    lane->link_free += (double)piece->bytes / link_rate;
    return lane->link_free;
}

/* Seconds of one pass when many follow each other. */
static double simulate(const struct lam_plan_request *request, const struct lam_plan *plan)
{
    struct lane lanes[LAM_PLAN_DEVICES_MAX] = {0};
    double now = 0, before = 0;

    for (uint32_t d = 0; d < plan->n_devices; d++)
        lam_ring_init(&lanes[d].ring, plan->arenas[d].regions[LAM_REGION_SLOTS].bytes);
    for (uint32_t pass = 0; pass < N_PASSES; pass++) {
        before = now;
        for (uint32_t p = 0; p < plan->n_pieces; p++) {
            const struct lam_plan_piece *piece = &plan->pieces[p];
            const struct lam_plan_device *device = &request->devices[piece->device];
            struct lane *lane = &lanes[piece->device];
            bool streamed = piece->tier != LAM_TIER_DEVICE;
            if (streamed) {
                double there = copy(lane, plan, p, device->link_rate);
                now = there > now ? there : now;
            }
            now += (double)piece->bytes / device->memory_rate;
            if (streamed)
                lane->used[(lane->ring.n - 1) % LAM_RING_PLACES] = now;
        }
    }
    return now - before;
}

/* Predicted, and simulated over predicted. */
static double ratio(const struct lam_plan_request *request, double *ret_predicted)
{
    struct lam_plan plan;
    double result;

    assert_int_equal(lam_plan_make(request, &plan, NULL), LAM_OK);
    assert_true(plan.fits);
    *ret_predicted = plan.pass_seconds;
    result = simulate(request, &plan) / plan.pass_seconds;
    lam_plan_done(&plan);
    return result;
}

static void one_device_streams_all_the_time(void **state)
{
    static const uint64_t caps_mib[] = {1536, 2048, 3072, 4096, 5120};
    struct plan_fixture fixture;
    struct lam_plan_device gpu;
    struct lam_spec spec = plan_fixture_8b();

    (void)state;
    plan_fixture_init(&fixture, &spec, true, LAM_F16);
    for (uint32_t i = 0; i < sizeof caps_mib / sizeof caps_mib[0]; i++) {
        struct lam_plan_request request = plan_fixture_request(&fixture, &gpu, 1);
        double predicted, got;
        plan_fixture_gpus(&gpu, 1, caps_mib[i] * LAM_MIB);
        got = ratio(&request, &predicted);
        assert_true(got > 0.98 && got < 1.03);
    }
    plan_fixture_done(&fixture);
}

static void dealt_layers_keep_all_links_busy_and_ranges_do_not(void **state)
{
    struct plan_fixture fixture;
    struct lam_plan_device gpus[4];
    struct lam_spec spec = plan_fixture_70b();

    (void)state;
    plan_fixture_init(&fixture, &spec, true, LAM_F16);
    for (uint32_t n = 2; n <= 4; n++) {
        struct lam_plan_request request = plan_fixture_request(&fixture, gpus, n);
        double dealt, ranges, got;
        plan_fixture_gpus(gpus, n, 3 * LAM_GIB);
        got = ratio(&request, &dealt);
        assert_true(got > 0.98 && got < 1.10);
        request.stages = LAM_STAGES_RANGES;
        got = ratio(&request, &ranges);
        assert_true(got > 0.95 && got < 1.02);
        assert_true(dealt * n < ranges * 1.1);
    }
    plan_fixture_done(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_device_streams_all_the_time),
        cmocka_unit_test(dealt_layers_keep_all_links_busy_and_ranges_do_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
