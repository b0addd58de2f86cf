// The C interface: no exception leaves it.
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>

#include "plan.h"

struct irn_plan {
  irn::Plan plan;
};

namespace {

template <class Function>
int guarded(char* err, size_t err_size, Function function) {
  const char* what = "unknown";
  try {
    function();
    return 0;
  } catch (const std::bad_alloc&) {
    what = "out of memory";
    if (err && err_size) std::snprintf(err, err_size, "%s", what);
  } catch (const std::exception& e) {
    if (err && err_size) std::snprintf(err, err_size, "%s", e.what());
  }
  return 1;
}

}  // namespace

extern "C" {

int irn_version(void) { return IRN_VERSION; }

int irn_isa_available(int isa) { return irn::kernels_of(isa) != nullptr; }

int irn_plan_create(const int64_t* code, size_t n, const uint8_t* blob, size_t blob_size, int isa,
                    irn_plan** plan, char* err, size_t err_size) {
  *plan = nullptr;
  return guarded(err, err_size, [&] {
    const irn::Kernels* kernels = irn::kernels_of(isa);
    if (!kernels) throw irn::Refused("this processor or this build lacks the instruction set");
    *plan = new irn_plan{{irn::decode(code, n, blob_size), blob, *kernels}};
  });
}

void irn_plan_free(irn_plan* plan) { delete plan; }

size_t irn_plan_bytes(const irn_plan* plan) { return plan->plan.bytes(); }

int irn_plan_shapes(irn_plan* plan, const irn_tensor* in, size_t n_in, irn_tensor* out, size_t n_out,
                    char* err, size_t err_size) {
  return guarded(err, err_size, [&] { plan->plan.shapes(in, n_in, out, n_out); });
}

int irn_plan_run(irn_plan* plan, const irn_tensor* in, size_t n_in, irn_tensor* out, size_t n_out, int threads,
                 double* times, size_t n_times, char* err, size_t err_size) {
  return guarded(err, err_size, [&] { plan->plan.run(in, n_in, out, n_out, threads, times, n_times); });
}

double irn_measure_limit(int isa, double seconds) {
  const irn::Kernels* kernels = irn::kernels_of(isa);
  if (!kernels) return 0;
  using Clock = std::chrono::steady_clock;
  double best = 0, spent = 0;
  while (spent < seconds) {  // the best of short runs: others share the machine
    auto start = Clock::now();
    double done = kernels->measure(100000);
    double time = std::chrono::duration<double>(Clock::now() - start).count();
    spent += time;
    if (time > 0 && done / time > best) best = done / time;
  }
  return best;
}

}  // extern "C"
