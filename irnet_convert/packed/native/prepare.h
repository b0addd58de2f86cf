// The part of a plan that no call changes: which kernel runs each step, and its weights in that kernel's order.
#pragma once
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "program.h"

namespace irn {

// How a tensor is held inside a plan; see kernels.h. Forms of one kind differ in what their border holds.
enum class FormKind { kReal, kSigns, kBits, kInts, kBytes };
struct Form {
  FormKind kind;
  PadMode mode;
  int64_t bits = 0;  // ints, bytes: of the quantised input
  bool quantised() const { return kind == FormKind::kInts || kind == FormKind::kBytes; }
  bool operator==(const Form& o) const { return kind == o.kind && mode == o.mode && bits == o.bits; }
};

enum class Method { kConvBits, kConvReal, kConvInts, kConvBytes, kDepthwise, kPool, kMove, kFlatten };

struct Prepared {
  Method method;
  Form input;  // the form that it reads of its inputs
  std::vector<PostOp> post;
  std::vector<Memory> constants;  // what post points to
  bool writes_bits = true;        // false: another pass has to pack the result

  // Convolutions and linear layers.
  Memory weights;
  std::vector<Block> blocks;
  bool rows = false;        // the taps of a kernel row lie next to each other
  int64_t run_steps = 0;    // steps of one run: a kernel row, else a tap, of one group
  int64_t aside = 0;        // bytes: how many of a kernel row, its last, fill no step; steps of all rows' follow
  int64_t group_units = 0;  // from the channels of one group to those of the next
  Memory tap_sums;          // bits: int32 [kH + 1][kW + 1][stride], see weights.cpp
  int64_t tap_stride = 0;
  Memory start;             // bytes: what the sums of each channel begin at
  Memory minus_twice;       // bits: -2 scale of a multiply-add that comes first, if that is finite
  int64_t channels = 0;     // of the result
  Memory filtered;          // real: weights for winograd.h, where that pays

  int64_t bytes() const;
};

Prepared prepare(const Program& program, size_t step, const uint8_t* blob, const Kernels& kernels);

}  // namespace irn
