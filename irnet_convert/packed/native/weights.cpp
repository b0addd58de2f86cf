#include "weights.h"

#include <algorithm>
#include <cmath>

namespace irn {
namespace {

float half_to_float(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 1023;
  float x;
  if (exponent == 0) {
    x = std::ldexp(float(mantissa), -24);
  } else {
    uint32_t bits = (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    std::memcpy(&x, &bits, 4);
  }
  return sign ? -x : x;
}

// Reads the weights of a constant. Bits are stored in rows of (kH, kW, I), all else as (O, I, kH, kW).
class Weights {
 public:
  Weights(const Constant& c, const uint8_t* blob) : c_(c), data_(blob + c.offset) {
    inner_ = c.shape[1];
    taps_ = c.rank == 4 ? c.shape[2] * c.shape[3] : 1;
    row_ = ceil_div(taps_ * inner_, 8);
  }
  // n <= 32 bits of one tap from channel `in` on; 0 behind the last channel.
  uint32_t bits(int64_t out, int64_t tap, int64_t in, int64_t n) const {
    if (n > inner_ - in) n = inner_ - in;
    int64_t k = tap * inner_ + in, left = row_ - k / 8;
    uint64_t x = 0;
    std::memcpy(&x, data_ + out * row_ + k / 8, size_t(left < 8 ? left : 8));
    return uint32_t(x >> k % 8 & ((uint64_t(1) << n) - 1));
  }
  float real(int64_t out, int64_t tap, int64_t in) const {
    if (c_.dtype == DType::kBits) return bits(out, tap, in, 1) ? 1.0f : -1.0f;
    int64_t k = (out * inner_ + in) * taps_ + tap;
    if (c_.dtype == DType::kF32) return load<float>(k);
    if (c_.dtype == DType::kF16) return half_to_float(load<uint16_t>(k));
    uint32_t bits = uint32_t(load<uint16_t>(k)) << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  int16_t integer(int64_t out, int64_t tap, int64_t in) const {
    int64_t k = (out * inner_ + in) * taps_ + tap;
    return c_.dtype == DType::kI8 ? load<int8_t>(k) : load<int16_t>(k);
  }

 private:
  template <class T>
  T load(int64_t k) const {
    T x;
    std::memcpy(&x, data_ + k * int64_t(sizeof x), sizeof x);
    return x;
  }

  const Constant& c_;
  const uint8_t* data_;
  int64_t inner_, taps_, row_;
};

// Blocks of output channels, none of which spans two groups; as wide as the core can, a small rest narrower.
void make_blocks(Prepared& p, int64_t groups, int64_t steps, const CoreShape& core) {
  int64_t per_group = p.channels / groups, at = 0;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t c = 0; c < per_group;) {
      int64_t left = per_group - c;
      int64_t vectors = 2 * left > core.lanes * core.vectors ? core.vectors : left > core.lanes ? core.narrow : 1;
      int64_t count = left < core.lanes * vectors ? left : core.lanes * vectors;
      p.blocks.push_back({g * per_group + c, count, vectors, at, g});
      at += steps * vectors * core.lanes;
      c += count;
    }
  p.weights = Memory(at * core.weight_bytes);
}

// Winograd's F(4, 4) along rows takes 7 / 4 products for every four taps: whether that is at most 10 / 19 of the plain
// sum's, and winograd.h takes such a convolution. (Kernels of 3 columns would gain 1.7, and double their error for it.)
bool filters(const Prepared& p, const Step& s, int64_t inner, const CoreShape& core) {
  int64_t columns = s.kernel[1], stride = s.stride[1];
  return is_conv(s.kind) && p.rows && s.dilation[0] == 1 && !s.input_bits && p.input.kind == FormKind::kReal &&
         columns <= 4 * stride && 40 * columns >= 133 * stride && 14 * s.kernel[0] * stride * inner <= kScratch &&
         p.channels % (core.lanes * core.vectors) == 0;
}

// G g for every kernel row and number of a cell, in float64; nothing if one is too large.
void filter_weights(Prepared& p, const Weights& weights, const Step& s, int64_t inner, const CoreShape& core) {
  static constexpr double kG[7][4] = {{-2, 0, 0, 0},
                                      {-2 / 3.0, -2 / 3.0, -2 / 3.0, -2 / 3.0},
                                      {-2 / 9.0, 2 / 9.0, -2 / 9.0, 2 / 9.0},
                                      {16 / 9.0, 8 / 9.0, 4 / 9.0, 2 / 9.0},
                                      {16 / 15.0, -8 / 15.0, 4 / 15.0, -2 / 15.0},
                                      {2 / 45.0, 4 / 45.0, 8 / 45.0, 16 / 45.0},
                                      {0, 0, 0, 1}};
  int64_t block = core.lanes * core.vectors, cell = s.stride[1] * inner;
  Memory made(7 * s.kernel[0] * cell * p.channels * 4);
  float* to = made.as<float>();
  for (int64_t b = 0; b < p.channels; b += block)
    for (auto& g : kG)
      for (int64_t y = 0; y < s.kernel[0]; ++y)
        for (int64_t i = 0; i < cell; ++i)
          for (int64_t c = b; c < b + block; ++c) {
            double sum = 0;
            for (int64_t tap = 0; tap < 4; ++tap) {
              int64_t x = tap * s.stride[1] + i / inner;
              if (x < s.kernel[1]) sum += g[tap] * double(weights.real(c, y * s.kernel[1] + x, i % inner));
            }
            if (!(std::fabs(sum) <= kModerate)) return;
            *to++ = float(sum);
          }
  p.filtered = std::move(made);
}

void pack_real(Prepared& p, const Weights& weights, int64_t taps, int64_t inner, const CoreShape& core) {
  for (const Block& b : p.blocks) {
    float* to = p.weights.as<float>() + b.weights;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t i = 0; i < inner; ++i, to += b.vectors * core.lanes)
        for (int64_t c = 0; c < b.count; ++c) to[c] = weights.real(b.channel + c, t, i);
  }
}

// Pairs or fours along a run; those behind its end are 0. What is left aside follows, of all runs.
template <class T>
void pack_ints(Prepared& p, const Weights& weights, int64_t runs, int64_t length, int64_t inner,
               const CoreShape& core) {
  int64_t step = core.step, whole = length - p.aside;
  for (const Block& b : p.blocks) {
    T* to = p.weights.as<T>() + b.weights * step;
    auto put = [&](int64_t k, int64_t end, auto place) {  // place of number i among those of a channel
      for (; k < end; k += step, to += b.vectors * core.lanes * step)
        for (int64_t c = 0; c < b.count; ++c)
          for (int64_t i = k; i < k + step && i < end; ++i)
            to[c * step + i - k] = T(weights.integer(b.channel + c, place(i) / inner, place(i) % inner));
    };
    for (int64_t r = 0; r < runs; ++r) put(0, whole, [&](int64_t i) { return r * length + i; });
    if (p.aside)
      put(0, runs * p.aside, [&](int64_t i) { return i / p.aside * length + whole + i % p.aside; });
  }
}

// Where kernel rows are not whole steps, each reads beyond its end, and that costs a step. Taken together, the ends of
// all rows fill fewer: of 7 rows of 21 bytes, which are 42 fours, 35 fours and 2 of what is left.
int64_t left_aside(int64_t runs, int64_t length, int64_t step) {
  int64_t left = length % step, all = runs * left;
  // Some whole steps must remain: a row of none has no segment.
  bool fewer = length > step && runs * (length / step) + ceil_div(all, step) < runs * ceil_div(length, step);
  return fewer && all <= kMostAside ? left : 0;
}

// Activations q are held as q + 128: sum (q + 128) w - 128 sum w = sum q w.
void sum_weights(Prepared& p, const Weights& weights, int64_t taps, int64_t inner) {
  p.start = Memory((p.channels + kSlack) * 4);
  for (int64_t c = 0; c < p.channels; ++c)
    for (int64_t k = 0; k < taps * inner; ++k) p.start.as<int32_t>()[c] -= 128 * weights.integer(c, k / inner, k % inner);
}

void pack_bits(Prepared& p, const Weights& weights, int64_t taps, int64_t units, const Kernels& kernels) {
  const CoreShape& core = kernels.bits;
  for (const Block& b : p.blocks) {
    uint8_t* to = p.weights.data() + b.weights * core.weight_bytes;
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t u = 0; u < units; ++u)
        for (int64_t v = 0; v < b.vectors; ++v, to += core.lanes * core.weight_bytes)
          for (int64_t lane = 0; lane < core.lanes && v * core.lanes + lane < b.count; ++lane) {
            int64_t out = b.channel + v * core.lanes + lane;
            kernels.put_bits(to, lane, weights.bits(out, t, u * core.unit_bits, core.unit_bits));
          }
  }
}

// Zero padding. Border bits are 0, so a tap of weights w that falls on the border adds n - 2 popcount(w) to
// the sum of +-1, its n weights' sum with the sign turned, where it must add 0. The taps of a pixel that lie
// inside form a rectangle; so with prefix sums S over kernel rows and columns,
//   result = (K - 2 count) - (S(all) - S(inside)),
// and everything but the count is a table over the few rectangles there are.
void sum_taps(Prepared& p, const Weights& weights, const Step& s, int64_t inner) {
  int64_t height = s.kernel[0] + 1, width = s.kernel[1] + 1;
  p.tap_stride = p.channels + kSlack;
  p.tap_sums = Memory(height * width * p.tap_stride * 4);
  int32_t* sums = p.tap_sums.as<int32_t>();
  auto at = [&](int64_t y, int64_t x) { return sums + (y * width + x) * p.tap_stride; };
  for (int64_t y = 1; y < height; ++y)
    for (int64_t x = 1; x < width; ++x)
      for (int64_t c = 0; c < p.channels; ++c) {
        int64_t ones = 0;
        for (int64_t i = 0; i < inner; i += 32)
          ones += __builtin_popcount(weights.bits(c, (y - 1) * s.kernel[1] + x - 1, i, 32));
        int64_t tap = inner - 2 * ones;
        at(y, x)[c] = int32_t(tap + at(y - 1, x)[c] + at(y, x - 1)[c] - at(y - 1, x - 1)[c]);
      }
}

}  // namespace

void prepare_product(Prepared& p, const Program& program, const Step& s, const uint8_t* blob,
                     const Kernels& kernels) {
  const Constant& c = program.constants[size_t(s.weight)];
  Weights weights(c, blob);
  int64_t inner = c.shape[1], taps = is_conv(s.kind) ? s.kernel[0] * s.kernel[1] : 1;
  p.channels = c.shape[0];
  bool bits = is_binary(s.kind) && (s.groups == 1 || inner % kernels.bits.unit_bits == 0);
  FormKind real = is_binary(s.kind) ? FormKind::kSigns : FormKind::kReal;
  p.writes_bits = s.groups == 1 || p.channels / s.groups % kernels.bits.unit_bits == 0;
  if (inner == 1 && p.channels == s.groups && !s.input_bits) {
    p.method = Method::kDepthwise;
    p.input = {real, s.pad_mode};
    p.writes_bits = true;
    p.tap_stride = p.channels + kSlack;
    p.weights = Memory(taps * p.tap_stride * 4);
    for (int64_t t = 0; t < taps; ++t)
      for (int64_t o = 0; o < p.channels; ++o)
        p.weights.as<float>()[t * p.tap_stride + o] = weights.real(o, t, 0);
    return;
  }
  bool bytes = s.input_bits && s.input_bits <= 8 && c.dtype == DType::kI8 && kernels.bytes.lanes &&
               taps * inner < (int64_t(1) << 31) / (255 * 128);  // no sum overflows
  const CoreShape& core = bits ? kernels.bits : bytes ? kernels.bytes : s.input_bits ? kernels.ints : kernels.real;
  int64_t units = bits ? ceil_div(inner, core.unit_bits) : inner;  // of one tap of one group
  p.rows = is_conv(s.kind) && s.groups == 1 && s.dilation[1] == 1;
  int64_t length = units * (p.rows ? s.kernel[1] : 1), runs = p.rows ? s.kernel[0] : taps;
  if (bytes && p.rows) p.aside = left_aside(runs, length, core.step);
  p.run_steps = ceil_div(length - p.aside, core.step);
  p.group_units = units;
  make_blocks(p, s.groups, runs * p.run_steps + ceil_div(runs * p.aside, core.step), core);
  if (bits) {
    p.method = Method::kConvBits;
    p.input = {FormKind::kBits, s.pad_mode};
    pack_bits(p, weights, taps, units, kernels);
    sum_taps(p, weights, s, inner);
  } else if (bytes) {
    p.method = Method::kConvBytes;
    p.input = {FormKind::kBytes, s.pad_mode, s.input_bits};
    pack_ints<int8_t>(p, weights, runs, length, inner, core);
    sum_weights(p, weights, taps, inner);
  } else if (s.input_bits) {
    p.method = Method::kConvInts;
    p.input = {FormKind::kInts, s.pad_mode, s.input_bits};
    pack_ints<int16_t>(p, weights, runs, length, inner, core);
  } else {
    p.method = Method::kConvReal;
    p.input = {real, s.pad_mode};
    pack_real(p, weights, taps, inner, core);
    if (filters(p, s, inner, core)) filter_weights(p, weights, s, inner, core);
  }
}

}  // namespace irn
