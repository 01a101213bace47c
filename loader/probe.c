/* probe: see the header. A record is one line:
 *     laminar-io 2 <request bytes> <depth> <bytes per second>
 *
 * Version 1 was measured with small pages, which the kernel cuts into more requests.
 */
#include "loader/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/flag.h"
#include "common/folder.h"
#include "common/size.h"

#define MAGIC "laminar-io 2 "
#define RECORD_BYTES_MAX 128

/* A candidate has to be this much faster (in thousandths) than the default to be taken: less is
 * what two measurements of one way differ by. */
#define CLEARLY_BETTER 1050u

const struct lam_probe_way lam_probe_candidates[LAM_PROBE_CANDIDATES] = {
    {.request_bytes = LAM_MIB, .depth = 32},
    {.request_bytes = LAM_MIB, .depth = 64},
    {.request_bytes = LAM_MIB / 2, .depth = 64},
    {.request_bytes = LAM_MIB / 4, .depth = 64},
    {.request_bytes = 2 * LAM_MIB, .depth = 16},
    {.request_bytes = 4 * LAM_MIB, .depth = 16},
};

uint64_t lam_probe_median(const uint64_t rounds[LAM_PROBE_ROUNDS])
{
    uint64_t low = rounds[0] < rounds[1] ? rounds[0] : rounds[1];
    uint64_t high = rounds[0] < rounds[1] ? rounds[1] : rounds[0];

    return rounds[2] < low ? low : rounds[2] > high ? high : rounds[2];
}

uint32_t lam_probe_choose(const uint64_t *bytes_per_s)
{
    uint32_t best = 0;

    for (uint32_t i = 1; i < LAM_PROBE_CANDIDATES; i++)
        best = bytes_per_s[i] > bytes_per_s[best] ? i : best;
    return bytes_per_s[best] / 1000 * 1000 >= bytes_per_s[0] / 1000 * CLEARLY_BETTER ? best : 0;
}

enum lam_status lam_probe_key(int fd, char key[LAM_PROBE_KEY_BYTES], struct lam_err *err)
{
    struct stat info;
    struct statfs fs;

    if (fstat(fd, &info) != 0 || fstatfs(fd, &fs) != 0)
        return lam_fail_errno(err, errno, "cannot look at the model's file system");
    snprintf(key, LAM_PROBE_KEY_BYTES, "%u-%u-%llx-%llx-%llx", major(info.st_dev),
        minor(info.st_dev), (unsigned long long)fs.f_type, (unsigned long long)fs.f_bsize,
        (unsigned long long)fs.f_blocks);
    return LAM_OK;
}

static enum lam_status path_of(
    const char *dir, const char *key, const char *suffix, char path[PATH_MAX], struct lam_err *err)
{
    int length = snprintf(path, PATH_MAX, "%s/%s%s", dir, key, suffix);

    if (length > 0 && length < PATH_MAX)
        return LAM_OK;
    return lam_fail(err, LAM_INVALID_ARGUMENT, "the path of --io-cache %.200s is too long", dir);
}

/* ---- reading ---- */

/* The next number of the line; moves *at behind it and the `end` that follows it. */
static bool take_number(char **at, char end, int64_t min, int64_t max, int64_t *ret)
{
    char *stop = strchr(*at, end);

    if (stop == NULL)
        return false;
    *stop = '\0';
    if (!lam_int_parse(*at, min, max, ret))
        return false;
    *at = stop + 1;
    return true;
}

static bool parse(char *text, struct lam_probe_way *ret_way)
{
    char *at = text + strlen(MAGIC);
    int64_t request_bytes, depth, speed;

    if (strncmp(text, MAGIC, strlen(MAGIC)) != 0 ||
        !take_number(&at, ' ', 1, INT64_MAX, &request_bytes) ||
        !take_number(&at, ' ', 1, INT64_MAX, &depth) ||
        !take_number(&at, '\n', 0, INT64_MAX, &speed) || *at != '\0')
        return false;
    for (uint32_t i = 0; i < LAM_PROBE_CANDIDATES; i++) {
        const struct lam_probe_way *way = &lam_probe_candidates[i];

        if (way->request_bytes != (uint64_t)request_bytes || way->depth != (uint64_t)depth)
            continue;
        *ret_way = *way;
        return true;
    }
    return false;
}

enum lam_status lam_probe_load(
    const char *dir, const char *key, struct lam_probe_way *ret_way, struct lam_err *err)
{
    char path[PATH_MAX], text[RECORD_BYTES_MAX] = "";
    struct stat info;
    enum lam_status status = path_of(dir, key, "", path, err);
    ssize_t n = -1;
    int fd;

    if (status != LAM_OK)
        return status;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot open %s", path);
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode))
        n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n <= 0 || n == (ssize_t)sizeof(text) - 1 || memchr(text, '\0', (size_t)n) != NULL ||
        !parse(text, ret_way))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "%s is no record of how to read a drive: it is ignored and written anew", path);
    return LAM_OK;
}

/* ---- writing ---- */

enum lam_status lam_probe_save(const char *dir, const char *key, const struct lam_probe_way *way,
    uint64_t bytes_per_s, struct lam_err *err)
{
    char path[PATH_MAX], fresh[PATH_MAX], text[RECORD_BYTES_MAX], suffix[32];
    enum lam_status status = lam_folder_make(dir, err);
    int length = snprintf(text, sizeof(text), MAGIC "%" PRIu64 " %" PRIu32 " %" PRIu64 "\n",
        way->request_bytes, way->depth, bytes_per_s);
    bool written;
    int fd;

    snprintf(suffix, sizeof(suffix), ".%d", (int)getpid());
    if (status == LAM_OK)
        status = path_of(dir, key, "", path, err);
    if (status == LAM_OK)
        status = path_of(dir, key, suffix, fresh, err);
    if (status != LAM_OK)
        return status;
    fd = open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return lam_fail_errno(err, errno, "cannot write %s", fresh);
    written = !lam_fault_hit("write") && write(fd, text, (size_t)length) == length;
    close(fd);
    if (written && rename(fresh, path) == 0)
        return LAM_OK;
    status = lam_fail_errno(err, written ? errno : ENOSPC, "cannot write %s", path);
    unlink(fresh);
    return status;
}
