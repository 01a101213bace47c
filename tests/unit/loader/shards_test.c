/*
 * shards: a model in several files gives the bytes of the model in one, by both engines, in any
 * pool, cut anywhere, on any drives; and what is no model in several files is refused in words.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/size.h"
#include "loader/file.h"
#include "loader/integrity.h"
#include "loader/reader.h"
#include "tests/unit/loader/live_loader.h"
#include "tests/unit/loader/shard_files.h"

#define TENSORS_OF_LAYER 9u

static struct lam_gguf *gguf; /* of the whole */
static struct shard_files shards;
static char other_dir[32]; /* on another drive, if the machine has one */

/* Three shards, cut at these tensors; beside the whole model. */
static void split(uint64_t first, uint64_t second, const struct shard_lie *lie)
{
    const char *dirs[] = {live_model.dir, live_model.dir, live_model.dir};

    shards.n = 3;
    shards.firsts[0] = 0;
    shards.firsts[1] = first;
    shards.firsts[2] = second;
    shards.firsts[3] = lam_gguf_n_tensors(gguf);
    shard_files_write(&shards, &live_model, gguf, dirs, lie);
}

static void open_shards(struct lam_file *file)
{
    struct lam_err err = {0};

    if (lam_file_open(shards.paths[0], NULL, file, &err) != LAM_OK)
        fail_msg("%s", err.text);
}

/* ---- bytes ---- */

/* Each tensor of the unit, against the model in one file. */
static void check_unit(
    const struct pool_worker *worker, const struct lam_file *file, const struct pool_event *event)
{
    const struct lam_unit *unit = &file->manifest.units[event->unit];
    const struct lam_unit *same = &live_manifest.units[event->unit];

    assert_int_equal(unit->n_tensors, same->n_tensors);
    for (uint32_t t = 0; t < unit->n_tensors; t++)
        assert_memory_equal(worker->pool + event->pool_offset + unit->tensors[t].offset,
            live_model.bytes + same->file_offset + same->tensors[t].offset, unit->tensors[t].bytes);
}

static void walk(struct pool_worker *worker, const struct lam_file *file, uint32_t n_events)
{
    pool_worker_credit(worker, 3);
    for (uint32_t i = 0; i < n_events; i++) {
        struct pool_event event;
        struct lam_err err = {0};

        if (pool_worker_next(worker, &event, &err) != LAM_OK)
            fail_msg("%s", err.text);
        assert_false(event.fault);
        check_unit(worker, file, &event);
        if (event.kept)
            continue;
        pool_worker_release(worker, event.unit, event.generation);
        pool_worker_credit(worker, 1);
    }
}

/* Rows, of which the embedding has them in any part, and all of the header. */
static void check_rows(struct pool_worker *worker, const struct lam_file *file)
{
    const struct lam_extent *rows = &file->manifest.embedding;
    uint64_t offsets[3] = {rows->file_offset, rows->file_offset + 77 * rows->row_bytes,
        rows->file_offset + rows->bytes - rows->row_bytes};
    Laminar__V1__ReadExtentResponse *response;
    struct lam_err err = {0};

    assert_int_equal(
        pool_worker_extent(worker, offsets, 3, rows->row_bytes, &response, &err), LAM_OK);
    for (uint32_t i = 0; i < 3; i++)
        assert_memory_equal(response->data.data + i * rows->row_bytes,
            live_model.bytes + live_manifest.embedding.file_offset +
                (offsets[i] - rows->file_offset),
            rows->row_bytes);
}

static void serve(enum lam_reader_choice engine, uint32_t percent)
{
    char text[32];
    struct pool_worker worker;
    struct lam_loader *loader;
    struct lam_file file;

    open_shards(&file);
    live_path = shards.paths[0];
    loader = live_start(live_share(percent, text), engine);
    live_path = live_model.path;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    check_rows(&worker, &file);
    /* In a large pool each unit comes once. */
    walk(&worker, &file, percent > 100 ? file.manifest.n_units : 5 * file.manifest.n_units / 2);
    pool_worker_disconnect(&worker);
    lam_loader_destroy(loader);
    lam_file_close(&file);
}

static void every_byte_of_every_unit_is_that_of_the_whole(void **state)
{
    /* Between layers, through a layer, through two neighbours, a first shard without tensors. */
    const uint64_t cuts[][2] = {
        {2 + TENSORS_OF_LAYER, 2 + 4 * TENSORS_OF_LAYER}, {14, 60}, {17, 22}, {0, 31}};

    (void)state;
    for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
        split(cuts[i][0], cuts[i][1], NULL);
        serve(LAM_READER_AUTO, 25);
        serve(LAM_READER_PREAD, 25);
        serve(LAM_READER_AUTO, 110);
    }
}

/* Wherever it is cut: the bytes between shards are zeros for whoever reads them. */
static void every_way_of_reading_gives_the_same(void **state)
{
    (void)state;
    for (uint64_t cut = 1; cut < lam_gguf_n_tensors(gguf) - 1; cut += 11) {
        unsigned char *ways[2];
        struct lam_file file;

        split(cut, cut + 1, NULL);
        open_shards(&file);
        for (int w = 0; w < 2; w++)
            ways[w] = lam_aligned_calloc(file.align, lam_align_up(file.bytes, file.align));
        assert_int_equal(lam_file_read(&file, 0, ways[0], file.bytes, NULL), LAM_OK);
        assert_int_equal(lam_file_read_uncached(&file, 0, ways[1], file.bytes, NULL), LAM_OK);
        assert_memory_equal(ways[0], ways[1], file.bytes);
        assert_memory_equal(ways[0], file.header, file.header_bytes);
        for (uint64_t t = 0; t < lam_gguf_n_tensors(gguf); t++) {
            const struct lam_gguf_tensor *tensor = lam_gguf_tensor(file.gguf, t);
            const struct lam_gguf_tensor *same = lam_gguf_tensor(gguf, t);

            assert_int_equal(tensor->bytes, same->bytes);
            assert_memory_equal(
                ways[0] + tensor->offset, live_model.bytes + same->offset, same->bytes);
        }
        for (uint32_t p = 0; p + 1 < file.n_parts; p++) {
            const struct lam_span *span = &file.spans[p];

            for (uint64_t at = span->begin + span->bytes; at < span[1].begin; at++)
                assert_int_equal(ways[0][at], 0);
        }
        for (int w = 0; w < 2; w++)
            lam_free(ways[w]);
        lam_file_close(&file);
    }
}

/* ---- places ---- */

static void ignore_end(void *arg, const struct lam_load_end *end)
{
    (void)arg;
    (void)end;
}

static uint32_t count_drives(const struct lam_file *file, enum lam_reader_choice choice)
{
    struct lam_region region = {.bytes = 4 * file->align};
    struct lam_reader_config config = {.file = file,
        .pool_base = lam_aligned_calloc(file->align, region.bytes),
        .regions = &region,
        .n_regions = 1,
        .choice = choice,
        .on_done = ignore_end};
    struct lam_reader *reader = NULL;
    struct lam_reader_info info;

    assert_int_equal(lam_reader_create(&config, &reader, NULL), LAM_OK);
    lam_reader_info(reader, &info);
    lam_reader_destroy(reader);
    lam_free(config.pool_base);
    return info.n_drives;
}

/* A shard on another drive, named by its directory or linked beside the first: each drive is read
 * by a ring of its own. */
static void shards_may_lie_on_several_drives(void **state)
{
    const char *dirs[] = {live_model.dir, other_dir, live_model.dir};
    const char *shard_dirs[] = {"/nowhere", other_dir};
    struct lam_file_dirs places = {.items = shard_dirs, .n = 2};
    struct lam_file file;
    struct lam_err err = {0};
    char beside[96];
    uint32_t n_drives;

    (void)state;
    split(20, 60, NULL);
    assert_int_equal(unlink(shards.paths[1]), 0);
    assert_int_equal(lam_file_open(shards.paths[0], NULL, &file, &err), LAM_NOT_FOUND);
    assert_non_null(strstr(err.text, "shard 2 of 3, model-00002-of-00003.gguf"));
    assert_non_null(strstr(err.text, "--shards"));
    shard_files_write(&shards, &live_model, gguf, dirs, NULL);
    assert_int_equal(lam_file_open(shards.paths[0], &places, &file, &err), LAM_OK);
    assert_string_equal(file.parts[1].path, shards.paths[1]);
    n_drives = file.parts[0].identity.st_dev == file.parts[1].identity.st_dev ? 1 : 2;
    if (n_drives == 1)
        print_message("not run with two drives: /dev/shm is on that of /tmp\n");
    assert_int_equal(count_drives(&file, LAM_READER_AUTO), n_drives);
    assert_int_equal(count_drives(&file, LAM_READER_PREAD), n_drives);
    lam_file_close(&file);

    snprintf(beside, sizeof(beside), "%s/model-00002-of-00003.gguf", live_model.dir);
    assert_int_equal(symlink(shards.paths[1], beside), 0);
    serve(LAM_READER_AUTO, 25);
    serve(LAM_READER_PREAD, 25);
    assert_int_equal(unlink(beside), 0);
}

static void mirrors_have_every_shard(void **state)
{
    const char *dirs[] = {other_dir, other_dir, other_dir};
    const char *mirror = other_dir;

    (void)state;
    split(20, 60, NULL);
    live_options.mirrors = &mirror;
    live_options.n_mirrors = 1;
    shard_files_write(&shards, &live_model, gguf, dirs, NULL);
    split(20, 60, NULL); /* the paths of these */
    serve(LAM_READER_AUTO, 25);
    live_options.n_mirrors = 0;
}

/* ---- change ---- */

static uint64_t n_known(const struct lam_file *file, const char *cache)
{
    struct lam_integrity *integrity = NULL;
    struct lam_integrity_counts counts;
    unsigned char *scratch = lam_calloc(1, LAM_RECORD_SMALL_CHUNK_BYTES);
    unsigned char row[64];
    uint64_t known;

    assert_int_equal(lam_integrity_open(file, cache, &integrity, NULL), LAM_OK);
    lam_integrity_count(integrity, &counts);
    known = counts.known;
    assert_int_equal(lam_integrity_read(integrity, file->manifest.output_norm.file_offset, row,
                         sizeof(row), scratch, NULL),
        LAM_OK);
    assert_int_equal(lam_integrity_save(integrity, NULL), LAM_OK);
    lam_integrity_close(integrity);
    lam_free(scratch);
    return known;
}

/* A change of any shard is a change of the model, now and for the record. */
static void a_change_of_any_shard_is_noticed(void **state)
{
    char cache[64];

    (void)state;
    snprintf(cache, sizeof(cache), "%s/cache", other_dir);
    split(20, 60, NULL);
    for (uint32_t i = 0; i < shards.n; i++) {
        const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_NOW}};
        struct lam_file file;
        struct lam_err err = {0};

        open_shards(&file);
        n_known(&file, cache);
        assert_true(n_known(&file, cache) > 0);
        assert_int_equal(lam_file_check(&file, &err), LAM_OK);
        usleep(20000); /* more than a tick of the clock that stamps files */
        assert_int_equal(utimensat(AT_FDCWD, shards.paths[i], times, 0), 0);
        assert_int_equal(lam_file_check(&file, &err), LAM_DATA_LOSS);
        assert_non_null(strstr(err.text, shards.paths[i]));
        lam_file_close(&file);
        open_shards(&file);
        assert_int_equal(n_known(&file, cache), 0);
        lam_file_close(&file);
    }
}

/* ---- what is none ---- */

/* Only that one, with other tensors. */
static void write_shard(uint32_t i, uint64_t first, uint64_t end)
{
    const char *dirs[] = {other_dir, other_dir, other_dir};
    struct shard_files others = shards;
    char command[256];

    others.firsts[i] = first;
    others.firsts[i + 1] = end;
    shard_files_write(&others, &live_model, gguf, dirs, NULL);
    snprintf(command, sizeof(command), "mv %s %s", others.paths[i], shards.paths[i]);
    assert_int_equal(system(command), 0);
}

static void expect_refused(const char *path, const char *text)
{
    struct lam_file file;
    struct lam_err err = {0};
    enum lam_status status = lam_file_open(path, NULL, &file, &err);

    assert_int_not_equal(status, LAM_OK);
    if (strstr(err.text, text) == NULL)
        fail_msg("%s\nhas no: %s", err.text, text);
}

static void what_does_not_belong_together_is_refused(void **state)
{
    const int32_t n = (int32_t)lam_gguf_n_tensors(gguf);
    const struct {
        struct shard_lie lie;
        const char *text;
    } cases[] = {
        {{.shard = 1, .index = 1, .count = 4, .n_tensors = n}, "shard 2 of 4"},
        {{.shard = 1, .index = 2, .count = 3, .n_tensors = n}, "shard 3 of 3"},
        {{.shard = 2, .index = 2, .count = 3, .n_tensors = n + 1}, "do not belong together"},
        {{.shard = 2, .index = 9, .count = 3, .n_tensors = n}, "shard 10 of 3"},
        {{.shard = 0, .index = 0, .count = 4, .n_tensors = n}, "-00001-of-00004.gguf"},
        {{.shard = 0, .index = 1, .count = 3, .n_tensors = n}, "shard 2 of 3"},
        {{.shard = 0, .index = 0, .count = 60000, .n_tensors = n}, "at most 512"},
        {{.shard = 0, .index = 0, .count = 1, .n_tensors = n}, "no tensor"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        split(20, 60, &cases[i].lie);
        expect_refused(shards.paths[0], cases[i].text);
    }
    split(20, 60, NULL);
    expect_refused(shards.paths[1], "give the path of the first");
    /* The second shard's file once more, under the third's name. */
    assert_int_equal(unlink(shards.paths[2]), 0);
    assert_int_equal(link(shards.paths[1], shards.paths[2]), 0);
    expect_refused(shards.paths[0], "named as shard 3 of 3 says inside that it is shard 2 of 3");
    assert_int_equal(unlink(shards.paths[2]), 0);
    /* Tensor 20 is in two shards, tensor 60 in none. */
    split(20, 60, NULL);
    write_shard(0, 0, 21);
    write_shard(2, 61, lam_gguf_n_tensors(gguf));
    expect_refused(shards.paths[0], "stands there twice");
    write_shard(2, 60, lam_gguf_n_tensors(gguf));
    expect_refused(shards.paths[0], "do not belong together");
}

static void no_memory_is_a_status(void **state)
{
    uint64_t n = 0;
    bool fired;

    (void)state;
    split(20, 60, NULL);
    do {
        struct lam_file file;

        lam_fault_arm("alloc", ++n);
        if (lam_file_open(shards.paths[0], NULL, &file, NULL) == LAM_OK)
            lam_file_close(&file);
        fired = lam_fault_fired();
    } while (fired);
    lam_fault_arm("alloc", 0);
    assert_true(n > 20);
}

static int set_up(void **state)
{
    snprintf(other_dir, sizeof(other_dir), "/dev/shm/lam-shards-XXXXXX");
    if (live_set_up(state) != 0 || mkdtemp(other_dir) == NULL)
        return -1;
    return lam_gguf_parse(live_model.bytes, live_model.n_bytes, live_model.n_bytes, &gguf, NULL) ==
                   LAM_OK
               ? 0
               : -1;
}

static int tear_down(void **state)
{
    char command[64];

    lam_gguf_destroy(gguf);
    snprintf(command, sizeof(command), "rm -r %s", other_dir);
    return live_tear_down(state) | system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_byte_of_every_unit_is_that_of_the_whole),
        cmocka_unit_test(every_way_of_reading_gives_the_same),
        cmocka_unit_test(shards_may_lie_on_several_drives),
        cmocka_unit_test(mirrors_have_every_shard),
        cmocka_unit_test(a_change_of_any_shard_is_noticed),
        cmocka_unit_test(what_does_not_belong_together_is_refused),
        cmocka_unit_test(no_memory_is_a_status),
    };

    lam_log_init("shards_test", LAM_LOG_OFF);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
