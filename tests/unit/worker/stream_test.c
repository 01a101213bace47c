/*
 * The engine on an emulated device (tests/kernels/emulated): the same bits as on a CPU with the
 * same kernels, whatever stays on the device, in whatever order its queues run, however few places
 * the loader has; and a wait that is left out is noticed.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "common/trace.h"
#include "tests/kernels/emulated/emulated.h"
#include "tests/unit/worker/fake_units.h"
#include "worker/engine.h"

#define T 13
#define N_VOCAB 300
#define CAP_STEP_MIB 2 /* what an arena grows by */
#define LOGITS (2 * T * N_VOCAB)

struct fixture {
    struct tiny_model tiny;
    float wanted[LOGITS]; /* of both texts, by the CPU's engine */
    uint32_t least_mib;   /* smallest cap that fits */
};

struct setting {
    uint32_t cap_mib;
    uint32_t n_places;
    uint32_t late; /* seed of units that come late */
    uint32_t layer_batch;
    struct emulated_options device;
};

static const int32_t texts[2][T] = {{7, 1, 299, 42, 0, 8, 8, 150, 77, 3, 12, 201, 7},
    {290, 14, 9, 9, 9, 60, 222, 1, 0, 135, 86, 4, 299}};

static struct lam_engine_config config_of(const struct setting *setting, char *vram)
{
    struct lam_engine_config config = {
        .ops = lam_kernels_ref(),
        .n_threads = 1,
        .n_ctx = 24,
        .max_seqs = 2,
        .max_rows = 16,
        .max_logit_rows = 16,
        .kv_given = true,
        .kv_dtype = LAM_F32,
        .page_tokens = 8,
    };

    if (!setting)
        return config;
    snprintf(vram, 24, "%uMiB", setting->cap_mib);
    config.ops = emulated_backend()->ops;
    config.device = emulated_backend()->device;
    config.vram = vram;
    config.layer_batch = setting->layer_batch;
    config.pin_bytes = 64 * LAM_KIB;
    return config;
}

/* NULL: the CPU's. */
static enum lam_status make(struct lam_units *units, const struct setting *setting,
    struct lam_engine **ret_engine, struct lam_err *err)
{
    char vram[24];
    struct lam_engine_config config = config_of(setting, vram);

    if (setting) {
        emulated_set(&setting->device);
        fake_units_set(units, setting->n_places ? setting->n_places : 3, setting->late);
    }
    return lam_engine_create(&config, units, ret_engine, err);
}

/* Both texts, mixed: a in portions of 4 from the first pass, b in portions of 5 one pass later;
 * their last tokens one by one. */
static enum lam_status run_texts(struct lam_engine *engine, float *logits, struct lam_err *err)
{
    uint32_t at[2] = {0, 0};

    for (uint32_t pass = 0; at[0] < T || at[1] < T; pass++) {
        struct lam_engine_rows rows[2];
        struct lam_engine_result results[2];
        uint32_t n = 0;
        enum lam_status status;

        for (uint32_t s = 0; s < 2; s++) {
            uint32_t portion = at[s] < 10 ? 4 + s : 1;
            if (at[s] == T || pass < s)
                continue;
            rows[n] = (struct lam_engine_rows){.seq = s,
                .position = at[s],
                .tokens = texts[s] + at[s],
                .n_tokens = T - at[s] < portion ? T - at[s] : portion,
                .params = lam_sample_defaults()};
            rows[n].logit_rows = rows[n].n_tokens;
            n++;
        }
        status = lam_engine_step(engine, rows, n, results, err);
        if (status != LAM_OK)
            return status;
        for (uint32_t i = 0; i < n; i++) {
            uint32_t s = rows[i].seq;
            memcpy(logits + (s * T + at[s]) * N_VOCAB, results[i].logits,
                rows[i].n_tokens * N_VOCAB * sizeof *logits);
            at[s] += rows[i].n_tokens;
        }
    }
    return LAM_OK;
}

/* Runs the texts twice, so that loads go round; whether every bit was right. */
static bool is_right(const struct fixture *f, const struct setting *setting)
{
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine = NULL;
    float *logits = lam_calloc(LOGITS, sizeof *logits);
    struct lam_err err = {0};
    bool right = true;

    assert_non_null(logits);
    if (make(units, setting, &engine, &err) != LAM_OK)
        fail_msg("cap %u MiB: %s", setting->cap_mib, err.text);
    for (int round = 0; round < 2; round++) {
        memset(logits, 0, LOGITS * sizeof *logits);
        if (run_texts(engine, logits, &err) != LAM_OK)
            fail_msg("cap %u MiB: %s", setting->cap_mib, err.text);
        right = right && memcmp(logits, f->wanted, sizeof f->wanted) == 0;
    }
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    lam_free(logits);
    return right;
}

static int setup(void **state)
{
    static struct fixture f;
    struct lam_spec spec = tiny_model_shape(8, N_VOCAB, false);
    struct setting setting = {.cap_mib = 16};
    struct lam_engine *engine = NULL;
    struct lam_units *units;
    struct lam_err err = {0};

    lam_log_init("stream_test", LAM_LOG_OFF);
    tiny_model_make_of(&f.tiny, &spec, false);
    units = fake_units_create(&f.tiny);
    assert_int_equal(make(units, NULL, &engine, NULL), LAM_OK);
    assert_int_equal(run_texts(engine, f.wanted, NULL), LAM_OK);
    lam_engine_destroy(engine);
    engine = NULL;
    while (make(units, &setting, &engine, &err) == LAM_RESOURCE_EXHAUSTED)
        setting.cap_mib++;
    assert_non_null(engine);
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    f.least_mib = setting.cap_mib;
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    tiny_model_done(&f->tiny);
    return 0;
}

/* From tensor groups through slots to everything resident. */
static void test_every_cap_gives_the_same_bits(void **state)
{
    struct fixture *f = *state;
    struct setting setting = {.cap_mib = f->least_mib};
    uint32_t n_partly = 0, n_groups = 0;
    uint64_t n_asked = 0, n_arranged = 0;
    bool all = false;

    for (; !all; setting.cap_mib += CAP_STEP_MIB) {
        struct lam_units *units = fake_units_create(&f->tiny);
        struct lam_engine *engine = NULL;
        const struct lam_plan *plan;
        const struct lam_plan_arena *arena;

        assert_true(setting.cap_mib < f->least_mib + 64);
        assert_int_equal(make(units, &setting, &engine, NULL), LAM_OK);
        plan = lam_engine_plan(engine);
        arena = &plan->arenas[0];
        all = arena->n_slots == 0;
        n_groups += arena->n_slots > 0 && plan->layer_batch == 0;
        n_partly += arena->n_slots > 0 && arena->regions[LAM_REGION_RESIDENT].bytes > 0;
        /* What flows is never arranged; of what stays the device refuses some. */
        assert_true(
            emulated_counts().n_asked == 0 || arena->regions[LAM_REGION_RESIDENT].bytes > 0);
        n_asked += emulated_counts().n_asked;
        n_arranged += emulated_counts().n_arranged;
        assert_int_equal(emulated_counts().arena_bytes, arena->arena_bytes);
        assert_int_equal(
            lam_engine_device_bytes(engine), arena->context_bytes + arena->arena_bytes);
        assert_true(lam_engine_device_bytes(engine) <= setting.cap_mib * LAM_MIB);
        /* What stays and what flows are a session each. */
        assert_int_equal(fake_units_sessions(units),
            (arena->n_slots > 0) + (arena->regions[LAM_REGION_RESIDENT].bytes > 0));
        lam_engine_destroy(engine);
        lam_units_destroy(units);
        assert_true(is_right(f, &setting));
    }
    assert_true(n_partly > 0 && n_groups > 0);
    assert_true(n_arranged > 0 && n_asked > n_arranged);
}

/* Orders of the queues, places of the loader, units that come late. */
static void test_every_order_gives_the_same_bits(void **state)
{
    struct fixture *f = *state;

    for (uint32_t seed = 1; seed <= 8; seed++) {
        struct setting setting = {.cap_mib = f->least_mib + seed % 3 * CAP_STEP_MIB,
            .n_places = 1 + seed % 4,
            .late = seed % 2 ? seed : 0,
            .device = {.seed = seed}};
        if (!is_right(f, &setting))
            fail_msg("seed %u", seed);
    }
}

static void test_room_for_several_layers(void **state)
{
    struct fixture *f = *state;

    for (uint32_t batch = 1; batch <= 3; batch++) {
        struct setting setting = {
            .cap_mib = f->least_mib + 6, .layer_batch = batch, .device = {.seed = batch}};
        assert_true(is_right(f, &setting));
        setting.n_places = 1; /* there is room for more units than the loader has places */
        assert_true(is_right(f, &setting));
    }
}

static void run_packed_cache(
    const struct fixture *f, const struct setting *setting, float *ret_logits)
{
    char vram[24];
    struct lam_engine_config config = config_of(setting, vram);
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine = NULL;
    struct lam_err err = {0};

    config.kv_dtype = LAM_Q8_0;
    fake_units_set(units, 3, 0);
    if (lam_engine_create(&config, units, &engine, &err) != LAM_OK ||
        run_texts(engine, ret_logits, &err) != LAM_OK)
        fail_msg("%s", err.text);
    assert_int_equal(lam_engine_plan(engine)->kv_dtype, LAM_Q8_0);
    lam_engine_destroy(engine);
    lam_units_destroy(units);
}

/* With KV in Q8_0 too, a device has the bits of the CPU, which are near those of F32. */
static void test_a_packed_cache_gives_the_same_bits(void **state)
{
    struct fixture *f = *state;
    struct setting setting = {.cap_mib = f->least_mib};
    float *host = lam_calloc(LOGITS, sizeof *host);
    float *device = lam_calloc(LOGITS, sizeof *device);
    float worst = 0;

    assert_true(host && device);
    emulated_set(&setting.device);
    run_packed_cache(f, NULL, host);
    run_packed_cache(f, &setting, device);
    assert_memory_equal(host, device, LOGITS * sizeof *host);
    for (size_t i = 0; i < LOGITS; i++) {
        float error = host[i] > f->wanted[i] ? host[i] - f->wanted[i] : f->wanted[i] - host[i];
        worst = error > worst ? error : worst;
    }
    assert_true(worst > 0 && worst < 0.1f);
    lam_free(host);
    lam_free(device);
}

/* Whether some order shows that the nth wait of a kind is missing. */
static bool is_noticed(const struct fixture *f, enum emulated_fault fault, uint64_t nth)
{
    for (uint32_t seed = 1; seed <= 8; seed++) {
        struct setting setting = {.cap_mib = f->least_mib,
            .n_places = 4,
            .device = {.seed = seed, .fault = fault, .nth = nth}};
        if (!is_right(f, &setting))
            return true;
    }
    return false;
}

/* Else the tests above would be worthless. Some waits protect nothing and may be left out: the
 * first copies find empty slots, and the host waits for every copy, of which only the last one of a
 * unit matters; what it has waited for, the arithmetic need not. */
static void test_a_missing_wait_is_noticed(void **state)
{
    static const enum emulated_fault faults[] = {
        EMULATED_NO_COMPUTE_WAIT, EMULATED_NO_COPY_WAIT, EMULATED_NO_HOST_WAIT};
    struct fixture *f = *state;

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    skip(); /* minutes there, and the orders are those of one thread */
#endif
    for (uint32_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        uint32_t n_noticed = 0;
        for (uint64_t nth = 1; nth <= 4; nth++)
            n_noticed += is_noticed(f, faults[i], nth);
        print_message("[          ] fault %u: %u of 4\n", faults[i], n_noticed);
        assert_true(n_noticed >= 2);
    }
}

/* With everything resident a pass has two waits: one for the head is over before the pass is. */
static void test_the_host_wakes_before_the_end(void **state)
{
    struct fixture *f = *state;
    struct setting setting = {.cap_mib = 1024};
    struct lam_engine_rows rows = {
        .tokens = texts[0], .n_tokens = 1, .sample = true, .params = lam_sample_defaults()};
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine = NULL;
    struct lam_engine_result result;
    uint64_t n_waits;

    assert_int_equal(make(units, &setting, &engine, NULL), LAM_OK);
    assert_int_equal(lam_engine_plan(engine)->arenas[0].streamed_bytes, 0);
    n_waits = emulated_counts().n_waits[EMULATED_NO_HOST_WAIT];
    assert_int_equal(lam_engine_step(engine, &rows, 1, &result, NULL), LAM_OK);
    assert_int_equal(emulated_counts().n_waits[EMULATED_NO_HOST_WAIT], n_waits + 2);
    lam_engine_destroy(engine);
    lam_units_destroy(units);
}

static void test_a_broken_device_ends_the_engine(void **state)
{
    struct fixture *f = *state;
    float *logits = lam_calloc(LOGITS, sizeof *logits);

    assert_non_null(logits);
    for (uint64_t nth = 1; nth < 60; nth += 7) {
        struct setting setting = {
            .cap_mib = f->least_mib, .device = {.seed = 3, .fault = EMULATED_BROKEN, .nth = nth}};
        struct lam_units *units = fake_units_create(&f->tiny);
        struct lam_engine *engine = NULL;
        struct lam_err err = {0};
        assert_int_equal(make(units, &setting, &engine, NULL), LAM_OK);
        assert_int_equal(run_texts(engine, logits, &err), LAM_INTERNAL);
        assert_non_null(strstr(err.text, "must end"));
        assert_false(lam_engine_usable(engine));
        lam_engine_destroy(engine);
        lam_units_destroy(units);
    }
    lam_free(logits);
}

static void test_a_units_fault_ends_the_engine(void **state)
{
    struct fixture *f = *state;
    float *logits = lam_calloc(LOGITS, sizeof *logits);

    assert_non_null(logits);
    for (uint64_t nth = 1; nth < 24; nth += 5) {
        struct setting setting = {.cap_mib = f->least_mib, .device = {.seed = 5}};
        struct lam_units *units = fake_units_create(&f->tiny);
        struct lam_engine *engine = NULL;
        struct lam_err err = {0};
        assert_int_equal(make(units, &setting, &engine, NULL), LAM_OK);
        fake_units_fail_acquire(units, nth);
        assert_int_equal(run_texts(engine, logits, &err), LAM_DATA_LOSS);
        assert_non_null(strstr(err.text, "cannot be read"));
        lam_engine_destroy(engine);
        lam_units_destroy(units);
    }
    lam_free(logits);
}

/* One token, streamed, on a device with these clocks. */
static struct lam_pass_profile profile_of(
    const struct fixture *f, uint64_t copy_rate, uint64_t op_ns, uint64_t *ret_streamed)
{
    struct setting setting = {
        .cap_mib = f->least_mib, .device = {.copy_rate = copy_rate, .op_ns = op_ns}};
    struct lam_engine_rows rows = {
        .tokens = texts[0], .n_tokens = 1, .sample = true, .params = lam_sample_defaults()};
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine = NULL;
    struct lam_engine_result result;
    struct lam_pass_profile profile;

    assert_int_equal(make(units, &setting, &engine, NULL), LAM_OK);
    for (int pass = 0; pass < 3; pass++)
        assert_int_equal(lam_engine_step(engine, &rows, 1, &result, NULL), LAM_OK);
    profile = *lam_engine_profile(engine);
    *ret_streamed = lam_engine_plan(engine)->arenas[0].streamed_bytes;
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    return profile;
}

static void test_profile_tells_what_a_pass_waited_for(void **state)
{
    struct fixture *f = *state;
    uint64_t streamed, copy_ns;
    struct lam_pass_profile slow_link = profile_of(f, 1000000000, 1, &streamed);
    struct lam_pass_profile slow_compute = profile_of(f, 1000000000000, 1000000, &streamed);

    copy_ns = streamed; /* a byte takes a nanosecond */
    assert_int_equal(slow_link.link_bytes, streamed);
    assert_in_range(slow_link.copy_ns, copy_ns - copy_ns / 100, copy_ns);
    /* The first pieces of a pass came during the one before. */
    assert_in_range(slow_link.link_wait_ns, copy_ns / 2, copy_ns);
    assert_true(slow_link.compute_ns < copy_ns / 10);
    assert_true(slow_compute.link_wait_ns < slow_compute.compute_ns / 50);
    assert_int_equal(slow_compute.n_rows, 1);
}

/* Attention takes longest here and has few weights: through two slots of the largest piece the next
 * but one could only be copied after it, and these passes would take 5 to 12 % more. */
static void test_long_kernels_are_hidden_behind_copies(void **state)
{
    struct fixture *f = *state;
    uint64_t streamed;

    for (uint64_t op_ns = 60000; op_ns <= 110000; op_ns += 10000) {
        struct lam_pass_profile profile = profile_of(f, 1000000000, op_ns, &streamed);
        uint64_t both_ns =
            profile.copy_ns > profile.compute_ns ? profile.copy_ns : profile.compute_ns;
        assert_true(profile.compute_ns + profile.link_wait_ns < both_ns + both_ns / 50);
    }
}

/* Spans and profile come from the same marks: what the device did in a pass is drawn without holes,
 * and sums up to what is told. */
static void test_trace_agrees_with_the_profile(void **state)
{
    struct fixture *f = *state;
    static struct lam_trace_span spans[LAM_TRACE_SPANS];
    struct lam_trace_mark mark = lam_trace_start();
    uint64_t copy_ns = 0, copy_bytes = 0, wait_ns = 0, at_ns = 0, streamed, lost;
    struct lam_pass_profile profile = profile_of(f, 1000000000, 1, &streamed);
    size_t first, n;

    lam_trace_stop();
    mark.since_ns = 0; /* the device's time is its own here, and may lie before */
    n = lam_trace_read(&mark, spans, LAM_TRACE_SPANS, &lost);
    assert_string_equal(spans[n - 1].name, "sample");
    assert_string_equal(spans[n - 2].name, "pass");
    for (first = n - 2; spans[first - 1].track != LAM_TRACE_PASS; first--)
        ; /* of the last pass */
    for (size_t i = first; i < n; i++) {
        if (spans[i].track == LAM_TRACE_COPY) {
            copy_ns += spans[i].end_ns - spans[i].begin_ns;
            copy_bytes += spans[i].bytes;
        } else if (spans[i].track == LAM_TRACE_COMPUTE) {
            assert_true(at_ns == 0 || spans[i].begin_ns == at_ns);
            at_ns = spans[i].end_ns;
            if (strcmp(spans[i].name, "wait for copy") == 0)
                wait_ns += spans[i].end_ns - spans[i].begin_ns;
        }
    }
    assert_int_equal(copy_bytes, streamed);
    assert_int_equal(copy_ns, profile.copy_ns);
    assert_int_equal(wait_ns, profile.link_wait_ns + profile.disk_wait_ns);
}

static void test_out_of_memory_at_creation(void **state)
{
    struct fixture *f = *state;
    struct setting setting = {.cap_mib = f->least_mib + CAP_STEP_MIB, .device = {.seed = 2}};
    uint64_t nth = 0;
    enum lam_status status;

    do {
        struct lam_units *units = fake_units_create(&f->tiny);
        struct lam_engine *engine = NULL;
        struct lam_err err = {0};
        lam_fault_arm("alloc", ++nth);
        status = make(units, &setting, &engine, &err);
        lam_engine_destroy(engine);
        if (status != LAM_OK)
            assert_true(err.text[0] != '\0');
        if (!lam_fault_fired())
            nth = 0;
        lam_fault_arm("alloc", 0);
        lam_units_destroy(units);
    } while (nth > 0);
    assert_int_equal(status, LAM_OK);
}

static void test_does_not_fit(void **state)
{
    struct fixture *f = *state;
    struct setting setting = {.cap_mib = f->least_mib - 1};
    struct lam_units *units = fake_units_create(&f->tiny);
    struct lam_engine *engine = NULL;
    struct lam_err err = {0};

    assert_int_equal(make(units, &setting, &engine, &err), LAM_RESOURCE_EXHAUSTED);
    assert_non_null(strstr(err.text, "cuda:0"));
    assert_non_null(strstr(err.text, "--vram"));
    assert_int_equal(emulated_counts().arena_bytes, 0);
    lam_units_destroy(units);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_cap_gives_the_same_bits),
        cmocka_unit_test(test_every_order_gives_the_same_bits),
        cmocka_unit_test(test_room_for_several_layers),
        cmocka_unit_test(test_a_packed_cache_gives_the_same_bits),
        cmocka_unit_test(test_a_missing_wait_is_noticed),
        cmocka_unit_test(test_the_host_wakes_before_the_end),
        cmocka_unit_test(test_a_broken_device_ends_the_engine),
        cmocka_unit_test(test_a_units_fault_ends_the_engine),
        cmocka_unit_test(test_profile_tells_what_a_pass_waited_for),
        cmocka_unit_test(test_long_kernels_are_hidden_behind_copies),
        cmocka_unit_test(test_trace_agrees_with_the_profile),
        cmocka_unit_test(test_out_of_memory_at_creation),
        cmocka_unit_test(test_does_not_fit),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
