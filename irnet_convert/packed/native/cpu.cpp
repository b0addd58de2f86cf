// Which kernels this build has and this processor runs.
#include "irnet.h"
#include "kernels.h"

namespace irn {

const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* neon_kernels();

const Kernels* kernels_of(int isa) {
  if (isa == IRN_PORTABLE) return portable_kernels();
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == IRN_AVX2 && avx2) return avx2_kernels();
#if defined(IRN_SIMDE)
  if (isa == IRN_AVX512 && avx2) return avx512_kernels();
#else
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni");
  if (isa == IRN_AVX512 && avx512) return avx512_kernels();
#endif
#elif defined(__aarch64__)
  if (isa == IRN_NEON) return neon_kernels();
#endif
  return nullptr;
}

}  // namespace irn
