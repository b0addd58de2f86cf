// The last include of isa_*.cpp: fills in the table of kernels from the vector types above it.
#pragma once
#include "conv.h"
#include "move.h"
#include "quantise.h"
#include "winograd.h"

namespace irn::IRN_ISA {

template <class M>
constexpr CoreShape shape_of(int64_t unit_bits, int64_t max_total) {
  return {M::kLanes, M::kVectors, kNarrow<M>, sizeof(typename M::Unit), sizeof(typename M::Weight),
          unit_bits, M::kStep, M::kMaxSteps, max_total, M::kBegins};
}

inline void put_bits(uint8_t* vector, int64_t lane, uint32_t unit) {
  reinterpret_cast<Bits::Weight*>(vector)[Bits::lane(int(lane))] = Bits::Weight(unit);
}

// A layer's instructions with every operand in a register.
inline double measure(int64_t repeats) {
  constexpr int kSums = 8;
  alignas(64) Bits::Weight weights[Bits::kLanes] = {};
  alignas(64) Bits::Unit unit[1] = {};
  alignas(64) Bits::Count counts[Bits::kLanes] = {};
  asm volatile("" : "+m"(weights), "+m"(unit));  // the compiler must not know that they are 0
  Bits::Vec w = Bits::weights(weights);
  Bits::Act a = Bits::activation(unit);
  Bits::Acc sum[kSums];
  for (auto& s : sum) s = Bits::zero();
  for (int64_t i = 0; i < repeats; ++i) {
#pragma GCC unroll 8
    for (int k = 0; k < kSums; ++k) {
      sum[k] = Bits::step(sum[k], a, w);
      keep(w);  // else one product would do for all sums
    }
  }
  for (auto& s : sum) Bits::flush<false>(s, counts);
  asm volatile("" : : "m"(counts));
  return double(repeats) * kSums * Bits::kLanes * Bits::kUnitBits;
}

inline constexpr Kernels kKernels = {
    IRN_ISA_NAME,
    shape_of<Bits>(Bits::kUnitBits, sizeof(Bits::Count) == 2 ? 65535 : int64_t(1) << 30),
    shape_of<Real>(0, int64_t(1) << 62),
    shape_of<Ints>(0, int64_t(1) << 62),
#ifdef IRN_HAS_BYTES
    shape_of<Bytes>(0, int64_t(1) << 62),
#else
    {},
#endif
    put_bits, conv<Bits>, conv<Real>, conv<Ints>,
#ifdef IRN_HAS_BYTES
    conv<Bytes>,
#else
    nullptr,
#endif
    moderate, winograd, pooled, depthwise, pool, move, quantise, export_, measure,
};

}  // namespace irn::IRN_ISA
