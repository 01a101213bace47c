/*
 * memory: /proc/meminfo, then every control group from ours up to the root, in the unified
 * hierarchy (memory.max, memory.current) and in the older one (memory.limit_in_bytes,
 * memory.usage_in_bytes). File cache that nobody uses counts as used in a group, though it is given
 * back on demand: it is taken off.
 */
#include "loader/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/size.h"

#define TEXT_MAX 16384
#define PATH_BYTES_MAX 1024

/* A kind of control group: where it is mounted and how its files are called. */
struct group_kind {
    const char *line; /* how its line in /proc/self/cgroup begins after the number */
    const char *mount;
    const char *limit;
    const char *usage;
    const char *cache; /* field of memory.stat */
};

static const struct group_kind group_kinds[] = {
    {"::", "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"},
    {":memory:", "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
        "total_inactive_file"},
};

/* Reads a small file as text. False when it is not there. */
static bool read_text(const char *path, char *text, size_t text_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t have = 0;
    ssize_t n = 0;

    if (fd < 0)
        return false;
    while (have < text_bytes - 1 && (n = read(fd, text + have, text_bytes - 1 - have)) > 0)
        have += (size_t)n;
    text[have] = '\0';
    close(fd);
    return n >= 0 && have > 0;
}

/* Decimal digits at the start of text; false when there are none or too many. */
static bool read_number(const char *text, uint64_t *ret_value)
{
    uint64_t value = 0;
    const char *at = text;

    for (; *at >= '0' && *at <= '9'; at++) {
        if (!lam_size_mul(value, 10, &value) || !lam_size_add(value, (uint64_t)(*at - '0'), &value))
            return false;
    }
    if (at == text)
        return false;
    *ret_value = value;
    return true;
}

bool lam_memory_field(const char *text, const char *name, uint64_t *ret_value)
{
    size_t length = strlen(name);

    for (const char *line = text; line != NULL && *line != '\0';) {
        const char *end = strchr(line, '\n');

        if (strncmp(line, name, length) == 0 &&
            (line[length] == ' ' || line[length] == ':' || line[length] == '\t')) {
            const char *at = line + length + 1;

            while (*at == ' ' || *at == '\t')
                at++;
            return read_number(at, ret_value);
        }
        line = end == NULL ? NULL : end + 1;
    }
    return false;
}

void lam_memory_apply_limit(struct lam_memory *memory, uint64_t limit_bytes, uint64_t used_bytes)
{
    uint64_t room = used_bytes < limit_bytes ? limit_bytes - used_bytes : 0;

    if (limit_bytes < memory->total_bytes)
        memory->total_bytes = limit_bytes;
    if (room < memory->available_bytes)
        memory->available_bytes = room;
}

/* One group's limit and headroom, where it has a limit. */
static void apply_group(const struct group_kind *kind, const char *group, struct lam_memory *memory)
{
    char path[2 * PATH_BYTES_MAX];
    char text[TEXT_MAX];
    uint64_t limit, usage, cache = 0;

    snprintf(path, sizeof(path), "%s%s/%s", kind->mount, group, kind->limit);
    if (!read_text(path, text, sizeof(text)) || !read_number(text, &limit))
        return;
    snprintf(path, sizeof(path), "%s%s/%s", kind->mount, group, kind->usage);
    if (!read_text(path, text, sizeof(text)) || !read_number(text, &usage))
        usage = 0;
    snprintf(path, sizeof(path), "%s%s/memory.stat", kind->mount, group);
    if (read_text(path, text, sizeof(text)))
        lam_ignore(lam_memory_field(text, kind->cache, &cache), "0 without it");
    lam_memory_apply_limit(memory, limit, usage - (cache < usage ? cache : usage));
}

/* The group that `line` of /proc/self/cgroup names, and all above it. */
static void apply_groups(
    const struct group_kind *kind, const char *path, size_t length, struct lam_memory *memory)
{
    char group[PATH_BYTES_MAX];

    if (length >= sizeof(group))
        return;
    memcpy(group, path, length);
    group[length] = '\0';
    for (;;) {
        char *slash = strrchr(group, '/');

        apply_group(kind, strcmp(group, "/") == 0 ? "" : group, memory);
        if (slash == NULL)
            return;
        *slash = '\0';
    }
}

enum lam_status lam_memory_read(struct lam_memory *ret_memory, struct lam_err *err)
{
    char text[TEXT_MAX];
    struct lam_memory memory;

    if (!read_text("/proc/meminfo", text, sizeof(text)))
        return errno == EMFILE || errno == ENFILE
                   ? lam_fail_errno(err, errno, "cannot open /proc/meminfo")
                   : lam_fail(err, LAM_UNAVAILABLE,
                         "cannot read /proc/meminfo to see how much memory there is: mount /proc");
    if (!lam_memory_field(text, "MemTotal", &memory.total_bytes) ||
        !lam_memory_field(text, "MemAvailable", &memory.available_bytes))
        return lam_fail(err, LAM_UNAVAILABLE,
            "/proc/meminfo has no MemTotal and MemAvailable: it is not Linux's, 3.14 or later");
    memory.total_bytes *= LAM_KIB;
    memory.available_bytes *= LAM_KIB;
    if (read_text("/proc/self/cgroup", text, sizeof(text))) {
        for (const char *line = text; line != NULL && *line != '\0';) {
            const char *end = strchr(line, '\n');
            const char *colon = strchr(line, ':');

            for (size_t i = 0; colon != NULL && i < sizeof(group_kinds) / sizeof(*group_kinds);
                 i++) {
                const struct group_kind *kind = &group_kinds[i];
                const char *path = colon + strlen(kind->line);

                if (strncmp(colon, kind->line, strlen(kind->line)) == 0)
                    apply_groups(
                        kind, path, end == NULL ? strlen(path) : (size_t)(end - path), &memory);
            }
            line = end == NULL ? NULL : end + 1;
        }
    }
    *ret_memory = memory;
    return LAM_OK;
}

/* "free-SIZE" */
static enum lam_status parse_free(
    const struct lam_memory *memory, const char *margin, uint64_t *ret_bytes, struct lam_err *err)
{
    uint64_t margin_bytes;
    char want[24], have[24];
    enum lam_status status = lam_size_parse(margin, 0, &margin_bytes, err);

    if (status != LAM_OK)
        return status;
    if (margin_bytes >= memory->available_bytes)
        return lam_fail_no_fit(err,
            "%s less than the %s of memory that are available is nothing: give a smaller margin",
            lam_size_format(margin_bytes, want, sizeof(want)),
            lam_size_format(memory->available_bytes, have, sizeof(have)));
    *ret_bytes = memory->available_bytes - margin_bytes;
    return LAM_OK;
}

enum lam_status lam_memory_budget(const struct lam_memory *memory, const char *ram,
    uint64_t full_bytes, uint64_t *ret_bytes, struct lam_err *err)
{
    uint64_t bytes = memory->available_bytes / 4 * 3;
    char want[24], have[24];
    enum lam_status status;

    if (strcmp(ram, "auto") != 0) {
        status = strncmp(ram, "free-", strlen("free-")) == 0
                     ? parse_free(memory, ram + strlen("free-"), &bytes, err)
                     : lam_size_parse(ram, memory->total_bytes, &bytes, err);
        if (status != LAM_OK)
            return lam_err_wrap(err, status, "--ram");
    }
    bytes = bytes < full_bytes ? bytes : full_bytes;
    if (bytes > memory->available_bytes)
        return lam_fail_no_fit(err,
            "a pool of %s does not fit into the %s of memory that are available: give a smaller "
            "--ram",
            lam_size_format(bytes, want, sizeof(want)),
            lam_size_format(memory->available_bytes, have, sizeof(have)));
    *ret_bytes = bytes;
    return LAM_OK;
}
