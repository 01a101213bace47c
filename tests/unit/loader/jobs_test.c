/* jobs: a drive answers as a drive may, in any order; every byte is asked for until it is there. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "common/mem.h"
#include "loader/jobs.h"

#define ALIGN 4096u
#define FILE_BYTES 1000001u
#define POOL_BYTES ((uint64_t)2 << 20)

static unsigned char file[FILE_BYTES];
static unsigned char pool[POOL_BYTES];
static struct lam_region regions[2] = {
    {.pool_offset = 0, .bytes = 300 * ALIGN},
    {.pool_offset = 300 * ALIGN, .bytes = POOL_BYTES - 300 * ALIGN},
};
static struct lam_jobs jobs;

static void init(uint64_t request_bytes, uint32_t depth)
{
    static const struct lam_span span = {.bytes = FILE_BYTES};
    static const char *const path = "model.gguf";
    static const uint32_t copies = 1;
    struct lam_jobs_config config = {.spans = &span,
        .paths = &path,
        .n_parts = 1,
        .align = ALIGN,
        .regions = regions,
        .n_regions = 2,
        .n_copies = 1,
        .n_drives = 1,
        .drives = {{.request_bytes = request_bytes, .depth = depth, .copies = &copies}}};

    for (uint32_t i = 0; i < FILE_BYTES; i++)
        file[i] = (unsigned char)(i * 2654435761u >> 13);
    memset(pool, 0, sizeof(pool));
    lam_jobs_init(&jobs, &config);
}

/* The model on drive 0 and a mirror of it on drive 1, one request each. */
static void init_mirrored(void)
{
    static const uint32_t copies[] = {1, 2};
    struct lam_jobs_config config;

    init(ALIGN, 1);
    config = jobs.config;
    config.n_copies = config.n_drives = 2;
    for (uint32_t d = 0; d < 2; d++)
        config.drives[d] =
            (struct lam_jobs_drive){.request_bytes = ALIGN, .depth = 1, .copies = &copies[d]};
    lam_jobs_init(&jobs, &config);
}

static void add(uint32_t place, uint64_t file_offset, uint64_t bytes, uint64_t pool_offset)
{
    struct lam_load load = {.place = place,
        .generation = place + 100,
        .window = {.file_offset = file_offset, .bytes = bytes},
        .pool_offset = pool_offset};

    lam_jobs_add(&jobs, &load);
}

static struct lam_io *next(void)
{
    return lam_jobs_next(&jobs, 0, 0);
}

static bool answer(struct lam_io *io, int64_t result, struct lam_load_end *ret_end)
{
    return lam_jobs_answer(&jobs, io, result, ret_end);
}

/* What an honest drive brings: at most `limit` bytes, and none behind the end of the file. */
static int64_t read_io(const struct lam_io *io, uint64_t limit)
{
    uint64_t n = io->piece.file_offset < FILE_BYTES ? FILE_BYTES - io->piece.file_offset : 0;

    assert_int_equal(io->piece.file_offset % ALIGN, 0);
    assert_int_equal(io->piece.pool_offset % ALIGN, 0);
    assert_int_equal(io->piece.bytes % ALIGN, 0);
    assert_true(io->piece.pool_offset + io->piece.bytes <=
                regions[io->region].pool_offset + regions[io->region].bytes);
    assert_true(io->piece.pool_offset >= regions[io->region].pool_offset);
    n = n < io->piece.bytes ? n : io->piece.bytes;
    n = n < limit ? n : limit;
    memcpy(pool + io->piece.pool_offset, file + io->piece.file_offset, n);
    return (int64_t)n;
}

static void reads_of_random_length_in_random_order_bring_every_byte(void **state)
{
    uint64_t rng = 7;

    (void)state;
    for (uint32_t run = 0; run < 200; run++) {
        struct lam_io *under_way[16];
        uint32_t n = 0, n_ends = 0;
        uint32_t depth = 1 + run % 16;

        init(ALIGN * (1 + run % 64), depth);
        add(0, 0, 100 * ALIGN, 0);
        add(1, 17 * ALIGN, 201 * ALIGN, 250 * ALIGN); /* over the edge of the region */
        add(2, 200 * ALIGN, 45 * ALIGN, 100 * ALIGN); /* over the end of the file */
        while (n_ends < 3) {
            struct lam_load_end end;
            struct lam_io *io;
            uint32_t pick;
            int64_t result;

            while ((io = next()) != NULL)
                under_way[n++] = io;
            assert_in_range(n, 1, depth);
            rng = rng * 6364136223846793005ull + 1442695040888963407ull;
            pick = (uint32_t)(rng >> 40) % n;
            io = under_way[pick];
            under_way[pick] = under_way[--n];
            switch (rng >> 33 & 7) {
            case 0:
                result = -EINTR;
                break;
            case 1:
                result = -EAGAIN;
                break;
            case 2:
                result = read_io(io, ALIGN + (rng >> 50));
                break;
            default:
                result = read_io(io, UINT64_MAX);
            }
            if (answer(io, result, &end)) {
                assert_int_equal(end.status, LAM_OK);
                assert_int_equal(end.generation, end.place + 100);
                n_ends++;
            }
        }
        assert_int_equal(n, 0);
        assert_memory_equal(pool, file, 100 * ALIGN);
        assert_memory_equal(pool + 250 * ALIGN, file + 17 * ALIGN, 201 * ALIGN);
        assert_memory_equal(pool + 100 * ALIGN, file + 200 * ALIGN, FILE_BYTES - 200 * ALIGN);
    }
}

/* One request under way; answers it with `result` until the job ends or asks no more. */
static enum lam_status answer_all(int64_t result, uint32_t *ret_asked, struct lam_err *err)
{
    struct lam_load_end end;
    struct lam_io *io;

    *ret_asked = 0;
    while ((io = next()) != NULL) {
        ++*ret_asked;
        if (answer(io, result, &end)) {
            *err = end.err;
            return end.status;
        }
    }
    fail_msg("the job never ended");
    return LAM_OK;
}

static void a_failing_drive_is_asked_four_times(void **state)
{
    struct lam_err err;
    uint32_t asked;

    (void)state;
    init(ALIGN, 1);
    add(0, 0, ALIGN, 0);
    assert_int_equal(answer_all(-EIO, &asked, &err), LAM_UNAVAILABLE);
    assert_int_equal(asked, 1 + LAM_JOBS_TRIES);
    assert_non_null(strstr(err.text, "model.gguf"));
    assert_non_null(strstr(err.text, "Input/output error"));
    add(0, 0, ALIGN, 0);
    assert_int_equal(answer_all(-EFAULT, &asked, &err), LAM_UNAVAILABLE);
    assert_int_equal(asked, 1);
}

static void a_file_that_got_shorter_is_data_loss(void **state)
{
    struct lam_err err;
    uint32_t asked;

    (void)state;
    init(ALIGN, 1);
    add(0, 0, ALIGN, 0);
    assert_int_equal(answer_all(0, &asked, &err), LAM_DATA_LOSS);
    add(0, 0, ALIGN, 0);
    assert_int_equal(answer_all(100, &asked, &err), LAM_DATA_LOSS);
    assert_non_null(strstr(err.text, "restore"));
}

/* A job must not be over while any of its requests is under way: its bytes may still land. */
static void a_failed_job_waits_for_its_last_answer(void **state)
{
    struct lam_load_end end;
    struct lam_io *io[4];

    (void)state;
    init(ALIGN, 4);
    add(5, 0, 100 * ALIGN, 0);
    add(6, 0, ALIGN, 100 * ALIGN);
    for (int i = 0; i < 4; i++)
        io[i] = next();
    assert_null(next());
    assert_false(answer(io[2], -EFAULT, &end));
    /* Nothing more is asked for it: the next request is of the next job. */
    io[2] = next();
    assert_int_equal(io[2]->piece.pool_offset, 100 * ALIGN);
    assert_false(answer(io[0], -EIO, &end));
    assert_false(answer(io[1], (int64_t)io[1]->piece.bytes, &end));
    assert_true(answer(io[3], read_io(io[3], UINT64_MAX), &end));
    assert_int_equal(end.place, 5);
    assert_int_equal(end.status, LAM_UNAVAILABLE);
    assert_true(answer(io[2], read_io(io[2], UINT64_MAX), &end));
    assert_int_equal(end.place, 6);
    assert_int_equal(end.status, LAM_OK);
}

/* A probe of a model of some MiB, on a drive that answered late, asked for one load too many: the
 * loader ended by its assertion. */
static void there_is_room_until_there_is_none(void **state)
{
    struct lam_load_end end;
    struct lam_io *io;

    (void)state;
    init(ALIGN, 64);
    for (uint32_t i = 0; i < LAM_JOBS_MAX; i++) {
        assert_true(lam_jobs_has_room(&jobs));
        add(i, 0, ALIGN, i * ALIGN);
    }
    assert_false(lam_jobs_has_room(&jobs));
    io = next();
    assert_false(lam_jobs_has_room(&jobs));
    assert_true(answer(io, read_io(io, ALIGN), &end));
    assert_true(lam_jobs_has_room(&jobs));
}

static void loads_come_and_go_without_end(void **state)
{
    struct lam_load_end end;

    (void)state;
    init(ALIGN, 8);
    for (uint32_t i = 0; i < LAM_JOBS_MAX; i++)
        add(i, 0, 2 * ALIGN, 2 * ALIGN * i);
    for (uint32_t i = 0; i < 1000; i++) {
        struct lam_io *io = next();

        assert_non_null(io);
        if (answer(io, i % 3 == 0 ? -EFAULT : read_io(io, UINT64_MAX), &end))
            add(end.place, 0, 2 * ALIGN, 2 * ALIGN * end.place);
    }
}

/* A piece that the model's own drive could not read waited for the mirror. When the mirror was lost
 * before it was asked, the piece was for nobody, and its load never ended. */
static void what_waits_for_a_copy_that_is_lost_goes_back(void **state)
{
    struct lam_load_end end;
    struct lam_io *io;

    (void)state;
    init_mirrored();
    add(0, 0, ALIGN, 0);
    io = lam_jobs_next(&jobs, 0, 1);
    assert_false(answer(io, -EIO, &end));
    assert_null(lam_jobs_next(&jobs, 0, 1)); /* it is the mirror's turn */
    lam_jobs_lose(&jobs, 1);
    assert_null(lam_jobs_next(&jobs, 1, 1));
    io = lam_jobs_next(&jobs, 0, 1);
    assert_non_null(io);
    assert_int_equal(io->copy, 0);
    assert_true(answer(io, read_io(io, ALIGN), &end));
    assert_int_equal(end.status, LAM_OK);
}

/* The same with a mirror whose drive hangs: it will never ask, and no deadline is on what waits. */
static void what_waits_for_a_drive_that_hangs_goes_back(void **state)
{
    struct lam_load_end end;
    struct lam_io *hung, *io;

    (void)state;
    init_mirrored();
    add(0, 0, ALIGN, 0);
    hung = lam_jobs_next(&jobs, 1, 1);
    add(1, ALIGN, ALIGN, ALIGN);
    io = lam_jobs_next(&jobs, 0, 1);
    assert_false(answer(io, -EIO, &end));
    assert_null(lam_jobs_next(&jobs, 0, 1));
    assert_true(lam_jobs_expire(&jobs, 100, 10, &end));
    assert_int_equal(end.place, 0);
    io = lam_jobs_next(&jobs, 0, 101);
    assert_non_null(io);
    assert_true(answer(io, read_io(io, ALIGN), &end));
    assert_int_equal(end.place, 1);
    assert_int_equal(end.status, LAM_OK);
    /* A drive that hangs is asked for what nobody has asked for, as far as it has room. */
    jobs.config.drives[1].depth = 2;
    add(1, ALIGN, ALIGN, ALIGN);
    io = lam_jobs_next(&jobs, 1, 101);
    assert_int_equal(io->copy, 1);
    assert_true(answer(io, read_io(io, ALIGN), &end));
    assert_int_equal(end.status, LAM_OK);
    /* And it was slow only: it is asked again. */
    assert_true(answer(hung, read_io(hung, ALIGN), &end));
    add(2, 0, ALIGN, 0);
    io = lam_jobs_next(&jobs, 0, 200);
    assert_false(answer(io, -EIO, &end));
    assert_null(lam_jobs_next(&jobs, 0, 200));
    io = lam_jobs_next(&jobs, 1, 200);
    assert_true(answer(io, read_io(io, ALIGN), &end));
    assert_int_equal(end.status, LAM_OK);
}

/* The model's drive had failed, then its mirror was replaced: nothing was asked of anybody. */
static void without_mirrors_the_model_is_read_again(void **state)
{
    struct lam_load_end end;
    struct lam_io *io;

    (void)state;
    init_mirrored();
    for (uint32_t i = 0; i < LAM_JOBS_LOST_AFTER; i++) {
        add(0, 0, ALIGN, 0);
        assert_false(answer(lam_jobs_next(&jobs, 0, 1), -EIO, &end));
        io = lam_jobs_next(&jobs, 1, 1);
        assert_true(answer(io, read_io(io, ALIGN), &end));
        assert_int_equal(end.status, LAM_OK);
    }
    add(0, 0, ALIGN, 0);
    assert_null(lam_jobs_next(&jobs, 0, 1));
    lam_jobs_lose(&jobs, 1);
    assert_null(lam_jobs_next(&jobs, 1, 1));
    io = lam_jobs_next(&jobs, 0, 1);
    assert_non_null(io);
    assert_true(answer(io, read_io(io, ALIGN), &end));
    assert_int_equal(end.status, LAM_OK);
}

/* While nobody takes a drive's answers, no deadline comes nearer, and none is forgotten. */
static void time_without_a_reader_is_not_the_drives(void **state)
{
    const uint64_t deadline = 1000;
    struct lam_load_end end;

    (void)state;
    init(ALIGN, 4);
    add(0, 0, ALIGN, 0);
    assert_non_null(lam_jobs_next(&jobs, 0, 500));
    assert_false(lam_jobs_expire(&jobs, 1500, deadline, &end));
    lam_jobs_away(&jobs, 0, 900); /* 400 have passed */
    assert_false(lam_jobs_expire(&jobs, 900000, deadline, &end));
    lam_jobs_back(&jobs, 0, 1000000);
    assert_false(lam_jobs_expire(&jobs, 1000600, deadline, &end));
    assert_true(lam_jobs_expire(&jobs, 1000601, deadline, &end));
    assert_true(end.expired && end.status == LAM_DEADLINE_EXCEEDED);
    assert_false(lam_jobs_expire(&jobs, 2000000, deadline, &end)); /* once */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_of_random_length_in_random_order_bring_every_byte),
        cmocka_unit_test(a_failing_drive_is_asked_four_times),
        cmocka_unit_test(a_file_that_got_shorter_is_data_loss),
        cmocka_unit_test(a_failed_job_waits_for_its_last_answer),
        cmocka_unit_test(there_is_room_until_there_is_none),
        cmocka_unit_test(loads_come_and_go_without_end),
        cmocka_unit_test(what_waits_for_a_copy_that_is_lost_goes_back),
        cmocka_unit_test(what_waits_for_a_drive_that_hangs_goes_back),
        cmocka_unit_test(without_mirrors_the_model_is_read_again),
        cmocka_unit_test(time_without_a_reader_is_not_the_drives),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
