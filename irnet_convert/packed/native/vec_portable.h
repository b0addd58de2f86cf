// Any processor, in the vector extensions of gcc and clang: 4 floats a vector; binary products by counting
// bits within bytes, 8 bits a step for 16 output channels.
#pragma once
#include <cmath>
#include <cstdint>

#define IRN_ISA portable
#define IRN_ISA_NAME "portable"

namespace irn::IRN_ISA {

using F = float __attribute__((vector_size(16)));
constexpr int kFloats = 4;
constexpr int kRealPixels = 6, kRealVectors = 2;
constexpr bool kWholeTiles = false;
constexpr bool kFastFma = false;

inline F splat(float x) { return F{x, x, x, x}; }
inline F load(const float* p) {
  F x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline void store(float* p, F x) { __builtin_memcpy(p, &x, sizeof x); }
inline F add(F a, F b) { return a + b; }
inline F mul(F a, F b) { return a * b; }
inline F div(F a, F b) { return a / b; }
inline F madd(F a, F b, F c) { return a * b + c; }  // rounded once or twice
inline F fma(F a, F b, F c) {                       // rounded once
  for (int i = 0; i < kFloats; ++i) c[i] = ::fmaf(a[i], b[i], c[i]);
  return c;
}
// Comparisons with NaN are false: so a NaN in x stays.
inline F at_least(F x, F lo) { return x < lo ? lo : x; }
inline F at_most(F x, F hi) { return x > hi ? hi : x; }
inline F max_nan(F m, F x) { return (x <= m) | (m != m) ? m : x; }  // NaN if either is
inline F where_positive(F x, F otherwise) { return x > 0.0f ? x : otherwise; }
inline uint32_t signs(F x) {  // bit i: x[i] >= 0
  uint32_t mask = 0;
  for (int i = 0; i < kFloats; ++i) mask |= uint32_t(x[i] >= 0.0f) << i;
  return mask;
}

// out[i][k] = rows[k][i], for kFloats rows.
inline void transpose(const float* const* rows, F* out) {
  alignas(64) float x[kFloats];
  for (int i = 0; i < kFloats; ++i) {
    for (int k = 0; k < kFloats; ++k) x[k] = rows[k][i];
    out[i] = load(x);
  }
}

using I = int32_t __attribute__((vector_size(16)));
inline I splat_int(int32_t x) { return I{x, x, x, x}; }
inline I load_ints(const int32_t* p) {
  I x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
inline void store_ints(int32_t* p, I x) { __builtin_memcpy(p, &x, sizeof x); }
inline I add_ints(I a, I b) { return a + b; }
inline I add_products(I sum, I a, I b) {  // of pairs of int16; no sum is longer than 31 bits
  I low = (a << 16 >> 16) * (b << 16 >> 16), high = (a >> 16) * (b >> 16);
  return sum + low + high;
}
inline F to_floats(I x) { return __builtin_convertvector(x, F); }

struct Bits {
  using Unit = uint8_t;
  using Weight = uint8_t;
  using Count = uint16_t;
  using Words = uint64_t __attribute__((vector_size(16)));
  using Bytes = uint8_t __attribute__((vector_size(16)));
  using Vec = Words;
  using Acc = Words;
  using Act = Words;
  static constexpr bool kCounts = true, kIntegers = false, kPutsSigns = false;
  static constexpr bool kBegins = false, kWhole = false, kAside = false;
  static constexpr int kPairs = 0, kWidePairs = 0;
  static constexpr int kStep = 1;
  static constexpr int kUnitBits = 8, kLanes = 16, kMaxSteps = 31;  // 31 * 8 fits in a byte
  static constexpr int kPixels = 6, kVectors = 2;

  static Acc zero() { return Words{}; }
  static Vec weights(const Weight* p) {
    Vec x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  static Act activation(const Unit* p) {
    uint64_t x = *p * 0x0101010101010101u;
    return Words{x, x};
  }
  static Acc step(Acc sum, Act a, Vec w) {
    Words x = a ^ w;
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return sum + x;  // no byte overflows into its neighbour
  }
  static int lane(int c) { return c; }
  template <bool kFirst>
  static void flush(Acc sum, Count* counts) {
    Bytes bytes = Bytes(sum);
    for (int i = 0; i < kLanes; ++i) counts[i] = Count((kFirst ? 0 : counts[i]) + bytes[i]);
  }
  static Unit unit(uint32_t bits) { return Unit(bits); }
  template <int N>
  static void put(Unit* to, uint32_t bits) {
    static_assert(N % 8 == 0 || N == 4);  // the last 4 fill half a unit: bits behind them are 0
    for (int i = 0; i < (N + 7) / 8; ++i) to[i] = Unit(bits >> 8 * i);
  }
  // bias - 2 * count as a float: exact, since no sum of +-1 here is longer than 2^24.
  template <class C>
  static F finish(const C* counts, const int32_t* bias) {
    F x;
    for (int i = 0; i < kFloats; ++i) x[i] = float(bias[i] - 2 * int32_t(counts[i]));
    return x;
  }
};

inline void keep(Bits::Vec& x) { asm volatile("" : "+m"(x)); }  // the compiler must assume that x changed

}  // namespace irn::IRN_ISA
