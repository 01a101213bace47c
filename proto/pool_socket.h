/*
 * pool_socket: the byte layout on the loader's pool socket, the one thing that gRPC cannot carry.
 *
 * A worker connects to the SOCK_SEQPACKET Unix socket and receives one lam_pool_greeting with one
 * descriptor (SCM_RIGHTS): the sealed memfd of the pool. It maps it read-only and keeps the
 * connection open for as long as it uses the pool: the connection, together with the pidfd that
 * the loader takes of the peer, is the lease holder's sign of life. Neither side sends anything
 * else.
 */
#ifndef LAMINAR_PROTO_POOL_SOCKET_H
#define LAMINAR_PROTO_POOL_SOCKET_H

#include <stdint.h>

#define LAM_POOL_MAGIC 0x304c4f4f504d414cull /* "LAMPOOL0", little-endian */
#define LAM_POOL_TOKEN_BYTES 16

struct lam_pool_greeting {
    uint64_t magic;
    uint64_t pool_bytes; /* size of the memfd */
    /* For OpenSession: binds the stream to this connection. */
    unsigned char token[LAM_POOL_TOKEN_BYTES];
};

#endif
