// Real convolutions by minimal filtering along rows: F(4, 4) of Winograd, four outputs of four taps from seven products
// where the plain sum takes sixteen (Winograd, Arithmetic Complexity of Computations, 1980; Lavin and Gray, Fast
// Algorithms for Convolutional Neural Networks, CVPR 2016).
//
// A row whose windows step by s pixels of C channels is a row of cells of s C numbers, through which windows step one by
// one; a kernel of up to 4 s columns has four taps there, filled up with 0. (ResNet's 7x7 kernel with stride 2 so takes
// 7 rows x 6 numbers x 7/4 = 73.5 products where it took 147.) Per number of a cell, with the cells d0 to d6,
//   y = A' [(G g) x (B' d)]
// evaluated at the points 0, 1, -1, 1/2, -1/2, 2 and infinity. All of B' and A' are exact in float32. With independent
// numbers the result is off by twice what the plain sum in float32 is off by: 4.7e-7 against 2.4e-7 of its standard
// deviation, measured in float64.
//
// B' d mixes neighbours. So an image with a number that is not finite, or above 2^16, takes the plain sum, where a window
// knows nothing of what lies beside it. And a window of zeros beside others gives not 0 but a rounding error, of either
// sign: where a zero is to keep its sign, since no shift follows, prepare.cpp does not filter.
#pragma once
#include "conv.h"
#include "move.h"

namespace irn::IRN_ISA {

constexpr int kPoints = 7, kOutputs = 4;

// The rows of a band, row by row of cells: to[cell][row][number], cells behind a row's end 0. Whole vectors are written:
// what comes behind is written later.
inline void gather_cells(const WinogradJob& job, const uint8_t* first, int64_t rows, float* to) {
  int64_t n = job.cell;
  for (int64_t at = 0, cells = job.tiles * kOutputs + kPoints - kOutputs; cells > 0; --cells, at += n) {
    int64_t left = job.row - at;
    for (int64_t y = 0; y < rows; ++y, to += n) {
      auto in = reinterpret_cast<const float*>(first + y * job.line) + at;
      for (int64_t i = 0; i < n; i += kFloats) {
        if (left - i >= kFloats) {
          store(to + i, load(in + i));
        } else {
          for (int64_t k = i; k < n && k < i + kFloats; ++k) to[k] = k < left ? in[k] : 0.0f;
        }
      }
    }
  }
}

// Whether n numbers are finite and small enough.
inline bool all_moderate(const float* x, int64_t n) {
  F most = splat(0.0f);
  int64_t i = 0;
  for (; i + kFloats <= n; i += kFloats) most = max_nan(max_nan(most, load(x + i)), mul(load(x + i), splat(-1.0f)));
  alignas(64) float each[kFloats];
  store(each, most);
  for (float m : each)
    if (!(m <= kModerate)) return false;
  for (; i < n; ++i)
    if (!(x[i] <= kModerate && x[i] >= -kModerate)) return false;
  return true;
}

// Of all numbers that an image's windows read.
inline bool moderate(const WinogradJob& job, int64_t image) {
  const uint8_t* row = job.plain.in.at(image, 0, 0);
  for (int64_t y = (job.plain.grid.h - 1) * job.stride + job.kernel_rows; y > 0; --y, row += job.line)
    if (!all_moderate(reinterpret_cast<const float*>(row), job.row)) return false;
  return true;
}

// B' of one tile, whose seven cells of n numbers lie one after the other; n numbers of every point.
inline void transform_cells(const float* cells, int64_t n, float* to) {
  for (int64_t i = 0; i < n; i += kFloats) {
    F d[kPoints];
    for (int k = 0; k < kPoints; ++k) d[k] = load(cells + k * n + i);
    auto times = [](float c, F x, F y) { return madd(splat(c), x, y); };
    auto ends = [&](int k) {  // of points 0 and infinity
      return times(-0.5f, d[k], times(0.25f, d[k + 1], times(2.5f, d[k + 2], times(-1.25f, d[k + 3],
             times(-2.0f, d[k + 4], d[k + 5])))));
    };
    F v[kPoints] = {
        ends(0),
        times(0.5f, d[1], times(0.25f, d[2], times(-2.25f, d[3], times(-1.0f, d[4], d[5])))),
        times(-0.5f, d[1], times(0.75f, d[2], times(1.75f, d[3], times(-3.0f, d[4], d[5])))),
        add(d[1], times(1.5f, d[2], times(-2.0f, d[3], times(-1.5f, d[4], d[5])))),
        times(-1.0f, d[1], times(2.5f, d[2], times(-2.5f, d[4], d[5]))),
        times(0.25f, d[1], times(-1.25f, d[3], d[5])),
        ends(1)};
    for (int k = 0; k < kPoints; ++k) store(to + k * filtered_plane(n, kFloats) + i, v[k]);
  }
}

// The rows of a band, transformed: [tile][point][row][number of a cell], so that all that a window multiplies lies
// together. Too much for the stack of a small thread.
inline void transform_rows(const WinogradJob& job, const uint8_t* first, int64_t rows, float* to) {
  alignas(64) static thread_local float cells[kScratch + kFloats];
  int64_t n = rows * job.cell, plane = filtered_plane(n, kFloats);
  gather_cells(job, first, rows, cells);
  for (int64_t t = 0; t < job.tiles; ++t) transform_cells(cells + t * kOutputs * n, n, to + t * kPoints * plane);
}

// A' and the epilogue, for the outputs of one tile in R vectors of channels; m: products, a point every `step`.
// kSimple: a multiply-add, a PReLU if the ending is full, a clamp and floats; what finish() asks of each output is known
// then.
template <int R, bool kSimple, class E>
inline void finish_outputs(const Epilogue& e, const E& ending, Place& to, int outputs, const float* m,
                           int64_t step, int64_t channel) {
  F y[kOutputs][R];
  for (int i = 0; i < R; ++i, m += kFloats) {
    auto product = [&](int k) { return load(m + k * step); };
    auto times = [](float c, F x, F sum) { return madd(splat(c), x, sum); };
    F ones = add(product(1), product(2)), one = times(-1.0f, product(2), product(1));
    F halves = add(product(3), product(4)), half = times(-1.0f, product(4), product(3)), two = product(5);
    y[0][i] = add(add(product(0), two), add(ones, halves));
    y[1][i] = times(2.0f, two, times(0.5f, half, one));
    y[2][i] = times(4.0f, two, times(0.25f, halves, ones));
    y[3][i] = times(8.0f, two, times(0.125f, half, add(one, product(6))));
  }
  if constexpr (kSimple) {
    for (int k = 0; k < outputs; ++k)
      for (int i = 0; i < R; ++i) {
        F r = fma(y[k][i], ending.scale[i], ending.shift[i]);
        if constexpr (E::kFull) r = ending.bend.of(r, i);
        store(shifted(to.real, k * e.real.x) + channel + i * kFloats, at_most(at_least(r, ending.lo), ending.hi));
      }
  } else {
    for (int k = 0; k < outputs; ++k, to.next(e)) finish(e, ending, to, y[k], channel, R * kFloats);
  }
}

template <int P>
void winograd_tile(const WinogradJob& job, const Block& block, const float* const* cells, int64_t plane,
                   const Place* places, const int* outputs) {
  constexpr int kAll = Real::kVectors, kBlock = kAll * kFloats, R = kAll < kWide ? kAll : kWide;
  alignas(64) float products[kPoints * P * kBlock];
  const ConvJob& plain = job.plain;
  const Epilogue& e = plain.epilogue;
  bool simple = e.scale && !e.add.base && !e.posts && !e.bits.base && !e.signs.base;
  int64_t steps = job.kernel_rows * job.cell;
  Segment all = {0, int32_t(steps), 1};
  const float* w = job.weights + block.channel * steps * kPoints;
  for (int k = 0; k < kPoints; ++k, w += steps * kBlock)
    tile<Real, P, kAll>(cells, nullptr, k * plane, w, &all, &all + 1, products + k * P * kBlock);
  for (int c = 0; c < kBlock; c += R * kFloats) {
    auto finish_all = [&](auto simply, const auto& ending) {
      for (int p = 0; p < P; ++p) {
        Place to = places[p];
        finish_outputs<R, simply>(e, ending, to, outputs[p], products + p * kBlock + c, P * kBlock, block.channel + c);
      }
    };
    if (simple && !e.slope) {
      finish_all(std::true_type(), Ending<R>(e, block.channel + c));
      continue;
    }
    FullEnding<R> full(e, block.channel + c);
    simple ? finish_all(std::true_type(), full) : finish_all(std::false_type(), full);
  }
}

// Rows [y0, y0 + height) of image n.
inline void winograd_band(const WinogradJob& job, int64_t n, int64_t y0, int64_t height) {
  using Function = void (*)(const WinogradJob&, const Block&, const float* const*, int64_t, const Place*,
                            const int*);
  static constexpr Function kTiles[] = {winograd_tile<1>, winograd_tile<2>, winograd_tile<3>,
                                        winograd_tile<4>, winograd_tile<5>, winograd_tile<6>};
  static_assert(kRealPixels <= 6);
  const ConvJob& plain = job.plain;
  alignas(64) static thread_local float rows[kScratch];
  int64_t needed = (height - 1) * job.stride + job.kernel_rows, width = plain.grid.w;
  int64_t step = job.stride * job.cell, plane = filtered_plane(needed * job.cell, kFloats);
  if (job.plainly[n]) {
    int64_t first = (n * plain.grid.h + y0) * width;
    return conv_range<Real>(plain, first, first + height * width, 0, plain.n_blocks);
  }
  transform_rows(job, plain.in.at(n, y0, 0), needed, rows);
  for (int64_t at = 0, all = height * job.tiles; at < all;) {
    const float* cells[kRealPixels];
    Place places[kRealPixels];
    int outputs[kRealPixels], count = 0;
    for (; count < kRealPixels && at < all; ++count, ++at) {
      int64_t y = at / job.tiles, x = at % job.tiles;
      cells[count] = rows + x * kPoints * plane + y * step;
      places[count] = Place(plain.epilogue, {n, y0 + y, x * kOutputs});
      outputs[count] = width - x * kOutputs < kOutputs ? int(width - x * kOutputs) : kOutputs;
    }
    for (int64_t b = 0; b < plain.n_blocks; ++b)
      kTiles[count - 1](job, plain.blocks[b], cells, plane, places, outputs);
  }
}

// Items are bands of rows of images.
inline void winograd(const WinogradJob& job, int64_t begin, int64_t end) {
  for (; begin < end; ++begin) {
    int64_t y = begin % job.bands * job.band, left = job.plain.grid.h - y;
    winograd_band(job, begin / job.bands, y, left < job.band ? left : job.band);
  }
}

// Rows of a convolution as whatever product.
inline void conv_rows(const PooledJob& job, const WinogradJob& conv, int64_t n, int64_t y0, int64_t height) {
  const ConvJob& plain = conv.plain;
  int64_t first = (n * plain.grid.h + y0) * plain.grid.w, last = first + height * plain.grid.w;
  switch (job.product) {
    case Product::kWinograd: return winograd_band(conv, n, y0, height);
    case Product::kReal: return conv_range<Real>(plain, first, last, 0, plain.n_blocks);
    case Product::kInts: return conv_range<Ints>(plain, first, last, 0, plain.n_blocks);
    case Product::kBytes:
#ifdef IRN_HAS_BYTES
      return conv_range<Bytes>(plain, first, last, 0, plain.n_blocks);
#endif
      return;
  }
}

// The convolution and the pooling that alone reads it, band by band: what the one writes, the other finds in the cache.
// Items are parts of images. A part keeps no more rows of the convolution than a band and what the next window still
// needs, in its share of the whole map's place; rows that two parts read are computed by both, to the same numbers.
inline void pooled(const PooledJob& job, int64_t begin, int64_t end) {
  WinogradJob conv = job.conv;
  PoolJob pooling = job.pool;
  const View whole = conv.plain.epilogue.real;
  int64_t height = pooling.grid.h, width = pooling.grid.w;
  auto first_row = [&](int64_t p) { Range r = range(pooling, 0, p, pooling.h); return r.start + r.first; };
  auto end_row = [&](int64_t p) { Range r = range(pooling, 0, p, pooling.h); return r.start + r.last; };
  for (; begin < end; ++begin) {
    int64_t n = begin / job.parts, part = begin % job.parts;
    int64_t p = height * part / job.parts, last = height * (part + 1) / job.parts;
    if (p == last) continue;
    int64_t start = first_row(p), done = start;  // rows [start, done) lie at `kept`
    uint8_t* kept = whole.at(n, pooling.h * part / job.parts, 0);
    while (p < last) {
      int64_t need = first_row(p) < done ? first_row(p) : done;
      __builtin_memmove(kept, kept + (need - start) * whole.y, size_t((done - need) * whole.y));
      start = need;
      pooling.in = conv.plain.epilogue.real = {kept - start * whole.y, 0, whole.y, whole.x};
      int64_t left = end_row(last - 1) - done, rows = left < conv.band ? left : conv.band;
      if (rows > 0) conv_rows(job, conv, n, done, rows), done += rows;
      int64_t ready = p;
      while (ready < last && end_row(ready) <= done) ++ready;
      pool(pooling, (n * height + p) * width, (n * height + ready) * width);
      p = ready;
    }
  }
}

}  // namespace irn::IRN_ISA
