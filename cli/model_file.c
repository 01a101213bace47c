/* model_file: see model_file.h. */
#include "cli/model_file.h"

struct lam_flag lam_shard_flag(struct lam_shard_flag *it)
{
    it->list.items = it->items;
    it->list.max = LAM_SHARD_DIRS_MAX;
    return (struct lam_flag){.name = "shards",
        .kind = LAM_FLAG_LIST,
        .target = &it->list,
        .value = "DIR",
        .help = "A directory with shards of the model that are not beside the first, say on "
                "another drive. May be given several times."};
}

struct lam_file_dirs lam_shard_dirs(const struct lam_shard_flag *it)
{
    return (struct lam_file_dirs){.items = it->items, .n = it->list.n};
}

enum lam_status lam_model_file_open(const char *path, const struct lam_shard_flag *shards,
    struct lam_model_file *ret_file, struct lam_err *err)
{
    struct lam_file_dirs dirs = shards ? lam_shard_dirs(shards) : (struct lam_file_dirs){0};
    struct lam_model_file it;
    enum lam_status status = lam_file_open_header(path, &dirs, &it.file, err);

    if (status)
        return status;
    it.header = it.file.header;
    it.header_bytes = it.file.header_bytes;
    it.file_bytes = it.file.bytes;
    it.gguf = it.file.gguf;
    *ret_file = it;
    return LAM_OK;
}

void lam_model_file_close(struct lam_model_file *file)
{
    lam_file_close(&file->file);
    *file = (struct lam_model_file){0};
}
