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

// The posts that finish() has no code of its own for, on n floats from a channel on.
[[gnu::noinline]] inline void apply_posts(const Epilogue& e, const Pixel& p, int64_t channel, float* x, int n) {
  for (const PostOp *op = e.post, *end = op + e.posts; op != end; ++op) {
    const float* other = op->kind == PostKind::kAdd ? reinterpret_cast<const float*>(at(op->value, p)) : nullptr;
    for (int i = 0; i < n; i += kFloats) {
      F r = load(x + i);
      switch (op->kind) {
        case PostKind::kAffine: r = fma(r, load(op->a + channel + i), load(op->b + channel + i)); break;
        case PostKind::kAdd: r = add(r, load(other + channel + i)); break;
        case PostKind::kClamp: r = at_most(at_least(r, splat(op->lo)), splat(op->hi)); break;
        case PostKind::kPrelu: r = where_positive(r, mul(r, load(op->a + channel + i))); break;
        default:
          for (int k = 0; k < kFloats; ++k) x[i + k] = activate(op->kind, x[i + k]);
          r = load(x + i);
      }
      store(x + i, r);
    }
  }
}

template <class T>
inline T* shifted(T* p, int64_t bytes) {
  return reinterpret_cast<T*>(reinterpret_cast<uintptr_t>(p) + uintptr_t(bytes));
}

// Where one pixel's results go, and what is added to them; nullptr for what there is not.
struct Place {
  Pixel pixel;
  const float* add;
  float* real;
  float* signs;
  Bits::Unit* bits;

  Place() = default;
  Place(const Epilogue& e, const Pixel& p) : pixel(p) {
    add = e.add.base ? reinterpret_cast<const float*>(at(e.add, p)) : nullptr;
    real = e.real.base ? reinterpret_cast<float*>(at(e.real, p)) : nullptr;
    signs = e.signs.base ? reinterpret_cast<float*>(at(e.signs, p)) : nullptr;
    bits = e.bits.base ? reinterpret_cast<Bits::Unit*>(at(e.bits, p)) : nullptr;
  }
  // n pixels on along the row. The strides of a view that is absent are 0.
  void next(const Epilogue& e, int n = 1) {
    pixel.x += n;
    add = shifted(add, n * e.add.x);
    real = shifted(real, n * e.real.x);
    signs = shifted(signs, n * e.signs.x);
    bits = shifted(bits, n * e.bits.x);
  }
};

template <int R>
[[gnu::always_inline]] inline void fill(F (&to)[R], const float* from) {
#pragma GCC unroll 8
  for (int i = 0; i < R; ++i) to[i] = load(from + i * kFloats);
}

// A PReLU of R vectors of channels, and the multiply-adds around it: RPReLU, whose shifts are theirs.
template <int R>
struct Bend {
  F before_scale[R], before_shift[R], slope[R], after_scale[R], after_shift[R];
  bool there, before, after;

  [[gnu::always_inline]] Bend(const Epilogue& e, int64_t channel)
      : there(e.slope), before(e.before_scale), after(e.after_scale) {
    if (there) fill(slope, e.slope + channel);
    if (before) fill(before_scale, e.before_scale + channel), fill(before_shift, e.before_shift + channel);
    if (after) fill(after_scale, e.after_scale + channel), fill(after_shift, e.after_shift + channel);
  }
  [[gnu::always_inline]] F of(F x, int i) const {
    if (before) x = fma(x, before_scale[i], before_shift[i]);
    x = where_positive(x, mul(x, slope[i]));
    return after ? fma(x, after_scale[i], after_shift[i]) : x;
  }
};

// What is done to results before their signs are written as bits.
template <int R>
struct Turn {
  F scale[R], shift[R];
  bool there;

  [[gnu::always_inline]] Turn(const Epilogue& e, int64_t channel) : there(e.turn_scale) {
    if (there) fill(scale, e.turn_scale + channel), fill(shift, e.turn_shift + channel);
  }
  [[gnu::always_inline]] void of(const F (&r)[R], F (&turned)[R]) const {
    for (int i = 0; i < R; ++i) turned[i] = fma(r[i], scale[i], shift[i]);
  }
};

// What follows the accumulators of R vectors of channels in every pixel, in registers.
template <int R>
struct Ending {
  static constexpr bool kFull = false;
  F scale[R], shift[R], lo, hi;
  bool affine, clamp;

  Ending(const Epilogue& e, int64_t channel) : lo(splat(e.lo)), hi(splat(e.hi)), affine(e.scale), clamp(e.clamp) {
    if (affine) fill(scale, e.scale + channel), fill(shift, e.shift + channel);
  }
};

inline bool is_plain(const Epilogue& e) { return !e.slope && !e.turn_scale; }

// For what is not plain.
template <int R>
struct FullEnding : Ending<R> {
  static constexpr bool kFull = true;
  Bend<R> bend;
  Turn<R> turn;
  FullEnding(const Epilogue& e, int64_t channel) : Ending<R>(e, channel), bend(e, channel), turn(e, channel) {}
};

// Bit i of the result: the sign of channel i.
template <int R>
inline uint32_t sign_mask(const F (&r)[R]) {
  uint32_t mask = 0;
  for (int i = 0; i < R; ++i) mask |= signs(r[i]) << (i * kFloats);
  return mask;
}

template <class B, int R>
inline void put_signs(typename B::Unit* to, const F (&r)[R]) {
  if constexpr (B::kPutsSigns)
    B::put_signs(to, r);
  else
    B::template put<R * kFloats>(to, sign_mask(r));
}

// What is rare: signs as floats, and the last channels of a pixel, which fill no vector, or no word of bits.
[[gnu::noinline]] inline void put_some(const Place& to, const float* x, uint32_t mask, uint32_t bits, int64_t channel,
                                       int count) {
  if (to.real)
    for (int i = 0; i < count; ++i) to.real[channel + i] = x[i];
  if (to.signs)
    for (int i = 0; i < count; ++i) to.signs[channel + i] = mask >> i & 1 ? 1.0f : -1.0f;
  bits &= uint32_t((uint64_t(1) << count) - 1);
  if (to.bits)
    for (int i = 0; i < count; i += Bits::kUnitBits)
      to.bits[(channel + i) / Bits::kUnitBits] =
          Bits::unit(bits >> i & uint32_t((uint64_t(1) << Bits::kUnitBits) - 1));
}

// What nearly every layer has; see Epilogue.
template <class E, int R>
[[gnu::always_inline]] inline void apply_first(const E& k, const Place& to, F (&r)[R], int64_t channel) {
  if (k.affine)
    for (int i = 0; i < R; ++i) r[i] = fma(r[i], k.scale[i], k.shift[i]);
  if (to.add)
    for (int i = 0; i < R; ++i) r[i] = add(r[i], load(to.add + channel + i * kFloats));
  if constexpr (E::kFull) {
    if (k.bend.there)
      for (int i = 0; i < R; ++i) r[i] = k.bend.of(r[i], i);
  }
  if (k.clamp)
    for (int i = 0; i < R; ++i) r[i] = at_most(at_least(r[i], k.lo), k.hi);
}

template <class E, int R>
[[gnu::always_inline]] inline void put_all(const E& k, const Place& to, const F (&r)[R], int64_t channel) {
  if (to.real)
    for (int i = 0; i < R; ++i) store(to.real + channel + i * kFloats, r[i]);
  if (!to.bits) return;
  Bits::Unit* bits = to.bits + channel / Bits::kUnitBits;
  if constexpr (E::kFull) {
    if (k.turn.there) {
      F turned[R];
      k.turn.of(r, turned);
      return put_signs<Bits>(bits, turned);
    }
  }
  put_signs<Bits>(bits, r);
}

// Channels [channel, channel + count) of one pixel: applies post, writes each form that is wanted. Bits
// need a channel that is a multiple of the unit, and a count that is one or reaches the last channel.
template <class E, int R>
[[gnu::always_inline]] inline void finish(const Epilogue& e, const E& k, const Place& to, F (&r)[R], int64_t channel,
                                          int count) {
  static_assert(R * kFloats <= 32);
  apply_first(k, to, r, channel);
  // Copies, so that r itself stays in registers.
  alignas(64) float x[R * kFloats];
  if (e.posts) {
    for (int i = 0; i < R; ++i) store(x + i * kFloats, r[i]);
    apply_posts(e, to.pixel, channel, x, R * kFloats);
    for (int i = 0; i < R; ++i) r[i] = load(x + i * kFloats);
  }
  if (count < R * kFloats || to.signs) {
    for (int i = 0; i < R; ++i) store(x + i * kFloats, r[i]);
    uint32_t mask = sign_mask(r), bits = mask;
    if constexpr (E::kFull) {
      F turned[R];
      if (k.turn.there) k.turn.of(r, turned), bits = sign_mask(turned);
    }
    return put_some(to, x, mask, bits, channel, count);
  }
  put_all(k, to, r, channel);
}

// Apart, so that what is not plain costs nothing where all is.
template <int R>
[[gnu::noinline]] void finish_fully(const Epilogue& e, const Place& to, const F* given, int64_t channel, int count) {
  F r[R];
  for (int i = 0; i < R; ++i) r[i] = given[i];
  finish(e, FullEnding<R>(e, channel), to, r, channel, count);
}

template <int R>
inline void finish(const Epilogue& e, const Place& to, F (&r)[R], int64_t channel, int count) {
  if (is_plain(e)) return finish(e, Ending<R>(e, channel), to, r, channel, count);
  F given[R];
  for (int i = 0; i < R; ++i) given[i] = r[i];
  finish_fully<R>(e, to, given, channel, count);
}

constexpr int kWide = 32 / kFloats < 4 ? 32 / kFloats : 4;  // vectors that finish() takes at once

}  // namespace irn::IRN_ISA
