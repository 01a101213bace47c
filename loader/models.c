/* models: see the header. */
#include "loader/models.h"

#include <assert.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"
#include "common/size.h"
#include "loader/memory.h"

/* ---- opening ---- */

static enum lam_status add_name(
    struct lam_models *models, const char *path, uint32_t share, struct lam_err *err)
{
    struct lam_model_name *name = &models->names[models->n_names];
    char real[PATH_MAX];

    name->given = lam_strdup(path);
    name->real = lam_strdup(realpath(path, real) != NULL ? real : path);
    name->share = share;
    models->n_names++;
    if (name->given == NULL || name->real == NULL)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the names of the models");
    return LAM_OK;
}

/* The share of the same file, whatever its name; n_shares if there is none. */
static uint32_t find_file(const struct lam_models *models, const struct lam_file *file)
{
    uint32_t i = 0;

    while (i < models->n_shares &&
           (models->shares[i].file.parts[0].identity.st_dev != file->parts[0].identity.st_dev ||
               models->shares[i].file.parts[0].identity.st_ino != file->parts[0].identity.st_ino))
        i++;
    return i;
}

static enum lam_status open_one(struct lam_models *models, const char *path,
    const struct lam_share_options *options, struct lam_err *err)
{
    struct lam_share *share = &models->shares[models->n_shares];
    enum lam_status status = lam_share_open(share, path, options, err);
    uint32_t same;

    if (status != LAM_OK) {
        lam_share_close(share);
        return status;
    }
    same = find_file(models, &share->file);
    if (same == models->n_shares)
        models->n_shares++;
    else
        lam_share_close(share);
    return add_name(models, path, same, err);
}

enum lam_status lam_models_open(struct lam_models *models, const char *const *paths, size_t n_paths,
    const struct lam_share_options *options, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    assert(n_paths > 0);
    if (n_paths > LAM_MODELS_MAX)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%zu models are more than the %u of one loader: start another one", n_paths,
            LAM_MODELS_MAX);
    for (size_t i = 0; i < n_paths && status == LAM_OK; i++)
        status = open_one(models, paths[i], options, err);
    return status;
}

/* ---- the pool ---- */

/* bytes * part / whole, rounded down. */
static uint64_t portion(uint64_t bytes, uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : (uint64_t)((unsigned __int128)bytes * part / whole);
}

void lam_models_split(const struct lam_models *models, uint64_t budget_bytes, uint64_t *ret_bytes)
{
    uint64_t least_all = 0, lack_all = 0, rest, spare;

    for (uint32_t i = 0; i < models->n_shares; i++) {
        uint64_t least = lam_share_bytes_least(&models->shares[i]);

        least_all += least;
        lack_all += lam_share_bytes_full(&models->shares[i]) - least;
    }
    rest = budget_bytes > least_all ? budget_bytes - least_all : 0;
    spare = rest > lack_all ? rest - lack_all : 0;
    rest -= spare;
    for (uint32_t i = 0; i < models->n_shares; i++) {
        uint64_t least = lam_share_bytes_least(&models->shares[i]);
        uint64_t lack = lam_share_bytes_full(&models->shares[i]) - least;

        ret_bytes[i] = budget_bytes < least_all ? portion(budget_bytes, least, least_all)
                                                : least + portion(rest, lack, lack_all);
        if (lam_share_bytes_table(&models->shares[i]) <= spare) {
            ret_bytes[i] += lam_share_bytes_table(&models->shares[i]);
            spare -= lam_share_bytes_table(&models->shares[i]);
        }
    }
}

enum lam_status lam_models_lay_out(struct lam_models *models, const char *ram, struct lam_err *err)
{
    uint64_t parts[LAM_MODELS_MAX];
    uint64_t full_bytes = 0, budget_bytes, at = 0;
    struct lam_memory memory;
    enum lam_status status = lam_memory_read(&memory, err);

    for (uint32_t i = 0; i < models->n_shares; i++)
        full_bytes +=
            lam_share_bytes_full(&models->shares[i]) + lam_share_bytes_table(&models->shares[i]);
    if (status == LAM_OK)
        status = lam_memory_budget(&memory, ram, full_bytes, &budget_bytes, err);
    if (status != LAM_OK)
        return status;
    lam_models_split(models, budget_bytes, parts);
    for (uint32_t i = 0; i < models->n_shares && status == LAM_OK; i++) {
        struct lam_share *share = &models->shares[i];

        at = lam_align_up(at, share->file.align);
        status = lam_share_lay_out(share, at, parts[i], err);
        at += share->layout.pool_bytes;
        if (status != LAM_OK && models->n_shares > 1)
            status = lam_err_wrap(err, status, "%s", share->file.path);
    }
    models->pool_bytes = at;
    return status;
}

enum lam_status lam_models_start(
    struct lam_models *models, struct lam_pool *pool, struct lam_err *err)
{
    enum lam_status status = LAM_OK;

    for (uint32_t i = 0; i < models->n_shares && status == LAM_OK; i++) {
        struct lam_share *share = &models->shares[i];

        if (i > 0) /* the first one's region is there: lam_pool_init */
            status =
                lam_pool_populate(pool, share->pool_offset, share->layout.regions[0].bytes, err);
        if (status == LAM_OK)
            status = lam_share_start(share, pool, err);
    }
    return status;
}

void lam_models_close(struct lam_models *models)
{
    for (uint32_t i = 0; i < models->n_shares; i++)
        lam_share_close(&models->shares[i]);
    for (uint32_t i = 0; i < models->n_names; i++) {
        lam_free(models->names[i].given);
        lam_free(models->names[i].real);
    }
    memset(models, 0, sizeof(*models));
}

/* ---- looking up ---- */

struct lam_share *lam_models_at(struct lam_models *models, uint64_t handle)
{
    return handle >= 1 && handle <= models->n_shares ? &models->shares[handle - 1] : NULL;
}

uint64_t lam_models_find(const struct lam_models *models, const char *path)
{
    if (path[0] == '\0')
        return 1;
    for (uint32_t i = 0; i < models->n_names; i++) {
        if (strcmp(path, models->names[i].given) == 0 || strcmp(path, models->names[i].real) == 0)
            return models->names[i].share + 1;
    }
    return 0;
}
