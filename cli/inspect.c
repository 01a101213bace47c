/*
 * inspect: `laminar inspect`, what a model file is, from its header alone: the architecture in
 * numbers, the number formats, and the units in which it will be streamed.
 *
 * A file that this build cannot run is still described as far as its header can be read; the reason
 * then is the error.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli/command.h"
#include "cli/json.h"
#include "cli/model_file.h"
#include "common/dtype.h"
#include "common/size.h"
#include "model/chat.h"
#include "model/manifest.h"
#include "model/spec.h"

#define VALUE_BYTES 160

/* What is known of one file; runnable says whether spec and manifest are. */
struct inspection {
    const char *path;
    struct lam_shard_flag shards;
    struct lam_model_file file;
    struct lam_spec spec;
    struct lam_manifest manifest;
    const char *chat; /* name of the built-in template, "" for none */
    bool runnable;
    struct lam_err reason; /* why not */
    uint64_t n_weights;
    struct {
        uint64_t n_tensors;
        uint64_t bytes;
    } types[LAM_DTYPE_END];
};

static void count_tensors(struct inspection *in)
{
    for (uint64_t i = 0; i < lam_gguf_n_tensors(in->file.gguf); i++) {
        const struct lam_gguf_tensor *tensor = lam_gguf_tensor(in->file.gguf, i);
        in->n_weights += tensor->dims[0] * tensor->dims[1] * tensor->dims[2] * tensor->dims[3];
        in->types[tensor->dtype].n_tensors++;
        in->types[tensor->dtype].bytes += tensor->bytes;
    }
}

static enum lam_status inspect(struct inspection *in, struct lam_err *err)
{
    enum lam_chat_template chat = LAM_CHAT_NONE;
    enum lam_status status = lam_model_file_open(in->path, &in->shards, &in->file, err);

    if (status)
        return status;
    count_tensors(in);
    in->chat = "";
    if (lam_chat_detect(in->file.gguf, &chat, &in->reason) == LAM_OK && chat != LAM_CHAT_NONE)
        in->chat = lam_chat_name(chat);
    memset(&in->reason, 0, sizeof in->reason);
    in->runnable =
        lam_spec_read(in->file.gguf, &in->spec, &in->reason) == LAM_OK &&
        lam_manifest_build(in->file.gguf, &in->spec, &in->manifest, &in->reason) == LAM_OK;
    return LAM_OK;
}

static json_t *json_metadata(const struct lam_gguf *gguf)
{
    json_t *object = json_object();
    char key_text[256];
    char value[VALUE_BYTES];

    for (uint64_t i = 0; i < lam_gguf_n_keys(gguf); i++) {
        struct lam_str key = lam_gguf_key(gguf, i);
        snprintf(key_text, sizeof key_text, "%.*s", (int)key.size, key.data);
        lam_gguf_describe(gguf, i, value, sizeof value);
        json_object_set_new(object, key_text, lam_json_text(value, strlen(value)));
    }
    return object;
}

static json_t *json_tensors(const struct lam_gguf *gguf)
{
    json_t *array = json_array();

    for (uint64_t i = 0; i < lam_gguf_n_tensors(gguf); i++) {
        const struct lam_gguf_tensor *tensor = lam_gguf_tensor(gguf, i);
        json_t *dims = json_array();
        for (uint32_t d = 0; d < tensor->n_dims; d++)
            json_array_append_new(dims, json_integer((json_int_t)tensor->dims[d]));
        json_array_append_new(
            array, json_pack("{s:o,s:s,s:o,s:I,s:I}", "name",
                       lam_json_text(tensor->name.data, tensor->name.size), "type",
                       lam_dtype_info(tensor->dtype)->name, "dims", dims, "offset",
                       (json_int_t)tensor->offset, "bytes", (json_int_t)tensor->bytes));
    }
    return array;
}

static json_t *json_spec(const struct lam_spec *s)
{
    return json_pack("{s:o,s:o,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:b}",
        "architecture", lam_json_text(s->architecture, strlen(s->architecture)), "name",
        lam_json_text(s->name, strlen(s->name)), "layers", (json_int_t)s->n_layers, "width",
        (json_int_t)s->n_embd, "heads", (json_int_t)s->n_heads, "kv_heads",
        (json_int_t)s->n_kv_heads, "head_dim", (json_int_t)s->head_dim, "feed_forward",
        (json_int_t)s->n_ff, "vocabulary", (json_int_t)s->n_vocab, "context",
        (json_int_t)s->n_ctx_train, "rope_dim", (json_int_t)s->rope_dim, "rope_base",
        (double)s->rope_base, "rope_scale", (double)s->rope_scale, "norm_eps", (double)s->norm_eps,
        "tied_head", s->tied_head);
}

static json_t *json_units(const struct lam_manifest *manifest)
{
    return json_pack("{s:I,s:I,s:I}", "count", (json_int_t)manifest->n_units, "bytes_max",
        (json_int_t)manifest->unit_bytes_max, "bytes_total",
        (json_int_t)manifest->unit_bytes_total);
}

static enum lam_status print_json(const struct inspection *in, struct lam_err *err)
{
    json_t *root = lam_json_begin();
    json_t *types = json_object();

    for (int i = 0; i < (int)LAM_DTYPE_END; i++)
        if (in->types[i].n_tensors > 0)
            json_object_set_new(types, lam_dtype_info((enum lam_dtype)i)->name,
                json_pack("{s:I,s:I}", "tensors", (json_int_t)in->types[i].n_tensors, "bytes",
                    (json_int_t)in->types[i].bytes));
    json_object_set_new(root, "path", lam_json_text(in->path, strlen(in->path)));
    json_object_set_new(root, "file_bytes", json_integer((json_int_t)in->file.file_bytes));
    json_object_set_new(root, "files", json_integer(in->file.file.n_parts));
    json_object_set_new(root, "weights", json_integer((json_int_t)in->n_weights));
    json_object_set_new(root, "runnable", json_boolean(in->runnable));
    json_object_set_new(
        root, "reason", lam_json_text(in->reason.text, in->runnable ? 0 : strlen(in->reason.text)));
    json_object_set_new(root, "chat_template", json_string(in->chat));
    json_object_set_new(root, "spec", in->runnable ? json_spec(&in->spec) : json_null());
    json_object_set_new(root, "units", in->runnable ? json_units(&in->manifest) : json_null());
    json_object_set_new(root, "types", types);
    json_object_set_new(root, "metadata", json_metadata(in->file.gguf));
    json_object_set_new(root, "tensors", json_tensors(in->file.gguf));
    return lam_json_print(root, err);
}

static void print_spec(const struct inspection *in)
{
    const struct lam_spec *s = &in->spec;
    char most[24];
    char total[24];

    printf("model         ");
    lam_command_print_clean(stdout, s->name, strlen(s->name));
    printf("\narchitecture  %s, %u layers, width %u, feed-forward %u\n", s->architecture,
        s->n_layers, s->n_embd, s->n_ff);
    printf("attention     %u heads of %u, %u for keys and values\n", s->n_heads, s->head_dim,
        s->n_kv_heads);
    printf("context       %u tokens, vocabulary %u%s\n", s->n_ctx_train, s->n_vocab,
        s->tied_head ? ", head tied to the embedding" : "");
    printf("chat          %s\n", *in->chat ? in->chat : "no built-in template fits: raw text only");
    printf("units         %u of at most %s, %s in one pass\n", in->manifest.n_units,
        lam_size_format(in->manifest.unit_bytes_max, most, sizeof most),
        lam_size_format(in->manifest.unit_bytes_total, total, sizeof total));
}

static void print_text(const struct inspection *in, bool with_metadata, bool with_tensors)
{
    const struct lam_gguf *gguf = in->file.gguf;
    char size[24];
    char value[VALUE_BYTES];

    printf("file          %s, %.1f million weights in %llu tensors\n",
        lam_size_format(in->file.file_bytes, size, sizeof size), (double)in->n_weights / 1e6,
        (unsigned long long)lam_gguf_n_tensors(gguf));
    if (in->file.file.n_parts > 1)
        printf("shards        %" PRIu32 " files\n", in->file.file.n_parts);
    if (in->runnable)
        print_spec(in);
    for (int i = 0; i < (int)LAM_DTYPE_END; i++)
        if (in->types[i].n_tensors > 0)
            printf("type          %-5s %4llu tensors, %s\n",
                lam_dtype_info((enum lam_dtype)i)->name, (unsigned long long)in->types[i].n_tensors,
                lam_size_format(in->types[i].bytes, size, sizeof size));
    for (uint64_t i = 0; with_metadata && i < lam_gguf_n_keys(gguf); i++) {
        struct lam_str key = lam_gguf_key(gguf, i);
        lam_gguf_describe(gguf, i, value, sizeof value);
        printf("key           ");
        lam_command_print_clean(stdout, key.data, key.size);
        printf(" = ");
        lam_command_print_clean(stdout, value, strlen(value));
        printf("\n");
    }
    for (uint64_t i = 0; with_tensors && i < lam_gguf_n_tensors(gguf); i++) {
        const struct lam_gguf_tensor *tensor = lam_gguf_tensor(gguf, i);
        printf("tensor        %-5s", lam_dtype_info(tensor->dtype)->name);
        for (uint32_t d = 0; d < tensor->n_dims; d++)
            printf("%s%llu", d ? " x " : " ", (unsigned long long)tensor->dims[d]);
        printf(" ");
        lam_command_print_clean(stdout, tensor->name.data, tensor->name.size);
        printf("\n");
    }
}

static const char *const epilog = "Examples:\n"
                                  "  laminar inspect model.gguf\n"
                                  "  laminar inspect model.gguf --tensors --json";

int lam_command_inspect(const struct lam_command_env *env, int argc, char **argv)
{
    struct inspection in = {0};
    struct lam_err err = {0};
    bool json = false;
    bool metadata = false;
    bool tensors = false;
    const struct lam_flag flags[] = {
        {"metadata", 0, LAM_FLAG_BOOL, &metadata, NULL, "List the keys of the header.", 0, 0, NULL,
            NULL},
        {"tensors", 0, LAM_FLAG_BOOL, &tensors, NULL, "List the tensors.", 0, 0, NULL, NULL},
        lam_shard_flag(&in.shards),
        {"json", 0, LAM_FLAG_BOOL, &json, NULL, "Print everything as one JSON object.", 0, 0, NULL,
            NULL},
        {0},
    };
    const struct lam_flag_program program = {
        .usage = "laminar inspect MODEL [flags]",
        .summary = "Says what a model file is, from its header. Exits 1, with the reason, when "
                   "this build cannot run it.",
        .flags = flags,
        .epilog = epilog,
    };
    int exit_code;

    (void)env;
    if (!lam_command_begin(&program, argc, argv, &in.path, 1, &exit_code))
        return exit_code;
    exit_code = LAM_EXIT_OK;
    if (inspect(&in, &err)) {
        exit_code = lam_command_fail(&err);
    } else if (json && print_json(&in, &err)) {
        exit_code = lam_command_fail(&err);
    } else {
        if (!json)
            print_text(&in, metadata, tensors);
        if (!in.runnable)
            exit_code = lam_command_fail(&in.reason);
    }
    lam_manifest_done(&in.manifest);
    lam_model_file_close(&in.file);
    return exit_code;
}
