// Cases as tests/packed/native_cases.py writes them, in native byte order: the number of cases, then each as
//   number of int64 of the code, the code; number of bytes of the constants, these;
//   number of inputs, each as rank, sizes, float32 values; number of outputs.
// Every number is an int64, and what is shorter is filled up to a multiple of 8 bytes.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "irnet.h"

struct Input {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

struct Case {
  std::vector<int64_t> code;
  std::vector<uint8_t> blob;
  std::vector<Input> inputs;
  size_t outputs = 0;
};

[[noreturn]] inline void fail(const std::string& why) {
  std::fprintf(stderr, "%s\n", why.c_str());
  std::exit(2);
}

class CaseReader {
 public:
  explicit CaseReader(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) fail(std::string("no file ") + path);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  std::vector<Case> all() {
    std::vector<Case> cases(static_cast<size_t>(number()));
    for (Case& c : cases) {
      c.code = take<int64_t>(number());
      c.blob = take<uint8_t>(number());
      c.inputs.resize(size_t(number()));
      for (Input& in : c.inputs) {
        in.shape = take<int64_t>(number());
        int64_t total = 1;
        for (int64_t size : in.shape) total *= size;
        in.values = take<float>(total);
      }
      c.outputs = size_t(number());
    }
    return cases;
  }

 private:
  int64_t number() { return take<int64_t>(1)[0]; }
  template <class T>
  std::vector<T> take(int64_t n) {
    size_t size = size_t(n) * sizeof(T), padded = (size + 7) / 8 * 8;
    if (at_ + padded > bytes_.size()) fail("the file of cases ends too early");
    std::vector<T> found(static_cast<size_t>(n));
    if (n) std::memcpy(found.data(), bytes_.data() + at_, size);
    at_ += padded;
    return found;
  }

  std::vector<char> bytes_;
  size_t at_ = 0;
};

// A contiguous tensor of a shape on some memory.
inline irn_tensor tensor_of(float* data, const std::vector<int64_t>& shape) {
  irn_tensor t{};
  t.data = data;
  t.rank = int64_t(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    t.shape[i] = shape[i];
    t.strides[i] = stride;
    stride = int64_t(uint64_t(stride) * uint64_t(shape[i]));  // a shape that was changed may be of any size
  }
  return t;
}

inline int64_t elements(const irn_tensor& t) {
  int64_t total = 1;
  for (int64_t i = 0; i < t.rank; ++i) total *= t.shape[i];
  return total;
}

// Holds a plan.
struct PlanHolder {
  irn_plan* plan = nullptr;
  ~PlanHolder() { irn_plan_free(plan); }
};
