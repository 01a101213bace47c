/* core: see core.h. */
#include "rpc/core.h"

#include <grpc/byte_buffer_reader.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <limits.h>
#include <pthread.h>

#include "common/clock.h"
#include "common/log.h"

static pthread_once_t init_once = PTHREAD_ONCE_INIT;

static void write_log(gpr_log_func_args *args)
{
    if (args->severity == GPR_LOG_SEVERITY_ERROR)
        lam_warn("grpc: %s", args->message);
    else
        lam_debug("grpc: %s", args->message);
}

static void init(void)
{
    gpr_set_log_function(write_log);
    grpc_init();
}

void lam_core_init(void)
{
    pthread_once(&init_once, init);
}

grpc_arg lam_core_arg(const char *name, int value)
{
    grpc_arg arg = {.type = GRPC_ARG_INTEGER};

    /* The core never writes to a key; its field is not const for C++ history. */
    arg.key = (char *)(uintptr_t)name;
    arg.value.integer = value;
    return arg;
}

int lam_core_limit(size_t bytes)
{
    return bytes > INT_MAX ? -1 : (int)bytes;
}

gpr_timespec lam_core_deadline(uint64_t timeout_ns)
{
    uint64_t now_ns = lam_now_ns();
    gpr_timespec deadline;

    /* Beyond a century a timeout is none, and adding it to now would overflow some day. */
    if (timeout_ns > 100ull * 365 * 86400 * LAM_NS_PER_S)
        return gpr_inf_future(GPR_CLOCK_MONOTONIC);
    deadline.clock_type = GPR_CLOCK_MONOTONIC;
    deadline.tv_sec = (int64_t)((now_ns + timeout_ns) / LAM_NS_PER_S);
    deadline.tv_nsec = (int32_t)((now_ns + timeout_ns) % LAM_NS_PER_S);
    return deadline;
}

bool lam_core_read(grpc_byte_buffer *buffer, struct lam_buf *out)
{
    grpc_byte_buffer_reader reader;
    grpc_slice slice;
    bool ok = true;

    if (!grpc_byte_buffer_reader_init(&reader, buffer))
        return false;
    while (ok && grpc_byte_buffer_reader_next(&reader, &slice)) {
        ok = lam_buf_append(out, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
        grpc_slice_unref(slice);
    }
    grpc_byte_buffer_reader_destroy(&reader);
    return ok;
}
