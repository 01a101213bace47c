/*
 * crash: loaders and workers as processes of their own, killed in every state. Whatever dies, what
 * it held is free at once, what others hold stays as it is, and in the end nothing is left.
 *
 * Started again with other arguments, this program is one of those processes:
 *     serve DIR RAM       a loader, until it is killed
 *     be STATE DIR        a worker that stays in one state, see crash_states.h
 *     walk DIR            a worker that walks passes for as long as there is a loader
 * Each writes a byte when it is where it should be.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/mem.h"
#include "tests/unit/loader/crash_states.h"
#include "tests/unit/loader/live_loader.h"

#define LIMIT_MS 60000 /* or it hangs */

/* From a kill to free slots, the best of three: ten times what is promised, since a machine can be
 * busy, and far less than a silent connection would take to be noticed. */
#define RECLAIM_NS LAM_NS_PER_S
#define N_KILLS 200
#define N_WALKERS 2
#define N_LOADERS (1 + N_KILLS / 8)

struct process {
    pid_t pid;
    int out; /* its standard output */
};

/* ---- processes ---- */

static struct process start(const char *a, const char *b, const char *c)
{
    char *const argv[] = {"crash_test", (char *)a, (char *)b, (char *)c, NULL};
    struct process process;
    int ends[2];

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    process.pid = fork();
    assert_true(process.pid >= 0);
    if (process.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that fails leaves none of them */
        dup2(ends[1], STDOUT_FILENO);
        execv("/proc/self/exe", argv);
        _exit(127);
    }
    close(ends[1]);
    process.out = ends[0];
    return process;
}

static void wait_for_byte(const struct process *process)
{
    struct pollfd wait = {.fd = process->out, .events = POLLIN};
    char byte;

    assert_int_equal(poll(&wait, 1, LIMIT_MS), 1);
    assert_int_equal(read(process->out, &byte, 1), 1);
}

/* It was killed, and had not ended by itself: with a failed check, for example. */
static void finish(struct process *process)
{
    int status;

    assert_int_equal(waitpid(process->pid, &status, 0), process->pid);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("a process ended by itself, with status 0x%x", (unsigned)status);
    close(process->out);
}

static void kill_now(struct process *process)
{
    kill(process->pid, SIGKILL);
    finish(process);
}

static struct process start_loader(void)
{
    char ram[32];
    struct process loader = start("serve", live_model.dir, live_share(60, ram));

    wait_for_byte(&loader);
    return loader;
}

/* ---- what the loader says ---- */

/* Until nobody has anything: how long that took. */
static uint64_t wait_until_free(struct pool_worker *observer, uint32_t n_sessions)
{
    uint64_t begin_ns = lam_now_ns();

    for (;;) {
        const Laminar__V1__GetStatsResponse *stats = pool_worker_stats(observer);

        if (stats->sessions == n_sessions && stats->slots_held == 0)
            return lam_now_ns() - begin_ns;
        if (lam_now_ns() - begin_ns > LIMIT_MS * LAM_NS_PER_MS)
            fail_msg("%u sessions and %u held slots are left", stats->sessions, stats->slots_held);
    }
}

static void assert_all_slots_accounted(struct pool_worker *observer)
{
    uint32_t n_slots = pool_worker_register(observer, "", NULL)->slots;
    const Laminar__V1__GetStatsResponse *stats = pool_worker_stats(observer);

    assert_int_equal(stats->leases, 0);
    assert_int_equal(stats->slots_held, 0);
    assert_int_equal(stats->slots_free + stats->slots_loading + stats->slots_ready, n_slots);
}

static int compare_ns(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

/* ---- tests ---- */

/* How long the kernel took to end it, which is when anybody can know. */
static uint64_t kill_and_wait(const struct process *process)
{
    struct pollfd wait = {.fd = (int)syscall(SYS_pidfd_open, process->pid, 0), .events = POLLIN};
    uint64_t begin_ns = lam_now_ns();

    kill(process->pid, SIGKILL);
    assert_int_equal(poll(&wait, 1, LIMIT_MS), 1);
    close(wait.fd);
    return lam_now_ns() - begin_ns;
}

static void a_worker_killed_in_any_state_leaves_nothing(void **state)
{
    struct process loader = start_loader();
    struct pool_worker observer;
    uint64_t took_ns[3 * CRASH_STATES], reclaim_ns[3 * CRASH_STATES], best_ns[CRASH_STATES];
    uint32_t n = 0;

    (void)state;
    pool_worker_connect(&observer, live_model.dir);
    for (uint32_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < CRASH_STATES; i++) {
            struct process worker = start("be", crash_states[i].name, live_model.dir);

            wait_for_byte(&worker);
            kill(worker.pid, round == 2 ? SIGSTOP : 0); /* it cannot help with its own end */
            took_ns[n] = kill_and_wait(&worker);
            took_ns[n] += reclaim_ns[n] = wait_until_free(&observer, 0);
            best_ns[i] = round == 0 || took_ns[n] < best_ns[i] ? took_ns[n] : best_ns[i];
            n++;
            finish(&worker);
        }
    }
    qsort(took_ns, n, sizeof *took_ns, compare_ns);
    qsort(reclaim_ns, n, sizeof *reclaim_ns, compare_ns);
    print_message("from a kill to free slots: %.1f ms, at most %.1f; ours of that: %.1f, %.1f\n",
        1e-6 * (double)took_ns[n / 2], 1e-6 * (double)took_ns[n - 1],
        1e-6 * (double)reclaim_ns[n / 2], 1e-6 * (double)reclaim_ns[n - 1]);
    for (size_t i = 0; i < CRASH_STATES; i++)
        assert_true(best_ns[i] < RECLAIM_NS);
    assert_all_slots_accounted(&observer);
    pool_worker_open(&observer);
    live_walk(&observer, 2);
    pool_worker_disconnect(&observer);
    kill_now(&loader);
}

/* The pool of a process, as "device:inode" of the memory behind it; "" if it has none. */
static void find_pool(const char *process, char *text, size_t text_bytes)
{
    char path[320];
    FILE *maps;
    char line[512];

    text[0] = '\0';
    snprintf(path, sizeof(path), "/proc/%s/maps", process);
    maps = fopen(path, "r");
    if (maps == NULL)
        return; /* gone, or not ours to see */
    while (text[0] == '\0' && fgets(line, sizeof(line), maps) != NULL) {
        char *field = line;

        if (strstr(line, "/memfd:laminar-pool") == NULL)
            continue;
        for (int i = 0; i < 3; i++)
            field = strchr(field, ' ') + 1;
        snprintf(text, text_bytes, "%.40s", field);
        text[strcspn(text, "/")] = '\0';
    }
    fclose(maps);
}

static void find_pool_of(const struct process *loader, char pool[64])
{
    char pid[16];

    snprintf(pid, sizeof(pid), "%d", loader->pid);
    find_pool(pid, pool, 64);
    assert_true(pool[0] != '\0');
}

/* How many processes have this pool mapped. */
static uint32_t count_holders(const char *pool)
{
    DIR *dir = opendir("/proc");
    struct dirent *entry;
    uint32_t n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        char have[64];

        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        find_pool(entry->d_name, have, sizeof(have));
        n += have[0] != '\0' && strcmp(have, pool) == 0;
    }
    closedir(dir);
    return n;
}

static uint64_t read_sum(const struct process *process)
{
    uint64_t sum;

    /* Written at once, and shorter than a pipe's atomic length. */
    assert_int_equal(read(process->out, &sum, sizeof(sum)), sizeof(sum));
    return sum;
}

/* Nobody writes into what a worker holds any more: no read of the dead one's ring either. */
static void what_is_held_outlives_the_loader(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        struct process loader = start_loader();
        struct process worker = start("be", "summing", live_model.dir);
        struct process next;
        uint64_t sum = read_sum(&worker);

        kill_now(&loader);
        assert_int_equal(read_sum(&worker), sum);
        next = start_loader();
        for (int n = 0; n < 5; n++)
            assert_int_equal(read_sum(&worker), sum);
        kill_now(&worker);
        kill_now(&next);
    }
}

/* Before it serves: while it looks at the model, makes the pool, populates it, reads. */
static void a_loader_may_be_killed_while_it_starts(void **state)
{
    struct process loader;
    struct pool_worker worker;
    char ram[32];

    (void)state;
    for (uint64_t i = 0; i < 40; i++) {
        loader = start("serve", live_model.dir, live_share(60, ram));
        lam_sleep_ns(i * LAM_NS_PER_MS);
        kill_now(&loader);
    }
    loader = start_loader();
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    live_walk(&worker, 2);
    pool_worker_disconnect(&worker);
    kill_now(&loader);
}

static void a_killed_loader_takes_its_memory_with_it(void **state)
{
    (void)state;
    for (size_t i = 0; i < CRASH_STATES; i++) {
        struct process loader = start_loader();
        struct process worker = start("be", crash_states[i].name, live_model.dir);
        char pool[64];

        wait_for_byte(&worker);
        find_pool_of(&loader, pool);
        assert_in_range(count_holders(pool), 1, 2);
        kill_now(&loader);
        /* What the worker has mapped stays readable to it, and ends with it. */
        kill_now(&worker);
        assert_int_equal(count_holders(pool), 0);
    }
}

/* Two workers walk; one of them, or sometimes the loader, is killed at a random moment and started
 * again. A lost slot would be missing in the end; a wrong byte ends the worker that saw it. */
static void two_hundred_kills_lose_nothing(void **state)
{
    static char pools[N_LOADERS][64];
    uint32_t n_pools = 0;
    struct process loader = start_loader();
    struct process walkers[N_WALKERS];
    struct pool_worker observer;
    uint64_t rng = 0x2545f4914f6cdd1dull;

    (void)state;
    find_pool_of(&loader, pools[n_pools++]);
    for (int w = 0; w < N_WALKERS; w++)
        walkers[w] = start("walk", live_model.dir, "");
    for (uint32_t kills = 0; kills < N_KILLS; kills++) {
        uint32_t w;

        rng = rng * 6364136223846793005ull + 1442695040888963407ull;
        w = (uint32_t)(rng >> 40) % N_WALKERS;
        lam_sleep_ns((rng >> 33) % (60 * LAM_NS_PER_MS));
        if (kills % 8 == 7) {
            kill_now(&loader);
            loader = start_loader(); /* over the sockets that the dead one left */
            find_pool_of(&loader, pools[n_pools++]);
        }
        kill_now(&walkers[w]);
        walkers[w] = start("walk", live_model.dir, "");
    }
    for (int w = 0; w < N_WALKERS; w++)
        kill_now(&walkers[w]);
    pool_worker_connect(&observer, live_model.dir);
    wait_until_free(&observer, 0);
    assert_all_slots_accounted(&observer);
    pool_worker_open(&observer);
    live_walk(&observer, 2);
    pool_worker_disconnect(&observer);
    kill_now(&loader);
    assert_int_equal(n_pools, N_LOADERS);
    for (uint32_t i = 0; i < n_pools; i++)
        assert_int_equal(count_holders(pools[i]), 0);
}

/* ---- a stopped holder ---- */

/* Takes and gives back so many units as fast as they come; returns how long that took. */
static uint64_t stream_units(struct pool_worker *worker, uint32_t n_units)
{
    uint64_t begin_ns = lam_now_ns();

    for (uint32_t i = 0; i < n_units; i++) {
        struct pool_event event = crash_take_one(worker);

        live_check_unit(worker, &event);
        pool_worker_release(worker, event.unit, event.generation);
        pool_worker_credit(worker, 1);
    }
    return lam_now_ns() - begin_ns;
}

/* Time of some units beside a worker in this state. */
static uint64_t time_beside(struct pool_worker *worker, const char *state, bool stopped)
{
    struct process holder = start("be", state, live_model.dir);
    uint64_t took_ns, sum;

    if (!stopped) {
        wait_for_byte(&holder);
        took_ns = stream_units(worker, 60);
    } else {
        sum = read_sum(&holder);
        kill(holder.pid, SIGSTOP);
        took_ns = stream_units(worker, 60);
        kill(holder.pid, SIGCONT);
        for (int i = 0; i < 5; i++)
            assert_int_equal(read_sum(&holder), sum); /* the last of them from after the stop */
    }
    kill_now(&holder);
    return took_ns;
}

/* Speed beside a holder that is stopped over that beside one that could go on: the best of each,
 * taken in turn. About 1; a loader that waits for the holder with each unit comes to nothing. */
static double measure_stopped(struct pool_worker *worker)
{
    uint64_t beside_ns = UINT64_MAX, stopped_ns = UINT64_MAX;

    for (uint32_t round = 0; round < 5; round++) {
        uint64_t took_ns = time_beside(worker, "holding", false);

        beside_ns = took_ns < beside_ns ? took_ns : beside_ns;
        took_ns = time_beside(worker, "summing", true);
        stopped_ns = took_ns < stopped_ns ? took_ns : stopped_ns;
    }
    return (double)beside_ns / (double)stopped_ns;
}

static void a_stopped_holder_is_in_nobodys_way(void **state)
{
    struct process loader = start_loader();
    struct pool_worker worker;
    double ratio;

    (void)state;
    pool_worker_connect(&worker, live_model.dir);
    pool_worker_open(&worker);
    pool_worker_credit(&worker, 3);
    ratio = measure_stopped(&worker);
    print_message("speed when a holder is stopped: %.3f of that before\n", ratio);
    assert_true(ratio >= 0.1);
    pool_worker_disconnect(&worker);
    kill_now(&loader);
}

/* ---- this program as somebody else ---- */

static int serve(const char *dir, const char *ram)
{
    char model[64], listen[64], pool_socket[64];
    const char *models[] = {model};
    const char *addresses[] = {listen};
    struct lam_loader_config config = {.models = models,
        .n_models = 1,
        .listen = addresses,
        .n_listen = 1,
        .pool_socket = pool_socket,
        .ram = ram};
    struct lam_loader *loader = NULL;

    snprintf(model, sizeof(model), "%s/model.gguf", dir);
    snprintf(listen, sizeof(listen), "unix:%s/loader.sock", dir);
    snprintf(pool_socket, sizeof(pool_socket), "%s/pool.sock", dir);
    if (lam_loader_create(&config, &loader, NULL) != LAM_OK)
        return 1;
    crash_hold_on();
}

/* Begins again with the next loader when one is gone: it is the test that ends this. */
static _Noreturn void walk(const char *dir)
{
    live_read_model(dir);
    for (;;) {
        struct pool_worker worker;
        struct pool_event event;

        if (!pool_worker_try_connect(&worker, dir)) {
            lam_sleep_ns(LAM_NS_PER_MS);
            continue;
        }
        if (pool_worker_try_open(&worker))
            pool_worker_credit(&worker, 3);
        while (worker.stream != NULL && pool_worker_next(&worker, &event, NULL) == LAM_OK) {
            live_check_unit(&worker, &event);
            if (event.kept)
                continue;
            pool_worker_release(&worker, event.unit, event.generation);
            pool_worker_credit(&worker, 1);
        }
        pool_worker_disconnect(&worker);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_worker_killed_in_any_state_leaves_nothing),
        cmocka_unit_test(a_killed_loader_takes_its_memory_with_it),
        cmocka_unit_test(what_is_held_outlives_the_loader),
        cmocka_unit_test(a_loader_may_be_killed_while_it_starts),
        cmocka_unit_test(two_hundred_kills_lose_nothing),
        cmocka_unit_test(a_stopped_holder_is_in_nobodys_way),
    };

    lam_log_init("crash_test", LAM_LOG_OFF);
    if (argc >= 4 && strcmp(argv[1], "serve") == 0)
        return serve(argv[2], argv[3]);
    if (argc >= 3 && strcmp(argv[1], "walk") == 0)
        walk(argv[2]);
    for (size_t i = 0; argc >= 4 && i < CRASH_STATES; i++) {
        if (strcmp(argv[2], crash_states[i].name) == 0)
            crash_states[i].be(argv[3]);
    }
    /* From memory: what is tested here are processes, not the mood of a drive. */
    model_file_base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    return cmocka_run_group_tests(tests, live_set_up, live_tear_down);
}
