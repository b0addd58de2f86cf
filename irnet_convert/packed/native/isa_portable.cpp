#include "vec_portable.h"

#include "isa.h"

namespace irn {

const Kernels* portable_kernels() { return &portable::kKernels; }

}  // namespace irn
