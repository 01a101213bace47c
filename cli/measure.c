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
#include "common/size.h"

#define READERS 32u /* requests under way: with 8 of 2 MiB a virtual disk gave half of its speed */
#define REQUEST_BYTES LAM_MIB
#define DISK_NS (3 * LAM_NS_PER_S)
#define DISK_BYTES_MIN (64 * LAM_MIB)
#define OWN_FILE_BYTES (512 * LAM_MIB)
#define THREADS_MAX 64u
#define MEMORY_BYTES (64 * LAM_MIB) /* of each thread: beyond all caches */
#define MEMORY_BLOCK_BYTES (LAM_MIB / 2)
#define MEMORY_WARM_NS (300 * LAM_NS_PER_MS) /* for all threads to have their buffers */
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

struct disk {
    int fd;
    uint64_t n_requests; /* that the file has */
    uint64_t end_ns;
    atomic_uint_fast64_t next;
    atomic_uint_fast64_t bytes;
    atomic_int error;
};

static void *map_buffer(uint64_t bytes)
{
    void *buffer = mmap(
        NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    return buffer == MAP_FAILED ? NULL : buffer;
}

/* Takes one request after the other until the file or the time is over. */
static void *read_requests(void *arg)
{
    struct disk *disk = arg;
    void *buffer = map_buffer(REQUEST_BYTES);

    if (!buffer)
        atomic_store(&disk->error, ENOMEM);
    while (buffer && lam_now_ns() < disk->end_ns) {
        uint64_t request = atomic_fetch_add(&disk->next, 1);
        ssize_t n;
        if (request >= disk->n_requests)
            break;
        n = pread(disk->fd, buffer, REQUEST_BYTES, (off_t)(request * REQUEST_BYTES));
        if (n != (ssize_t)REQUEST_BYTES) {
            atomic_store(&disk->error, n < 0 ? errno : EIO);
            break;
        }
        atomic_fetch_add(&disk->bytes, (uint64_t)n);
    }
    if (buffer)
        munmap(buffer, REQUEST_BYTES);
    return NULL;
}

static enum lam_status read_file(int fd, uint64_t bytes, double *ret_rate, struct lam_err *err)
{
    struct disk disk = {.fd = fd, .n_requests = bytes / REQUEST_BYTES};
    struct crew crew = {0};
    uint64_t begin_ns;
    double seconds;

    if (bytes < DISK_BYTES_MIN)
        return lam_fail(err, LAM_OUT_OF_RANGE,
            "a file of %llu MiB is too small to measure a disk with; give one of at least %llu MiB",
            (unsigned long long)(bytes / LAM_MIB), (unsigned long long)(DISK_BYTES_MIN / LAM_MIB));
    begin_ns = lam_now_ns();
    disk.end_ns = begin_ns + DISK_NS;
    crew_start(&crew, READERS, read_requests, &disk);
    if (crew.n == 0)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread");
    crew_wait(&crew);
    seconds = (double)(lam_now_ns() - begin_ns) / (double)LAM_NS_PER_S;
    if (atomic_load(&disk.error))
        return lam_fail_errno(err, atomic_load(&disk.error), "cannot read");
    *ret_rate = (double)atomic_load(&disk.bytes) / seconds;
    return LAM_OK;
}

/* Opens for direct access. */
static enum lam_status open_direct(const char *path, int flags, int *ret_fd, struct lam_err *err)
{
    int fd = open(path, flags | O_DIRECT | O_CLOEXEC, 0600);

    if (fd < 0 && errno == EINVAL)
        return lam_fail(err, LAM_UNIMPLEMENTED,
            "the file system of %.200s takes no direct reads, and others would measure memory",
            path);
    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot open %.200s", path);
    *ret_fd = fd;
    return LAM_OK;
}

enum lam_status lam_measure_disk(const char *path, double *ret_rate, struct lam_err *err)
{
    struct stat info = {0};
    int fd = -1;
    enum lam_status status = open_direct(path, O_RDONLY, &fd, err);

    if (status)
        return status;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode))
        status = lam_fail(err, LAM_INVALID_ARGUMENT, "it is no regular file");
    else
        status = read_file(fd, (uint64_t)info.st_size, ret_rate, err);
    close(fd);
    return status ? lam_err_wrap(err, status, "%.200s", path) : LAM_OK;
}

/* Data that no drive can compress away. */
static enum lam_status write_file(int fd, struct lam_err *err)
{
    uint64_t value = 88172645463325252u; /* of an xorshift generator */
    uint64_t *buffer = map_buffer(REQUEST_BYTES);
    enum lam_status status = LAM_OK;

    if (!buffer)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory for a buffer");
    for (uint64_t at = 0; at < OWN_FILE_BYTES && !status; at += REQUEST_BYTES) {
        for (uint64_t i = 0; i < REQUEST_BYTES / sizeof value; i++) {
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            buffer[i] = value;
        }
        if (pwrite(fd, buffer, REQUEST_BYTES, (off_t)at) != (ssize_t)REQUEST_BYTES)
            status = lam_fail_errno(err, errno, "cannot write");
    }
    if (!status && fsync(fd) != 0)
        status = lam_fail_errno(err, errno, "cannot write");
    munmap(buffer, REQUEST_BYTES);
    return status;
}

enum lam_status lam_measure_disk_of(const char *folder, double *ret_rate, struct lam_err *err)
{
    char path[PATH_MAX];
    int fd = -1;
    enum lam_status status;

    if (snprintf(path, sizeof path, "%s/measure.tmp", folder) >= (int)sizeof path)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "the folder's name is too long");
    status = open_direct(path, O_RDWR | O_CREAT | O_TRUNC, &fd, err);
    if (status)
        return status;
    unlink(path); /* gone with the descriptor, whatever happens */
    status = write_file(fd, err);
    if (!status)
        status = read_file(fd, OWN_FILE_BYTES, ret_rate, err);
    close(fd);
    return status ? lam_err_wrap(err, status, "%.200s", folder) : LAM_OK;
}

/* ---- memory */

struct memory {
    uint64_t begin_ns, end_ns; /* what is read in between counts */
    atomic_uint_fast64_t bytes;
    atomic_uint_fast64_t sum; /* so that the reads are needed */
    atomic_bool failed;
};

/* Blocks are small beside the window: those that cross its ends do not matter. */
static void *read_memory(void *arg)
{
    struct memory *memory = arg;
    uint64_t *buffer = map_buffer(MEMORY_BYTES);
    uint64_t sums[8] = {0};
    uint64_t now_ns = lam_now_ns();

    if (!buffer)
        atomic_store(&memory->failed, true);
    for (uint64_t at = 0; buffer && now_ns < memory->end_ns; at += MEMORY_BLOCK_BYTES) {
        const uint64_t *block = buffer + at % MEMORY_BYTES / sizeof *buffer;
        for (uint64_t i = 0; i < MEMORY_BLOCK_BYTES / sizeof *block; i += 8)
            for (unsigned k = 0; k < 8; k++)
                sums[k] += block[i + k];
        now_ns = lam_now_ns();
        if (now_ns >= memory->begin_ns)
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
    struct memory memory = {.begin_ns = lam_now_ns() + MEMORY_WARM_NS};
    struct crew crew = {0};
    long n_processors = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = n_processors < 1 ? 1 : (uint32_t)n_processors;

    memory.end_ns = memory.begin_ns + MEMORY_NS;
    crew_start(&crew, n < THREADS_MAX ? n : THREADS_MAX, read_memory, &memory);
    crew_wait(&crew);
    if (atomic_load(&memory.failed) || atomic_load(&memory.bytes) == 0)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no memory to measure with");
    *ret_rate = (double)atomic_load(&memory.bytes) / (double)MEMORY_NS * 1e9;
    return LAM_OK;
}
