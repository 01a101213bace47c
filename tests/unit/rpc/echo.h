/*
 * echo: a small service, its server and a channel to it over a Unix socket, for the tests of rpc/.
 */
#ifndef LAMINAR_TESTS_UNIT_RPC_ECHO_H
#define LAMINAR_TESTS_UNIT_RPC_ECHO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/clock.h"
#include "rpc/client.h"
#include "rpc/server.h"

#define ECHO_UNARY "/test.Echo/Unary" /* the request comes back */
#define ECHO_MANY "/test.Echo/Many"   /* "N": N messages "0".."N-1" */
#define ECHO_BIDI "/test.Echo/Bidi"   /* each message comes back; ends at half-close */
#define ECHO_HOLD "/test.Echo/Hold"   /* never ends by itself */
#define ECHO_FAIL "/test.Echo/Fail"   /* the request is the text of an error */
#define ECHO_SINK "/test.Echo/Sink"   /* counts bytes; answers with the count at half-close */

#define ECHO_WAKES 200
#define ECHO_MESSAGE_BYTES_MAX ((size_t)4 << 20)

#define ECHO_TIMEOUT_NS (60 * LAM_NS_PER_S) /* or it hangs */

struct echo {
    struct lam_rpc_server *server;
    struct lam_rpc_channel *channel;
    char address[128];
    atomic_int opened;
    atomic_int done;
    atomic_int cancelled;
    atomic_int half_closed;
    atomic_int ticks;
    atomic_int wakes; /* from the first tick on, ECHO_WAKES of them, each wished for 1 ms ahead */
    atomic_int too_early;
    uint64_t wish_ns;                    /* the I/O thread's */
    atomic_int nudges;                   /* of calls of Hold */
    _Atomic(struct lam_rpc_call *) held; /* the last call of Hold, referenced */
};

/* A Unix address that contains `name`, unique to this process. */
void echo_address(char out[128], const char *name);

/* A running server with health and reflection, and a channel. Fails the test when it cannot. */
void echo_start(struct echo *echo, const char *name);

/* As echo_start, with other limits. */
void echo_start_with(struct echo *echo, const char *name, uint32_t calls_max);

void echo_stop(struct echo *echo);

/* Opens a stream. Fails the test when it cannot. */
void echo_open(struct echo *echo, const char *path, struct lam_rpc_stream **ret_stream);

/* Waits until *counter is at least `value`; false after ECHO_TIMEOUT_NS. */
bool echo_reaches(atomic_int *counter, int value);

#endif
