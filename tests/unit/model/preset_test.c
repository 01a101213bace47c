/* preset: the shapes have the weights that their models are known for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "model/layout.h"
#include "model/preset.h"

/* All weights, as published: the model's own count, in millions. */
static uint64_t millions_of(const char *name)
{
    static const enum lam_tensor_role ends[] = {LAM_T_EMBEDDING, LAM_T_OUTPUT_NORM, LAM_T_OUTPUT};
    const struct lam_preset *preset = lam_preset_find(name);
    uint64_t sum = 0;

    assert_non_null(preset);
    for (uint32_t i = 0; i < 3; i++) {
        struct lam_layout_tensor tensor = lam_layout_tensor(&preset->spec, ends[i], 0);
        if (ends[i] != LAM_T_OUTPUT || !preset->spec.tied_head)
            sum += tensor.n_rows * tensor.n_cols;
    }
    for (uint32_t role = 0; role < LAM_LAYER_ROLES; role++) {
        struct lam_layout_tensor tensor =
            lam_layout_tensor(&preset->spec, (enum lam_tensor_role)role, 0);
        sum += preset->spec.n_layers * tensor.n_rows * tensor.n_cols;
    }
    return sum / 1000000;
}

static void test_sizes_are_the_published_ones(void **state)
{
    (void)state;
    assert_int_equal(millions_of("smollm2-135m"), 134);
    assert_int_equal(millions_of("llama3.2-1b"), 1235);
    assert_int_equal(millions_of("llama3.2-3b"), 3212);
    assert_int_equal(millions_of("mistral-7b"), 7248);
    assert_int_equal(millions_of("llama2-7b"), 6738);
    assert_int_equal(millions_of("llama2-13b"), 13015);
    assert_int_equal(millions_of("llama3-8b"), 8030);
    assert_int_equal(millions_of("llama3-70b"), 70553);
    assert_int_equal(millions_of("llama3.1-405b"), 405853);
}

static void test_every_choice_is_a_shape(void **state)
{
    const char *at = LAM_PRESET_CHOICES;

    (void)state;
    while (*at) {
        char name[32] = "";
        size_t length = strcspn(at, "|");
        const struct lam_preset *preset;
        assert_true(length < sizeof name);
        memcpy(name, at, length);
        preset = lam_preset_find(name);
        assert_non_null(preset);
        assert_string_equal(preset->spec.name, name);
        assert_int_equal(preset->spec.n_heads % preset->spec.n_kv_heads, 0);
        at += length + (at[length] == '|');
    }
    assert_null(lam_preset_find("llama"));
}

/* Llama 3.1's own factors: 1 for what turns often within 8192 positions, 8 for what never does. */
static void test_rope_factors_go_from_one_to_the_factor(void **state)
{
    const struct lam_preset *preset = lam_preset_find("llama3.1-8b");
    float last = 0;
    uint32_t n_between = 0;

    (void)state;
    assert_true(lam_preset_rope_freq(preset, 0) == 1);
    assert_true(lam_preset_rope_freq(preset, 63) == 8);
    for (uint32_t i = 0; i < 64; i++) {
        float factor = lam_preset_rope_freq(preset, i);
        assert_true(factor >= last);
        n_between += factor > 1 && factor < 8;
        last = factor;
    }
    assert_int_equal(n_between, 6); /* wave lengths between 2048 and 8192 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes_are_the_published_ones),
        cmocka_unit_test(test_every_choice_is_a_shape),
        cmocka_unit_test(test_rope_factors_go_from_one_to_the_factor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
