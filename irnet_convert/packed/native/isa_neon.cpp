#include "vec_neon.h"

#include "isa.h"

namespace irn {

const Kernels* neon_kernels() { return &neon::kKernels; }

}  // namespace irn
