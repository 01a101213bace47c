/*
 * address: "unix:/path" and "host:port", as programs write them. Private to rpc/.
 *
 * gRPC reports a failed bind by a zero and a log line, and removes whatever socket file it finds on
 * a Unix path. So the address is tried here first: the error gets a name, and a live server keeps
 * its socket.
 */
#ifndef LAMINAR_RPC_ADDRESS_H
#define LAMINAR_RPC_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "common/status.h"

/* "unix:/path" -> "/path"; NULL when it is no Unix address. */
const char *lam_address_unix_path(const char *address);

/* "host:port" or "[v6]:port" to its parts; the port is a number. False: it is neither. */
#define LAM_ADDRESS_HOST_BYTES 256
LAM_MUST_USE bool lam_address_split(
    const char *address, char host[LAM_ADDRESS_HOST_BYTES], const char **ret_port);

/* Is the form right? A port of 0 passes when `listening`. Errors: LAM_INVALID_ARGUMENT with
 * examples. */
LAM_MUST_USE enum lam_status lam_address_check(
    const char *address, bool listening, struct lam_err *err);

/*
 * Can a server listen here? Removes the socket file of a server that no longer lives.
 * Errors: LAM_ALREADY_EXISTS (port or path in use), LAM_PERMISSION_DENIED, LAM_NOT_FOUND (no such
 * folder), LAM_INVALID_ARGUMENT (no such host, or no interface has it).
 */
LAM_MUST_USE enum lam_status lam_address_claim(const char *address, struct lam_err *err);

/* Which file is at a Unix address: remembered after the bind, so that only our own is removed. */
struct lam_address_file {
    dev_t device;
    ino_t inode;
    bool known;
};

void lam_address_remember(const char *address, struct lam_address_file *ret_file);
void lam_address_remove(const char *address, const struct lam_address_file *file);

#endif
