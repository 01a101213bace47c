/* flag: what a line may look like, what it changes, and how a bad one is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/flag.h"
#include "tests/unit/common/capture.h"

#define OPERANDS_MAX 2u

/* The values that a line is parsed into, with their defaults. */
struct line {
    bool json;
    bool json_set;
    const char *prompt;
    int64_t ctx;
    double temperature;
    const char *device;
    const char *operands[OPERANDS_MAX];
    size_t n_operands;
    enum lam_flag_ask ask;
    struct lam_err err;
};

static struct lam_flag table[6];
static const struct lam_flag_program program = {
    .usage = "laminar run MODEL [flags]",
    .summary = "Runs a model.",
    .flags = table,
    .epilog = "example: laminar run m.gguf -p hi",
};

static void set_table(struct line *line)
{
    *line = (struct line){.ctx = 8, .temperature = 0.5, .device = "auto", .n_operands = 99};
    table[0] = (struct lam_flag){.name = "json",
        .kind = LAM_FLAG_BOOL,
        .target = &line->json,
        .help = "Write JSON.",
        .was_set = &line->json_set};
    table[1] = (struct lam_flag){.name = "prompt",
        .letter = 'p',
        .kind = LAM_FLAG_TEXT,
        .target = &line->prompt,
        .value = "TEXT",
        .help = "The prompt."};
    table[2] = (struct lam_flag){.name = "ctx",
        .letter = 'c',
        .kind = LAM_FLAG_INT,
        .target = &line->ctx,
        .value = "N",
        .help = "Context.",
        .min = -4,
        .max = 100};
    table[3] = (struct lam_flag){.name = "temperature",
        .kind = LAM_FLAG_REAL,
        .target = &line->temperature,
        .value = "T",
        .help = "Temperature.",
        .min = 0,
        .max = 2};
    table[4] = (struct lam_flag){.name = "device",
        .kind = LAM_FLAG_CHOICE,
        .target = &line->device,
        .value = "D",
        .help = "Where to compute.",
        .choices = "auto|cpu|cuda"};
    table[5] = (struct lam_flag){0};
}

/* Splits `text` at spaces into argv and parses it. */
static enum lam_status parse(struct line *line, const char *text)
{
    static char words[256];
    char *argv[16] = {"laminar"};
    char *rest;
    int argc = 1;

    set_table(line);
    assert_true(strlen(text) < sizeof words);
    memcpy(words, text, strlen(text) + 1);
    for (char *word = strtok_r(words, " ", &rest); word; word = strtok_r(NULL, " ", &rest))
        argv[argc++] = word;
    return lam_flag_parse(&program, argc, argv, line->operands, OPERANDS_MAX, &line->n_operands,
        &line->ask, &line->err);
}

static void test_forms(void **state)
{
    struct line line;

    (void)state;
    assert_int_equal(
        parse(&line, "a --json -p hi --ctx=-4 b --temperature 1.5e0 --device cuda"), 0);
    assert_true(line.json);
    assert_true(line.json_set);
    assert_string_equal(line.prompt, "hi");
    assert_int_equal(line.ctx, -4);
    assert_true(line.temperature == 1.5);
    assert_string_equal(line.device, "cuda");
    assert_int_equal(line.n_operands, 2);
    assert_string_equal(line.operands[0], "a");
    assert_string_equal(line.operands[1], "b");
    assert_int_equal(line.ask, LAM_FLAG_ASK_NOTHING);
}

/* A list keeps its values in order; one too many is an error that stores nothing. */
static void test_lists(void **state)
{
    const char *items[2] = {NULL, NULL};
    struct lam_flag_list list = {.items = items, .max = 2};
    struct lam_flag flags[] = {
        {.name = "model", .kind = LAM_FLAG_LIST, .target = &list, .value = "PATH", .help = "It."},
        {0},
    };
    struct lam_flag_program repeats = {.usage = "x", .summary = "x", .flags = flags};
    char *good[] = {"x", "--model", "a", "--model=b"};
    char *bad[] = {"x", "--model", "a", "--model=b", "--model", "c"};
    struct lam_err err = {0};
    size_t n_operands;
    enum lam_flag_ask ask;

    (void)state;
    assert_int_equal(
        lam_flag_parse(&repeats, 6, bad, NULL, 0, &n_operands, &ask, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "--model is given more than 2 times"));
    assert_int_equal(list.n, 0);
    assert_int_equal(lam_flag_parse(&repeats, 4, good, NULL, 0, &n_operands, &ask, &err), LAM_OK);
    assert_int_equal(list.n, 2);
    assert_string_equal(items[0], "a");
    assert_string_equal(items[1], "b");
}

static void test_defaults_stay(void **state)
{
    struct line line;

    (void)state;
    assert_int_equal(parse(&line, ""), LAM_OK);
    assert_false(line.json);
    assert_false(line.json_set);
    assert_null(line.prompt);
    assert_int_equal(line.ctx, 8);
    assert_string_equal(line.device, "auto");
    assert_int_equal(line.n_operands, 0);
}

static void test_ends_and_dashes(void **state)
{
    struct line line;

    (void)state;
    assert_int_equal(parse(&line, "- -- --json"), LAM_OK);
    assert_false(line.json);
    assert_int_equal(line.n_operands, 2);
    assert_string_equal(line.operands[0], "-");
    assert_string_equal(line.operands[1], "--json");
    /* A value may look like a flag. */
    assert_int_equal(parse(&line, "--prompt --json"), LAM_OK);
    assert_string_equal(line.prompt, "--json");
    assert_int_equal(parse(&line, "--prompt= -c 3"), LAM_OK);
    assert_string_equal(line.prompt, "");
    assert_int_equal(line.ctx, 3);
}

static void test_help_stops(void **state)
{
    struct line line;

    (void)state;
    assert_int_equal(parse(&line, "m --ctx 5 --help --nonsense"), LAM_OK);
    assert_int_equal(line.ask, LAM_FLAG_ASK_HELP);
    assert_int_equal(line.ctx, 8); /* --help prints the table's defaults, not this line's values */
    assert_int_equal(parse(&line, "-h"), LAM_OK);
    assert_int_equal(line.ask, LAM_FLAG_ASK_HELP);
    assert_int_equal(parse(&line, "--version --nonsense"), LAM_OK);
    assert_int_equal(line.ask, LAM_FLAG_ASK_VERSION);
}

static void test_bad_lines(void **state)
{
    static const struct {
        const char *line;
        const char *names; /* part of the text */
    } cases[] = {
        {"--nonsense", "--nonsense"},
        {"-x", "-x"},
        {"-pc", "-pc"},
        {"--", NULL},
        {"--json=yes", "--json takes no value"},
        {"--json --json", "--json is given twice"},
        {"-p a --prompt b", "--prompt is given twice"},
        {"--prompt", "--prompt needs a value: --prompt TEXT"},
        {"--ctx 101", "'101' is no whole number from -4 to 100"},
        {"--ctx -5", "--ctx"},
        {"--ctx 5x", "--ctx"},
        {"--ctx +5", "--ctx"},
        {"--ctx 0x5", "--ctx"},
        {"--ctx=", "--ctx"},
        {"--temperature nan", "--temperature"},
        {"--temperature inf", "--temperature"},
        {"--temperature 0x1p0", "--temperature"},
        {"--temperature 1e", "--temperature"},
        {"--temperature .", "--temperature"},
        {"--temperature 2.01", "'2.01' is no number from 0 to 2"},
        {"--temperature -0.1", "--temperature"},
        {"--device cud", "'cud' is none of auto|cpu|cuda"},
        {"--device auto|cpu", "--device"},
        {"--device=", "--device"},
        {"a b c", "'c' is one operand too many"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct line line;
        enum lam_status status = parse(&line, cases[i].line);
        if (!cases[i].names) {
            assert_int_equal(status, LAM_OK);
            continue;
        }
        if (status != LAM_INVALID_ARGUMENT || !strstr(line.err.text, cases[i].names))
            fail_msg("'%s' gave %s '%s'", cases[i].line, lam_status_name(status), line.err.text);
        assert_int_equal(line.n_operands, 99);
    }
}

/* A line that goes wrong at its end has changed nothing. */
static void test_failure_changes_nothing(void **state)
{
    struct line line;

    (void)state;
    assert_int_equal(parse(&line, "--json --ctx 5 -p hi --device x"), LAM_INVALID_ARGUMENT);
    assert_false(line.json);
    assert_false(line.json_set);
    assert_int_equal(line.ctx, 8);
    assert_null(line.prompt);
}

static void test_reals(void **state)
{
    static const struct {
        const char *text;
        double value;
    } cases[] = {{"0", 0}, {"2", 2}, {"0.7", 0.7}, {".25", .25}, {"1.", 1}, {"5e-1", 0.5},
        {"1E+0", 1}, {"-0", 0}};
    char text[64];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct line line;
        snprintf(text, sizeof text, "--temperature %s", cases[i].text);
        assert_int_equal(parse(&line, text), LAM_OK);
        assert_true(line.temperature == cases[i].value);
    }
}

static void test_ints(void **state)
{
    int64_t value = 77;

    (void)state;
    assert_true(lam_int_parse("9223372036854775807", INT64_MIN, INT64_MAX, &value));
    assert_int_equal(value, INT64_MAX);
    assert_true(lam_int_parse("-9223372036854775808", INT64_MIN, INT64_MAX, &value));
    assert_int_equal(value, INT64_MIN);
    assert_true(lam_int_parse("007", 7, 7, &value));
    assert_int_equal(value, 7);
    assert_false(lam_int_parse("9223372036854775808", INT64_MIN, INT64_MAX, &value));
    assert_false(lam_int_parse("-9223372036854775809", INT64_MIN, INT64_MAX, &value));
    assert_false(lam_int_parse("", INT64_MIN, INT64_MAX, &value));
    assert_false(lam_int_parse("-", INT64_MIN, INT64_MAX, &value));
    assert_false(lam_int_parse("--1", INT64_MIN, INT64_MAX, &value));
    assert_false(lam_int_parse(" 1", INT64_MIN, INT64_MAX, &value));
    assert_false(lam_int_parse("1 ", INT64_MIN, INT64_MAX, &value));
    assert_false(lam_int_parse("0", 1, 2, &value));
    assert_false(lam_int_parse("3", 1, 2, &value));
    assert_int_equal(value, 7);
}

/* Bounds that no int64_t holds mean "no bound". */
static void test_int_bounds_beyond_64_bits(void **state)
{
    struct line line;
    char *argv[] = {"laminar", "--ctx", "-9223372036854775808"};

    (void)state;
    set_table(&line);
    table[2].min = -1e30;
    table[2].max = 1e30;
    assert_int_equal(lam_flag_parse(&program, 3, argv, line.operands, OPERANDS_MAX,
                         &line.n_operands, &line.ask, &line.err),
        LAM_OK);
    assert_int_equal(line.ctx, INT64_MIN);
}

/* Every flag, range and default of the table is in the help text; no line is too wide. */
static void test_help_text(void **state)
{
    static const char *const wanted[] = {"usage: laminar run MODEL [flags]\n", "Runs a model.",
        "  -p, --prompt TEXT", "      --json", "[-4..100, default 8]", "[0..2, default 0.5]",
        "[auto|cpu|cuda, default auto]", "  -h, --help", "      --version", "example: laminar run"};
    char *text;
    char *rest;
    struct line line;

    (void)state;
    set_table(&line);
    table[0].help =
        "A sentence that is long enough to need a second line in the column of the help "
        "texts, and so has to be wrapped between two of its words.";
    capture_begin(STDOUT_FILENO);
    lam_flag_print_help(&program);
    text = capture_end();
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
        if (!strstr(text, wanted[i]))
            fail_msg("no '%s' in:\n%s", wanted[i], text);
    for (char *at = strtok_r(text, "\n", &rest); at; at = strtok_r(NULL, "\n", &rest))
        assert_true(strlen(at) <= 96);
}

/* A default outside of its range stands for "not given": showing it would invite a user to write
 * what is refused. A bound that no int64_t exceeds is no bound. */
static void test_help_without_default(void **state)
{
    struct line line;
    char *text;

    (void)state;
    set_table(&line);
    line.ctx = -5;
    line.temperature = 3;
    capture_begin(STDOUT_FILENO);
    lam_flag_print_help(&program);
    text = capture_end();
    assert_non_null(strstr(text, "[-4..100]\n"));
    assert_non_null(strstr(text, "[0..2]\n"));
    set_table(&line);
    table[2].max = 0x1p63;
    capture_begin(STDOUT_FILENO);
    lam_flag_print_help(&program);
    text = capture_end();
    assert_non_null(strstr(text, "[from -4, default 8]\n"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_lists),
        cmocka_unit_test(test_defaults_stay),
        cmocka_unit_test(test_ends_and_dashes),
        cmocka_unit_test(test_help_stops),
        cmocka_unit_test(test_bad_lines),
        cmocka_unit_test(test_failure_changes_nothing),
        cmocka_unit_test(test_reals),
        cmocka_unit_test(test_ints),
        cmocka_unit_test(test_int_bounds_beyond_64_bits),
        cmocka_unit_test(test_help_text),
        cmocka_unit_test(test_help_without_default),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
