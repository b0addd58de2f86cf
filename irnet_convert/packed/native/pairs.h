// Two pixels in one lookup, for a model of bits that has the functions for it (AVX2).
//
// A table row for the nibbles of two pixels holds both counts, in the halves of each byte: popcount(a ^ w) +
// 16 popcount(b ^ w). A half holds three of them, 3 * 4 < 16; then the upper halves are added to sums of their
// own, and the lower ones follow as a difference. So six counts take three lookups and six additions or shifts,
// where one by one they take six of each.
#pragma once
#include "tile.h"

namespace irn::IRN_ISA {

// The pixels of a tile two by two: for each step, where in the table their row starts.
template <class M>
struct Joined {
  static constexpr int64_t kMostSteps = 4096;
  int64_t steps = 0;
  uint16_t rows[M::kPairs][kMostSteps + M::kJoin];

  static bool fits(const ConvJob& job) {
    int64_t steps = 0;
    for (const Segment* s = job.segments; s != job.segments + job.epochs[0].last; ++s) steps += s->steps;
    return job.n_epochs == 1 && job.pixels > 1 && steps <= kMostSteps;
  }

  // Pixels 0 and 1, 2 and 3, ...; the last one with itself where their number is odd.
  void join(const ConvJob& job, const typename M::Unit* const* pixels, int n) {
    for (int pair = 0; 2 * pair < n; ++pair) {
      const auto *a = pixels[2 * pair], *b = pixels[2 * pair + 1 < n ? 2 * pair + 1 : 2 * pair];
      uint16_t* to = rows[pair];
      for (const Segment* s = job.segments; s != job.segments + job.epochs[0].last; ++s) {
        for (int64_t i = 0; i < s->steps; i += M::kJoin) M::join(a + s->offset + i, b + s->offset + i, to + i);
        to += s->steps;
      }
      steps = to - rows[pair];
    }
  }
};

// Writes counts[2 * P][V * lanes].
template <class M, int P, int V>
[[gnu::noinline]] void tile_of_pairs(const Joined<M>& joined, const typename M::Weight* w, typename M::Count* counts) {
  constexpr int kBlock = V * M::kLanes, kThrees = M::kMaxSteps / 3;
  int64_t left = joined.steps;
  for (int64_t at = 0; left > 0;) {
    typename M::Acc all[P][V], upper[P][V];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) all[p][v] = upper[p][v] = M::zero();
    bool first = at == 0;
    int64_t threes = left / 3 < kThrees ? left / 3 : kThrees;
    for (int64_t end = at + 3 * threes; at < end; at += 3, w += 3 * kBlock) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        if constexpr (V == 2) {
          M::three(all[p], upper[p], joined.rows[p] + at, w);
          continue;
        }
        typename M::Acc sum[V];
#pragma GCC unroll 8
        for (int k = 0; k < 3; ++k) {
          typename M::Act row = M::row_of(joined.rows[p][at + k]);
#pragma GCC unroll 8
          for (int v = 0; v < V; ++v) {
            typename M::Acc found = M::look_up(row, w + k * kBlock + v * M::kLanes);
            sum[v] = k ? M::sum(sum[v], found) : found;
          }
        }
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
          all[p][v] = M::sum(all[p][v], sum[v]);
          upper[p][v] = M::sum(upper[p][v], M::upper(sum[v]));
        }
      }
    }
    left -= 3 * threes;
    for (; threes < kThrees && left > 0; --left, ++at, w += kBlock)  // one or two are left over
      for (int p = 0; p < P; ++p)
        for (int v = 0; v < V; ++v) {
          typename M::Acc found = M::look_up(M::row_of(joined.rows[p][at]), w + v * M::kLanes);
          all[p][v] = M::sum(all[p][v], found);
          upper[p][v] = M::sum(upper[p][v], M::upper(found));
        }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        typename M::Count *a = counts + 2 * p * kBlock + v * M::kLanes, *b = a + kBlock;
        typename M::Acc lower = M::lower(all[p][v], upper[p][v]);
        first ? M::template flush<true>(lower, a) : M::template flush<false>(lower, a);
        first ? M::template flush<true>(upper[p][v], b) : M::template flush<false>(upper[p][v], b);
      }
  }
}

}  // namespace irn::IRN_ISA
