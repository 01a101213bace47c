/* command: see command.h. */
#include "cli/command.h"

#include <stdio.h>
#include <string.h>

#include "common/utf8.h"

/* Errors quote names from files and arguments: what could steer a terminal is shown as '?'. */
static int print_error(const struct lam_err *err, int exit_code)
{
    char text[sizeof err->text];
    size_t n = 0;

    for (const char *p = err->text; *p; p++, n++)
        text[n] = (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p;
    text[n] = '\0';
    fflush(stdout);
    fprintf(stderr, "laminar: %s\n", text);
    return exit_code;
}

int lam_command_fail(const struct lam_err *err)
{
    return print_error(err, LAM_EXIT_FAILED);
}

int lam_command_no_fit(const struct lam_err *err)
{
    return print_error(err, LAM_EXIT_NO_FIT);
}

int lam_command_usage(const struct lam_err *err)
{
    return print_error(err, LAM_EXIT_USAGE);
}

bool lam_command_begin(const struct lam_flag_program *program, int argc, char **argv,
    const char **operands, size_t n_operands, int *ret_exit)
{
    struct lam_err err = {0};
    size_t n_given = 0;
    bool help = false;

    if (lam_flag_parse(program, argc, argv, operands, n_operands, &n_given, &help, &err)) {
        *ret_exit = lam_command_usage(&err);
        return false;
    }
    if (help) {
        lam_flag_print_help(program);
        *ret_exit = LAM_EXIT_OK;
        return false;
    }
    if (n_given < n_operands) {
        lam_fail(&err, LAM_INVALID_ARGUMENT, "an operand is missing; usage: %s", program->usage);
        *ret_exit = lam_command_usage(&err);
        return false;
    }
    return true;
}

enum lam_status lam_command_check_text(
    const char *what, const char *text, size_t n_bytes, struct lam_err *err)
{
    size_t at = 0;

    while (at < n_bytes) {
        uint32_t code = 0;
        int length = lam_utf8_decode(text + at, n_bytes - at, &code);
        if (length <= 0)
            return lam_fail(err, LAM_INVALID_ARGUMENT,
                "%s is not UTF-8 at byte %zu; convert it, for example with iconv", what, at);
        if (code == 0)
            return lam_fail(
                err, LAM_INVALID_ARGUMENT, "%s has a zero byte at byte %zu; remove it", what, at);
        at += (size_t)length;
    }
    return LAM_OK;
}
