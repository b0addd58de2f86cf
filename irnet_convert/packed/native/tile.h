// The core of every convolution and linear layer: a tile of P pixels by V vectors of output channels.
//
// A model M says what a step is: xor + popcount of a few bits (Bits) a multiply-add (Real), or two (Ints). A pixel is
// a pointer into a padded channels-last buffer, a segment is a stretch of steps that is contiguous there
// (one kernel row, or one tap), and the weights lie in the order in which they are read: [step][V * lanes].
#pragma once
#include "kernels.h"

namespace irn::IRN_ISA {

struct Real {
  using Unit = float;
  using Weight = float;
  using Count = float;
  using Vec = F;
  using Acc = F;
  using Act = F;
  static constexpr bool kCounts = false, kIntegers = false;
  static constexpr bool kBegins = false, kWhole = false, kAside = false;
  static constexpr int kPairs = 0, kWidePairs = 0;
  static constexpr int kStep = 1;
  static constexpr int kUnitBits = 1, kLanes = kFloats, kMaxSteps = 1 << 30;
  static constexpr int kPixels = kRealPixels, kVectors = kRealVectors;

  static Acc zero() { return splat(0.0f); }
  static Vec weights(const Weight* p) { return load(p); }
  static Act activation(const Unit* p) { return splat(*p); }
  static Acc step(Acc sum, Act x, Vec w) { return madd(x, w, sum); }
  static int lane(int c) { return c; }
  template <bool kFirst>
  static void flush(Acc sum, Count* to) {
    store(to, kFirst ? sum : add(load(to), sum));
  }
};

// Pairs of int16: a step is the sum of two products for each output channel.
struct Ints {
  static constexpr bool kOffset = false;
  using Unit = int16_t;
  using Weight = int32_t;
  using Count = int32_t;
  using Vec = I;
  using Acc = I;
  using Act = I;
  static constexpr bool kCounts = false, kIntegers = true;
  static constexpr bool kBegins = false, kWhole = kWholeTiles, kAside = false;
  static constexpr int kPairs = 0, kWidePairs = 0;
  static constexpr int kUnitBits = 16, kStep = 2, kLanes = kFloats, kMaxSteps = 1 << 30;
  static constexpr int kPixels = kRealPixels, kVectors = kRealVectors;

  static Acc zero() { return splat_int(0); }
  static Vec weights(const Weight* p) { return load_ints(p); }
  static Act activation(const Unit* p) {
    int32_t pair;
    __builtin_memcpy(&pair, p, sizeof pair);
    return splat_int(pair);
  }
  static Acc step(Acc sum, Act x, Vec w) { return add_products(sum, x, w); }
  static F to_real(Acc sum) { return to_floats(sum); }
  template <bool kFirst>
  static void flush(Acc sum, Count* to) {
    store_ints(to, kFirst ? sum : add_ints(load_ints(to), sum));
  }
};

#ifdef IRN_HAS_BYTES
// Fours of bytes: a step is the sum of four products for each output channel. Activations q are held as q + 128, so that
// they have no sign; sums begin at -128 times the sum of a channel's weights.
struct Bytes : Ints {
  using Unit = uint8_t;
  static constexpr bool kOffset = true, kBegins = true, kAside = true;
  static constexpr int kUnitBits = 8, kStep = 4;

  static Acc begin(const Count* at) { return load_ints(at); }
  static Act activation(const Unit* p) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return splat_int(four);
  }
  static Acc step(Acc sum, Act x, Vec w) { return add_byte_products(sum, x, w); }
};
#endif

template <class M, bool kFirst, int P, int V>
[[gnu::always_inline]] inline void flush(typename M::Acc (&sum)[P][V], typename M::Count* counts) {
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      M::template flush<kFirst>(sum[p][v], counts + (p * V + v) * M::kLanes);
      sum[p][v] = M::zero();
    }
}

// The steps of one segment for N of the pixels, from a unit of each on; returns the weights behind them.
template <class M, int N, int P, int V>
[[gnu::always_inline]] inline const typename M::Weight* add_steps(typename M::Acc (&sum)[P][V], int first,
                                                                  const typename M::Unit* const* pixels, int64_t unit,
                                                                  const Segment& s, const typename M::Weight* w) {
  const typename M::Unit* x[N];
#pragma GCC unroll 8
  for (int p = 0; p < N; ++p) x[p] = pixels[first + p] + unit + s.offset;
  for (int64_t i = 0; i < s.steps; ++i, w += V * M::kLanes) {
    typename M::Vec wv[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) wv[v] = M::weights(w + v * M::kLanes);
#pragma GCC unroll 8
    for (int p = 0; p < N; ++p) {
      typename M::Act a = M::activation(x[p] + i * M::kStep);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[first + p][v] = M::step(sum[first + p][v], a, wv[v]);
    }
  }
  return w;
}

// Writes counts[P][V * lanes]; reads from `first_unit` of each pixel on, and what lies `aside`. Not inlined: with an
// epilogue around it gcc spills the sums.
template <class M, int P, int V>
[[gnu::noinline]] void tile(const typename M::Unit* const* pixels, const typename M::Unit* const* aside,
                            int64_t first_unit, const typename M::Weight* w, const Segment* segment,
                            const Segment* end, typename M::Count* counts) {
  typename M::Acc sum[P][V];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) sum[p][v] = M::zero();

  bool first = true;
  for (; segment != end; ++segment) {
    w = add_steps<M, P>(sum, 0, M::kAside && segment->aside ? aside : pixels, first_unit, *segment, w);
    if (!segment->flush) continue;
    first ? flush<M, true>(sum, counts) : flush<M, false>(sum, counts);
    first = false;
  }
}

}  // namespace irn::IRN_ISA
