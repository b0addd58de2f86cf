// What steps of a plan do together, so that a tensor is not written and read once more than it must be.
#include <algorithm>

#include "layout.h"

namespace irn {
namespace {

constexpr Form kPlain = {FormKind::kReal, PadMode::kZeros};

// A shortcut that nobody reads after the step that adds it: the sum takes its place. Every number is read where it
// is written, so the cache holds one map of a residual block and not two.
void write_over(Layout& layout, const Program& program, const std::vector<Prepared>& prepared) {
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& s = program.steps[i];
    // Of a map that is pooled in bands a row lies elsewhere, where shortcuts of others may not have been read yet.
    if (prepared[i].method > Method::kDepthwise || layout.convs[i].pooled) continue;
    Tensor* to = nullptr;
    for (Tensor& t : layout.values[program.inputs + i].tensors)
      if (t.form.kind == FormKind::kReal && t.direct) to = &t;
    for (const Post& p : s.post) {
      if (!to || to->over || to->gives || p.kind != PostKind::kAdd) continue;
      Tensor* from = layout.values[size_t(p.a)].find(kPlain);
      bool read = s.inputs[0] == p.a && prepared[i].input == kPlain;  // windows reach over many pixels
      if (read || from->last != int64_t(i) + 1 || from->bytes != to->bytes) continue;
      if (std::equal(from->pad, from->pad + 4, to->pad)) to->over = from;
    }
  }
}

// Bands of as many rows as fit in what winograd() has for them.
void make_filter(ConvLayout& c, const Step& s, const Sizes& in, const Sizes& out, const CoreShape& core) {
  constexpr int64_t kMostRows = 8;
  int64_t tiles = ceil_div(out.w, 4), cell = s.stride[1] * in.c;
  int64_t more = (kScratch / (tiles * 7) - core.lanes + 1) / cell - s.kernel[0];  // rows of the input than a window has
  if (more < 0 || out.w < 8) return;
  c.filter_tiles = tiles;
  c.filter_band = std::min(more / s.stride[0] + 1, kMostRows);
}

// Whether the pooling behind a convolution alone reads its result, so that both can be one.
bool is_pooled(const Layout& layout, const Program& program, size_t i) {
  if (i + 1 >= program.steps.size()) return false;
  const Step& next = program.steps[i + 1];
  const std::vector<Tensor>& tensors = layout.values[program.inputs + i].tensors;
  const ValueLayout& result = layout.values[program.inputs + i + 1];
  bool max = next.kind == Kind::kMaxPool;
  if (max ? next.dilation[0] != 1 : next.kind != Kind::kAvgPool) return false;
  if (tensors.size() != 1 || tensors[0].form.kind != FormKind::kReal || tensors[0].last != int64_t(i) + 2) return false;
  for (const Post& p : next.post)
    if (p.kind == PostKind::kAdd && p.a == int64_t(program.inputs + i)) return false;
  return !result.tensors.empty() && result.sizes.pixels() > 0;
}

// Filtered convolutions, and those that pooling is one step with: its result is written while their input is read.
void note_bands(Layout& layout, const Program& program, const std::vector<Prepared>& prepared,
                const Kernels& kernels) {
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& s = program.steps[i];
    Method method = prepared[i].method;
    if (method != Method::kConvReal && method != Method::kConvInts && method != Method::kConvBytes) continue;
    const Sizes &in = layout.values[size_t(s.inputs[0])].sizes, &out = layout.values[program.inputs + i].sizes;
    if (prepared[i].filtered.bytes()) make_filter(layout.convs[i], s, in, out, kernels.real);
    layout.convs[i].pooled = is_conv(s.kind) && is_pooled(layout, program, i);
    if (!layout.convs[i].pooled) continue;
    for (Tensor& t : layout.values[program.inputs + i + 1].tensors) t.first = int64_t(i) + 1;
  }
}

// A multiply-add, or nothing, of which signs alone are read, such as the thresholds of RSign: the step that writes its
// input writes the signs too.
void note_turns(Layout& layout, const Program& program, const std::vector<Prepared>& prepared) {
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& s = program.steps[i];
    if (s.kind != Kind::kPointwise || s.post.size() > 1) continue;
    if (!s.post.empty() && s.post[0].kind != PostKind::kAffine) continue;
    ValueLayout &to = layout.values[program.inputs + i], &from = layout.values[size_t(s.inputs[0])];
    if (size_t(s.inputs[0]) < program.inputs || from.turned >= 0) continue;
    const Prepared& writer = prepared[size_t(s.inputs[0]) - program.inputs];
    if (!writer.writes_bits) continue;
    if (to.tensors.size() != 1 || to.tensors[0].form.kind != FormKind::kBits || !to.tensors[0].direct) continue;
    bool bits = std::any_of(from.tensors.begin(), from.tensors.end(),
                            [](const Tensor& t) { return t.form.kind == FormKind::kBits && t.direct; });
    if (bits) continue;
    from.turned = int64_t(program.inputs + i);
    to.by_another = true;
    for (const Tensor& t : from.tensors) to.tensors[0].first = std::min(to.tensors[0].first, t.first);
  }
}

}  // namespace

void join(Layout& layout, const Program& program, const std::vector<Prepared>& prepared, const Kernels& kernels) {
  note_bands(layout, program, prepared, kernels);
  note_turns(layout, program, prepared);
  write_over(layout, program, prepared);
}

}  // namespace irn
