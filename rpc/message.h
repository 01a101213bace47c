/*
 * message: between bytes from the wire and protobuf-c structs.
 *
 * protobuf-c has no depth limit, no UTF-8 check and no bound on what a message may allocate. Here
 * the wire bytes are walked against the type's descriptor first (depth, field lengths, UTF-8
 * without NUL in string fields, number of elements), and unpacking allocates from an arena with a
 * cap and nothing else. Any thread, with an arena of its own.
 */
#ifndef LAMINAR_RPC_MESSAGE_H
#define LAMINAR_RPC_MESSAGE_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/buf.h"
#include "common/mem.h"
#include "common/status.h"

/*
 * Unpacks bytes into *ret_message, which lives in `arena` (never freed by itself; reset the arena).
 * Errors: LAM_INVALID_ARGUMENT names the field; LAM_RESOURCE_EXHAUSTED when the arena is too small.
 */
LAM_MUST_USE enum lam_status lam_message_unpack(const ProtobufCMessageDescriptor *type,
    const void *bytes, size_t n_bytes, struct lam_arena *arena, ProtobufCMessage **ret_message,
    struct lam_err *err);

/* Replaces the contents of *out by the packed message. False: no memory or over out->max. */
LAM_MUST_USE bool lam_message_pack(const ProtobufCMessage *message, struct lam_buf *out);

#endif
