/*
 * Fuzz target: one message type, named by LAM_FUZZ_TYPE, from the wire into C and back. What is
 * accepted must pack, must be accepted again, and must then be the same bytes.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "proto/laminar/v1/generation.pb-c.h"
#include "proto/laminar/v1/loader.pb-c.h"
#include "proto/laminar/v1/worker.pb-c.h"
#include "rpc/message.h"

#define ARENA_BYTES (1 << 20)
#define PACKED_BYTES_MAX ((size_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Unpacks into `memory` and packs again. */
static enum lam_status round_trip(
    const void *bytes, size_t n_bytes, unsigned char *memory, struct lam_buf *packed)
{
    struct lam_arena arena = {.base = memory, .cap_bytes = ARENA_BYTES};
    ProtobufCMessage *message = NULL;
    struct lam_err err = {0};
    enum lam_status status =
        lam_message_unpack(&LAM_FUZZ_TYPE, bytes, n_bytes, &arena, &message, &err);

    if (status == LAM_OK) {
        assert(message->descriptor == &LAM_FUZZ_TYPE);
        assert(lam_message_pack(message, packed));
        assert(packed->size == protobuf_c_message_get_packed_size(message));
    } else {
        assert(!message && err.status == status && err.text[0] != '\0');
    }
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static _Alignas(64) unsigned char memory[2][ARENA_BYTES];
    struct lam_buf once = LAM_BUF(PACKED_BYTES_MAX);
    struct lam_buf twice = LAM_BUF(PACKED_BYTES_MAX);

    if (round_trip(data, size, memory[0], &once) == LAM_OK) {
        enum lam_status status = round_trip(once.data, once.size, memory[1], &twice);
        assert(status == LAM_OK || status == LAM_RESOURCE_EXHAUSTED);
        if (status == LAM_OK) {
            assert(once.size == twice.size);
            assert(once.size == 0 || memcmp(once.data, twice.data, once.size) == 0);
        }
    }
    lam_buf_done(&once);
    lam_buf_done(&twice);
    return 0;
}
