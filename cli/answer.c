/* answer: see answer.h. */
#include "cli/answer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/json.h"
#include "common/size.h"

struct lam_answer_options lam_answer_defaults(void)
{
    return (struct lam_answer_options){
        .seed.value = -1, /* none: --help shows no default */
        .top_p.value = 1,
        .repetition_penalty.value = 1,
    };
}

void lam_answer_add_flags(struct lam_answer_options *o, struct lam_flag *flags)
{
    const struct lam_flag table[LAM_ANSWER_FLAGS] = {
        {"prompt", 'p', LAM_FLAG_TEXT, &o->prompt, "TEXT",
            "The prompt; without it, standard input.", 0, 0, NULL, NULL},
        {"max-tokens", 'n', LAM_FLAG_INT, &o->max_tokens.value, "N",
            "Generate at most N tokens; without it, to the end of the context.", 1, INT32_MAX, NULL,
            &o->max_tokens.set},
        {"chat", 0, LAM_FLAG_BOOL, &o->chat, NULL,
            "The prompt is a message, through the model's template (default where there is one).",
            0, 0, NULL, NULL},
        {"raw", 0, LAM_FLAG_BOOL, &o->raw, NULL, "The model continues the prompt as it stands.", 0,
            0, NULL, NULL},
        {"system", 0, LAM_FLAG_TEXT, &o->system, "TEXT", "System message of a chat.", 0, 0, NULL,
            NULL},
        {"temperature", 't', LAM_FLAG_REAL, &o->temperature, "T",
            "0 takes the most likely token each time: the same command, the same text.", 0, 100,
            NULL, NULL},
        {"top-k", 0, LAM_FLAG_INT, &o->top_k.value, "K", "Draw among the K most likely; 0: all.", 0,
            INT32_MAX, NULL, &o->top_k.set},
        {"top-p", 0, LAM_FLAG_REAL, &o->top_p.value, "P",
            "Draw among the most likely of total probability P.", 1e-6, 1, NULL, &o->top_p.set},
        {"min-p", 0, LAM_FLAG_REAL, &o->min_p.value, "P",
            "Draw among those of at least P times the likeliest's probability.", 0, 1, NULL,
            &o->min_p.set},
        {"repetition-penalty", 0, LAM_FLAG_REAL, &o->repetition_penalty.value, "X",
            "Above 1: avoid tokens that were there; 1: off.", 1e-3, 1000, NULL,
            &o->repetition_penalty.set},
        {"presence-penalty", 0, LAM_FLAG_REAL, &o->presence_penalty.value, "X",
            "Subtracted for tokens generated before.", -2, 2, NULL, &o->presence_penalty.set},
        {"frequency-penalty", 0, LAM_FLAG_REAL, &o->frequency_penalty.value, "X",
            "Subtracted for each time that a token was generated.", -2, 2, NULL,
            &o->frequency_penalty.set},
        {"seed", 0, LAM_FLAG_INT, &o->seed.value, "N",
            "Makes a drawn text repeatable; without it, a new one each time.", 0, 0x1p63, NULL,
            &o->seed.set},
        {"stop", 0, LAM_FLAG_TEXT, &o->stop, "TEXT", "End before this text.", 0, 0, NULL, NULL},
        {"json", 0, LAM_FLAG_BOOL, &o->json, NULL, "Print one JSON object at the end.", 0, 0, NULL,
            NULL},
    };

    memcpy(flags, table, sizeof table);
}

enum lam_status lam_answer_check(const struct lam_answer_options *options, struct lam_err *err)
{
    const struct {
        const char *what;
        const char *text;
    } texts[] = {
        {"--prompt", options->prompt}, {"--system", options->system}, {"--stop", options->stop}};

    if (options->chat && options->raw)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--chat and --raw exclude each other");
    if (options->raw && options->system)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--system needs a chat; leave --raw out");
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++)
        if (texts[i].text &&
            lam_command_check_text(texts[i].what, texts[i].text, strlen(texts[i].text), err))
            return err->status;
    if (options->prompt && !*options->prompt)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--prompt is empty; give it some text");
    return LAM_OK;
}

enum lam_status lam_answer_read_prompt(struct lam_buf *prompt, struct lam_err *err)
{
    char bytes[16384];

    for (;;) {
        ssize_t n = read(STDIN_FILENO, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return lam_fail_errno(err, errno, "cannot read the prompt from standard input");
        if (n == 0)
            break;
        if (!lam_buf_append(prompt, bytes, (size_t)n))
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "the prompt on standard input is longer than %zu MiB", prompt->max / LAM_MIB);
    }
    if (prompt->size > 0 && prompt->data[prompt->size - 1] == '\n') {
        prompt->size--;
        prompt->data[prompt->size] = '\0';
    }
    if (prompt->size == 0)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "standard input has no prompt; write -p TEXT");
    return lam_command_check_text("standard input", prompt->data, prompt->size, err);
}

static const double *real_or_null(const struct lam_answer_real *real)
{
    return real->set ? &real->value : NULL;
}

static const int64_t *int_or_null(const struct lam_answer_int *integer)
{
    return integer->set ? &integer->value : NULL;
}

struct lam_client_request lam_answer_request(const struct lam_answer_options *options)
{
    return (struct lam_client_request){
        .max_tokens = int_or_null(&options->max_tokens),
        .stop = options->stop,
        .sampling =
            {
                .temperature = &options->temperature,
                .top_k = int_or_null(&options->top_k),
                .top_p = real_or_null(&options->top_p),
                .min_p = real_or_null(&options->min_p),
                .repetition_penalty = real_or_null(&options->repetition_penalty),
                .presence_penalty = real_or_null(&options->presence_penalty),
                .frequency_penalty = real_or_null(&options->frequency_penalty),
                .seed = int_or_null(&options->seed),
            },
    };
}

bool lam_answer_write_text(void *arg, const char *text, size_t n_bytes)
{
    const struct lam_answer_options *options = arg;

    if (options->json)
        return true;
    return fwrite(text, 1, n_bytes, stdout) == n_bytes && fflush(stdout) == 0;
}

static double rate(int32_t n, double seconds)
{
    return n > 0 && seconds > 0 ? n / seconds : 0;
}

/* Would the next line of stderr begin on the text's last one? */
static bool shares_a_line(void)
{
    struct stat out;
    struct stat err;

    return isatty(STDOUT_FILENO) == 1 ||
           (fstat(STDOUT_FILENO, &out) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
               out.st_dev == err.st_dev && out.st_ino == err.st_ino);
}

enum lam_status lam_answer_finish(const struct lam_answer_options *options,
    const struct lam_client_answer *answer, json_t *extra, struct lam_err *err)
{
    double prompt_rate = rate(answer->prompt_tokens, answer->prefill_seconds);
    /* The first token comes out of the prompt's last pass. */
    double decode_rate = rate(answer->completion_tokens - 1, answer->decode_seconds);
    json_t *root;

    if (!options->json && shares_a_line())
        putchar('\n');
    fflush(stdout);
    fprintf(stderr,
        "laminar: prompt %d tokens, %.1f tokens/s; generated %d tokens, %.1f tokens/s\n",
        answer->prompt_tokens, prompt_rate, answer->completion_tokens, decode_rate);
    if (!options->json)
        return LAM_OK;
    root = lam_json_begin();
    json_object_set_new(root, "text", lam_json_text(answer->text.data, answer->text.size));
    json_object_set_new(root, "token_ids",
        lam_json_ids(
            (const int32_t *)(const void *)answer->ids.data, answer->ids.size / sizeof(int32_t)));
    json_object_set_new(root, "finish_reason", json_string(answer->finish_reason));
    json_object_set_new(
        root, "matched_stop", lam_json_text(answer->matched_stop, strlen(answer->matched_stop)));
    json_object_set_new(root, "seed", json_integer((json_int_t)answer->seed));
    json_object_set_new(root, "usage",
        json_pack("{s:i,s:i,s:f,s:f,s:f,s:f,s:f}", "prompt_tokens", answer->prompt_tokens,
            "completion_tokens", answer->completion_tokens, "queue_seconds", answer->queue_seconds,
            "prefill_seconds", answer->prefill_seconds, "decode_seconds", answer->decode_seconds,
            "prompt_tokens_per_second", prompt_rate, "generation_tokens_per_second", decode_rate));
    if (extra)
        json_object_update(root, extra);
    json_decref(extra);
    return lam_json_print(root, err);
}
