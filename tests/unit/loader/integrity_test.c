/*
 * integrity: what one run saw, the next one compares with; trouble with the cache costs that and
 * nothing else.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "loader/integrity.h"
#include "tests/unit/loader/model_file.h"

static struct model_file model;
static struct lam_file file;
static char cache[96]; /* two folders deep, so that they have to be made */

static int set_up(void **state)
{
    (void)state;
    model_file_make(&model, 96);
    snprintf(cache, sizeof(cache), "%s/a/b", model.dir);
    return lam_file_open(model.path, NULL, &file, NULL) == LAM_OK ? 0 : -1;
}

static void empty_cache(void)
{
    DIR *dir = opendir(cache);
    struct dirent *entry;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    if (dir != NULL)
        closedir(dir);
}

static int tear_down(void **state)
{
    char parent[96];

    (void)state;
    lam_file_close(&file);
    empty_cache();
    rmdir(cache);
    snprintf(parent, sizeof(parent), "%s/a", model.dir);
    rmdir(parent);
    model_file_remove(&model);
    return 0;
}

static struct lam_integrity *open_it(const char *dir)
{
    struct lam_integrity *integrity = NULL;
    struct lam_err err = {0};

    if (lam_integrity_open(&file, dir, &integrity, &err) != LAM_OK)
        fail_msg("%s", err.text);
    return integrity;
}

static struct lam_integrity_counts counts_of(struct lam_integrity *integrity)
{
    struct lam_integrity_counts counts;

    lam_integrity_count(integrity, &counts);
    return counts;
}

/* Checks every chunk; how many were refused. */
static uint64_t check_all(struct lam_integrity *integrity)
{
    uint64_t n_refused = 0;

    for (uint64_t c = 0; c < counts_of(integrity).chunks; c++) {
        uint64_t offset = lam_integrity_chunk(integrity, c).file_offset;

        n_refused += lam_integrity_check(integrity, c, model.bytes + offset, NULL) != LAM_OK;
    }
    return n_refused;
}

static void the_next_run_knows_what_this_one_saw(void **state)
{
    struct lam_integrity *integrity;
    struct lam_record_chunk chunk;
    struct lam_err err = {0};

    (void)state;
    empty_cache();
    integrity = open_it(cache);
    assert_string_equal(lam_integrity_note(integrity), "");
    assert_int_equal(counts_of(integrity).known, 0);
    assert_int_equal(check_all(integrity), 0);
    assert_int_equal(counts_of(integrity).recorded, counts_of(integrity).chunks);
    assert_true(lam_integrity_is_dirty(integrity));
    assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
    assert_false(lam_integrity_is_dirty(integrity));
    lam_integrity_close(integrity);

    integrity = open_it(cache);
    assert_int_equal(counts_of(integrity).known, counts_of(integrity).chunks);
    assert_int_equal(check_all(integrity), 0);
    assert_int_equal(counts_of(integrity).compared, counts_of(integrity).chunks);
    assert_false(lam_integrity_is_dirty(integrity));
    chunk = lam_integrity_chunk(integrity, 3);
    model.bytes[chunk.file_offset + chunk.bytes - 1] ^= 1;
    assert_int_equal(check_all(integrity), 1);
    assert_int_equal(
        lam_integrity_check(integrity, 3, model.bytes + chunk.file_offset, &err), LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, model.path));
    assert_int_equal(counts_of(integrity).crc_failures, 2);
    model.bytes[chunk.file_offset + chunk.bytes - 1] ^= 1;
    lam_integrity_forget(integrity);
    assert_int_equal(counts_of(integrity).known, 0);
    lam_integrity_close(integrity);
}

static void rows_are_read_checked(void **state)
{
    struct lam_integrity *integrity = open_it(NULL);
    const struct lam_extent *rows = &file.manifest.embedding;
    static unsigned char scratch[LAM_RECORD_SMALL_CHUNK_BYTES], out[3 * 16384];
    /* Within a chunk, over two edges, to the end, and where there are no rows. */
    const uint64_t ranges[][2] = {{rows->file_offset, 1}, {rows->file_offset + 16000, 40000},
        {rows->file_offset + rows->bytes - 512, 512}, {0, 4096}};

    (void)state;
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < 4; i++) {
            memset(out, 0, sizeof(out));
            assert_int_equal(
                lam_integrity_read(integrity, ranges[i][0], out, ranges[i][1], scratch, NULL),
                LAM_OK);
            assert_memory_equal(out, model.bytes + ranges[i][0], ranges[i][1]);
        }
    }
    assert_int_equal(counts_of(integrity).recorded, 5);
    assert_int_equal(counts_of(integrity).crc_failures, 0);
    lam_integrity_close(integrity);
}

/* Whether the page cache has all of the range. */
static bool is_cached(uint64_t offset, uint64_t n_bytes)
{
    const uint64_t page = 4096;
    uint64_t begin = offset / page * page, n_pages = (offset + n_bytes - 1 - begin) / page + 1;
    unsigned char seen[16] = {0};
    void *map;
    bool all = true;
    int fd = open(model.path, O_RDONLY);

    assert_true(fd >= 0 && n_pages <= sizeof(seen));
    map = mmap(NULL, n_pages * page, PROT_READ, MAP_SHARED, fd, (off_t)begin);
    close(fd);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, n_pages * page, seen), 0);
    munmap(map, n_pages * page);
    for (uint64_t i = 0; i < n_pages; i++)
        all = all && (seen[i] & 1);
    return all;
}

/* A row of 4 KiB once waited for its turn on the disk, because only the row was announced and the
 * whole chunk is compared. */
static void what_a_row_is_compared_with_is_announced(void **state)
{
    struct lam_integrity *integrity = open_it(NULL);
    const struct lam_extent *rows = &file.manifest.embedding;
    int fd = open(model.path, O_RDONLY);

    (void)state;
    assert_true(fd >= 0);
    fsync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    if (is_cached(rows->file_offset, 2 * LAM_RECORD_SMALL_CHUNK_BYTES)) {
        lam_integrity_close(integrity);
        skip(); /* a file system that lives in memory */
    }
    lam_integrity_expect(integrity, rows->file_offset + LAM_RECORD_SMALL_CHUNK_BYTES - 10, 20);
    for (int i = 0; i < 6000 && !is_cached(rows->file_offset, 2 * LAM_RECORD_SMALL_CHUNK_BYTES);
         i++)
        usleep(10000);
    assert_true(is_cached(rows->file_offset, 2 * LAM_RECORD_SMALL_CHUNK_BYTES));
    lam_integrity_close(integrity);
}

/* Overwrites the record with n bytes of nonsense. */
static void spoil(const char *path, size_t n_bytes)
{
    static const char nonsense[8192] = "LAMSUMS\n";
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(fd >= 0 && n_bytes <= sizeof(nonsense));
    assert_int_equal(write(fd, nonsense, n_bytes), n_bytes);
    close(fd);
}

static void a_spoilt_record_is_begun_anew(void **state)
{
    const size_t sizes[] = {0, 1, 8, 104, 8192};
    char path[160];

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        struct lam_integrity *integrity = open_it(cache);

        snprintf(path, sizeof(path), "%s", lam_integrity_path(integrity));
        lam_integrity_close(integrity);
        spoil(path, sizes[i]);
        integrity = open_it(cache);
        assert_non_null(strstr(lam_integrity_note(integrity), "begun anew"));
        assert_int_equal(check_all(integrity), 0);
        assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
        lam_integrity_close(integrity);
        integrity = open_it(cache);
        assert_string_equal(lam_integrity_note(integrity), "");
        lam_integrity_close(integrity);
    }
    /* What is no plain file is neither read nor waited for; a rename replaces it. */
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    {
        struct lam_integrity *integrity = open_it(cache);

        assert_non_null(strstr(lam_integrity_note(integrity), "begun anew"));
        assert_int_equal(check_all(integrity), 0);
        assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
        lam_integrity_close(integrity);
    }
}

/* The header is not in a chunk: its digest is part of the identity. */
static void another_header_is_refused(void **state)
{
    struct lam_integrity *integrity = open_it(cache);
    struct lam_err err = {0};

    (void)state;
    check_all(integrity);
    assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
    lam_integrity_close(integrity);
    file.digest ^= 1;
    assert_int_equal(lam_integrity_open(&file, cache, &integrity, &err), LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, "header"));
    assert_non_null(strstr(err.text, cache));
    file.digest ^= 1;
}

/* A file that was written to is another file: nothing to compare with, nothing to complain of. */
static void a_written_file_starts_anew(void **state)
{
    struct lam_integrity *integrity = open_it(cache);

    (void)state;
    check_all(integrity);
    assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
    lam_integrity_close(integrity);
    file.parts[0].identity.st_mtim.tv_nsec ^= 1;
    integrity = open_it(cache);
    assert_int_equal(counts_of(integrity).known, 0);
    assert_string_equal(lam_integrity_note(integrity), "");
    lam_integrity_close(integrity);
    file.parts[0].identity.st_mtim.tv_nsec ^= 1;
}

static void no_place_for_the_cache_is_said_once(void **state)
{
    const char *const dirs[] = {NULL, "", "/proc/nowhere/at/all", model.path};

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        struct lam_integrity *integrity = open_it(dirs[i]);

        assert_non_null(strstr(lam_integrity_note(integrity), "in memory only"));
        assert_string_equal(lam_integrity_path(integrity), "");
        assert_int_equal(check_all(integrity), 0);
        assert_int_equal(check_all(integrity), 0);
        assert_int_equal(counts_of(integrity).compared, counts_of(integrity).chunks);
        assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
        lam_integrity_close(integrity);
    }
}

/* The old record stays whole when the new one finds no room. */
static void a_full_disk_keeps_the_old_record(void **state)
{
    struct lam_integrity *integrity;
    struct lam_err err = {0};
    struct stat before, after;

    (void)state;
    empty_cache();
    integrity = open_it(cache);
    check_all(integrity);
    assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
    assert_int_equal(stat(lam_integrity_path(integrity), &before), 0);
    lam_integrity_forget(integrity);
    lam_fault_arm("record write", 1);
    assert_int_equal(lam_integrity_save(integrity, &err), LAM_RESOURCE_EXHAUSTED);
    lam_fault_arm("record write", 0);
    assert_non_null(strstr(err.text, "--integrity-cache"));
    assert_int_equal(stat(lam_integrity_path(integrity), &after), 0);
    assert_int_equal(after.st_ino, before.st_ino);
    /* Said once; checking goes on. */
    assert_int_equal(check_all(integrity), 0);
    assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
    lam_integrity_close(integrity);
    integrity = open_it(cache);
    assert_int_equal(counts_of(integrity).known, counts_of(integrity).chunks);
    lam_integrity_close(integrity);
}

/* Without a descriptor left the record can be neither read nor written. */
static void no_descriptors_are_no_reason_to_stop(void **state)
{
    struct rlimit old, none;
    struct lam_integrity *integrity;
    struct lam_err err = {0};

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    integrity = open_it(cache);
    check_all(integrity);
    assert_int_equal(lam_integrity_save(integrity, &err), LAM_RESOURCE_EXHAUSTED);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_non_null(strstr(lam_integrity_note(integrity), "begun anew"));
    lam_integrity_close(integrity);
}

static void no_memory_is_a_status(void **state)
{
    bool fired = true;

    (void)state;
    for (uint64_t n = 1; fired; n++) {
        struct lam_integrity *integrity = NULL;

        lam_fault_arm("alloc", n);
        if (lam_integrity_open(&file, cache, &integrity, NULL) == LAM_OK) {
            check_all(integrity);
            lam_ignore(lam_integrity_save(integrity, NULL), "either is fine");
        }
        fired = lam_fault_fired();
        lam_fault_arm("alloc", 0);
        lam_integrity_close(integrity);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_run_knows_what_this_one_saw),
        cmocka_unit_test(rows_are_read_checked),
        cmocka_unit_test(what_a_row_is_compared_with_is_announced),
        cmocka_unit_test(a_spoilt_record_is_begun_anew),
        cmocka_unit_test(another_header_is_refused),
        cmocka_unit_test(a_written_file_starts_anew),
        cmocka_unit_test(no_place_for_the_cache_is_said_once),
        cmocka_unit_test(a_full_disk_keeps_the_old_record),
        cmocka_unit_test(no_descriptors_are_no_reason_to_stop),
        cmocka_unit_test(no_memory_is_a_status),
    };

    lam_log_init("integrity_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
