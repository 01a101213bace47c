/* model_file: see the header. */
#include "tests/unit/loader/model_file.h"

#include <assert.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/mem.h"
#include "tests/unit/model/gguf_builder.h"

const char *model_file_base = "/tmp";
bool model_file_untied;

static void fill_random(unsigned char *bytes, uint64_t n_bytes)
{
    uint64_t x = 88172645463325252ull;

    for (uint64_t i = 0; i < n_bytes; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes[i] = (unsigned char)(x >> 24);
    }
}

void model_file_write(const struct model_file *file)
{
    int fd = open(file->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert(fd >= 0);
    for (uint64_t at = 0; at < file->n_bytes;) {
        ssize_t n = write(fd, file->bytes + at, file->n_bytes - at);

        assert(n > 0);
        at += (uint64_t)n;
    }
    assert(fsync(fd) == 0);
    close(fd);
}

void model_file_make(struct model_file *file, uint64_t shift)
{
    struct lam_spec spec = gguf_builder_small_spec();
    struct gguf_builder *builder = lam_calloc(1, sizeof(*builder));
    struct lam_buf header;

    assert(builder != NULL);
    spec.n_layers = 12;
    spec.n_embd = 128;
    spec.head_dim = 32;
    spec.rope_dim = 32;
    spec.n_ff = 256;
    spec.n_vocab = 2600;
    spec.tied_head = !model_file_untied;
    gguf_builder_init(builder);
    gguf_builder_gap(builder, shift);
    gguf_builder_llama(builder, &spec, LAM_F32);
    gguf_builder_header(builder, &header);
    file->n_bytes = builder->file_bytes;
    file->bytes = lam_calloc(file->n_bytes, 1);
    assert(file->bytes != NULL);
    fill_random(file->bytes, file->n_bytes);
    memcpy(file->bytes, header.data, header.size);
    lam_buf_done(&header);
    gguf_builder_done(builder);
    lam_free(builder);

    snprintf(file->dir, sizeof(file->dir), "%s/lam-loader-XXXXXX", model_file_base);
    assert(mkdtemp(file->dir) != NULL);
    snprintf(file->path, sizeof(file->path), "%s/model.gguf", file->dir);
    model_file_write(file);
}

void model_file_read(struct model_file *file, const char *dir)
{
    struct stat info;
    ssize_t n;
    int fd;

    snprintf(file->dir, sizeof(file->dir), "%s", dir);
    snprintf(file->path, sizeof(file->path), "%s/model.gguf", dir);
    fd = open(file->path, O_RDONLY | O_CLOEXEC);
    assert(fd >= 0 && fstat(fd, &info) == 0);
    file->n_bytes = (uint64_t)info.st_size;
    file->bytes = lam_calloc(file->n_bytes, 1);
    assert(file->bytes != NULL);
    n = read(fd, file->bytes, file->n_bytes);
    assert(n == (ssize_t)file->n_bytes);
    close(fd);
}

void model_file_remove(struct model_file *file)
{
    DIR *dir = opendir(file->dir);
    struct dirent *entry;

    assert(dir != NULL);
    while ((entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            unlinkat(dirfd(dir), entry->d_name, 0);
    }
    closedir(dir);
    assert(rmdir(file->dir) == 0);
    lam_free(file->bytes);
}
