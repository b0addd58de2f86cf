// AVX2 + FMA: 8 floats a vector; binary products by table lookup, 4 bits a step for 32 output channels.
#pragma once
#include <immintrin.h>

#include <cstdint>

#define IRN_ISA avx2
#define IRN_ISA_NAME "avx2"

namespace irn::IRN_ISA {

using F = __m256;
constexpr int kFloats = 8;
constexpr int kRealPixels = 6, kRealVectors = 2;  // 12 sums, 2 weights, 1 input of 16 registers
constexpr bool kWholeTiles = false;
constexpr bool kFastFma = true;

inline F splat(float x) { return _mm256_set1_ps(x); }
inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, F x) { _mm256_storeu_ps(p, x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F div(F a, F b) { return _mm256_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }   // rounded once
inline F madd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }  // rounded once or twice
// min and max return their second operand where one of them is NaN: so a NaN in x stays.
inline F at_least(F x, F lo) { return _mm256_max_ps(lo, x); }
inline F at_most(F x, F hi) { return _mm256_min_ps(hi, x); }
inline F max_nan(F m, F x) {  // NaN if either is
  return _mm256_blendv_ps(_mm256_max_ps(x, m), x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
inline F where_positive(F x, F otherwise) {  // x where x > 0
  return _mm256_blendv_ps(otherwise, x, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GT_OQ));
}
inline uint32_t signs(F x) {  // bit i: x[i] >= 0
  return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_GE_OQ)));
}

// out[i][k] = rows[k][i], for kFloats rows.
inline void transpose(const float* const* rows, F* out) {
  F a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    F x = load(rows[2 * i]), y = load(rows[2 * i + 1]);
    a[2 * i] = _mm256_unpacklo_ps(x, y), a[2 * i + 1] = _mm256_unpackhi_ps(x, y);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; ++k) {
      b[i + 2 * k] = _mm256_shuffle_ps(a[i + k], a[i + k + 2], 0x44);
      b[i + 2 * k + 1] = _mm256_shuffle_ps(a[i + k], a[i + k + 2], 0xee);
    }
  for (int i = 0; i < 4; ++i) {
    out[i] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    out[i + 4] = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

using I = __m256i;
inline I splat_int(int32_t x) { return _mm256_set1_epi32(x); }
inline I load_ints(const int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline void store_ints(int32_t* p, I x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x); }
inline I add_ints(I a, I b) { return _mm256_add_epi32(a, b); }
inline I add_products(I sum, I a, I b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
inline F to_floats(I x) { return _mm256_cvtepi32_ps(x); }

struct XorPopcount {
  alignas(64) uint8_t row[16][16];
  constexpr XorPopcount() : row() {
    for (int a = 0; a < 16; ++a)
      for (int w = 0; w < 16; ++w)
        for (int bit = a ^ w; bit; bit >>= 1) row[a][w] += bit & 1;
  }
};
inline constexpr XorPopcount kXorPopcount;

// Of two pixels; see pairs.h.
struct XorPopcounts {
  alignas(64) uint8_t row[256][16];
  constexpr XorPopcounts() : row() {
    for (int pair = 0; pair < 256; ++pair)
      for (int w = 0; w < 16; ++w)
        row[pair][w] = uint8_t(kXorPopcount.row[pair & 15][w] + 16 * kXorPopcount.row[pair >> 4][w]);
  }
};
inline constexpr XorPopcounts kXorPopcounts;

alignas(32) inline constexpr uint64_t kLowNibbles[4] = {
    0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f, 0x0f0f0f0f0f0f0f0f};

struct Bits {
  // An activation unit is a nibble a, kept as the byte 16 * a: where its row starts in the table
  // T[a][w] = popcount(a ^ w). The row is indexed by the weight nibbles of 32 output channels at once.
  using Unit = uint8_t;
  using Weight = uint8_t;
  using Count = uint16_t;
  using Vec = __m256i;
  using Acc = __m256i;
  using Act = __m256i;
  static constexpr bool kCounts = true, kIntegers = false, kPutsSigns = true;
  // Pairs of pixels in a tile of one and of two vectors: with more no register is left for sums on their way.
  static constexpr bool kBegins = false, kWhole = false, kAside = false;
  static constexpr int kPairs = 3, kWidePairs = 2;
  static constexpr int kStep = 1;
  static constexpr int kUnitBits = 4, kLanes = 32, kJoin = 16, kMaxSteps = 63;  // 63 * 4 fits in a byte
  static constexpr int kPixels = 6, kVectors = 2;                   // 12 sums, 2 weights, row, temporary

  static Acc zero() { return _mm256_setzero_si256(); }
  static Vec weights(const Weight* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
  static Act activation(const Unit* p) {
    auto row = reinterpret_cast<const uint8_t*>(kXorPopcount.row) + *p;
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
  }
  static Acc step(Acc sum, Act row, Vec w) { return _mm256_add_epi8(sum, _mm256_shuffle_epi8(row, w)); }
  // Channel c of 32 is byte 2c or, from 16 on, 2(c - 16) + 1: so even and odd bytes widen in order.
  static int lane(int c) { return c < 16 ? 2 * c : 2 * (c - 16) + 1; }
  template <bool kFirst>
  static void flush(Acc sum, Count* counts) {
    auto to = reinterpret_cast<__m256i*>(counts);
    __m256i even = _mm256_and_si256(sum, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(sum, 8);
    _mm256_store_si256(to, kFirst ? even : _mm256_add_epi16(_mm256_load_si256(to), even));
    _mm256_store_si256(to + 1, kFirst ? odd : _mm256_add_epi16(_mm256_load_si256(to + 1), odd));
  }
  // For pairs.h. Where the row of two nibbles starts: 16 * (a + 16 * b), of units 16 * a and 16 * b.
  static void join(const Unit* a, const Unit* b, uint16_t* to) {
    __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a)));
    __m256i y = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_or_si256(x, _mm256_slli_epi16(y, 4)));
  }
  static Act row_of(uint16_t start) {
    auto row = reinterpret_cast<const uint8_t*>(kXorPopcounts.row) + start;
    return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(row)));
  }
  static Acc look_up(Act row, const Weight* w) { return _mm256_shuffle_epi8(row, weights(w)); }
  static Acc sum(Acc a, Acc b) { return _mm256_add_epi8(a, b); }
  static Acc upper(Acc counts) {
    return _mm256_and_si256(_mm256_srli_epi16(counts, 4), _mm256_set1_epi8(15));
  }
  // Three steps of two pixels by two vectors. In assembly, for it takes all 16 registers beside the other
  // sums of a tile, and compilers spill some of them.
  static void three(Acc (&all)[2], Acc (&over)[2], const uint16_t* rows, const Weight* w) {
    auto table = reinterpret_cast<const uint8_t*>(kXorPopcounts.row);
    auto v = reinterpret_cast<const __m256i*>(w);
    __m256i x, y, z, row, mask = _mm256_set1_epi8(15);
    uint64_t start;
    asm("movzwl %[r0], %k[start]\n\t"
        "vbroadcasti128 (%[table],%[start]), %[row]\n\t"
        "vpshufb %[w0], %[row], %[x]\n\t"
        "vpshufb %[w1], %[row], %[y]\n\t"
        "movzwl %[r1], %k[start]\n\t"
        "vbroadcasti128 (%[table],%[start]), %[row]\n\t"
        "vpshufb %[w2], %[row], %[z]\n\t"
        "vpshufb %[w3], %[row], %[row]\n\t"
        "vpaddb %[z], %[x], %[x]\n\t"
        "vpaddb %[row], %[y], %[y]\n\t"
        "movzwl %[r2], %k[start]\n\t"
        "vbroadcasti128 (%[table],%[start]), %[row]\n\t"
        "vpshufb %[w4], %[row], %[z]\n\t"
        "vpshufb %[w5], %[row], %[row]\n\t"
        "vpaddb %[z], %[x], %[x]\n\t"
        "vpaddb %[row], %[y], %[y]\n\t"
        "vpaddb %[x], %[all0], %[all0]\n\t"
        "vpaddb %[y], %[all1], %[all1]\n\t"
        "vpsrlw $4, %[x], %[x]\n\t"
        "vpsrlw $4, %[y], %[y]\n\t"
        "vpand %[mask], %[x], %[x]\n\t"
        "vpand %[mask], %[y], %[y]\n\t"
        "vpaddb %[x], %[over0], %[over0]\n\t"
        "vpaddb %[y], %[over1], %[over1]"
        : [all0] "+x"(all[0]), [all1] "+x"(all[1]), [over0] "+x"(over[0]), [over1] "+x"(over[1]),
          [x] "=&x"(x), [y] "=&x"(y), [z] "=&x"(z), [row] "=&x"(row), [start] "=&r"(start)
        : [r0] "m"(rows[0]), [r1] "m"(rows[1]), [r2] "m"(rows[2]), [table] "r"(table), [w0] "m"(v[0]),
          [w1] "m"(v[1]), [w2] "m"(v[2]), [w3] "m"(v[3]), [w4] "m"(v[4]), [w5] "m"(v[5]), [mask] "x"(mask));
  }
  static Acc lower(Acc all, Acc upper) {  // all - 16 * upper, in bytes
    return _mm256_sub_epi8(all, _mm256_and_si256(_mm256_slli_epi16(upper, 4), _mm256_set1_epi8(-16)));
  }
  static Unit unit(uint32_t bits) { return Unit(bits << 4); }
  // The signs of R vectors as 2 * R nibbles, each in a byte. Packing takes from the halves of vectors in turns,
  // and so joins the masks of 4 channels that make a nibble; then two products sum its bits.
  template <int R>
  static void put_signs(Unit* to, const F (&r)[R]) {
    auto mask = [&](int i) {
      return _mm256_castps_si256(_mm256_cmp_ps(r[i < R ? i : 0], _mm256_setzero_ps(), _CMP_GE_OQ));
    };
    __m256i low = _mm256_packs_epi32(mask(0), mask(1)), high = R > 2 ? _mm256_packs_epi32(mask(2), mask(3)) : low;
    __m256i bits = _mm256_maddubs_epi16(_mm256_set1_epi32(0x80402010), _mm256_packs_epi16(low, high));
    __m256i nibbles = _mm256_madd_epi16(bits, _mm256_set1_epi16(-1));
    // The first of each 4 bytes: those of the lower half to even places, those of the upper to odd ones.
    __m256i apart = _mm256_shuffle_epi8(
        nibbles, _mm256_setr_epi8(0, -1, 4, -1, 8, -1, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, -1, 4, -1, 8,
                                  -1, 12, -1, -1, -1, -1, -1, -1, -1, -1));
    __m128i joined = _mm_or_si128(_mm256_castsi256_si128(apart), _mm256_extracti128_si256(apart, 1));
    uint64_t x = uint64_t(_mm_cvtsi128_si64(joined));
    __builtin_memcpy(to, &x, 2 * R);
  }
  // bias - 2 * count as a float: exact, since no sum of +-1 here is longer than 2^24.
  static F finish(const Count* counts, const int32_t* bias) {
    return finish(_mm256_cvtepu16_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(counts))), bias);
  }
  static F finish(const int32_t* counts, const int32_t* bias) {
    return finish(_mm256_load_si256(reinterpret_cast<const __m256i*>(counts)), bias);
  }
  static F finish(__m256i n, const int32_t* bias) {
    __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bias));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(b, _mm256_add_epi32(n, n)));
  }
};

inline void keep(Bits::Vec& x) { asm volatile("" : "+x"(x)); }  // the compiler must assume that x changed

}  // namespace irn::IRN_ISA
