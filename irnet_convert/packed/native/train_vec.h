// Vectors of training's passes, for the width and the flags of the file that includes this. No function is shared
// with other instruction sets.
#pragma once
#include <stdint.h>

#include <type_traits>
#include <utility>

#include "train_passes.h"

namespace irn::IRN_TRAIN_ISA {
namespace {

constexpr int kFloats = IRN_TRAIN_FLOATS, kDoubles = kFloats / 2;  // of one register

// W floats, and the integers, doubles, bytes and short integers that go with them. (gcc takes no vector_size from a
// template.)
template <int W>
struct Types;
#define IRN_TYPES(W)                                   \
  template <>                                          \
  struct Types<W> {                                    \
    using V = float __attribute__((vector_size(4 * W)));    \
    using N = int32_t __attribute__((vector_size(4 * W)));  \
    using D = double __attribute__((vector_size(8 * W)));   \
    using B = uint8_t __attribute__((vector_size(W)));      \
    using S = int16_t __attribute__((vector_size(2 * W)));  \
  };
IRN_TYPES(kFloats)
IRN_TYPES(kDoubles)

template <class Vector>
using Element = std::remove_reference_t<decltype(std::declval<Vector&>()[0])>;

template <int W>
struct Of {
  using V = typename Types<W>::V;
  using N = typename Types<W>::N;
  using D = typename Types<W>::D;
  using B = typename Types<W>::B;
  using S = typename Types<W>::S;
  static constexpr int64_t kWide = W;

  static V splat(float x) { return x - V{}; }
  static V magnitude(V x) { return (V)((N)x & 0x7fffffff); }
  static V choose(N mask, V a, V b) { return (V)(((N)a & mask) | ((N)b & ~mask)); }
  static D wide(V x) { return __builtin_convertvector(x, D); }
  static V narrow(D x) { return __builtin_convertvector(x, V); }

  // p[0 .. count), the rest as given.
  static V read(const float* p, int64_t count, float rest) {
    V x = splat(rest);
    if (count == W) {
      __builtin_memcpy(&x, p, sizeof x);
    } else {
      for (int64_t i = 0; i < count; ++i) x[i] = p[i];
    }
    return x;
  }
  static void write(float* p, int64_t count, V x) {
    if (count == W) {
      __builtin_memcpy(p, &x, sizeof x);
    } else {
      for (int64_t i = 0; i < count; ++i) p[i] = x[i];
    }
  }
  template <class Small>
  static N read_small(const void* from, int64_t count) {
    Small x{};
    auto p = (const Element<Small>*)from;
    if (count == W) {
      __builtin_memcpy(&x, p, sizeof x);
    } else {
      for (int64_t i = 0; i < count; ++i) x[i] = p[i];
    }
    return __builtin_convertvector(x, N);
  }
  static N read_bytes(const uint8_t* p, int64_t count) { return read_small<B>(p, count); }
  static N read_shorts(const int16_t* p, int64_t count) { return read_small<S>(p, count); }
  template <class Small>
  static void write_small(void* to, int64_t count, N from) {
    Small x = __builtin_convertvector(from, Small);
    auto p = (Element<Small>*)to;
    if (count == W) {
      __builtin_memcpy(p, &x, sizeof x);
    } else {
      for (int64_t i = 0; i < count; ++i) p[i] = x[i];
    }
  }
  static void write_bytes(uint8_t* p, int64_t count, N x) { write_small<B>(p, count, x); }
  static void write_shorts(int16_t* p, int64_t count, N x) { write_small<S>(p, count, x); }
  static double sum_of(D x) {
    double sum = 0;
    for (int i = 0; i < W; ++i) sum += x[i];
    return sum;
  }
  // Calls pass(i, count) for each whole vector, and once for a rest.
  template <class Pass>
  static void each(int64_t n, const Pass& pass) {
    int64_t i = 0;
    for (; i + W <= n; i += W) pass(i, W);
    if (i < n) pass(i, n - i);
  }
};

using Floats = Of<kFloats>;
using Halves = Of<kDoubles>;

// k t (1 - tanh(t x)^2) = 4 k t e / (1 + e)^2 with e = exp(-2 |t x|) = 2^-y, which takes no difference of
// numbers near 1. From y = 48 on it is 0: less than a rounding beside its peak. At NaN it is 0 too.
template <class T, class V = typename T::V, class N = typename T::N>
inline V slope(V x, V t, V peak) {
  V y = T::magnitude(x * t) * 2.88539008f;  // 2 / ln 2
  N near = y < T::splat(48.0f);
  y = (V)((N)y & near);
  N whole = __builtin_convertvector(y, N);
  V u = (0.5f - (y - __builtin_convertvector(whole, V))) * 0.693147181f;  // |u| <= ln 2 / 2
  V p = 1.98412698e-4f * u + 1.38888889e-3f;                              // Taylor's series of exp
  p = p * u + 8.33333333e-3f;
  p = p * u + 4.16666667e-2f;
  p = p * u + 1.66666667e-1f;
  p = p * u + 0.5f;
  p = p * u + 1.0f;
  p = p * u + 1.0f;
  V e = p * 0.707106781f * (V)((127 - whole) << 23);
  V one = 1.0f + e;
  return (V)((N)(peak * e / (one * one)) & near);
}

}  // namespace
}  // namespace irn::IRN_TRAIN_ISA
