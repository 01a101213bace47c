/* facts_test: the file of measured facts: what was written is read, and what is no such file is
 * refused with a reason, whatever it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/facts.h"
#include "common/mem.h"

#define GPU                                                                                        \
    "{\"name\":\"H\",\"driver\":\"550\",\"library\":\"ab\",\"total_bytes\":1000,"                  \
    "\"context_bytes\":10,\"product_bytes_per_second\":{\"BF16\":2.5e12,\"Q4_K\":1e12},"           \
    "\"layer_seconds\":1.2e-5}"
#define WHOLE                                                                                      \
    "{\"version\":1,\"disk_bytes_per_second\":2e9,\"memory_bytes_per_second\":90000000000,"        \
    "\"gpus\":[" GPU "]}"

static struct lam_gpu_facts gpu_of(const char *name, const char *driver, const char *library)
{
    struct lam_gpu_facts gpu = {.total_bytes = 80, .context_bytes = 5, .link_rate = 55.2e9};

    snprintf(gpu.name, sizeof gpu.name, "%s", name);
    snprintf(gpu.driver, sizeof gpu.driver, "%s", driver);
    snprintf(gpu.library, sizeof gpu.library, "%s", library);
    return gpu;
}

static void test_whole(void **state)
{
    struct lam_facts facts;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_facts_parse(WHOLE, strlen(WHOLE), &facts, &err), LAM_OK);
    assert_true(facts.disk_rate == 2e9 && facts.memory_rate == 9e10);
    assert_int_equal(facts.n_gpus, 1);
    assert_int_equal(facts.gpus[0].context_bytes, 10);
    assert_true(facts.gpus[0].link_rate == 0);
    assert_true(facts.gpus[0].product_rates[LAM_BF16] == 2.5e12);
    assert_true(facts.gpus[0].product_rates[LAM_Q4_K] == 1e12);
    assert_true(facts.gpus[0].product_rates[LAM_Q8_0] == 0);
    assert_true(facts.gpus[0].layer_seconds == 1.2e-5);
}

/* No prefix of a good file is a good file, and none is read beyond its end. */
static void test_every_prefix_is_refused(void **state)
{
    struct lam_err err = {0};

    (void)state;
    for (size_t n = 0; n < strlen(WHOLE); n++) {
        struct lam_facts facts = {.disk_rate = 7};
        char *copy = lam_calloc(n + 1, 1); /* for address sanitizer: not much more */
        memcpy(copy, WHOLE, n);
        assert_int_not_equal(lam_facts_parse(copy, n, &facts, &err), LAM_OK);
        assert_true(facts.disk_rate == 7);
        lam_free(copy);
    }
}

static void test_nonsense_is_refused(void **state)
{
    static const struct {
        const char *text;
        const char *word;
    } cases[] = {
        {"[]", "version"},
        {"{}", "version"},
        {"{\"version\":2}", "version"},
        {"{\"version\":1,\"version\":1}", "duplicate"},
        {"{\"version\":1,\"disk_bytes_per_second\":\"fast\"}", "disk_bytes_per_second"},
        {"{\"version\":1,\"disk_bytes_per_second\":-1}", "disk_bytes_per_second"},
        {"{\"version\":1,\"disk_bytes_per_second\":0}", "disk_bytes_per_second"},
        {"{\"version\":1,\"memory_bytes_per_second\":1e300}", "memory_bytes_per_second"},
        {"{\"version\":1,\"memory_bytes_per_second\":1e999}", "line 1"},
        {"{\"version\":1,\"gpus\":{}}", "gpus"},
        {"{\"version\":1,\"gpus\":[1]}", "gpus"},
        {"{\"version\":1,\"gpus\":[{}]}", "name"},
        {"{\"version\":1,\"gpus\":[{\"name\":\"\\u001b[2J\"}]}", "name"},
        {"{\"version\":1,\"gpus\":[{\"name\":\"a\\u0000b\"}]}", "line 1"},
        {"{\"version\":1,\"gpus\":[{\"name\":\"H\",\"driver\":\"5\",\"library\":\"a\","
         "\"total_bytes\":10,\"context_bytes\":10}]}",
            "context_bytes"},
        {"{\"version\":1,\"gpus\":[{\"name\":\"H\",\"driver\":\"5\",\"library\":\"a\","
         "\"total_bytes\":1e3,\"context_bytes\":10}]}",
            "total_bytes"},
        {"{\"version\":1,\"gpus\":[{\"name\":\"H\",\"driver\":\"5\",\"library\":"
         "\"01234567890123456789\",\"total_bytes\":10,\"context_bytes\":1}]}",
            "library"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lam_facts facts;
        struct lam_err err = {0};
        assert_int_equal(lam_facts_parse(cases[i].text, strlen(cases[i].text), &facts, &err),
            LAM_INVALID_ARGUMENT);
        if (!strstr(err.text, cases[i].word))
            fail_msg("%s: %s", cases[i].text, err.text);
    }
}

static void test_too_many_and_too_deep(void **state)
{
    static char text[LAM_FACTS_FILE_BYTES_MAX + 1];
    struct lam_facts facts;
    struct lam_err err = {0};
    size_t n = 0;

    (void)state;
    n = (size_t)snprintf(text, sizeof text, "{\"version\":1,\"gpus\":[" GPU);
    for (unsigned i = 0; i < LAM_FACTS_GPUS_MAX; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "," GPU);
    snprintf(text + n, sizeof text - n, "]}");
    assert_int_equal(lam_facts_parse(text, strlen(text), &facts, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, "gpus"));
    memset(text, '[', sizeof text);
    assert_int_equal(lam_facts_parse(text, 10000, &facts, &err), LAM_INVALID_ARGUMENT);
    assert_int_equal(lam_facts_parse(text, sizeof text, &facts, &err), LAM_INVALID_ARGUMENT);
}

static void test_written_and_read(void **state)
{
    char home[] = "/tmp/facts-test-XXXXXX";
    char path[128];
    struct lam_facts facts = {.disk_rate = 1.9e9};
    struct lam_facts back;
    struct lam_gpu_facts gpu = gpu_of("NVIDIA H100 80GB HBM3", "550.54.15", "00ff");
    struct lam_err err = {0};

    (void)state;
    assert_non_null(mkdtemp(home));
    assert_int_equal(lam_facts_read(home, &back, &err), LAM_OK); /* there is no file */
    assert_int_equal(back.n_gpus, 0);
    assert_int_equal(lam_facts_read(NULL, &back, &err), LAM_OK);
    lam_facts_put(&facts, &gpu);
    assert_int_equal(lam_facts_write(home, &facts, &err), LAM_OK);
    assert_int_equal(lam_facts_read(home, &back, &err), LAM_OK);
    assert_memory_equal(&back, &facts, sizeof facts);
    snprintf(path, sizeof path, "%s/.cache/laminar/facts.json", home);
    assert_int_equal(truncate(path, 20), 0);
    assert_int_equal(lam_facts_read(home, &back, &err), LAM_INVALID_ARGUMENT);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "doctor --measure"));
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/.cache/laminar", home);
    assert_int_equal(rmdir(path), 0);
    snprintf(path, sizeof path, "%s/.cache", home);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(rmdir(home), 0);
}

static void test_an_entry_is_for_gpu_driver_and_library(void **state)
{
    struct lam_facts facts = {0};
    struct lam_gpu_facts a = gpu_of("A", "1", "x");
    struct lam_gpu_facts b = gpu_of("B", "1", "x");

    (void)state;
    lam_facts_put(&facts, &a);
    lam_facts_put(&facts, &b);
    assert_ptr_equal(lam_facts_find(&facts, "B", "1", "x"), &facts.gpus[1]);
    assert_null(lam_facts_find(&facts, "B", "2", "x"));
    assert_null(lam_facts_find(&facts, "B", "1", "y"));
    assert_null(lam_facts_find(&facts, "C", "1", "x"));
    a = gpu_of("A", "2", "x"); /* a new driver: the old measurement is of no more use */
    lam_facts_put(&facts, &a);
    assert_int_equal(facts.n_gpus, 2);
    assert_null(lam_facts_find(&facts, "A", "1", "x"));
    for (unsigned i = 0; i < LAM_FACTS_GPUS_MAX; i++) {
        char name[16];
        snprintf(name, sizeof name, "N%u", i);
        a = gpu_of(name, "1", "x");
        lam_facts_put(&facts, &a);
    }
    assert_int_equal(facts.n_gpus, LAM_FACTS_GPUS_MAX);
    assert_null(lam_facts_find(&facts, "B", "1", "x")); /* the oldest went */
    assert_non_null(lam_facts_find(&facts, "N0", "1", "x"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_every_prefix_is_refused),
        cmocka_unit_test(test_nonsense_is_refused),
        cmocka_unit_test(test_too_many_and_too_deep),
        cmocka_unit_test(test_written_and_read),
        cmocka_unit_test(test_an_entry_is_for_gpu_driver_and_library),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
