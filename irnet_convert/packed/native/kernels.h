// What a plan hands to the kernels of an instruction set: jobs over plain memory.
//
// Inside a plan every tensor is channels last with a border (padding) around it, in one of five forms:
//   real   float32
//   signs  float32 that holds +1 and -1; for the few binary layers that are computed as real ones
//   ints   int16, quantised image by image; the scales of the images follow the tensor
//   bytes  the same in 8 bits, as uint8 with 128 for 0
//   bits   units of Kernels::unit_bits channels, bit 1 = +1; bits behind the last channel are 0
//
// Included by files that are compiled for different processors: nothing here may be a function that the
// linker could take from any of them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace irn {

enum class PostKind : int64_t {
  kAffine, kAdd, kClamp, kPrelu, kHardswish, kHardsigmoid, kSilu, kGelu, kGeluTanh, kSigmoid, kTanh, kEnd
};

// A channels-last tensor: bytes from one image, row and pixel to the next; base is pixel (0, 0, 0), inside
// the border. A view that is absent has base == nullptr.
struct View {
  uint8_t* base = nullptr;
  int64_t n = 0, y = 0, x = 0;
  [[gnu::always_inline]] uint8_t* at(int64_t in, int64_t iy, int64_t ix) const { return base + in * n + iy * y + ix * x; }
};

struct PostOp {
  PostKind kind;
  const float* a;
  const float* b;
  float lo, hi;
  View value;  // what kAdd adds
};

// What follows an accumulator, and where the result goes: to any of the three forms. First what nearly every
// layer has, as far as it is there: y = y * scale + shift, then y + add, then a PReLU, then a clamp; then any other
// post. A PReLU (see Bend in finish.h) may have a multiply-add before it, beside the first one, and one behind it.
struct Epilogue {
  const float* scale = nullptr;
  const float* shift = nullptr;
  View add;
  const float *before_scale = nullptr, *before_shift = nullptr;
  const float* slope = nullptr;
  const float *after_scale = nullptr, *after_shift = nullptr;
  bool clamp = false;
  float lo = -__builtin_inff(), hi = __builtin_inff();  // what they are where there is no clamp
  const PostOp* post = nullptr;
  int64_t posts = 0;
  View real, signs, bits;
  const float *turn_scale = nullptr, *turn_shift = nullptr;  // bits of y * turn_scale + turn_shift, beside the real form
};

// Pixels of a result, flattened: index = (n * h + y) * w + x.
struct Grid {
  int64_t h, w;
};

// A stretch of steps that is contiguous in a channels-last buffer, such as one row of a kernel.
struct Segment {
  int64_t offset;  // from the pixel's first unit, in units; of what lies aside from the first of that
  int32_t steps;
  int32_t flush;  // 1: narrow sums could overflow after this one
  bool aside = false;  // its steps are of what ConvJob::aside names
};

// Output channels that are computed together.
struct Block {
  int64_t channel;  // the first one
  int64_t count;    // how many are real; the rest of the vectors is filled up
  int64_t vectors;
  int64_t weights;  // where its weights start, in elements
  int64_t group;    // whose input channels it reads
};

// A stretch of segments whose counts fit in 16 bits; nearly always one for all.
struct Epoch {
  int64_t first, last;  // segments
  int64_t step;         // steps before it
};

struct ConvJob {
  View in;  // base: where the window of output pixel (0, 0, 0) starts; y, x: strides times the step's
  int64_t group_units;
  Grid grid;
  int64_t pixels, chunk;  // chunk: pixels that are worked on for all blocks before the next ones
  const Segment* segments;
  const Epoch* epochs;
  int64_t n_epochs;
  const Block* blocks;
  int64_t n_blocks, panel;  // panel: blocks that are worked on for each tile of pixels, from the cache
  const uint8_t* weights;
  // bits: accumulator = bias - 2 * count. The bias depends on which taps of a pixel fall on zero padding:
  // on the classes of its row and its column.
  const int32_t* bias;
  const int32_t* row_class;
  const int32_t* column_class;
  int64_t column_classes, bias_stride;
  const int32_t* start;      // bits: -bias / 2, where all are even, else nullptr; see whole.h. bytes: see tile.h
  const float* minus_twice;  // -2 scale
  const float* scales;  // ints: of each image
  const int64_t* aside;  // bytes: those at the ends of kernel rows that fill no four, from the window's start
  int64_t n_aside;
  Epilogue epilogue;
};

// A real convolution by minimal filtering along rows; see winograd.h.
struct WinogradJob {
  ConvJob plain;          // the same, for numbers that are too large for it
  int64_t kernel_rows, stride;  // of rows
  int64_t line, row;      // bytes from one row of the input to the next; numbers of a row that windows read
  int64_t cell, tiles;    // numbers of a cell; tiles of four outputs in a row
  const uint8_t* plainly;  // of each image: whether it takes the plain sum
  int64_t band, bands;    // rows of outputs that are worked on together, and how many bands an image has
  const float* weights;   // [block][point][step][channel]
};
constexpr int64_t kScratch = 1 << 15;  // floats of a band's transformed rows
// From one point of a tile to the next: whole vectors.
[[gnu::always_inline]] inline int64_t filtered_plane(int64_t numbers, int64_t lanes) {
  return (numbers + lanes - 1) / lanes * lanes;
}
constexpr float kModerate = 0x1p16f;  // of an image's numbers

// Depthwise convolution of reals: weights [tap][channels], channels as in the epilogue's constants.
struct DepthwiseJob {
  View in;
  Grid grid;
  int64_t channels;
  const int64_t* taps;  // their offsets from the window's start, in bytes
  int64_t n_taps;
  const float* weights;
  int64_t tap_stride;  // floats
  Epilogue epilogue;
};

struct PoolJob {
  View in;
  Grid grid;
  int64_t h, w, channels;  // of the input
  int64_t kernel[2], stride[2], pad[2], dilation[2];  // y, x
  bool max, count_include_pad;
  Epilogue epilogue;
};

// A convolution, and the pooling that alone reads it; each image in parts.
enum class Product { kWinograd, kReal, kInts, kBytes };
struct PooledJob {
  Product product;
  WinogradJob conv;  // of other products plain and band alone
  PoolJob pool;
  int64_t parts;
};

// Quantises each image of a real tensor: s = max|x| / top, q = rint(x / s); see Conv in packed/steps.py.
// Any strided float tensor. Its channels are few, or those of a row of pixels lie one behind the other without gaps.
struct QuantiseJob {
  const float* in;
  int64_t n, c, y, x;  // strides, in floats
  View out;
  int64_t h, w, channels;
  float top;
  bool bytes;
  float* scales;
};

// Takes any strided float tensor to channels [first, first + channels) of a result.
struct MoveJob {
  const float* in;
  int64_t n, c, y, x;  // strides, in floats
  Grid grid;
  int64_t first, channels;
  Epilogue epilogue;
};

// Takes a channels-last real tensor to any strided float tensor.
struct ExportJob {
  View in;
  Grid grid;
  int64_t channels;
  float* out;
  int64_t n, c, y, x;  // strides, in floats
};

// How weights are laid out for a core.
struct CoreShape {
  int64_t lanes, vectors, narrow;  // a block has `vectors`, `narrow` or 1 vectors of `lanes` channels
  int64_t unit_bytes, weight_bytes, unit_bits, step, max_steps, max_total;  // step: units a step
  bool begins;  // sums can begin at any integer
};

// What an instruction set provides. Ranges are of pixels, for convolutions of items.
struct Kernels {
  const char* name;
  CoreShape bits, real, ints, bytes;  // bytes: no lanes where there are no kernels for them
  // Puts a weight unit of `unit_bits` bits, or a float, at its lane.
  void (*put_bits)(uint8_t* vector, int64_t lane, uint32_t unit);
  void (*conv_bits)(const ConvJob&, int64_t begin, int64_t end);
  void (*conv_real)(const ConvJob&, int64_t begin, int64_t end);
  void (*conv_ints)(const ConvJob&, int64_t begin, int64_t end);
  void (*conv_bytes)(const ConvJob&, int64_t begin, int64_t end);
  bool (*moderate)(const WinogradJob&, int64_t image);               // whether it may be filtered
  void (*winograd)(const WinogradJob&, int64_t begin, int64_t end);  // of bands
  void (*pooled)(const PooledJob&, int64_t begin, int64_t end);          // of parts
  void (*depthwise)(const DepthwiseJob&, int64_t begin, int64_t end);
  void (*pool)(const PoolJob&, int64_t begin, int64_t end);
  void (*move)(const MoveJob&, int64_t begin, int64_t end);
  void (*quantise)(const QuantiseJob&, int64_t begin, int64_t end);  // of images
  void (*export_)(const ExportJob&, int64_t begin, int64_t end);
  double (*measure)(int64_t repeats);  // binary multiply-adds of so many rounds, run
};

// ConvJob::n_aside at most; whole steps.
constexpr int64_t kMostAside = 16;

// Channels of an image, as opposed to a map.
constexpr int64_t kFewChannels = 16;

// Vectors of floats behind the end of channel constants and tensors that may be read (never used).
constexpr int64_t kSlack = 64;

// nullptr where the build or the processor lacks the instruction set.
const Kernels* kernels_of(int isa);

}  // namespace irn
