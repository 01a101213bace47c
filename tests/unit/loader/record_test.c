/* record: where chunks lie, what a file of sums says, and which files are not believed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <xxhash.h>

#include "common/fault.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/record.h"

static const struct lam_record_identity identity = {
    .device = 1, .inode = 2, .bytes = 3, .mtime_s = 4, .mtime_ns = 5, .ctime_s = 6, .digest = 7};

/* Two units, of one chunk and of three, and an embedding of a little more than two small ones. */
static struct lam_unit units[] = {
    {.file_offset = 1000, .bytes = 4 * LAM_MIB},
    {.file_offset = 5 * LAM_MIB + 7, .bytes = 8 * LAM_MIB + 1},
};
static const struct lam_manifest manifest = {.n_units = 2,
    .units = units,
    .embedding = {.file_offset = 50 * LAM_MIB, .bytes = 32 * LAM_KIB + 9},
    .output_norm = {.file_offset = 60 * LAM_MIB, .bytes = 100}};

static struct lam_record make(void)
{
    struct lam_record record;

    assert_int_equal(lam_record_init(&identity, &manifest, &record, NULL), LAM_OK);
    return record;
}

static void chunks_cover_every_extent_once(void **state)
{
    struct lam_record record = make();
    uint64_t first, n;

    (void)state;
    assert_int_equal(record.n_chunks, 1 + 3 + 3 + 1);
    lam_record_chunks_of(&record, 1, &first, &n);
    assert_int_equal(first, 1);
    assert_int_equal(n, 3);
    for (uint32_t e = 0; e < record.n_extents; e++) {
        uint64_t at = record.extents[e].file_offset;

        lam_record_chunks_of(&record, e, &first, &n);
        for (uint64_t c = first; c < first + n; c++) {
            struct lam_record_chunk chunk = lam_record_chunk(&record, c);

            assert_int_equal(chunk.file_offset, at);
            assert_in_range(chunk.bytes, 1, record.extents[e].chunk_bytes);
            at += chunk.bytes;
        }
        assert_int_equal(at, record.extents[e].file_offset + record.extents[e].bytes);
    }
    lam_record_done(&record);
}

static void rows_are_found_by_their_offset(void **state)
{
    struct lam_record record = make();
    uint64_t chunk = 0;

    (void)state;
    assert_true(lam_record_find_small(&record, 50 * LAM_MIB, &chunk));
    assert_int_equal(chunk, 4);
    assert_true(lam_record_find_small(&record, 50 * LAM_MIB + 32 * LAM_KIB + 8, &chunk));
    assert_int_equal(chunk, 6);
    assert_true(lam_record_find_small(&record, 60 * LAM_MIB + 99, &chunk));
    assert_int_equal(chunk, 7);
    assert_false(lam_record_find_small(&record, 50 * LAM_MIB + 32 * LAM_KIB + 9, &chunk));
    assert_false(lam_record_find_small(&record, 50 * LAM_MIB - 1, &chunk));
    assert_false(lam_record_find_small(&record, 1000, &chunk)); /* a unit's, not rows */
    lam_record_done(&record);
}

/* A record of some chunks as a file. */
static struct lam_buf make_file(void)
{
    struct lam_record record = make();
    struct lam_buf buf = LAM_BUF(1 << 20);

    for (uint64_t c = 0; c < record.n_chunks; c += 2)
        lam_record_set(&record, c, 0x1234567890abcdefull * (c + 1));
    assert_true(lam_record_format(&record, &buf));
    assert_int_equal(buf.size, lam_record_file_bytes(&record));
    lam_record_done(&record);
    return buf;
}

/* After a change of the file: as if its own checksum had been made for it. */
static void seal(struct lam_buf *buf)
{
    uint64_t sum = XXH3_64bits(buf->data, buf->size - 8);

    memcpy(buf->data + buf->size - 8, &sum, 8);
}

static void what_is_written_is_read(void **state)
{
    struct lam_buf buf = make_file();
    struct lam_record record = make();

    (void)state;
    assert_int_equal(lam_record_parse(&record, buf.data, buf.size, NULL), LAM_OK);
    assert_int_equal(record.n_known, 4);
    for (uint64_t c = 0; c < record.n_chunks; c++) {
        assert_int_equal(lam_record_knows(&record, c), c % 2 == 0);
        if (c % 2 == 0)
            assert_true(record.sums[c] == 0x1234567890abcdefull * (c + 1));
    }
    lam_record_forget(&record);
    assert_int_equal(record.n_known, 0);
    assert_false(lam_record_knows(&record, 0));
    lam_record_done(&record);
    lam_buf_done(&buf);
}

/* Every bit of the file flipped, every length: damaged, and the record as it was. */
static void damage_is_noticed(void **state)
{
    struct lam_buf buf = make_file();
    struct lam_record record = make();

    (void)state;
    for (size_t bit = 0; bit < buf.size * 8; bit++) {
        buf.data[bit / 8] = (char)(buf.data[bit / 8] ^ (1 << bit % 8));
        assert_int_equal(lam_record_parse(&record, buf.data, buf.size, NULL), LAM_INVALID_ARGUMENT);
        buf.data[bit / 8] = (char)(buf.data[bit / 8] ^ (1 << bit % 8));
    }
    for (size_t n = 0; n < buf.size; n++)
        assert_int_equal(lam_record_parse(&record, buf.data, n, NULL), LAM_INVALID_ARGUMENT);
    assert_int_equal(record.n_known, 0);
    lam_record_done(&record);
    lam_buf_done(&buf);
}

/* Word `word` of a file that is otherwise whole. */
static enum lam_status parse_with(size_t word, uint64_t value)
{
    struct lam_buf buf = make_file();
    struct lam_record record = make();
    struct lam_err err = {0};
    enum lam_status status;

    memcpy(buf.data + word * 8, &value, 8);
    seal(&buf);
    status = lam_record_parse(&record, buf.data, buf.size, &err);
    assert_int_equal(record.n_known, status == LAM_OK ? 4 : 0);
    if (status != LAM_OK)
        assert_true(strlen(err.text) > 0);
    lam_record_done(&record);
    lam_buf_done(&buf);
    return status;
}

static void records_of_other_bytes_do_not_count(void **state)
{
    (void)state;
    assert_int_equal(parse_with(1, 1), LAM_OK); /* the version that it has */
    assert_int_equal(parse_with(1, 2), LAM_NOT_FOUND);
    for (size_t word = 2; word < 9; word++) /* device to ctime */
        assert_int_equal(parse_with(word, 99), LAM_NOT_FOUND);
    assert_int_equal(parse_with(9, 99), LAM_DATA_LOSS);  /* the digest alone */
    assert_int_equal(parse_with(10, 99), LAM_NOT_FOUND); /* another layout */
    assert_int_equal(parse_with(11, UINT64_MAX), LAM_NOT_FOUND);
    assert_int_equal(parse_with(12, 0x155), LAM_INVALID_ARGUMENT); /* chunk 8 of 8 */
}

static void no_memory_is_a_status(void **state)
{
    bool fired = true;

    (void)state;
    for (uint64_t n = 1; fired; n++) {
        struct lam_record record = {0};

        lam_fault_arm("alloc", n);
        if (lam_record_init(&identity, &manifest, &record, NULL) == LAM_OK)
            lam_record_done(&record);
        fired = lam_fault_fired();
        lam_fault_arm("alloc", 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_cover_every_extent_once),
        cmocka_unit_test(rows_are_found_by_their_offset),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(damage_is_noticed),
        cmocka_unit_test(records_of_other_bytes_do_not_count),
        cmocka_unit_test(no_memory_is_a_status),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
