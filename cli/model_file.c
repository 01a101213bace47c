/* model_file: see model_file.h. */
#include "cli/model_file.h"

enum lam_status lam_model_file_open(const char *path, const struct lam_file_dirs *shard_dirs,
    struct lam_model_file *ret_file, struct lam_err *err)
{
    struct lam_model_file it;
    enum lam_status status = lam_file_open_header(path, shard_dirs, &it.file, err);

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
