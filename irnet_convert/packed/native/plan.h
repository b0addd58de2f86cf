// A program made ready for one instruction set. Immutable but for what it caches, without locks: so any
// thread may run it, and a forked child too.
#pragma once
#include <atomic>
#include <vector>

#include "irnet.h"
#include "layout.h"

namespace irn {

class Plan {
 public:
  Plan(Program program, const uint8_t* blob, const Kernels& kernels);
  ~Plan();
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  void shapes(const irn_tensor* in, size_t n_in, irn_tensor* out, size_t n_out) const;
  void run(const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out, int threads, double* times,
           size_t n_times);
  size_t bytes() const;

 private:
  const Layout& layout_of(std::vector<Shape> inputs, std::unique_ptr<Layout>& made);
  const Layout* find_layout(const std::vector<Shape>& inputs) const;
  const Layout* keep_layout(std::unique_ptr<Layout>& made);
  int64_t images_at_once(const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out, int threads);
  void run_parts(int64_t part, const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out,
                 int threads);
  void run_whole(const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out, int threads,
                 double* times, size_t n_times);
  std::vector<uint8_t*> given_memory(const Layout& layout, const irn_tensor* out, size_t n_out) const;
  Memory take_workspace(int64_t bytes);
  void give_workspace(Memory memory);

  static constexpr int kIdle = 16;       // workspaces that are kept between calls
  static constexpr int kMaxLayouts = 32;  // what has other shapes is laid out in each call
  static constexpr int64_t kAtOnce = 1 << 20;  // bytes of a workspace that a second-level cache may hold

  Program program_;
  const Kernels& kernels_;
  std::vector<Prepared> prepared_;
  std::atomic<Layout*> layouts_{nullptr};
  std::atomic<int> n_layouts_{0};
  std::atomic<Memory*> idle_[kIdle] = {};
};

// Where a step's result goes, and what is done to it on the way.
struct Output {
  const ValueLayout& value;
  Epilogue epilogue;
  std::vector<PostOp> post;
};

// Runs a plan's steps on one workspace; jobs.cpp, run.cpp.
struct Call {
  const Program& program;
  const std::vector<Prepared>& prepared;
  const Kernels& kernels;
  const Layout& layout;
  uint8_t* workspace;
  int threads;
  std::vector<uint8_t*> given;  // of each value: where its tensor lies, if not in the workspace

  void take(size_t input, const irn_tensor& tensor) const;
  size_t step(size_t index) const;  // how many steps it was
  Output output_of(size_t index) const;
  void give(int64_t value, const irn_tensor& tensor) const;
};

}  // namespace irn
