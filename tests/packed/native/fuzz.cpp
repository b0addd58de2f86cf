// fuzz CASES COUNT SEED: changes valid cases at random, COUNT times, and does with each what Python would do.
// Nothing but a sanitizer's finding, a crash or a run that takes too long may come of it; refusals are
// counted. Built with sanitizers; every buffer is exactly as large as it must be.
#include <random>

#include "cases.h"

namespace {

constexpr int64_t kMostElements = 1 << 18;  // larger calls are made, but not run: they would only be slow

class Fuzzer {
 public:
  Fuzzer(std::vector<Case> seeds, uint64_t seed) : seeds_(std::move(seeds)), random_(seed) {}

  void round() {
    Case c = seeds_[below(seeds_.size())];
    for (size_t n = 1 + below(3); n > 0; --n) mutate(c);
    run(c);
  }
  size_t created = 0, shaped = 0, ran = 0;

 private:
  size_t below(size_t n) { return n ? size_t(random_() % n) : 0; }

  int64_t number() {
    static const int64_t kNumbers[] = {0,      1,       2,         3,          7,          8,        15,
                                       16,     31,      32,        33,         64,         65,       255,
                                       1024,   1025,    1 << 16,   1 << 22,    1LL << 31,  1LL << 32, 1LL << 40,
                                       -1,     -2,      INT64_MAX, INT64_MIN,  1LL << 62,  1LL << 24, 4};
    return below(4) ? kNumbers[below(sizeof kNumbers / sizeof *kNumbers)] : int64_t(random_());
  }

  void mutate(Case& c) {
    auto& code = c.code;
    switch (below(12)) {
      case 0: code.resize(below(code.size() + 1)); break;
      case 1: code.insert(code.begin() + std::ptrdiff_t(below(code.size() + 1)), number()); break;
      case 2: if (!code.empty()) code.erase(code.begin() + std::ptrdiff_t(below(code.size()))); break;
      case 3: if (!code.empty()) code[below(code.size())] = number(); break;
      case 4: if (!code.empty()) code[below(code.size())] ^= int64_t(1) << below(64); break;
      case 5: if (!c.blob.empty()) c.blob[below(c.blob.size())] ^= uint8_t(1 << below(8)); break;
      case 6: c.blob.resize(below(c.blob.size() + 1)); break;
      case 7:
        if (!c.inputs.empty()) {
          Input& in = c.inputs[below(c.inputs.size())];
          if (!in.shape.empty()) in.shape[below(in.shape.size())] = below(3) ? int64_t(below(20)) : number();
        }
        break;
      case 8: if (below(2)) c.inputs.push_back({{1, 8}, {}}); else c.inputs.clear(); break;
      default:  // most changes are small, so that many pass the first checks
        if (!code.empty()) {
          int64_t& word = code[below(code.size())];
          word = int64_t(uint64_t(word) + below(5) - 2);
        }
    }
  }

  void run(Case& c) {
    char err[256];
    PlanHolder holder;
    int isa;
    do isa = int(below(IRN_ISAS)); while (!irn_isa_available(isa));
    // Copies of exactly the right size, so that a read behind them is found.
    std::vector<int64_t> code(c.code);
    std::vector<uint8_t> blob(c.blob);
    code.shrink_to_fit(), blob.shrink_to_fit();
    if (irn_plan_create(code.data(), code.size(), blob.data(), blob.size(), isa, &holder.plan, err, sizeof err))
      return;
    ++created;
    std::vector<std::vector<float>> values;
    std::vector<irn_tensor> in, out(c.outputs);
    bool small = true;
    for (Input& i : c.inputs) {
      int64_t total = 1;
      for (int64_t size : i.shape)
        if (size < 0 || __builtin_mul_overflow(total, size, &total) || total > kMostElements) small = false;
      values.emplace_back(small ? size_t(total) : 0, 0.5f);
      in.push_back(tensor_of(values.back().data(), small ? i.shape : std::vector<int64_t>{}));
      for (size_t k = 0; !small && k < i.shape.size() && k < IRN_MAX_RANK; ++k) in.back().shape[k] = i.shape[k];
      in.back().rank = int64_t(i.shape.size());
    }
    if (irn_plan_shapes(holder.plan, in.data(), in.size(), out.data(), out.size(), err, sizeof err)) return;
    ++shaped;
    for (irn_tensor& t : out) small = small && elements(t) <= kMostElements;
    if (!small) return;
    for (irn_tensor& t : out) {
      values.emplace_back(size_t(elements(t)));
      t.data = values.back().data();
    }
    if (!irn_plan_run(holder.plan, in.data(), in.size(), out.data(), out.size(), 1 + int(below(2)), nullptr, 0,
                      err, sizeof err))
      ++ran;
  }

  std::vector<Case> seeds_;
  std::mt19937_64 random_;
};

}  // namespace

// Refusing what is too large is the library's affair; allocations that the machine cannot serve come back as
// errors, not as an end of the program.
extern "C" const char* __asan_default_options() {
  return "allocator_may_return_null=1:max_allocation_size_mb=256:detect_leaks=1";
}

int main(int argc, char** argv) {
  if (argc != 4) fail("fuzz CASES COUNT SEED");
  Fuzzer fuzzer(CaseReader(argv[1]).all(), std::strtoull(argv[3], nullptr, 10));
  for (long long i = std::atoll(argv[2]); i > 0; --i) fuzzer.round();
  std::printf("%zu created %zu shaped %zu ran\n", fuzzer.created, fuzzer.shaped, fuzzer.ran);
}
