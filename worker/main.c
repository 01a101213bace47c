/* laminar-worker: flags, signals, and the order in which the parts start and end. */
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/flag.h"
#include "common/log.h"
#include "common/program.h"
#include "common/trace.h"
#include "worker/device.h"
#include "rpc/ops.h"
#include "worker/engine.h"
#include "worker/metrics.h"
#include "worker/report.h"
#include "worker/service.h"
#include "worker/units.h"

#define MAIN_TIMEOUT_NS (60 * LAM_NS_PER_S) /* for the loader to answer, or to bring one unit */
#define MAIN_ROWS_DEFAULT 512u              /* the most that a plan chooses by itself */
#define MAIN_ID_BYTES 160
#define LAYER_BATCH_MAX 1024
#define CPU_SEQS 8
#define PROGRAM_NAME "laminar-worker"

struct options {
    const char *gateway;
    const char *loader;
    const char *pool_socket;
    const char *id;
    const char *device;
    const char *cuda_library;
    const char *vram;
    const char *kernels;
    const char *kv_type;
    const char *layer_batch;
    const char *objective;
    const char *log_level;
    const char *ops;
    bool record;
    int64_t n_threads;
    int64_t n_ctx;
    int64_t n_seqs;
    int64_t n_rows;
    int64_t kv_tokens;
    int64_t credits;
    int64_t n_layer_batch; /* of layer_batch; 0: auto */
    double disk_rate;      /* GB/s, as the next two; 0: assumed */
    double link_rate;
    double memory_rate;
    double product_rate;
    double layer_time; /* us */
    double host_rate;
};

/* The defaults; written by lam_flag_parse, read-only afterwards. */
static struct options given = {.device = "cpu",
    .kernels = "cpu",
    .kv_type = "auto",
    .layer_batch = "auto",
    .objective = "latency",
    .log_level = "info"};
static const struct lam_flag flags[] = {
    {"gateway", 0, LAM_FLAG_TEXT, &given.gateway, "ADDR",
        "Gateway to attach to, \"unix:PATH\" or \"HOST:PORT\". It need not be there yet.", 0, 0,
        NULL, NULL},
    {"loader", 0, LAM_FLAG_TEXT, &given.loader, "ADDR",
        "Loader of this machine, \"unix:PATH\" or \"HOST:PORT\".", 0, 0, NULL, NULL},
    {"pool-socket", 0, LAM_FLAG_TEXT, &given.pool_socket, "PATH",
        "The loader's socket that hands over its memory pool.", 0, 0, NULL, NULL},
    {"id", 0, LAM_FLAG_TEXT, &given.id, "NAME",
        "Name, unique among the gateway's workers (default: HOST:PID).", 0, 0, NULL, NULL},
    {"device", 0, LAM_FLAG_TEXT, &given.device, "NAME",
        "Where to compute: cpu, cuda:N, or auto, which is GPU 0 if there is one.", 0, 0, NULL,
        NULL},
    {"vram", 0, LAM_FLAG_TEXT, &given.vram, "SPEC",
        "All that this process may hold on its GPU, context included: 3GiB, 75%, free-1GiB "
        "(default: auto, what is free less 512 MiB or 3 %).",
        0, 0, NULL, NULL},
    {"cuda-library", 0, LAM_FLAG_TEXT, &given.cuda_library, "FOLDER",
        "Where liblaminar-cuda.so is (default: beside this program, or in ../lib).", 0, 0, NULL,
        NULL},
    {"kernels", 0, LAM_FLAG_CHOICE, &given.kernels, "NAME",
        "Of --device cpu: fast (cpu), or naive and exact on any processor (ref).", 0, 0, "cpu|ref",
        NULL},
    {"threads", 0, LAM_FLAG_INT, &given.n_threads, "N",
        "Threads that compute; 0: one for each core that this process may use.", 0, 1024, NULL,
        NULL},
    {"ctx", 0, LAM_FLAG_INT, &given.n_ctx, "N",
        "Longest sequence in tokens; 0: what the model was trained for, at most 8192.", 0, 1 << 24,
        NULL, NULL},
    {"batch", 0, LAM_FLAG_INT, &given.n_seqs, "N",
        "Sequences that share passes; 0: one on a GPU, 8 on a CPU.", 0, 1024, NULL, NULL},
    {"prefill-chunk", 0, LAM_FLAG_INT, &given.n_rows, "N",
        "Rows of one pass: prompts longer than this take several; 0: 512, 256 on a CPU.", 0, 8192,
        NULL, NULL},
    {"kv-type", 0, LAM_FLAG_CHOICE, &given.kv_type, "TYPE",
        "Numbers of the KV cache; auto: f16, or what fits.", 0, 0, "auto|f16|f32|q8_0", NULL},
    {"kv-tokens", 0, LAM_FLAG_INT, &given.kv_tokens, "N",
        "Positions of KV cache that all sequences share; 0: a whole context for each.", 0,
        (double)(1ll << 34), NULL, NULL},
    {"credits", 0, LAM_FLAG_INT, &given.credits, "N",
        "Units that the loader may bring ahead of use; 0: two requests of --layer-batch, at least "
        "3.",
        0, 1024, NULL, NULL},
    {"layer-batch", 0, LAM_FLAG_TEXT, &given.layer_batch, "N",
        "Consecutive layers that one request to the loader covers, 1 to 1024, or auto: as many as "
        "keep its drive busy, as far as its memory holds two requests. A GPU's slots hold as many; "
        "auto: one layer, or a part of one.",
        0, 0, NULL, NULL},
    {"objective", 0, LAM_FLAG_CHOICE, &given.objective, "NAME",
        "What free GPU memory is for: weights that stay (latency), or the cache of a larger batch "
        "than --batch 0 has (throughput).",
        0, 0, "latency|throughput", NULL},
    {"disk-rate", 0, LAM_FLAG_REAL, &given.disk_rate, "GB/S",
        "Speed of the loader's disk, for the plan; 0: 3.", 0, 1e6, NULL, NULL},
    {"link-rate", 0, LAM_FLAG_REAL, &given.link_rate, "GB/S",
        "Speed of the link to the GPU, for the plan; 0: 25.", 0, 1e6, NULL, NULL},
    {"memory-rate", 0, LAM_FLAG_REAL, &given.memory_rate, "GB/S",
        "Speed of the GPU's memory, for the plan; 0: 2000.", 0, 1e6, NULL, NULL},
    {"product-rate", 0, LAM_FLAG_REAL, &given.product_rate, "GB/S",
        "Speed at which the GPU reads this model's weights in products, for the plan; 0: that of "
        "its memory.",
        0, 1e6, NULL, NULL},
    {"layer-time", 0, LAM_FLAG_REAL, &given.layer_time, "US",
        "Microseconds of a layer on the GPU beside its products, for the plan; 0: 20.", 0, 1e6,
        NULL, NULL},
    {"host-rate", 0, LAM_FLAG_REAL, &given.host_rate, "GB/S",
        "Speed of this machine's memory, for the plan; 0: 100 with a GPU, else 20.", 0, 1e6, NULL,
        NULL},
    LAM_PROGRAM_OPS(&given.ops),
    LAM_PROGRAM_RECORD(&given.record),
    LAM_PROGRAM_LOG_LEVEL(&given.log_level),
    {.name = NULL},
};
static const struct lam_flag_program program = {
    .usage = "laminar-worker --gateway ADDR --loader ADDR --pool-socket PATH [flags]",
    .summary = "Computes a model's layers straight out of a loader's memory pool, for a gateway. "
               "Ends with status 1 and the reason in its last line when the loader is lost, and "
               "with 3 when the model does not fit into --vram or memory; waits for a gateway that "
               "is away.",
    .flags = flags,
    .epilog = "Example, beside a loader and a gateway on one machine:\n"
              "  laminar-worker --gateway unix:/run/laminar/gateway.sock \\\n"
              "      --loader unix:/run/laminar/loader.sock \\\n"
              "      --pool-socket /run/laminar/pool.sock --batch 16",
};

/* What the signal thread and the loader's thread may touch. */
struct wakers {
    pthread_mutex_t lock;
    struct lam_service *service; /* NULL: not serving, under the lock */
    struct lam_units *units;
    sigset_t stop;    /* the signals, constant */
    bool loader_lost; /* before there was a service to tell */
    bool ended;       /* the signal thread shall end */
};

static struct wakers wakers = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void on_loader_lost(void *arg)
{
    struct wakers *w = arg;

    pthread_mutex_lock(&w->lock);
    w->loader_lost = true;
    if (w->service)
        lam_service_lose_loader(w->service);
    pthread_mutex_unlock(&w->lock);
}

/* The first signal lets the pass in progress end; a second one does not wait for its units. */
static void *signal_main(void *arg)
{
    struct wakers *w = arg;
    bool asked = false;
    int signo;

    for (;;) {
        if (sigwait(&w->stop, &signo) != 0)
            continue;
        pthread_mutex_lock(&w->lock);
        if (w->ended) {
            pthread_mutex_unlock(&w->lock);
            return NULL;
        }
        if (!w->service)
            _exit(128 + signo); /* still starting: nothing to finish, the system takes all back */
        if (asked)
            lam_units_stop(w->units);
        lam_service_stop(w->service);
        asked = true;
        pthread_mutex_unlock(&w->lock);
    }
}

static void end_signals(pthread_t thread)
{
    pthread_mutex_lock(&wakers.lock);
    wakers.ended = true;
    pthread_mutex_unlock(&wakers.lock);
    pthread_kill(thread, SIGTERM);
    pthread_join(thread, NULL);
}

/* The signal and loader threads see the service from here on; or, with NULL, no longer. */
static void publish(struct lam_service *service, struct lam_units *units)
{
    pthread_mutex_lock(&wakers.lock);
    wakers.service = service;
    wakers.units = units;
    if (service && wakers.loader_lost)
        lam_service_lose_loader(service);
    pthread_mutex_unlock(&wakers.lock);
}

/* Rows of a pass, whatever the plan comes to. */
static uint32_t rows_most(const struct options *o)
{
    uint32_t rows = o->n_rows > 0 ? (uint32_t)o->n_rows : MAIN_ROWS_DEFAULT;

    return o->n_seqs > rows ? (uint32_t)o->n_seqs : rows;
}

static enum lam_status connect_loader(
    const struct options *o, struct lam_units **ret_units, struct lam_err *err)
{
    struct lam_units_config config = {
        .loader = o->loader,
        .pool_socket = o->pool_socket,
        .credits = (uint32_t)o->credits,
        .layer_batch = (uint32_t)o->n_layer_batch,
        .max_rows = rows_most(o),
        .timeout_ns = MAIN_TIMEOUT_NS,
        .on_lost = on_loader_lost,
        .lost_arg = &wakers,
    };

    return lam_units_connect(&config, ret_units, err);
}

static enum lam_dtype kv_dtype_of(const char *name)
{
    if (strcmp(name, "f32") == 0)
        return LAM_F32;
    return strcmp(name, "q8_0") == 0 ? LAM_Q8_0 : LAM_F16;
}

static enum lam_status make_engine(const struct options *o, const struct lam_device_choice *choice,
    struct lam_units *units, struct lam_engine **ret_engine, struct lam_err *err)
{
    struct lam_engine_config config = {
        .ops = choice->ops,
        .device = choice->device,
        .device_index = choice->index,
        .vram = o->vram,
        .n_threads = (uint32_t)o->n_threads,
        .n_ctx = (uint32_t)o->n_ctx,
        .max_seqs = (uint32_t)(o->n_seqs || choice->device ? o->n_seqs : CPU_SEQS),
        .max_rows = (uint32_t)o->n_rows,
        .kv_given = strcmp(o->kv_type, "auto") != 0,
        .kv_dtype = kv_dtype_of(o->kv_type),
        .kv_pages = (uint32_t)((o->kv_tokens + LAM_PLAN_PAGE_TOKENS - 1) / LAM_PLAN_PAGE_TOKENS),
        .layer_batch = (uint32_t)o->n_layer_batch,
        .objective = strcmp(o->objective, "throughput") == 0 ? LAM_OBJECTIVE_THROUGHPUT
                                                             : LAM_OBJECTIVE_LATENCY,
        .rates = {.disk = o->disk_rate * 1e9,
            .link = o->link_rate * 1e9,
            .device_memory = o->memory_rate * 1e9,
            .product = o->product_rate * 1e9,
            .layer_seconds = o->layer_time / 1e6,
            .host_memory = o->host_rate * 1e9},
    };

    return lam_engine_create(&config, units, ret_engine, err);
}

static enum lam_status start_ops(const struct options *o, const struct lam_trace_mark *record,
    struct lam_worker_metrics *metrics, struct lam_ops **ret_ops, struct lam_err *err)
{
    struct lam_ops_config config = {.listen = o->ops,
        .process = PROGRAM_NAME,
        .record = o->record ? record : NULL,
        .arg = metrics,
        .write_metrics = lam_worker_metrics_write,
        .unhealthy = lam_worker_metrics_unhealthy};
    enum lam_status status = o->ops ? lam_ops_start(&config, ret_ops, err) : LAM_OK;

    if (status == LAM_OK && *ret_ops && lam_ops_port(*ret_ops) > 0)
        lam_info("metrics and health on port %d", lam_ops_port(*ret_ops));
    return status;
}

static enum lam_status serve(const struct options *o, const char *device, struct lam_units *units,
    struct lam_engine *engine, struct lam_worker_metrics *metrics, struct lam_err *err)
{
    struct lam_service_config config = {
        .gateway = o->gateway,
        .worker_id = o->id,
        .device = device,
        .units = units,
        .engine = engine,
        .metrics = metrics,
    };
    struct lam_service *service;
    enum lam_status status = lam_service_create(&config, &service, err);

    if (status != LAM_OK)
        return status;
    publish(service, units);
    status = lam_service_run(service, err);
    publish(NULL, NULL);
    lam_service_destroy(service);
    return status;
}

static enum lam_exit run(const struct options *o)
{
    struct lam_units *units = NULL;
    struct lam_engine *engine = NULL;
    struct lam_trace_mark mark = o->record ? lam_trace_start() : (struct lam_trace_mark){0};
    struct lam_worker_metrics metrics;
    struct lam_device_choice choice;
    struct lam_ops *ops = NULL;
    struct lam_err err = {0};
    bool starting = true;
    enum lam_status status =
        lam_device_choose(o->device, o->kernels, o->cuda_library, &choice, &err);

    if (status == LAM_OK && choice.why[0])
        lam_info("%s", choice.why);
    if (status == LAM_OK) {
        lam_info("waiting for the loader at %s, at most %d s", o->loader,
            (int)(MAIN_TIMEOUT_NS / LAM_NS_PER_S));
        status = connect_loader(o, &units, &err);
    }
    if (status == LAM_OK)
        status = make_engine(o, &choice, units, &engine, &err);
    if (status == LAM_OK) {
        starting = false;
        lam_report_start(engine, lam_units_model(units));
        lam_info("%s", lam_units_batch(units));
        lam_worker_metrics_init(&metrics, engine);
        status = start_ops(o, &mark, &metrics, &ops, &err);
    }
    if (status == LAM_OK)
        status = serve(o, choice.name, units, engine, &metrics, &err);
    lam_ops_stop(ops);
    lam_engine_destroy(engine);
    lam_units_destroy(units);
    if (status == LAM_OK)
        lam_info("stopped");
    lam_program_end(NULL, status, &err);
    if (status == LAM_OK)
        return LAM_EXIT_OK;
    return starting && err.no_fit ? LAM_EXIT_NO_FIT : LAM_EXIT_FAILED;
}

static void default_id(char *id)
{
    char host[128] = "";

    /* The last byte stays 0: a name that is cut off may come without one. */
    if (gethostname(host, sizeof host - 1) != 0 || !host[0])
        snprintf(host, sizeof host, "localhost");
    snprintf(id, MAIN_ID_BYTES, "%s:%ld", host, (long)getpid());
}

/* What the table of flags cannot say. */
static enum lam_status check_options(struct options *o, struct lam_err *err)
{
    if (!o->gateway || !o->loader || !o->pool_socket)
        return lam_fail(err, LAM_INVALID_ARGUMENT, "--%s is missing; see --help",
            !o->gateway  ? "gateway"
            : !o->loader ? "loader"
                         : "pool-socket");
    if (strcmp(o->layer_batch, "auto") != 0 &&
        !lam_int_parse(o->layer_batch, 1, LAYER_BATCH_MAX, &o->n_layer_batch))
        return lam_fail(err, LAM_INVALID_ARGUMENT,
            "--layer-batch: '%.64s' is neither auto nor a whole number from 1 to %d",
            o->layer_batch, LAYER_BATCH_MAX);
    return LAM_OK;
}

int main(int argc, char **argv)
{
    struct lam_err err = {0};
    char id[MAIN_ID_BYTES];
    pthread_t signals;
    int exit_code;

    if (!lam_program_begin(PROGRAM_NAME, &program, argc, argv, NULL, 0, &exit_code))
        return exit_code;
    if (check_options(&given, &err) != LAM_OK)
        return lam_program_fail(PROGRAM_NAME, &err, LAM_EXIT_USAGE);
    lam_program_start("worker", given.log_level, &wakers.stop);
    default_id(id);
    if (!given.id)
        given.id = id;
    if (pthread_create(&signals, NULL, signal_main, &wakers) != 0) {
        lam_error("cannot start a thread: raise the limit of processes");
        return LAM_EXIT_FAILED;
    }
    exit_code = (int)run(&given);
    end_signals(signals);
    return exit_code;
}
