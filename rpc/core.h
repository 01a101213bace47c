/*
 * core: what our server and our client share of the gRPC C core: its life, its log lines, bytes and
 * time. Private to rpc/.
 */
#ifndef LAMINAR_RPC_CORE_H
#define LAMINAR_RPC_CORE_H

#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/slice.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/status.h"

/* Server and client ping a silent peer; the interval that a server tolerates is far below (equal
 * values fail by milliseconds). */
#define LAM_CORE_KEEPALIVE_MS 30000
#define LAM_CORE_KEEPALIVE_TIMEOUT_MS 10000
#define LAM_CORE_PING_INTERVAL_MIN_MS 10000
#define LAM_CORE_METADATA_BYTES_MAX 8192

/*
 * Starts the library and routes its log lines into common/log; any number of times, from any
 * thread. It is never shut down: grpc_shutdown joins a helper thread that may sit in a poll of ten
 * seconds, and Ctrl-C would wait for it.
 */
void lam_core_init(void);

/* An integer channel argument. name: static storage. */
grpc_arg lam_core_arg(const char *name, int value);

/* For an argument that holds a size: what does not fit an int means "no limit" to gRPC. */
int lam_core_limit(size_t bytes);

/* Now plus timeout_ns on the monotonic clock; never for UINT64_MAX. */
gpr_timespec lam_core_deadline(uint64_t timeout_ns);

/* Appends the bytes of a received message. False: no memory or over out->max. */
LAM_MUST_USE bool lam_core_read(grpc_byte_buffer *buffer, struct lam_buf *out);

#endif
