// Convolutions and linear layers: tiles of pixels by blocks of output channels, then the epilogue.
#pragma once
#include <type_traits>

#include "finish.h"
#include "pairs.h"
#include "tile.h"
#include "walk.h"
#include "whole.h"

namespace irn::IRN_ISA {

template <class M>
using TileFunction = void (*)(const typename M::Unit* const*, const typename M::Unit* const*, int64_t,
                              const typename M::Weight*, const Segment*, const Segment*, typename M::Count*);

template <class M>
inline I whole_sum(const ConvJob& job, const int32_t* counts, int64_t channel) {
  if constexpr (M::kOffset) return add_ints(load_ints(counts), load_ints(job.start + channel));
  return load_ints(counts);
}

// R vectors of channels of a pixel's sums, from channel `done` of the block on.
template <class M, int R, int kBlock, class C>
[[gnu::always_inline]] inline void take_sums(const ConvJob& job, const Block& block, const C* counts, const Tile<M>& t,
                                             int64_t done, int pixel, F (&r)[R]) {
  for (int i = 0; i < R; ++i) {
    const C* from = counts + pixel * kBlock + done + i * kFloats;
    int64_t channel = block.channel + done + i * kFloats;
    if constexpr (M::kCounts)
      r[i] = M::finish(from, t.bias[pixel] + channel);
    else if constexpr (M::kIntegers)
      r[i] = mul(to_floats(whole_sum<M>(job, from, channel)), splat(t.scale[pixel]));
    else
      r[i] = load(from);
  }
}

// R whole vectors of a tile's pixels. A loop without calls keeps its constants in registers.
template <class M, int R, int kBlock, class C, class E>
[[gnu::always_inline]] inline void finish_vectors(const ConvJob& job, const Block& block, const C* counts,
                                                  const Tile<M>& t, int64_t done, const E& ending) {
  F r[R];
  for (int pixel = 0; pixel < t.n; ++pixel) {
    take_sums<M, R, kBlock>(job, block, counts, t, done, pixel, r);
    apply_first(ending, t.to[pixel], r, block.channel + done);
    put_all(ending, t.to[pixel], r, block.channel + done);
  }
}

// What is not simple: apart, so that it costs nothing where all is.
template <class M, int R, int kBlock, class C>
[[gnu::noinline]] void finish_vectors_fully(const ConvJob& job, const Block& block, const C* counts, const Tile<M>& t,
                                    int64_t done, bool whole) {
  FullEnding<R> ending(job.epilogue, block.channel + done);
  if (whole) return finish_vectors<M, R, kBlock>(job, block, counts, t, done, ending);
  int64_t left = block.count - done;
  F r[R];
  for (int pixel = 0; pixel < t.n; ++pixel) {
    take_sums<M, R, kBlock>(job, block, counts, t, done, pixel, r);
    finish(job.epilogue, ending, t.to[pixel], r, block.channel + done, left < R * kFloats ? int(left) : R * kFloats);
  }
}

// Channels [done, block.count) of a tile's pixels: R vectors at a time, then fewer, so that few go one by one.
// Half as many are left to fewer vectors if they fill units of bits, or if they are the last of all, behind which
// a unit is filled up with 0. (Of another group they may be the last as well: then no bits are written.)
template <class M, int R, int kBlock, class C>
inline void finish_tile(const ConvJob& job, const Block& block, const C* counts, const Tile<M>& t, int64_t done) {
  constexpr int64_t kHalf = R / 2 * kFloats;
  const Epilogue& e = job.epilogue;
  bool simple = !e.posts && !e.signs.base;
  for (; done < block.count; done += R * kFloats) {
    int64_t left = block.count - done;
    if constexpr (R > 1) {
      bool halves = kHalf % Bits::kUnitBits == 0 ? left < R * kFloats : left == kHalf;
      if (halves) return finish_tile<M, R / 2, kBlock>(job, block, counts, t, done);
    }
    bool whole = simple && left >= R * kFloats;
    if (whole && is_plain(e))
      finish_vectors<M, R, kBlock>(job, block, counts, t, done, Ending<R>(e, block.channel + done));
    else
      finish_vectors_fully<M, R, kBlock>(job, block, counts, t, done, whole);
  }
}

// Longer sums than 16 bits hold, epoch by epoch.
template <class M, int kBlock, class Run>
[[gnu::noinline]] void add_epochs(const ConvJob& job, int n, const typename M::Count* counts, int32_t* totals,
                                  const Run& run) {
  __builtin_memset(totals, 0, sizeof totals[0] * size_t(n * kBlock));
  for (const Epoch* e = job.epochs; e != job.epochs + job.n_epochs; ++e) {
    run(*e);
    for (int i = 0; i < n * kBlock; ++i) totals[i] += int32_t(counts[i]);
  }
}

// A tile by one block; of pairs of pixels where they are joined.
template <class M, int V>
void pair_tile(const ConvJob& job, const Block& block, const Tile<M>& t, const Joined<M>& joined) {
  constexpr int kBlock = V * M::kLanes, kAll = kBlock / kFloats, kAtOnce = kAll < kWide ? kAll : kWide;
  using Function = void (*)(const Joined<M>&, const typename M::Weight*, typename M::Count*);
  static constexpr Function kTiles[] = {tile_of_pairs<M, 1, V>, tile_of_pairs<M, 2, V>,
                                        V == 1 ? tile_of_pairs<M, 3, 1> : nullptr};
  static_assert(M::kPairs == 3 && M::kWidePairs == 2);
  alignas(64) typename M::Count counts[2 * M::kPairs * kBlock];
  kTiles[(t.n - 1) / 2](joined, reinterpret_cast<const typename M::Weight*>(job.weights) + block.weights, counts);
  finish_tile<M, kAtOnce, kBlock>(job, block, counts, t, 0);
}

template <class M, int V>
void conv_tile(const ConvJob& job, const Block& block, const Tile<M>& t) {
  if constexpr (M::kWhole) {
    if (t.simple && t.n == M::kPixels && block.count == V * M::kLanes)
      return whole_tile<M, M::kPixels, V>(job, block, t);
  }
  constexpr int kBlock = V * M::kLanes, kAll = kBlock / kFloats, kAtOnce = kAll < kWide ? kAll : kWide;
  static constexpr TileFunction<M> kTiles[] = {tile<M, 1, V>, tile<M, 2, V>, tile<M, 3, V>,
                                               tile<M, 4, V>, tile<M, 5, V>, tile<M, 6, V>};
  static_assert(M::kPixels == 6);
  alignas(64) typename M::Count counts[M::kPixels * kBlock];
  auto weights = reinterpret_cast<const typename M::Weight*>(job.weights) + block.weights;
  // What the epilogue reads and writes comes from a farther cache while the sums are made. Written out here:
  // gcc 12 takes a function that only prefetches for one without effect.
  for (int i = 0; i < t.n; ++i) {
    const float *add = shifted(t.to[i].add, block.channel * 4), *real = shifted(t.to[i].real, block.channel * 4);
#pragma GCC unroll 8
    for (int64_t line = 0; line < kBlock * 4; line += 64) {
      if (t.to[i].add) __builtin_prefetch(shifted(add, line));
      if (t.to[i].real) __builtin_prefetch(shifted(real, line), 1);
    }
  }
  int64_t first_unit = block.group * job.group_units;
  auto run = [&](const Epoch& e) {
    kTiles[t.n - 1](t.in, t.aside, first_unit, weights + e.step * kBlock, job.segments + e.first,
                    job.segments + e.last, counts);
  };
  if constexpr (M::kCounts) {
    if (job.n_epochs > 1) {
      alignas(64) int32_t totals[M::kPixels * kBlock];
      add_epochs<M, kBlock>(job, t.n, counts, totals, run);
      return finish_tile<M, kAtOnce, kBlock>(job, block, totals, t, 0);
    }
  }
  run(job.epochs[0]);
  finish_tile<M, kAtOnce, kBlock>(job, block, counts, t, 0);
}

// Vectors of a block for the last few channels: whole units of bits, so that its signs can be stored. The very last
// may be a single vector, behind which nothing follows.
template <class M>
constexpr int kNarrow = Bits::kUnitBits > M::kLanes ? Bits::kUnitBits / M::kLanes : 1;

template <class M>
void conv_blocks(const ConvJob& job, int64_t b0, int64_t b1, const Tile<M>& t) {
  for (int64_t b = b0; b < b1; ++b) {
    const Block& block = job.blocks[b];
    if (block.vectors == M::kVectors)
      conv_tile<M, M::kVectors>(job, block, t);
    else if (block.vectors == kNarrow<M>)
      conv_tile<M, kNarrow<M>>(job, block, t);
    else
      conv_tile<M, 1>(job, block, t);
  }
}

template <class M>
void conv_pairs(const ConvJob& job, int64_t b0, int64_t b1, const Tile<M>& t) {
  static_assert(kNarrow<M> == 1);  // so there are no other blocks
  Joined<M> joined;
  for (int64_t b = b0; b < b1; ++b) {
    const Block& block = job.blocks[b];
    if (b == b0 || block.group != job.blocks[b - 1].group) {
      const typename M::Unit* x[M::kPixels];
      for (int i = 0; i < t.n; ++i) x[i] = t.in[i] + block.group * job.group_units;
      joined.join(job, x, t.n);
    }
    if (block.vectors == kNarrow<M>)
      pair_tile<M, kNarrow<M>>(job, block, t, joined);
    else
      pair_tile<M, M::kVectors>(job, block, t, joined);
  }
}

// Pixels [first, last) of blocks [b0, b1).
template <class M>
void conv_range(const ConvJob& job, int64_t first, int64_t last, int64_t b0, int64_t b1) {
  bool pairs = false;
  if constexpr (M::kPairs > 0) pairs = Joined<M>::fits(job);
  bool narrow = job.n_blocks == 1 && job.blocks[0].vectors == kNarrow<M>;
  int64_t most = pairs ? 2 * (narrow ? M::kPairs : M::kWidePairs) : M::kPixels;
  Walk walk(job, first);
  Tile<M> t;
  bool parts = false;  // whether some block is not for whole_tile()
  if constexpr (M::kWhole) {
    t.simple = ends_simply<M>(job);
    for (int64_t b = b0; b < b1; ++b) parts |= job.blocks[b].count != job.blocks[b].vectors * M::kLanes;
  }
  while (first < last) {
    int64_t left = last - first, tiles = (left + most - 1) / most;
    // About equal tiles, not full ones and a rest; but no half pairs, and full ones where those alone are fast.
    int64_t n = (left + tiles - 1) / tiles;
    if (pairs && n < left) n += n % 2;
    if (M::kWhole && t.simple) n = left < most ? left : most;
    if (M::kWhole && t.simple && n == most) {
      walk.take_simply(t);
      if (parts) t.set_places();
    } else {
      walk.take(t, n);
    }
    if constexpr (M::kAside) t.copy(job);
    first += n;
    if constexpr (M::kPairs > 0) {
      if (pairs && n > 1) {
        conv_pairs(job, b0, b1, t);
        continue;
      }
    }
    conv_blocks(job, b0, b1, t);
  }
}

// Items are pairs of a chunk of pixels and a panel of blocks, panels fastest.
template <class M>
void conv(const ConvJob& job, int64_t begin, int64_t end) {
  int64_t panels = (job.n_blocks + job.panel - 1) / job.panel;
  for (; begin < end; ++begin) {
    int64_t first = begin / panels * job.chunk, b0 = begin % panels * job.panel;
    int64_t last = first + job.chunk < job.pixels ? first + job.chunk : job.pixels;
    int64_t b1 = b0 + job.panel < job.n_blocks ? b0 + job.panel : job.n_blocks;
    conv_range<M>(job, first, last, b0, b1);
  }
}

inline void depthwise(const DepthwiseJob& job, int64_t begin, int64_t end) {
  Cursor cursor(job.grid, begin);
  for (; begin < end; ++begin) {
    Pixel p = cursor.next();
    const uint8_t* x = at(job.in, p);
    Place to(job.epilogue, p);
    for (int64_t c = 0; c < job.channels; c += kWide * kFloats) {
      F sum[kWide];
      for (F& s : sum) s = splat(0.0f);
      for (int64_t t = 0; t < job.n_taps; ++t) {
        auto in = reinterpret_cast<const float*>(x + job.taps[t]) + c;
        const float* w = job.weights + t * job.tap_stride + c;
        for (int i = 0; i < kWide; ++i) sum[i] = madd(load(in + i * kFloats), load(w + i * kFloats), sum[i]);
      }
      int64_t left = job.channels - c;
      finish(job.epilogue, to, sum, c, left < kWide * kFloats ? int(left) : kWide * kFloats);
    }
  }
}

}  // namespace irn::IRN_ISA
