/* program: see program.h. */
#include "common/program.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

bool lam_program_begin_list(const char *name, const struct lam_flag_program *program, int argc,
    char **argv, const char **operands, size_t operands_max, size_t *ret_n, int *ret_exit)
{
    struct lam_err err = {0};
    enum lam_flag_ask ask = LAM_FLAG_ASK_NOTHING;
    enum lam_status status =
        lam_flag_parse(program, argc, argv, operands, operands_max, ret_n, &ask, &err);

    if (status != LAM_OK) {
        *ret_exit = lam_program_fail(name, &err, LAM_EXIT_USAGE);
        return false;
    }
    if (ask == LAM_FLAG_ASK_HELP)
        lam_flag_print_help(program);
    if (ask == LAM_FLAG_ASK_VERSION)
        printf("%s %s\n", name, LAM_VERSION);
    if (ask == LAM_FLAG_ASK_NOTHING)
        return true;
    *ret_exit = LAM_EXIT_OK;
    return false;
}

/* The operand of that number, as the usage line spells it: its words in capitals, up to the first
 * flag. */
static void operand_name(const char *usage, size_t number, char *text, size_t text_bytes)
{
    for (const char *word = usage; *word && *word != '[';) {
        size_t n = strcspn(word, " ");
        if (word[0] >= 'A' && word[0] <= 'Z' && number-- == 0) {
            snprintf(text, text_bytes, "%.*s", (int)n, word);
            return;
        }
        word += n + (word[n] == ' ');
    }
    snprintf(text, text_bytes, "an operand");
}

bool lam_program_begin(const char *name, const struct lam_flag_program *program, int argc,
    char **argv, const char **operands, size_t n_operands, int *ret_exit)
{
    struct lam_err err = {0};
    size_t n_given = 0;
    char missing[32];

    if (!lam_program_begin_list(
            name, program, argc, argv, operands, n_operands, &n_given, ret_exit))
        return false;
    if (n_given == n_operands)
        return true;
    operand_name(program->usage, n_given, missing, sizeof missing);
    lam_fail(&err, LAM_INVALID_ARGUMENT, "%s is missing; usage: %s", missing, program->usage);
    *ret_exit = lam_program_fail(name, &err, LAM_EXIT_USAGE);
    return false;
}

/* Errors quote names from files and arguments. */
int lam_program_fail(const char *name, const struct lam_err *err, enum lam_exit code)
{
    char text[sizeof err->text];
    size_t n = 0;

    for (const char *p = err->text; *p; p++, n++)
        text[n] = (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p;
    text[n] = '\0';
    fflush(stdout);
    fprintf(stderr, "%s: %s\n", name, text);
    return (int)code;
}

void lam_program_start(const char *component, const char *log_level, sigset_t *ret_stop)
{
    enum lam_log_level level = LAM_LOG_INFO;
    bool known = lam_log_level_parse(log_level, &level);
    int failed;

    assert(known);
    lam_log_init(component, level);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(ret_stop);
    sigaddset(ret_stop, SIGTERM);
    sigaddset(ret_stop, SIGINT);
    failed = pthread_sigmask(SIG_BLOCK, ret_stop, NULL);
    assert(!failed);
}

void lam_program_end(const char *run_dir, enum lam_status status, const struct lam_err *err)
{
    if (status != LAM_OK) {
        lam_error("%s", err->text);
        return;
    }
    if (run_dir && rmdir(run_dir) != 0 && errno != ENOTEMPTY && errno != EEXIST && errno != ENOENT)
        lam_warn("cannot remove %s: %s", run_dir, strerror(errno));
}
