/* log: see log.h. */
#include "common/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warn", "error", "off"};
static const char *log_component = "laminar";
static enum lam_log_level log_min_level = LAM_LOG_INFO;
static bool log_is_terminal;

void lam_log_init(const char *component, enum lam_log_level min_level)
{
    log_component = component;
    log_min_level = min_level;
    log_is_terminal = isatty(STDERR_FILENO) == 1;
}

bool lam_log_level_parse(const char *text, enum lam_log_level *ret_level)
{
    for (int i = LAM_LOG_DEBUG; i <= (int)LAM_LOG_OFF; i++)
        if (strcmp(text, level_names[i]) == 0) {
            *ret_level = (enum lam_log_level)i;
            return true;
        }
    return false;
}

/* Escapes for JSON; cuts what does not fit. Bytes above 0x7f pass: our texts are UTF-8. */
static void escape_json(const char *text, char *out, size_t out_bytes)
{
    size_t used = 0;

    for (; *text && used + 7 < out_bytes; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            out[used++] = '\\';
            out[used++] = (char)c;
        } else if (c < 0x20) {
            used += (size_t)snprintf(out + used, out_bytes - used, "\\u%04x", c);
        } else {
            out[used++] = (char)c;
        }
    }
    out[used] = '\0';
}

void lam_log(enum lam_log_level level, const char *fmt, ...)
{
    char message[1024];
    char line[2300];
    char when[40];
    struct timespec now;
    struct tm parts;
    va_list args;
    int length;

    if (level < log_min_level)
        return;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    if (log_is_terminal) {
        strftime(when, sizeof when, "%H:%M:%S", &parts);
        length = snprintf(line, sizeof line, "%s %-5s %s: %s\n", when, level_names[level],
            log_component, message);
    } else {
        char escaped[2048];
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &parts);
        escape_json(message, escaped, sizeof escaped);
        length = snprintf(line, sizeof line,
            "{\"ts\":\"%s.%03ldZ\",\"level\":\"%s\",\"component\":\"%s\",\"message\":\"%s\"}\n",
            when, now.tv_nsec / 1000000, level_names[level], log_component, escaped);
    }
    if (length > 0 && write(STDERR_FILENO, line, (size_t)length) < 0)
        return; /* stderr is gone: nowhere to say so */
}
