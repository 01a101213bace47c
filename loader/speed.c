/* speed: see the header. A few stretches of the file are always asked for, so the drive never waits
 * for us; what it brings is counted by the reader. */
#include "loader/speed.h"

#include <inttypes.h>
#include <pthread.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/reals.h"
#include "common/size.h"
#include "loader/file.h"
#include "loader/pool.h"
#include "loader/reader.h"

#define STRETCHES 4u
#define STRETCH_BYTES (64 * LAM_MIB)
#define POOL_BYTES (STRETCHES * STRETCH_BYTES)
#define WINDOWS 7u
#define WINDOW_NS (LAM_NS_PER_S / 2)
#define TICK_NS (50 * LAM_NS_PER_MS)
#define END_TICK_NS LAM_NS_PER_MS

struct walk {
    struct lam_file file;
    struct lam_pool pool;
    struct lam_region region;
    struct lam_reader *reader;

    pthread_mutex_t lock; /* guards all below */
    uint64_t at;          /* the next stretch of the file */
    uint64_t n_loads;
    uint32_t n_under_way;
    bool stopping;
    enum lam_status status;
    struct lam_err err;
};

/* The next stretch into that place. Lock held. */
static struct lam_load next_load(struct walk *walk, uint32_t place)
{
    uint64_t left = walk->file.bytes - walk->at;
    uint64_t bytes = left < STRETCH_BYTES ? left : STRETCH_BYTES;
    struct lam_load load = {.place = place,
        .generation = ++walk->n_loads,
        .window = {.file_offset = walk->at, .bytes = lam_align_up(bytes, walk->file.align)},
        .pool_offset = place * STRETCH_BYTES};

    walk->at = bytes == left ? 0 : walk->at + bytes;
    walk->n_under_way++;
    return load;
}

/* From a thread of the reader, or ours when the drive hangs. */
static void on_done(void *arg, const struct lam_load_end *end)
{
    struct walk *walk = arg;
    struct lam_load load;
    bool more;

    pthread_mutex_lock(&walk->lock);
    if (end->status != LAM_OK && walk->status == LAM_OK) {
        walk->status = end->status;
        walk->err = end->err;
    }
    walk->n_under_way -= !end->expired;
    more = !walk->stopping && walk->status == LAM_OK;
    if (more)
        load = next_load(walk, end->place);
    pthread_mutex_unlock(&walk->lock);
    if (more)
        lam_reader_load(walk->reader, &load);
}

static void begin(struct walk *walk)
{
    for (uint32_t place = 0; place < STRETCHES; place++) {
        struct lam_load load;

        pthread_mutex_lock(&walk->lock);
        load = next_load(walk, place);
        pthread_mutex_unlock(&walk->lock);
        lam_reader_load(walk->reader, &load);
    }
}

/* One window; the bytes that came in a second of it. */
static enum lam_status watch(struct walk *walk, double *ret_rate, struct lam_err *err)
{
    struct lam_reader_info before, after;
    uint64_t begin_ns = lam_now_ns();
    enum lam_status status = LAM_OK;

    lam_reader_info(walk->reader, &before);
    while (status == LAM_OK && lam_now_ns() - begin_ns < WINDOW_NS) {
        lam_sleep_ns(TICK_NS);
        lam_reader_tick(walk->reader);
        pthread_mutex_lock(&walk->lock);
        status = walk->status;
        if (status != LAM_OK && err != NULL)
            *err = walk->err;
        pthread_mutex_unlock(&walk->lock);
    }
    lam_reader_info(walk->reader, &after);
    *ret_rate = (double)(after.bytes - before.bytes) * 1e9 / (double)(lam_now_ns() - begin_ns);
    return status;
}

/* Waits for what was asked for, unless the drive hangs: then a tick gives it up. */
static void end(struct walk *walk)
{
    bool waits;

    do {
        pthread_mutex_lock(&walk->lock);
        walk->stopping = true;
        waits = walk->n_under_way > 0 && walk->status == LAM_OK;
        pthread_mutex_unlock(&walk->lock);
        if (waits)
            lam_sleep_ns(END_TICK_NS);
        lam_reader_tick(walk->reader);
    } while (waits);
}

static enum lam_status read_round(
    struct walk *walk, const char *io_cache, struct lam_speed *ret_speed, struct lam_err *err)
{
    const struct lam_reader_config config = {.file = &walk->file,
        .pool_base = walk->pool.base,
        .regions = &walk->region,
        .n_regions = 1,
        .io_cache = io_cache,
        .on_done = on_done,
        .arg = walk};
    enum lam_status status = lam_reader_create(&config, &walk->reader, err);
    struct lam_reader_info info;
    double rates[WINDOWS];
    double first;

    if (status != LAM_OK)
        return status;
    lam_reader_info(walk->reader, &info);
    if (!info.direct)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "the file system takes no direct reads, and others would measure memory");
    begin(walk);
    status = watch(walk, &first, err);
    for (uint32_t i = 0; i < WINDOWS && status == LAM_OK; i++)
        status = watch(walk, &rates[i], err);
    end(walk);
    if (status != LAM_OK)
        return status;
    lam_reals_sort(rates, WINDOWS);
    *ret_speed = (struct lam_speed){.rate = rates[WINDOWS / 2],
        .engine = info.engine,
        .request_bytes = info.request_bytes,
        .depth = info.depth};
    return LAM_OK;
}

enum lam_status lam_speed_measure(
    const char *path, const char *io_cache, struct lam_speed *ret_speed, struct lam_err *err)
{
    struct walk walk = {.region = {.bytes = POOL_BYTES}};
    enum lam_status status = lam_file_open_bytes(path, &walk.file, err);

    if (status != LAM_OK)
        return status;
    pthread_mutex_init(&walk.lock, NULL);
    if (walk.file.bytes < LAM_SPEED_FILE_BYTES_MIN)
        status = lam_fail(err, LAM_OUT_OF_RANGE,
            "a file of %" PRIu64 " MiB is too small to measure a disk with; give one of at least "
            "%" PRIu64 " MiB",
            walk.file.bytes / LAM_MIB, LAM_SPEED_FILE_BYTES_MIN / LAM_MIB);
    lam_ignore(
        fsync(walk.file.parts[0].fd), "what cannot be written makes reading slower, not wrong");
    if (status == LAM_OK)
        status = lam_pool_init(POOL_BYTES, POOL_BYTES, &walk.pool, err);
    if (status == LAM_OK)
        status = read_round(&walk, io_cache, ret_speed, err);
    lam_reader_destroy(walk.reader);
    lam_pool_done(&walk.pool);
    pthread_mutex_destroy(&walk.lock);
    lam_file_close(&walk.file);
    return status;
}
