// The borders of tensors: zeros, or copies of what lies inside.
#include <cstring>

#include "layout.h"

namespace irn {
namespace {

// The pixel that a border pixel repeats.
int64_t mirrored(PadMode mode, int64_t i, int64_t size) {
  if (mode == PadMode::kReflect) return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i;
  if (mode == PadMode::kReplicate) return i < 0 ? 0 : i >= size ? size - 1 : i;
  return (i + size) % size;
}

}  // namespace

void fill_border(const Tensor& t, const Sizes& s, uint8_t* workspace) {
  View v = view_of(t, s, workspace);
  bool zeros = t.form.mode == PadMode::kZeros;
  auto fill = [&](int64_t n, int64_t y, int64_t x, int64_t count) {  // a stretch of one row
    uint8_t* to = v.at(n, y, x);
    if (zeros) {
      std::memset(to, t.form.kind == FormKind::kBytes ? 128 : 0, size_t(count * t.pixel));
      return;
    }
    for (int64_t i = x; i < x + count; ++i, to += t.pixel)
      std::memcpy(to, v.at(n, mirrored(t.form.mode, y, s.h), mirrored(t.form.mode, i, s.w)), size_t(t.pixel));
  };
  for (int64_t n = 0; n < s.n; ++n)
    for (int64_t y = -t.pad[2]; y < s.h + t.pad[3]; ++y) {
      bool inside = y >= 0 && y < s.h;
      if (!inside) fill(n, y, -t.pad[0], t.pad[0] + s.w + t.pad[1]);
      if (inside && t.pad[0]) fill(n, y, -t.pad[0], t.pad[0]);
      if (inside && t.pad[1]) fill(n, y, s.w, t.pad[1]);
    }
}

}  // namespace irn
