#include "team.h"

#include <atomic>

namespace irn {
namespace {

std::atomic<OpenMp> openmp{nullptr};

struct Region {
  RangeFunction run;
  const void* context;
  int64_t items, grain;
  std::atomic<int64_t> next{0};
};

// Once on each thread; the ranges go to whoever comes first, so that it does not matter how many there are.
void take_part(void* of) {
  auto& region = *static_cast<Region*>(of);
  for (;;) {
    int64_t begin = region.next.fetch_add(region.grain, std::memory_order_relaxed), end = begin + region.grain;
    if (begin >= region.items) return;
    region.run(region.context, begin, end < region.items ? end : region.items);
  }
}

}  // namespace

void use_openmp(OpenMp found) { openmp.store(found); }

void in_team(int threads, int64_t items, RangeFunction run, const void* context) {
  OpenMp region_on = openmp.load();
  if (!region_on || threads <= 1 || items <= 1) return parallel(threads, items, run, context);
  if (threads > items) threads = int(items);
  int64_t grain = items / (int64_t(threads) * 4);
  Region region{run, context, items, grain > 1 ? grain : 1};
  region_on(take_part, &region, unsigned(threads), 0);
}

}  // namespace irn
