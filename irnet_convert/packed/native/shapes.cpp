#include "layout.h"

namespace irn {
namespace {

[[noreturn]] void refuse(const std::string& what) { throw Refused("the input does not fit: " + what); }

std::string show(const Shape& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

const Shape& check_size(const Shape& shape) {
  int64_t total = 1;
  for (int64_t size : shape) {
    if (size < 0 || size > kMaxElements) refuse("a size in " + show(shape));
    if (__builtin_mul_overflow(total, size, &total) || total > kMaxElements) refuse(show(shape) + " is too large");
  }
  return shape;
}

int64_t conv_size(const Step& s, int axis, int64_t size, const int64_t (&pad)[4]) {
  int64_t before = pad[axis ? 0 : 2], after = pad[axis ? 1 : 3];
  int64_t most = s.pad_mode == PadMode::kReflect ? size - 1 : size;
  bool limited = s.pad_mode == PadMode::kReflect || s.pad_mode == PadMode::kCircular;
  if (limited && (before > most || after > most)) refuse("it is smaller than its padding");
  if (s.pad_mode == PadMode::kReplicate && size == 0 && before + after > 0) refuse("nothing to replicate");
  int64_t room = size + before + after - (s.kernel[axis] - 1) * s.dilation[axis] - 1;
  if (room < 0) refuse("a kernel is larger than its map");
  return room / s.stride[axis] + 1;
}

int64_t pool_size(const Step& s, int axis, int64_t size) {
  int64_t pad = s.pad[axis ? 0 : 2], dilation = s.kind == Kind::kMaxPool ? s.dilation[axis] : 1;
  int64_t room = size + 2 * pad - dilation * (s.kernel[axis] - 1) - 1;
  int64_t extra = s.ceil_mode ? s.stride[axis] - 1 : 0;
  if (room + extra < 0) refuse("a window is larger than its map");
  int64_t out = (room + extra) / s.stride[axis] + 1;
  if (s.ceil_mode && (out - 1) * s.stride[axis] >= size + pad) --out;
  return out;
}

Shape concat(const Step& s, const std::vector<Shape>& shapes, bool rows) {
  Shape out = shapes[size_t(s.inputs[0])];
  size_t axis = rows ? out.size() - 1 : 1;
  out[axis] = 0;
  for (int64_t i : s.inputs) {
    Shape part = shapes[size_t(i)];
    int64_t channels = part[axis];
    part[axis] = out[axis];
    if (part != out) refuse("values of different sizes are joined");
    out[axis] += channels;
  }
  return out;
}

Shape shape_of(const Step& s, const std::vector<Shape>& shapes, const Value& value) {
  if (s.kind == Kind::kConcat) return concat(s, shapes, value.rows);
  Shape x = shapes[size_t(s.inputs[0])];
  if (is_linear(s.kind)) x.back() = value.channels;
  if (is_conv(s.kind)) {
    int64_t pad[4];
    conv_padding(s, x, pad);
    return {x[0], value.channels, conv_size(s, 0, x[2], pad), conv_size(s, 1, x[3], pad)};
  }
  if (s.kind == Kind::kMaxPool || s.kind == Kind::kAvgPool)
    return {x[0], x[1], pool_size(s, 0, x[2]), pool_size(s, 1, x[3])};
  if (s.kind == Kind::kGlobalAvgPool) return s.keep_dims ? Shape{x[0], x[1], 1, 1} : Shape{x[0], x[1]};
  if (s.kind == Kind::kFlatten) {
    if (x[1] * x[2] * x[3] != s.features)
      refuse("a map of " + show(x) + " where " + std::to_string(s.features) + " features are expected");
    return {x[0], s.features};
  }
  if (s.kind == Kind::kSubsample)
    return {x[0], value.channels, ceil_div(x[2], s.stride[0]), ceil_div(x[3], s.stride[1])};
  return x;
}

}  // namespace

void conv_padding(const Step& s, const Shape& x, int64_t (&pad)[4]) {
  for (int i = 0; i < 4; ++i) pad[i] = s.pad[i];
  if (!s.same) return;
  for (int axis = 0; axis < 2; ++axis) {
    int64_t size = x[size_t(2 + axis)], out = ceil_div(size, s.stride[axis]);
    int64_t total = (out - 1) * s.stride[axis] + (s.kernel[axis] - 1) * s.dilation[axis] + 1 - size;
    if (total < 0) total = 0;
    pad[axis ? 0 : 2] = total / 2;
    pad[axis ? 1 : 3] = total - total / 2;
  }
}

std::vector<Shape> infer_shapes(const Program& program, const std::vector<Shape>& inputs) {
  if (inputs.size() != program.inputs) refuse(std::to_string(inputs.size()) + " inputs");
  std::vector<Shape> shapes;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Value& v = program.values[i];
    bool fits = int64_t(inputs[i].size()) == v.rank;
    if (!fits || inputs[i][v.rows ? inputs[i].size() - 1 : 1] != v.channels)
      refuse("input " + std::to_string(i) + " has the shape " + show(inputs[i]));
    shapes.push_back(check_size(inputs[i]));
  }
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& s = program.steps[i];
    Shape shape = check_size(shape_of(s, shapes, program.values[program.inputs + i]));
    for (const Post& p : s.post)
      if (p.kind == PostKind::kAdd && shapes[size_t(p.a)] != shape)
        refuse("step " + std::to_string(i) + " adds " + show(shapes[size_t(p.a)]) + " to " + show(shape));
    shapes.push_back(std::move(shape));
  }
  return shapes;
}

}  // namespace irn
