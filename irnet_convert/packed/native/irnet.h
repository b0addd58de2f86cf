/* The C interface of the packed runtime. Every function may be called from several threads at once. */
#ifndef IRNET_H
#define IRNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define IRN_API __attribute__((visibility("default")))
#else
#define IRN_API
#endif

/* Raised whenever this interface or the encoding of programs (program.h) changes. */
#define IRN_VERSION 1
#define IRN_MAX_RANK 8

typedef enum { IRN_PORTABLE = 0, IRN_AVX2 = 1, IRN_AVX512 = 2, IRN_NEON = 3, IRN_ISAS = 4 } irn_isa;

/* A float32 tensor. Strides count elements; those of outputs are read too. */
typedef struct {
  float* data;
  int64_t rank;
  int64_t shape[IRN_MAX_RANK];
  int64_t strides[IRN_MAX_RANK];
} irn_tensor;

typedef struct irn_plan irn_plan;

IRN_API int irn_version(void);

/* 1 if this build has kernels for the instruction set and this processor runs them. */
IRN_API int irn_isa_available(int isa);

/* Makes a plan from an encoded program and its constants; both are copied as far as they are needed.
 * Returns 0, or writes a message to err and returns another number; then *plan is NULL. */
IRN_API int irn_plan_create(const int64_t* code, size_t n, const uint8_t* blob, size_t blob_size, int isa,
                            irn_plan** plan, char* err, size_t err_size);
IRN_API void irn_plan_free(irn_plan* plan);

/* Bytes of the plan's weights and tables; workspaces come on top. */
IRN_API size_t irn_plan_bytes(const irn_plan* plan);

/* Fills in rank, shape of every output (and contiguous strides) for inputs of these shapes. */
IRN_API int irn_plan_shapes(irn_plan* plan, const irn_tensor* in, size_t n_in, irn_tensor* out, size_t n_out,
                            char* err, size_t err_size);

/* Runs the program. times, if not NULL, receives seconds for every step of the program, the taking in of
 * inputs before them and the writing of outputs after them: n_times = steps + 2. One that was done with a step before
 * it has 0, and that step the time of both. */
IRN_API int irn_plan_run(irn_plan* plan, const irn_tensor* in, size_t n_in, irn_tensor* out, size_t n_out,
                         int threads, double* times, size_t n_times, char* err, size_t err_size);

/* Binary multiply-adds per second of one core, register to register: no layer can be faster. 0 if the
 * instruction set is not available. */
IRN_API double irn_measure_limit(int isa, double seconds);

#ifdef __cplusplus
}
#endif
#endif
