/* pin: see pin.h. The thread pins, waits for the end, and unpins. */
#include "worker/pin.h"

#include "common/clock.h"
#include "common/log.h"
#include "common/size.h"

static bool is_stopping(struct lam_pin *pin)
{
    bool stop;

    pthread_mutex_lock(&pin->lock);
    stop = pin->stop;
    pthread_mutex_unlock(&pin->lock);
    return stop;
}

static uint64_t piece_at(const struct lam_pin *pin, uint64_t offset)
{
    uint64_t left = pin->pool.bytes - offset;

    return left < pin->piece_bytes ? left : pin->piece_bytes;
}

/* Returns how far it came. */
static uint64_t pin_all(struct lam_pin *pin)
{
    uint64_t begin_ns = lam_now_ns();
    uint64_t at = 0;
    struct lam_err err = {0};
    char text[24];

    for (; at < pin->pool.bytes && !is_stopping(pin); at += piece_at(pin, at)) {
        if (pin->device->pin(pin->kernels, pin->pool.base + at, piece_at(pin, at), &err)) {
            lam_warn("%s", err.text);
            break;
        }
    }
    lam_info("pinned %s of the pool in %.1f s", lam_size_format(at, text, sizeof text),
        (double)(lam_now_ns() - begin_ns) / LAM_NS_PER_S);
    return at;
}

static void *pin_main(void *arg)
{
    struct lam_pin *pin = arg;
    uint64_t end = pin_all(pin);

    pthread_mutex_lock(&pin->lock);
    while (!pin->stop)
        pthread_cond_wait(&pin->stopping, &pin->lock);
    pthread_mutex_unlock(&pin->lock);
    for (uint64_t at = 0; at < end; at += pin->piece_bytes)
        pin->device->unpin(pin->kernels, pin->pool.base + at);
    return NULL;
}

enum lam_status lam_pin_start(struct lam_pin *pin, const struct lam_device_ops *device,
    struct lam_kernels *kernels, struct lam_units_pool pool, uint64_t piece_bytes,
    struct lam_err *err)
{
    *pin = (struct lam_pin){
        .device = device, .kernels = kernels, .pool = pool, .piece_bytes = piece_bytes};
    if (pthread_mutex_init(&pin->lock, NULL) != 0)
        return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "no lock for the thread that pins");
    if (pthread_cond_init(&pin->stopping, NULL) == 0) {
        if (pthread_create(&pin->thread, NULL, pin_main, pin) == 0)
            return LAM_OK;
        pthread_cond_destroy(&pin->stopping);
    }
    pthread_mutex_destroy(&pin->lock);
    return lam_fail(err, LAM_RESOURCE_EXHAUSTED, "cannot start a thread to pin the pool");
}

void lam_pin_stop(struct lam_pin *pin)
{
    pthread_mutex_lock(&pin->lock);
    pin->stop = true;
    pthread_cond_signal(&pin->stopping);
    pthread_mutex_unlock(&pin->lock);
    pthread_join(pin->thread, NULL);
    pthread_cond_destroy(&pin->stopping);
    pthread_mutex_destroy(&pin->lock);
}
