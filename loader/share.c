/* share: see the header. */
#include "loader/share.h"

#include <inttypes.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "loader/drives.h"

enum lam_status lam_share_open(struct lam_share *share, const char *path,
    const struct lam_share_options *options, struct lam_err *err)
{
    const size_t n_mirrors_max = sizeof(share->mirrors) / sizeof(*share->mirrors);
    enum lam_status status;

    if (options->n_mirrors > n_mirrors_max)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%zu mirrors are more than the %zu that one model may have: give fewer --mirror",
            options->n_mirrors, n_mirrors_max);
    status = lam_file_open(path, &options->shard_dirs, &share->file, err);
    share->options = *options;
    share->file_open = status == LAM_OK;
    while (status == LAM_OK && share->n_mirrors < options->n_mirrors) {
        uint32_t m = share->n_mirrors;

        status = lam_mirror_open(&share->file, options->mirrors[m], &share->mirrors[m], err);
        share->n_mirrors += status == LAM_OK;
    }
    return status;
}

enum lam_status lam_share_open_record(
    struct lam_share *share, const char *cache_dir, struct lam_err *err)
{
    return lam_integrity_open(&share->file, cache_dir, &share->integrity, err);
}

/* ---- parts of the pool ---- */

/* One for each worker, and one that is left when all of them sleep on theirs. */
static uint32_t lanes_wanted(const struct lam_share *share)
{
    uint32_t wanted = share->options.n_workers + 1;

    return wanted > LAM_KEPT_LANES_WANTED ? wanted : LAM_KEPT_LANES_WANTED;
}

uint64_t lam_share_bytes_full(const struct lam_share *share)
{
    const struct lam_manifest *manifest = &share->file.manifest;

    return lam_policy_bytes_full(manifest->units, manifest->n_units, share->file.align);
}

uint64_t lam_share_bytes_least(const struct lam_share *share)
{
    const struct lam_manifest *manifest = &share->file.manifest;
    uint64_t full = lam_share_bytes_full(share);
    uint64_t largest = 0;

    for (uint32_t u = 0; u < manifest->n_units; u++) {
        uint64_t bytes = lam_policy_window(&manifest->units[u], share->file.align).bytes;

        largest = bytes > largest ? bytes : largest;
    }
    return lanes_wanted(share) * largest < full ? lanes_wanted(share) * largest : full;
}

uint64_t lam_share_bytes_table(const struct lam_share *share)
{
    return lam_kept_embedding_bytes(&share->file.manifest, share->file.align);
}

enum lam_status lam_share_lay_out(
    struct lam_share *share, uint64_t pool_offset, uint64_t budget_bytes, struct lam_err *err)
{
    const struct lam_manifest *manifest = &share->file.manifest;
    uint64_t table_bytes = lam_share_bytes_table(share);
    struct lam_policy_request request = {.units = manifest->units,
        .n_units = manifest->n_units,
        .align = share->file.align,
        .budget_bytes = budget_bytes,
        .lanes_wanted = lanes_wanted(share),
        .region_bytes = share->options.region_bytes};
    uint32_t *drives = lam_calloc(manifest->n_units, sizeof(*drives));
    enum lam_status status;

    if (drives == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to lay out the pool");
    request.n_drives =
        lam_drives_group_units(&share->file, manifest, share->mirrors, share->n_mirrors, drives);
    request.drives = drives;
    share->pool_offset = pool_offset;
    status = lam_policy_layout(&request, &share->layout, err);
    lam_free(drives);
    if (status == LAM_OK && table_bytes > 0 && share->layout.n_kept == manifest->n_units &&
        table_bytes <= budget_bytes - share->layout.pool_bytes)
        status = lam_policy_add_table(&share->layout, table_bytes, err);
    return status;
}

/* ---- life ---- */

static enum lam_status start_reading(
    struct lam_share *share, unsigned char *base, struct lam_err *err)
{
    struct lam_checker_config checker = {.file = &share->file,
        .integrity = share->integrity,
        .layout = &share->layout,
        .pool_base = base,
        .on_done = lam_sessions_on_load_end,
        .on_issued = lam_sessions_on_issued,
        .on_idle = lam_sessions_on_idle,
        .on_read = lam_sessions_on_read,
        .on_lost = lam_sessions_on_lost,
        .arg = share->sessions};
    struct lam_reader_config reader = {.file = &share->file,
        .mirrors = share->mirrors,
        .n_mirrors = share->n_mirrors,
        .io_cache = share->options.io_cache,
        .deadline_ns = share->options.read_deadline_ns,
        .pool_base = base,
        .regions = share->layout.regions,
        .n_regions = share->layout.n_regions,
        .choice = share->options.engine,
        .on_done = lam_checker_on_load_end,
        .on_issued = lam_checker_on_issued,
        .on_idle = lam_checker_on_idle};
    enum lam_status status = lam_checker_create(&checker, &share->checker, err);

    if (status != LAM_OK)
        return status;
    reader.arg = share->checker;
    status = lam_reader_create(&reader, &share->reader, err);
    if (status == LAM_OK)
        lam_checker_connect(share->checker, share->reader);
    return status;
}

enum lam_status lam_share_start(
    struct lam_share *share, const struct lam_pool *pool, struct lam_err *err)
{
    unsigned char *base = pool->base + share->pool_offset;
    struct lam_sessions_config sessions = {.file = &share->file,
        .layout = &share->layout,
        .n_workers = share->layout.n_lanes > 1 ? share->layout.n_lanes - 1 : 1,
        .pool = pool,
        .pool_offset = share->pool_offset};
    enum lam_status status = lam_sessions_create(&sessions, &share->sessions, err);

    if (status == LAM_OK)
        status = start_reading(share, base, err);
    if (status != LAM_OK)
        return status;
    status = lam_extents_create(
        &share->file, share->integrity, base, share->sessions, &share->extents, err);
    if (status != LAM_OK)
        return status;
    return lam_verifier_create(
        &share->file, share->integrity, share->sessions, &share->verifier, err);
}

void lam_share_connect(struct lam_share *share, struct lam_handover *handover)
{
    lam_sessions_connect(share->sessions, share->reader, share->checker, handover);
}

void lam_share_back(struct lam_share *share, uint32_t r)
{
    if (r > 0)
        lam_reader_add_region(share->reader, r);
    lam_sessions_back(share->sessions, r);
}

/* Once for each copy: the file itself or a mirror. */
static void say_what_is_lost(struct lam_share *share)
{
    struct lam_reader_info info;
    uint32_t news;

    lam_reader_info(share->reader, &info);
    news = info.lost & ~share->lost;
    share->lost |= info.lost;
    for (uint32_t c = 0; c <= share->n_mirrors; c++) {
        if ((news >> c & 1) != 0)
            lam_warn("%s %s: it is not read any more, the other copies are",
                c == 0 ? share->file.path : share->mirrors[c - 1].path,
                (info.changed >> c & 1) != 0 ? "was changed while it was in use"
                                             : "fails again and again");
    }
}

void lam_share_tick(struct lam_share *share)
{
    lam_sessions_tick(share->sessions);
    lam_reader_tick(share->reader);
    lam_meter_tick(lam_reader_meter(share->reader), lam_now_ns());
    say_what_is_lost(share);
}

void lam_share_close(struct lam_share *share)
{
    lam_verifier_destroy(share->verifier);
    lam_extents_destroy(share->extents);
    lam_checker_stop(share->checker);
    lam_reader_destroy(share->reader);
    lam_checker_destroy(share->checker);
    lam_sessions_destroy(share->sessions);
    lam_layout_done(&share->layout);
    lam_integrity_close(share->integrity);
    for (uint32_t m = 0; m < share->n_mirrors; m++)
        lam_mirror_close(&share->mirrors[m]);
    if (share->file_open)
        lam_file_close(&share->file);
    memset(share, 0, sizeof(*share));
}
