// The passes that training makes natively, one table for each instruction set (train.h).
#pragma once
#include <stdint.h>

namespace irn {

// A filter whose deviation is at most this share of its largest weight is constant: FLAT in binary/irnet.py.
constexpr double kFlat = 16 * 1.1920928955078125e-7;

struct Passes {
  void (*sign)(const float* x, float* out, int64_t n);
  // out = grad k t (1 - tanh(t x)^2)
  void (*surrogate)(const float* x, const float* grad, float* out, int64_t n, float k, float t);
  // Codes: 128 where x >= 0, plus round(127 (1 - tanh(t x)^2)); 0 at NaN.
  void (*encode)(const float* x, uint8_t* codes, int64_t n, float t);
  void (*coded_sign)(const uint8_t* codes, float* out, int64_t n);
  // out = grad (step (code & 127))
  void (*coded_surrogate)(const uint8_t* codes, const float* grad, float* out, int64_t n, float step);
  // Bit i / 16 of byte i % 16 of every block of 128 numbers says whether number i lies between the bounds, or is NaN.
  void (*inside)(const float* x, uint8_t* bits, int64_t n, float low, float high);
  // out = grad where the bit is set, 0 elsewhere
  void (*where_inside)(const uint8_t* bits, const float* grad, float* out, int64_t n);
  // Multiples of steps, powers of two, each column's its own: by how many, rounded; and back.
  void (*counts)(const float* x, const float* steps, int16_t* out, int64_t rows, int64_t columns);
  void (*from_counts)(const int16_t* counts, const float* steps, float* out, int64_t rows, int64_t columns);
  // Libra-PB of one filter. stats: mean, 1 / deviation (0 if the filter is constant), 2^s.
  void (*binarize_filter)(const float* w, float* out, float* stats, int64_t n);
  void (*filter_gradient)(const float* w, const float* grad, const float* stats, float* out, int64_t n, float k,
                          float t);
  // RPReLU of rows of numbers, each column with parameters of its own.
  void (*rprelu)(const float* x, const float* shift_in, const float* slope, const float* shift_out, float* out,
                 int64_t rows, int64_t columns);
  // sums: the gradients of shift_in, slope and shift_out, `columns` numbers each.
  void (*rprelu_gradient)(const float* x, const float* grad, const float* shift_in, const float* slope, float* out,
                          double* sums, int64_t rows, int64_t columns);
};

}  // namespace irn
