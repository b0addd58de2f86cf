// From a range of pixels to tiles of a few: where each reads, what it adds, where its results go.
#pragma once
#include "whole.h"

namespace irn::IRN_ISA {

// Walks over the pixels of a job in order; what those of a row have in common is worked out once.
class Walk {
 public:
  Walk(const ConvJob& job, int64_t index) : job_(job) { start(Cursor(job.grid, index).next()); }

  // A full tile, for whole_tile().
  template <class M>
  void take_simply(Tile<M>& t) {
    constexpr int n = M::kPixels;
    if (place_.pixel.x == job_.grid.w) next_row(place_.pixel);
    int64_t x = place_.pixel.x;
    t.n = n;
    t.even = x + n <= job_.grid.w && (!M::kCounts || job_.column_class[x] == job_.column_class[x + n - 1]);
    if (t.even) {
      put_row(t, x);
      in_ += n * job_.in.x;
      return place_.next(job_.epilogue, n);
    }
    Place place = place_;  // in registers: a structure that was just written in parts is slow to copy
    const uint8_t* in = in_;
    for (int i = 0; i < n; ++i) {
      if (place.pixel.x == job_.grid.w) {
        next_row(place.pixel);
        place = place_, in = in_;
      }
      put(t, i, place, in, place.pixel.x);
      in += job_.in.x;
      place.next(job_.epilogue);
    }
    place_ = place, in_ = in;
  }

  template <class M>
  void take(Tile<M>& t, int64_t n) {
    t.n = int(n);
    Place place = place_;
    for (int i = 0; i < t.n; ++i) {
      if (place.pixel.x == job_.grid.w) {
        next_row(place.pixel);
        place = place_;
      }
      t.in[i] = reinterpret_cast<const typename M::Unit*>(in_);
      t.to[i] = place;
      t.scale[i] = scale_;
      t.bias[i] = bias_ ? bias_ + job_.column_class[place.pixel.x] * job_.bias_stride : nullptr;
      in_ += job_.in.x;
      place.next(job_.epilogue);
    }
    place_ = place;
  }

 private:
  // All pixels of an even tile, from column x on.
  template <class M>
  [[gnu::always_inline]] void put_row(Tile<M>& t, int64_t x) {
    const Epilogue& e = job_.epilogue;
    auto fill = [](auto& to, auto* one, int64_t bytes) {
      for (auto& place : to) {
        place = one;
        one = shifted(one, bytes);
        asm("" : "+r"(one));  // one after the other: vectors of addresses would wait for additions that were begun before
      }
    };
    fill(t.in, reinterpret_cast<const typename M::Unit*>(in_), job_.in.x);
    if (place_.add) fill(t.add, place_.add, e.add.x);
    if (place_.real) fill(t.real, place_.real, e.real.x);
    if (place_.bits) fill(t.bits, place_.bits, e.bits.x);
    if constexpr (M::kCounts)
      fill(t.bias, bias_ + job_.column_class[x] * job_.bias_stride, 0);
    else
      for (float& scale : t.scale) scale = scale_;
  }
  // Pixel i of a tile, in column x.
  template <class M>
  [[gnu::always_inline]] void put(Tile<M>& t, int i, const Place& place, const uint8_t* in, int64_t x) {
    t.in[i] = reinterpret_cast<const typename M::Unit*>(in);
    t.add[i] = place.add;
    t.real[i] = place.real;
    t.bits[i] = place.bits;
    if constexpr (M::kCounts)
      t.bias[i] = bias_ + job_.column_class[x] * job_.bias_stride;
    else
      t.scale[i] = scale_;
  }
  void next_row(Pixel p) {
    p.x = 0;
    if (++p.y == job_.grid.h) p.y = 0, ++p.n;
    start(p);
  }
  void start(const Pixel& p) {
    place_ = Place(job_.epilogue, p);
    in_ = at(job_.in, p);
    scale_ = job_.scales ? job_.scales[p.n] : 0.0f;
    bias_ = job_.bias ? job_.bias + job_.row_class[p.y] * job_.column_classes * job_.bias_stride : nullptr;
  }

  const ConvJob& job_;
  Place place_;
  const uint8_t* in_;
  const int32_t* bias_;
  float scale_;
};

}  // namespace irn::IRN_ISA
