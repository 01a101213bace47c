/*
 * plan_property: what must be true of every plan, over random models, budgets and device lists:
 * nothing overlaps, nothing is above its cap, every piece is in one tier (plan_check); more memory
 * is never slower, without any tolerance; the same input gives the same plan; a lever saves what it
 * says, and one that says that it is enough is enough.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "common/flag.h"
#include "common/size.h"
#include "tests/unit/model/plan_fixture.h"

#ifdef __SANITIZE_ADDRESS__
#define N_CASES 32 /* it is slow, and looks at memory; the plain lane looks at plans */
#else
#define N_CASES 80
#endif
#define DEVICES_MAX 5

static struct plan_random random_state;

static uint64_t any(uint64_t min, uint64_t max)
{
    return plan_random_in(&random_state, min, max);
}

static struct lam_plan make(const struct lam_plan_request *request)
{
    struct lam_plan plan = {0};
    struct lam_err err = {0};

    if (lam_plan_make(request, &plan, &err))
        fail_msg("%s", err.text);
    return plan;
}

static void random_devices(struct lam_plan_device *devices, uint32_t n)
{
    plan_fixture_gpus(devices, n, 0);
    for (uint32_t d = 0; d < n; d++) {
        devices[d].context_bytes = any(0, 40) * LAM_MIB;
        devices[d].cap_bytes = LAM_MIB;
        devices[d].link_rate = (double)any(2, 40) * 1e8;
        if (any(0, 2) == 0 && d > 0)
            devices[d] = devices[d - 1];
    }
}

/* Caps from a little below the least that works, up to what holds everything. */
static void random_caps(const struct lam_plan_request *request, struct lam_plan_device *devices)
{
    uint64_t model = request->manifest->unit_bytes_total;
    struct lam_plan plan = make(request);
    uint64_t least = 0;

    assert_false(plan.fits);
    for (uint32_t d = 0; d < request->n_devices; d++)
        if (plan.arenas[d].minimum_bytes > least)
            least = plan.arenas[d].minimum_bytes;
    lam_plan_done(&plan);
    for (uint32_t d = 0; d < request->n_devices; d++) {
        devices[d].cap_bytes = least * any(95, 105) / 100 + any(0, model / request->n_devices);
        if (any(0, 9) == 0 && d > 0)
            devices[d].cap_bytes = 0;
        if (any(0, 2) == 0 && d > 0)
            devices[d] = devices[d - 1];
    }
}

static struct lam_plan_request random_request(
    const struct plan_fixture *fixture, struct lam_plan_device *devices, uint32_t n)
{
    struct lam_plan_request request;

    random_devices(devices, n);
    request = plan_fixture_request(fixture, devices, n);
    request.n_ctx = (uint32_t)any(1, 4096);
    request.n_seqs = (uint32_t)any(1, 4);
    request.prefill_chunk = (uint32_t)any(1, 512);
    request.layer_batch = any(0, 3) > 0 ? 0 : (uint32_t)any(1, 3);
    if (request.layer_batch > fixture->spec.n_layers)
        request.layer_batch = 0;
    request.kv_dtype = any(0, 1) ? LAM_F16 : LAM_Q8_0;
    request.host.ram_bytes = any(fixture->manifest.unit_bytes_max + 8192,
        fixture->manifest.unit_bytes_max + fixture->manifest.unit_bytes_total * 5 / 4);
    request.host.disk_rate = (double)any(1, 40) * 1e8;
    request.host.memory_rate = (double)any(5, 300) * 1e8;
    random_caps(&request, devices);
    return request;
}

static void plans_are_sound_and_repeatable(void **state)
{
    uint32_t n_fit = 0, n_streamed = 0, n_dealt = 0;

    (void)state;
    random_state.state = 7;
    for (uint32_t i = 0; i < N_CASES; i++) {
        struct plan_fixture fixture;
        struct lam_plan_device devices[DEVICES_MAX];
        struct lam_plan_request request;
        struct lam_plan plan, again;
        plan_random_model(&random_state, &fixture);
        request = random_request(&fixture, devices, (uint32_t)any(1, DEVICES_MAX));
        request.stages = any(0, 4) ? LAM_STAGES_AUTO : LAM_STAGES_RANGES;
        plan = make(&request);
        again = make(&request);
        if (plan.fits) {
            plan_check(&request, &plan);
            assert_memory_equal(plan.pieces, again.pieces, plan.n_pieces * sizeof *plan.pieces);
            n_fit++;
            n_streamed += plan.pieces[0].tier != LAM_TIER_DEVICE;
            n_dealt += plan.dealt;
        } else {
            assert_int_equal(plan.reason.status, LAM_RESOURCE_EXHAUSTED);
            assert_string_equal(plan.reason.text, again.reason.text);
        }
        assert_memory_equal(plan.arenas, again.arenas, sizeof plan.arenas);
        assert_true(plan.pass_seconds <= again.pass_seconds);
        assert_true(plan.pass_seconds >= again.pass_seconds);
        lam_plan_done(&plan);
        lam_plan_done(&again);
        plan_fixture_done(&fixture);
    }
    print_message("[          ] %u fit, %u streamed, %u dealt\n", n_fit, n_streamed, n_dealt);
    assert_true(n_fit > N_CASES / 2 && n_streamed > N_CASES / 8 && n_dealt > N_CASES / 16);
}

/* Pass time, or a very long one when it does not fit. */
static double time_of(const struct lam_plan_request *request)
{
    struct lam_plan plan = make(request);
    double seconds;

    seconds = plan.fits ? plan.pass_seconds : 1e9;
    lam_plan_done(&plan);
    return seconds;
}

static void more_memory_is_never_slower(void **state)
{
    uint32_t n_faster = 0;

    (void)state;
    random_state.state = 11;
    for (uint32_t i = 0; i < N_CASES; i++) {
        struct plan_fixture fixture;
        struct lam_plan_device devices[DEVICES_MAX];
        struct lam_plan_request request;
        uint32_t n = (uint32_t)any(1, DEVICES_MAX);
        double before;
        plan_random_model(&random_state, &fixture);
        request = random_request(&fixture, devices, n);
        before = time_of(&request);
        for (uint32_t step = 0; step < 6; step++) {
            uint64_t more = any(1, fixture.manifest.unit_bytes_total / 8);
            uint32_t d = (uint32_t)any(0, n - 1);
            double after;
            if (any(0, 1))
                request.host.ram_bytes += more;
            else if (devices[d].cap_bytes > 0)
                devices[d].cap_bytes += more;
            after = time_of(&request);
            if (after > before)
                print_error("case %u step %u: %.9f after %.9f\n", i, step, after, before);
            assert_true(after <= before);
            n_faster += after < before;
            before = after;
        }
        plan_fixture_done(&fixture);
    }
    print_message("[          ] %u of %u steps were faster\n", n_faster, 6 * N_CASES);
    assert_true(n_faster > N_CASES / 2);
}

/* Does what a lever's flag says to a request. */
static void apply_one(
    const char *flag, struct lam_plan_request *request, struct lam_plan_device *devices, uint32_t n)
{
    int64_t number = 0;
    const char *value = strchr(flag, ' ') + 1;
    bool whole = lam_int_parse(value, 0, UINT32_MAX, &number);

    if (strncmp(flag, "--ctx ", 6) == 0) {
        assert_true(whole);
        request->n_ctx = (uint32_t)number;
    } else if (strncmp(flag, "--batch ", 8) == 0) {
        assert_true(whole);
        request->n_seqs = (uint32_t)number;
    } else if (strncmp(flag, "--prefill-chunk ", 16) == 0) {
        assert_true(whole);
        request->prefill_chunk = (uint32_t)number;
    } else if (strncmp(flag, "--kv-type ", 10) == 0) {
        request->kv_dtype = strcmp(value, "q8_0") == 0 ? LAM_Q8_0 : LAM_F16;
    } else if (strcmp(flag, "--layer-batch auto") == 0) {
        request->layer_batch = 0;
    } else if (strncmp(flag, "--ram ", 6) == 0) {
        assert_int_equal(lam_size_parse(value, 0, &request->host.ram_bytes, NULL), LAM_OK);
    } else {
        assert_int_equal(strncmp(flag, "--vram ", 7), 0);
        for (uint32_t d = 0; d < n; d++) {
            char item[32];
            size_t length = strcspn(value, ",");
            snprintf(item, sizeof item, "%.*s", (int)length, value);
            if (strcmp(item, "off") != 0)
                assert_int_equal(lam_size_parse(item, 0, &devices[d].cap_bytes, NULL), LAM_OK);
            value += value[length] ? length + 1 : 0;
        }
    }
}

/* "--ctx 64 --batch 1": one after the other. */
static void apply(const char *flags, struct lam_plan_request *request,
    struct lam_plan_device *devices, uint32_t n)
{
    while (*flags) {
        const char *next = strstr(flags + 1, " --");
        char one[sizeof((struct lam_plan_lever *)0)->flag];
        snprintf(one, sizeof one, "%.*s", (int)(next ? next - flags : (long)strlen(flags)), flags);
        apply_one(one, request, devices, n);
        flags = next ? next + 1 : "";
    }
}

static uint64_t lowest_cap(const struct lam_plan *plan)
{
    return plan->arenas[0].minimum_bytes;
}

/* Mostly too little: of a device, which may have no more than its cap; or of RAM, for a CPU. */
static void take_memory(
    struct lam_plan_request *request, struct lam_plan_device *devices, bool *ret_full)
{
    *ret_full = any(0, 2) == 0;
    for (uint32_t d = 0; d < request->n_devices; d++) {
        devices[d].cap_bytes = devices[d].cap_bytes * any(60, 105) / 100;
        if (*ret_full)
            devices[d].total_bytes = devices[d].cap_bytes;
    }
    if (request->n_devices > 1 || any(0, 1) > 0)
        return;
    devices[0] = plan_fixture_cpu();
    request->kv_q8_allowed = true;
    request->host.ram_bytes = any(100, 250) * LAM_MIB;
    *ret_full = false;
}

static void levers_do_what_they_say(void **state)
{
    uint32_t n_levers = 0, n_cured = 0, n_together = 0, n_cpu = 0;

    (void)state;
    random_state.state = 13;
    for (uint32_t i = 0; i < 2 * N_CASES; i++) {
        struct plan_fixture fixture;
        struct lam_plan_device devices[DEVICES_MAX], changed[DEVICES_MAX];
        struct lam_plan_request request, tried;
        uint32_t n = any(0, 1) ? 1 : (uint32_t)any(2, DEVICES_MAX);
        struct lam_plan plan, after;
        bool full; /* --vram cannot help */
        plan_random_model(&random_state, &fixture);
        request = random_request(&fixture, devices, n);
        take_memory(&request, devices, &full);
        plan = make(&request);
        n_cpu += devices[0].kind == LAM_DEVICE_CPU && !plan.fits;
        for (uint32_t l = 0; l < plan.n_levers; l++) {
            const struct lam_plan_lever *lever = &plan.levers[l];
            memcpy(changed, devices, sizeof changed);
            tried = request;
            tried.devices = changed;
            apply(lever->flag, &tried, changed, n);
            after = make(&tried);
            assert_true(lever->saves_bytes > 0);
            if (lever->fits && !after.fits)
                print_error("case %u: %s: %s\n", i, lever->flag, after.reason.text);
            assert_true(!lever->fits || after.fits);
            assert_true(plan.fits || lever->fits == after.fits);
            /* One device: its least bytes, planned again, are exactly so much lower. */
            if (n == 1 && !plan.fits && !after.fits && strncmp(lever->flag, "--vram", 6) != 0 &&
                strncmp(lever->flag, "--ram", 5) != 0)
                assert_int_equal(lowest_cap(&plan) - lowest_cap(&after), lever->saves_bytes);
            n_cured += !plan.fits && after.fits;
            n_together += strstr(lever->flag + 1, " --") != NULL;
            n_levers++;
            lam_plan_done(&after);
        }
        assert_true(plan.fits || full || plan.n_levers > 0);
        lam_plan_done(&plan);
        plan_fixture_done(&fixture);
    }
    assert_true(n_levers > N_CASES && n_cured > N_CASES / 4);
    assert_true(n_together > 0 && n_cpu > N_CASES / 16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are_sound_and_repeatable),
        cmocka_unit_test(more_memory_is_never_slower),
        cmocka_unit_test(levers_do_what_they_say),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
