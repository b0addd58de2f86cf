#include "vec_avx512.h"

#include "isa.h"

namespace irn {

const Kernels* avx512_kernels() { return &avx512::kKernels; }

}  // namespace irn
