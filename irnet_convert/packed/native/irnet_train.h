/* The C interface of the passes that training makes natively. Arrays hold float32 where nothing
 * else is said, and may not overlap; an isa that
 * irn_isa_available refuses makes no call. Each may be called from several threads at once. */
#ifndef IRNET_TRAIN_H
#define IRNET_TRAIN_H

#include "irnet.h"

#ifdef __cplusplus
extern "C" {
#endif

/* From now on the passes run on the threads of an OpenMP: the address of its GOMP_parallel. NULL, and before the first
 * call: on threads of this library. */
IRN_API void irn_train_on(void* gomp_parallel);

/* out = x >= 0 ? 1 : -1 */
IRN_API int irn_sign(int isa, const float* x, float* out, int64_t n, int threads);

/* out = grad k t (1 - tanh(t x)^2) */
IRN_API int irn_surrogate(int isa, const float* x, const float* grad, float* out, int64_t n, float k, float t,
                          int threads);

/* What is left of x in a byte: 128 where x >= 0, plus round(127 (1 - tanh(t x)^2)); 0 at NaN. */
IRN_API int irn_encode(int isa, const float* x, uint8_t* codes, int64_t n, float t, int threads);
/* out = code > 127 ? 1 : -1 */
IRN_API int irn_coded_sign(int isa, const uint8_t* codes, float* out, int64_t n, int threads);
/* out = grad (step (code & 127)) */
IRN_API int irn_coded_surrogate(int isa, const uint8_t* codes, const float* grad, float* out, int64_t n, float step,
                                int threads);

/* A bit for each number: whether it lies between the bounds, or is NaN. In every block of 128 numbers that of number i
 * is bit i / 16 of byte i % 16; the last block's 16 bytes are all written. */
IRN_API int irn_inside(int isa, const float* x, uint8_t* bits, int64_t n, float low, float high, int threads);
/* out = grad where the bit is set, 0 elsewhere */
IRN_API int irn_where_inside(int isa, const uint8_t* bits, const float* grad, float* out, int64_t n, int threads);

/* out = x / steps, rounded, of rows of `channels` numbers; steps: a power of two for each channel. A thread takes
 * `part` rows at a time. And back. */
IRN_API int irn_counts(int isa, const float* x, const float* steps, int16_t* out, int64_t rows, int64_t channels,
                       int64_t part, int threads);
IRN_API int irn_from_counts(int isa, const int16_t* counts, const float* steps, float* out, int64_t rows,
                            int64_t channels, int64_t part, int threads);

/* Libra-PB of `filters` filters of n weights each. stats: 3 numbers a filter, for irn_libra_gradient. */
IRN_API int irn_libra(int isa, const float* w, float* out, float* stats, int64_t filters, int64_t n, int threads);
IRN_API int irn_libra_gradient(int isa, const float* w, const float* grad, const float* stats, float* out,
                               int64_t filters, int64_t n, float k, float t, int threads);

/* f(x) = z > 0 ? z + shift_out : slope z + shift_out with z = x - shift_in, of rows of `channels` numbers, each with
 * parameters of its own; a thread takes `part` rows at a time. */
IRN_API int irn_rprelu(int isa, const float* x, const float* shift_in, const float* slope, const float* shift_out,
                       float* out, int64_t rows, int64_t channels, int64_t part, int threads);
/* Its gradients. sums: of each part of the rows (`part` of them, the last one fewer), those of shift_in, slope and
 * shift_out, `channels` numbers each. */
IRN_API int irn_rprelu_gradient(int isa, const float* x, const float* grad, const float* shift_in,
                                const float* slope, float* out, double* sums, int64_t rows, int64_t channels,
                                int64_t part, int threads);

#ifdef __cplusplus
}
#endif
#endif
