/* shards_seeds: writes the first inputs of shards_fuzz: `shards_seeds DIRECTORY`. */
#include <inttypes.h>
#include <stdio.h>

#include "common/buf.h"
#include "model/gguf.h"
#include "model/gguf_write.h"

/* Shard `index` of n with two tensors, in the form that shards_fuzz.c describes. */
static bool put_shard(struct lam_buf *out, uint32_t index, uint32_t n, bool alike)
{
    struct lam_buf header = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    struct lam_gguf_writer writer;
    uint64_t file_bytes = 0, extra;
    uint32_t header_bytes;
    char name[32];
    bool ok;

    lam_gguf_writer_init(&writer);
    if (index == 0)
        lam_gguf_put_str(&writer, "general.architecture", "llama");
    if (n > 1) {
        lam_gguf_put_u16(&writer, "split.no", (uint16_t)index);
        lam_gguf_put_u16(&writer, "split.count", (uint16_t)n);
        lam_gguf_put_i32(&writer, "split.tensors.count", (int32_t)(2 * n));
    }
    for (uint32_t t = 0; t < 2; t++) {
        snprintf(name, sizeof name, "blk.%" PRIu32 ".attn_%c.weight", alike ? 0 : index,
            t == 0 ? 'q' : 'k');
        lam_gguf_put_tensor(&writer, name, t == 0 ? LAM_F32 : LAM_Q8_0, 64, 3);
    }
    ok = lam_gguf_writer_finish(&writer, &header, &file_bytes, NULL) == LAM_OK;
    lam_gguf_writer_done(&writer);
    header_bytes = (uint32_t)header.size;
    extra = file_bytes - header.size;
    ok = ok && lam_buf_append(out, &header_bytes, sizeof header_bytes) &&
         lam_buf_append(out, &extra, sizeof extra) && lam_buf_append(out, header.data, header.size);
    lam_buf_done(&header);
    return ok;
}

/* alike: all shards have tensors of the same names. */
static int write_model(const char *directory, const char *name, uint32_t n, bool alike)
{
    struct lam_buf out = LAM_BUF(LAM_GGUF_HEADER_BYTES_MAX);
    char path[512];
    bool ok = true;
    FILE *file;

    for (uint32_t i = 0; i < n; i++)
        ok = ok && put_shard(&out, i, n, alike);
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "wbe");
    ok = ok && file != NULL && fwrite(out.data, 1, out.size, file) == out.size;
    ok = (file == NULL || fclose(file) == 0) && ok;
    lam_buf_done(&out);
    if (!ok)
        fprintf(stderr, "shards_seeds: cannot write %s\n", path);
    return ok ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: shards_seeds DIRECTORY\n");
        return 2;
    }
    return write_model(argv[1], "one", 1, false) | write_model(argv[1], "two", 2, false) |
           write_model(argv[1], "five", 5, false) | write_model(argv[1], "alike", 2, true);
}
