// Convolutions and linear layers: tiles of pixels by blocks of output channels, then the epilogue.
#pragma once
#include <type_traits>

#include "finish.h"
#include "tile.h"

namespace irn::IRN_ISA {

template <class M>
using TileFunction = void (*)(const typename M::Unit* const*, const typename M::Weight*, const Segment*,
                              const Segment*, typename M::Count*);

// The pixels of one tile: where their windows start, and where their results go.
template <class M>
struct Tile {
  static constexpr int kMost = M::kPixels;
  int n = 0;
  const uint8_t* in[kMost];
  const int32_t* bias[kMost];
  float scale[kMost];  // ints: of the pixel's image
  Place to[kMost];

  void add(const ConvJob& job, const Pixel& p) {
    in[n] = at(job.in, p);
    scale[n] = job.scales ? job.scales[p.n] : 0.0f;
    bias[n] = nullptr;
    if (job.bias)
      bias[n] = job.bias + (job.row_class[p.y] * job.column_classes + job.column_class[p.x]) * job.bias_stride;
    to[n++] = Place(job.epilogue, p);
  }
};

// Channels [done, block.count) of a pixel: R vectors at a time, then fewer, so that few go one by one.
template <class M, int R, class C>
inline void finish_channels(const ConvJob& job, const Block& block, const C* counts, const Tile<M>& t, int pixel,
                            int64_t done) {
  constexpr bool kHalves = R > 1 && R / 2 * kFloats % Bits::kUnitBits == 0;
  for (; done < block.count; done += R * kFloats) {
    int64_t left = block.count - done;
    if constexpr (kHalves) {
      if (left < R * kFloats) return finish_channels<M, R / 2>(job, block, counts, t, pixel, done);
    }
    F r[R];
    for (int i = 0; i < R; ++i) {
      const C* from = counts + done + i * kFloats;
      if constexpr (M::kCounts)
        r[i] = M::finish(from, t.bias[pixel] + block.channel + done + i * kFloats);
      else if constexpr (std::is_same_v<M, Ints>)
        r[i] = mul(to_floats(load_ints(from)), splat(t.scale[pixel]));
      else
        r[i] = load(from);
    }
    finish(job.epilogue, t.to[pixel], r, block.channel + done, left < R * kFloats ? int(left) : R * kFloats);
  }
}

template <class M, int V, class C>
inline void finish_pixel(const ConvJob& job, const Block& block, const C* counts, const Tile<M>& t, int pixel) {
  constexpr int kAll = V * M::kLanes / kFloats;
  finish_channels<M, (kAll < kWide ? kAll : kWide)>(job, block, counts, t, pixel, 0);
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

template <class M, int V>
void conv_tile(const ConvJob& job, const Block& block, const Tile<M>& t) {
  constexpr int kBlock = V * M::kLanes;
  static constexpr TileFunction<M> kTiles[] = {tile<M, 1, V>, tile<M, 2, V>, tile<M, 3, V>,
                                               tile<M, 4, V>, tile<M, 5, V>, tile<M, 6, V>};
  static_assert(M::kPixels == 6);
  alignas(64) typename M::Count counts[M::kPixels * kBlock];
  auto weights = reinterpret_cast<const typename M::Weight*>(job.weights) + block.weights;
  const typename M::Unit* x[M::kPixels];
  for (int i = 0; i < t.n; ++i)
    x[i] = reinterpret_cast<const typename M::Unit*>(t.in[i] + block.group * job.group_bytes);
  auto run = [&](const Epoch& e) {
    __builtin_memset(counts, 0, sizeof counts[0] * size_t(t.n * kBlock));
    kTiles[t.n - 1](x, weights + e.step * kBlock, job.segments + e.first, job.segments + e.last, counts);
  };
  if constexpr (M::kCounts) {
    if (job.n_epochs > 1) {
      alignas(64) int32_t totals[M::kPixels * kBlock];
      add_epochs<M, kBlock>(job, t.n, counts, totals, run);
      for (int i = 0; i < t.n; ++i) finish_pixel<M, V>(job, block, totals + i * kBlock, t, i);
      return;
    }
  }
  run(job.epochs[0]);
  for (int i = 0; i < t.n; ++i) finish_pixel<M, V>(job, block, counts + i * kBlock, t, i);
}

// Vectors of a block for the last few channels: whole units of bits, so that its signs can be stored.
template <class M>
constexpr int kNarrow = Bits::kUnitBits > M::kLanes ? Bits::kUnitBits / M::kLanes : 1;

// Items are pairs of a chunk of pixels and a panel of blocks, panels fastest.
template <class M>
void conv(const ConvJob& job, int64_t begin, int64_t end) {
  int64_t panels = (job.n_blocks + job.panel - 1) / job.panel;
  for (; begin < end; ++begin) {
    int64_t first = begin / panels * job.chunk, b0 = begin % panels * job.panel;
    int64_t last = first + job.chunk < job.pixels ? first + job.chunk : job.pixels;
    int64_t b1 = b0 + job.panel < job.n_blocks ? b0 + job.panel : job.n_blocks;
    Cursor cursor(job.grid, first);
    while (first < last) {
      int64_t tiles = (last - first + M::kPixels - 1) / M::kPixels;
      int64_t n = (last - first + tiles - 1) / tiles;  // about equal tiles, not full ones and a rest
      Tile<M> t;
      for (int64_t i = 0; i < n; ++i) t.add(job, cursor.next());
      for (int64_t b = b0; b < b1; ++b) {
        if (job.blocks[b].vectors == kNarrow<M>)
          conv_tile<M, kNarrow<M>>(job, job.blocks[b], t);
        else
          conv_tile<M, M::kVectors>(job, job.blocks[b], t);
      }
      first += n;
    }
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
