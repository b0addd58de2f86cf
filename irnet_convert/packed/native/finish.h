// From accumulators to results: the chain of post operations, and the three forms of a result.
#pragma once
#include <cmath>

#include "kernels.h"

namespace irn::IRN_ISA {

struct Pixel {
  int64_t n, y, x;
};

// Walks over flattened pixels in order.
class Cursor {
 public:
  Cursor(const Grid& grid, int64_t index) : grid_(grid) {
    at_.x = index % grid.w;
    at_.y = index / grid.w % grid.h;
    at_.n = index / grid.w / grid.h;
  }
  Pixel next() {
    Pixel now = at_;
    if (++at_.x == grid_.w) {
      at_.x = 0;
      if (++at_.y == grid_.h) at_.y = 0, ++at_.n;
    }
    return now;
  }

 private:
  Grid grid_;
  Pixel at_;
};

inline uint8_t* at(const View& view, const Pixel& p) { return view.at(p.n, p.y, p.x); }

inline float activate(PostKind kind, float x) {
  switch (kind) {
    case PostKind::kHardswish: {
      float gate = x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3;
      return x * gate / 6;
    }
    case PostKind::kHardsigmoid: return (x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3) / 6;
    case PostKind::kSilu: return x / (1 + ::expf(-x));
    case PostKind::kGelu: return 0.5f * x * (1 + ::erff(x * 0.70710678118654752f));
    case PostKind::kGeluTanh:
      return 0.5f * x * (1 + ::tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case PostKind::kSigmoid: return 1 / (1 + ::expf(-x));
    default: return ::tanhf(x);
  }
}

[[gnu::noinline]] inline void activate_all(PostKind kind, float* x, int n) {
  for (int i = 0; i < n; ++i) x[i] = activate(kind, x[i]);
}

template <int R>
inline void apply(const PostOp& op, F (&r)[R], const Pixel& p, int64_t channel) {
  switch (op.kind) {
    case PostKind::kAffine:
      for (int i = 0; i < R; ++i)
        r[i] = fma(r[i], load(op.a + channel + i * kFloats), load(op.b + channel + i * kFloats));
      break;
    case PostKind::kAdd: {
      auto other = reinterpret_cast<const float*>(at(op.value, p)) + channel;
      for (int i = 0; i < R; ++i) r[i] = add(r[i], load(other + i * kFloats));
      break;
    }
    case PostKind::kClamp:
      for (int i = 0; i < R; ++i) r[i] = at_most(at_least(r[i], splat(op.lo)), splat(op.hi));
      break;
    case PostKind::kPrelu:
      for (int i = 0; i < R; ++i) r[i] = where_positive(r[i], mul(r[i], load(op.a + channel + i * kFloats)));
      break;
    default: {
      alignas(64) float x[R * kFloats];
      for (int i = 0; i < R; ++i) store(x + i * kFloats, r[i]);
      activate_all(op.kind, x, R * kFloats);
      for (int i = 0; i < R; ++i) r[i] = load(x + i * kFloats);
    }
  }
}

template <int R>
inline void put_floats(float* to, const F (&r)[R], int count) {
  if (count == R * kFloats) {
    for (int i = 0; i < R; ++i) store(to + i * kFloats, r[i]);
    return;
  }
  alignas(64) float x[R * kFloats];
  for (int i = 0; i < R; ++i) store(x + i * kFloats, r[i]);
  for (int i = 0; i < count; ++i) to[i] = x[i];
}

// Channels [channel, channel + count) of one pixel: applies post, writes each form that is wanted. Bits
// need a channel that is a multiple of the unit, and a count that is one or reaches the last channel.
template <int R>
inline void finish(const Epilogue& e, F (&r)[R], const Pixel& p, int64_t channel, int count) {
  static_assert(R * kFloats <= 32);
  for (const PostOp *op = e.post, *end = op + e.posts; op != end; ++op) apply(*op, r, p, channel);
  if (e.real.base) put_floats(reinterpret_cast<float*>(at(e.real, p)) + channel, r, count);
  if (!e.bits.base && !e.signs.base) return;
  uint32_t mask = 0;
  for (int i = 0; i < R; ++i) mask |= signs(r[i]) << (i * kFloats);
  if (e.bits.base) {
    auto to = reinterpret_cast<Bits::Unit*>(at(e.bits, p)) + channel / Bits::kUnitBits;
    if (count == 32) {
      Bits::put32(to, mask);
    } else {
      uint32_t left = mask & ((uint32_t(1) << count) - 1);
      for (int i = 0; i < count; i += Bits::kUnitBits)
        *to++ = Bits::unit((left >> i) & uint32_t((uint64_t(1) << Bits::kUnitBits) - 1));
    }
  }
  if (e.signs.base) {
    auto to = reinterpret_cast<float*>(at(e.signs, p)) + channel;
    for (int i = 0; i < count; ++i) to[i] = mask >> i & 1 ? 1.0f : -1.0f;
  }
}

constexpr int kWide = 32 / kFloats < 4 ? 32 / kFloats : 4;  // vectors that finish() takes at once

}  // namespace irn::IRN_ISA
