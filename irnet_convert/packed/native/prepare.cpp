#include "prepare.h"

#include <algorithm>
#include <cmath>

#include "weights.h"

namespace irn {
namespace {

constexpr float kInfinity = __builtin_inff();

// A constant of post, filled up so that whole vectors can be read from any channel on.
const float* post_constant(Prepared& p, const Program& program, int64_t index, int64_t channels,
                           const uint8_t* blob) {
  const Constant& c = program.constants[size_t(index)];
  Memory m((channels + kSlack) * 4);
  for (int64_t i = 0; i < channels; ++i)
    std::memcpy(m.as<float>() + i, blob + c.offset + (c.shape[0] == 1 ? 0 : i * 4), 4);
  p.constants.push_back(std::move(m));
  return p.constants.back().as<float>();
}

void prepare_post(Prepared& p, const Program& program, const Step& s, int64_t channels, const uint8_t* blob) {
  for (const Post& post : s.post) {
    PostOp op{};
    op.kind = post.kind;
    op.lo = std::isnan(post.lo) ? -kInfinity : float(post.lo);
    op.hi = std::isnan(post.hi) ? kInfinity : float(post.hi);
    if (post.kind == PostKind::kAffine || post.kind == PostKind::kPrelu)
      op.a = post_constant(p, program, post.a, channels, blob);
    if (post.kind == PostKind::kAffine) op.b = post_constant(p, program, post.b, channels, blob);
    p.post.push_back(op);
  }
  if (p.method != Method::kConvBits || p.post.empty() || p.post[0].kind != PostKind::kAffine) return;
  Memory twice((channels + kSlack) * 4);
  for (int64_t i = 0; i < channels; ++i) {
    twice.as<float>()[i] = -2 * p.post[0].a[i];
    if (!std::isfinite(twice.as<float>()[i])) return;
  }
  p.minus_twice = std::move(twice);
}

// Whether what follows an accumulator first adds something to it in every channel; see winograd.h.
bool always_shifts(const Prepared& p) {
  if (p.post.empty() || p.post[0].kind != PostKind::kAffine) return false;
  return std::all_of(p.post[0].b, p.post[0].b + p.channels, [](float shift) { return shift != 0; });
}

}  // namespace

int64_t Prepared::bytes() const {
  int64_t total = weights.bytes() + tap_sums.bytes() + start.bytes() + filtered.bytes() + minus_twice.bytes();
  for (const Memory& m : constants) total += m.bytes();
  return total;
}

Prepared prepare(const Program& program, size_t index, const uint8_t* blob, const Kernels& kernels) {
  const Step& s = program.steps[index];
  Prepared p;
  p.channels = program.values[program.inputs + index].channels;
  p.input = {FormKind::kReal, PadMode::kZeros};
  if (is_conv(s.kind) || is_linear(s.kind)) {
    prepare_product(p, program, s, blob, kernels);
  } else if (s.kind == Kind::kMaxPool || s.kind == Kind::kAvgPool || s.kind == Kind::kGlobalAvgPool) {
    p.method = Method::kPool;
  } else {
    p.method = s.kind == Kind::kFlatten ? Method::kFlatten : Method::kMove;
    int64_t unit = kernels.bits.unit_bits, at = s.kind == Kind::kSubsample ? s.before : 0;
    p.writes_bits = s.kind != Kind::kFlatten && at % unit == 0;
    for (size_t i = 0; i < s.inputs.size(); ++i) {
      at += program.values[size_t(s.inputs[i])].channels;
      if (at % unit && at != p.channels) p.writes_bits = false;
    }
  }
  prepare_post(p, program, s, p.channels, blob);
  if (!always_shifts(p)) p.filtered = Memory();
  return p;
}

}  // namespace irn
