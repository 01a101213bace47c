/* report: an engine's plan in a few lines of the log. */
#ifndef LAMINAR_WORKER_REPORT_H
#define LAMINAR_WORKER_REPORT_H

#include "worker/engine.h"
#include "worker/units.h"

/* What the engine holds, which layers stay, what a pass moves and how long it should take. */
void lam_report_start(const struct lam_engine *engine, const struct lam_model *model);

#endif
