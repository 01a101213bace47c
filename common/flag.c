/*
 * flag: see flag.h.
 *
 * The line is walked twice: the first walk checks everything, the second stores. So a bad line
 * changes no target, and --help shows the defaults of the table wherever it stands.
 */
#include "common/flag.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_MAX 64u /* bits of walk.seen */
#define HELP_COLUMN 30
#define HELP_WIDTH 96

struct walk {
    const struct lam_flag_program *program;
    int argc;
    char **argv;
    int at; /* the next argument */
    bool store;
    uint64_t seen;             /* bit i: flags[i] was given */
    size_t n_items[FLAGS_MAX]; /* of flags[i], a list */
    struct lam_err *err;
};

bool lam_int_parse(const char *text, int64_t min, int64_t max, int64_t *ret)
{
    bool negative = *text == '-';
    const char *p = text + negative;
    int64_t value = 0;

    if (!*p)
        return false;
    for (; isdigit((unsigned char)*p); p++) {
        int digit = *p - '0';
        /* Towards the sign, so that INT64_MIN can be read. */
        if (__builtin_mul_overflow(value, (int64_t)10, &value) ||
            __builtin_add_overflow(value, (int64_t)(negative ? -digit : digit), &value))
            return false;
    }
    if (*p || value < min || value > max)
        return false;
    *ret = value;
    return true;
}

static const char *skip_digits(const char *p)
{
    while (isdigit((unsigned char)*p))
        p++;
    return p;
}

/* -1.5e-3. The form is checked here because strtod also takes "nan", "inf", "0x1p3" and spaces. */
static bool parse_real(const char *text, double min, double max, double *ret)
{
    const char *p = text + (*text == '-');
    const char *digits = p;
    double value;

    p = skip_digits(p);
    if (*p == '.') {
        digits++;
        p = skip_digits(p + 1);
    }
    if (p == digits)
        return false;
    if (*p == 'e' || *p == 'E') {
        p += p[1] == '-' || p[1] == '+' ? 2 : 1;
        if (!isdigit((unsigned char)*p))
            return false;
        p = skip_digits(p);
    }
    if (*p)
        return false;
    value = strtod(text, NULL);
    if (!(value >= min && value <= max))
        return false;
    *ret = value;
    return true;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t length = strlen(value);

    for (const char *p = choices; p; p = strchr(p, '|')) {
        p += *p == '|';
        if (length > 0 && strcspn(p, "|") == length && memcmp(p, value, length) == 0)
            return true;
    }
    return false;
}

/* A bound of the table as an integer: 0x1p63 itself has no int64_t. */
static int64_t int_bound(double bound)
{
    if (bound >= 0x1p63)
        return INT64_MAX;
    if (bound <= -0x1p63)
        return INT64_MIN;
    return (int64_t)bound;
}

static void add_item(struct lam_flag_list *list, const char *value)
{
    assert(list->n < list->max); /* counted by the first walk */
    list->items[list->n++] = value;
}

static enum lam_status set_value(struct walk *walk, const struct lam_flag *flag, const char *value)
{
    int64_t integer = 0;
    double real = 0;

    switch (flag->kind) {
    case LAM_FLAG_BOOL:
        break;
    case LAM_FLAG_TEXT:
    case LAM_FLAG_LIST:
        break;
    case LAM_FLAG_INT:
        if (!lam_int_parse(value, int_bound(flag->min), int_bound(flag->max), &integer))
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT,
                "--%s: '%.64s' is no whole number from %lld to %lld", flag->name, value,
                (long long)int_bound(flag->min), (long long)int_bound(flag->max));
        break;
    case LAM_FLAG_REAL:
        if (!parse_real(value, flag->min, flag->max, &real))
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT,
                "--%s: '%.64s' is no number from %g to %g", flag->name, value, flag->min,
                flag->max);
        break;
    case LAM_FLAG_CHOICE:
        if (!is_choice(flag->choices, value))
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT, "--%s: '%.64s' is none of %s",
                flag->name, value, flag->choices);
        break;
    }
    if (!walk->store)
        return LAM_OK;
    if (flag->kind == LAM_FLAG_BOOL)
        *(bool *)flag->target = true;
    else if (flag->kind == LAM_FLAG_INT)
        *(int64_t *)flag->target = integer;
    else if (flag->kind == LAM_FLAG_REAL)
        *(double *)flag->target = real;
    else if (flag->kind == LAM_FLAG_LIST)
        add_item(flag->target, value);
    else
        *(const char **)flag->target = value;
    if (flag->was_set)
        *flag->was_set = true;
    return LAM_OK;
}

/* By letter when `letter` is not 0, else by name[0, length). NULL when there is none. */
static const struct lam_flag *find_flag(
    const struct lam_flag *flags, char letter, const char *name, size_t length)
{
    for (const struct lam_flag *flag = flags; flag->name; flag++) {
        if (letter ? flag->letter == letter
                   : strlen(flag->name) == length && strncmp(flag->name, name, length) == 0)
            return flag;
    }
    return NULL;
}

/* A flag may be given once; a list as often as it has room. */
static enum lam_status note_flag(struct walk *walk, const struct lam_flag *flag)
{
    size_t index = (size_t)(flag - walk->program->flags);
    uint64_t bit = 1ull << index;

    if (flag->kind == LAM_FLAG_LIST) {
        const struct lam_flag_list *list = flag->target;

        if (++walk->n_items[index] > list->max)
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT,
                "--%s is given more than %zu times; leave some out", flag->name, list->max);
        return LAM_OK;
    }
    if (walk->seen & bit)
        return lam_fail(
            walk->err, LAM_INVALID_ARGUMENT, "--%s is given twice; keep one", flag->name);
    walk->seen |= bit;
    return LAM_OK;
}

/* argv[at] begins with '-' and is longer than that. */
static enum lam_status take_flag(struct walk *walk, enum lam_flag_ask *ret_ask)
{
    const char *arg = walk->argv[walk->at++];
    bool is_long = arg[1] == '-';
    const char *name = arg + (is_long ? 2 : 1);
    size_t length = is_long ? strcspn(name, "=") : 1;
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    const struct lam_flag *flag = NULL;
    enum lam_status status;

    if (is_long || !name[1])
        flag = find_flag(walk->program->flags, is_long ? '\0' : *name, name, length);
    if (!flag && (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0)) {
        *ret_ask = LAM_FLAG_ASK_HELP;
        return LAM_OK;
    }
    if (!flag && strcmp(arg, "--version") == 0) {
        *ret_ask = LAM_FLAG_ASK_VERSION;
        return LAM_OK;
    }
    if (!flag)
        return lam_fail(walk->err, LAM_INVALID_ARGUMENT,
            "unknown flag %.64s; --help lists the flags, -- ends them", arg);
    status = note_flag(walk, flag);
    if (status)
        return status;
    if (flag->kind == LAM_FLAG_BOOL && value)
        return lam_fail(walk->err, LAM_INVALID_ARGUMENT,
            "--%s takes no value; write --%s alone or leave it out", flag->name, flag->name);
    if (flag->kind != LAM_FLAG_BOOL && !value) {
        if (walk->at == walk->argc)
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT, "--%s needs a value: --%s %s",
                flag->name, flag->name, flag->value);
        value = walk->argv[walk->at++];
    }
    return set_value(walk, flag, value);
}

static enum lam_status walk_line(struct walk *walk, const char **operands, size_t max_operands,
    size_t *ret_n_operands, enum lam_flag_ask *ret_ask)
{
    size_t n_operands = 0;
    bool flags_over = false;
    enum lam_flag_ask ask = LAM_FLAG_ASK_NOTHING;

    while (walk->at < walk->argc && ask == LAM_FLAG_ASK_NOTHING) {
        const char *arg = walk->argv[walk->at];
        if (!flags_over && strcmp(arg, "--") == 0) {
            flags_over = true;
            walk->at++;
        } else if (!flags_over && arg[0] == '-' && arg[1]) {
            enum lam_status status = take_flag(walk, &ask);
            if (status)
                return status;
        } else if (n_operands == max_operands) {
            return lam_fail(walk->err, LAM_INVALID_ARGUMENT,
                "'%.64s' is one operand too many; usage: %s", arg, walk->program->usage);
        } else {
            operands[n_operands++] = arg;
            walk->at++;
        }
    }
    *ret_n_operands = n_operands;
    *ret_ask = ask;
    return LAM_OK;
}

/* Errors in the table are ours, not the user's. */
static void check_table(const struct lam_flag *flags)
{
    size_t n = 0;

    for (; flags[n].name; n++) {
        assert(flags[n].target);
        assert(flags[n].kind == LAM_FLAG_BOOL || flags[n].value);
        assert(flags[n].kind != LAM_FLAG_CHOICE || flags[n].choices);
    }
    assert(n <= FLAGS_MAX);
}

enum lam_status lam_flag_parse(const struct lam_flag_program *program, int argc, char **argv,
    const char **operands, size_t max_operands, size_t *ret_n_operands, enum lam_flag_ask *ret_ask,
    struct lam_err *err)
{
    struct walk walk = {.program = program, .argc = argc, .argv = argv, .at = 1, .err = err};
    enum lam_status status;
    enum lam_flag_ask ask;
    size_t n_operands;

    check_table(program->flags);
    status = walk_line(&walk, operands, max_operands, &n_operands, &ask);
    if (status)
        return status;
    if (ask == LAM_FLAG_ASK_NOTHING) {
        walk.at = 1;
        walk.seen = 0;
        memset(walk.n_items, 0, sizeof walk.n_items);
        walk.store = true;
        status = walk_line(&walk, operands, max_operands, &n_operands, &ask);
        assert(status == LAM_OK);
    }
    *ret_n_operands = n_operands;
    *ret_ask = ask;
    return LAM_OK;
}

/* Writes words from `column` on, wrapped to `indent`. Returns the column after the last word. */
static int print_words(const char *text, int column, int indent)
{
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > HELP_WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        }
        column += printf("%s%.*s", column > indent ? " " : "", length, text);
        text += length + (text[length] == ' ');
    }
    return column;
}

static void describe_int(const struct lam_flag *flag, char *buf, size_t buf_bytes)
{
    long long min = int_bound(flag->min);
    long long max = int_bound(flag->max);
    long long value = *(const int64_t *)flag->target;
    int n = max == INT64_MAX ? snprintf(buf, buf_bytes, "[from %lld", min)
                             : snprintf(buf, buf_bytes, "[%lld..%lld", min, max);

    if (value >= min && value <= max)
        snprintf(buf + n, buf_bytes - (size_t)n, ", default %lld]", value);
    else
        snprintf(buf + n, buf_bytes - (size_t)n, "]");
}

static void describe_real(const struct lam_flag *flag, char *buf, size_t buf_bytes)
{
    double value = *(const double *)flag->target;
    int n = snprintf(buf, buf_bytes, "[%g..%g", flag->min, flag->max);

    if (value >= flag->min && value <= flag->max)
        snprintf(buf + n, buf_bytes - (size_t)n, ", default %g]", value);
    else
        snprintf(buf + n, buf_bytes - (size_t)n, "]");
}

/* "[1..100, default 8]", as far as the kind has it. */
static void describe_value(const struct lam_flag *flag, char *buf, size_t buf_bytes)
{
    const char *text = NULL;

    buf[0] = '\0';
    switch (flag->kind) {
    case LAM_FLAG_BOOL:
        break;
    case LAM_FLAG_LIST:
        snprintf(buf, buf_bytes, "[may be repeated]");
        break;
    case LAM_FLAG_INT:
        describe_int(flag, buf, buf_bytes);
        break;
    case LAM_FLAG_REAL:
        describe_real(flag, buf, buf_bytes);
        break;
    case LAM_FLAG_TEXT:
    case LAM_FLAG_CHOICE:
        text = *(const char *const *)flag->target;
        if (flag->choices && text)
            snprintf(buf, buf_bytes, "[%s, default %s]", flag->choices, text);
        else if (flag->choices)
            snprintf(buf, buf_bytes, "[%s]", flag->choices);
        else if (text && *text)
            snprintf(buf, buf_bytes, "[default %s]", text);
        break;
    }
}

void lam_flag_print_help(const struct lam_flag_program *program)
{
    char value_text[256];

    printf("usage: %s\n\n", program->usage);
    print_words(program->summary, 0, 0);
    printf("\n\nflags:\n");
    for (const struct lam_flag *flag = program->flags; flag->name; flag++) {
        char letter[5] = "    ";
        int column;
        if (flag->letter)
            snprintf(letter, sizeof letter, "-%c, ", flag->letter);
        column = printf("  %s--%s%s%s", letter, flag->name, flag->value ? " " : "",
            flag->value ? flag->value : "");
        if (column >= HELP_COLUMN) {
            printf("\n");
            column = 0;
        }
        printf("%*s", HELP_COLUMN - column, "");
        column = print_words(flag->help, HELP_COLUMN, HELP_COLUMN);
        describe_value(flag, value_text, sizeof value_text);
        print_words(value_text, column, HELP_COLUMN);
        printf("\n");
    }
    printf("  -h, --help%*sShow this text.\n", HELP_COLUMN - 12, "");
    printf("      --version%*sShow the version.\n", HELP_COLUMN - 15, "");
    if (program->epilog)
        printf("\n%s\n", program->epilog);
}
