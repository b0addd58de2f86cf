#include "plan.h"

#include <algorithm>
#include <chrono>
#include <exception>

#include "pool.h"

namespace irn {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::vector<Shape> shapes_of(const irn_tensor* tensors, size_t n) {
  std::vector<Shape> shapes;
  for (size_t i = 0; i < n; ++i) {
    if (tensors[i].rank < 0 || tensors[i].rank > IRN_MAX_RANK) throw Refused("a tensor of this rank");
    shapes.emplace_back(tensors[i].shape, tensors[i].shape + tensors[i].rank);
  }
  return shapes;
}

void set_contiguous(irn_tensor& t) {
  int64_t stride = 1;
  for (int64_t i = t.rank - 1; i >= 0; --i) {
    t.strides[i] = stride;
    stride *= t.shape[i];
  }
}

// Rows are read and written as one block; maps by their strides.
void check_strides(const irn_tensor& t, bool rows) {
  irn_tensor want = t;
  set_contiguous(want);
  for (int64_t i = 0; rows && i < t.rank; ++i)
    if (t.shape[i] > 1 && t.strides[i] != want.strides[i]) throw Refused("rows that are not contiguous");
}

}  // namespace

Plan::Plan(Program program, const uint8_t* blob, const Kernels& kernels)
    : program_(std::move(program)), kernels_(kernels) {
  for (size_t i = 0; i < program_.steps.size(); ++i)
    prepared_.push_back(prepare(program_, i, blob, kernels_));
}

Plan::~Plan() {
  for (Layout *l = layouts_.load(), *next; l; l = next) {
    next = l->next;
    delete l;
  }
  for (auto& slot : idle_) delete slot.load();
}

size_t Plan::bytes() const {
  int64_t total = 0;
  for (const Prepared& p : prepared_) total += p.bytes();
  for (const Layout* l = layouts_.load(std::memory_order_acquire); l; l = l->next)
    for (const ConvLayout& c : l->convs) total += c.bias.bytes() + c.start.bytes();
  return size_t(total);
}

void Plan::shapes(const irn_tensor* in, size_t n_in, irn_tensor* out, size_t n_out) const {
  std::vector<Shape> all = infer_shapes(program_, shapes_of(in, n_in));
  if (n_out != program_.outputs.size()) throw Refused("the program has another number of outputs");
  for (size_t i = 0; i < n_out; ++i) {
    const Shape& shape = all[size_t(program_.outputs[i])];
    out[i].rank = int64_t(shape.size());
    for (size_t k = 0; k < shape.size(); ++k) out[i].shape[k] = shape[k];
    set_contiguous(out[i]);
  }
}

const Layout* Plan::find_layout(const std::vector<Shape>& inputs) const {
  for (const Layout* l = layouts_.load(std::memory_order_acquire); l; l = l->next)
    if (l->inputs == inputs) return l;
  return nullptr;
}

// Takes over what was made, as long as there is room.
const Layout* Plan::keep_layout(std::unique_ptr<Layout>& made) {
  if (n_layouts_.fetch_add(1) >= kMaxLayouts) {
    n_layouts_.fetch_sub(1);
    return made.get();
  }
  Layout* kept = made.release();
  kept->next = layouts_.load(std::memory_order_relaxed);
  while (!layouts_.compare_exchange_weak(kept->next, kept, std::memory_order_acq_rel)) {
  }
  return kept;
}

Memory Plan::take_workspace(int64_t bytes) {
  for (auto& slot : idle_) {
    std::unique_ptr<Memory> found(slot.exchange(nullptr, std::memory_order_acq_rel));
    if (found && found->bytes() >= bytes) return std::move(*found);
  }
  return Memory(bytes);
}

void Plan::give_workspace(Memory memory) {
  auto kept = std::make_unique<Memory>(std::move(memory));
  for (auto& slot : idle_) {
    Memory* empty = nullptr;
    if (slot.compare_exchange_strong(empty, kept.get(), std::memory_order_acq_rel)) {
      kept.release();
      return;
    }
  }
}

const Layout& Plan::layout_of(std::vector<Shape> inputs, std::unique_ptr<Layout>& made) {
  if (const Layout* found = find_layout(inputs)) return *found;
  made = lay_out(program_, prepared_, kernels_, std::move(inputs));
  return *keep_layout(made);
}

// How many images of a batch go through the whole program together. No step mixes images, so a batch is cut
// where its values would not stay in the cache from step to step, and so that every thread has images of its
// own: threads that share one wait for each other at every step.
int64_t Plan::images_at_once(const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out,
                             int threads) {
  int64_t n = n_in && in[0].rank > 0 ? in[0].shape[0] : 0;
  for (size_t i = 0; i < n_in; ++i)
    if (in[i].rank < 1 || in[i].shape[0] != n) return n;
  for (size_t i = 0; i < n_out; ++i)
    if (out[i].rank < 1 || out[i].shape[0] != n) return n;
  if (n < 2) return n;
  std::vector<Shape> one = shapes_of(in, n_in);
  infer_shapes(program_, one);  // a batch that is refused is refused whole
  for (Shape& shape : one) shape[0] = 1;
  std::unique_ptr<Layout> made;
  int64_t bytes = layout_of(std::move(one), made).workspace;
  int64_t part = std::max(kAtOnce / std::max(bytes, int64_t(1)), int64_t(1));
  return std::min(part, threads > 1 && n >= threads ? ceil_div(n, threads) : n);
}

void Plan::run(const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out, int threads,
               double* times, size_t n_times) {
  if (threads < 1) threads = 1;
  int64_t part = times ? 0 : images_at_once(in, n_in, out, n_out, threads);
  if (part > 0 && part < in[0].shape[0]) return run_parts(part, in, n_in, out, n_out, threads);
  run_whole(in, n_in, out, n_out, threads, times, n_times);
}

void Plan::run_parts(int64_t part, const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out,
                     int threads) {
  int64_t n = in[0].shape[0], parts = ceil_div(n, part);
  auto cut = [&](const irn_tensor* tensors, size_t count, int64_t first) {
    std::vector<irn_tensor> found(tensors, tensors + count);
    for (irn_tensor& t : found) {
      t.data += first * t.strides[0];
      t.shape[0] = std::min(part, n - first);
    }
    return found;
  };
  bool apart = parts >= threads;
  std::exception_ptr error;
  std::atomic<bool> failed{false};
  auto some = [&](int64_t begin, int64_t end) {
    try {
      for (; begin < end && !failed.load(std::memory_order_relaxed); ++begin) {
        std::vector<irn_tensor> from = cut(in, n_in, begin * part), to = cut(out, n_out, begin * part);
        run_whole(from.data(), n_in, to.data(), n_out, apart ? 1 : threads, nullptr, 0);
      }
    } catch (...) {  // nothing may leave a thread of the pool
      if (!failed.exchange(true)) error = std::current_exception();
    }
  };
  if (apart)
    parallel(threads, parts, some);
  else
    some(0, parts);
  if (error) std::rethrow_exception(error);
}

// Outputs whose memory is in the order of a tensor here, so that they are written once.
std::vector<uint8_t*> Plan::given_memory(const Layout& layout, const irn_tensor* out, size_t n_out) const {
  std::vector<uint8_t*> given(layout.values.size(), nullptr);
  for (size_t i = 0; i < n_out; ++i) {
    size_t value = size_t(program_.outputs[i]);
    const ValueLayout& v = layout.values[value];
    const int64_t* strides = out[i].strides;
    const int64_t want[4] = {v.sizes.h * v.sizes.w * v.sizes.c, 1, v.sizes.w * v.sizes.c, v.sizes.c};
    bool same = v.tensors[0].gives;
    for (int64_t k = 0; same && !program_.values[value].rows && k < 4; ++k)
      same = v.shape[size_t(k)] == 1 || strides[k] == want[k];
    if (same) given[value] = reinterpret_cast<uint8_t*>(out[i].data);
  }
  return given;
}

void Plan::run_whole(const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out, int threads,
                     double* times, size_t n_times) {
  std::unique_ptr<Layout> made;
  const Layout& layout = layout_of(shapes_of(in, n_in), made);
  if (n_out != program_.outputs.size()) throw Refused("the program has another number of outputs");
  if (times && n_times != program_.steps.size() + 2) throw Refused("another number of times");
  std::vector<Shape> given = shapes_of(out, n_out);
  for (size_t i = 0; i < n_in; ++i) check_strides(in[i], program_.values[i].rows);
  for (size_t i = 0; i < n_out; ++i) {
    if (given[i] != layout.values[size_t(program_.outputs[i])].shape) throw Refused("an output of another shape");
    check_strides(out[i], program_.values[size_t(program_.outputs[i])].rows);
  }
  Memory workspace = take_workspace(layout.workspace);
  Call call{program_, prepared_, kernels_, layout, workspace.data(), threads, given_memory(layout, out, n_out)};
  double before = times ? seconds() : 0;
  auto lap = [&](size_t i) {
    if (!times) return;
    double now = seconds();
    times[i] = now - before;
    before = now;
  };
  for (size_t i = 0; i < n_in; ++i) call.take(i, in[i]);
  lap(0);
  for (size_t i = 0; i < program_.steps.size();) {
    size_t done = call.step(i);
    lap(++i);
    if (times && layout.values[program_.inputs + i - 1].by_another) times[i] = 0;  // its writer has its time
    for (; done > 1; --done, ++i)  // of two that were one the first has their time
      if (times) times[i + 1] = 0;
  }
  for (size_t i = 0; i < n_out; ++i)
    if (!call.given[size_t(program_.outputs[i])]) call.give(program_.outputs[i], out[i]);
  lap(program_.steps.size() + 1);
  give_workspace(std::move(workspace));
}

}  // namespace irn
