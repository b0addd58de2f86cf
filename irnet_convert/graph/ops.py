"""Names of operators (without overload and in-place mark), by what they do to a value."""

from __future__ import annotations

#: Operators that compute a convolution or a product with a weight; with a parameter among their
#: inputs they stand between a layer and the model's input or output like a layer call does.
WEIGHTED = {
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum",
}  # fmt: skip

NORMS = {
    "batch_norm", "native_batch_norm", "cudnn_batch_norm", "group_norm", "layer_norm", "native_layer_norm",
    "native_group_norm", "instance_norm", "rms_norm",
}  # fmt: skip

#: The result holds a subset or a rearrangement of the first argument's elements.
REARRANGE = {
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "numpy_T", "unsqueeze", "squeeze",
    "expand", "expand_as", "slice", "select", "chunk", "split", "split_with_sizes", "tensor_split", "unbind",
    "contiguous", "clone", "detach", "alias", "repeat", "repeat_interleave", "roll", "movedim", "_to_copy",
    "to", "type_as", "narrow", "unfold", "im2col", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "swapaxes", "view_as", "reshape_as", "_reshape_alias", "lift_fresh", "_unsafe_view", "as_strided", "flip",
    "index", "index_select", "gather",
}  # fmt: skip

#: Random zeroing and rescaling by a positive factor.
DROP = {"dropout", "alpha_dropout", "feature_dropout", "native_dropout"}

#: A convex or non-negative combination of elements of the first argument.
POOL = {
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
    "adaptive_max_pool1d", "adaptive_max_pool2d", "_adaptive_avg_pool2d", "mean", "sum", "amax", "amin",
    "max", "min", "lp_pool2d",
}  # fmt: skip

RESAMPLE = ("upsample_", "_upsample_", "grid_sampler")

#: Reductions over positions that start a squeeze-excite branch.
SQUEEZE = {"mean", "sum", "adaptive_avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool3d", "avg_pool2d",
            "adaptive_max_pool2d", "amax", "max", "std", "var", "std_mean", "var_mean", "norm",
            "linalg_vector_norm"}  # fmt: skip

#: Never negative, whatever the input.
NON_NEGATIVE = {
    "relu", "relu6", "sigmoid", "hardsigmoid", "softmax", "_softmax", "abs", "exp", "exp2", "softplus",
    "sqrt", "rsqrt", "square", "bernoulli", "rand", "var", "std", "norm", "linalg_vector_norm", "one_hot",
}  # fmt: skip

#: Of one argument, and not negative where that is not.
KEEPS_SIGN = {
    "gelu", "silu", "hardswish", "leaky_relu", "elu", "celu", "selu", "mish", "prelu", "tanh", "softsign",
    "erf", "atan", "asinh", "log1p", "expm1", "floor", "ceil", "round", "trunc", "sign", "reciprocal",
    "nan_to_num", "cumsum", "prod", "hardshrink", "softshrink", "tanhshrink",
}  # fmt: skip

#: Not negative if no operand is.
COMBINES = {"add", "mul", "div", "matmul", "mm", "bmm", "minimum"}


#: What an identity path of a residual trunk may pass on its way to the output.
TRUNK = REARRANGE - {"index", "index_select", "gather"} | DROP | POOL | NORMS | {
    "add", "mul", "cat", "stack", "relu", "relu6", "gelu", "silu", "hardtanh", "hardswish", "leaky_relu",
    "elu",
    "prelu", "mish", "tanh", "pad", "constant_pad_nd", "clamp", "clamp_min", "div",
}  # fmt: skip
