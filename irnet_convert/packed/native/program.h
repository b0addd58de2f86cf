// A program as the native code sees it, and how it is encoded: the twin of packed/steps.py.
//
// The code is a list of int64: version; the numbers of inputs, constants, steps and outputs; then
//   an input     rows, channels, rank
//   a constant   dtype, byte offset in the blob, rank, d0, d1, d2, d3 (0 from the rank on)
//   a step       kind, number of inputs, inputs..., the fields of Step in order, number of posts, posts...
//   a post       kind, a, b, lo, hi (the last two as the bits of a double, NaN where absent)
//   an output    value
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

namespace irn {

// A refusal with its reason: the only exception thrown on purpose; it ends at the C interface.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Kind : int64_t {
  kBinaryConv, kConv, kBinaryLinear, kLinear, kMaxPool, kAvgPool, kGlobalAvgPool, kFlatten, kSubsample,
  kConcat, kPointwise, kEnd
};
enum class PadMode : int64_t { kZeros, kReflect, kReplicate, kCircular, kEnd };
enum class DType : int64_t { kBits, kF32, kF16, kBF16, kI8, kI16, kEnd };

constexpr int64_t kMaxElements = int64_t(1) << 40;

struct Value {
  bool rows = false;
  int64_t channels = 0;
  int64_t rank = 0;
};

struct Constant {
  DType dtype;
  int64_t offset;
  int64_t rank;
  std::array<int64_t, 4> shape;
};

struct Post {
  PostKind kind;
  int64_t a;  // scale, slope: a constant; or the value that is added
  int64_t b;  // shift
  double lo, hi;
};

struct Step {
  Kind kind;
  std::vector<int64_t> inputs;
  int64_t weight;
  int64_t stride[2];    // y, x
  int64_t dilation[2];  // y, x
  int64_t kernel[2];    // y, x; 1, 1 where a step has none
  int64_t pad[4];       // left, right, top, bottom
  int64_t same;         // 1: pad follows from the input's size
  PadMode pad_mode;
  int64_t groups;
  int64_t ceil_mode;
  int64_t count_include_pad;
  int64_t keep_dims;
  int64_t features;
  int64_t before;
  int64_t after;
  int64_t input_bits;  // 0: real
  std::vector<Post> post;
};

struct Program {
  std::vector<Value> values;  // inputs first, then one for each step
  size_t inputs = 0;
  std::vector<Constant> constants;
  std::vector<Step> steps;
  std::vector<int64_t> outputs;
};

// Reads and validates a program completely: afterwards every index is in range, every constant lies in the
// blob and has the shape that its step needs, and every number is small enough to compute with.
Program decode(const int64_t* code, size_t n, size_t blob_size);

int64_t stored_bytes(const Constant& constant);

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline bool is_conv(Kind k) { return k == Kind::kBinaryConv || k == Kind::kConv; }
inline bool is_linear(Kind k) { return k == Kind::kBinaryLinear || k == Kind::kLinear; }
inline bool is_binary(Kind k) { return k == Kind::kBinaryConv || k == Kind::kBinaryLinear; }

}  // namespace irn
