// From the tables of a plan to jobs for the kernels; run.cpp runs them.
#pragma once
#include <vector>

#include "plan.h"

namespace irn {

constexpr Form kPlain = {FormKind::kReal, PadMode::kZeros};

// A tensor, in the workspace or where it was given a place.
View place(const Call& call, const ValueLayout& v, const Tensor& t);
View view(const Call& call, int64_t value, Form form);
// The real form of a value, whatever its border holds.
View real_view(const Call& call, int64_t value);

void set_view(Epilogue& e, FormKind kind, const View& view);
// Of all forms of a value that a step writes itself, or of all others.
void add_views(const Call& call, const ValueLayout& v, bool direct, Epilogue& e);

Grid grid_of(const Sizes& s);
MoveJob move_from(const View& in, const Sizes& s);
// from: where the real numbers are.
QuantiseJob quantise_job(const Call& call, const ValueLayout& v, const Tensor& t, const MoveJob& from);

// Of step `index`, with results where `out` says. plainly: filled in, and referred to by the job.
ConvJob conv_job(const Call& call, size_t index, const Output& out);
WinogradJob winograd_job(const Call& call, size_t index, const ConvJob& plain, std::vector<uint8_t>& plainly);
DepthwiseJob depthwise_job(const Call& call, size_t index, const Output& out);
PoolJob pool_job(const Call& call, size_t index, const Output& out);
// Of it and the pooling behind it; see pooled() in winograd.h.
PooledJob pooled_job(const Call& call, size_t index, const Output& conv, const Output& pool,
                     std::vector<uint8_t>& plainly);

}  // namespace irn
