// Convolutions and linear layers: tiles of pixels by blocks of output channels, then the epilogue.
#pragma once
#include "finish.h"
#include "tile.h"

namespace irn::IRN_ISA {

template <class M>
using TileFunction = void (*)(const typename M::Unit* const*, const typename M::Weight*, const Segment*,
                              const Segment*, typename M::Count*);

template <class M, int V, class C>
inline void finish_pixel(const ConvJob& job, const Block& block, const C* counts, const Pixel& p) {
  constexpr int kAll = V * M::kLanes / kFloats, R = kAll < kWide ? kAll : kWide;
  const int32_t* bias = nullptr;
  if (job.bias) {
    int64_t c = job.row_class[p.y] * job.column_classes + job.column_class[p.x];
    bias = job.bias + c * job.bias_stride + block.channel;
  }
  for (int64_t done = 0; done < block.count; done += R * kFloats) {
    F r[R];
    for (int i = 0; i < R; ++i) r[i] = M::finish(counts + done + i * kFloats, bias + done + i * kFloats);
    int64_t left = block.count - done;
    finish(job.epilogue, r, p, block.channel + done, left < R * kFloats ? int(left) : R * kFloats);
  }
}

template <class M, int V>
void conv_block(const ConvJob& job, const Block& block, int64_t begin, int64_t end) {
  constexpr int kBlock = V * M::kLanes, kMost = M::kPixels;
  static constexpr TileFunction<M> kTiles[] = {tile<M, 1, V>, tile<M, 2, V>, tile<M, 3, V>,
                                               tile<M, 4, V>, tile<M, 5, V>, tile<M, 6, V>};
  static_assert(kMost == 6);
  alignas(64) typename M::Count counts[kMost * kBlock];
  alignas(64) int32_t totals[kMost * kBlock];
  auto weights = reinterpret_cast<const typename M::Weight*>(job.weights) + block.weights;
  const typename M::Unit* x[kMost];
  Pixel pixels[kMost];
  Cursor cursor(job.grid, begin);
  while (begin < end) {
    int64_t tiles = (end - begin + kMost - 1) / kMost;
    int n = int((end - begin + tiles - 1) / tiles);  // about equal tiles, not five and a rest
    for (int i = 0; i < n; ++i) {
      pixels[i] = cursor.next();
      x[i] = reinterpret_cast<const typename M::Unit*>(at(job.in, pixels[i]) + block.group * job.group_bytes);
    }
    __builtin_memset(totals, 0, job.n_epochs > 1 ? sizeof totals : 0);
    for (const Epoch* e = job.epochs; e != job.epochs + job.n_epochs; ++e) {
      __builtin_memset(counts, 0, sizeof counts[0] * size_t(n * kBlock));
      kTiles[n - 1](x, weights + e->step * kBlock, job.segments + e->first, job.segments + e->last, counts);
      if (job.n_epochs == 1) break;
      for (int i = 0; i < n * kBlock; ++i) totals[i] += int32_t(counts[i]);
    }
    for (int i = 0; i < n; ++i) {
      if (job.n_epochs == 1)
        finish_pixel<M, V>(job, block, counts + i * kBlock, pixels[i]);
      else
        finish_pixel<M, V>(job, block, totals + i * kBlock, pixels[i]);
    }
    begin += n;
  }
}

// Vectors of a block for the last few channels: whole units of bits, so that its signs can be stored.
template <class M>
constexpr int kNarrow = Bits::kUnitBits > M::kLanes ? Bits::kUnitBits / M::kLanes : 1;

// Items are pairs of a chunk of pixels and a block of channels, blocks fastest.
template <class M>
void conv(const ConvJob& job, int64_t begin, int64_t end) {
  for (; begin < end; ++begin) {
    int64_t first = begin / job.n_blocks * job.chunk;
    int64_t last = first + job.chunk < job.pixels ? first + job.chunk : job.pixels;
    const Block& block = job.blocks[begin % job.n_blocks];
    if (block.vectors == kNarrow<M>)
      conv_block<M, kNarrow<M>>(job, block, first, last);
    else
      conv_block<M, M::kVectors>(job, block, first, last);
  }
}

inline void depthwise(const DepthwiseJob& job, int64_t begin, int64_t end) {
  Cursor cursor(job.grid, begin);
  for (; begin < end; ++begin) {
    Pixel p = cursor.next();
    const uint8_t* x = at(job.in, p);
    for (int64_t c = 0; c < job.channels; c += kWide * kFloats) {
      F sum[kWide];
      for (F& s : sum) s = splat(0.0f);
      for (int64_t t = 0; t < job.n_taps; ++t) {
        auto in = reinterpret_cast<const float*>(x + job.taps[t]) + c;
        const float* w = job.weights + t * job.tap_stride + c;
        for (int i = 0; i < kWide; ++i) sum[i] = madd(load(in + i * kFloats), load(w + i * kFloats), sum[i]);
      }
      int64_t left = job.channels - c;
      finish(job.epilogue, sum, p, c, left < kWide * kFloats ? int(left) : kWide * kFloats);
    }
  }
}

}  // namespace irn::IRN_ISA
