/*
 * status: the one error convention of Laminar.
 *
 * A fallible function returns `enum lam_status` (LAM_OK is zero) and takes `struct lam_err *err`
 * last. On failure it fills *err once, with a sentence that names the thing and the remedy; outputs
 * keep their old values. The numbers are gRPC's canonical codes, so a status crosses the wire
 * without a table.
 *
 * Programmer errors are assertions (kept in release builds), never statuses.
 */
#ifndef LAMINAR_COMMON_STATUS_H
#define LAMINAR_COMMON_STATUS_H

#include <stdbool.h>

enum lam_status {
    LAM_OK = 0,
    LAM_CANCELLED = 1,           /* the caller went away */
    LAM_UNKNOWN = 2,             /* a peer's status that is outside this list */
    LAM_INVALID_ARGUMENT = 3,    /* the request or file is malformed */
    LAM_DEADLINE_EXCEEDED = 4,   /* time ran out */
    LAM_NOT_FOUND = 5,           /* no such file, model, session */
    LAM_ALREADY_EXISTS = 6,      /* name or port taken */
    LAM_PERMISSION_DENIED = 7,   /* EACCES, EPERM */
    LAM_RESOURCE_EXHAUSTED = 8,  /* memory, slots, credits, file descriptors */
    LAM_FAILED_PRECONDITION = 9, /* right request, wrong moment */
    LAM_ABORTED = 10,            /* lost a race; retry */
    LAM_OUT_OF_RANGE = 11,       /* past the end, or more bytes needed */
    LAM_UNIMPLEMENTED = 12,      /* valid, but this build cannot do it */
    LAM_INTERNAL = 13,           /* our own defect */
    LAM_UNAVAILABLE = 14,        /* peer or device gone; retry later */
    LAM_DATA_LOSS = 15,          /* bytes differ from what they were */
};

#define LAM_MUST_USE __attribute__((warn_unused_result))
#define LAM_PRINTF(fmt_index, args_index) __attribute__((format(printf, fmt_index, args_index)))

/* A failure in words. Zero-initialise; `text` is always NUL-terminated. */
struct lam_err {
    enum lam_status status;
    bool no_fit; /* of RESOURCE_EXHAUSTED: the model does not fit into the memory it was given */
    char text[503];
};

/*
 * Records a failure and returns `status`, so that a caller can write `return lam_fail(err, ...)`.
 * err: may be NULL. fmt: one sentence without a trailing newline. Longer text is cut at the
 * buffer's end.
 */
enum lam_status lam_fail(struct lam_err *err, enum lam_status status, const char *fmt, ...)
    LAM_PRINTF(3, 4);

/* As lam_fail with LAM_RESOURCE_EXHAUSTED and no_fit. */
enum lam_status lam_fail_no_fit(struct lam_err *err, const char *fmt, ...) LAM_PRINTF(2, 3);

/* As lam_fail, from errno: appends ": <strerror>", with the remedy for descriptors, and picks the
 * status that fits `native_errno`. */
enum lam_status lam_fail_errno(struct lam_err *err, int native_errno, const char *fmt, ...)
    LAM_PRINTF(3, 4);

/*
 * Puts "<prefix>: " before the text of a failure: context added on the way up. status: that of the
 * failure, returned as lam_fail does. err: may be NULL.
 */
enum lam_status lam_err_wrap(struct lam_err *err, enum lam_status status, const char *fmt, ...)
    LAM_PRINTF(3, 4);

/* The canonical name, for example "INVALID_ARGUMENT". Never NULL. */
const char *lam_status_name(enum lam_status status);

/* Maps a number from the wire; anything outside the list becomes LAM_UNKNOWN. */
enum lam_status lam_status_from_wire(int code);

/* Drops a must-use result on purpose; `why` is for the reader. */
#define lam_ignore(expr, why)                                                                      \
    do {                                                                                           \
        if (expr) {                                                                                \
        }                                                                                          \
    } while (0)

#endif
