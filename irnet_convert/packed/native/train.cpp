// The C interface of training: arrays cut into parts for the threads. Returns 1 where the isa is not available.
#include "irnet_train.h"
#include "kernels.h"
#include "team.h"
#include "train_passes.h"

namespace irn {

const Kernels* kernels_of(int isa);
const Passes* portable_passes();
const Passes* avx2_passes();
const Passes* avx512_passes();
const Passes* neon_passes();

namespace {

const Passes* passes_of(int isa) {
  if (!kernels_of(isa)) return nullptr;
#if defined(__x86_64__)
  if (isa == IRN_AVX2) return avx2_passes();
  if (isa == IRN_AVX512) return avx512_passes();
#elif defined(__aarch64__)
  if (isa == IRN_NEON) return neon_passes();
#endif
  return portable_passes();
}

constexpr int64_t kBlock = 8192;  // floats: a thread's share of work, which stays in its cache; whole blocks of bits
constexpr int64_t kAlone = 4 * kBlock;  // floats that are done before another thread is awake

int threads_for(int64_t floats, int threads) { return floats <= kAlone ? 1 : threads; }

template <class Pass>
void blocks(int threads, int64_t n, const Pass& pass) {
  in_team(threads_for(n, threads), (n + kBlock - 1) / kBlock, [&](int64_t begin, int64_t end) {
    int64_t from = begin * kBlock, to = end * kBlock < n ? end * kBlock : n;
    pass(from, to - from);
  });
}

// Calls pass(number, first row, rows) for every part of the rows.
template <class Pass>
void parts(int threads, int64_t rows, int64_t part, const Pass& pass) {
  in_team(threads, (rows + part - 1) / part, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) pass(i, i * part, rows - i * part < part ? rows - i * part : part);
  });
}

}  // namespace
}  // namespace irn

using irn::blocks, irn::in_team, irn::parts, irn::passes_of, irn::threads_for;

extern "C" {

void irn_train_on(void* gomp_parallel) { irn::use_openmp(reinterpret_cast<irn::OpenMp>(gomp_parallel)); }

int irn_sign(int isa, const float* x, float* out, int64_t n, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  blocks(threads, n, [&](int64_t i, int64_t count) { passes->sign(x + i, out + i, count); });
  return 0;
}

int irn_surrogate(int isa, const float* x, const float* grad, float* out, int64_t n, float k, float t,
                  int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  blocks(threads, n, [&](int64_t i, int64_t count) {
    passes->surrogate(x + i, grad + i, out + i, count, k, t);
  });
  return 0;
}

int irn_encode(int isa, const float* x, uint8_t* codes, int64_t n, float t, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  blocks(threads, n, [&](int64_t i, int64_t count) { passes->encode(x + i, codes + i, count, t); });
  return 0;
}

int irn_coded_sign(int isa, const uint8_t* codes, float* out, int64_t n, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  blocks(threads, n, [&](int64_t i, int64_t count) { passes->coded_sign(codes + i, out + i, count); });
  return 0;
}

int irn_coded_surrogate(int isa, const uint8_t* codes, const float* grad, float* out, int64_t n, float step,
                        int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  blocks(threads, n, [&](int64_t i, int64_t count) {
    passes->coded_surrogate(codes + i, grad + i, out + i, count, step);
  });
  return 0;
}

int irn_inside(int isa, const float* x, uint8_t* bits, int64_t n, float low, float high, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  blocks(threads, n, [&](int64_t i, int64_t count) { passes->inside(x + i, bits + i / 8, count, low, high); });
  return 0;
}

int irn_where_inside(int isa, const uint8_t* bits, const float* grad, float* out, int64_t n, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  blocks(threads, n, [&](int64_t i, int64_t count) { passes->where_inside(bits + i / 8, grad + i, out + i, count); });
  return 0;
}

int irn_counts(int isa, const float* x, const float* steps, int16_t* out, int64_t rows, int64_t channels, int64_t part,
               int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  parts(threads_for(rows * channels, threads), rows, part, [&](int64_t, int64_t row, int64_t count) {
    passes->counts(x + row * channels, steps, out + row * channels, count, channels);
  });
  return 0;
}

int irn_from_counts(int isa, const int16_t* counts, const float* steps, float* out, int64_t rows, int64_t channels,
                    int64_t part, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  parts(threads_for(rows * channels, threads), rows, part, [&](int64_t, int64_t row, int64_t count) {
    passes->from_counts(counts + row * channels, steps, out + row * channels, count, channels);
  });
  return 0;
}

int irn_libra(int isa, const float* w, float* out, float* stats, int64_t filters, int64_t n, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  in_team(threads_for(filters * n, threads), filters, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f) passes->binarize_filter(w + f * n, out + f * n, stats + 3 * f, n);
  });
  return 0;
}

int irn_libra_gradient(int isa, const float* w, const float* grad, const float* stats, float* out,
                       int64_t filters, int64_t n, float k, float t, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  in_team(threads_for(filters * n, threads), filters, [&](int64_t begin, int64_t end) {
    for (int64_t f = begin; f < end; ++f)
      passes->filter_gradient(w + f * n, grad + f * n, stats + 3 * f, out + f * n, n, k, t);
  });
  return 0;
}

int irn_rprelu(int isa, const float* x, const float* shift_in, const float* slope, const float* shift_out, float* out,
               int64_t rows, int64_t channels, int64_t part, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  parts(threads_for(rows * channels, threads), rows, part, [&](int64_t, int64_t row, int64_t count) {
    int64_t i = row * channels;
    passes->rprelu(x + i, shift_in, slope, shift_out, out + i, count, channels);
  });
  return 0;
}

int irn_rprelu_gradient(int isa, const float* x, const float* grad, const float* shift_in, const float* slope,
                        float* out, double* sums, int64_t rows, int64_t channels, int64_t part, int threads) {
  auto passes = passes_of(isa);
  if (!passes) return 1;
  parts(threads_for(rows * channels, threads), rows, part, [&](int64_t number, int64_t row, int64_t count) {
    int64_t i = row * channels;
    double* own = sums + number * 3 * channels;
    passes->rprelu_gradient(x + i, grad + i, shift_in, slope, out + i, own, count, channels);
  });
  return 0;
}

}  // extern "C"
