/* status: see status.h. */
#include "common/status.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[] = {
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
};

const char *lam_status_name(enum lam_status status)
{
    return status_names[lam_status_from_wire((int)status)];
}

enum lam_status lam_status_from_wire(int code)
{
    if (code < (int)LAM_OK || code > (int)LAM_DATA_LOSS)
        return LAM_UNKNOWN;
    return (enum lam_status)code;
}

enum lam_status lam_fail(struct lam_err *err, enum lam_status status, const char *fmt, ...)
{
    if (err) {
        va_list args;
        err->status = status;
        err->no_fit = false;
        va_start(args, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
    }
    return status;
}

enum lam_status lam_fail_no_fit(struct lam_err *err, const char *fmt, ...)
{
    if (err) {
        va_list args;
        err->status = LAM_RESOURCE_EXHAUSTED;
        err->no_fit = true;
        va_start(args, fmt);
        vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
    }
    return LAM_RESOURCE_EXHAUSTED;
}

static enum lam_status status_of_errno(int native_errno)
{
    switch (native_errno) {
    case ENOENT:
    case ENOTDIR:
        return LAM_NOT_FOUND;
    case EACCES:
    case EPERM:
        return LAM_PERMISSION_DENIED;
    case EADDRINUSE:
    case EEXIST:
        return LAM_ALREADY_EXISTS;
    case ENOMEM:
    case EMFILE:
    case ENFILE:
    case ENOSPC:
        return LAM_RESOURCE_EXHAUSTED;
    case EINVAL:
    case EISDIR:
        return LAM_INVALID_ARGUMENT;
    case ENOSYS:
    case EOPNOTSUPP:
        return LAM_UNIMPLEMENTED;
    default:
        return LAM_UNAVAILABLE;
    }
}

enum lam_status lam_fail_errno(struct lam_err *err, int native_errno, const char *fmt, ...)
{
    enum lam_status status = status_of_errno(native_errno);
    char reason[96];

    if (err) {
        va_list args;
        int used;
        err->status = status;
        err->no_fit = false;
        va_start(args, fmt);
        used = vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        if (used >= 0 && (size_t)used < sizeof err->text)
            snprintf(err->text + used, sizeof err->text - (size_t)used, ": %s%s",
                strerror_r(native_errno, reason, sizeof reason),
                native_errno == EMFILE ? "; raise the limit with 'ulimit -n'" : "");
    }
    return status;
}

enum lam_status lam_err_wrap(struct lam_err *err, enum lam_status status, const char *fmt, ...)
{
    if (err) {
        char inner[sizeof err->text];
        va_list args;
        int used;
        memcpy(inner, err->text, sizeof inner);
        err->status = status;
        va_start(args, fmt);
        used = vsnprintf(err->text, sizeof err->text, fmt, args);
        va_end(args);
        if (used >= 0 && (size_t)used < sizeof err->text)
            snprintf(err->text + used, sizeof err->text - (size_t)used, ": %.*s",
                (int)sizeof inner - used, inner);
    }
    return status;
}
