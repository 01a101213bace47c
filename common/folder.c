/* folder: see the header. */
#include "common/folder.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

/* mkdir, or 0 if there is a directory already: errno. */
static int make_one(const char *path)
{
    struct stat info;

    if (mkdir(path, 0700) == 0)
        return 0;
    if (errno != EEXIST || stat(path, &info) != 0)
        return errno;
    return S_ISDIR(info.st_mode) ? 0 : ENOTDIR;
}

enum lam_status lam_folder_make(const char *path, struct lam_err *err)
{
    char part[PATH_MAX];
    size_t length = strlen(path);
    int error;

    if (length == 0 || length >= sizeof part)
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "\"%.200s\" cannot be a directory: it is empty, or longer than a path may be", path);
    memcpy(part, path, length + 1);
    for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        lam_ignore(make_one(part), "the last one tells");
        *slash = '/';
    }
    error = make_one(part);
    if (error == 0)
        return LAM_OK;
    return lam_fail_errno(err, error, "cannot make the directory %s", path);
}
