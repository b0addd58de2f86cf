"""Random programs with their constants and inputs, for whatever runs programs.

``programs()`` is a hypothesis strategy; ``case_of(program, seed)`` fills in constants and inputs.
(``chosen_cases.py`` has those that are not left to chance, and what compares outputs.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from irnet_convert.packed.blob import TORCH_DTYPES, make_blob, offsets, stored_shape
from irnet_convert.packed.check import check_program
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
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Pointwise,
    Prelu,
    Program,
    Step,
    Subsample,
    ValueSpec,
    constants_of,
)

#: Channel counts around the widths of machine words.
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 12, 16, 20, 31, 32, 33, 48, 63, 64, 65, 80, 96]
ACTIVATIONS = ["hardswish", "hardsigmoid", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh"]


#: A program and the shapes of its inputs.
Made = tuple[Program, list[tuple[int, ...]]]


@dataclass(frozen=True)
class Case:
    """A program that can be run: its constants and inputs."""

    program: Program
    blob: Tensor
    inputs: list[Tensor]


class _Builder:
    """Appends steps whose geometry is right for the shapes so far."""

    def __init__(self, draw: st.DrawFn, exact: bool) -> None:
        self.draw = draw
        self.exact = exact
        self.constants: list[ConstSpec] = []
        self.steps: list[Step] = []
        self.specs: list[ValueSpec] = []
        self.shapes: list[tuple[int, ...]] = []

    def const(self, dtype: str, *shape: int) -> int:
        name = f"c{len(self.constants)}"
        self.constants.append(ConstSpec(name=name, dtype=dtype, shape=shape))  # type: ignore[arg-type]
        return len(self.constants) - 1

    def post(self, spec: ValueSpec, shape: tuple[int, ...]) -> tuple:
        found: list = []
        kinds = ["affine", "affine", "clamp", "prelu", "add"] + ([] if self.exact else ["activation"])
        for kind in self.draw(st.lists(st.sampled_from(kinds), max_size=4)):
            c = spec.channels
            if kind == "affine":
                found.append(Affine(scale=self.const("f32", c), shift=self.const("f32", c)))
            elif kind == "clamp":
                low, high = self.draw(st.sampled_from([(0.0, None), (-1.0, 1.0), (0.0, 6.0), (None, 2.0)]))
                found.append(Clamp(min=low, max=high))
            elif kind == "prelu":
                found.append(Prelu(slope=self.const("f32", self.draw(st.sampled_from([1, c])))))
            elif kind == "activation":
                found.append(Activation(name=self.draw(st.sampled_from(ACTIVATIONS))))  # type: ignore[arg-type]
            else:
                same = [i for i, s in enumerate(self.specs) if s == spec and self.shapes[i] == shape]
                if same:
                    found.append(Add(value=self.draw(st.sampled_from(same))))
        return tuple(found)

    def add(self, make, spec: ValueSpec, shape: tuple[int, ...]) -> None:
        self.steps.append(make(self.post(spec, shape)))
        self.specs.append(spec)
        self.shapes.append(shape)

    def conv(self, i: int) -> None:
        draw, (n, c, h, w) = self.draw, self.shapes[i]
        groups = draw(st.sampled_from([g for g in (1, 2, 3, c) if c % g == 0]))
        out = groups * draw(st.sampled_from([k for k in WIDTHS if k * groups <= 96] or [1]))
        kernel = draw(st.sampled_from([(1, 1), (3, 3), (3, 3), (5, 5), (2, 3), (7, 1)]))
        stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 2), (3, 2)]))
        dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (1, 3)]))
        mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "reflect", "replicate", "circular"]))
        padding = draw(st.sampled_from(["same", (1, 1, 1, 1), (0, 0, 0, 0), (0, 1, 2, 3), (2, 2, 2, 2)]))
        if mode != "zeros":
            padding = (min(1, w - 1), min(1, w - 1), min(1, h - 1), min(1, h - 1))
        reach = [(kernel[a] - 1) * dilation[a] + 1 for a in (0, 1)]
        if padding == "same":
            size = (-(-h // stride[0]), -(-w // stride[1]))
        else:
            room = [h + padding[2] + padding[3] - reach[0], w + padding[0] + padding[1] - reach[1]]
            if min(room) < 0:
                return
            size = (room[0] // stride[0] + 1, room[1] // stride[1] + 1)
        binary = self.exact or draw(st.booleans())
        dtype = "bits" if binary else draw(st.sampled_from(["f32", "f16", "bf16", "bits", "i8", "i16"]))
        weight = self.const(dtype, out, c // groups, *kernel)
        more = {"input_bits": 8} if dtype in ("i8", "i16") else {}
        cls = BinaryConv if binary else Conv
        spec = ValueSpec(layout="map", rank=4, channels=out)
        self.add(
            lambda post: cls(input=i, weight=weight, stride=stride, padding=padding, pad_mode=mode,
                             dilation=dilation, groups=groups, post=post, **more),
            spec, (n, out, *size),
        )  # fmt: skip

    def pool(self, i: int) -> None:
        n, c, h, w = self.shapes[i]
        kernel = self.draw(st.sampled_from([2, 3]))
        pad = self.draw(st.sampled_from([0, 1])) if kernel == 3 else 0
        if min(h, w) + 2 * pad < kernel:
            return
        stride, ceil = self.draw(st.sampled_from([1, 2, 3])), self.draw(st.booleans())
        probe = torch.nn.functional.max_pool2d(torch.zeros(1, 1, h, w), kernel, stride, pad, 1, ceil)
        cls = MaxPool if self.exact or self.draw(st.booleans()) else AvgPool
        more = {} if cls is MaxPool else {"count_include_pad": self.draw(st.booleans())}
        self.add(
            lambda post: cls(input=i, kernel=(kernel, kernel), stride=(stride, stride), padding=(pad, pad),
                             ceil_mode=ceil, post=post, **more),
            self.specs[i], (n, c, *probe.shape[2:]),
        )  # fmt: skip

    def subsample(self, i: int) -> None:
        n, c, h, w = self.shapes[i]
        stride = self.draw(st.sampled_from([(1, 1), (2, 2), (2, 1)]))
        before, after = self.draw(st.sampled_from([(0, 0), (3, 4), (c, 0)]))
        spec = ValueSpec(layout="map", rank=4, channels=before + c + after)
        shape = (n, spec.channels, -(-h // stride[0]), -(-w // stride[1]))
        self.add(
            lambda post: Subsample(input=i, stride=stride, before=before, after=after, post=post), spec, shape
        )

    def concat(self, i: int) -> None:
        like = [
            j for j, s in enumerate(self.specs)
            if s.layout == self.specs[i].layout and len(self.shapes[j]) == len(self.shapes[i])
        ]  # fmt: skip
        axis = 1 if self.specs[i].layout == "map" else -1

        def rest(j: int) -> tuple[int, ...]:
            shape = list(self.shapes[j])
            del shape[axis]
            return tuple(shape)

        like = [j for j in like if rest(j) == rest(i)]
        parts = (i, *self.draw(st.lists(st.sampled_from(like), min_size=1, max_size=2)))
        channels = sum(self.specs[j].channels for j in parts)
        shape = list(self.shapes[i])
        shape[axis] = channels
        spec = ValueSpec(layout=self.specs[i].layout, rank=len(shape), channels=channels)
        self.add(lambda post: Concat(inputs=parts, layout=spec.layout, post=post), spec, tuple(shape))

    def pointwise(self, i: int) -> None:
        self.add(lambda post: Pointwise(input=i, post=post), self.specs[i], self.shapes[i])

    def to_rows(self, i: int) -> None:
        n, c, h, w = self.shapes[i]
        if self.exact or self.draw(st.booleans()):
            spec = ValueSpec(layout="rows", rank=2, channels=c * h * w)
            self.add(lambda post: Flatten(input=i, features=c * h * w, post=post), spec, (n, c * h * w))
        elif self.draw(st.booleans()):
            spec = ValueSpec(layout="rows", rank=2, channels=c)
            self.add(lambda post: GlobalAvgPool(input=i, post=post), spec, (n, c))
        else:
            spec = ValueSpec(layout="map", rank=4, channels=c)
            self.add(lambda post: GlobalAvgPool(input=i, keep_dims=True, post=post), spec, (n, c, 1, 1))

    def linear(self, i: int) -> None:
        shape, c = self.shapes[i], self.specs[i].channels
        out = self.draw(st.sampled_from(WIDTHS))
        binary = self.exact or self.draw(st.booleans())
        weight = self.const("bits" if binary else self.draw(st.sampled_from(["f32", "f16", "bits"])), out, c)
        spec = ValueSpec(layout="rows", rank=len(shape), channels=out)
        cls = BinaryLinear if binary else Linear
        self.add(lambda post: cls(input=i, weight=weight, post=post), spec, (*shape[:-1], out))

    def step(self) -> None:
        i = self.draw(st.integers(max(0, len(self.shapes) - 3), len(self.shapes) - 1))
        if self.specs[i].layout == "rows":
            self.draw(st.sampled_from([self.linear, self.linear, self.concat, self.pointwise]))(i)
        else:
            kinds = [self.conv, self.conv, self.conv, self.pool, self.subsample, self.concat, self.pointwise,
                     self.to_rows]  # fmt: skip
            self.draw(st.sampled_from(kinds))(i)


@st.composite
def programs(draw: st.DrawFn, exact: bool = False, max_steps: int = 4) -> Made:
    """A valid program and the shapes of its inputs.

    Args:
        draw: hypothesis's.
        exact: only steps with one right result, so that outputs must be equal to the last bit: binary
            layers, max-pooling, affines, clamps, PReLU, additions; no real sums.
        max_steps: most steps tried.
    """
    b = _Builder(draw, exact)
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        c, n = draw(st.sampled_from(WIDTHS)), draw(st.sampled_from([1, 1, 2, 3]))
        if draw(st.integers(0, 4)):
            shape: tuple[int, ...] = (n, c, draw(st.integers(1, 12)), draw(st.integers(1, 12)))
            b.specs.append(ValueSpec(layout="map", rank=4, channels=c))
        else:
            shape = draw(st.sampled_from([(n, c), (n, 4, c), (2, n, 3, c)]))
            b.specs.append(ValueSpec(layout="rows", rank=len(shape), channels=c))
        b.shapes.append(shape)
    inputs = len(b.shapes)
    for _ in range(draw(st.integers(1, max_steps))):
        b.step()
    if not b.steps:
        b.pointwise(0)
    # What step() gave up half-way may have left constants that nothing reads.
    used = sorted({c for s in b.steps for c in constants_of(s)})
    assert used == list(range(len(b.constants)))
    outputs = {len(b.shapes) - 1, draw(st.integers(inputs, len(b.shapes) - 1))}
    program = Program(
        inputs=tuple(b.specs[:inputs]), constants=tuple(b.constants), steps=tuple(b.steps),
        outputs=tuple(sorted(outputs)),
    )  # fmt: skip
    assert check_program(program) == tuple(b.specs)
    return program, b.shapes[:inputs]


def case_of(program: Program, shapes: list[tuple[int, ...]], seed: int = 0, special: bool = True) -> Case:
    """Constants (negative and zero scales among them) and inputs for a program.

    Args:
        program: valid.
        shapes: of its inputs.
        seed: of the random numbers.
        special: some inputs are ±0, NaN and ±infinity; no infinity before a GELU, which PyTorch takes to
            infinity on some processors and to NaN on others.
    """
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for spec in program.constants:
        shape = stored_shape(spec)
        if spec.dtype == "bits":
            signs = torch.randn(spec.shape, generator=g)
            from irnet_convert.packed.bits import pack_bits

            tensors[spec.name] = pack_bits(signs)
        elif spec.dtype in ("i8", "i16"):
            tensors[spec.name] = torch.randint(-127, 128, shape, generator=g).to(TORCH_DTYPES[spec.dtype])
        else:
            value = torch.randn(shape, generator=g)
            value[torch.rand(shape, generator=g) < 0.1] = 0.0
            tensors[spec.name] = value.to(TORCH_DTYPES[spec.dtype])
    inputs = []
    for shape in shapes:
        x = torch.randn(shape, generator=g)
        # Many exact zeros, of both signs: they are where signs go wrong.
        x[torch.rand(shape, generator=g) < 0.1] = 0.0
        x[torch.rand(shape, generator=g) < 0.1] = -0.0
        if special:
            gelu = any(isinstance(p, Activation) and p.name == "gelu" for s in program.steps for p in s.post)
            for value in (torch.nan,) if gelu else (torch.nan, torch.inf, -torch.inf):
                x[torch.rand(shape, generator=g) < 0.02] = value
        inputs.append(x)
    blob = make_blob(program, tensors)
    assert blob.numel() == offsets(program)[1]
    return Case(program, blob, inputs)
