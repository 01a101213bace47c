/* file: what is refused, and in which words; what is noticed later. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/buf.h"
#include "common/fault.h"
#include "loader/file.h"
#include "tests/unit/loader/model_file.h"

static struct model_file model;

static int set_up(void **state)
{
    (void)state;
    model_file_make(&model, 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    model_file_remove(&model);
    return 0;
}

static void expect_refused(const char *path, enum lam_status status, const char *word)
{
    struct lam_file file;
    struct lam_err err = {0};

    assert_int_equal(lam_file_open(path, NULL, &file, &err), status);
    if (strstr(err.text, word) == NULL || strstr(err.text, path) == NULL)
        fail_msg("\"%s\" does not say \"%s\" of %s", err.text, word, path);
}

/* A neighbour of the model with these bytes; returns its path. */
static const char *neighbour(const void *bytes, size_t n_bytes)
{
    static char path[64];
    FILE *it;

    snprintf(path, sizeof(path), "%s/other.gguf", model.dir);
    it = fopen(path, "w");
    assert_non_null(it);
    assert_int_equal(fwrite(bytes, 1, n_bytes, it), n_bytes);
    fclose(it);
    return path;
}

static void what_is_no_model_is_refused_in_words(void **state)
{
    static const unsigned char zeros[100000];
    char path[64];

    (void)state;
    expect_refused("/nowhere/model.gguf", LAM_NOT_FOUND, "No such file");
    expect_refused(model.dir, LAM_INVALID_ARGUMENT, "is a directory");
    expect_refused("/dev/null", LAM_INVALID_ARGUMENT, "not a regular file");
    expect_refused(neighbour("", 0), LAM_INVALID_ARGUMENT, "is empty");
    expect_refused(neighbour(zeros, sizeof(zeros)), LAM_INVALID_ARGUMENT, "GGUF");
    expect_refused(neighbour("hello", 5), LAM_INVALID_ARGUMENT, "GGUF");
    snprintf(path, sizeof(path), "%s/pipe", model.dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refused(path, LAM_INVALID_ARGUMENT, "not a regular file");
}

/* Wherever a download stopped: an error, never a model. */
static void a_truncated_model_is_refused(void **state)
{
    (void)state;
    for (uint64_t n = 1; n < model.n_bytes; n = n < 4096 ? n + 97 : n + 700001) {
        struct lam_file file;
        struct lam_err err = {0};

        if (lam_file_open(neighbour(model.bytes, n), NULL, &file, &err) == LAM_OK)
            fail_msg("a file cut to %llu bytes was opened", (unsigned long long)n);
        assert_true(strlen(err.text) > 0);
    }
}

static void the_header_ends_where_tensors_begin(void **state)
{
    struct lam_file file;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(lam_file_open(model.path, NULL, &file, &err), LAM_OK);
    assert_int_equal(file.bytes, model.n_bytes);
    assert_int_equal(file.header_bytes, lam_gguf_tensor(file.gguf, 0)->offset);
    assert_memory_equal(file.header, model.bytes, file.header_bytes);
    assert_int_equal(file.digest, XXH3_64bits(model.bytes, file.header_bytes));
    assert_int_equal(file.manifest.n_units > 12, 1);
    assert_true(file.align >= 512 && (file.align & (file.align - 1)) == 0);
    lam_file_close(&file);
}

/* All bytes in front of the first tensor are the header. A sparse file of some KiB whose tensor
 * stands at its end had as much read into memory as it claimed to have. */
static void a_gap_is_no_header(void **state)
{
    static const char key[] = "general.name", name[] = "t";
    const uint32_t version = 3, text = 8, n_dims = 1, f32 = 0;
    const uint64_t n_tensors = 1, n_keys = 1, key_bytes = sizeof(key) - 1, name_bytes = 1,
                   no_bytes = 0, n_weights = 32, gap = (uint64_t)65 << 20;
    struct lam_buf bytes = LAM_BUF(4096);
    const char *path;

    (void)state;
    assert_true(lam_buf_append(&bytes, "GGUF", 4));
    assert_true(lam_buf_append(&bytes, &version, sizeof(version)));
    assert_true(lam_buf_append(&bytes, &n_tensors, sizeof(n_tensors)));
    assert_true(lam_buf_append(&bytes, &n_keys, sizeof(n_keys)));
    assert_true(lam_buf_append(&bytes, &key_bytes, sizeof(key_bytes)));
    assert_true(lam_buf_append(&bytes, key, sizeof(key) - 1));
    assert_true(lam_buf_append(&bytes, &text, sizeof(text)));
    assert_true(lam_buf_append(&bytes, &no_bytes, sizeof(no_bytes)));
    assert_true(lam_buf_append(&bytes, &name_bytes, sizeof(name_bytes)));
    assert_true(lam_buf_append(&bytes, name, sizeof(name) - 1));
    assert_true(lam_buf_append(&bytes, &n_dims, sizeof(n_dims)));
    assert_true(lam_buf_append(&bytes, &n_weights, sizeof(n_weights)));
    assert_true(lam_buf_append(&bytes, &f32, sizeof(f32)));
    assert_true(lam_buf_append(&bytes, &gap, sizeof(gap)));
    path = neighbour(bytes.data, bytes.size);
    assert_int_equal(truncate(path, (off_t)(gap + 4096)), 0);
    expect_refused(path, LAM_INVALID_ARGUMENT, "at most 64 MiB");
    unlink(path);
    lam_buf_done(&bytes);
}

static void a_change_is_noticed_and_a_new_name_is_not(void **state)
{
    char moved[80];
    struct lam_file file;
    struct lam_err err = {0};
    unsigned char byte;

    (void)state;
    assert_int_equal(lam_file_open(model.path, NULL, &file, &err), LAM_OK);
    assert_int_equal(lam_file_check(&file, &err), LAM_OK);
    assert_int_equal(lam_file_read(&file, model.n_bytes - 1, &byte, 1, &err), LAM_OK);
    assert_int_equal(byte, model.bytes[model.n_bytes - 1]);
    assert_int_equal(truncate(model.path, (off_t)model.n_bytes - 1), 0);
    assert_int_equal(lam_file_check(&file, &err), LAM_DATA_LOSS);
    assert_int_equal(lam_file_read(&file, model.n_bytes - 1, &byte, 1, &err), LAM_DATA_LOSS);
    lam_file_close(&file);
    snprintf(moved, sizeof(moved), "%s.gone", model.path);
    assert_int_equal(rename(model.path, moved), 0);
    expect_refused(model.path, LAM_NOT_FOUND, "No such file");
    neighbour(model.bytes, model.n_bytes);
    snprintf(moved, sizeof(moved), "%s/other.gguf", model.dir);
    assert_int_equal(rename(moved, model.path), 0);
}

static void no_memory_is_a_status(void **state)
{
    uint64_t n = 0;
    bool fired;

    (void)state;
    do {
        struct lam_file file;
        struct lam_err err = {0};

        lam_fault_arm("alloc", ++n);
        if (lam_file_open(model.path, NULL, &file, &err) == LAM_OK)
            lam_file_close(&file);
        fired = lam_fault_fired();
    } while (fired);
    lam_fault_arm("alloc", 0);
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_model_is_refused_in_words),
        cmocka_unit_test(a_truncated_model_is_refused),
        cmocka_unit_test(the_header_ends_where_tensors_begin),
        cmocka_unit_test(a_gap_is_no_header),
        cmocka_unit_test(a_change_is_noticed_and_a_new_name_is_not),
        cmocka_unit_test(no_memory_is_a_status),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
