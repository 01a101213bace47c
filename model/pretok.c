/*
 * pretok: see pretok.h.
 *
 * The patterns are written with the classes of the regex engine that the models were trained with:
 * SPACE is Unicode's White_Space (PCRE2's own \s has U+180E too), so they mean the same here. No
 * pattern repeats a group and none can start a failing scan at every byte of a run, so a split is
 * linear in the text; the limits below are a second fence, for text that we did not think of.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretok.h"

#include <assert.h>
#include <inttypes.h>
#include <pcre2.h>
#include <string.h>

#include "common/mem.h"

#define MATCH_LIMIT 50000000u
#define HEAP_LIMIT_KIB (64u << 10)
#define SPLITS_MAX 6

/* Members of character classes. */
#define SPACE "\\p{Z}\\t-\\r\\x{85}"
#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"

/* Letters with a case, as DeepSeek LLM lists them; newer ones are missing there. */
#define CASED_LETTERS                                                                              \
    "A-Za-z\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}\\x{1bc}-\\x{1bf}"                 \
    "\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37b}-\\x{37d}"         \
    "\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"                  \
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}"                       \
    "\\x{13a0}-\\x{13f5}\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}"                 \
    "\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}"                 \
    "\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}\\x{1f50}-\\x{1f57}\\x{1f59}"        \
    "\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}\\x{1fb6}-\\x{1fbc}\\x{1fbe}"         \
    "\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}\\x{1fd6}-\\x{1fdb}"                 \
    "\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"                  \
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}"                   \
    "\\x{212a}-\\x{212d}\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}"        \
    "\\x{214e}\\x{2183}\\x{2184}\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}"         \
    "\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}"                  \
    "\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}\\x{fb00}-\\x{fb06}"                 \
    "\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}\\x{10400}-\\x{1044f}"               \
    "\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}\\x{10cc0}-\\x{10cf2}"         \
    "\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"

/* Alternatives that many patterns share. */
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define BLANKS "[" SPACE "]+(?![^" SPACE "])|[" SPACE "]+"
#define LINES "[" SPACE "]*[\\r\\n]+"
#define WORD "[^\\r\\n\\p{L}\\p{N}]?"

#define DIGIT "\\p{N}"
#define HAN "[\\x{4e00}-\\x{9fa5}\\x{800}-\\x{4e00}\\x{ac00}-\\x{d7ff}]+"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" SPACE "\\p{L}\\p{N}]+|" BLANKS
#define CL100K(digits)                                                                             \
    CONTRACTION "|" WORD "\\p{L}+|" digits "| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n]*|" LINES "|" BLANKS
#define CASED(suffix, digits)                                                                      \
    WORD "[" UPPER "]*[" LOWER "]+" suffix "|" WORD "[" UPPER "]+[" LOWER "]*" suffix "|" digits   \
         "| ?[^" SPACE "\\p{L}\\p{N}]+[\\r\\n/]*|" LINES "|" BLANKS

struct family {
    const char *names; /* separated by spaces */
    bool nfc;
    bool whole_words;
    bool bos;
    const char *splits[SPLITS_MAX + 1]; /* NULL-terminated */
};

static const struct family families[] = {
    {.names = " gpt-2 phi-2 mpt olmo jais exaone4 mellum gigachat trillion granite-docling ",
        .splits = {GPT2}},
    {.names = " smollm starcoder refact codeshell exaone minerva-7b ", .splits = {DIGIT, GPT2}},
    {.names = " command-r ", .nfc = true, .splits = {DIGIT, GPT2}},
    {.names = " llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 ",
        .whole_words = true,
        .bos = true,
        .splits = {CL100K("\\p{N}{1,3}")}},
    {.names = " dbrx smaug-bpe glm4 chatglm-bpe ", .splits = {CL100K("\\p{N}{1,3}")}},
    {.names = " qwen2 deepseek-r1-qwen stablelm2 ", .nfc = true, .splits = {CL100K("\\p{N}")}},
    {.names = " megrez kormo hunyuan grok-2 ", .splits = {CL100K("\\p{N}")}},
    {.names = " qwen35 ",
        .nfc = true,
        .splits = {CONTRACTION "|" WORD "[\\p{L}\\p{M}]+|\\p{N}| ?[^" SPACE
                               "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" LINES "|" BLANKS}},
    {.names = " tekken ", .whole_words = true, .bos = true, .splits = {CASED("", "\\p{N}")}},
    {.names = " gpt-4o o200k llama4 ", .splits = {CASED(CONTRACTION "?", "\\p{N}{1,3}")}},
    {.names = " falcon ", .splits = {"[\\p{P}$+<=>^`|~]+", GPT2, "[0-9][0-9][0-9]"}},
    {.names = " default ", .splits = {"[\\p{P}$+<=>^|~]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {.names = " deepseek-llm ",
        .splits = {"[\\r\\n]", "[" SPACE "]?[" CASED_LETTERS "]+",
            "[" SPACE "]?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}"
            "\\x{2018}-\\x{201f}\\x{3000}-\\x{3002}]+",
            /* The look behind keeps a long run of blanks from being tried at each of its bytes. */
            "(?<![" SPACE "])[" SPACE "]+\\z", HAN, DIGIT}},
    {.names = " deepseek-coder ",
        .splits = {"[\\r\\n]", "[" SPACE "]?\\p{L}+", "[" SPACE "]?\\p{P}+", HAN, DIGIT}},
    {.names = " deepseek-v3 ",
        .splits = {"\\p{N}{1,3}", "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+",
            "[!-/:-@\\[-`{-~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
            " ?[\\p{P}\\p{S}]+[\\r\\n]*|" LINES "|" BLANKS}},
};

struct lam_pretok {
    const struct family *family;
    pcre2_general_context *general;
    pcre2_match_context *limits;
    pcre2_code *splits[SPLITS_MAX];
    size_t n_splits;
};

/* One call of lam_pretok_split. */
struct split_run {
    const struct lam_pretok *pretok;
    pcre2_match_data *match;
    lam_word_fn word;
    void *context;
};

static void *pcre2_take(PCRE2_SIZE bytes, void *unused)
{
    (void)unused;
    return lam_calloc(bytes, 1);
}

static void pcre2_give(void *block, void *unused)
{
    (void)unused;
    lam_free(block);
}

static const struct family *find_family(struct lam_str name)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        const char *at = families[i].names;
        while (*++at) {
            size_t length = strcspn(at, " ");
            if (length == name.size && memcmp(at, name.data, length) == 0)
                return &families[i];
            at += length;
        }
    }
    return NULL;
}

static enum lam_status compile(struct lam_pretok *pretok, const char *pattern, struct lam_err *err)
{
    uint32_t options = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *context = pcre2_compile_context_create(pretok->general);
    pcre2_code *code;
    PCRE2_SIZE offset = 0;
    int native = PCRE2_ERROR_NOMEMORY;

    if (!context)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the pre-tokenizer");
    code = pcre2_compile(
        (PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, options, &native, &offset, context);
    pcre2_compile_context_free(context);
    if (!code && (native == PCRE2_ERROR_NOMEMORY || native == PCRE2_ERROR_HEAP_FAILED))
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the pre-tokenizer");
    if (!code)
        return lam_fail(err, LAM_INTERNAL, "PCRE2 error %d at byte %zu of a pre-tokenizer pattern",
            native, (size_t)offset);
    /* Where pages cannot be executable there is no JIT; the interpreter gives the same words. */
    lam_ignore(pcre2_jit_compile(code, PCRE2_JIT_COMPLETE), "without JIT it is only slower");
    pretok->splits[pretok->n_splits++] = code;
    return LAM_OK;
}

enum lam_status lam_pretok_create(
    struct lam_str name, struct lam_pretok **ret_pretok, struct lam_err *err)
{
    const struct family *family = find_family(name);
    int shown = name.size < 64 ? (int)name.size : 64;
    struct lam_pretok *pretok;
    enum lam_status status = LAM_OK;

    if (!family)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "tokenizer.ggml.pre \"%.*s\" is a pre-tokenizer that this build does not know", shown,
            name.data);
    pretok = lam_calloc(1, sizeof *pretok);
    if (!pretok)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the pre-tokenizer");
    pretok->family = family;
    pretok->general = pcre2_general_context_create(pcre2_take, pcre2_give, NULL);
    if (pretok->general)
        pretok->limits = pcre2_match_context_create(pretok->general);
    if (!pretok->limits)
        status = lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for the pre-tokenizer");
    for (size_t i = 0; !status && family->splits[i]; i++)
        status = compile(pretok, family->splits[i], err);
    if (status) {
        lam_pretok_destroy(pretok);
        return status;
    }
    pcre2_set_match_limit(pretok->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(pretok->limits, HEAP_LIMIT_KIB);
    *ret_pretok = pretok;
    return LAM_OK;
}

void lam_pretok_destroy(struct lam_pretok *pretok)
{
    if (!pretok)
        return;
    for (size_t i = 0; i < pretok->n_splits; i++)
        pcre2_code_free(pretok->splits[i]);
    pcre2_match_context_free(pretok->limits);
    pcre2_general_context_free(pretok->general);
    lam_free(pretok);
}

bool lam_pretok_wants_nfc(const struct lam_pretok *pretok)
{
    return pretok->family->nfc;
}

bool lam_pretok_keeps_whole_words(const struct lam_pretok *pretok)
{
    return pretok->family->whole_words;
}

bool lam_pretok_adds_bos(const struct lam_pretok *pretok)
{
    return pretok->family->bos;
}

/* Runs splits[stage..] over one piece: each match and each gap goes on to the next stage. */
static enum lam_status split_piece(
    const struct split_run *run, size_t stage, const char *text, size_t n, struct lam_err *err)
{
    size_t at = 0;
    enum lam_status status = LAM_OK;

    if (stage == run->pretok->n_splits)
        return run->word(run->context, text, n, err);
    while (!status && at < n) {
        size_t start = n, end = n;
        /* The caller checked the text once; checking it in every match would be quadratic. */
        int found = pcre2_match(run->pretok->splits[stage], (PCRE2_SPTR)text, n, at,
            PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, run->match, run->pretok->limits);
        if (found > 0) {
            start = pcre2_get_ovector_pointer(run->match)[0];
            end = pcre2_get_ovector_pointer(run->match)[1];
            assert(start >= at && end > start && end <= n);
        } else if (found != PCRE2_ERROR_NOMATCH) {
            return lam_fail(err, LAM_RESOURCE_EXHAUSTED,
                "the pre-tokenizer gave up on a text of %zu bytes (PCRE2 error %d)", n, found);
        }
        if (start > at)
            status = split_piece(run, stage + 1, text + at, start - at, err);
        if (!status && end > start)
            status = split_piece(run, stage + 1, text + start, end - start, err);
        at = end;
    }
    return status;
}

enum lam_status lam_pretok_split(const struct lam_pretok *pretok, const char *text, size_t n,
    lam_word_fn word, void *context, struct lam_err *err)
{
    struct split_run run = {.pretok = pretok, .word = word, .context = context};
    enum lam_status status;

    run.match = pcre2_match_data_create(1, pretok->general);
    if (!run.match)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to pre-tokenize");
    status = split_piece(&run, 0, text, n, err);
    pcre2_match_data_free(run.match);
    return status;
}
