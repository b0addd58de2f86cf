"""A program as the list of int64 that the native code reads; ``native/program.h`` says how it is laid out."""

from __future__ import annotations

import math
import struct
from typing import get_args

from irnet_convert.native import INTERFACE_VERSION
from irnet_convert.packed.blob import offsets
from irnet_convert.packed.steps import (
    Activation,
    Add,
    Affine,
    AvgPool,
    BinaryConv,
    BinaryLinear,
    Clamp,
    Concat,
    ConstSpec,
    Conv,
    DType,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    PadMode,
    Pointwise,
    Post,
    Prelu,
    Program,
    Step,
    Subsample,
    ValueSpec,
    inputs_of,
)

_KINDS = (BinaryConv, Conv, BinaryLinear, Linear, MaxPool, AvgPool, GlobalAvgPool, Flatten, Subsample, Concat,
          Pointwise)  # fmt: skip
_POSTS = ("affine", "add", "clamp", "prelu", "hardswish", "hardsigmoid", "silu", "gelu", "gelu_tanh",
          "sigmoid", "tanh")  # fmt: skip
_DTYPES = get_args(DType)
_PAD_MODES = get_args(PadMode)


def encode(program: Program) -> list[int]:
    """The code of a program.

    Args:
        program: validated.
    """
    code = [INTERFACE_VERSION, len(program.inputs), len(program.constants), len(program.steps),
            len(program.outputs)]  # fmt: skip
    for spec in program.inputs:
        code += _value(spec)
    for spec, offset in zip(program.constants, offsets(program)[0], strict=True):
        code += _constant(spec, offset)
    for step in program.steps:
        code += _step(step, program)
    return code + list(program.outputs)


def _value(spec: ValueSpec) -> list[int]:
    return [int(spec.layout == "rows"), spec.channels, spec.rank]


def _constant(spec: ConstSpec, offset: int) -> list[int]:
    rank = len(spec.shape)
    return [_DTYPES.index(spec.dtype), offset, rank, *spec.shape, *[0] * (4 - rank)]


def _step(step: Step, program: Program) -> list[int]:
    conv = isinstance(step, BinaryConv | Conv)
    pool = isinstance(step, MaxPool | AvgPool)
    weight = step.weight if conv or isinstance(step, BinaryLinear | Linear) else -1
    stride = step.stride if conv or pool or isinstance(step, Subsample) else (1, 1)
    dilation = step.dilation if conv or isinstance(step, MaxPool) else (1, 1)
    kernel, padding, same = (1, 1), (0, 0, 0, 0), False
    if conv:
        kernel = program.constants[step.weight].shape[2:]
        same = step.padding == "same"
        padding = padding if step.padding == "same" else step.padding
    elif pool:
        kernel, (y, x) = step.kernel, step.padding
        padding = (x, x, y, y)
    posts = [_post(p) for p in step.post]
    return [
        _KINDS.index(type(step)), len(inputs_of(step)), *inputs_of(step), weight, *stride, *dilation, *kernel,
        *padding, int(same), _PAD_MODES.index(step.pad_mode) if conv else 0, step.groups if conv else 1,
        int(pool and step.ceil_mode), int(isinstance(step, AvgPool) and step.count_include_pad),
        int(isinstance(step, GlobalAvgPool) and step.keep_dims),
        step.features if isinstance(step, Flatten) else 0,
        step.before if isinstance(step, Subsample) else 0,
        step.after if isinstance(step, Subsample) else 0,
        (step.input_bits or 0) if isinstance(step, Conv) else 0,
        len(posts), *(i for p in posts for i in p),
    ]  # fmt: skip


def _post(post: Post) -> list[int]:
    if isinstance(post, Affine):
        return [_POSTS.index("affine"), post.scale, post.shift, 0, 0]
    if isinstance(post, Add):
        return [_POSTS.index("add"), post.value, 0, 0, 0]
    if isinstance(post, Prelu):
        return [_POSTS.index("prelu"), post.slope, 0, 0, 0]
    if isinstance(post, Clamp):
        return [_POSTS.index("clamp"), 0, 0, _bits(post.min), _bits(post.max)]
    assert isinstance(post, Activation)
    return [_POSTS.index(post.name), 0, 0, 0, 0]


def _bits(bound: float | None) -> int:
    """The bits of a double; NaN where there is no bound."""
    return struct.unpack("<q", struct.pack("<d", math.nan if bound is None else bound))[0]
