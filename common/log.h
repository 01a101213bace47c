/*
 * log: one line per event on stderr. Services log, library code does not: it returns a lam_err.
 *
 * On a terminal the line is "HH:MM:SS level component: message"; otherwise it is one JSON object
 * with ts, level, component, message. A message is cut after 1,023 bytes; whatever bytes it holds,
 * the line stays one line of UTF-8. Prompts, generated text and secrets are never logged.
 */
#ifndef LAMINAR_COMMON_LOG_H
#define LAMINAR_COMMON_LOG_H

#include <stdbool.h>

#include "common/status.h"

enum lam_log_level { LAM_LOG_DEBUG, LAM_LOG_INFO, LAM_LOG_WARN, LAM_LOG_ERROR, LAM_LOG_OFF };

/* Once, in main, before other threads exist. component: a literal such as "loader". */
void lam_log_init(const char *component, enum lam_log_level min_level);

/* Reads "debug", "info", "warn", "error", "off". */
LAM_MUST_USE bool lam_log_level_parse(const char *text, enum lam_log_level *ret_level);

/* Safe from any thread; one write(2) per line. */
void lam_log(enum lam_log_level level, const char *fmt, ...) LAM_PRINTF(2, 3);

#define lam_debug(...) lam_log(LAM_LOG_DEBUG, __VA_ARGS__)
#define lam_info(...) lam_log(LAM_LOG_INFO, __VA_ARGS__)
#define lam_warn(...) lam_log(LAM_LOG_WARN, __VA_ARGS__)
#define lam_error(...) lam_log(LAM_LOG_ERROR, __VA_ARGS__)

#endif
