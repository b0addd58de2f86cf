"""Every step in plain PyTorch, on any device: the definition that the native kernels are held to.

Binary accumulators are exact integers, and an affine is one fused multiply-add, so both have one right
result. Sums of real convolutions, linear layers and means may be taken in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from irnet_convert.binary import sign
from irnet_convert.packed.blob import constant
from irnet_convert.packed.check import specs_of
from irnet_convert.packed.shapes import conv_padding, infer_shapes
from irnet_convert.packed.steps import (
    Activation,
    Add,
    Affine,
    AvgPool,
    BinaryConv,
    BinaryLinear,
    Clamp,
    Concat,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Pointwise,
    Post,
    Prelu,
    Program,
    Step,
    Subsample,
)

#: What :class:`Activation` names.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


def run_reference(program: Program, blob: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run a program.

    Args:
        program: validated.
        blob: its constants (``blob.py``), on the device of the inputs.
        inputs: float32, of the layouts that the program says, any memory format.

    Returns:
        The outputs, float32, contiguous; none shares memory with an input or another output.

    Raises:
        ArgumentError: shapes that the program does not take.
    """
    infer_shapes(program, [x.shape for x in inputs])
    values = list(inputs)
    for index in range(len(program.steps)):
        values.append(_run_step(index, values, program, blob))
    return [values[i].clone(memory_format=torch.contiguous_format) for i in program.outputs]


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a·b + c of float32 tensors, rounded once to float32, as a fused multiply-add does.

    The product of two float32 is exact in float64, their sum with c is not. Rounding it to float64 and then
    to float32 could round twice the same way; so the float64 sum is rounded to odd: where it was inexact
    (the error term of Knuth's TwoSum is not 0) and its last bit is 0, it moves to the neighbour on the side
    of the error. With 53 >= 2·24 + 2 bits the second rounding is then that of the exact sum (Boldo and
    Melquiond, Emulation of FMA and correctly rounded sums, IEEE ToC 2008).
    """
    product, c = a.double() * b.double(), c.double()
    total = product + c
    back = total - product
    error = (product - (total - back)) + (c - back)
    even = (total.view(torch.int64) & 1) == 0
    inexact = torch.isfinite(total) & (error != 0) & even
    side = torch.where(error > 0, torch.inf, -torch.inf).to(total.dtype)
    return torch.where(inexact, torch.nextafter(total, side), total).float()


def _run_step(index: int, values: list[Tensor], program: Program, blob: Tensor) -> Tensor:
    step = program.steps[index]
    y = _accumulate(step, values, program, blob)
    axis = 1 if specs_of(program)[len(program.inputs) + index].layout == "map" else -1
    for post in step.post:
        y = _post(post, y, axis, values, program, blob)
    return y


def _accumulate(step: Step, values: list[Tensor], program: Program, blob: Tensor) -> Tensor:
    if isinstance(step, Concat):
        return torch.cat([values[i] for i in step.inputs], 1 if step.layout == "map" else -1)
    x = values[step.input]
    if isinstance(step, BinaryConv | Conv):
        weight = constant(program, blob, step.weight)
        if isinstance(step, BinaryConv):
            # Integers up to 2^24 are exact in float32; rounding removes what a Winograd kernel leaves.
            return _conv(sign(x), weight, step).round()
        return _conv(x, weight, step) if step.input_bits is None else _quantised(x, weight, step)
    if isinstance(step, BinaryLinear):
        return F.linear(sign(x), constant(program, blob, step.weight)).round()
    if isinstance(step, Linear):
        return F.linear(x, constant(program, blob, step.weight))
    if isinstance(step, MaxPool):
        return F.max_pool2d(x, step.kernel, step.stride, step.padding, step.dilation, step.ceil_mode)
    if isinstance(step, AvgPool):
        return F.avg_pool2d(x, step.kernel, step.stride, step.padding, step.ceil_mode, step.count_include_pad)
    if isinstance(step, GlobalAvgPool):
        return x.mean((2, 3), keepdim=step.keep_dims)
    if isinstance(step, Flatten):
        return x.flatten(1)
    if isinstance(step, Subsample):
        taken = x[:, :, :: step.stride[0], :: step.stride[1]]
        return F.pad(taken, (0, 0, 0, 0, step.before, step.after))
    assert isinstance(step, Pointwise)
    return x


def _conv(x: Tensor, weight: Tensor, step: BinaryConv | Conv) -> Tensor:
    amounts = conv_padding(step.padding, x.shape[2:], weight.shape[2:], step.stride, step.dilation)
    if any(amounts):
        mode = "constant" if step.pad_mode == "zeros" else step.pad_mode
        x = F.pad(x, amounts, mode=mode)
    if x.shape[1] == 1:
        # Strides of channels last, which contiguous() keeps if there is one channel: with them oneDNN (torch
        # 2.15, CPU) has other numbers where a row holds one window and the stride is more than 1.
        x, weight = (t.flatten().view(t.shape) for t in (x, weight))
    return F.conv2d(x, weight, None, step.stride, 0, step.dilation, step.groups)


def _quantised(x: Tensor, weight: Tensor, step: Conv) -> Tensor:
    assert step.input_bits is not None
    top = (1 << (step.input_bits - 1)) - 1
    # amax over no element is an error; an empty image has nothing to quantise.
    largest = x.abs().flatten(1).amax(1) if x[0:1].numel() else x.new_zeros(len(x))
    s = (largest / top).reshape(-1, 1, 1, 1)
    # More than top only where s is subnormal, and rounded itself.
    q = torch.where(s > 0, (x / s).round().clamp(-top, top), 0.0)
    # The integer sum is below 2^31: exact in float64, rounded to float32 once.
    total = _conv(q.double(), weight.double(), step).round().float()
    return torch.where(torch.isfinite(s), total * s, torch.nan)


def _post(post: Post, y: Tensor, axis: int, values: list[Tensor], program: Program, blob: Tensor) -> Tensor:
    def per_channel(index: int) -> Tensor:
        vector = constant(program, blob, index)
        return vector.reshape(-1, 1, 1) if axis == 1 else vector

    if isinstance(post, Affine):
        return fma(y, per_channel(post.scale), per_channel(post.shift))
    if isinstance(post, Add):
        return y + values[post.value]
    if isinstance(post, Clamp):
        return y.clamp(post.min, post.max)
    if isinstance(post, Prelu):
        return torch.where(y > 0, y, y * per_channel(post.slope))
    assert isinstance(post, Activation)
    return ACTIVATIONS[post.name](y)
