/* model_file: see model_file.h. */
#include "cli/model_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "common/size.h"

#define FIRST_READ_BYTES LAM_MIB

static enum lam_status open_regular(
    const char *path, int *ret_fd, uint64_t *ret_bytes, struct lam_err *err)
{
    struct stat info;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot open the model '%.300s'", path);
    if (fstat(fd, &info) != 0) {
        lam_fail_errno(err, errno, "cannot stat the model '%.300s'", path);
    } else if (S_ISDIR(info.st_mode)) {
        lam_fail(err, LAM_INVALID_ARGUMENT,
            "'%.300s' is a directory; name the .gguf file inside it", path);
    } else if (!S_ISREG(info.st_mode)) {
        lam_fail(err, LAM_INVALID_ARGUMENT,
            "'%.300s' is no regular file; models are read in place, so copy it to a disk", path);
    } else {
        *ret_fd = fd;
        *ret_bytes = (uint64_t)info.st_size;
        return LAM_OK;
    }
    close(fd);
    return err->status;
}

/* Reads [from, to) of the file into file->header, which grows. */
static enum lam_status read_more(
    int fd, struct lam_model_file *file, uint64_t to, struct lam_err *err)
{
    unsigned char *grown = lam_realloc(file->header, to, 1);

    if (!grown)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for %llu bytes of header",
            (unsigned long long)to);
    file->header = grown;
    while (file->header_bytes < to) {
        ssize_t n = pread(
            fd, grown + file->header_bytes, to - file->header_bytes, (off_t)file->header_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lam_fail_errno(err, errno, "cannot read the header");
        if (n == 0)
            return lam_fail(err, LAM_DATA_LOSS, "the file became shorter while it was read");
        file->header_bytes += (uint64_t)n;
    }
    return LAM_OK;
}

enum lam_status lam_model_file_open(
    const char *path, struct lam_model_file *ret_file, struct lam_err *err)
{
    struct lam_model_file file = {0};
    uint64_t want = FIRST_READ_BYTES;
    enum lam_status status;
    int fd = -1;

    status = open_regular(path, &fd, &file.file_bytes, err);
    if (status)
        return status;
    for (;; want *= 2) {
        uint64_t limit = want < LAM_GGUF_HEADER_BYTES_MAX ? want : LAM_GGUF_HEADER_BYTES_MAX;
        limit = limit < file.file_bytes ? limit : file.file_bytes;
        status = read_more(fd, &file, limit, err);
        if (status)
            break;
        status = lam_gguf_parse(file.header, file.header_bytes, file.file_bytes, &file.gguf, err);
        if (status != LAM_OUT_OF_RANGE || limit < want)
            break;
    }
    close(fd);
    if (status) {
        lam_model_file_close(&file);
        return lam_err_wrap(err, status, "%.200s", path);
    }
    *ret_file = file;
    return LAM_OK;
}

void lam_model_file_close(struct lam_model_file *file)
{
    lam_gguf_destroy(file->gguf);
    lam_free(file->header);
    memset(file, 0, sizeof *file);
}
