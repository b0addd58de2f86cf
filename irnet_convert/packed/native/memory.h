// Zeroed memory at a multiple of 64 bytes.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "program.h"

namespace irn {

class Memory {
 public:
  Memory() = default;
  explicit Memory(int64_t bytes) : bytes_(bytes) {
    constexpr int64_t kMost = int64_t(1) << 40;
    if (bytes < 0 || bytes > kMost) throw Refused("more memory is needed than any machine has");
    data_ = static_cast<uint8_t*>(std::aligned_alloc(64, size_t(ceil_div(bytes + 1, 64) * 64)));
    if (!data_) throw std::bad_alloc();
    std::memset(data_, 0, size_t(bytes));
  }
  Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) {
    other.data_ = nullptr;
    other.bytes_ = 0;
  }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory() { std::free(data_); }

  int64_t bytes() const { return bytes_; }
  uint8_t* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  uint8_t* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace irn
