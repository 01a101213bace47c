/* usage: see usage.h. */
#include "cli/usage.h"

#include <inttypes.h>
#include <string.h>

#include "common/size.h"

#define SIZE_BYTES 24

static const char *size(uint64_t bytes, char buf[SIZE_BYTES])
{
    return lam_size_format(bytes, buf, SIZE_BYTES);
}

/* ", slots 12.0 MiB", or nothing. */
static void print_part(FILE *out, const char *name, uint64_t bytes)
{
    char text[SIZE_BYTES];

    if (bytes > 0)
        fprintf(out, ", %s %s", name, size(bytes, text));
}

static bool is_over(const struct lam_client_worker *worker)
{
    const struct lam_client_memory *memory = &worker->memory;

    return worker->has_memory && memory->cap_bytes > 0 &&
           memory->measured_bytes > memory->cap_bytes;
}

void lam_usage_print_memory(FILE *out, const struct lam_client_worker *worker)
{
    const struct lam_client_memory *memory = &worker->memory;
    char text[SIZE_BYTES];

    if (worker->has_memory) {
        fprintf(out, "  memory   planned %s", size(memory->planned_bytes, text));
        print_part(out, "measured", memory->measured_bytes);
        print_part(out, is_over(worker) ? "over the cap of" : "cap", memory->cap_bytes);
        fprintf(out, "\n           of it KV %s", size(memory->kv_bytes, text));
        print_part(out, "context", memory->context_bytes);
        print_part(out, "resident", memory->resident_bytes);
        print_part(out, "slots", memory->slots_bytes);
        print_part(out, "activations", memory->activations_bytes);
        print_part(out, "workspace", memory->workspace_bytes);
        fprintf(out, "\n  layers   %d of %d resident", memory->resident_layers, memory->layers);
        if (memory->streamed_bytes > 0)
            fprintf(out, ", %s a pass through %d slots", size(memory->streamed_bytes, text),
                memory->slots);
        fprintf(out, "\n");
    }
    if (worker->has_memory && memory->pool_ready_bytes > 0)
        fprintf(out, "  pool     %s of RAM given to the loader by the machine in %.2f s\n",
            size(memory->pool_ready_bytes, text), memory->pool_ready_s);
    fprintf(out, "  KV       ");
    if (worker->has_memory)
        fprintf(out, "%s, %s, ", memory->kv_type, size(memory->kv_bytes, text));
    fprintf(out, "on %s: %" PRId64 " of %" PRId64 " positions used\n", worker->device,
        worker->kv_tokens, worker->max_kv_tokens);
}

void lam_usage_warn(FILE *out, const struct lam_client_worker *worker)
{
    const struct lam_client_memory *memory = &worker->memory;
    char held[SIZE_BYTES], cap[SIZE_BYTES], planned[SIZE_BYTES];

    if (!is_over(worker))
        return;
    fprintf(out,
        "laminar: warning: %s holds %s, over the cap of %s, although %s were planned; give a "
        "larger --vram\n",
        worker->device, size(memory->measured_bytes, held), size(memory->cap_bytes, cap),
        size(memory->planned_bytes, planned));
}

static double percent(double part, double whole)
{
    return whole > 0 ? part / whole * 100 : 0;
}

/* Weights by where they came from. */
static void print_bytes(FILE *out, const struct lam_client_profile *total, uint64_t disk_bytes)
{
    char text[SIZE_BYTES];

    if (total->resident_bytes + total->link_bytes == 0 && disk_bytes == UINT64_MAX)
        return;
    fprintf(out, "  bytes    %s used where they stay", size(total->resident_bytes, text));
    if (total->link_bytes > 0)
        fprintf(out, ", %s over the link", size(total->link_bytes, text));
    if (total->copy_s > 0)
        fprintf(out, " at %.2f GB/s", (double)total->link_bytes / total->copy_s / 1e9);
    if (disk_bytes != UINT64_MAX)
        fprintf(out, ", %s from disk", size(disk_bytes, text));
    fprintf(out, "\n");
}

void lam_usage_print_passes(FILE *out, const struct lam_client_worker *worker, uint64_t disk_bytes)
{
    const struct lam_client_profile *total = &worker->total;

    fprintf(out, "  passes   %" PRIu64 ", %" PRIu64 " rows", worker->passes, worker->tokens);
    if (!worker->has_profile || total->wall_s <= 0) {
        fprintf(out, "\n");
        return;
    }
    fprintf(out, ", %.2f a second; the last took %.4f s\n", (double)worker->tokens / total->wall_s,
        worker->last.wall_s);
    fprintf(out,
        "  seconds  %.3f: computing %.3f (%.1f %%), waiting for disk %.3f (%.1f %%), for the link "
        "%.3f (%.1f %%)\n",
        total->wall_s, total->compute_s, percent(total->compute_s, total->wall_s),
        total->disk_wait_s, percent(total->disk_wait_s, total->wall_s), total->link_wait_s,
        percent(total->link_wait_s, total->wall_s));
    print_bytes(out, total, disk_bytes);
    if (worker->last.floor_s > 0)
        fprintf(out, "  floor    %.4f s a pass; the last took %.2f of it\n", worker->last.floor_s,
            worker->last.wall_s / worker->last.floor_s);
}

static void add_bytes(json_t *object, const char *name, uint64_t bytes)
{
    json_object_set_new(object, name, json_integer((json_int_t)bytes));
}

json_t *lam_usage_memory_json(const struct lam_client_worker *worker)
{
    const struct lam_client_memory *memory = &worker->memory;
    json_t *object;

    if (!worker->has_memory)
        return json_null();
    object = json_object();
    add_bytes(object, "cap_bytes", memory->cap_bytes);
    add_bytes(object, "planned_bytes", memory->planned_bytes);
    add_bytes(object, "measured_bytes", memory->measured_bytes);
    add_bytes(object, "context_bytes", memory->context_bytes);
    add_bytes(object, "resident_bytes", memory->resident_bytes);
    add_bytes(object, "slots_bytes", memory->slots_bytes);
    add_bytes(object, "kv_bytes", memory->kv_bytes);
    add_bytes(object, "activations_bytes", memory->activations_bytes);
    add_bytes(object, "workspace_bytes", memory->workspace_bytes);
    json_object_set_new(object, "kv_type", json_stringn(memory->kv_type, strlen(memory->kv_type)));
    json_object_set_new(object, "slots", json_integer(memory->slots));
    json_object_set_new(object, "layers", json_integer(memory->layers));
    json_object_set_new(object, "layers_resident", json_integer(memory->resident_layers));
    add_bytes(object, "streamed_bytes_per_pass", memory->streamed_bytes);
    json_object_set_new(object, "planned_pass_seconds", json_real(memory->planned_pass_s));
    add_bytes(object, "pool_ready_bytes", memory->pool_ready_bytes);
    json_object_set_new(object, "pool_ready_seconds", json_real(memory->pool_ready_s));
    return object;
}

json_t *lam_usage_profile_json(
    const struct lam_client_worker *worker, const struct lam_client_profile *profile)
{
    if (!worker->has_profile)
        return json_null();
    return json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:I,s:I}", "wall_seconds", profile->wall_s,
        "disk_wait_seconds", profile->disk_wait_s, "link_wait_seconds", profile->link_wait_s,
        "compute_seconds", profile->compute_s, "copy_seconds", profile->copy_s, "floor_seconds",
        profile->floor_s, "link_bytes", (json_int_t)profile->link_bytes, "resident_bytes",
        (json_int_t)profile->resident_bytes);
}
