/* verify: how many bytes of a file it tells, with a tied head and with one of its own. What it
 * finds on drives that flip bits is tests/fault/verify_test.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "common/mem.h"
#include "loader/verify.h"
#include "tests/unit/loader/model_file.h"

static void note_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    uint64_t *told_bytes = arg;

    assert_true(done_bytes <= total_bytes);
    *told_bytes = total_bytes;
}

static void verify(bool untied, uint64_t *ret_told, struct lam_manifest *ret_manifest)
{
    struct lam_integrity *integrity = NULL;
    struct lam_verify_result *result = NULL;
    struct model_file model;
    struct lam_file file;
    struct lam_err err = {0};
    uint64_t told_bytes = 0;
    struct lam_verify_config config = {
        .file = &file, .n_threads = 1, .on_progress = note_progress, .arg = &told_bytes};

    model_file_untied = untied;
    model_file_make(&model, 96);
    result = lam_calloc(1, sizeof(*result));
    assert_non_null(result);
    if (lam_file_open(model.path, NULL, &file, &err) != LAM_OK ||
        lam_integrity_open(&file, model.dir, &integrity, &err) != LAM_OK)
        fail_msg("%s", err.text);
    config.integrity = integrity;
    assert_int_equal(lam_verify(&config, result, &err), LAM_OK);
    assert_int_equal(told_bytes, result->total_bytes);
    assert_true(result->total_bytes < model.n_bytes);
    *ret_told = result->total_bytes;
    *ret_manifest = file.manifest;
    lam_free(result);
    lam_integrity_close(integrity);
    lam_file_close(&file);
    model_file_remove(&model);
}

/* Once a model of 94 MiB was "ok, 121 MiB": the embedding's rows are the head's as well. */
static void a_tied_head_is_counted_once(void **state)
{
    struct lam_manifest manifest;
    uint64_t tied, untied;

    (void)state;
    verify(false, &tied, &manifest);
    assert_int_equal(
        tied, manifest.unit_bytes_total + manifest.output_norm.bytes + manifest.rope_freqs.bytes);
    verify(true, &untied, &manifest);
    assert_int_equal(untied, manifest.unit_bytes_total + manifest.embedding.bytes +
                                 manifest.output_norm.bytes + manifest.rope_freqs.bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_tied_head_is_counted_once)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
