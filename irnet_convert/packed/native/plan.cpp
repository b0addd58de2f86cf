#include "plan.h"

#include <chrono>

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
    for (const ConvLayout& c : l->convs) total += c.bias.bytes();
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

void Plan::run(const irn_tensor* in, size_t n_in, const irn_tensor* out, size_t n_out, int threads,
               double* times, size_t n_times) {
  std::vector<Shape> inputs = shapes_of(in, n_in);
  std::unique_ptr<Layout> made;
  const Layout* found = find_layout(inputs);
  if (!found) {
    made = lay_out(program_, prepared_, kernels_, std::move(inputs));
    found = keep_layout(made);
  }
  const Layout& layout = *found;
  if (n_out != program_.outputs.size()) throw Refused("the program has another number of outputs");
  if (times && n_times != program_.steps.size() + 2) throw Refused("another number of times");
  std::vector<Shape> given = shapes_of(out, n_out);
  for (size_t i = 0; i < n_in; ++i) check_strides(in[i], program_.values[i].rows);
  for (size_t i = 0; i < n_out; ++i) {
    if (given[i] != layout.values[size_t(program_.outputs[i])].shape) throw Refused("an output of another shape");
    check_strides(out[i], program_.values[size_t(program_.outputs[i])].rows);
  }
  Memory workspace = take_workspace(layout.workspace);
  Call call{program_, prepared_, kernels_, layout, workspace.data(), threads < 1 ? 1 : threads};
  double before = times ? seconds() : 0;
  auto lap = [&](size_t i) {
    if (!times) return;
    double now = seconds();
    times[i] = now - before;
    before = now;
  };
  for (size_t i = 0; i < n_in; ++i) call.take(i, in[i]);
  lap(0);
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    call.step(i);
    lap(i + 1);
  }
  for (size_t i = 0; i < n_out; ++i) call.give(program_.outputs[i], out[i]);
  lap(program_.steps.size() + 1);
  give_workspace(std::move(workspace));
}

}  // namespace irn
