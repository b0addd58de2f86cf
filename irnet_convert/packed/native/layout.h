// The part of a plan that depends on the shapes of a call: sizes, borders, where each tensor lies in the
// workspace, and the tables of the convolutions.
#pragma once
#include <memory>
#include <vector>

#include "prepare.h"

namespace irn {

using Shape = std::vector<int64_t>;

// One form of one value, in the workspace.
struct Tensor {
  Form form;
  int64_t pad[4] = {0, 0, 0, 0};  // left, right, top, bottom: the most that any reader wants
  int64_t pixel = 0;              // bytes of a pixel
  int64_t bytes = 0, offset = 0;
  int64_t scales = 0;             // ints: where the images' scales start
  int64_t first = 0, last = 0;  // the steps (inputs 0, step i is i + 1) between which it is alive
  bool direct = false;          // written by its step, or by another for it; else a copy of the real form
  bool gives = false;           // an output that nothing else reads: may be written where it is wanted
  Tensor* over = nullptr;       // what it takes the place of, number by number
};

struct Sizes {
  int64_t n = 1, h = 1, w = 1, c = 1;
  int64_t pixels() const { return n * h * w; }
};

struct ValueLayout {
  Shape shape;
  Sizes sizes;
  std::vector<Tensor> tensors;
  bool quantised_alone = false;  // an image of which integers are read and nothing else: made of what is given
  int64_t turned = -1;      // the value whose bits the step writes too, if any: join.cpp
  bool by_another = false;  // such a value
  const Tensor* find(Form form) const;
  Tensor* find(Form form) { return const_cast<Tensor*>(static_cast<const ValueLayout*>(this)->find(form)); }
};

// The tables of one convolution; see ConvJob.
struct ConvLayout {
  int64_t pad[4] = {0, 0, 0, 0};
  std::vector<Segment> segments;
  std::vector<Epoch> epochs;
  std::vector<int32_t> row_class, column_class;
  int64_t column_classes = 1;
  Memory bias, start;
  std::vector<int64_t> taps, aside;
  int64_t filter_tiles = 0, filter_band = 0;  // for a WinogradJob; 0 where it does not pay
  bool pooled = false;                        // it and the pooling behind it are one PooledJob
};

struct Layout {
  std::vector<Shape> inputs;
  std::vector<ValueLayout> values;
  std::vector<ConvLayout> convs;  // one for each step; empty for other steps
  int64_t workspace = 0;
  Layout* next = nullptr;
};

// Shapes of all values, inputs first; refuses inputs that the program does not take.
std::vector<Shape> infer_shapes(const Program& program, const std::vector<Shape>& inputs);

// Where steps are one: join.cpp. After all sizes are known, before tensors have places.
void join(Layout& layout, const Program& program, const std::vector<Prepared>& prepared, const Kernels& kernels);

// What "same" or explicit padding amounts to: left, right, top, bottom.
void conv_padding(const Step& step, const Shape& input, int64_t (&pad)[4]);

std::unique_ptr<Layout> lay_out(const Program& program, const std::vector<Prepared>& prepared,
                                const Kernels& kernels, std::vector<Shape> inputs);

View strides_of(const Tensor& tensor, const Sizes& sizes);  // no base
View view_of(const Tensor& tensor, const Sizes& sizes, uint8_t* workspace);

// Writes the border of a tensor whose inside is written; border.cpp.
void fill_border(const Tensor& tensor, const Sizes& sizes, uint8_t* workspace);

}  // namespace irn
