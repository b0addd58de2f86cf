// Everything that is not a product: pooling, and moving between layouts.
#pragma once
#include "finish.h"

namespace irn::IRN_ISA {

// The places of a window along one axis that lie inside the input, and the divisor of an average.
struct Range {
  int64_t start, first, last, extent;
};

inline Range range(const PoolJob& job, int axis, int64_t out, int64_t size) {
  Range r;
  r.start = out * job.stride[axis] - job.pad[axis];
  r.first = r.start < 0 ? (-r.start + job.dilation[axis] - 1) / job.dilation[axis] : 0;
  int64_t room = size - r.start;
  r.last = room <= 0 ? 0 : (room + job.dilation[axis] - 1) / job.dilation[axis];
  if (r.last > job.kernel[axis]) r.last = job.kernel[axis];
  if (r.first > r.last) r.first = r.last;
  int64_t end = r.start + job.kernel[axis], most = size + job.pad[axis];
  r.extent = (end < most ? end : most) - r.start;
  if (!job.count_include_pad) r.extent = r.last - r.first;
  return r;
}

template <bool kMax>
inline void pool_pixel(const PoolJob& job, const Pixel& p) {
  Range y = range(job, 0, p.y, job.h), x = range(job, 1, p.x, job.w);
  const uint8_t* origin = at(job.in, {p.n, y.start, x.start});
  int64_t row = job.dilation[0] * job.in.y, column = job.dilation[1] * job.in.x;
  Place to(job.epilogue, p);
  F divisor = splat(float(y.extent * x.extent));
  for (int64_t c = 0; c < job.channels; c += kWide * kFloats) {
    F sum[kWide];
    for (F& s : sum) s = splat(kMax ? -__builtin_inff() : 0.0f);
    for (int64_t iy = y.first; iy < y.last; ++iy)
      for (int64_t ix = x.first; ix < x.last; ++ix) {
        auto in = reinterpret_cast<const float*>(origin + iy * row + ix * column) + c;
        for (int i = 0; i < kWide; ++i) {
          F v = load(in + i * kFloats);
          sum[i] = kMax ? max_nan(sum[i], v) : add(sum[i], v);
        }
      }
    if (!kMax)
      for (F& s : sum) s = div(s, divisor);
    int64_t left = job.channels - c;
    finish(job.epilogue, to, sum, c, left < kWide * kFloats ? int(left) : kWide * kFloats);
  }
}

inline void pool(const PoolJob& job, int64_t begin, int64_t end) {
  Cursor cursor(job.grid, begin);
  for (; begin < end; ++begin)
    job.max ? pool_pixel<true>(job, cursor.next()) : pool_pixel<false>(job, cursor.next());
}

// Pixels that are moved together: what lies along x in one tensor lies along channels in the other.
constexpr int kMoved = 16;

// True if kMoved pixels lie next to each other: then whole blocks can be transposed.
template <class T>
inline bool side_by_side(T* const* pixels, int n) {
  for (int i = 1; i < n; ++i)
    if (pixels[i] != pixels[0] + i) return false;
  return n == kMoved;
}

// Values as they are, to the real form alone.
inline bool only_copies(const Epilogue& e) {
  return !e.scale && !e.add.base && !e.slope && !e.clamp && !e.posts && !e.bits.base && !e.signs.base;
}

// Signs as bits alone.
inline bool only_bits(const Epilogue& e) {
  return !e.scale && !e.add.base && !e.slope && !e.clamp && !e.posts && !e.real.base && !e.signs.base;
}

// Channels [c, c + count) of n pixels, each to a row: to[i][k] = in[i][(c + k) * stride].
inline void gather(const float* const* in, int n, bool blocks, int64_t c, int count, int64_t stride,
                   float* const* to) {
  int k = 0;
  for (; blocks && stride != 1 && k + kFloats <= count; k += kFloats)
    for (int i = 0; i < n; i += kFloats) {
      const float* rows[kFloats];
      F columns[kFloats];
      for (int r = 0; r < kFloats; ++r) rows[r] = in[i] + (c + k + r) * stride;
      transpose(rows, columns);
      for (int r = 0; r < kFloats; ++r) store(to[i + r] + k, columns[r]);
    }
  if (stride == 1)
    for (int i = 0; i < n; ++i) __builtin_memcpy(to[i], in[i] + c, sizeof(float) * size_t(count));
  else
    for (; k < count; ++k)
      for (int i = 0; i < n; ++i) to[i][k] = in[i][(c + k) * stride];
}

// C channels of n pixels, interleaved; a loop that compilers vectorise.
template <int C>
inline void interleave(const float* in, int64_t channel, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i)
    for (int c = 0; c < C; ++c) to[i * C + c] = in[c * channel + i];
}

// The few channels of an image, row by row.
inline void move_few(const MoveJob& job, int64_t begin, int64_t end) {
  const View& real = job.epilogue.real;
  int64_t distance = real.x / int64_t(sizeof(float));
  while (begin < end) {
    Pixel p = Cursor(job.grid, begin).next();
    int64_t n = end - begin < job.grid.w - p.x ? end - begin : job.grid.w - p.x;
    const float* in = job.in + p.n * job.n + p.y * job.y + p.x * job.x;
    float* to = reinterpret_cast<float*>(at(real, p)) + job.first;
    begin += n;
    if (job.x == 1 && distance == 3 && job.channels == 3) {
      interleave<3>(in, job.c, n, to);
      continue;
    }
    for (int64_t c = 0; c < job.channels; ++c)
      for (int64_t i = 0; i < n; ++i) to[i * distance + c] = in[c * job.c + i * job.x];
  }
}

// Signs of n floats, which fill vectors, as bits. Apart: between loops of move() gcc 12 finds no registers for it.
[[gnu::noinline]] inline void pack_signs(const float* in, int64_t n, Bits::Unit* to) {
  constexpr int kAtOnce = kWide * kFloats;
  for (; n > 0; n -= kAtOnce, in += kAtOnce, to += kAtOnce / Bits::kUnitBits) {
    F r[kWide];
    for (int k = 0; k < kWide; ++k) r[k] = load(in + k * kFloats);
    put_signs<Bits>(to, r);
  }
}

// Signs of channels last, where they fill vectors: what lies one behind the other, here and there, at once.
inline void move_signs(const MoveJob& job, int64_t begin, int64_t end) {
  const View& bits = job.epilogue.bits;
  bool rows = job.x == job.channels && bits.x == job.channels / Bits::kUnitBits * int64_t(sizeof(Bits::Unit));
  while (begin < end) {
    Pixel p = Cursor(job.grid, begin).next();
    int64_t n = end - begin < job.grid.w - p.x ? end - begin : job.grid.w - p.x;
    const float* in = job.in + p.n * job.n + p.y * job.y + p.x * job.x;
    auto to = reinterpret_cast<Bits::Unit*>(at(bits, p)) + job.first / Bits::kUnitBits;
    begin += n;
    if (rows) {
      pack_signs(in, n * job.channels, to);
      continue;
    }
    for (int64_t i = 0; i < n; ++i) pack_signs(in + i * job.x, job.channels, shifted(to, i * bits.x));
  }
}

inline void move(const MoveJob& job, int64_t begin, int64_t end) {
  constexpr int kChannels = kWide * kFloats;
  bool copies = only_copies(job.epilogue), bits = only_bits(job.epilogue);
  if (copies && job.channels < kFloats) return move_few(job, begin, end);
  if (bits && job.c == 1 && job.channels % kChannels == 0) return move_signs(job, begin, end);
  alignas(64) float block[kMoved][kChannels] = {};
  Cursor cursor(job.grid, begin);
  while (begin < end) {
    Pixel pixels[kMoved];
    const float* in[kMoved];
    float* to[kMoved];
    int n = end - begin < kMoved ? int(end - begin) : kMoved;
    for (int i = 0; i < n; ++i) {
      pixels[i] = cursor.next();
      in[i] = job.in + pixels[i].n * job.n + pixels[i].y * job.y + pixels[i].x * job.x;
      to[i] = copies ? reinterpret_cast<float*>(at(job.epilogue.real, pixels[i])) + job.first : block[i];
    }
    bool blocks = side_by_side(in, n);
    if (copies) gather(in, n, blocks, 0, int(job.channels), job.c, to);
    for (int64_t c = 0; c < job.channels && !copies; c += kChannels) {
      int count = job.channels - c < kChannels ? int(job.channels - c) : kChannels;
      bool there = job.c == 1 && count == kChannels;  // channels last, and whole vectors of them
      if (!there) gather(in, n, blocks, c, count, job.c, to);
      for (int i = 0; i < n; ++i) {
        F r[kWide];
        for (int k = 0; k < kWide; ++k) r[k] = load((there ? in[i] + c : block[i]) + k * kFloats);
        if (bits && count == kChannels) {
          put_signs<Bits>(Place(job.epilogue, pixels[i]).bits + (job.first + c) / Bits::kUnitBits, r);
          continue;
        }
        finish(job.epilogue, Place(job.epilogue, pixels[i]), r, job.first + c, count);
      }
    }
    begin += n;
  }
}

inline void export_(const ExportJob& job, int64_t begin, int64_t end) {
  Cursor cursor(job.grid, begin);
  while (begin < end) {
    float* out[kMoved];
    const float* in[kMoved];
    int n = end - begin < kMoved ? int(end - begin) : kMoved;
    for (int i = 0; i < n; ++i) {
      Pixel p = cursor.next();
      out[i] = job.out + p.n * job.n + p.y * job.y + p.x * job.x;
      in[i] = reinterpret_cast<const float*>(at(job.in, p));
    }
    begin += n;
    if (job.c == 1) {
      for (int i = 0; i < n; ++i) __builtin_memcpy(out[i], in[i], sizeof(float) * size_t(job.channels));
      continue;
    }
    int64_t c = 0;
    for (bool blocks = side_by_side(out, n); blocks && c + kFloats <= job.channels; c += kFloats)
      for (int i = 0; i < n; i += kFloats) {
        const float* rows[kFloats];
        F columns[kFloats];
        for (int r = 0; r < kFloats; ++r) rows[r] = in[i + r] + c;
        transpose(rows, columns);
        for (int r = 0; r < kFloats; ++r) store(out[i] + (c + r) * job.c, columns[r]);
      }
    for (; c < job.channels; ++c)
      for (int i = 0; i < n; ++i) out[i][c * job.c] = in[i][c];
  }
}

}  // namespace irn::IRN_ISA
