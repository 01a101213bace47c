/* folder: directories of our own, made when they are first needed. */
#ifndef LAMINAR_COMMON_FOLDER_H
#define LAMINAR_COMMON_FOLDER_H

#include "common/status.h"

/*
 * Makes the directory and all above it that are missing, for this user alone (0700); one that is
 * there stays as it is. Errors: LAM_INVALID_ARGUMENT (no path, or too long), LAM_NOT_FOUND (a
 * file in its place), LAM_PERMISSION_DENIED and others by errno.
 */
LAM_MUST_USE enum lam_status lam_folder_make(const char *path, struct lam_err *err);

#endif
