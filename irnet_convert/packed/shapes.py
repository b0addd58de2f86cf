"""Shapes of a call: from those of the inputs to those of every value. Sizes may be torch.SymInt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from irnet_convert.errors import ArgumentError
from irnet_convert.packed.steps import (
    Add,
    AvgPool,
    BinaryConv,
    BinaryLinear,
    Concat,
    Conv,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Padding,
    Pointwise,
    Program,
    Step,
    Subsample,
    ValueSpec,
)

#: A size; an int, or a torch.SymInt while a graph is being made.
Size = Any
Shape = tuple[Size, ...]
#: Most elements of one value. Far above any image, far below what overflows.
MAX_ELEMENTS = 1 << 40


def infer_shapes(program: Program, inputs: Sequence[Sequence[Size]]) -> list[Shape]:
    """The shape of every value, inputs first.

    Args:
        program: validated.
        inputs: the shapes of a call's inputs.

    Raises:
        ArgumentError: inputs that the program does not take, or that are too small or too large for it.
    """
    if len(inputs) != len(program.inputs):
        raise _refuse(f"{len(inputs)} inputs", f"{len(program.inputs)}")
    shapes = [
        check_input(spec, shape, i)
        for i, (spec, shape) in enumerate(zip(program.inputs, inputs, strict=True))
    ]
    for i, step in enumerate(program.steps):
        where = f"step {i} ({step.kind})"
        shape = _step_shape(step, shapes, program, where)
        for post in step.post:
            if isinstance(post, Add) and shapes[post.value] != shape:
                raise _refuse(f"{where} adds {_show(shapes[post.value])} to {_show(shape)}", "equal shapes")
        _check_size(shape, where)
        shapes.append(shape)
    return shapes


def check_input(spec: ValueSpec, shape: Sequence[Size], index: int) -> Shape:
    """The shape of one input, if the program takes it.

    Raises:
        ArgumentError: another rank or number of channels.
    """
    axis = 1 if spec.layout == "map" else -1
    if len(shape) != spec.rank or shape[axis] != spec.channels:
        want = f"(N, {spec.channels}, H, W)" if spec.layout == "map" else f"(..., {spec.channels})"
        raise _refuse(f"input {index} of shape {_show(shape)}", f"{want}, {spec.rank} dimensions")
    _check_size(tuple(shape), f"input {index}")
    return tuple(shape)


def conv_padding(padding: Padding, size: Sequence[Size], kernel: Sequence[int], stride: Sequence[int],
                 dilation: Sequence[int]) -> tuple[Size, Size, Size, Size]:  # fmt: skip
    """Left, right, top, bottom; for "same" such that ⌈size / stride⌉ places come out.

    Args:
        padding: of the step.
        size: (H, W) of the input.
        kernel: (kH, kW).
        stride: (sH, sW).
        dilation: (dH, dW).
    """
    if padding != "same":
        return padding
    amounts: list[Size] = []
    for axis in (1, 0):
        out = (size[axis] + stride[axis] - 1) // stride[axis]
        total = (out - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1 - size[axis]
        total = torch.sym_max(total, 0)
        amounts += [total // 2, total - total // 2]
    return amounts[0], amounts[1], amounts[2], amounts[3]


def _step_shape(step: Step, shapes: list[Shape], program: Program, where: str) -> Shape:
    if isinstance(step, Concat):
        return _concat_shape([shapes[i] for i in step.inputs], 1 if step.layout == "map" else -1, where)
    x = shapes[step.input]
    if isinstance(step, BinaryConv | Conv):
        return _conv_shape(step, x, program, where)
    if isinstance(step, BinaryLinear | Linear):
        return (*x[:-1], program.constants[step.weight].shape[0])
    if isinstance(step, MaxPool | AvgPool):
        dilation = step.dilation if isinstance(step, MaxPool) else (1, 1)
        sizes = [
            _pooled(
                x[2 + i], step.kernel[i], step.stride[i], step.padding[i], dilation[i], step.ceil_mode, where
            )
            for i in (0, 1)
        ]
        return (x[0], x[1], *sizes)
    if isinstance(step, GlobalAvgPool):
        return (x[0], x[1], 1, 1) if step.keep_dims else (x[0], x[1])
    if isinstance(step, Flatten):
        if x[1] * x[2] * x[3] != step.features:
            raise _refuse(
                f"{where}: a map of {_show(x[1:])} where the recorded input gave {step.features} features",
                "an image of the size that the model was packed for",
            )
        return (x[0], step.features)
    if isinstance(step, Subsample):
        high, wide = ((x[2 + i] + step.stride[i] - 1) // step.stride[i] for i in (0, 1))
        return (x[0], step.before + x[1] + step.after, high, wide)
    assert isinstance(step, Pointwise)
    return x


def _concat_shape(parts: list[Shape], axis: int, where: str) -> Shape:
    first = parts[0]
    axis %= len(first)
    for part in parts[1:]:
        if any(part[i] != first[i] for i in range(len(first)) if i != axis):
            raise _refuse(
                f"{where} joins {' and '.join(_show(p) for p in parts)}", "equal sizes but for channels"
            )
    total = sum(p[axis] for p in parts)
    return (*first[:axis], total, *first[axis + 1 :])


def _conv_shape(step: BinaryConv | Conv, x: Shape, program: Program, where: str) -> Shape:
    out, _, *kernel = program.constants[step.weight].shape
    left, right, top, bottom = conv_padding(step.padding, x[2:], kernel, step.stride, step.dilation)
    for size, amounts in ((x[3], (left, right)), (x[2], (top, bottom))):
        most = {"reflect": size - 1, "circular": size}.get(step.pad_mode)
        if most is not None and any(a > most for a in amounts):
            raise _refuse(
                f"{where} pads {size} places by {max(amounts)} ({step.pad_mode})", f"at most {most}"
            )
    padded = (x[2] + top + bottom, x[3] + left + right)
    sizes = []
    for i in (0, 1):
        room = padded[i] - (kernel[i] - 1) * step.dilation[i] - 1
        if room < 0:
            raise _refuse(f"{where}: a kernel of {tuple(kernel)} on a map of {_show(x)}", "a larger input")
        sizes.append(room // step.stride[i] + 1)
    return (x[0], out, *sizes)


def _pooled(
    size: Size, kernel: int, stride: int, padding: int, dilation: int, ceil: bool, where: str
) -> Size:
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if room < 0 and not (ceil and room + stride - 1 >= 0):
        raise _refuse(f"{where}: a window of {kernel} on {size} places", "a larger input")
    out = (room + (stride - 1 if ceil else 0)) // stride + 1
    # As PyTorch: the last window must start inside the input or its left padding.
    if ceil and (out - 1) * stride >= size + padding:
        out = out - 1
    return out


def _check_size(shape: Shape, where: str) -> None:
    total = 1
    for size in shape:
        if isinstance(size, int):
            total *= size
    if total > MAX_ELEMENTS:
        raise _refuse(f"{where} has the shape {_show(shape)}", f"at most {MAX_ELEMENTS} elements")


def _show(shape: Sequence[Size]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"


def _refuse(given: str, expected: str) -> ArgumentError:
    return ArgumentError(
        given, expected=expected, mend="pass an input of the shape that the packed model was made for"
    )
