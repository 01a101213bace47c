/* tiny_model: see tiny_model.h. */
#include "tests/unit/gateway/tiny_model.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "tests/unit/model/gguf_builder.h"

#define GGUF_I32 5u
#define GGUF_F32 6u

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER_DEFINED, TYPE_UNUSED, TYPE_BYTE };

static void add_vocabulary(struct gguf_builder *builder)
{
    static char texts[TINY_VOCAB][24];
    static const char *tokens[TINY_VOCAB];
    static char loud[TINY_LOUD_BYTES + 1];
    static float scores[TINY_VOCAB];
    static int32_t types[TINY_VOCAB];
    const struct {
        const char *text;
        int32_t type;
    } special[] = {{"<unk>", TYPE_UNKNOWN}, {"<s>", TYPE_CONTROL}, {"</s>", TYPE_CONTROL},
        {"<|im_start|>", TYPE_CONTROL}, {"<|im_end|>", TYPE_CONTROL}};

    for (int i = 0; i < TINY_VOCAB; i++) {
        int s = i < 3 ? i : i - 256;
        if (i >= 3 && i < 259)
            snprintf(texts[i], sizeof texts[i], "<0x%02X>", i - 3);
        else if (s < 5)
            snprintf(texts[i], sizeof texts[i], "%s", special[s].text);
        else
            snprintf(texts[i], sizeof texts[i], "[unused %d]", i);
        tokens[i] = texts[i];
        types[i] = i >= 3 && i < 259 ? TYPE_BYTE : s < 5 ? special[s].type : TYPE_UNUSED;
    }
    memset(loud, 'L', TINY_LOUD_BYTES);
    tokens[TINY_LOUD] = loud;
    gguf_builder_strings(builder, "tokenizer.ggml.tokens", tokens, TINY_VOCAB);
    gguf_builder_array(
        builder, "tokenizer.ggml.scores", GGUF_F32, TINY_VOCAB, scores, sizeof scores);
    gguf_builder_array(
        builder, "tokenizer.ggml.token_type", GGUF_I32, TINY_VOCAB, types, sizeof types);
}

struct tiny_model tiny_model_make(const char *name, bool chat)
{
    static struct gguf_builder builder;
    struct lam_spec spec = gguf_builder_small_spec();
    struct tiny_model model;

    assert(spec.n_vocab == TINY_VOCAB);
    gguf_builder_init(&builder);
    gguf_builder_llama(&builder, &spec, LAM_F32);
    gguf_builder_str(&builder, "general.name", name);
    gguf_builder_str(&builder, "tokenizer.ggml.model", "llama");
    gguf_builder_bool(&builder, "tokenizer.ggml.add_space_prefix", false);
    gguf_builder_u32(&builder, "tokenizer.ggml.bos_token_id", TINY_BOS);
    gguf_builder_u32(&builder, "tokenizer.ggml.eos_token_id", TINY_EOS);
    add_vocabulary(&builder);
    if (chat)
        gguf_builder_str(&builder, "tokenizer.chat_template",
            "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + "
            "'<|im_end|>' + '\n'}}{% endfor %}");
    gguf_builder_header(&builder, &model.header);
    model.file_bytes = builder.file_bytes;
    model.digest = XXH3_64bits(model.header.data, model.header.size);
    gguf_builder_done(&builder);
    return model;
}

struct lam_served *tiny_served(bool chat)
{
    struct tiny_model model = tiny_model_make("tiny", chat);
    struct lam_served_config config = {
        .file_bytes = model.file_bytes, .digest = model.digest, .context_tokens = TINY_CONTEXT};
    struct lam_served *served = NULL;
    struct lam_err err = {0};
    enum lam_status status = lam_served_create(&model.header, &config, &served, &err);

    if (status != LAM_OK)
        fprintf(stderr, "tiny model: %s\n", err.text);
    assert(status == LAM_OK);
    return served;
}
