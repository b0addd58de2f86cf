// train_cases ISA: every pass of training on an instruction set beside the portable one, for processors without a
// Python here and under sanitizers. Arrays are of their exact length each, so that a step beyond one is a finding.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "irnet_train.h"

namespace {

constexpr int kThreads = 2;
constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
using Numbers = std::vector<float>;

int comparisons = 0;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "%s\n", what.c_str());
  std::exit(1);
}

bool same(float a, float b) { return a == b ? std::signbit(a) == std::signbit(b) : a != a && b != b; }
bool same(double a, double b) { return a == b || (a != a && b != b); }

// Runs `pass` portably and on `isa`; the results are the same, or within `tolerance` of the largest where sums are
// made in another order.
template <class T>
void compare(const char* name, int isa, size_t length, double tolerance, const std::function<int(int, T*)>& pass) {
  std::vector<T> want(length), got(length);
  if (pass(IRN_PORTABLE, want.data()) || pass(isa, got.data())) fail(std::string(name) + " is not available");
  double most = 0;
  for (T x : want) most = std::isfinite(double(x)) ? std::fmax(most, std::fabs(double(x))) : most;
  for (size_t i = 0; i < length; ++i, ++comparisons) {
    bool good;
    if constexpr (std::is_floating_point_v<T>)
      good = same(want[i], got[i]) || std::fabs(double(want[i]) - double(got[i])) <= tolerance * most;
    else
      good = want[i] == got[i];
    if (!good)
      fail(std::string(name) + " of " + std::to_string(length) + " at " + std::to_string(i) + ": " +
           std::to_string(double(got[i])) + ", portably " + std::to_string(double(want[i])));
  }
}

Numbers random_numbers(std::mt19937& chance, size_t n, float scale, bool broken) {
  std::normal_distribution<float> normal(0.0f, scale);
  Numbers found(n);
  for (float& x : found) x = normal(chance);
  const float special[] = {0.0f, -0.0f, 1.0f, -1.0f, 1e-42f, -1e38f, kInf, -kInf, kNan};
  if (broken)
    for (float x : special) found[chance() % n] = x;
  return found;
}

void elementwise(int isa, int64_t n, std::mt19937& chance) {
  Numbers x = random_numbers(chance, n, 1.5f, true), grad = random_numbers(chance, n, 1.0f, false);
  compare<float>("sign", isa, n, 0, [&](int on, float* out) { return irn_sign(on, x.data(), out, n, kThreads); });
  for (float t : {0.01f, 1.0f, 10.0f}) {
    compare<float>("surrogate", isa, n, 0, [&](int on, float* out) {
      return irn_surrogate(on, x.data(), grad.data(), out, n, 1.5f, t, kThreads);
    });
    compare<uint8_t>("encode", isa, n, 0, [&](int on, uint8_t* out) {
      return irn_encode(on, x.data(), out, n, t, kThreads);
    });
  }
  std::vector<uint8_t> codes(n);
  for (uint8_t& code : codes) code = uint8_t(chance());
  compare<float>("coded_sign", isa, n, 0, [&](int on, float* out) {
    return irn_coded_sign(on, codes.data(), out, n, kThreads);
  });
  compare<float>("coded_surrogate", isa, n, 0, [&](int on, float* out) {
    return irn_coded_surrogate(on, codes.data(), grad.data(), out, n, 0.03f, kThreads);
  });
  size_t bytes = size_t((n + 127) / 128 * 16);
  compare<uint8_t>("inside", isa, bytes, 0, [&](int on, uint8_t* out) {
    return irn_inside(on, x.data(), out, n, -1.0f, 1.0f, kThreads);
  });
  std::vector<uint8_t> bits(bytes);
  if (irn_inside(IRN_PORTABLE, x.data(), bits.data(), n, -1.0f, 1.0f, kThreads)) fail("inside");
  compare<float>("where_inside", isa, n, 0, [&](int on, float* out) {
    return irn_where_inside(on, bits.data(), grad.data(), out, n, kThreads);
  });
}

void by_columns(int isa, int64_t rows, int64_t columns, std::mt19937& chance) {
  size_t n = size_t(rows * columns);
  Numbers steps(columns), whole(n);
  for (float& step : steps) step = std::ldexp(1.0f, int(chance() % 20) - 12);
  for (size_t i = 0; i < n; ++i) whole[i] = float(int(chance() % 65535) - 32767) * steps[i % columns];
  compare<int16_t>("counts", isa, n, 0, [&](int on, int16_t* out) {
    return irn_counts(on, whole.data(), steps.data(), out, rows, columns, 3, kThreads);
  });
  std::vector<int16_t> counts(n);
  for (int16_t& count : counts) count = int16_t(chance());
  compare<float>("from_counts", isa, n, 0, [&](int on, float* out) {
    return irn_from_counts(on, counts.data(), steps.data(), out, rows, columns, 3, kThreads);
  });
  Numbers x = random_numbers(chance, n, 1.0f, true), grad = random_numbers(chance, n, 1.0f, false);
  Numbers in = random_numbers(chance, columns, 0.5f, false), slope = random_numbers(chance, columns, 0.5f, false);
  Numbers out_shift = random_numbers(chance, columns, 0.5f, false), calm = random_numbers(chance, n, 1.0f, false);
  compare<float>("rprelu", isa, n, 0, [&](int on, float* out) {
    return irn_rprelu(on, x.data(), in.data(), slope.data(), out_shift.data(), out, rows, columns, 3, kThreads);
  });
  Numbers down(n);
  std::vector<double> sums(size_t((rows + 2) / 3 * 3 * columns));
  compare<float>("rprelu_gradient", isa, n, 0, [&](int on, float* out) {
    return irn_rprelu_gradient(on, x.data(), grad.data(), in.data(), slope.data(), out, sums.data(), rows, columns,
                               3, kThreads);
  });
  compare<double>("sums of rprelu_gradient", isa, sums.size(), 0, [&](int on, double* out) {
    return irn_rprelu_gradient(on, calm.data(), grad.data(), in.data(), slope.data(), down.data(), out, rows,
                               columns, 3, kThreads);
  });
}

void filters(int isa, int64_t count, int64_t n, bool broken, std::mt19937& chance) {
  size_t all = size_t(count * n);
  Numbers w = random_numbers(chance, all, 0.1f, false), grad = random_numbers(chance, all, 1.0f, false);
  Numbers stats(size_t(3 * count)), out(all);
  for (int64_t i = 0; i < n; ++i) w[i] = 0.25f;  // a constant filter
  if (broken) w[chance() % all] = kNan;
  compare<float>("libra", isa, all, 0, [&](int on, float* to) {
    return irn_libra(on, w.data(), to, stats.data(), count, n, kThreads);
  });
  compare<float>("statistics of libra", isa, stats.size(), 1e-6, [&](int on, float* to) {
    return irn_libra(on, w.data(), out.data(), to, count, n, kThreads);
  });
  if (irn_libra(IRN_PORTABLE, w.data(), out.data(), stats.data(), count, n, kThreads)) fail("libra");
  compare<float>("libra_gradient", isa, all, 1e-6, [&](int on, float* to) {
    return irn_libra_gradient(on, w.data(), grad.data(), stats.data(), to, count, n, 1.0f, 2.0f, kThreads);
  });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) fail("train_cases ISA");
  int isa = std::atoi(argv[1]);
  if (!irn_isa_available(isa)) fail("the instruction set is not available");
  std::mt19937 chance(0);
  for (int64_t n = 1; n <= 140; ++n) elementwise(isa, n, chance);
  elementwise(isa, 70001, chance);  // several parts, for several threads
  for (int64_t columns : {1, 3, 4, 5, 8, 15, 16, 17, 31, 33, 64})
    for (int64_t rows : {1, 2, 7, 40}) by_columns(isa, rows, columns, chance);
  for (int64_t n : {1, 2, 3, 7, 8, 9, 16, 17, 27, 144, 577})
    for (bool broken : {false, true}) filters(isa, 5, n, broken, chance);
  std::printf("%d comparisons\n", comparisons);
}
