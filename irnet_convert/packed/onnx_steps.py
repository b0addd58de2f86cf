"""A program's steps as standard ONNX operators. Height and width are fixed, the batch is free.

±1 weights stay packed in the file, eight to a byte, and are unpacked by BitShift and BitwiseAnd, which a
runtime does once, when it loads the file. Binary layers run as real convolutions on ±1; their sums are exact
integers all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from irnet_convert.packed.blob import constant, stored
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

_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "hardswish": ("HardSwish", {}), "hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
    "sigmoid": ("Sigmoid", {}), "tanh": ("Tanh", {}), "gelu": ("Gelu", {}),
    "gelu_tanh": ("Gelu", {"approximate": "tanh"}),
}  # fmt: skip


class Operators:
    """The nodes of one program for inputs of fixed height and width.

    Args:
        program: validated.
        blob: its constants.
        inputs: a name for each of the program's inputs.
        shapes: their shapes; the batch is only an example.

    Attributes:
        nodes: in execution order.
        constants: initializers.
        outputs: a name for each of the program's outputs.
        shapes: of every value, inputs first, for this batch.
    """

    def __init__(
        self, program: Program, blob: Tensor, inputs: Sequence[str], shapes: Sequence[Shape]
    ) -> None:
        self._program, self._blob = program, blob
        self._specs = check_program(program)
        self._values = list(inputs)
        self._signs: dict[int, str] = {}
        self._known: dict[Any, str] = {}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.shapes = infer_shapes(program, shapes)
        for number, step in enumerate(program.steps, start=len(inputs)):
            y = self._accumulate(step)
            for post in step.post:
                y = self._post(post, y, self._specs[number])
            self._values.append(y)
        # An output that is an input, or two outputs that are one value, need a name of their own.
        self.outputs = [self._node("Identity", self._values[i]) for i in program.outputs]

    def _accumulate(self, step: Step) -> str:
        if isinstance(step, Concat):
            parts = [self._values[i] for i in step.inputs]
            return self._node("Concat", *parts, axis=1 if step.layout == "map" else -1)
        x, shape = self._values[step.input], self.shapes[step.input]
        if isinstance(step, BinaryConv):
            # The clip changes nothing; it keeps what follows from being multiplied into the ±1 weights.
            most = float(np.prod(self._program.constants[step.weight].shape[1:]))
            return self._clip(self._conv(step, self._sign(step.input), shape), -most, most)
        if isinstance(step, Conv):
            return self._conv(step, x, shape) if step.input_bits is None else self._quantised(step, x, shape)
        if isinstance(step, BinaryLinear):
            most = float(shape[-1])
            return self._clip(self._linear(step, self._sign(step.input)), -most, most)
        if isinstance(step, Linear):
            return self._linear(step, x)
        if isinstance(step, MaxPool | AvgPool):
            return self._pool(step, x, shape[2:], self.shapes[len(self._values)][2:])
        if isinstance(step, GlobalAvgPool):
            return self._node("ReduceMean", x, self._ints(2, 3), keepdims=int(step.keep_dims))
        if isinstance(step, Flatten):
            return self._node("Flatten", x, axis=1)
        if isinstance(step, Subsample):
            return self._subsample(step, x, shape)
        assert isinstance(step, Pointwise)
        return x

    # -- layers

    def _conv(self, step: BinaryConv | Conv, x: str, shape: Shape) -> str:
        kernel = self._program.constants[step.weight].shape[2:]
        left, right, top, bottom = conv_padding(step.padding, shape[2:], kernel, step.stride, step.dilation)
        if step.pad_mode != "zeros":
            amounts = self._ints(0, 0, top, left, 0, 0, bottom, right)
            x = self._node("Pad", x, amounts, mode=_PAD_MODES[step.pad_mode])
            left = right = top = bottom = 0
        return self._node(
            "Conv", x, self._weight(step.weight), pads=[top, left, bottom, right], group=step.groups,
            strides=list(step.stride), dilations=list(step.dilation), kernel_shape=list(kernel),
        )  # fmt: skip

    def _quantised(self, step: Conv, x: str, shape: Shape) -> str:
        assert step.input_bits is not None
        top = self._floats(float((1 << (step.input_bits - 1)) - 1))
        largest = self._node("ReduceMax", self._node("Abs", x), self._ints(1, 2, 3), keepdims=1)
        scale = self._node("Div", largest, top)
        rounded = self._node("Round", self._node("Div", x, scale))
        some = self._node("Greater", scale, self._floats(0.0))
        whole = self._node("Where", some, rounded, self._floats(0.0))
        return self._node("Mul", self._conv(step, whole, shape), scale)

    def _linear(self, step: BinaryLinear | Linear, x: str) -> str:
        return self._node("MatMul", x, self._node("Transpose", self._weight(step.weight), perm=[1, 0]))

    def _pool(self, step: MaxPool | AvgPool, x: str, before: Shape, after: Shape) -> str:
        place: dict[str, Any] = {
            "kernel_shape": list(step.kernel), "strides": list(step.stride),
            "pads": [*step.padding, *ends(step, before, after)],
        }  # fmt: skip
        if isinstance(step, MaxPool):
            return self._node("MaxPool", x, dilations=list(step.dilation), **place)
        y = self._node("AveragePool", x, count_include_pad=int(step.count_include_pad), **place)
        factors = recount(step, before, after)
        return y if factors is None else self._node("Mul", y, self._array(factors, ("counts", y)))

    def _subsample(self, step: Subsample, x: str, shape: Shape) -> str:
        if step.stride != (1, 1):
            ends, axes = self._ints(*shape[2:]), self._ints(2, 3)
            x = self._node("Slice", x, self._ints(0, 0), ends, axes, self._ints(*step.stride))
        if not step.before and not step.after:
            return x
        amounts = self._ints(0, step.before, 0, 0, 0, step.after, 0, 0)
        return self._node("Pad", x, amounts, self._floats(0.0))

    def _sign(self, value: int) -> str:
        """The sign of a value (+1 where x >= 0, −1 elsewhere), made once however many steps take it."""
        if value not in self._signs:
            above = self._node("GreaterOrEqual", self._values[value], self._floats(0.0))
            self._signs[value] = self._node("Where", above, self._floats(1.0), self._floats(-1.0))
        return self._signs[value]

    # -- what follows an accumulator

    def _post(self, post: Post, y: str, out: ValueSpec) -> str:
        if isinstance(post, Affine):
            return self._affine(post, y, out)
        if isinstance(post, Add):
            return self._node("Add", y, self._values[post.value])
        if isinstance(post, Clamp):
            return self._clip(y, post.min, post.max)
        if isinstance(post, Prelu):
            slope = constant(self._program, self._blob, post.slope).numpy()
            shaped = slope.reshape(-1, 1, 1) if out.layout == "map" else slope
            return self._node("PRelu", y, self._array(shaped, ("slope", post.slope, out.layout)))
        assert isinstance(post, Activation)
        if post.name == "silu":
            return self._node("Mul", y, self._node("Sigmoid", y))
        kind, more = _ACTIVATIONS[post.name]
        return self._node(kind, y, **more)

    def _affine(self, post: Affine, y: str, out: ValueSpec) -> str:
        scale, shift = (
            self._array(constant(self._program, self._blob, i).numpy(), ("f32", i))
            for i in (post.scale, post.shift)
        )
        if out.rank > 2 and out.layout == "rows":
            return self._node("Add", self._node("Mul", y, scale), shift)
        # BatchNormalization with mean 0 and variance 1: one pass instead of two.
        zeros, ones = (np.full(out.channels, v, np.float32) for v in (0, 1))
        mean, var = self._array(zeros, ("zeros", out.channels)), self._array(ones, ("ones", out.channels))
        return self._node("BatchNormalization", y, scale, shift, mean, var, epsilon=0.0)

    def _clip(self, y: str, low: float | None, high: float | None) -> str:
        # An absent end of Clip is the largest float in some runtimes, which infinities do not pass.
        if high is None:
            assert low is not None
            return self._node("Relu", y) if low == 0 else self._node("Max", y, self._floats(low))
        if low is None:
            return self._node("Min", y, self._floats(high))
        return self._node("Clip", y, self._floats(low), self._floats(high))

    # -- constants

    def _weight(self, index: int) -> str:
        """A weight as float32, from what is stored of it."""
        spec = self._program.constants[index]
        if (key := ("weight", index)) in self._known:
            return self._known[key]
        if spec.dtype in ("f32", "bf16"):  # runtimes know little of bfloat16
            name = self._array(constant(self._program, self._blob, index).numpy(), key, spec.name)
        elif spec.dtype == "bits":
            name = self._unpacked(index)
        else:
            raw = self._array(stored(self._program, self._blob, index).numpy(), ("raw", index), spec.name)
            name = self._node("Cast", raw, to=TensorProto.FLOAT)
        self._known[key] = name
        return name

    def _unpacked(self, index: int) -> str:
        """Bits (O, bytes) → ±1, (O, I, kH, kW) or (O, I)."""
        spec = self._program.constants[index]
        out, inputs, *kernel = spec.shape
        raw = stored(self._program, self._blob, index).numpy()[:, :, None]
        places = self._array(np.arange(8, dtype=np.uint8), ("places",))
        one = self._array(np.ones(1, np.uint8), ("one",))
        shifted = self._node(
            "BitShift", self._array(raw, ("raw", index), spec.name), places, direction="RIGHT"
        )
        rows = self._node("Reshape", self._node("BitwiseAnd", shifted, one), self._ints(out, -1))
        length = inputs * int(np.prod(kernel))
        rows = self._node("Slice", rows, self._ints(0), self._ints(length), self._ints(1))
        real = self._node("Cast", rows, to=TensorProto.FLOAT)
        signs = self._node("Sub", self._node("Mul", real, self._floats(2.0)), self._floats(1.0))
        if not kernel:
            return signs
        shaped = self._node("Reshape", signs, self._ints(out, *kernel, inputs))
        return self._node("Transpose", shaped, perm=[0, 3, 1, 2])

    def _array(self, value: np.ndarray, key: Any, name: str | None = None) -> str:
        """An initializer, made once for each key."""
        if key not in self._known:
            self._known[key] = name or f"constant{len(self.constants)}"
            # A copy in C order: numpy_helper would otherwise write another array's memory layout.
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), self._known[key]))
        return self._known[key]

    def _ints(self, *numbers: int) -> str:
        return self._array(np.array(numbers, np.int64), ("ints", *numbers))

    def _floats(self, number: float) -> str:
        return self._array(np.array(number, np.float32), ("float", number))

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name
