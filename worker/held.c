/* held: see held.h. */
#include "worker/held.h"

#include <inttypes.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/size.h"

#define READ_NS LAM_NS_PER_S

static void read_now(struct lam_held *held, const struct lam_engine *engine)
{
    held->bytes = lam_engine_device_bytes(engine);
    held->read_ns = lam_now_ns();
}

/* CPUs have no cap of their own: --ram is the loader's and ours together. */
static bool is_over(const struct lam_held *held, const struct lam_engine *engine)
{
    uint64_t cap = lam_engine_cap_bytes(engine);

    return cap > 0 && held->bytes > cap;
}

static void tell(const struct lam_held *held, const struct lam_engine *engine)
{
    uint32_t device = lam_engine_config(engine)->device_index;
    char is[24], cap[24], planned[24];

    lam_size_format(held->bytes, is, sizeof is);
    lam_size_format(lam_engine_cap_bytes(engine), cap, sizeof cap);
    lam_size_format(lam_engine_plan(engine)->arenas[0].total_bytes, planned, sizeof planned);
    if (held->over)
        lam_error(
            "the process holds %s on cuda:%" PRIu32 ", more than its cap of %s, although %s "
            "were planned: something beside the arena has grown; restart with a larger --vram",
            is, device, cap, planned);
    else
        lam_info("the process holds %s on cuda:%" PRIu32 " and keeps to its cap of %s again", is,
            device, cap);
}

void lam_held_init(struct lam_held *held, const struct lam_engine *engine)
{
    *held = (struct lam_held){0};
    read_now(held, engine);
}

void lam_held_look(struct lam_held *held, const struct lam_engine *engine)
{
    bool over = held->over;

    if (held->read_since_start && lam_now_ns() - held->read_ns < READ_NS)
        return;
    held->read_since_start = true;
    read_now(held, engine);
    held->over = is_over(held, engine);
    if (held->over != over)
        tell(held, engine);
}
