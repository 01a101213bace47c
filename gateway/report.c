/* report: see report.h. */
#include "gateway/report.h"

#include <stddef.h>
#include <string.h>

#define SECONDS_MAX 1e9
#define BYTES_MAX ((uint64_t)1 << 50)
#define COUNT_MAX (1 << 20)

struct field {
    const char *name;
    size_t offset;
};

static const struct field profile_seconds[] = {
    {"wall_seconds", offsetof(Laminar__V1__Profile, wall_seconds)},
    {"disk_wait_seconds", offsetof(Laminar__V1__Profile, disk_wait_seconds)},
    {"link_wait_seconds", offsetof(Laminar__V1__Profile, link_wait_seconds)},
    {"compute_seconds", offsetof(Laminar__V1__Profile, compute_seconds)},
    {"copy_seconds", offsetof(Laminar__V1__Profile, copy_seconds)},
    {"floor_seconds", offsetof(Laminar__V1__Profile, floor_seconds)},
};
static const struct field profile_bytes[] = {
    {"link_bytes", offsetof(Laminar__V1__Profile, link_bytes)},
    {"resident_bytes", offsetof(Laminar__V1__Profile, resident_bytes)},
};
static const struct field memory_seconds[] = {
    {"planned_pass_seconds", offsetof(Laminar__V1__Memory, planned_pass_seconds)},
    {"pool_ready_seconds", offsetof(Laminar__V1__Memory, pool_ready_seconds)},
};
static const struct field memory_bytes[] = {
    {"cap_bytes", offsetof(Laminar__V1__Memory, cap_bytes)},
    {"planned_bytes", offsetof(Laminar__V1__Memory, planned_bytes)},
    {"measured_bytes", offsetof(Laminar__V1__Memory, measured_bytes)},
    {"context_bytes", offsetof(Laminar__V1__Memory, context_bytes)},
    {"resident_bytes", offsetof(Laminar__V1__Memory, resident_bytes)},
    {"slots_bytes", offsetof(Laminar__V1__Memory, slots_bytes)},
    {"kv_bytes", offsetof(Laminar__V1__Memory, kv_bytes)},
    {"activations_bytes", offsetof(Laminar__V1__Memory, activations_bytes)},
    {"workspace_bytes", offsetof(Laminar__V1__Memory, workspace_bytes)},
    {"streamed_bytes", offsetof(Laminar__V1__Memory, streamed_bytes)},
    {"pool_ready_bytes", offsetof(Laminar__V1__Memory, pool_ready_bytes)},
};
static const struct field memory_counts[] = {
    {"slots", offsetof(Laminar__V1__Memory, slots)},
    {"layers", offsetof(Laminar__V1__Memory, layers)},
    {"resident_layers", offsetof(Laminar__V1__Memory, resident_layers)},
};

#define N_OF(table) (sizeof(table) / sizeof *(table))

static const void *at(const void *message, const struct field *field)
{
    return (const char *)message + field->offset;
}

/* The comparison is false for what is no number. */
static enum lam_status check_seconds(
    const void *message, const struct field *fields, size_t n, struct lam_err *err)
{
    for (size_t i = 0; i < n; i++) {
        double value = *(const double *)at(message, &fields[i]);
        if (!(value >= 0 && value <= SECONDS_MAX))
            return lam_fail(err, LAM_INVALID_ARGUMENT, "%s is %g; the range is 0..%g",
                fields[i].name, value, SECONDS_MAX);
    }
    return LAM_OK;
}

static enum lam_status check_bytes(
    const void *message, const struct field *fields, size_t n, struct lam_err *err)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t value = *(const uint64_t *)at(message, &fields[i]);
        if (value > BYTES_MAX)
            return lam_fail(err, LAM_INVALID_ARGUMENT, "%s is %llu; the range is 0..%llu",
                fields[i].name, (unsigned long long)value, (unsigned long long)BYTES_MAX);
    }
    return LAM_OK;
}

static enum lam_status check_counts(const Laminar__V1__Memory *memory, struct lam_err *err)
{
    for (size_t i = 0; i < N_OF(memory_counts); i++) {
        int32_t value = *(const int32_t *)at(memory, &memory_counts[i]);
        if (value < 0 || value > COUNT_MAX)
            return lam_fail(err, LAM_INVALID_ARGUMENT, "%s is %d; the range is 0..%d",
                memory_counts[i].name, value, COUNT_MAX);
    }
    return LAM_OK;
}

static enum lam_status check_memory(const Laminar__V1__Memory *memory, struct lam_err *err)
{
    enum lam_status status = check_seconds(memory, memory_seconds, N_OF(memory_seconds), err);

    if (status == LAM_OK)
        status = check_bytes(memory, memory_bytes, N_OF(memory_bytes), err);
    return status == LAM_OK ? check_counts(memory, err) : status;
}

enum lam_status lam_report_take_memory(
    struct lam_report *report, const Laminar__V1__Memory *memory, struct lam_err *err)
{
    size_t kv_type_bytes;
    enum lam_status status;

    if (!memory)
        return LAM_OK;
    status = check_memory(memory, err);
    if (status != LAM_OK)
        return status;
    kv_type_bytes = strlen(memory->kv_type);
    if (kv_type_bytes >= sizeof report->kv_type)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "kv_type has %zu bytes; the range is 0..%zu",
            kv_type_bytes, sizeof report->kv_type - 1);
    report->memory = *memory;
    report->memory.base = (ProtobufCMessage)PROTOBUF_C_MESSAGE_INIT(memory->base.descriptor);
    memcpy(report->kv_type, memory->kv_type, kv_type_bytes + 1);
    report->has_memory = true;
    return LAM_OK;
}

/* Bytes stop at the largest number. */
static void add_up(Laminar__V1__Profile *total, const Laminar__V1__Profile *profile)
{
    for (size_t i = 0; i < N_OF(profile_seconds); i++) {
        double *sum = (double *)(void *)((char *)total + profile_seconds[i].offset);
        *sum += *(const double *)at(profile, &profile_seconds[i]);
    }
    for (size_t i = 0; i < N_OF(profile_bytes); i++) {
        uint64_t *sum = (uint64_t *)(void *)((char *)total + profile_bytes[i].offset);
        if (__builtin_add_overflow(*sum, *(const uint64_t *)at(profile, &profile_bytes[i]), sum))
            *sum = UINT64_MAX;
    }
}

enum lam_status lam_report_take_profile(
    struct lam_report *report, const Laminar__V1__Profile *profile, struct lam_err *err)
{
    enum lam_status status;

    if (!profile)
        return LAM_OK;
    status = check_seconds(profile, profile_seconds, N_OF(profile_seconds), err);
    if (status == LAM_OK)
        status = check_bytes(profile, profile_bytes, N_OF(profile_bytes), err);
    if (status != LAM_OK)
        return status;
    if (!report->has_profile)
        laminar__v1__profile__init(&report->total);
    report->last = *profile;
    report->last.base = (ProtobufCMessage)PROTOBUF_C_MESSAGE_INIT(profile->base.descriptor);
    add_up(&report->total, profile);
    report->has_profile = true;
    return LAM_OK;
}

enum lam_status lam_report_take_now(
    struct lam_report *report, const struct lam_report_now *now, struct lam_err *err)
{
    Laminar__V1__Memory memory = report->memory;
    enum lam_status status;

    if (!report->has_memory)
        return LAM_OK;
    if (now->measured_bytes > 0)
        memory.measured_bytes = now->measured_bytes;
    if (now->pool_ready_bytes > 0) {
        memory.pool_ready_bytes = now->pool_ready_bytes;
        memory.pool_ready_seconds = now->pool_ready_seconds;
    }
    status = check_memory(&memory, err);
    if (status == LAM_OK)
        report->memory = memory;
    return status;
}

void lam_report_describe(struct lam_report *report, Laminar__V1__WorkerInfo *info)
{
    if (report->has_memory) {
        report->memory.kv_type = report->kv_type; /* this report may have been moved */
        info->memory = &report->memory;
    }
    if (report->has_profile) {
        info->profile = &report->total;
        info->last_pass = &report->last;
    }
}
