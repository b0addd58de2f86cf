// Passes of training over arrays of floats, for the vector width and the flags of the file that includes this.
// No function is shared with other instruction sets.
#pragma once
#include <float.h>
#include <math.h>
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

void sign(const float* x, float* out, int64_t n) {
  using T = Floats;
  auto one = T::splat(1.0f), minus = T::splat(-1.0f), zero = T::splat(0.0f);
  T::each(n, [=](int64_t i, int64_t count) {  // a comparison with NaN is false
    T::write(out + i, count, T::choose(T::read(x + i, count, 0.0f) >= zero, one, minus));
  });
}

void surrogate(const float* x, const float* grad, float* out, int64_t n, float k, float t) {
  using T = Floats;
  auto all_t = T::splat(t), peak = T::splat(4.0f * k * t);
  T::each(n, [=](int64_t i, int64_t count) {
    auto g = T::read(grad + i, count, 0.0f);
    T::write(out + i, count, g * slope<T>(T::read(x + i, count, 0.0f), all_t, peak));
  });
}

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

// One filter. stats: mean, 1 / deviation (0 for a constant filter), 2^s. Sums are of doubles, rounded once, so
// that they do not depend on the memory format; and no square of a float leaves the range of doubles.
void binarize_filter(const float* w, float* out, float* stats, int64_t n) {
  using T = Halves;
  using V = T::V;
  using D = T::D;
  D sums{};
  V largest{};
  T::each(n, [&](int64_t i, int64_t count) {
    V x = T::read(w + i, count, 0.0f);
    sums += T::wide(x);
    largest = T::choose(T::magnitude(x) > largest, T::magnitude(x), largest);
  });
  float mean = float(T::sum_of(sums) / double(n)), most = 0.0f;
  for (int64_t i = 0; i < T::kWide; ++i) most = largest[i] > most ? largest[i] : most;
  D residues{}, squares{}, distances{};  // the mean is rounded, so the distances have a mean of their own
  T::each(n, [&](int64_t i, int64_t count) {
    V d = T::read(w + i, count, mean) - mean;
    residues += T::wide(d), squares += T::wide(d) * T::wide(d), distances += T::wide(T::magnitude(d));
  });
  double residue = T::sum_of(residues), size = double(n);
  double variance = (T::sum_of(squares) - residue * residue / size) / (n > 1 ? size - 1 : 1);
  double deviation = sqrt(variance > 0.0 ? variance : 0.0 * variance);
  bool flat = deviation <= kFlat * double(most) || deviation < double(FLT_MIN);
  float step = flat ? 1.0f : float(exp2(nearbyint(log2(T::sum_of(distances) / size / deviation))));
  if (!(variance < double(INFINITY))) step = NAN;  // a NaN or an infinity shows in the whole filter
  stats[0] = mean, stats[1] = flat ? 0.0f : float(1.0 / deviation), stats[2] = step;
  V plus = T::splat(step), minus = -plus;
  T::each(n, [&](int64_t i, int64_t count) {
    V d = T::read(w + i, count, mean) - mean;
    T::write(out + i, count, flat ? plus : T::choose(d >= T::splat(0.0f), plus, minus));
  });
}

// The gradient of binarize_filter with the surrogate. With v = (w - mean) / deviation and
// g = grad 2^s k t (1 - tanh(t v)^2) it is (g - mean(g) - v sum(g v) / (n - 1)) / deviation.
void filter_gradient(const float* w, const float* grad, const float* stats, float* out, int64_t n, float k,
                     float t) {
  using T = Halves;
  using V = T::V;
  using D = T::D;
  float mean = stats[0], scale = stats[1];
  float peak = float(4.0 * double(k) * double(t) * double(stats[2]));
  auto standard = [=](int64_t i, int64_t count) { return (T::read(w + i, count, mean) - mean) * scale; };
  D sums{}, products{};
  // The slope takes most of the time, so it is made in whole registers; the sums take them in halves.
  auto wide_t = Floats::splat(t), wide_peak = Floats::splat(peak);
  Floats::each(n, [&](int64_t i, int64_t count) {
    auto v = (Floats::read(w + i, count, mean) - mean) * scale;
    auto g = Floats::read(grad + i, count, 0.0f) * slope<Floats>(v, wide_t, wide_peak);
    Floats::write(out + i, count, g);
    V halves[2], factors[2];
    __builtin_memcpy(halves, &g, sizeof g);
    __builtin_memcpy(factors, &v, sizeof v);
    for (int half = 0; half < 2; ++half) {
      sums += T::wide(halves[half]);
      products += T::wide(halves[half]) * T::wide(factors[half]);
    }
  });
  V middle = T::splat(float(T::sum_of(sums) / double(n)));
  V along = T::splat(float(T::sum_of(products) / double(n > 1 ? n - 1 : 1)));
  T::each(n, [&](int64_t i, int64_t count) {
    V g = (T::read(out + i, count, 0.0f) - middle - standard(i, count) * along) * scale;
    T::write(out + i, count, scale == 0.0f ? V{} : g);  // a constant filter has no gradient, whatever comes in
  });
}

// As rprelu below: a register goes down one column after the other. Steps are powers of two, so that their reciprocals
// and products are exact.
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

// A register goes down one column after the other: the rows given are few enough to stay in the cache.
void rprelu(const float* x, const float* shift_in, const float* slope, const float* shift_out, float* out,
            int64_t rows, int64_t columns) {
  using T = Floats;
  auto zero = T::splat(0.0f);
  T::each(columns, [=](int64_t c, int64_t count) {
    auto before = T::read(shift_in + c, count, 0.0f), steep = T::read(slope + c, count, 0.0f);
    auto behind = T::read(shift_out + c, count, 0.0f);
    for (int64_t i = c; i < rows * columns; i += columns) {
      auto z = T::read(x + i, count, 0.0f) - before;
      T::write(out + i, count, T::choose(z > zero, z, steep * z) + behind);
    }
  });
}

// Of slope, z is the derivative where z is not positive, which it is not at NaN either. Few rows are added up in
// floats, and their sums in doubles.
void rprelu_gradient(const float* x, const float* grad, const float* shift_in, const float* slope, float* out,
                     double* sums, int64_t rows, int64_t columns) {
  using T = Floats;
  constexpr int64_t kFew = 32;
  auto zero = T::splat(0.0f);
  for (int64_t i = 0; i < 3 * columns; ++i) sums[i] = 0;
  T::each(columns, [=](int64_t c, int64_t count) {
    auto before = T::read(shift_in + c, count, 0.0f), steep = T::read(slope + c, count, 0.0f);
    for (int64_t row = 0; row < rows; row += kFew) {
      T::V shifted{}, sloped{}, whole{};
      int64_t end = (row + kFew < rows ? row + kFew : rows) * columns;
      for (int64_t i = row * columns + c; i < end; i += columns) {
        auto z = T::read(x + i, count, 0.0f) - before, g = T::read(grad + i, count, 0.0f);
        auto positive = z > zero;
        auto down = T::choose(positive, g, steep * g);
        T::write(out + i, count, down);
        shifted -= down, whole += g;
        sloped += T::choose(positive, zero, g * z);
      }
      for (int64_t j = 0; j < count; ++j) {
        sums[c + j] += shifted[j], sums[columns + c + j] += sloped[j], sums[2 * columns + c + j] += whole[j];
      }
    }
  });
}

constexpr Passes kPasses = {sign,   surrogate,    encode,          coded_sign,      coded_surrogate,
                            inside, where_inside, counts,          from_counts,     binarize_filter,
                            filter_gradient, rprelu, rprelu_gradient};

}  // namespace
}  // namespace irn::IRN_TRAIN_ISA
