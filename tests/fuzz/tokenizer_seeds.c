/* tokenizer_seeds: writes the first inputs of tokenizer_fuzz: `tokenizer_seeds DIRECTORY`. */
#include <stdio.h>
#include <string.h>

#include "tests/unit/model/text_fixture.h"

static int write_seed(
    const char *directory, const char *name, char choice, const char *bytes, size_t n)
{
    char path[512];
    int failed = 1;
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "wb");
    if (file) {
        failed = fputc(choice, file) == EOF || fwrite(bytes, 1, n, file) != n;
        failed |= fclose(file) != 0;
    }
    if (failed)
        perror(path);
    return failed;
}

static int write_model(const char *directory, const char *name, struct gguf_builder *builder)
{
    struct lam_buf header;
    int failed;

    gguf_builder_header(builder, &header);
    failed = write_seed(directory, name, 'V', header.data, header.size);
    lam_buf_done(&header);
    gguf_builder_done(builder);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const pretokenizers[] = {"smollm", "llama-bpe", "qwen2", "gpt-4o", "tekken",
        "falcon", "deepseek-llm", "deepseek-v3"};
    static const char text[] = "hello world's 1234 <tool>\xf0\x9f\x98\x80 e\xcc\x81\r\n\n  <s>";
    static struct gguf_builder builder;
    int failed = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: tokenizer_seeds DIRECTORY\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof pretokenizers / sizeof *pretokenizers; i++) {
        text_fixture_bytelevel(&builder, pretokenizers[i]);
        gguf_builder_str(&builder, "tokenizer.chat_template",
            "'<|im_start|>system\\nBe \\'kind\\'.<|im_end|>\n' bos_token");
        failed |= write_model(argv[1], pretokenizers[i], &builder);
    }
    text_fixture_spm(&builder);
    gguf_builder_str(&builder, "tokenizer.chat_template", "' [INST] ' ' [/INST]' system");
    failed |= write_model(argv[1], "spm", &builder);
    for (const char *choice = "BQS"; *choice; choice++) {
        char name[] = {'t', 'e', 'x', 't', '-', *choice, '\0'};
        failed |= write_seed(argv[1], name, *choice, text, strlen(text));
    }
    return failed;
}
