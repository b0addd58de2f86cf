// AArch64 NEON: 4 floats a vector; binary products by counting bits within bytes, 8 bits a step for 16
// output channels.
#pragma once
#include <arm_neon.h>

#include <cstdint>

#define IRN_ISA neon
#define IRN_ISA_NAME "neon"

namespace irn::IRN_ISA {

using F = float32x4_t;
constexpr int kFloats = 4;
constexpr int kRealPixels = 6, kRealVectors = 4;  // 24 sums, 4 weights, 1 input of 32 registers
constexpr bool kWholeTiles = false;
constexpr bool kFastFma = true;

inline F splat(float x) { return vdupq_n_f32(x); }
inline F load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, F x) { vst1q_f32(p, x); }
inline F add(F a, F b) { return vaddq_f32(a, b); }
inline F mul(F a, F b) { return vmulq_f32(a, b); }
inline F div(F a, F b) { return vdivq_f32(a, b); }
inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }   // rounded once
inline F madd(F a, F b, F c) { return vfmaq_f32(c, a, b); }  // rounded once or twice
// FMIN and FMAX return NaN where either operand is NaN.
inline F at_least(F x, F lo) { return vmaxq_f32(x, lo); }
inline F at_most(F x, F hi) { return vminq_f32(x, hi); }
inline F max_nan(F m, F x) { return vmaxq_f32(m, x); }
inline F where_positive(F x, F otherwise) { return vbslq_f32(vcgtzq_f32(x), x, otherwise); }
inline uint32_t signs(F x) {  // bit i: x[i] >= 0
  const uint32x4_t bits = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcgezq_f32(x), bits));
}

// out[i][k] = rows[k][i], for kFloats rows.
inline void transpose(const float* const* rows, F* out) {
  F a = load(rows[0]), b = load(rows[1]), c = load(rows[2]), d = load(rows[3]);
  F ab0 = vtrn1q_f32(a, b), ab1 = vtrn2q_f32(a, b), cd0 = vtrn1q_f32(c, d), cd1 = vtrn2q_f32(c, d);
  out[0] = vcombine_f32(vget_low_f32(ab0), vget_low_f32(cd0));
  out[1] = vcombine_f32(vget_low_f32(ab1), vget_low_f32(cd1));
  out[2] = vcombine_f32(vget_high_f32(ab0), vget_high_f32(cd0));
  out[3] = vcombine_f32(vget_high_f32(ab1), vget_high_f32(cd1));
}

using I = int32x4_t;
inline I splat_int(int32_t x) { return vdupq_n_s32(x); }
inline I load_ints(const int32_t* p) { return vld1q_s32(p); }
inline void store_ints(int32_t* p, I x) { vst1q_s32(p, x); }
inline I add_ints(I a, I b) { return vaddq_s32(a, b); }
inline I add_products(I sum, I a, I b) {  // of pairs of int16
  int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
  return vaddq_s32(sum, vpaddq_s32(vmull_s16(vget_low_s16(x), vget_low_s16(y)), vmull_high_s16(x, y)));
}
inline F to_floats(I x) { return vcvtq_f32_s32(x); }

struct Bits {
  using Unit = uint8_t;
  using Weight = uint8_t;
  using Count = uint16_t;
  using Vec = uint8x16_t;
  using Acc = uint8x16_t;
  using Act = uint8x16_t;
  static constexpr bool kCounts = true, kIntegers = false, kPutsSigns = false;
  static constexpr bool kBegins = false, kWhole = false, kAside = false;
  static constexpr int kPairs = 0, kWidePairs = 0;
  static constexpr int kStep = 1;
  static constexpr int kUnitBits = 8, kLanes = 16, kMaxSteps = 31;  // 31 * 8 fits in a byte
  static constexpr int kPixels = 6, kVectors = 4;  // 24 sums, 4 weights, input, temporary of 32 registers

  static Acc zero() { return vdupq_n_u8(0); }
  static Vec weights(const Weight* p) { return vld1q_u8(p); }
  static Act activation(const Unit* p) { return vld1q_dup_u8(p); }
  static Acc step(Acc sum, Act a, Vec w) { return vaddq_u8(sum, vcntq_u8(veorq_u8(a, w))); }
  static int lane(int c) { return c; }
  template <bool kFirst>
  static void flush(Acc sum, Count* counts) {
    uint16x8_t none = vdupq_n_u16(0);
    vst1q_u16(counts, vaddw_u8(kFirst ? none : vld1q_u16(counts), vget_low_u8(sum)));
    vst1q_u16(counts + 8, vaddw_high_u8(kFirst ? none : vld1q_u16(counts + 8), sum));
  }
  static Unit unit(uint32_t bits) { return Unit(bits); }
  template <int N>
  static void put(Unit* to, uint32_t bits) {
    static_assert(N % 8 == 0 || N == 4);  // the last 4 fill half a unit: bits behind them are 0
    __builtin_memcpy(to, &bits, (N + 7) / 8);
  }
  // bias - 2 * count as a float: exact, since no sum of +-1 here is longer than 2^24.
  static F finish(const Count* counts, const int32_t* bias) {
    return finish(vreinterpretq_s32_u32(vmovl_u16(vld1_u16(counts))), bias);
  }
  static F finish(const int32_t* counts, const int32_t* bias) { return finish(vld1q_s32(counts), bias); }
  static F finish(int32x4_t n, const int32_t* bias) {
    return vcvtq_f32_s32(vsubq_s32(vld1q_s32(bias), vaddq_s32(n, n)));
  }
};

inline void keep(Bits::Vec& x) { asm volatile("" : "+w"(x)); }  // the compiler must assume that x changed

}  // namespace irn::IRN_ISA
