/* plan: named models on named machines; what is given up and in which order; what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/fault.h"
#include "common/size.h"
#include "model/sample.h"
#include "tests/unit/model/plan_fixture.h"

static struct plan_fixture m8, m70;

static struct lam_plan make(const struct lam_plan_request *request)
{
    struct lam_plan plan = {0};
    struct lam_err err = {0};

    if (lam_plan_make(request, &plan, &err))
        fail_msg("%s", err.text);
    return plan;
}

/* exllama's 3,3,3,3 gave 5,5,2,0 and an IndexError. Here each stays under 3 GiB, and all links have
 * the same to carry. */
static void four_times_three_gib_carry_a_70b(void **state)
{
    (void)state;
    for (uint32_t context_mib = 200; context_mib < 700; context_mib += 50) {
        for (int stages = LAM_STAGES_AUTO; stages <= LAM_STAGES_RANGES; stages++) {
            struct lam_plan_device gpus[4];
            struct lam_plan_request request;
            struct lam_plan plan;
            uint64_t least = UINT64_MAX, most = 0;
            plan_fixture_gpus(gpus, 4, 3 * LAM_GIB);
            for (uint32_t d = 0; d < 4; d++)
                gpus[d].context_bytes = context_mib * LAM_MIB;
            request = plan_fixture_request(&m70, gpus, 4);
            request.stages = (enum lam_stages)stages;
            plan = make(&request);
            plan_check(&request, &plan);
            for (uint32_t d = 0; d < 4; d++) {
                uint64_t bytes = plan.arenas[d].streamed_bytes;
                assert_true(plan.arenas[d].total_bytes <= 3 * LAM_GIB);
                assert_true(plan.arenas[d].total_bytes > 14 * LAM_GIB / 5);
                least = bytes < least ? bytes : least;
                most = bytes > most ? bytes : most;
            }
            assert_true(most - least <= most / 50);
            assert_int_equal(plan.bound, LAM_BOUND_LINK);
            /* The period is the largest share, not the sum, where layers are dealt. */
            assert_true(plan.dealt == (stages == LAM_STAGES_AUTO));
            assert_true(plan.pass_seconds > (double)most / 25e9 * (plan.dealt ? 1 : 3.9));
            assert_true(plan.pass_seconds < (double)most / 25e9 * (plan.dealt ? 1.01 : 4.01));
            lam_plan_done(&plan);
        }
    }
}

/* Ranges: what stands on a device follows each other. */
static void ranges_are_ranges(void **state)
{
    struct lam_plan_device gpus[3];
    struct lam_plan_request request;
    struct lam_plan plan;

    (void)state;
    plan_fixture_gpus(gpus, 3, 3 * LAM_GIB);
    request = plan_fixture_request(&m70, gpus, 3);
    request.stages = LAM_STAGES_RANGES;
    plan = make(&request);
    for (uint32_t p = 1; p < plan.n_pieces; p++)
        assert_true(plan.pieces[p].device >= plan.pieces[p - 1].device);
    lam_plan_done(&plan);
}

static void all_resident_uses_as_few_devices_as_can_be(void **state)
{
    struct lam_plan_device gpus[4];
    struct lam_plan_request request;
    struct lam_plan plan;

    (void)state;
    plan_fixture_gpus(gpus, 4, 80 * LAM_GIB);
    request = plan_fixture_request(&m70, gpus, 4);
    request.host.ram_bytes = 2 * LAM_GIB;
    plan = make(&request);
    plan_check(&request, &plan);
    assert_true(plan.arenas[0].used && !plan.arenas[1].used);
    assert_int_equal(plan.arenas[0].n_layers_resident, 80);
    assert_int_equal(plan.arenas[0].n_slots, 0);
    assert_int_equal(plan.pool.disk_bytes, 0);
    assert_int_equal(plan.bound, LAM_BOUND_COMPUTE);
    lam_plan_done(&plan);
}

/* The numbers of the published model: 32 layers, 8 heads of 128, f16. */
static void the_cache_has_its_size(void **state)
{
    static const struct {
        uint32_t n_ctx, n_seqs;
        enum lam_dtype dtype;
        uint64_t bytes;
    } cases[] = {
        {4096, 1, LAM_F16, 512 * LAM_MIB}, {4096, 4, LAM_F16, 2048 * LAM_MIB},
        {4096, 1, LAM_F32, 1024 * LAM_MIB}, {4096, 1, LAM_Q8_0, 272 * LAM_MIB},
        {4097, 1, LAM_F16, 520 * LAM_MIB}, /* pages of 64 */
    };
    struct lam_plan_device gpu;

    (void)state;
    plan_fixture_gpus(&gpu, 1, 80 * LAM_GIB);
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lam_plan_request request = plan_fixture_request(&m8, &gpu, 1);
        struct lam_plan plan;
        request.n_ctx = cases[i].n_ctx;
        request.n_seqs = cases[i].n_seqs;
        request.kv_dtype = cases[i].dtype;
        plan = make(&request);
        assert_int_equal(plan.arenas[0].regions[LAM_REGION_KV].bytes, cases[i].bytes);
        lam_plan_done(&plan);
    }
}

static void whole_layers_can_be_asked_for(void **state)
{
    struct lam_plan_device gpu;
    uint64_t unit_max = lam_align_up(m8.manifest.unit_bytes_max, LAM_PLAN_ALIGN);

    (void)state;
    plan_fixture_gpus(&gpu, 1, 4 * LAM_GIB);
    for (uint32_t n = 1; n <= 4; n++) {
        struct lam_plan_request request = plan_fixture_request(&m8, &gpu, 1);
        struct lam_plan plan;
        request.layer_batch = n;
        plan = make(&request);
        plan_check(&request, &plan);
        assert_int_equal(plan.layer_batch, n);
        assert_int_equal(plan.arenas[0].slot_bytes, n * unit_max);
        assert_int_equal(plan.pieces[0].kind, LAM_PIECE_UNIT);
        lam_plan_done(&plan);
    }
}

/* What RAM does not keep is what devices hold first: together they hold more of the model. */
static void ram_and_device_complete_each_other(void **state)
{
    struct lam_plan_device gpu;
    struct lam_plan_request request;
    struct lam_plan plan;
    uint64_t model = m70.manifest.unit_bytes_total;

    (void)state;
    plan_fixture_gpus(&gpu, 1, 25 * LAM_GIB);
    request = plan_fixture_request(&m70, &gpu, 1);
    request.host.ram_bytes = 20 * LAM_GIB;
    plan = make(&request);
    plan_check(&request, &plan);
    assert_int_equal(plan.pool.disk_bytes, 0);
    lam_plan_done(&plan);
    gpu.cap_bytes = 12 * LAM_GIB;
    plan = make(&request);
    assert_true(plan.pool.disk_bytes < model - 18 * LAM_GIB - 8 * LAM_GIB);
    assert_int_equal(plan.bound, LAM_BOUND_DISK);
    lam_plan_done(&plan);
}

static void what_was_not_asked_for_is_given_up_in_order(void **state)
{
    static const struct {
        uint64_t cap_mib;
        uint32_t n_ctx; /* given, or 0 */
        bool q8_allowed;
        const char *notes;
    } cases[] = {
        {6144, 0, true, ""},
        {2048, 0, true, "context 2048 instead of 8192, else it does not fit; --ctx sets it\n"},
        {1400, 0, false, "context 512 instead of 8192, else it does not fit; --ctx sets it\n"},
        {1310, 0, true,
            "context 512 instead of 8192, else it does not fit; --ctx sets it\n"
            "KV cache in q8_0 instead of f16, else it does not fit; --kv-type sets it\n"},
        {1250, 0, true,
            "context 1024 instead of 8192, else it does not fit; --ctx sets it\n"
            "KV cache in q8_0 instead of f16, else it does not fit; --kv-type sets it\n"
            "prompts in chunks of 128 instead of 512 rows, else it does not fit; "
            "--prefill-chunk sets it\n"},
        {1810, 4096, true,
            "KV cache in q8_0 instead of f16, else it does not fit; --kv-type sets it\n"
            "prompts in chunks of 128 instead of 512 rows, else it does not fit; "
            "--prefill-chunk sets it\n"},
    };
    struct lam_plan_device gpu;

    (void)state;
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct lam_plan_request request;
        struct lam_plan plan;
        plan_fixture_gpus(&gpu, 1, cases[i].cap_mib * LAM_MIB);
        request = plan_fixture_request(&m70, &gpu, 1);
        request.n_ctx = cases[i].n_ctx;
        request.prefill_chunk = 0;
        request.kv_given = false;
        request.kv_q8_allowed = cases[i].q8_allowed;
        plan = make(&request);
        plan_check(&request, &plan);
        assert_string_equal(plan.notes, cases[i].notes);
        assert_true(cases[i].n_ctx == 0 || plan.n_ctx == cases[i].n_ctx);
        lam_plan_done(&plan);
    }
}

static void what_was_asked_for_is_never_changed(void **state)
{
    struct lam_plan_device gpu;
    struct lam_plan_request request;
    struct lam_plan plan;

    (void)state;
    plan_fixture_gpus(&gpu, 1, 1400 * LAM_MIB);
    request = plan_fixture_request(&m70, &gpu, 1);
    plan = make(&request);
    assert_false(plan.fits);
    assert_int_equal(plan.n_ctx, 4096);
    assert_int_equal(plan.prefill_chunk, 512);
    assert_string_equal(plan.notes, "");
    assert_string_equal(plan.reason.text,
        "cuda:0: cap 1.37 GiB, minimum 2.40 GiB (context 0.39 + slots 0.49 + KV 1.25 + "
        "activations 0.14 + workspace 0.12 + other 0.00). Options: --ctx 512 (-1.09), "
        "--prefill-chunk 128 (-0.12), --kv-type q8_0 (-0.59), --vram 2454MiB (-1.03).");
    lam_plan_done(&plan);
}

/* Once the minimum was that of the defaults, and the cap that it named four times what is needed:
 * what a plan gives up by itself where it fits is given up for the minimum too. */
static void the_minimum_is_what_really_works(void **state)
{
    struct lam_plan_device gpu;
    struct lam_plan_request request;
    struct lam_plan plan;
    char flag[32];

    (void)state;
    plan_fixture_gpus(&gpu, 1, 1000 * LAM_MIB);
    request = plan_fixture_request(&m70, &gpu, 1);
    request.n_ctx = 0;
    request.prefill_chunk = 0;
    request.kv_given = false;
    request.kv_q8_allowed = true;
    plan = make(&request);
    assert_false(plan.fits);
    assert_string_equal(plan.notes, "");
    assert_non_null(
        strstr(plan.reason.text, "with --ctx 512 --prefill-chunk 128 --kv-type q8_0 (context"));
    gpu.cap_bytes = (plan.arenas[0].minimum_bytes + LAM_MIB - 1) / LAM_MIB * LAM_MIB;
    snprintf(flag, sizeof flag, "--vram %" PRIu64 "MiB (", gpu.cap_bytes / LAM_MIB);
    assert_non_null(strstr(plan.reason.text, flag));
    lam_plan_done(&plan);
    plan = make(&request);
    plan_check(&request, &plan);
    lam_plan_done(&plan);
    gpu.cap_bytes -= LAM_MIB;
    plan = make(&request);
    assert_false(plan.fits);
    lam_plan_done(&plan);
}

/* Once a cap of some KiB read "0.00 GiB". */
static void small_numbers_are_told_in_small_units(void **state)
{
    struct lam_plan_device cpu = plan_fixture_cpu();
    struct lam_plan_request request = plan_fixture_request(&m8, &cpu, 1);
    struct lam_plan plan;

    (void)state;
    request.n_ctx = 512;
    request.prefill_chunk = 128;
    request.host.ram_bytes = 5 * LAM_KIB;
    plan = make(&request);
    assert_false(plan.fits);
    assert_string_equal(plan.reason.text,
        "cpu: --ram 5.0 KiB, minimum 323.7 MiB (context 100.0 + KV 64.0 + tables 1.5 + logits 0.5 "
        "+ activations 23.1 + workspace 2.2 + other 0.0 + pool 132.5). Options: --ctx 256 (-32.0), "
        "--ram 324MiB (-323.7).");
    lam_plan_done(&plan);
}

/* No lever is enough alone and the card has no more memory: all of them together. */
static void levers_are_pulled_together(void **state)
{
    struct lam_plan_device gpu;
    struct lam_plan_request request;
    struct lam_plan plan;

    (void)state;
    plan_fixture_gpus(&gpu, 1, 1180 * LAM_MIB);
    gpu.total_bytes = gpu.cap_bytes;
    request = plan_fixture_request(&m70, &gpu, 1);
    plan = make(&request);
    assert_false(plan.fits);
    for (uint32_t l = 0; l + 1 < plan.n_levers; l++)
        assert_false(plan.levers[l].fits);
    assert_true(plan.levers[plan.n_levers - 1].fits);
    assert_string_equal(
        plan.levers[plan.n_levers - 1].flag, "--ctx 512 --prefill-chunk 128 --kv-type q8_0");
    lam_plan_done(&plan);
    request.n_ctx = 512;
    request.prefill_chunk = 128;
    request.kv_dtype = LAM_Q8_0;
    plan = make(&request);
    plan_check(&request, &plan);
    lam_plan_done(&plan);
}

static void ram_that_holds_no_unit_is_named(void **state)
{
    struct lam_plan_device gpu;
    struct lam_plan_request request;
    struct lam_plan plan;

    (void)state;
    plan_fixture_gpus(&gpu, 1, 8 * LAM_GIB);
    request = plan_fixture_request(&m70, &gpu, 1);
    request.host.ram_bytes = 300 * LAM_MIB;
    plan = make(&request);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.reason.text, "RAM: cap 300.0 MiB, minimum 518."));
    assert_non_null(strstr(plan.reason.text, "--ram 519MiB"));
    lam_plan_done(&plan);
    request.host.ram_bytes = 519 * LAM_MIB;
    plan = make(&request);
    plan_check(&request, &plan);
    assert_int_equal(plan.pool.n_lanes, 1);
    lam_plan_done(&plan);
}

static void a_cpu_has_one_memory(void **state)
{
    struct lam_plan_device cpu = plan_fixture_cpu();
    struct lam_plan_request request = plan_fixture_request(&m8, &cpu, 1);
    struct lam_plan plan;

    (void)state;
    request.prefill_chunk = 0;
    request.host.ram_bytes = 3 * LAM_GIB;
    plan = make(&request);
    plan_check(&request, &plan);
    assert_int_equal(plan.prefill_chunk, 256);
    assert_int_equal(plan.bound, LAM_BOUND_DISK);
    assert_true(plan.arenas[0].total_bytes + plan.pool.pool_bytes <= 3 * LAM_GIB);
    assert_int_equal(plan.arenas[0].n_slots, 0);
    assert_true(plan.arenas[0].regions[LAM_REGION_TABLES].bytes >=
                lam_sample_scratch_bytes(m8.spec.n_vocab));
    lam_plan_done(&plan);
    request.host.ram_bytes = 300 * LAM_MIB;
    plan = make(&request);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.reason.text, "cpu: --ram 300.0 MiB, minimum 7"));
    lam_plan_done(&plan);
}

static void throughput_takes_memory_for_sequences(void **state)
{
    struct lam_plan_device gpu;
    struct lam_plan_request request;
    struct lam_plan latency, throughput;

    (void)state;
    plan_fixture_gpus(&gpu, 1, 6 * LAM_GIB);
    request = plan_fixture_request(&m70, &gpu, 1);
    request.n_seqs = 0;
    latency = make(&request);
    request.objective = LAM_OBJECTIVE_THROUGHPUT;
    throughput = make(&request);
    plan_check(&request, &throughput);
    assert_int_equal(latency.n_seqs, 1);
    assert_true(throughput.n_seqs > 1);
    assert_true(throughput.tokens_per_second > latency.tokens_per_second);
    assert_true(throughput.pass_seconds >= latency.pass_seconds);
    assert_non_null(strstr(throughput.notes, "--batch sets it"));
    lam_plan_done(&latency);
    lam_plan_done(&throughput);
    request.n_seqs = 1;
    throughput = make(&request);
    assert_int_equal(throughput.n_seqs, 1);
    lam_plan_done(&throughput);
}

/* Host memory that is slower than all links together holds them back. */
static void host_memory_can_bind(void **state)
{
    struct lam_plan_device gpus[8];
    struct lam_plan_request request;
    struct lam_plan plan;

    (void)state;
    plan_fixture_gpus(gpus, 8, 3 * LAM_GIB);
    request = plan_fixture_request(&m70, gpus, 8);
    request.host.memory_rate = 50e9;
    plan = make(&request);
    plan_check(&request, &plan);
    assert_int_equal(plan.bound, LAM_BOUND_HOST_MEMORY);
    assert_true(plan.pass_seconds * 50e9 > (double)(8 * plan.arenas[0].streamed_bytes) * 0.95);
    lam_plan_done(&plan);
}

static void refuse(const struct lam_plan_request *request, const char *text)
{
    struct lam_plan plan;
    struct lam_err err = {0};

    assert_int_equal(lam_plan_make(request, &plan, &err), LAM_INVALID_ARGUMENT);
    assert_string_equal(err.text, text);
}

static void bad_requests_are_named(void **state)
{
    struct lam_plan_device devices[2];
    struct lam_plan_request good, bad;

    (void)state;
    plan_fixture_gpus(devices, 2, 4 * LAM_GIB);
    good = plan_fixture_request(&m8, devices, 2);
    bad = good;
    bad.n_ctx = 200000;
    refuse(&bad, "--ctx 200000 is more than the 131072 tokens that the model was trained for");
    bad = good;
    bad.n_seqs = 1025;
    refuse(&bad, "--batch 1025 is above 1024");
    bad = good;
    bad.prefill_chunk = 8193;
    refuse(&bad, "--prefill-chunk 8193 is above 8192");
    bad = good;
    bad.layer_batch = 33;
    refuse(&bad, "--layer-batch 33 is more than the 32 layers of the model");
    bad = good;
    bad.kv_dtype = LAM_Q4_0;
    refuse(&bad, "--kv-type: 'cuda:0' cannot do Q4_0; take f16");
    bad = good;
    bad.n_devices = 0;
    refuse(&bad, "0 devices; a plan is for 1 to 16");
    devices[1] = plan_fixture_cpu();
    refuse(&good, "'cpu' cannot share a model with other devices; plan for it alone");
    plan_fixture_gpus(devices, 2, 0);
    refuse(&good, "--vram leaves no device to compute on");
    plan_fixture_gpus(devices, 2, LAM_GIB);
    devices[1].link_rate = 0;
    refuse(&good, "'cuda:1' has a speed that is not positive");
}

static void no_memory_is_a_status(void **state)
{
    struct lam_plan_device gpus[3];
    uint64_t caps_gib[] = {1, 3, 80};

    (void)state;
    for (uint32_t i = 0; i < 3; i++) {
        struct lam_plan_request request;
        struct lam_err err = {0};
        uint64_t n = 0;
        plan_fixture_gpus(gpus, 3, caps_gib[i] * LAM_GIB);
        request = plan_fixture_request(&m8, gpus, 3);
        request.host.ram_bytes = 2 * LAM_GIB;
        do {
            struct lam_plan plan;
            enum lam_status status;
            lam_fault_arm("alloc", ++n);
            status = lam_plan_make(&request, &plan, &err);
            if (status == LAM_OK)
                lam_plan_done(&plan);
            else
                assert_int_equal(status, LAM_RESOURCE_EXHAUSTED);
            assert_int_equal(status != LAM_OK, lam_fault_fired());
        } while (lam_fault_fired());
        lam_fault_arm("alloc", 0);
        assert_true(n > 20);
    }
}

static int make_models(void **state)
{
    struct lam_spec spec8 = plan_fixture_8b();
    struct lam_spec spec70 = plan_fixture_70b();

    (void)state;
    plan_fixture_init(&m8, &spec8, true, LAM_F16);
    plan_fixture_init(&m70, &spec70, true, LAM_F16);
    return 0;
}

static int drop_models(void **state)
{
    (void)state;
    plan_fixture_done(&m8);
    plan_fixture_done(&m70);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(four_times_three_gib_carry_a_70b),
        cmocka_unit_test(ranges_are_ranges),
        cmocka_unit_test(all_resident_uses_as_few_devices_as_can_be),
        cmocka_unit_test(the_cache_has_its_size),
        cmocka_unit_test(whole_layers_can_be_asked_for),
        cmocka_unit_test(ram_and_device_complete_each_other),
        cmocka_unit_test(what_was_not_asked_for_is_given_up_in_order),
        cmocka_unit_test(what_was_asked_for_is_never_changed),
        cmocka_unit_test(the_minimum_is_what_really_works),
        cmocka_unit_test(small_numbers_are_told_in_small_units),
        cmocka_unit_test(levers_are_pulled_together),
        cmocka_unit_test(ram_that_holds_no_unit_is_named),
        cmocka_unit_test(a_cpu_has_one_memory),
        cmocka_unit_test(throughput_takes_memory_for_sequences),
        cmocka_unit_test(host_memory_can_bind),
        cmocka_unit_test(bad_requests_are_named),
        cmocka_unit_test(no_memory_is_a_status),
    };

    return cmocka_run_group_tests(tests, make_models, drop_models);
}
