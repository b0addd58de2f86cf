// A tile of bits from its sums to its results without leaving registers, for what nearly every binary layer has:
// a multiply-add, a shortcut, a clamp, and results as floats or bits. All else goes through conv_tile().
//
// The sum of a pixel is bias - 2 count. Where every bias is even, counting begins at -bias / 2, so that what is
// counted, c, is the sum by -2; and since a product by a power of two is exact,
//   fma(bias - 2 count, scale, shift) = fma(c, -2 scale, shift)
// to the last bit, but for the sign of a zero. That saves two passes over the sums, and with them the only reason to store them first.
#pragma once
#include "finish.h"
#include "tile.h"

namespace irn::IRN_ISA {

// The pixels of one tile: where their windows start, and where their results go.
template <class M>
struct Tile {
  static constexpr int kMost = M::kPixels;
  int n = 0;
  bool simple = false;  // see whole_tile
  const typename M::Unit* in[kMost];
  const int32_t* bias[kMost];
  float scale[kMost];  // ints: of the pixel's image
  Place to[kMost];
};

template <class M, int P, int V, bool kAdd, bool kReal, bool kBits>
[[gnu::noinline]] void whole_tile(const ConvJob& job, const Block& block, const Tile<M>& t) {
  typename M::Acc sum[P][V];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      sum[p][v] = M::begin(job.start + (t.bias[p] - job.bias) + block.channel + v * M::kLanes);
  auto w = reinterpret_cast<const typename M::Weight*>(job.weights) + block.weights;
  for (const Segment *s = job.segments, *end = job.segments + job.epochs[0].last; s != end; ++s)
    w = add_steps<M, P, V>(sum, t.in, block.group * job.group_units + s->offset, s->steps, w);

  const Epilogue& e = job.epilogue;
  F lo = splat(e.lo), hi = splat(e.hi);
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    int64_t channel = block.channel + v * M::kLanes;
    F scale = load(job.minus_twice + channel), shift = load(e.shift + channel);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      F r = fma(to_floats(sum[p][v]), scale, shift);
      if constexpr (kAdd) r = add(r, load(t.to[p].add + channel));
      r = at_most(at_least(r, lo), hi);
      if constexpr (kReal) store(t.to[p].real + channel, r);
      if constexpr (kBits) M::template put_some_signs<V>(t.to[p].bits + block.channel / M::kUnitBits, v, r);
    }
  }
}

// Whether tiles of a job's whole blocks are for whole_tile().
inline bool ends_simply(const ConvJob& job) {
  const Epilogue& e = job.epilogue;
  return job.start && job.n_epochs == 1 && !e.posts && !e.signs.base && (e.real.base || e.bits.base);
}

template <class M, int P, int V>
void whole_tile(const ConvJob& job, const Block& block, const Tile<M>& t) {
  using Function = void (*)(const ConvJob&, const Block&, const Tile<M>&);
  static constexpr Function kTiles[] = {
      whole_tile<M, P, V, false, true, false>, whole_tile<M, P, V, false, false, true>,
      whole_tile<M, P, V, false, true, true>,  whole_tile<M, P, V, true, true, false>,
      whole_tile<M, P, V, true, false, true>,  whole_tile<M, P, V, true, true, true>};
  const Epilogue& e = job.epilogue;
  int forms = e.real.base && e.bits.base ? 2 : e.bits.base ? 1 : 0;
  kTiles[(e.add.base ? 3 : 0) + forms](job, block, t);
}

}  // namespace irn::IRN_ISA
