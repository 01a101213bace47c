/*
 * reflection: grpc.reflection.v1 and v1alpha, which have the same fields: one handler under two
 * paths. Source: reflection.proto.
 *
 * Answers come from the descriptor set that the build embeds (proto/descriptor_set.h), read in
 * place: the questions are rare and the set is small, so there is no index. A file is sent by
 * itself; clients ask for its imports by name.
 */
#include "rpc/internal.h"

#include <string.h>

#include "common/mem.h"
#include "proto/descriptor_set.h"
#include "proto/grpc/reflection/v1/reflection.pb-c.h"
#include "rpc/message.h"
#include "rpc/wire.h"

/* Room for a request and the lists of its answer. */
#define REQUEST_BYTES_MAX 8192
#define ANSWER_BYTES_MAX ((size_t)1 << 20)

/* A client that asks and does not read is let go. */
#define QUEUE_MAX 64

struct text {
    const char *bytes;
    size_t n_bytes;
};

/* The first field `number` of a message in our own descriptor set; empty when it has none. */
static struct text field_text(struct text message, uint32_t number)
{
    struct lam_wire wire = {(const unsigned char *)message.bytes,
        (const unsigned char *)message.bytes + message.n_bytes};
    struct lam_wire_field field;

    while (wire.at < wire.end && lam_wire_next(&wire, &field))
        if (field.number == number && field.type == LAM_WIRE_BYTES)
            return (struct text){(const char *)field.bytes, field.n_bytes};
    return (struct text){"", 0};
}

/* Does `name` begin with the words of `prefix`? *ret_rest: what follows their dot, or empty. */
static bool strip(struct text name, struct text prefix, struct text *ret_rest)
{
    if (name.n_bytes < prefix.n_bytes || memcmp(name.bytes, prefix.bytes, prefix.n_bytes) != 0)
        return false;
    if (name.n_bytes == prefix.n_bytes) {
        *ret_rest = (struct text){"", 0};
        return true;
    }
    if (name.bytes[prefix.n_bytes] != '.' || name.n_bytes == prefix.n_bytes + 1)
        return false;
    *ret_rest = (struct text){name.bytes + prefix.n_bytes + 1, name.n_bytes - prefix.n_bytes - 1};
    return true;
}

/* What a descriptor may define, by field number of descriptor.proto. */
enum kind { NOTHING, FILE_KIND, MESSAGE, ENUM, SERVICE, LEAF };

static enum kind child_kind(enum kind parent, uint32_t number)
{
    static const unsigned char children[][9] = {
        [FILE_KIND] = {[4] = MESSAGE, [5] = ENUM, [6] = SERVICE, [7] = LEAF},
        [MESSAGE] = {[2] = LEAF, [3] = MESSAGE, [4] = ENUM, [6] = LEAF, [8] = LEAF},
        [ENUM] = {[2] = LEAF},
        [SERVICE] = {[2] = LEAF},
        [LEAF] = {0},
    };

    return number < sizeof children[0] ? (enum kind)children[parent][number] : NOTHING;
}

/* Does this descriptor define `name` (not empty), seen from inside? Depth: the name's dots. */
static bool defines(enum kind kind, struct text descriptor, struct text name)
{
    struct lam_wire wire = {(const unsigned char *)descriptor.bytes,
        (const unsigned char *)descriptor.bytes + descriptor.n_bytes};
    struct lam_wire_field field;

    while (wire.at < wire.end && lam_wire_next(&wire, &field)) {
        struct text child = {(const char *)field.bytes, field.n_bytes};
        enum kind of_child = child_kind(kind, field.number);
        struct text rest;

        if (of_child == NOTHING || field.type != LAM_WIRE_BYTES)
            continue;
        if (strip(name, field_text(child, 1), &rest) &&
            (rest.n_bytes == 0 || defines(of_child, child, rest)))
            return true;
        /* The values of an enum are named in the scope around it. */
        if (of_child == ENUM && defines(ENUM, child, name))
            return true;
    }
    return false;
}

static bool file_defines(struct text file, struct text symbol)
{
    struct text rest;

    return strip(symbol, field_text(file, 2), &rest) && rest.n_bytes > 0 &&
           defines(FILE_KIND, file, rest);
}

static bool file_is_named(struct text file, struct text name)
{
    struct text own = field_text(file, 1);

    return own.n_bytes == name.n_bytes && memcmp(own.bytes, name.bytes, name.n_bytes) == 0;
}

/* The first file of the set that `fits`. */
static bool find_file(
    bool (*fits)(struct text file, struct text name), const char *name, struct text *ret_file)
{
    struct lam_wire wire = {lam_descriptor_set, lam_descriptor_set + lam_descriptor_set_bytes};
    struct lam_wire_field field;

    while (wire.at < wire.end && lam_wire_next(&wire, &field)) {
        struct text file = {(const char *)field.bytes, field.n_bytes};
        if (fits(file, (struct text){name, strlen(name)})) {
            *ret_file = file;
            return true;
        }
    }
    return false;
}

/* Parts of an answer; they point into the request, the arena and the descriptor set. */
struct answer {
    Grpc__Reflection__V1__ServerReflectionResponse response;
    Grpc__Reflection__V1__FileDescriptorResponse file;
    Grpc__Reflection__V1__ListServiceResponse list;
    Grpc__Reflection__V1__ErrorResponse error;
    ProtobufCBinaryData file_bytes;
};

static void answer_error(struct answer *answer, const char *reason)
{
    grpc__reflection__v1__error_response__init(&answer->error);
    answer->error.error_code = (int32_t)LAM_NOT_FOUND;
    answer->error.error_message = (char *)(uintptr_t)reason;
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_ERROR_RESPONSE;
    answer->response.error_response = &answer->error;
}

static void answer_file(struct answer *answer, struct text file)
{
    grpc__reflection__v1__file_descriptor_response__init(&answer->file);
    answer->file_bytes.data = (uint8_t *)(uintptr_t)file.bytes;
    answer->file_bytes.len = file.n_bytes;
    answer->file.n_file_descriptor_proto = 1;
    answer->file.file_descriptor_proto = &answer->file_bytes;
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_FILE_DESCRIPTOR_RESPONSE;
    answer->response.file_descriptor_response = &answer->file;
}

/* The service name in "/service/method". */
static struct text service_of(const struct lam_rpc_route *route)
{
    const char *name = route->method->path + 1;

    return (struct text){name, strcspn(name, "/")};
}

static bool seen_before(const struct lam_rpc_server *server, size_t i)
{
    struct text name = service_of(&server->routes[i]);

    for (size_t j = 0; j < i; j++) {
        struct text other = service_of(&server->routes[j]);
        if (other.n_bytes == name.n_bytes && memcmp(other.bytes, name.bytes, name.n_bytes) == 0)
            return true;
    }
    return false;
}

static bool answer_list(
    struct answer *answer, const struct lam_rpc_server *server, struct lam_arena *arena)
{
    Grpc__Reflection__V1__ListServiceResponse *list = &answer->list;

    grpc__reflection__v1__list_service_response__init(list);
    list->service = lam_arena_alloc(arena, server->n_routes, sizeof *list->service, 16);
    if (!list->service)
        return false;
    for (size_t i = 0; i < server->n_routes; i++) {
        struct text name = service_of(&server->routes[i]);
        Grpc__Reflection__V1__ServiceResponse *entry;
        if (seen_before(server, i))
            continue;
        entry = lam_arena_alloc(arena, 1, sizeof *entry, 16);
        if (!entry)
            return false;
        grpc__reflection__v1__service_response__init(entry);
        entry->name = lam_arena_alloc(arena, name.n_bytes + 1, 1, 1);
        if (!entry->name)
            return false;
        memcpy(entry->name, name.bytes, name.n_bytes);
        list->service[list->n_service++] = entry;
    }
    answer->response.message_response_case =
        GRPC__REFLECTION__V1__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_LIST_SERVICES_RESPONSE;
    answer->response.list_services_response = list;
    return true;
}

/* False: no memory. */
static bool fill(struct answer *answer, const struct lam_rpc_server *server,
    Grpc__Reflection__V1__ServerReflectionRequest *request, struct lam_arena *arena)
{
    struct text file;

    grpc__reflection__v1__server_reflection_response__init(&answer->response);
    answer->response.valid_host = request->host;
    answer->response.original_request = request;
    switch (request->message_request_case) {
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_LIST_SERVICES:
        return answer_list(answer, server, arena);
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_BY_FILENAME:
        if (find_file(file_is_named, request->file_by_filename, &file))
            answer_file(answer, file);
        else
            answer_error(answer, "no such file: ask for the one that contains a service");
        return true;
    case GRPC__REFLECTION__V1__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_FILE_CONTAINING_SYMBOL:
        if (find_file(file_defines, request->file_containing_symbol, &file))
            answer_file(answer, file);
        else
            answer_error(answer, "no such symbol: list the services first");
        return true;
    default:
        answer_error(answer, "there are no extensions in proto3");
        return true;
    }
}

static void reflect(void *service, struct lam_rpc_call *call, const void *bytes, size_t n_bytes)
{
    _Alignas(64) unsigned char memory[REQUEST_BYTES_MAX];
    struct lam_arena arena = {.base = memory, .cap_bytes = sizeof memory};
    struct lam_buf packed = LAM_BUF(ANSWER_BYTES_MAX);
    struct answer answer = {0};
    ProtobufCMessage *message = NULL;
    struct lam_err err = {0};

    if (lam_rpc_call_queued(call) >= QUEUE_MAX) {
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "read the answers before asking more");
        return;
    }
    if (lam_message_unpack(&grpc__reflection__v1__server_reflection_request__descriptor, bytes,
            n_bytes, &arena, &message, &err) != LAM_OK) {
        lam_rpc_call_finish(call, err.status, err.text);
        return;
    }
    if (!fill(&answer, service, (Grpc__Reflection__V1__ServerReflectionRequest *)message, &arena) ||
        !lam_message_pack(&answer.response.base, &packed) ||
        !lam_rpc_call_send(call, packed.data, packed.size))
        lam_rpc_call_finish(call, LAM_RESOURCE_EXHAUSTED, "no memory for the answer");
    lam_buf_done(&packed);
}

static void end(void *service, struct lam_rpc_call *call)
{
    (void)service;
    lam_rpc_call_finish(call, LAM_OK, NULL);
}

const struct lam_rpc_method lam_reflection_methods[2] = {
    {
        .path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        .on_message = reflect,
        .on_half_close = end,
    },
    {
        .path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        .on_message = reflect,
        .on_half_close = end,
    },
};
