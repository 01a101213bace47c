/* meter: see the header. */
#include "loader/meter.h"

#include <assert.h>

#include "common/clock.h"

#define MS LAM_NS_PER_MS

void lam_meter_init(struct lam_meter *meter)
{
    *meter = (struct lam_meter){
        .latency = {.name = "laminar_loader_read_seconds",
            .help = "Time of one request to the drive, from its issue to its answer.",
            .kind = LAM_HISTOGRAM,
            .unit = LAM_UNIT_SECONDS,
            .bounds = {MS / 16, MS / 8, MS / 4, MS / 2, MS, 2 * MS, 4 * MS, 8 * MS, 16 * MS,
                32 * MS, 64 * MS, 128 * MS, 256 * MS, 1000 * MS, 4000 * MS, 16000 * MS}}};
    pthread_mutex_init(&meter->lock, NULL);
}

void lam_meter_done(struct lam_meter *meter)
{
    pthread_mutex_destroy(&meter->lock);
}

void lam_meter_begin(struct lam_meter *meter, uint64_t now_ns)
{
    pthread_mutex_lock(&meter->lock);
    if (meter->depth++ == 0)
        meter->busy_since_ns = now_ns;
    pthread_mutex_unlock(&meter->lock);
}

void lam_meter_end(struct lam_meter *meter, uint64_t begin_ns, uint64_t now_ns)
{
    lam_metric_observe(&meter->latency, now_ns - begin_ns);
    pthread_mutex_lock(&meter->lock);
    assert(meter->depth > 0);
    if (--meter->depth == 0)
        meter->busy_ns += now_ns > meter->busy_since_ns ? now_ns - meter->busy_since_ns : 0;
    pthread_mutex_unlock(&meter->lock);
}

/* Lock held. Another thread's clock may have been read a little later than ours. */
static uint64_t busy_until(const struct lam_meter *meter, uint64_t now_ns)
{
    bool is_busy = meter->depth > 0 && now_ns > meter->busy_since_ns;

    return meter->busy_ns + (is_busy ? now_ns - meter->busy_since_ns : 0);
}

void lam_meter_tick(struct lam_meter *meter, uint64_t now_ns)
{
    uint64_t busy_ns, more_ns;

    pthread_mutex_lock(&meter->lock);
    busy_ns = busy_until(meter, now_ns);
    more_ns = busy_ns > meter->tick_busy_ns ? busy_ns - meter->tick_busy_ns : 0;
    if (now_ns > meter->tick_ns && meter->tick_ns > 0)
        meter->busy_ppm = more_ns * 1000 / ((now_ns - meter->tick_ns) / 1000 + 1);
    meter->busy_ppm = meter->busy_ppm < 1000000 ? meter->busy_ppm : 1000000;
    meter->tick_ns = now_ns;
    meter->tick_busy_ns = busy_ns;
    pthread_mutex_unlock(&meter->lock);
}

void lam_meter_count(struct lam_meter *meter, uint64_t now_ns, struct lam_meter_counts *ret_counts)
{
    pthread_mutex_lock(&meter->lock);
    *ret_counts = (struct lam_meter_counts){
        .depth = meter->depth, .busy_ns = busy_until(meter, now_ns), .busy_ppm = meter->busy_ppm};
    pthread_mutex_unlock(&meter->lock);
}
