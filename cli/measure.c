/* measure: see measure.h. */
#include "cli/measure.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/processors.h"
#include "common/size.h"

#define WRITE_BYTES LAM_MIB
#define OWN_FILE_BYTES (1024 * LAM_MIB)
#define THREADS_MAX 64u
#define MEMORY_BYTES (64 * LAM_MIB) /* of each thread: beyond all caches */
#define MEMORY_BLOCK_BYTES (LAM_MIB / 2)
#define MEMORY_POLL_NS LAM_NS_PER_MS
#define MEMORY_NS (500 * LAM_NS_PER_MS)

/* Threads that do one thing at once. */
struct crew {
    pthread_t threads[THREADS_MAX];
    uint32_t n;
};

static void crew_start(struct crew *crew, uint32_t n, void *(*fn)(void *arg), void *arg)
{
    while (crew->n < n && pthread_create(&crew->threads[crew->n], NULL, fn, arg) == 0)
        crew->n++;
}

static void crew_wait(struct crew *crew)
{
    for (; crew->n > 0; crew->n--)
        pthread_join(crew->threads[crew->n - 1], NULL);
}

/* ---- the disk */

static void *map_buffer(uint64_t bytes)
{
    void *buffer = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    return buffer == MAP_FAILED ? NULL : buffer;
}

/* Data that no drive can compress away. */
static enum lam_status write_file(int fd, struct lam_err *err)
{
    uint64_t value = 88172645463325252u; /* of an xorshift generator */
    uint64_t *buffer = map_buffer(WRITE_BYTES);
    enum lam_status status = LAM_OK;

    if (!buffer)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a buffer");
    for (uint64_t at = 0; at < OWN_FILE_BYTES && !status; at += WRITE_BYTES) {
        for (uint64_t i = 0; i < WRITE_BYTES / sizeof value; i++) {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            buffer[i] = value;
        }
        if (pwrite(fd, buffer, WRITE_BYTES, (off_t)at) != (ssize_t)WRITE_BYTES)
            status = lam_fail_errno(err, errno, "cannot write");
    }
    if (!status && fsync(fd) != 0)
        status = lam_fail_errno(err, errno, "cannot write");
    munmap(buffer, WRITE_BYTES);
    return status;
}

enum lam_status lam_measure_disk_of(
    const char *folder, const char *io_cache, struct lam_speed *ret_speed, struct lam_err *err)
{
    char path[PATH_MAX];
    int fd;
    enum lam_status status;

    if (snprintf(path, sizeof path, "%s/measure.tmp", folder) >= (int)sizeof path)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the folder's name is too long");
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EINVAL)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "the file system of %.200s takes no direct writes, and others would measure memory",
            folder);
    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot open %.200s", path);
    unlink(path); /* gone with the descriptor, whatever happens */
    status = write_file(fd, err);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (!status)
        status = lam_speed_measure(path, io_cache, ret_speed, err);
    close(fd);
    return status ? lam_err_wrap(err, status, "%.200s", folder) : LAM_OK;
}

/* ---- memory */

struct memory {
    atomic_uint_fast64_t begin_ns; /* 0: not all threads have their buffers yet */
    atomic_uint_fast32_t n_ready;
    atomic_uint_fast64_t bytes;
    atomic_uint_fast64_t sum; /* so that the reads are needed */
    atomic_bool failed;
};

/* Blocks are small beside the time: those that cross its ends do not matter. */
static void *read_memory(void *arg)
{
    struct memory *memory = arg;
    uint64_t *buffer = map_buffer(MEMORY_BYTES);
    uint64_t sums[8] = {0};
    uint64_t end_ns;

    if (!buffer)
        atomic_store(&memory->failed, true);
    atomic_fetch_add(&memory->n_ready, 1);
    while (atomic_load(&memory->begin_ns) == 0)
        lam_sleep_ns(MEMORY_POLL_NS);
    end_ns = atomic_load(&memory->begin_ns) + MEMORY_NS;
    for (uint64_t at = 0; buffer && lam_now_ns() < end_ns; at += MEMORY_BLOCK_BYTES) {
        const uint64_t *block = buffer + at % MEMORY_BYTES / sizeof *buffer;
        for (uint64_t i = 0; i < MEMORY_BLOCK_BYTES / sizeof *block; i += 8)
            for (unsigned k = 0; k < 8; k++)
                sums[k] += block[i + k];
        atomic_fetch_add(&memory->bytes, MEMORY_BLOCK_BYTES);
    }
    for (unsigned k = 0; k < 8; k++)
        atomic_fetch_add(&memory->sum, sums[k]);
    if (buffer)
        munmap(buffer, MEMORY_BYTES);
    return NULL;
}

enum lam_status lam_measure_memory(double *ret_rate, struct lam_err *err)
{
    struct memory memory = {0};
    struct crew crew = {0};
    uint32_t n = lam_processors();

    crew_start(&crew, n < THREADS_MAX ? n : THREADS_MAX, read_memory, &memory);
    while (atomic_load(&memory.n_ready) < crew.n)
        lam_sleep_ns(MEMORY_POLL_NS);
    atomic_store(&memory.begin_ns, lam_now_ns());
    crew_wait(&crew);
    if (atomic_load(&memory.failed) || atomic_load(&memory.bytes) == 0)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to measure with");
    *ret_rate = (double)atomic_load(&memory.bytes) / (double)MEMORY_NS * 1e9;
    return LAM_OK;
}
