#include "jobs.h"

#include <algorithm>

namespace irn {
namespace {

// Tiles of pixels take turns with panels of weights that stay in the second-level cache, from which they come as
// fast as they are needed. The pixels are cut into chunks, so that a chunk's input stays in that cache from panel to
// panel, and so that every thread gets some; where the weights fill it, chunks are large, for each one fetches them
// again.
void cut(const Call& call, const Prepared& p, ConvJob& job) {
  constexpr int64_t kPanel = 80 << 10, kWeights = 256 << 10, kLeast = 48, kMost = 192;
  int64_t block = p.weights.bytes() / job.n_blocks;
  job.panel = std::clamp(kPanel / std::max(block, int64_t(1)), int64_t(1), job.n_blocks);
  int64_t share = ceil_div(job.pixels, 4 * call.threads);
  job.chunk = std::max(kLeast, std::min(share, kMost));
  if (call.threads == 1 && p.weights.bytes() > kWeights) job.chunk = job.pixels;
}

// A PReLU with the multiply-adds around it, if one is next.
void set_prelu(Epilogue& e, const PostOp*& op, const PostOp* end) {
  const PostOp* prelu = op != end && op->kind == PostKind::kAffine ? op + 1 : op;
  if (prelu == end || prelu->kind != PostKind::kPrelu) return;
  if (prelu != op) e.before_scale = op->a, e.before_shift = op->b;
  e.slope = prelu->a;
  op = prelu + 1;
  if (op != end && op->kind == PostKind::kAffine) e.after_scale = op->a, e.after_shift = op->b, ++op;
}

// What the kernels have code of its own for comes first; see Epilogue.
void set_post(Output& out) {
  Epilogue& e = out.epilogue;
  const PostOp *op = out.post.data(), *end = op + out.post.size();
  if (op != end && op->kind == PostKind::kAffine) e.scale = op->a, e.shift = op->b, ++op;
  if (op != end && op->kind == PostKind::kAdd) e.add = op->value, ++op;
  set_prelu(e, op, end);
  if (op != end && op->kind == PostKind::kClamp) e.clamp = true, e.lo = op->lo, e.hi = op->hi, ++op;
  e.post = op;
  e.posts = end - op;
}

}  // namespace

View place(const Call& call, const ValueLayout& v, const Tensor& t) {
  View found = view_of(t, v.sizes, call.workspace);
  uint8_t* given = call.given[size_t(&v - call.layout.values.data())];
  if (given) found.base = given;  // such a value has no other tensor, and no border
  return found;
}

View view(const Call& call, int64_t value, Form form) {
  const ValueLayout& v = call.layout.values[size_t(value)];
  return place(call, v, *v.find(form));
}

View real_view(const Call& call, int64_t value) {
  const ValueLayout& v = call.layout.values[size_t(value)];
  for (const Tensor& t : v.tensors)
    if (t.form.kind == FormKind::kReal && t.direct) return place(call, v, t);
  return {};
}

void set_view(Epilogue& e, FormKind kind, const View& view) {
  (kind == FormKind::kReal ? e.real : kind == FormKind::kSigns ? e.signs : e.bits) = view;
}

void add_views(const Call& call, const ValueLayout& v, bool direct, Epilogue& e) {
  for (const Tensor& t : v.tensors) {
    if (t.direct != direct) continue;
    set_view(e, t.form.kind, place(call, v, t));
  }
}

Grid grid_of(const Sizes& s) { return {s.h, s.w}; }

MoveJob move_from(const View& in, const Sizes& s) {
  return {reinterpret_cast<const float*>(in.base), in.n / 4, 1, in.y / 4, in.x / 4, grid_of(s), 0, s.c, {}};
}

QuantiseJob quantise_job(const Call& call, const ValueLayout& v, const Tensor& t, const MoveJob& from) {
  QuantiseJob job{};
  job.in = from.in;
  job.n = from.n, job.c = from.c, job.y = from.y, job.x = from.x;
  job.out = place(call, v, t);
  job.h = v.sizes.h, job.w = v.sizes.w, job.channels = v.sizes.c;
  job.bytes = t.form.kind == FormKind::kBytes;
  job.top = float((1 << (t.form.bits - 1)) - 1);
  job.scales = reinterpret_cast<float*>(call.workspace + t.offset + t.scales);
  return job;
}

WinogradJob winograd_job(const Call& call, size_t index, const ConvJob& plain, std::vector<uint8_t>& plainly) {
  const Step& s = call.program.steps[index];
  const ConvLayout& c = call.layout.convs[index];
  const Sizes& in = call.layout.values[size_t(s.inputs[0])].sizes;
  WinogradJob job{};
  job.plain = plain;
  job.kernel_rows = s.kernel[0];
  job.stride = s.stride[0];
  job.line = plain.in.y / s.stride[0];
  job.row = ((plain.grid.w - 1) * s.stride[1] + s.kernel[1]) * in.c;
  job.cell = s.stride[1] * in.c;
  job.tiles = c.filter_tiles;
  job.band = c.filter_band;
  job.bands = ceil_div(plain.grid.h, std::max(job.band, int64_t(1)));
  job.weights = call.prepared[index].filtered.as<float>();
  plainly.resize(size_t(in.n));
  for (int64_t n = 0; c.filter_tiles && n < in.n; ++n) plainly[size_t(n)] = !call.kernels.moderate(job, n);
  job.plainly = plainly.data();
  return job;
}

ConvJob conv_job(const Call& call, size_t index, const Output& out) {
  const Step& s = call.program.steps[index];
  const Prepared& p = call.prepared[index];
  const ConvLayout& c = call.layout.convs[index];
  bool bits = p.method == Method::kConvBits;
  ConvJob job{};
  job.in = view(call, s.inputs[0], p.input);
  job.in.base -= c.pad[2] * job.in.y + c.pad[0] * job.in.x;
  job.in.y *= s.stride[0];
  job.in.x *= s.stride[1];
  job.group_units = p.group_units;
  job.grid = grid_of(out.value.sizes);
  job.pixels = out.value.sizes.pixels();
  job.segments = c.segments.data();
  job.epochs = c.epochs.data();
  job.n_epochs = int64_t(c.epochs.size());
  job.blocks = p.blocks.data();
  job.n_blocks = int64_t(p.blocks.size());
  cut(call, p, job);
  job.weights = p.weights.data();
  if (bits) {
    job.bias = c.bias.as<int32_t>();
    job.row_class = c.row_class.data();
    job.column_class = c.column_class.data();
    job.column_classes = c.column_classes;
    job.bias_stride = p.tap_stride;
    if (c.start.bytes()) job.start = c.start.as<int32_t>(), job.minus_twice = p.minus_twice.as<float>();
  }
  if (p.method == Method::kConvBytes) job.start = p.start.as<int32_t>();
  job.aside = c.aside.data(), job.n_aside = int64_t(c.aside.size());
  if (p.input.quantised()) {
    const Tensor& t = *call.layout.values[size_t(s.inputs[0])].find(p.input);
    job.scales = reinterpret_cast<const float*>(call.workspace + t.offset + t.scales);
  }
  job.epilogue = out.epilogue;
  return job;
}

DepthwiseJob depthwise_job(const Call& call, size_t index, const Output& out) {
  const Step& s = call.program.steps[index];
  const Prepared& p = call.prepared[index];
  const ConvLayout& c = call.layout.convs[index];
  DepthwiseJob job{};
  job.in = view(call, s.inputs[0], p.input);
  job.in.base -= c.pad[2] * job.in.y + c.pad[0] * job.in.x;
  job.in.y *= s.stride[0];
  job.in.x *= s.stride[1];
  job.grid = grid_of(out.value.sizes);
  job.channels = p.channels;
  job.taps = c.taps.data();
  job.n_taps = int64_t(c.taps.size());
  job.weights = p.weights.as<float>();
  job.tap_stride = p.tap_stride;
  job.epilogue = out.epilogue;
  return job;
}

PoolJob pool_job(const Call& call, size_t index, const Output& out) {
  const Step& s = call.program.steps[index];
  const Sizes& in = call.layout.values[size_t(s.inputs[0])].sizes;
  bool global = s.kind == Kind::kGlobalAvgPool;
  PoolJob job{};
  job.in = view(call, s.inputs[0], kPlain);
  job.grid = grid_of(out.value.sizes);
  job.h = in.h, job.w = in.w, job.channels = in.c;
  int64_t size[2] = {in.h, in.w};
  for (int axis = 0; axis < 2; ++axis) {
    job.kernel[axis] = global ? size[axis] : s.kernel[axis];
    job.stride[axis] = global ? 1 : s.stride[axis];
    job.pad[axis] = global ? 0 : s.pad[axis ? 0 : 2];
    job.dilation[axis] = s.kind == Kind::kMaxPool ? s.dilation[axis] : 1;
  }
  job.max = s.kind == Kind::kMaxPool;
  job.count_include_pad = s.count_include_pad;
  job.epilogue = out.epilogue;
  return job;
}

PooledJob pooled_job(const Call& call, size_t index, const Output& conv, const Output& pool,
                     std::vector<uint8_t>& plainly) {
  constexpr int64_t kBand = 8;
  Method method = call.prepared[index].method;
  bool filtered = call.layout.convs[index].filter_tiles;
  PooledJob job{};
  job.product = filtered                       ? Product::kWinograd
                : method == Method::kConvBytes ? Product::kBytes
                : method == Method::kConvInts  ? Product::kInts
                                               : Product::kReal;
  job.conv = winograd_job(call, index, conv_job(call, index, conv), plainly);
  if (!filtered) job.conv.band = kBand;
  job.pool = pool_job(call, index + 1, pool);
  job.parts = 1;
  // A part's share of the map must hold what it keeps: a band, and less than a window.
  int64_t rows = job.conv.band + job.pool.kernel[0], most = std::max(job.pool.h / rows, int64_t(1));
  if (call.threads > 1) job.parts = std::min(int64_t(2 * call.threads), most);
  return job;
}

Output Call::output_of(size_t index) const {
  Output out{layout.values[program.inputs + index], {}, prepared[index].post};
  const std::vector<Post>& posts = program.steps[index].post;
  for (size_t i = 0; i < posts.size(); ++i)
    if (posts[i].kind == PostKind::kAdd) out.post[i].value = view(*this, posts[i].a, kPlain);
  set_post(out);
  add_views(*this, out.value, true, out.epilogue);
  if (out.value.turned >= 0) {
    const ValueLayout& turned = layout.values[size_t(out.value.turned)];
    out.epilogue.bits = place(*this, turned, turned.tensors[0]);
    for (const PostOp& by : prepared[size_t(out.value.turned) - program.inputs].post)
      out.epilogue.turn_scale = by.a, out.epilogue.turn_shift = by.b;
  }
  return out;
}

}  // namespace irn
