// A tile of bits or integers from its sums to its results without leaving registers, for what nearly every layer has:
// a multiply-add, a shortcut, a PReLU, a clamp, and results as floats or bits. All else goes through conv_tile().
//
// Bits: the sum of a pixel is bias - 2 count. Where every bias is even, counting begins at -bias / 2, so that what is
// counted, c, is the sum by -2; and since a product by a power of two is exact,
//   fma(bias - 2 count, scale, shift) = fma(c, -2 scale, shift)
// to the last bit, but for the sign of a zero. That saves two passes over the sums, and with them the only reason to
// store them first. Bytes begin at what tile.h says.
#pragma once
#include <type_traits>

#include "finish.h"
#include "tile.h"

namespace irn::IRN_ISA {

// The pixels of one tile: where their windows start, and where their results go.
template <class M>
struct Tile {
  static constexpr int kMost = M::kPixels;
  int n = 0;
  const typename M::Unit* in[kMost];
  const int32_t* bias[kMost];
  float scale[kMost];  // ints: of the pixel's image
  Place to[kMost];
  // For whole_tile(), in the place of `to`.
  bool simple = false;
  bool even = false;  // pixels of one row; of bits with one bias
  const float* add[kMost] = {};
  float* real[kMost] = {};
  Bits::Unit* bits[kMost] = {};
  // Bytes: what ConvJob::aside names, for the segment that is of it.
  static_assert(kMostAside % 4 == 0);  // whole steps are read
  alignas(4) typename M::Unit copies[kMost][M::kAside ? kMostAside : 1] = {};
  const typename M::Unit* aside[kMost];

  void set_places() {
    for (int i = 0; i < n; ++i) to[i].add = add[i], to[i].real = real[i], to[i].signs = nullptr, to[i].bits = bits[i];
  }
  void copy(const ConvJob& job) {
    for (int i = 0; i < n; ++i) {
      aside[i] = copies[i];
      for (int64_t k = 0; k < job.n_aside; ++k) copies[i][k] = in[i][job.aside[k]];
    }
  }
};

// From the sums of N pixels, from `first` on, to their results.
template <class M, int N, bool kAdd, bool kBends, bool kReal, bool kBits, bool kTurns, bool kClamps, int P, int V>
[[gnu::always_inline]] inline void finish_sums(const ConvJob& job, const Block& block, const Tile<M>& t,
                                               typename M::Acc (&sum)[P][V], int first) {
  // Else gcc 12 keeps sums on the stack for what follows.
#pragma GCC unroll 8
  for (int p = first; p < first + N; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) keep(sum[p][v]);

  const Epilogue& e = job.epilogue;
  F lo = splat(e.lo), hi = splat(e.hi);
  constexpr int kUnit = Bits::kUnitBits / kFloats, R = V < kUnit ? V : kUnit;  // vectors at once: a unit of bits
  static_assert(V % R == 0);
#pragma GCC unroll 8
  for (int v = 0; v < V; v += R) {
    int64_t channel = block.channel + v * M::kLanes;
    F scale[R], shift[R], r[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      scale[i] = load((M::kCounts ? job.minus_twice : e.scale) + channel + i * M::kLanes);
      shift[i] = load(e.shift + channel + i * M::kLanes);
    }
    Bend<R> bend(e, channel);
    Turn<R> turn(e, channel);
#pragma GCC unroll 8
    for (int p = first; p < first + N; ++p) {
#pragma GCC unroll 4
      for (int i = 0; i < R; ++i) {
        r[i] = M::to_real(sum[p][v + i]);
        if constexpr (M::kIntegers) r[i] = mul(r[i], splat(t.scale[p]));
        r[i] = fma(r[i], scale[i], shift[i]);
        if constexpr (kAdd) r[i] = add(r[i], load(t.add[p] + channel + i * M::kLanes));
        if constexpr (kBends) r[i] = bend.of(r[i], i);
        if constexpr (kClamps) r[i] = at_most(at_least(r[i], lo), hi);
        if constexpr (kReal) store(t.real[p] + channel + i * M::kLanes, r[i]);
      }
      if constexpr (kTurns) turn.of(r, r);
      if constexpr (kBits) put_signs<Bits>(t.bits[p] + channel / Bits::kUnitBits, r);
    }
  }
}

template <class M, int P, int V, bool kAdd, bool kBends, bool kReal, bool kBits, bool kTurns>
[[gnu::noinline]] void whole_tile(const ConvJob& job, const Block& block, const Tile<M>& t) {
  typename M::Acc sum[P][V];
  auto start = [&](int p, int v) {
    if constexpr (!M::kBegins) return M::zero();
    else return M::begin(job.start + (M::kCounts ? t.bias[p] - job.bias : 0) + block.channel + v * M::kLanes);
  };
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    typename M::Acc first = start(0, v);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p][v] = first;
  }
  if constexpr (M::kCounts) {
    if (!t.even) {
#pragma GCC unroll 8
      for (int p = 1; p < P; ++p)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[p][v] = start(p, v);
    }
  }

  auto w = reinterpret_cast<const typename M::Weight*>(job.weights) + block.weights;
  const Segment *s = job.segments, *last = s + job.epochs[0].last - 1;
  // In memory: gcc 12 would take vector registers for it, and what is read from one waits for all the additions that
  // were begun before.
  const ConvJob* later_job = &job;
  const Block* later_block = &block;
  const Tile<M>* tile = &t;
  int64_t unit = block.group * job.group_units;
  asm volatile("" : "+m"(later_job), "+m"(later_block));
  auto pixels = [&] {
    asm volatile("" : "+m"(tile), "+m"(unit));
    return M::kAside && s->aside ? tile->aside : tile->in;
  };
  for (; s != last; ++s) w = add_steps<M, P>(sum, 0, pixels(), unit, *s, w);

  // Of bits the last steps of two pixels, their results, and those of the next two: stores of all pixels at once would be
  // waited for, while those of two are done behind the next ones' steps.
  constexpr int kPart = M::kCounts && V == M::kVectors ? 2 : P, kSteps = kPart < P ? 12 : 0;
  static_assert(P % kPart == 0);
  Segment begun = *s, rest = *s;
  rest.steps = s->steps < kSteps ? s->steps : kSteps;
  begun.steps -= rest.steps;
  rest.offset += begun.steps * M::kStep;
  if (begun.steps) w = add_steps<M, P>(sum, 0, pixels(), unit, begun, w);
  auto in = pixels();
#pragma GCC unroll 8
  for (int p = 0; p < P; p += kPart) {
    if constexpr (kSteps > 0) add_steps<M, kPart>(sum, p, in, unit, rest, w);
    if (M::kCounts && !later_job->epilogue.clamp)
      finish_sums<M, kPart, kAdd, kBends, kReal, kBits, kTurns, false>(*later_job, *later_block, *tile, sum, p);
    else  // where there is no clamp, of what changes nothing
      finish_sums<M, kPart, kAdd, kBends, kReal, kBits, kTurns, true>(*later_job, *later_block, *tile, sum, p);
  }
}

// Whether tiles of a job's whole blocks are for whole_tile().
template <class M>
inline bool ends_simply(const ConvJob& job) {
  const Epilogue& e = job.epilogue;
  bool begins = job.start || !M::kBegins;
  return begins && e.scale && job.n_epochs == 1 && !e.posts && !e.signs.base && (e.real.base || e.bits.base);
}

template <class M, int P, int V>
void whole_tile(const ConvJob& job, const Block& block, const Tile<M>& t) {
  const Epilogue& e = job.epilogue;
  auto forms = [&](auto add, auto bends) {
    if (e.turn_scale) return whole_tile<M, P, V, add, bends, true, true, true>(job, block, t);
    if (e.real.base && e.bits.base) return whole_tile<M, P, V, add, bends, true, true, false>(job, block, t);
    if (e.bits.base) return whole_tile<M, P, V, add, bends, false, true, false>(job, block, t);
    whole_tile<M, P, V, add, bends, true, false, false>(job, block, t);
  };
  constexpr std::true_type kYes;
  constexpr std::false_type kNo;
  if (e.slope) return e.add.base ? forms(kYes, kYes) : forms(kNo, kYes);
  e.add.base ? forms(kYes, kNo) : forms(kNo, kNo);
}

}  // namespace irn::IRN_ISA
