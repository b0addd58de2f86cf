#include "vec_avx2.h"

#include "isa.h"

namespace irn {

const Kernels* avx2_kernels() { return &avx2::kKernels; }

}  // namespace irn
