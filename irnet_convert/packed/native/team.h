// The threads that training's passes run on: those of PyTorch's own OpenMP, where it has one.
//
// PyTorch's threads wait for their next region by spinning. On a machine whose processors they all take, threads of
// our own would wait for one of them to give up before they could begin: a pass that follows one of PyTorch's would
// run on its caller alone.
#pragma once
#include <cstdint>

#include "pool.h"

namespace irn {

// GOMP_parallel of GNU's OpenMP, which LLVM's and Intel's have under the same name; null: threads of our own.
using OpenMp = void (*)(void (*run)(void*), void* context, unsigned threads, unsigned flags);
void use_openmp(OpenMp found);

// As parallel() in pool.h.
void in_team(int threads, int64_t items, RangeFunction run, const void* context);

template <class Function>
void in_team(int threads, int64_t items, const Function& function) {
  in_team(
      threads, items,
      [](const void* context, int64_t begin, int64_t end) {
        (*static_cast<const Function*>(context))(begin, end);
      },
      &function);
}

}  // namespace irn
