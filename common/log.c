/* log: see log.h. */
#include "common/log.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/utf8.h"

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

/*
 * Copies text so that it cannot break its line, nor command a terminal: control characters become
 * \uXXXX, bytes that are no UTF-8 become U+FFFD. What does not fit is cut between characters, and
 * so is a character that the text itself was cut in.
 */
static void escape(const char *text, bool in_json, char *out, size_t out_bytes)
{
    size_t left = strlen(text);
    size_t used = 0;

    while (left > 0 && used + 7 <= out_bytes) {
        uint32_t code = 0;
        int length = lam_utf8_decode(text, left, &code);
        if (length < 0)
            break;
        if (length == 0) {
            used += lam_utf8_encode(0xfffd, out + used);
            length = 1;
        } else if (code < 0x20 || (code >= 0x7f && code < 0xa0)) {
            used += (size_t)snprintf(out + used, out_bytes - used, "\\u%04x", (unsigned)code);
        } else {
            if (in_json && (code == '"' || code == '\\'))
                out[used++] = '\\';
            memcpy(out + used, text, (size_t)length);
            used += (size_t)length;
        }
        text += length;
        left -= (size_t)length;
    }
    out[used] = '\0';
}

void lam_log(enum lam_log_level level, const char *fmt, ...)
{
    char message[1024];
    char escaped[2048];
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
    escape(message, !log_is_terminal, escaped, sizeof escaped);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &parts);
    if (log_is_terminal) {
        strftime(when, sizeof when, "%H:%M:%S", &parts);
        length = snprintf(line, sizeof line, "%s %-5s %s: %s\n", when, level_names[level],
            log_component, escaped);
    } else {
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &parts);
        length = snprintf(line, sizeof line,
            "{\"ts\":\"%s.%03ldZ\",\"level\":\"%s\",\"component\":\"%s\",\"message\":\"%s\"}\n",
            when, now.tv_nsec / 1000000, level_names[level], log_component, escaped);
    }
    if (length > 0 && write(STDERR_FILENO, line, (size_t)length) < 0)
        return; /* stderr is gone: nowhere to say so */
}
