// AVX-512 with VPOPCNTDQ and VNNI: 16 floats a vector; binary products by xor and popcount, 32 bits a step for 16
// output channels. With IRN_SIMDE the same source runs on any processor, slowly, to be tested there.
#pragma once
#ifdef IRN_SIMDE
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
// The alias of SIMDe 0.7.4 takes other arguments than the intrinsic.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)
#else
#include <immintrin.h>
#endif

#include <cstdint>

#define IRN_ISA avx512
#define IRN_ISA_NAME "avx512"
#define IRN_HAS_BYTES

namespace irn::IRN_ISA {

using F = __m512;
constexpr int kFloats = 16;
constexpr int kRealPixels = 6, kRealVectors = 4;
constexpr bool kWholeTiles = true;  // see whole.h
constexpr bool kFastFma = true;

inline F splat(float x) { return _mm512_set1_ps(x); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F x) { _mm512_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }   // rounded once
inline F madd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // rounded once or twice
inline uint32_t mask(__mmask16 m) { return uint32_t(m); }
// min and max return their second operand where one of them is NaN: so a NaN in x stays.
inline F at_least(F x, F lo) { return _mm512_max_ps(lo, x); }
inline F at_most(F x, F hi) { return _mm512_min_ps(hi, x); }
inline F max_nan(F m, F x) {  // NaN if either is: x wherever x is NaN, and the second operand, m, where m is
  return _mm512_mask_max_ps(x, _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x, m);
}
inline F where_positive(F x, F otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, splat(0.0f), _CMP_GT_OQ), otherwise, x);
}
inline uint32_t signs(F x) { return mask(_mm512_cmp_ps_mask(x, splat(0.0f), _CMP_GE_OQ)); }

// out[i][k] = rows[k][i], for kFloats rows.
#ifdef IRN_SIMDE
inline void transpose(const float* const* rows, F* out) {
  alignas(64) float x[kFloats];
  for (int i = 0; i < kFloats; ++i) {
    for (int k = 0; k < kFloats; ++k) x[k] = rows[k][i];
    out[i] = load(x);
  }
}
#else
inline void transpose(const float* const* rows, F* out) {
  F a[16], b[16];
  for (int i = 0; i < 16; i += 2) {  // pairs of rows
    F x = load(rows[i]), y = load(rows[i + 1]);
    a[i] = _mm512_unpacklo_ps(x, y), a[i + 1] = _mm512_unpackhi_ps(x, y);
  }
  for (int i = 0; i < 16; i += 4)  // fours of rows: b[i + k] holds columns k, k + 4, k + 8, k + 12
    for (int k = 0; k < 2; ++k) {
      __m512d x = _mm512_castps_pd(a[i + k]), y = _mm512_castps_pd(a[i + k + 2]);
      b[i + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
      b[i + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
    }
  for (int k = 0; k < 4; ++k) {  // columns k, k + 8 and k + 4, k + 12 of the upper and of the lower eight rows
    F even0 = _mm512_shuffle_f32x4(b[k], b[k + 4], 0x88), odd0 = _mm512_shuffle_f32x4(b[k], b[k + 4], 0xdd);
    F even1 = _mm512_shuffle_f32x4(b[k + 8], b[k + 12], 0x88), odd1 = _mm512_shuffle_f32x4(b[k + 8], b[k + 12], 0xdd);
    out[k] = _mm512_shuffle_f32x4(even0, even1, 0x88), out[k + 8] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
    out[k + 4] = _mm512_shuffle_f32x4(odd0, odd1, 0x88), out[k + 12] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
  }
}
#endif

using I = __m512i;
inline I splat_int(int32_t x) { return _mm512_set1_epi32(x); }
inline I load_ints(const int32_t* p) { return _mm512_loadu_si512(reinterpret_cast<const __m512i*>(p)); }
inline void store_ints(int32_t* p, I x) { _mm512_storeu_si512(reinterpret_cast<__m512i*>(p), x); }
inline I add_ints(I a, I b) { return _mm512_add_epi32(a, b); }
#ifdef IRN_SIMDE
inline I add_products(I sum, I a, I b) { return simde_mm512_dpwssd_epi32(sum, a, b); }
inline I add_byte_products(I sum, I a, I b) { return simde_mm512_dpbusd_epi32(sum, a, b); }
#else
inline I add_products(I sum, I a, I b) { return _mm512_dpwssd_epi32(sum, a, b); }
// a without signs, b with signs; exact
inline I add_byte_products(I sum, I a, I b) { return _mm512_dpbusd_epi32(sum, a, b); }
#endif
inline F to_floats(I x) {
  using Ints = int32_t __attribute__((vector_size(64)));
  return __builtin_convertvector((Ints)x, F);
}

struct Bits {
  using Unit = uint32_t;
  using Weight = uint32_t;
  using Count = int32_t;
  using Vec = __m512i;
  using Acc = __m512i;
  using Act = __m512i;
  static constexpr bool kCounts = true, kIntegers = false, kPutsSigns = true;
  static constexpr bool kBegins = true, kWhole = kWholeTiles, kAside = false;
  static constexpr int kPairs = 0, kWidePairs = 0;
  static constexpr int kStep = 1;
  static constexpr int kUnitBits = 32, kLanes = 16, kMaxSteps = 1 << 30;
  static constexpr int kPixels = 6, kVectors = 4;  // 24 sums, 4 weights, input, temporary of 32 registers

  static Acc zero() { return _mm512_setzero_si512(); }
  static Acc begin(const Count* at) { return _mm512_loadu_si512(reinterpret_cast<const __m512i*>(at)); }
  static Vec weights(const Weight* p) { return _mm512_load_si512(reinterpret_cast<const __m512i*>(p)); }
  static Act activation(const Unit* p) { return _mm512_set1_epi32(int(*p)); }
  static Acc step(Acc sum, Act a, Vec w) {
    return _mm512_add_epi32(sum, _mm512_popcnt_epi32(_mm512_xor_si512(a, w)));
  }
  static int lane(int c) { return c; }
  template <bool kFirst>
  static void flush(Acc sum, Count* counts) {
    auto to = reinterpret_cast<__m512i*>(counts);
    _mm512_store_si512(to, kFirst ? sum : _mm512_add_epi32(_mm512_load_si512(to), sum));
  }
  static Unit unit(uint32_t bits) { return bits; }
  template <int R>
  static void put_signs(Unit* to, const F (&r)[R]) {
    static_assert(R <= 2);
    if constexpr (R == 1) {
      *to = signs(r[0]);  // the last 16 fill half a unit: bits behind them are 0
    } else {  // by halves, without a way through other registers
      auto half = reinterpret_cast<uint8_t*>(to);
      for (int i = 0; i < R; ++i) {
        uint16_t mask = uint16_t(signs(r[i]));
        __builtin_memcpy(half + 2 * i, &mask, sizeof mask);
      }
    }
  }
  static F to_real(Acc sum) { return to_floats(sum); }
  // bias - 2 * count as a float: exact, since no sum of +-1 here is longer than 2^24.
  static F finish(const Count* counts, const int32_t* bias) {
    __m512i n = _mm512_load_si512(reinterpret_cast<const __m512i*>(counts));
    __m512i b = _mm512_loadu_si512(reinterpret_cast<const __m512i*>(bias));
    using Ints = int32_t __attribute__((vector_size(64)));
    return __builtin_convertvector((Ints)_mm512_sub_epi32(b, _mm512_add_epi32(n, n)), F);
  }
};

#ifdef IRN_SIMDE
inline void keep(Bits::Vec& x) { asm volatile("" : "+m"(x)); }
#else
inline void keep(Bits::Vec& x) { asm volatile("" : "+v"(x)); }  // the compiler must assume that x changed
#endif

}  // namespace irn::IRN_ISA
