/* gguf_seeds: writes the first inputs of gguf_fuzz: `gguf_seeds DIRECTORY`. */
#include <inttypes.h>
#include <stdio.h>

#include "common/buf.h"
#include "model/spec.h"
#include "tests/unit/model/gguf_builder.h"

/* One input in the form that gguf_fuzz.c describes. */
static int write_seed(const char *directory, const char *name, struct gguf_builder *b)
{
    struct lam_buf header;
    char path[512];
    uint64_t extra;
    FILE *file;
    int failed = 1;

    gguf_builder_header(b, &header);
    extra = b->file_bytes - header.size;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "wb");
    if (file) {
        failed = fwrite(&extra, sizeof extra, 1, file) != 1 ||
                 fwrite(header.data, header.size, 1, file) != 1;
        failed |= fclose(file) != 0;
    }
    if (failed)
        perror(path);
    lam_buf_done(&header);
    gguf_builder_done(b);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const tokens[] = {"<s>", "</s>", "a"};
    static const float scores[] = {0, -1, -2};
    struct lam_spec spec = gguf_builder_small_spec();
    struct gguf_builder b;
    int failed;

    if (argc != 2) {
        fprintf(stderr, "usage: gguf_seeds DIRECTORY\n");
        return 2;
    }
    gguf_builder_init(&b);
    gguf_builder_llama(&b, &spec, LAM_Q4_0);
    failed = write_seed(argv[1], "tied", &b);

    spec.n_layers = 1;
    spec.n_vocab = 3;
    spec.tied_head = false;
    gguf_builder_init(&b);
    b.alignment = 8;
    gguf_builder_llama(&b, &spec, LAM_F16);
    gguf_builder_tensor(&b, "rope_freqs.weight", LAM_F32, spec.rope_dim / 2, 0);
    gguf_builder_str(&b, "llama.rope.scaling.type", "linear");
    gguf_builder_f32(&b, "llama.rope.scaling.factor", 2);
    gguf_builder_strings(&b, "tokenizer.ggml.tokens", tokens, 3);
    gguf_builder_array(&b, "tokenizer.ggml.scores", 6, 3, scores, sizeof scores);
    failed |= write_seed(argv[1], "untied", &b);

    gguf_builder_init(&b);
    failed |= write_seed(argv[1], "empty", &b);
    return failed;
}
