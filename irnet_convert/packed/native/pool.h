// Threads of this process for all plans.
#pragma once
#include <cstdint>

namespace irn {

using RangeFunction = void (*)(const void* context, int64_t begin, int64_t end);

// Calls run(context, begin, end) so that the ranges cover [0, items) once, on up to `threads` threads, the
// caller among them, and returns when all is done. While one call has the workers, others run on their own
// thread alone. Works in a forked child: it gets workers of its own.
void parallel(int threads, int64_t items, RangeFunction run, const void* context);

template <class Function>
void parallel(int threads, int64_t items, const Function& function) {
  parallel(
      threads, items,
      [](const void* context, int64_t begin, int64_t end) {
        (*static_cast<const Function*>(context))(begin, end);
      },
      &function);
}

}  // namespace irn
