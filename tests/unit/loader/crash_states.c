/* crash_states: see the header. */
#include "tests/unit/loader/crash_states.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/mem.h"
#include "tests/unit/loader/live_loader.h"

static void tell(void)
{
    lam_ignore(write(STDOUT_FILENO, "\n", 1) < 0, "the test waits in vain then, and fails");
}

_Noreturn void crash_hold_on(void)
{
    tell();
    for (;;)
        pause();
}

struct pool_event crash_take_one(struct pool_worker *worker)
{
    struct pool_event event = {.kept = true};

    while (event.kept) {
        if (pool_worker_next(worker, &event, NULL) != LAM_OK)
            _exit(1);
    }
    return event;
}

/* Connected to the pool socket, and dead before it reads a word. */
static void be_in_handshake(const char *dir)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof(address.sun_path), "%s/pool.sock", dir);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) != 0)
        _exit(1);
    crash_hold_on();
}

static void be_connected(const char *dir)
{
    struct pool_worker worker;

    pool_worker_connect(&worker, dir);
    crash_hold_on();
}

static void be_idle(const char *dir)
{
    struct pool_worker worker;

    pool_worker_connect(&worker, dir);
    pool_worker_open(&worker);
    lam_ignore(pool_worker_stats(&worker) == NULL, "by then the session is open");
    crash_hold_on();
}

static void be_holding(const char *dir)
{
    struct pool_worker worker;

    pool_worker_connect(&worker, dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 2);
    lam_ignore(crash_take_one(&worker).fault, "held");
    crash_hold_on();
}

static void be_waiting_for_credit(const char *dir)
{
    struct pool_worker worker;
    struct pool_event event;

    pool_worker_connect(&worker, dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 1);
    event = crash_take_one(&worker);
    pool_worker_release(&worker, event.unit, event.generation);
    lam_ignore(pool_worker_stats(&worker) == NULL, "by then the release is through");
    crash_hold_on();
}

/* Asked for more than it takes: units are on their way to it when it dies. */
static void be_asking(const char *dir)
{
    struct pool_worker worker;

    pool_worker_connect(&worker, dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 64);
    crash_hold_on();
}

/* Holds a unit, says its sum, and again after it was stopped for a while. */
static void be_summing(const char *dir)
{
    struct pool_worker worker;
    struct pool_event event;
    const unsigned char *bytes;

    pool_worker_connect(&worker, dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 1);
    event = crash_take_one(&worker);
    bytes = worker.pool + event.pool_offset;
    for (;;) {
        uint64_t sum = 0;

        for (uint64_t i = 0; i < 400000; i++)
            sum = sum * 31 + bytes[i];
        if (write(STDOUT_FILENO, &sum, sizeof(sum)) != sizeof(sum))
            _exit(1);
        lam_sleep_ns(LAM_NS_PER_MS);
    }
}

const struct crash_state crash_states[CRASH_STATES] = {
    {"handshake", be_in_handshake},
    {"connected", be_connected},
    {"idle", be_idle},
    {"holding", be_holding},
    {"waiting", be_waiting_for_credit},
    {"asking", be_asking},
    {"summing", be_summing},
};
