/* command: see command.h. */
#include "cli/command.h"

#include "common/utf8.h"

#define PROGRAM_NAME "laminar"

int lam_command_fail(const struct lam_err *err)
{
    return lam_program_fail(PROGRAM_NAME, err, LAM_EXIT_FAILED);
}

int lam_command_no_fit(const struct lam_err *err)
{
    return lam_program_fail(PROGRAM_NAME, err, LAM_EXIT_NO_FIT);
}

int lam_command_usage(const struct lam_err *err)
{
    return lam_program_fail(PROGRAM_NAME, err, LAM_EXIT_USAGE);
}

bool lam_command_begin(const struct lam_flag_program *program, int argc, char **argv,
    const char **operands, size_t n_operands, int *ret_exit)
{
    return lam_program_begin(PROGRAM_NAME, program, argc, argv, operands, n_operands, ret_exit);
}

bool lam_command_begin_list(const struct lam_flag_program *program, int argc, char **argv,
    const char **operands, size_t operands_max, size_t *ret_n, int *ret_exit)
{
    return lam_program_begin_list(
        PROGRAM_NAME, program, argc, argv, operands, operands_max, ret_n, ret_exit);
}

static void add_unless_ignored(sigset_t *signals, int number)
{
    struct sigaction now;

    if (sigaction(number, NULL, &now) == 0 && now.sa_handler != SIG_IGN)
        sigaddset(signals, number);
}

void lam_command_end_signals(sigset_t *ret_signals)
{
    sigemptyset(ret_signals);
    add_unless_ignored(ret_signals, SIGINT);
    add_unless_ignored(ret_signals, SIGTERM);
    add_unless_ignored(ret_signals, SIGHUP);
}

void lam_command_print_clean(FILE *out, const char *text, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        fputc((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? '?' : text[i], out);
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
