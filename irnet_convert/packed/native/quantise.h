// Images as integers, each by a scale of its own.
#pragma once
#include "move.h"

namespace irn::IRN_ISA {

// The numbers of an image in rows that lie in one piece: of all channels if they lie next to each other, else of each.
class Rows {
 public:
  static constexpr int64_t kPart = 256;
  explicit Rows(const QuantiseJob& job)
      : job_(job), together_((job.c == 1 || job.channels == 1) && job.x == job.channels) {}

  bool together() const { return together_; }

  // Calls use(numbers, how many, first pixel, channel) for a row of pixels; of kPart pixels at most, if not together.
  template <class Use>
  void each(int64_t n, int64_t y, const Use& use) {
    const float* row = job_.in + n * job_.n + y * job_.y;
    if (together_) return use(row, job_.w * job_.channels, 0, 0);
    for (int64_t x = 0; x < job_.w; x += kPart) {
      int64_t count = job_.w - x < kPart ? job_.w - x : kPart;
      for (int64_t c = 0; c < job_.channels; ++c) use(in_one_piece(row + c * job_.c + x * job_.x, count), count, x, c);
    }
  }

 private:
  const float* in_one_piece(const float* in, int64_t count) {
    if (job_.x == 1) return in;
    for (int64_t i = 0; i < count; ++i) part_[i] = in[i * job_.x];
    return part_;
  }

  const QuantiseJob& job_;
  bool together_;
  alignas(64) float part_[kPart];
};

// A vector of the last numbers of a row, with zeros behind them.
inline F load_some(const float* in, int64_t count) {
  if (count >= kFloats) return load(in);
  alignas(64) float rest[kFloats] = {};
  __builtin_memcpy(rest, in, sizeof(float) * size_t(count));
  return load(rest);
}

inline F larger(F most, F x) { return max_nan(max_nan(most, x), mul(x, splat(-1.0f))); }

// The largest magnitude of an image; NaN if there is one. Of each vector of kAtOnce apart: they do not wait for each
// other.
inline float largest(const QuantiseJob& job, int64_t n, Rows& rows) {
  constexpr int kAtOnce = 4;
  F most[kAtOnce];
  for (F& m : most) m = splat(0.0f);
  for (int64_t y = 0; y < job.h; ++y)
    rows.each(n, y, [&](const float* in, int64_t count, int64_t, int64_t) {
      int64_t i = 0;
      for (; i + kAtOnce * kFloats <= count; i += kAtOnce * kFloats)
        for (int k = 0; k < kAtOnce; ++k) most[k] = larger(most[k], load(in + i + k * kFloats));
      for (; i < count; i += kFloats) most[0] = larger(most[0], load_some(in + i, count - i));
    });
  alignas(64) float each[kAtOnce * kFloats];
  for (int k = 0; k < kAtOnce; ++k) store(each + k * kFloats, most[k]);
  for (float m : each)
    if (!(m <= each[0]) && each[0] == each[0]) each[0] = m;
  return each[0];
}

// x / s, rounded as a division is, for s in [2^-60, 2^60] and |x / s| < 2^16. With r = 1 / s and q = x r, which is the
// right quotient or next to it, q + r (x - q s) rounded once is the right one (Markstein, IBM Journal of Research and
// Development 34, 1990). The remainder x - q s is exact where q is within a unit of its last place. It may be half a unit
// farther off where s and the quotient's mantissa are close to 2; the remainder is then rounded in its last place, and
// the quotient is too far from the middle between two floats for that to matter. Below the range of floats a remainder
// is rounded as well: then |x| < 2^-102, and the quotient next to 0.
inline F quotient(F x, F minus_s, F r) {
  F q = mul(x, r);
  return fma(fma(q, minus_s, x), r, q);
}

// rint(x / s) + zero of n numbers, from -top to top: more only where s is so small that it was rounded itself. zero
// everywhere where s is 0.
template <class T>
inline void quantise_row(const float* in, int64_t n, float s, int top, int zero, T* out) {
  constexpr int64_t kPart = 256;
  alignas(64) float quotients[kPart];
  bool fast = kFastFma && s >= 0x1p-60f && s <= 0x1p60f;
  for (int64_t first = 0; first < n; first += kPart) {
    int64_t count = n - first < kPart ? n - first : kPart;
    for (int64_t i = 0; i < count && fast; i += kFloats)
      store(quotients + i, quotient(load_some(in + first + i, n - first - i), splat(-s), splat(1 / s)));
    for (int64_t i = 0; i < count && !fast; ++i) quotients[i] = s > 0 ? in[first + i] / s : 0.0f;
    for (int64_t i = 0; i < count; ++i) {
      // Adding 1.5 * 2^23 rounds to an integer as rint does, and leaves it in the lowest bits.
      float x = quotients[i] + 12582912.0f;
      int32_t bits;
      __builtin_memcpy(&bits, &x, sizeof bits);
      int32_t q = bits - 0x4b400000;
      out[first + i] = T((q > top ? top : q < -top ? -top : q) + zero);
    }
  }
}

// Channels of pixels next to each other.
template <class T>
inline void interleave(const T (&parts)[kFewChannels][Rows::kPart], int64_t channels, int64_t n, T* to) {
  if (channels == 3) {  // a loop that compilers vectorise
    for (int64_t i = 0; i < n; ++i)
      for (int c = 0; c < 3; ++c) to[i * 3 + c] = parts[c][i];
    return;
  }
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < n; ++i) to[i * channels + c] = parts[c][i];
}

template <class T>
inline void quantise_image(const QuantiseJob& job, int64_t n, float s, int zero, Rows& rows) {
  alignas(64) T parts[kFewChannels][Rows::kPart];
  for (int64_t y = 0; y < job.h; ++y) {
    T* out = reinterpret_cast<T*>(job.out.at(n, y, 0));
    rows.each(n, y, [&](const float* in, int64_t count, int64_t x, int64_t c) {
      if (rows.together()) return quantise_row(in, count, s, int(job.top), zero, out);
      quantise_row(in, count, s, int(job.top), zero, parts[c]);
      if (c == job.channels - 1) interleave(parts, job.channels, count, out + x * job.channels);
    });
  }
}

inline void quantise(const QuantiseJob& job, int64_t begin, int64_t end) {
  Rows rows(job);
  for (int64_t n = begin; n < end; ++n) {
    float s = largest(job, n, rows) / job.top;
    bool finite = s - s == 0;
    job.scales[n] = finite ? s : __builtin_nanf("");
    if (job.bytes)
      quantise_image<uint8_t>(job, n, finite ? s : 0, 128, rows);
    else
      quantise_image<int16_t>(job, n, finite ? s : 0, 0, rows);
  }
}

}  // namespace irn::IRN_ISA
