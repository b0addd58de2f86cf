#include "layout.h"

#include <algorithm>
#include <map>

namespace irn {
namespace {

Sizes sizes_of(const Value& value, const Shape& shape) {
  if (!value.rows) return {shape[0], shape[2], shape[3], shape[1]};
  Sizes s;
  for (size_t i = 0; i + 1 < shape.size(); ++i) s.n *= shape[i];
  s.c = shape.back();
  return s;
}

// Notes that step `reader` (counted from 1) reads a form of a value, with a border.
void need(ValueLayout& v, Form form, const int64_t (&pad)[4], int64_t reader) {
  Tensor* t = v.find(form);
  if (!t) {
    v.tensors.push_back({});
    t = &v.tensors.back();
    t->form = form;
  }
  for (int i = 0; i < 4; ++i) t->pad[i] = std::max(t->pad[i], pad[i]);
  t->last = std::max(t->last, reader);
}

void note_readers(Layout& layout, const Program& program, const std::vector<Prepared>& prepared) {
  constexpr int64_t kNone[4] = {0, 0, 0, 0};
  constexpr Form kPlain = {FormKind::kReal, PadMode::kZeros};
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& s = program.steps[i];
    bool conv = is_conv(s.kind);
    if (conv) conv_padding(s, layout.values[size_t(s.inputs[0])].shape, layout.convs[i].pad);
    for (int64_t v : s.inputs)
      need(layout.values[size_t(v)], prepared[i].input, conv ? layout.convs[i].pad : kNone, int64_t(i) + 1);
    for (const Post& p : s.post)
      if (p.kind == PostKind::kAdd) need(layout.values[size_t(p.a)], kPlain, kNone, int64_t(i) + 1);
  }
  for (int64_t v : program.outputs) {
    ValueLayout& value = layout.values[size_t(v)];
    bool alone = value.tensors.empty() && size_t(v) >= program.inputs;
    need(value, kPlain, kNone, int64_t(program.steps.size()) + 1);
    value.tensors[0].gives = alone;
  }
}

// Decides which forms a step writes itself, and gives every form its size.
void size_tensors(ValueLayout& v, int64_t writer, bool writes_bits, bool only_real, const Kernels& kernels) {
  bool direct[4] = {false, false, false, false};
  for (Tensor& t : v.tensors) {
    FormKind kind = t.form.kind;
    bool can = kind == FormKind::kReal || (!only_real && kind == FormKind::kSigns) ||
               (!only_real && kind == FormKind::kBits && writes_bits);
    t.direct = can && !direct[int(t.form.kind)];
    if (t.direct) direct[int(t.form.kind)] = true;
  }
  bool copies = std::any_of(v.tensors.begin(), v.tensors.end(), [](const Tensor& t) { return !t.direct; });
  bool quantised = std::all_of(v.tensors.begin(), v.tensors.end(), [](const Tensor& t) { return t.form.quantised(); });
  v.quantised_alone = writer == 0 && copies && quantised && v.sizes.c <= kFewChannels;
  if (copies && !v.quantised_alone && !direct[int(FormKind::kReal)]) {
    v.tensors.push_back({});
    v.tensors.back().form = {FormKind::kReal, PadMode::kZeros};
    v.tensors.back().direct = true;
    v.tensors.back().last = writer;
  }
  for (Tensor& t : v.tensors) {
    t.pixel = v.sizes.c * (t.form.kind == FormKind::kInts ? 2 : t.form.kind == FormKind::kBytes ? 1 : 4);
    if (t.form.kind == FormKind::kBits)
      t.pixel = ceil_div(v.sizes.c, kernels.bits.unit_bits) * kernels.bits.unit_bytes;
    t.first = writer;
    int64_t pixels = (v.sizes.h + t.pad[2] + t.pad[3]), width = v.sizes.w + t.pad[0] + t.pad[1];
    if (__builtin_mul_overflow(pixels, width, &pixels) || __builtin_mul_overflow(pixels, v.sizes.n, &pixels) ||
        __builtin_mul_overflow(pixels, t.pixel, &t.bytes) || t.bytes > kMaxElements * 4)
      throw Refused("the input does not fit: it is too large");
    t.bytes = ceil_div(t.bytes + kSlack * 4, 64) * 64;
    t.scales = t.bytes;
    if (t.form.quantised()) t.bytes += ceil_div(v.sizes.n * 4, 64) * 64;
  }
}

// Gives tensors that are alive at the same time different places, the largest first, each at the lowest
// place that is free.
void place(Layout& layout) {
  std::vector<Tensor*> all, placed, over;
  for (ValueLayout& v : layout.values)  // in the order in which they are written
    for (Tensor& t : v.tensors) (t.over ? over : all).push_back(&t);
  for (auto t = over.rbegin(); t != over.rend(); ++t) (*t)->over->last = std::max((*t)->over->last, (*t)->last);
  std::stable_sort(all.begin(), all.end(), [](Tensor* a, Tensor* b) { return a->bytes > b->bytes; });
  for (Tensor* t : all) {
    for (Tensor* other : placed) {  // in the order of their offsets
      if (other->last < t->first || t->last < other->first) continue;
      if (other->offset >= t->offset + t->bytes) break;
      t->offset = std::max(t->offset, other->offset + other->bytes);
    }
    auto behind = [](Tensor* a, Tensor* b) { return a->offset < b->offset; };
    placed.insert(std::upper_bound(placed.begin(), placed.end(), t, behind), t);
    layout.workspace = std::max(layout.workspace, t->offset + t->bytes);
  }
  for (Tensor* t : over) t->offset = t->over->offset;
}

// Stretches that are contiguous in the input: kernel rows where the taps of a row touch, else single taps;
// cut so that narrow sums do not overflow.
void make_segments(ConvLayout& c, const Step& s, const Prepared& p, const View& in, const CoreShape& core) {
  int64_t columns = p.rows ? 1 : s.kernel[1];
  int64_t pieces = ceil_div(p.run_steps, core.max_steps), pending = 0, epoch = 0, steps = 0;
  c.epochs.push_back({0, 0, 0});
  for (int64_t y = 0; y < s.kernel[0]; ++y)
    for (int64_t x = 0; x < columns; ++x)
      for (int64_t i = 0; i < pieces; ++i) {
        int64_t first = p.run_steps * i / pieces, n = p.run_steps * (i + 1) / pieces - first;
        if (pending + n > core.max_steps) c.segments.back().flush = 1, pending = 0;
        if ((epoch + n) * core.unit_bits > core.max_total) {
          c.segments.back().flush = 1, pending = 0;
          c.epochs.back().last = int64_t(c.segments.size());
          c.epochs.push_back({int64_t(c.segments.size()), 0, steps});
          epoch = 0;
        }
        int64_t offset = (y * s.dilation[0] * in.y + x * s.dilation[1] * in.x) / core.unit_bytes + first * core.step;
        c.segments.push_back({offset, int32_t(n), 0});
        pending += n, epoch += n, steps += n;
      }
  if (p.aside) {
    int64_t row = s.kernel[1] * in.x, all = s.kernel[0] * p.aside;
    for (int64_t i = 0; i < all; ++i)
      c.aside.push_back(i / p.aside * s.dilation[0] * in.y + row - p.aside + i % p.aside);
    c.segments.push_back({0, int32_t(ceil_div(all, core.step)), 0, true});
  }
  c.segments.back().flush = 1;
  c.epochs.back().last = int64_t(c.segments.size());
}

// For each place along an axis, the class of the taps that lie inside the input: first and last + 1.
std::vector<std::pair<int64_t, int64_t>> classify(const Step& s, int axis, int64_t out, int64_t in, int64_t pad,
                                                  std::vector<int32_t>& class_of) {
  std::vector<std::pair<int64_t, int64_t>> classes;
  std::map<std::pair<int64_t, int64_t>, int32_t> known;
  for (int64_t o = 0; o < out; ++o) {
    int64_t start = o * s.stride[axis] - pad, d = s.dilation[axis], k = s.kernel[axis];
    int64_t first = std::min(k, start < 0 ? ceil_div(-start, d) : 0);
    int64_t last = std::max(first, std::min(k, start < in ? ceil_div(in - start, d) : 0));
    auto [it, added] = known.try_emplace({first, last}, int32_t(classes.size()));
    if (added) classes.push_back({first, last});
    class_of.push_back(it->second);
  }
  return classes;
}

void make_bias(ConvLayout& c, const Step& s, const Prepared& p, const Sizes& in, const Sizes& out, bool begins) {
  bool zeros = s.pad_mode == PadMode::kZeros;
  constexpr int64_t kAll = kMaxElements;  // no place lies outside
  auto rows = classify(s, 0, out.h, zeros ? in.h : kAll, zeros ? c.pad[2] : 0, c.row_class);
  auto columns = classify(s, 1, out.w, zeros ? in.w : kAll, zeros ? c.pad[0] : 0, c.column_class);
  c.column_classes = int64_t(columns.size());
  int64_t stride = p.tap_stride, width = s.kernel[1] + 1;
  c.bias = Memory(int64_t(rows.size() * columns.size()) * stride * 4);
  int32_t* to = c.bias.as<int32_t>();
  auto sums = [&](int64_t y, int64_t x) { return p.tap_sums.as<int32_t>() + (y * width + x) * stride; };
  const int32_t* all = sums(s.kernel[0], s.kernel[1]);
  int64_t fan_in = in.c / s.groups * s.kernel[0] * s.kernel[1];
  for (auto [y0, y1] : rows)
    for (auto [x0, x1] : columns) {
      const int32_t *a = sums(y1, x1), *b = sums(y0, x1), *d = sums(y1, x0), *e = sums(y0, x0);
      for (int64_t o = 0; o < out.c; ++o) to[o] = int32_t(fan_in - (all[o] - (a[o] - b[o] - d[o] + e[o])));
      to += stride;
    }
  if (!begins) return;
  int32_t *first = c.bias.as<int32_t>(), odd = 0;
  for (int32_t* b = first; b != to; ++b) odd |= *b & 1;
  if (odd) return;
  c.start = Memory(c.bias.bytes());
  for (int32_t* b = first; b != to; ++b) c.start.as<int32_t>()[b - first] = -(*b / 2);
}

const CoreShape& core_of(const Prepared& p, const Kernels& kernels) {
  if (p.method == Method::kConvBits) return kernels.bits;
  if (p.method == Method::kConvBytes) return kernels.bytes;
  return p.method == Method::kConvInts ? kernels.ints : kernels.real;
}

void make_conv(Layout& layout, const Program& program, const Prepared& p, size_t i, const Kernels& kernels) {
  const Step& s = program.steps[i];
  ConvLayout& c = layout.convs[i];
  const ValueLayout& in = layout.values[size_t(s.inputs[0])];
  View view = strides_of(*in.find(p.input), in.sizes);
  if (p.method == Method::kDepthwise) {
    for (int64_t y = 0; y < s.kernel[0]; ++y)
      for (int64_t x = 0; x < s.kernel[1]; ++x)
        c.taps.push_back(y * s.dilation[0] * view.y + x * s.dilation[1] * view.x);
    return;
  }
  bool bits = p.method == Method::kConvBits;
  make_segments(c, s, p, view, core_of(p, kernels));
  if (bits) make_bias(c, s, p, in.sizes, layout.values[program.inputs + i].sizes, kernels.bits.begins && p.minus_twice.bytes());
}

}  // namespace

const Tensor* ValueLayout::find(Form form) const {
  for (const Tensor& t : tensors)
    if (t.form == form) return &t;
  return nullptr;
}

View strides_of(const Tensor& t, const Sizes& sizes) {
  View v;
  v.x = t.pixel;
  v.y = (sizes.w + t.pad[0] + t.pad[1]) * v.x;
  v.n = (sizes.h + t.pad[2] + t.pad[3]) * v.y;
  return v;
}

View view_of(const Tensor& t, const Sizes& sizes, uint8_t* workspace) {
  View v = strides_of(t, sizes);
  v.base = workspace + t.offset + t.pad[2] * v.y + t.pad[0] * v.x;
  return v;
}

std::unique_ptr<Layout> lay_out(const Program& program, const std::vector<Prepared>& prepared,
                                const Kernels& kernels, std::vector<Shape> inputs) {
  auto layout = std::make_unique<Layout>();
  std::vector<Shape> shapes = infer_shapes(program, inputs);
  layout->inputs = std::move(inputs);
  layout->values.resize(shapes.size());
  layout->convs.resize(program.steps.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    layout->values[i].sizes = sizes_of(program.values[i], shapes[i]);
    layout->values[i].shape = std::move(shapes[i]);
  }
  note_readers(*layout, program, prepared);
  for (size_t i = 0; i < layout->values.size(); ++i) {
    bool input = i < program.inputs;
    const Prepared* p = input ? nullptr : &prepared[i - program.inputs];
    int64_t writer = input ? 0 : int64_t(i - program.inputs) + 1;
    size_tensors(layout->values[i], writer, !p || p->writes_bits, p && p->method == Method::kFlatten, kernels);
  }
  join(*layout, program, prepared, kernels);
  place(*layout);
  for (size_t i = 0; i < program.steps.size(); ++i)
    if (prepared[i].method <= Method::kDepthwise && layout->values[i + program.inputs].sizes.pixels() > 0)
      make_conv(*layout, program, prepared[i], i, kernels);
  return layout;
}

}  // namespace irn
