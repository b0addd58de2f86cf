// Passes of training over arrays of floats, for the vector width and the flags of the file that includes this.
// No function is shared with other instruction sets.
#pragma once
#include <float.h>
#include <math.h>
#include <stdint.h>

#include "train_compact.h"
#include "train_vec.h"

namespace irn::IRN_TRAIN_ISA {
namespace {

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
