// One call: a plan's steps, one after the other.
#include "jobs.h"
#include "pool.h"

namespace irn {
namespace {

// Work below which a second thread costs more than it brings, in bytes or multiply-adds.
constexpr int64_t kLeastWork = 1 << 15;

// Runs a job over its items, on several threads where that pays.
template <class Job>
void spread(const Call& call, void (*run)(const Job&, int64_t, int64_t), const Job& job, int64_t items,
            int64_t work) {
  parallel(work < kLeastWork ? 1 : call.threads, items, [&](int64_t b, int64_t e) { run(job, b, e); });
}

// After a value's direct forms are written: the others, from there if it lies outside, and every border.
void complete(const Call& call, int64_t value, const MoveJob* outside = nullptr) {
  const ValueLayout& v = call.layout.values[size_t(value)];
  for (const Tensor& t : v.tensors) {
    if (t.direct || (v.sizes.pixels() == 0 && !t.form.quantised())) continue;  // an empty image has a scale
    MoveJob job = outside ? *outside : move_from(real_view(call, value), v.sizes);
    int64_t work = v.sizes.pixels() * v.sizes.c;
    if (t.form.quantised()) {
      spread(call, call.kernels.quantise, quantise_job(call, v, t, job), v.sizes.n, work);
      continue;
    }
    set_view(job.epilogue, t.form.kind, place(call, v, t));
    spread(call, call.kernels.move, job, v.sizes.pixels(), work);
  }
  for (const Tensor& t : v.tensors) fill_border(t, v.sizes, call.workspace);
}

void run_conv(const Call& call, size_t index, const Output& out) {
  const Prepared& p = call.prepared[index];
  ConvJob job = conv_job(call, index, out);
  bool bits = p.method == Method::kConvBits;
  int64_t work = job.pixels * (p.weights.bytes() / (bits ? 8 : 1));
  if (call.layout.convs[index].filter_tiles) {
    std::vector<uint8_t> plainly;
    WinogradJob filtered = winograd_job(call, index, job, plainly);
    spread(call, call.kernels.winograd, filtered, out.value.sizes.n * filtered.bands, work);
    return;
  }
  int64_t items = ceil_div(job.pixels, job.chunk) * ceil_div(job.n_blocks, job.panel);
  const Kernels& k = call.kernels;
  auto kernel = bits                             ? k.conv_bits
                : p.method == Method::kConvBytes ? k.conv_bytes
                : p.method == Method::kConvInts  ? k.conv_ints
                                                 : k.conv_real;
  spread(call, kernel, job, items, work);
}

void run_depthwise(const Call& call, size_t index, const Output& out) {
  DepthwiseJob job = depthwise_job(call, index, out);
  int64_t pixels = out.value.sizes.pixels();
  spread(call, call.kernels.depthwise, job, pixels, pixels * job.channels * job.n_taps);
}

void run_pool(const Call& call, size_t index, const Output& out) {
  PoolJob job = pool_job(call, index, out);
  int64_t pixels = out.value.sizes.pixels();
  spread(call, call.kernels.pool, job, pixels, pixels * job.channels * job.kernel[0] * job.kernel[1]);
}

void run_pooled(const Call& call, size_t index, const Output& conv, const Output& pool) {
  std::vector<uint8_t> plainly;
  PooledJob job = pooled_job(call, index, conv, pool, plainly);
  int64_t work = conv.value.sizes.pixels() * call.prepared[index].weights.bytes();
  spread(call, call.kernels.pooled, job, conv.value.sizes.n * job.parts, work);
}

void run_move(const Call& call, const MoveJob& job, int64_t pixels) {
  if (pixels && job.channels) spread(call, call.kernels.move, job, pixels, pixels * job.channels);
}

// pointwise, subsample, concat: each input at its channels.
void run_moves(const Call& call, size_t index, const Output& out) {
  static const float kZero = 0.0f;
  const Step& s = call.program.steps[index];
  const Sizes& sizes = out.value.sizes;
  int64_t first = s.kind == Kind::kSubsample ? s.before : 0;
  MoveJob zeros{&kZero, 0, 0, 0, 0, grid_of(sizes), 0, first, out.epilogue};
  if (s.kind == Kind::kSubsample) run_move(call, zeros, sizes.pixels());
  for (int64_t i : s.inputs) {
    MoveJob job = move_from(view(call, i, kPlain), sizes);
    if (s.kind == Kind::kSubsample) job.y *= s.stride[0], job.x *= s.stride[1];
    job.first = first;
    job.channels = call.layout.values[size_t(i)].sizes.c;
    job.epilogue = out.epilogue;
    run_move(call, job, sizes.pixels());
    first += job.channels;
  }
  zeros.first = first, zeros.channels = sizes.c - first;
  if (s.kind == Kind::kSubsample) run_move(call, zeros, sizes.pixels());
}

// Channels become the slowest: what giving out a map as (N, C, H, W) does, here into the workspace.
void run_flatten(const Call& call, size_t index, const Output& out) {
  const Step& s = call.program.steps[index];
  const Sizes& in = call.layout.values[size_t(s.inputs[0])].sizes;
  int64_t plane = in.h * in.w;
  View to = out.epilogue.real;
  ExportJob job{view(call, s.inputs[0], kPlain), grid_of(in), in.c, reinterpret_cast<float*>(to.base),
                to.n / 4, plane, in.w, 1};
  if (in.pixels()) spread(call, call.kernels.export_, job, in.pixels(), in.pixels() * in.c);
  if (out.post.empty()) return;
  MoveJob again = move_from(to, out.value.sizes);
  again.epilogue = out.epilogue;
  run_move(call, again, out.value.sizes.pixels());
}

}  // namespace

size_t Call::step(size_t index) const {
  int64_t value = int64_t(program.inputs + index);
  if (layout.values[size_t(value)].tensors.empty()) return 1;  // nobody reads it
  Output out = output_of(index);
  if (out.value.sizes.pixels() > 0 && !out.value.by_another) {
    if (layout.convs[index].pooled) {
      run_pooled(*this, index, out, output_of(index + 1));
      complete(*this, value + 1);
      return 2;
    }
    switch (prepared[index].method) {
      case Method::kConvBits:
      case Method::kConvInts:
      case Method::kConvBytes:
      case Method::kConvReal: run_conv(*this, index, out); break;
      case Method::kDepthwise: run_depthwise(*this, index, out); break;
      case Method::kPool: run_pool(*this, index, out); break;
      case Method::kMove: run_moves(*this, index, out); break;
      case Method::kFlatten: run_flatten(*this, index, out); break;
    }
  }
  complete(*this, value);
  return 1;
}

void Call::take(size_t input, const irn_tensor& t) const {
  const ValueLayout& v = layout.values[input];
  if (v.tensors.empty()) return;
  MoveJob job{};
  job.in = t.data;
  job.grid = grid_of(v.sizes);
  job.channels = v.sizes.c;
  if (program.values[input].rows) {
    job.n = v.sizes.c, job.c = 1;  // contiguous; see plan.cpp
  } else {
    job.n = t.strides[0], job.c = t.strides[1], job.y = t.strides[2], job.x = t.strides[3];
  }
  add_views(*this, v, true, job.epilogue);
  if (v.quantised_alone) return complete(*this, int64_t(input), &job);
  run_move(*this, job, v.sizes.pixels());
  complete(*this, int64_t(input));
}

void Call::give(int64_t value, const irn_tensor& t) const {
  const ValueLayout& v = layout.values[size_t(value)];
  if (v.sizes.pixels() == 0) return;
  ExportJob job{view(*this, value, kPlain), grid_of(v.sizes), v.sizes.c, t.data, 0, 0, 0, 0};
  if (program.values[size_t(value)].rows) {
    job.n = v.sizes.c, job.c = 1;
  } else {
    job.n = t.strides[0], job.c = t.strides[1], job.y = t.strides[2], job.x = t.strides[3];
  }
  spread(*this, kernels.export_, job, v.sizes.pixels(), v.sizes.pixels() * v.sizes.c);
}

}  // namespace irn
