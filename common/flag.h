/*
 * flag: command lines from a table.
 *
 * A program describes its flags once; parsing, range checks, defaults in --help and error texts
 * follow from the table. Flags are written `--name value`, `--name=value` or `-n value`; `--` ends
 * them; operands may stand anywhere. A bad line gives LAM_INVALID_ARGUMENT with the flag named;
 * main prints it and exits 2.
 */
#ifndef LAMINAR_COMMON_FLAG_H
#define LAMINAR_COMMON_FLAG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/status.h"

enum lam_flag_kind {
    LAM_FLAG_BOOL,   /* target: bool *; takes no value, sets true */
    LAM_FLAG_TEXT,   /* target: const char **; points into argv */
    LAM_FLAG_INT,    /* target: int64_t *; min..max inclusive */
    LAM_FLAG_REAL,   /* target: double *; min..max inclusive, never NaN */
    LAM_FLAG_CHOICE, /* target: const char **; one of `choices`, separated by '|' */
    LAM_FLAG_LIST,   /* target: struct lam_flag_list *; may be given several times */
};

/* The values of a flag that may be repeated, in their order; they point into argv. */
struct lam_flag_list {
    const char **items; /* [max], the caller's */
    size_t n;           /* 0 before parsing */
    size_t max;
};

struct lam_flag {
    const char *name; /* without dashes; NULL ends the table */
    char letter;      /* short form, 0 for none */
    enum lam_flag_kind kind;
    void *target;      /* holds the default before parsing */
    const char *value; /* the value's name in --help, for example "SIZE"; NULL for booleans */
    const char *help;  /* one sentence */
    double min, max;   /* for INT and REAL */
    const char *choices;
    bool *was_set; /* may be NULL: set true when the flag is given */
};

/* What a line asks for instead of running the program. */
enum lam_flag_ask {
    LAM_FLAG_ASK_NOTHING,
    LAM_FLAG_ASK_HELP,    /* --help, -h */
    LAM_FLAG_ASK_VERSION, /* --version */
};

struct lam_flag_program {
    const char *usage;   /* "laminar run MODEL [flags]" */
    const char *summary; /* what it does: a paragraph */
    const struct lam_flag *flags;
    const char *epilog; /* examples; no line end behind the last; may be NULL */
};

/*
 * Parses argv[1..argc). Operands are moved, in order, to operands[0, *ret_n_operands);
 * `max_operands` of them at most. --help and --version, which every program has, set *ret_ask and
 * stop. A flag given twice is an error, but for lists.
 */
LAM_MUST_USE enum lam_status lam_flag_parse(const struct lam_flag_program *program, int argc,
    char **argv, const char **operands, size_t max_operands, size_t *ret_n_operands,
    enum lam_flag_ask *ret_ask, struct lam_err *err);

/* Writes the help text to stdout. An INT or REAL whose default is outside of its range has none: it
 * is shown without. */
void lam_flag_print_help(const struct lam_flag_program *program);

/* A whole decimal integer in min..max, no spaces, no sign but '-'. */
LAM_MUST_USE bool lam_int_parse(const char *text, int64_t min, int64_t max, int64_t *ret);

#endif
