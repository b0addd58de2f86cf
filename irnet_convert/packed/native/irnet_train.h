/* The C interface of the passes that training makes natively. Arrays hold float32 and may not overlap; an isa that
 * irn_isa_available refuses makes no call. Each may be called from several threads at once. */
#ifndef IRNET_TRAIN_H
#define IRNET_TRAIN_H

#include "irnet.h"

#ifdef __cplusplus
extern "C" {
#endif

/* out = x >= 0 ? 1 : -1 */
IRN_API int irn_sign(int isa, const float* x, float* out, int64_t n, int threads);

/* out = grad k t (1 - tanh(t x)^2) */
IRN_API int irn_surrogate(int isa, const float* x, const float* grad, float* out, int64_t n, float k, float t,
                          int threads);

/* Libra-PB of `filters` filters of n weights each. stats: 3 numbers a filter, for irn_libra_gradient. */
IRN_API int irn_libra(int isa, const float* w, float* out, float* stats, int64_t filters, int64_t n, int threads);
IRN_API int irn_libra_gradient(int isa, const float* w, const float* grad, const float* stats, float* out,
                               int64_t filters, int64_t n, float k, float t, int threads);

#ifdef __cplusplus
}
#endif
#endif
