#include "program.h"

#include <cmath>
#include <cstring>

#include "irnet.h"

namespace irn {
namespace {

constexpr int64_t kMaxCount = 1 << 16, kMaxChannels = 1 << 22, kMaxGeometry = 1 << 10, kMaxValues = 1 << 8;
constexpr int64_t kMaxFanIn = 1 << 24;  // the longest sum of +-1 that float32 still holds exactly

[[noreturn]] void refuse(const std::string& what) { throw Refused("malformed program: " + what); }

int64_t within(int64_t number, int64_t least, int64_t most, const char* what) {
  if (number < least || number > most) refuse(std::string(what) + " is " + std::to_string(number));
  return number;
}

class Reader {
 public:
  Reader(const int64_t* code, size_t n) : at_(code), end_(code + n) {}
  int64_t next() {
    if (at_ == end_) refuse("it ends too early");
    return *at_++;
  }
  int64_t next(int64_t least, int64_t most, const char* what) { return within(next(), least, most, what); }
  template <class E>
  E kind(const char* what) {
    return E(next(0, int64_t(E::kEnd) - 1, what));
  }
  bool done() const { return at_ == end_; }

 private:
  const int64_t* at_;
  const int64_t* end_;
};

Constant read_constant(Reader& r, size_t blob_size) {
  Constant c;
  c.dtype = r.kind<DType>("a dtype");
  c.offset = r.next(0, int64_t(blob_size), "an offset");
  c.rank = r.next(1, 4, "a rank");
  int64_t fan_in = 1;
  for (int i = 0; i < 4; ++i) {
    c.shape[i] = r.next(i < c.rank, i < c.rank ? kMaxChannels : 0, "a size of a constant");
    if (i > 0 && i < c.rank) fan_in = within(fan_in * c.shape[i], 1, kMaxFanIn, "a fan-in");
  }
  if (c.offset % 64) refuse("a constant is not aligned");
  if (stored_bytes(c) > int64_t(blob_size) - c.offset) refuse("a constant ends behind the blob");
  return c;
}

Post read_post(Reader& r) {
  Post p;
  p.kind = r.kind<PostKind>("a kind of post");
  p.a = r.next();
  p.b = r.next();
  int64_t bits[2] = {r.next(), r.next()};
  std::memcpy(&p.lo, bits, 8);
  std::memcpy(&p.hi, bits + 1, 8);
  return p;
}

Step read_step(Reader& r, int64_t values) {
  Step s;
  s.kind = r.kind<Kind>("a kind of step");
  s.inputs.resize(size_t(r.next(1, s.kind == Kind::kConcat ? kMaxValues : 1, "a number of inputs")));
  for (int64_t& i : s.inputs) i = r.next(0, values - 1, "a value that a step reads");
  s.weight = r.next();
  for (int64_t& i : s.stride) i = r.next(1, kMaxGeometry, "a stride");
  for (int64_t& i : s.dilation) i = r.next(1, kMaxGeometry, "a dilation");
  for (int64_t& i : s.kernel) i = r.next(1, kMaxGeometry, "a kernel size");
  for (int64_t& i : s.pad) i = r.next(0, kMaxGeometry, "a padding");
  s.same = r.next(0, 1, "same");
  s.pad_mode = r.kind<PadMode>("a padding mode");
  s.groups = r.next(1, kMaxChannels, "a number of groups");
  s.ceil_mode = r.next(0, 1, "ceil_mode");
  s.count_include_pad = r.next(0, 1, "count_include_pad");
  s.keep_dims = r.next(0, 1, "keep_dims");
  s.features = r.next(0, kMaxChannels, "features");
  s.before = r.next(0, kMaxChannels, "before");
  s.after = r.next(0, kMaxChannels, "after");
  s.input_bits = r.next(0, 16, "input_bits");
  s.post.resize(size_t(r.next(0, kMaxValues, "a number of posts")));
  for (Post& p : s.post) p = read_post(r);
  return s;
}

const Constant& weight_of(const Program& program, const Step& step) {
  within(step.weight, 0, int64_t(program.constants.size()) - 1, "a weight");
  const Constant& w = program.constants[size_t(step.weight)];
  bool allowed = w.dtype == DType::kBits;
  if (!is_binary(step.kind)) {
    bool real = allowed || w.dtype == DType::kF32 || w.dtype == DType::kF16 || w.dtype == DType::kBF16;
    allowed = step.input_bits ? w.dtype == DType::kI8 || w.dtype == DType::kI16 : real;
  }
  if (step.input_bits && (step.kind != Kind::kConv || step.input_bits < 2)) refuse("input_bits");
  if (!allowed || w.rank != (is_conv(step.kind) ? 4 : 2)) refuse("a weight of the wrong dtype or rank");
  return w;
}

int64_t conv_channels(const Program& program, const Step& s, int64_t channels) {
  const Constant& w = weight_of(program, s);
  if (w.shape[1] * s.groups != channels || w.shape[0] % s.groups) refuse("channels and groups disagree");
  if (w.shape[2] != s.kernel[0] || w.shape[3] != s.kernel[1]) refuse("a kernel size disagrees");
  if (s.same && s.pad_mode != PadMode::kZeros) refuse("SAME padding of another mode than zeros");
  return w.shape[0];
}

// A linear layer is computed as a convolution of one tap; nothing else may be said of it.
void check_plain(const Step& s) {
  bool plain = s.groups == 1 && !s.same && s.pad_mode == PadMode::kZeros;
  for (int i = 0; i < 2; ++i) plain = plain && s.stride[i] == 1 && s.dilation[i] == 1 && s.kernel[i] == 1;
  for (int64_t pad : s.pad) plain = plain && pad == 0;
  if (!plain) refuse("a linear layer has the geometry of a convolution");
}

Value concat(const Program& program, const Step& s) {
  Value out = program.values[size_t(s.inputs[0])];
  out.channels = 0;
  for (int64_t i : s.inputs) {
    const Value& v = program.values[size_t(i)];
    if (v.rows != out.rows || v.rank != out.rank) refuse("values of different layouts are joined");
    out.channels = within(out.channels + v.channels, 1, kMaxChannels, "channels");
  }
  return out;
}

// The value that a step makes.
Value value_of(const Program& program, const Step& s) {
  if (s.kind == Kind::kConcat) return concat(program, s);
  Value x = program.values[size_t(s.inputs[0])];
  if (is_linear(s.kind)) {
    const Constant& w = weight_of(program, s);
    if (!x.rows || w.shape[1] != x.channels) refuse("a linear layer does not fit its input");
    check_plain(s);
    x.channels = w.shape[0];
    return x;
  }
  if (s.kind == Kind::kPointwise) return x;
  if (x.rows) refuse("a step on maps reads rows");
  if (is_conv(s.kind)) x.channels = conv_channels(program, s, x.channels);
  if (s.kind == Kind::kMaxPool || s.kind == Kind::kAvgPool)
    for (int i = 0; i < 4; ++i)
      if (s.pad[i] > s.kernel[i < 2] / 2) refuse("a window is padded by more than half");
  if (s.kind == Kind::kSubsample)
    x.channels = within(s.before + x.channels + s.after, 1, kMaxChannels, "channels");
  if (s.kind == Kind::kFlatten) {
    if (s.features == 0 || s.features % x.channels) refuse("features are no multiple of channels");
    return {true, s.features, 2};
  }
  if (s.kind == Kind::kGlobalAvgPool && !s.keep_dims) return {true, x.channels, 2};
  return x;
}

void check_vector(const Program& program, int64_t index, int64_t channels, bool scalar) {
  within(index, 0, int64_t(program.constants.size()) - 1, "a constant that post reads");
  const Constant& c = program.constants[size_t(index)];
  bool fits = c.shape[0] == channels || (scalar && c.shape[0] == 1);
  if (c.dtype != DType::kF32 || c.rank != 1 || !fits) refuse("a constant that post reads does not fit");
}

void check_post(const Program& program, const Post& p, const Value& out) {
  if (p.kind == PostKind::kAffine) {
    check_vector(program, p.a, out.channels, false);
    check_vector(program, p.b, out.channels, false);
  } else if (p.kind == PostKind::kPrelu) {
    check_vector(program, p.a, out.channels, true);
  } else if (p.kind == PostKind::kAdd) {
    within(p.a, 0, int64_t(program.values.size()) - 1, "a value that post reads");
    const Value& v = program.values[size_t(p.a)];
    if (v.rows != out.rows || v.channels != out.channels || v.rank != out.rank)
      refuse("an addition of different values");
  } else if (p.kind == PostKind::kClamp && p.lo > p.hi) {
    refuse("an empty clamp");
  }
}

}  // namespace

int64_t stored_bytes(const Constant& c) {
  int64_t row = 1;
  for (int i = 1; i < c.rank; ++i) row *= c.shape[i];
  switch (c.dtype) {
    case DType::kBits: row = ceil_div(row, 8); break;
    case DType::kF32: row *= 4; break;
    case DType::kI8: break;
    default: row *= 2;
  }
  return row * c.shape[0];
}

Program decode(const int64_t* code, size_t n, size_t blob_size) {
  Reader r(code, n);
  if (r.next() != IRN_VERSION) refuse("another version");
  Program program;
  program.inputs = size_t(r.next(1, kMaxValues, "the number of inputs"));
  auto constants = r.next(0, kMaxCount, "the number of constants");
  auto steps = r.next(1, kMaxCount, "the number of steps");
  auto outputs = r.next(1, kMaxValues, "the number of outputs");
  for (size_t i = 0; i < program.inputs; ++i) {
    Value v;
    v.rows = r.next(0, 1, "a layout");
    v.channels = r.next(1, kMaxChannels, "channels");
    v.rank = r.next(v.rows ? 1 : 4, v.rows ? IRN_MAX_RANK : 4, "a rank");
    program.values.push_back(v);
  }
  for (int64_t i = 0; i < constants; ++i) program.constants.push_back(read_constant(r, blob_size));
  for (int64_t i = 0; i < steps; ++i) {
    Step step = read_step(r, int64_t(program.values.size()));
    Value out = value_of(program, step);
    for (const Post& p : step.post) check_post(program, p, out);
    program.steps.push_back(std::move(step));
    program.values.push_back(out);
  }
  for (int64_t i = 0; i < outputs; ++i)
    program.outputs.push_back(r.next(0, int64_t(program.values.size()) - 1, "an output"));
  if (!r.done()) refuse("something follows its end");
  return program;
}

}  // namespace irn
