"""A program's steps as OpenVINO operators. Sizes are fixed: the CPU's BinaryConvolution takes no others.

The sign is a FakeQuantize of two levels: bit 1 where x > t, and with t the largest negative number that is x
>= 0; false for NaN, except in the plugin's kernels for AVX-512. With outputs 0 and 1 the CPU plugin writes
bits, which BinaryConvolution reads as −1 and +1; its own sign would be −1 at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset1, opset14
from torch import Tensor

from irnet_convert.errors import PackError
from irnet_convert.packed.blob import constant
from irnet_convert.packed.check import check_program
from irnet_convert.packed.shapes import Shape, conv_padding, infer_shapes
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
    ValueSpec,
)
from irnet_convert.packed.windows import ends, recount

#: The largest negative float32: x > it is x >= 0.
_BELOW_ZERO = float(np.float32(-1.4e-45))
_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}
_PLAIN = {
    "hardswish": opset14.hswish, "hardsigmoid": opset14.hsigmoid, "silu": opset14.swish,
    "sigmoid": opset14.sigmoid, "tanh": opset14.tanh,
    "gelu": lambda x: opset14.gelu(x, "erf"), "gelu_tanh": lambda x: opset14.gelu(x, "tanh"),
}  # fmt: skip

Node = Any


class Operators:
    """The operators of one program for inputs of fixed shapes.

    Args:
        program: validated.
        blob: its constants.
        inputs: one node for each of the program's inputs.
        shapes: their shapes.

    Attributes:
        outputs: a node for each of the program's outputs.
    """

    def __init__(
        self, program: Program, blob: Tensor, inputs: Sequence[Node], shapes: Sequence[Shape]
    ) -> None:
        self._program, self._blob = program, blob
        self._specs = check_program(program)
        self._shapes = infer_shapes(program, shapes)
        self._values = [node.output(0) for node in inputs]
        self._signs: dict[tuple[int, bool], Node] = {}
        for number, step in enumerate(program.steps, start=len(inputs)):
            node = self._accumulate(step)
            for post in step.post:
                node = self._post(post, node, self._specs[number])
            # Max-pooling has a second output, the indices, so that a node is not enough to name a value.
            self._values.append(node if isinstance(node, ov.Output) else node.output(0))
        self.outputs = [self._values[i] for i in program.outputs]

    def _accumulate(self, step: Step) -> Node:
        if isinstance(step, Concat):
            return opset14.concat([self._values[i] for i in step.inputs], 1 if step.layout == "map" else -1)
        x, shape = self._values[step.input], self._shapes[step.input]
        if isinstance(step, BinaryConv):
            return self._binary_conv(step, shape, self._shapes[len(self._values)])
        if isinstance(step, Conv):
            return self._real_conv(step, x, shape)
        if isinstance(step, BinaryLinear):
            return self._binary_linear(step, x, shape)
        if isinstance(step, Linear):
            return opset14.matmul(x, self._weight(step.weight), False, True)
        if isinstance(step, MaxPool | AvgPool):
            return _pool(step, x, shape[2:], self._shapes[len(self._values)][2:])
        if isinstance(step, GlobalAvgPool):
            return opset14.reduce_mean(x, _ints(2, 3), step.keep_dims)
        if isinstance(step, Flatten):
            return opset14.reshape(x, _ints(-1, step.features), False)
        if isinstance(step, Subsample):
            return _subsample(step, x, shape)
        assert isinstance(step, Pointwise)
        return x

    # -- binary layers

    def _binary_conv(self, step: BinaryConv, shape: Shape, out: Shape) -> Node:
        weight = constant(self._program, self._blob, step.weight)
        amounts = self._amounts(step, weight, shape)
        repeats = step.pad_mode != "zeros" and any(amounts)
        # A padding of bits is no operator of the plugin, nor does it turn what is padded into bits.
        real = repeats or not _is_for_bits(step, weight, shape, out, amounts)
        if not repeats:
            x = self._sign(step.input, bits=not real)
        else:  # the other modes repeat values, so that the sign may come first
            x, amounts = _padded(self._sign(step.input, bits=False), amounts, step.pad_mode), (0, 0, 0, 0)
        if real:
            # The clamp changes nothing; it keeps what follows from being multiplied into the ±1 weights.
            most = float(weight[0].numel())
            return opset14.clamp(_convolution(x, _real_signs(weight), step, amounts), -most, most)
        left, right, top, bottom = amounts
        return opset1.binary_convolution(
            x, _packed(weight), list(step.stride), [top, left], [bottom, right], list(step.dilation),
            "xnor-popcount", 0.0,
        )  # fmt: skip

    def _binary_linear(self, step: BinaryLinear, x: Node, shape: Shape) -> Node:
        weight = constant(self._program, self._blob, step.weight)
        if shape[-1] % 8:
            node = opset14.matmul(self._sign(step.input, bits=False), _real_signs(weight), False, True)
            return opset14.clamp(node, -float(shape[-1]), float(shape[-1]))
        rows = opset14.reshape(x, _ints(-1, shape[-1], 1, 1), False)
        node = opset1.binary_convolution(
            _bits(rows, shape[-1]), _packed(weight[:, :, None, None]), [1, 1], [0, 0], [0, 0], [1, 1],
            "xnor-popcount", 0.0,
        )  # fmt: skip
        return opset14.reshape(node, _ints(*shape[:-1], weight.shape[0]), False)

    def _sign(self, value: int, bits: bool) -> Node:
        """The sign of a value, made once however many steps take it."""
        if (value, bits) not in self._signs:
            x = self._values[value]
            self._signs[value, bits] = _bits(x, self._specs[value].channels) if bits else _plus_minus(x)
        return self._signs[value, bits]

    # -- real layers

    def _real_conv(self, step: Conv, x: Node, shape: Shape) -> Node:
        amounts = self._amounts(step, constant(self._program, self._blob, step.weight), shape)
        if step.pad_mode != "zeros":
            x, amounts = _padded(x, amounts, step.pad_mode), (0, 0, 0, 0)
        weight = self._weight(step.weight)
        if step.input_bits is None:
            return _convolution(x, weight, step, amounts)
        top = float((1 << (step.input_bits - 1)) - 1)
        scale = opset14.divide(opset14.reduce_max(opset14.abs(x), _ints(1, 2, 3), True), _floats(top))
        rounded = opset14.round(opset14.divide(x, scale), "half_to_even")
        whole = opset14.select(opset14.greater(scale, _floats(0.0)), rounded, _floats(0.0))
        return opset14.multiply(_convolution(whole, weight, step, amounts), scale)

    def _weight(self, index: int) -> Node:
        """A weight of a real layer as float32; ±1 are kept in a byte each."""
        weight = constant(self._program, self._blob, index)
        if self._program.constants[index].dtype == "bits":
            return _real_signs(weight)
        return opset14.constant(weight.float().numpy())

    def _amounts(self, step: BinaryConv | Conv, weight: Tensor, shape: Shape) -> tuple[int, int, int, int]:
        return conv_padding(step.padding, shape[2:], weight.shape[2:], step.stride, step.dilation)

    # -- what follows an accumulator

    def _post(self, post: Post, y: Node, out: ValueSpec) -> Node:
        if isinstance(post, Affine):
            scaled = opset14.multiply(y, self._per_channel(post.scale, out))
            return opset14.add(scaled, self._per_channel(post.shift, out))
        if isinstance(post, Add):
            return opset14.add(y, self._values[post.value])
        if isinstance(post, Clamp):
            if post.min is None or post.max is None:
                y = y if post.min is None else opset14.maximum(y, _floats(post.min))
                return y if post.max is None else opset14.minimum(y, _floats(post.max))
            return opset14.clamp(y, post.min, post.max)
        if isinstance(post, Prelu):
            bent = opset14.multiply(y, self._per_channel(post.slope, out))
            return opset14.select(opset14.greater(y, _floats(0.0)), y, bent)
        assert isinstance(post, Activation)
        return _PLAIN[post.name](y)

    def _per_channel(self, index: int, out: ValueSpec) -> Node:
        vector = constant(self._program, self._blob, index).numpy()
        return opset14.constant(vector.reshape(1, -1, 1, 1) if out.layout == "map" else vector)


def _is_for_bits(
    step: BinaryConv, weight: Tensor, shape: Shape, out: Shape, amounts: tuple[int, int, int, int]
) -> bool:
    """Whether the CPU plugin's BinaryConvolution is right for this convolution, by trying all that differs.

    It refuses groups, wide kernels and more zeros at a side than it computes places at once (two with
    AVX2); it is wrong for channels that fill no whole bytes, and where a dilated window has its taps on
    both sides of the image and none inside.
    """
    return (
        step.groups == 1
        and shape[1] % 8 == 0
        and weight.shape[3] <= 7
        and max(amounts[:2]) <= min(2, out[3])
        and step.dilation[0] <= max(1, shape[2])
        and step.dilation[1] <= max(1, shape[3])
    )


def _bits(x: Node, channels: int) -> Node:
    """Bit 1 where x >= 0, of a map."""
    below = opset14.constant(np.full((1, channels, 1, 1), _BELOW_ZERO, np.float32))
    zero, one = (opset14.constant(np.full((1, 1, 1, 1), v, np.float32)) for v in (0, 1))
    return opset14.fake_quantize(x, below, below, zero, one, 2)


def _plus_minus(x: Node) -> Node:
    return opset14.select(opset14.greater_equal(x, _floats(0.0)), _floats(1.0), _floats(-1.0))


def _packed(weight: Tensor) -> Node:
    """±1 weights (O, I, kH, kW) as u1: in this order, lowest bit of a byte first."""
    tensor = ov.Tensor(ov.Type.u1, ov.Shape(list(weight.shape)))
    # Its own memory: a tensor made from an array would point into what nobody keeps.
    tensor.data[:] = np.packbits((weight > 0).numpy().reshape(-1), bitorder="little")
    return opset14.constant(tensor)


def _real_signs(weight: Tensor) -> Node:
    return opset14.convert(opset14.constant(weight.numpy().astype(np.int8)), "f32")


def _columns_of_one_channel(x: Node) -> int:
    """The width of a map of one channel; 0 where it has more, or its width is not known."""
    output = x.output(0) if isinstance(x, ov.Node) else x
    _, channels, _, columns = output.get_partial_shape()
    return columns.get_length() if channels == 1 and columns.is_static else 0


def _convolution(x: Node, weight: Node, step: BinaryConv | Conv, amounts: tuple[int, int, int, int]) -> Node:
    height, width = list(weight.shape)[-2:]
    if (height == 1 and max(amounts[2:])) or (width == 1 and max(amounts[:2])):
        raise PackError(
            f"a convolution of {height}×{width} that pads by {amounts}",
            expected="no padding along an axis on which the kernel covers one place: OpenVINO's CPU plugin "
            "has other values than 0 there",
            mend="run the packed network itself, or export_onnx",
        )
    left, right, top, bottom = amounts
    stride = list(step.stride)
    reach, columns = (width - 1) * step.dilation[1] + 1, _columns_of_one_channel(x)
    if columns and left < reach and 0 <= columns + left + right - reach < stride[1] > 1:
        # OpenVINO's CPU plugin reads past a map of one channel for one column of results whose horizontal
        # stride is the larger one. It needs none once the columns behind the kernel are cut off.
        x = opset14.slice(x, _ints(0), _ints(reach - left), _ints(1), _ints(3))
        stride[1], right = 1, max(0, reach - left - columns)
    place = (stride, [top, left], [bottom, right], list(step.dilation))
    if step.groups == 1:
        return opset14.convolution(x, weight, *place)
    out, *rest = weight.shape
    split = opset14.reshape(weight, _ints(step.groups, out // step.groups, *rest), False)
    return opset14.group_convolution(x, split, *place)


def _padded(x: Node, amounts: tuple[int, int, int, int], mode: str) -> Node:
    left, right, top, bottom = amounts
    if mode == "circular":
        for axis, (before, after) in ((2, (top, bottom)), (3, (left, right))):
            parts = [_slice(x, -before, 2**31 - 1, axis)] if before else []
            x = opset14.concat([*parts, x, *([_slice(x, 0, after, axis)] if after else [])], axis)
        return x
    return opset14.pad(x, _ints(0, 0, top, left), _ints(0, 0, bottom, right), _PAD_MODES[mode])


def _slice(x: Node, start: int, stop: int, axis: int) -> Node:
    return opset14.slice(x, _ints(start), _ints(stop), _ints(1), _ints(axis))


def _pool(step: MaxPool | AvgPool, x: Node, before: Shape, after: Shape) -> Node:
    strides, pads, kernel = list(step.stride), list(step.padding), list(step.kernel)
    last = ends(step, before, after)
    if isinstance(step, MaxPool):
        return opset14.max_pool(x, strides, list(step.dilation), pads, last, kernel).output(0)
    y = opset14.avg_pool(x, strides, pads, last, kernel, not step.count_include_pad)
    factors = recount(step, before, after)
    return y if factors is None else opset14.multiply(y, opset14.constant(factors))


def _subsample(step: Subsample, x: Node, shape: Shape) -> Node:
    if step.stride != (1, 1):
        x = opset14.slice(x, _ints(0, 0), _ints(*shape[2:]), _ints(*step.stride), _ints(2, 3))
    if not step.before and not step.after:
        return x
    return opset14.pad(x, _ints(0, step.before, 0, 0), _ints(0, step.after, 0, 0), "constant", _floats(0.0))


def _ints(*numbers: int) -> Node:
    return opset14.constant(np.array(numbers, np.int64))


def _floats(number: float) -> Node:
    return opset14.constant(np.float32(number))
