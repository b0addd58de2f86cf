// Passes of training that keep less (set_compact): bytes and bits in the place of what they were made of.
#pragma once
#include "train_vec.h"

namespace irn::IRN_TRAIN_ISA {
namespace {

void encode(const float* x, uint8_t* codes, int64_t n, float t) {
  using T = Floats;
  auto all_t = T::splat(t), four = T::splat(4.0f), zero = T::splat(0.0f);
  T::each(n, [=](int64_t i, int64_t count) {
    auto v = T::read(x + i, count, 0.0f);
    T::N level = __builtin_convertvector(slope<T>(v, all_t, four) * 127.0f + 0.5f, T::N);
    T::write_bytes(codes + i, count, level | ((v >= zero) & 128));
  });
}

void coded_sign(const uint8_t* codes, float* out, int64_t n) {
  using T = Floats;
  auto one = T::splat(1.0f), minus = T::splat(-1.0f);
  T::each(n, [=](int64_t i, int64_t count) {
    T::write(out + i, count, T::choose(T::read_bytes(codes + i, count) > 127, one, minus));
  });
}

void coded_surrogate(const uint8_t* codes, const float* grad, float* out, int64_t n, float step) {
  using T = Floats;
  T::each(n, [=](int64_t i, int64_t count) {
    auto level = __builtin_convertvector(T::read_bytes(codes + i, count) & 127, T::V);
    T::write(out + i, count, T::read(grad + i, count, 0.0f) * (level * step));
  });
}

// Calls pass(i, count, bytes, bit) for each vector of a block of numbers, whose bits are bit `bit` of these bytes: no
// bit has to cross from one lane to another.
constexpr int64_t kBlock = 128, kBytes = kBlock / 8;

template <class Pass>
inline void each_of_block(int64_t begin, int64_t n, const Pass& pass) {
  for (int bit = 0; bit < 8; ++bit) {
    for (int64_t lane = 0; lane < kBytes; lane += Floats::kWide) {
      int64_t i = begin + bit * kBytes + lane, count = n - i;
      pass(i, count < 0 ? 0 : count < Floats::kWide ? count : Floats::kWide, begin / 8 + lane, bit);
    }
  }
}

void inside(const float* x, uint8_t* bits, int64_t n, float low, float high) {
  using T = Floats;
  auto lowest = T::splat(low), highest = T::splat(high);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    T::N found[kBytes / T::kWide] = {};
    each_of_block(begin, n, [&](int64_t i, int64_t count, int64_t byte, int bit) {
      if (count == 0) return;
      auto v = T::read(x + i, count, low);  // a comparison with NaN is false
      found[byte % kBytes / T::kWide] |= ~((v <= lowest) | (v >= highest)) & (1 << bit);
    });
    for (int64_t lane = 0; lane < kBytes; lane += T::kWide)
      T::write_bytes(bits + begin / 8 + lane, T::kWide, found[lane / T::kWide]);
  }
}

void where_inside(const uint8_t* bits, const float* grad, float* out, int64_t n) {
  using T = Floats;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    each_of_block(begin, n, [=](int64_t i, int64_t count, int64_t byte, int bit) {
      if (count == 0) return;
      auto set = (T::read_bytes(bits + byte, T::kWide) & (1 << bit)) != 0;
      T::write(out + i, count, (T::V)((T::N)T::read(grad + i, count, 0.0f) & set));
    });
  }
}

// A register goes down one column after the other: the rows given are few enough to stay in the cache. Steps
// are powers of two, so that their reciprocals and products are exact.
void counts(const float* x, const float* steps, int16_t* out, int64_t rows, int64_t columns) {
  using T = Floats;
  auto zero = T::splat(0.0f), half = T::splat(0.5f);
  T::each(columns, [=](int64_t c, int64_t count) {
    auto inverse = 1.0f / T::read(steps + c, count, 1.0f);
    for (int64_t i = c; i < rows * columns; i += columns) {
      auto v = T::read(x + i, count, 0.0f) * inverse;
      T::write_shorts(out + i, count, __builtin_convertvector(v + T::choose(v < zero, -half, half), T::N));
    }
  });
}

void from_counts(const int16_t* counts, const float* steps, float* out, int64_t rows, int64_t columns) {
  using T = Floats;
  T::each(columns, [=](int64_t c, int64_t count) {
    auto step = T::read(steps + c, count, 1.0f);
    for (int64_t i = c; i < rows * columns; i += columns)
      T::write(out + i, count, __builtin_convertvector(T::read_shorts(counts + i, count), T::V) * step);
  });
}

}  // namespace
}  // namespace irn::IRN_TRAIN_ISA
