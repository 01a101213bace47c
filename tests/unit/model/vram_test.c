/* vram: what --vram means, and the exact words for what it does not mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "common/size.h"
#include "model/vram.h"

#define N 4u

static const struct lam_vram_device devices[N] = {
    {"cuda:0", 80 * LAM_GIB, 79 * LAM_GIB},
    {"cuda:1", 80 * LAM_GIB, 40 * LAM_GIB},
    {"cuda:2", 24 * LAM_GIB, 20 * LAM_GIB},
    {"cuda:3", 10 * LAM_GIB, 256 * LAM_MIB},
};

struct good {
    const char *spec;
    uint32_t n_devices;
    uint64_t caps[N];
    const char *notes;
};

static const struct good goods[] = {
    {"3GiB", 2, {3 * LAM_GIB, 3 * LAM_GIB}, ""},
    {"3.5", 1, {7 * LAM_GIB / 2}, ""},
    {"3", 3, {3 * LAM_GIB, 3 * LAM_GIB, 3 * LAM_GIB}, ""},
    {"3072MiB", 1, {3 * LAM_GIB}, ""},
    {"3072mib", 1, {3 * LAM_GIB}, ""},
    {"3GB", 1, {3000000000}, ""},
    {"75%", 1, {60 * LAM_GIB}, "cuda:0: 75% is 60.00 GiB\n"},
    {"75%", 2, {60 * LAM_GIB, 60 * LAM_GIB},
        "cuda:0: 75% is 60.00 GiB\ncuda:1: 75% is 60.00 GiB\n"},
    {"free-1GiB", 2, {78 * LAM_GIB, 39 * LAM_GIB},
        "cuda:0: free-1GiB is 78.00 GiB\ncuda:1: free-1GiB is 39.00 GiB\n"},
    {"free-0", 1, {79 * LAM_GIB}, "cuda:0: free-0 is 79.00 GiB\n"},
    {"auto", 1, {79 * LAM_GIB - 80 * LAM_GIB / 100 * 3}, "cuda:0: auto is 76.60 GiB\n"},
    {"3,off", 2, {3 * LAM_GIB, 0}, ""},
    {"0,3", 2, {0, 3 * LAM_GIB}, ""},
    {"-,3", 2, {0, 3 * LAM_GIB}, ""},
    {"3,3", 4, {3 * LAM_GIB, 3 * LAM_GIB},
        "cuda:2, cuda:3: not used, because --vram lists 2 of 4 devices\n"},
    {"3,4,...", 4, {3 * LAM_GIB, 4 * LAM_GIB, 4 * LAM_GIB, 4 * LAM_GIB}, ""},
    {"3,...", 2, {3 * LAM_GIB, 3 * LAM_GIB}, ""},
    {"3,4,...", 2, {3 * LAM_GIB, 4 * LAM_GIB}, ""},
    {"0=3GiB,2=75%", 3, {3 * LAM_GIB, 0, 18 * LAM_GIB},
        "cuda:2: 75% is 18.00 GiB\ncuda:1: not used, because --vram lists 2 of 3 devices\n"},
    {"cuda:1=3,cuda:0=off", 2, {0, 3 * LAM_GIB}, ""},
    {"3=2GiB", 4, {0, 0, 0, 2 * LAM_GIB},
        "cuda:0, cuda:1, cuda:2: not used, because --vram lists 1 of 4 devices\n"},
    {"80GiB", 1, {80 * LAM_GIB}, ""},
};

static void lists_mean_what_they_say(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof goods / sizeof goods[0]; i++) {
        uint64_t caps[N] = {0};
        char notes[LAM_VRAM_NOTES_BYTES];
        struct lam_err err = {0};
        if (lam_vram_parse(goods[i].spec, devices, goods[i].n_devices, caps, notes, &err))
            fail_msg("%s: %s", goods[i].spec, err.text);
        assert_memory_equal(caps, goods[i].caps, goods[i].n_devices * sizeof caps[0]);
        assert_string_equal(notes, goods[i].notes);
    }
}

#define EXAMPLES "; write for example 3GiB, 75% or free-1GiB"

struct bad {
    const char *spec;
    uint32_t n_devices;
    const char *text;
};

static const struct bad bads[] = {
    {"", 1, "--vram: item 1 is empty" EXAMPLES},
    {"x", 1, "--vram: item 1 'x' is not a size" EXAMPLES},
    {"3,x,3", 3, "--vram: item 2 'x' is not a size" EXAMPLES},
    {"3,,3", 3, "--vram: item 2 is empty" EXAMPLES},
    {"3,3,", 3, "--vram: item 3 is empty" EXAMPLES},
    {"3 GB", 1, "--vram: item 1 '3 GB' has a space in it" EXAMPLES},
    {"3, 3", 2, "--vram: item 2 ' 3' has a space in it" EXAMPLES},
    {"-1GiB", 1, "--vram: item 1 '-1GiB' is negative" EXAMPLES},
    {"8192", 1, "--vram: item 1 '8192' would be 8192 GiB; did you mean 8192MiB?"},
    {"8192,4096", 2, "--vram: item 1 '8192' would be 8192 GiB; did you mean 8192MiB?"},
    {"101%", 1, "--vram: item 1 '101%' is not a size" EXAMPLES},
    {"-5%", 1, "--vram: item 1 '-5%' is negative" EXAMPLES},
    {"nan", 1, "--vram: item 1 'nan' is not a size" EXAMPLES},
    {"1e3", 1, "--vram: item 1 '1e3' is not a size" EXAMPLES},
    {"0x10", 1, "--vram: item 1 '0x10' is not a size" EXAMPLES},
    {"3GiBB", 1, "--vram: item 1 '3GiBB' is not a size" EXAMPLES},
    {"99999999999999999999GiB", 1,
        "--vram: item 1 '99999999999999999999GiB' is not a size" EXAMPLES},
    {"free", 1, "--vram: item 1 'free' is free without a size to leave" EXAMPLES},
    {"free-", 1, "--vram: item 1 'free-' is free without a size to leave" EXAMPLES},
    {"free+1GiB", 1, "--vram: item 1 'free+1GiB' is free without a size to leave" EXAMPLES},
    {"free-99GiB", 1,
        "--vram: item 1 'free-99GiB' leaves nothing: only 79.00 GiB of cuda:0 are free; "
        "give a size"},
    {"off,off,off,auto", 4,
        "--vram: item 4 'auto' leaves nothing: only 256.0 MiB of cuda:3 are free; give a size"},
    {"100GiB", 1, "--vram: item 1 '100GiB' is more than the 80.00 GiB of cuda:0" EXAMPLES},
    {"3,3,25", 3, "--vram: item 3 '25' is more than the 24.00 GiB of cuda:2" EXAMPLES},
    {"3,3,3", 2,
        "--vram: item 3 '3' is one too many: there is cuda:0 (80.00 GiB), cuda:1 (80.00 GiB)"},
    {"5=3GiB", 2,
        "--vram: item 1 '5=3GiB' names no device; there is cuda:0 (80.00 GiB), "
        "cuda:1 (80.00 GiB)"},
    {"3GiB=0", 1, "--vram: item 1 '3GiB=0' names no device; there is cuda:0 (80.00 GiB)"},
    {"=3GiB", 1, "--vram: item 1 '=3GiB' names no device; there is cuda:0 (80.00 GiB)"},
    {"0=", 1, "--vram: item 1 '0=' is not a size" EXAMPLES},
    {"0=3,cuda:0=3", 2, "--vram: item 2 'cuda:0=3' names cuda:0 a second time; keep one"},
    {"0=3GiB,2GiB", 2,
        "--vram: item 2 '2GiB' names no device but others do; write for example 0=3GiB,1=75%"},
    {"3GiB,1=2GiB", 2,
        "--vram: item 2 '1=2GiB' names a device but others do not; write for example "
        "0=3GiB,1=75%"},
    {"...", 2,
        "--vram: item 1 '...' repeats the item before it and stands last; write for example "
        "3GiB,75%,..."},
    {"3,...,3", 3,
        "--vram: item 2 '...' repeats the item before it and stands last; write for example "
        "3GiB,75%,..."},
    {"0=3,...", 3,
        "--vram: item 2 '...' repeats the item before it and stands last; write for example "
        "3GiB,75%,..."},
    {"3...", 2, "--vram: item 1 '3...' is not a size" EXAMPLES},
    {"off", 2, "--vram: 'off' leaves no device to compute on" EXAMPLES},
    {"0,0", 2, "--vram: '0,0' leaves no device to compute on" EXAMPLES},
    {"1=0", 2, "--vram: '1=0' leaves no device to compute on" EXAMPLES},
    {"3333333333333333333333333333333333333333333333333333333333333333333333333", 1,
        "--vram: item 1 '33333333333333333333...' is too long" EXAMPLES},
};

static void malformed_lists_are_told_exactly(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < sizeof bads / sizeof bads[0]; i++) {
        uint64_t caps[N] = {77, 77, 77, 77};
        char notes[LAM_VRAM_NOTES_BYTES] = "untouched";
        struct lam_err err = {0};
        assert_int_equal(
            lam_vram_parse(bads[i].spec, devices, bads[i].n_devices, caps, notes, &err),
            LAM_INVALID_ARGUMENT);
        assert_string_equal(err.text, bads[i].text);
        assert_int_equal(caps[0], 77);
        assert_string_equal(notes, "untouched");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_mean_what_they_say),
        cmocka_unit_test(malformed_lists_are_told_exactly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
