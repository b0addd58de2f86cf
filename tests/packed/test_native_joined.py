"""PReLUs between shifts (RPReLU), and thresholds whose signs the step before them writes (RSign)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from irnet_convert.packed import engine
from irnet_convert.packed.bits import pack_bits
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.engine import Plan
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.steps import (
    Add,
    Affine,
    AvgPool,
    BinaryConv,
    Clamp,
    Concat,
    ConstSpec,
    Conv,
    MaxPool,
    Pointwise,
    Post,
    Prelu,
    Program,
    Step,
    Subsample,
    ValueSpec,
)

ISAS = engine.available_isas()
AROUND = (1, 1, 1, 1)
#: Constants of every program; 0 is ±1 and 1 is whole numbers: their sums are exact in any order.
BITS, WHOLE, DEPTH = 0, 1, 2
SCALE, SHIFT, SLOPE, OUTER, THRESHOLD = 3, 4, 5, 6, 7
GROUPED = 8
RPRELU = (Prelu(slope=SLOPE), Affine(scale=SCALE, shift=OUTER))
#: What follows an accumulator.
POSTS: dict[str, tuple[Post, ...]] = {
    "nothing": (),
    "rprelu": (Affine(scale=SCALE, shift=SHIFT), *RPRELU),
    "rprelu of a sum": (Affine(scale=SCALE, shift=SHIFT), Add(value=0),
                        Affine(scale=SCALE, shift=OUTER), *RPRELU),
    "prelu": (Prelu(slope=SLOPE),),
    "prelu of a sum, clamped": (Add(value=0), Prelu(slope=SLOPE), Clamp(min=-3.0, max=5.0)),
    "a multiply-add and a clamp": (Affine(scale=SCALE, shift=SHIFT), Clamp(min=-1.0, max=1.0)),
    "two prelus": (*RPRELU, Prelu(slope=SLOPE)),
}  # fmt: skip
#: What writes the numbers whose turned signs are read.
WRITERS = {
    "binary": lambda post, c: BinaryConv(input=0, weight=BITS, padding=AROUND, post=post),
    "real": lambda post, c: Conv(input=0, weight=WHOLE, padding=AROUND, post=post),
    "depthwise": lambda post, c: Conv(input=0, weight=DEPTH, padding=AROUND, groups=c, post=post),
    # With 70 channels a unit of bits holds channels of both groups: it cannot write bits itself.
    "grouped": lambda post, c: Conv(input=0, weight=GROUPED, padding=AROUND, groups=2, post=post),
    "max_pool": lambda post, c: MaxPool(input=0, kernel=(3, 3), stride=(1, 1), padding=(1, 1), post=post),
    "avg_pool": lambda post, c: AvgPool(input=0, kernel=(2, 2), stride=(2, 2), post=post),
    "concat": lambda post, c: Concat(inputs=(0,), post=post),
    "subsample": lambda post, c: Subsample(input=0, stride=(1, 1), post=post),
    "pointwise": lambda post, c: Pointwise(input=0, post=post),
}


def constants_of(channels: int) -> dict[str, Tensor]:
    torch.manual_seed(channels)
    return {
        "bits": torch.randn(channels, channels, 3, 3),
        "whole": torch.randint(-3, 4, (channels, channels, 3, 3)).float(),
        "depth": torch.randint(-3, 4, (channels, 1, 3, 3)).float(),
        **{name: torch.randn(channels) for name in ("scale", "shift", "slope", "outer", "threshold")},
        "grouped": torch.randint(-3, 4, (channels, channels // 2, 3, 3)).float(),
    }


def renumbered(item: Step | Post, number: dict[int, int]) -> Any:
    """With the places of constants that are used alone, which are all that a program may have."""
    found = {key: number.setdefault(value, len(number)) for key, value in vars(item).items()
             if key in ("weight", "scale", "shift", "slope")}  # fmt: skip
    posts = tuple(renumbered(p, number) for p in getattr(item, "post", ()))
    return replace(item, **found, **({"post": posts} if posts else {}))


def run_all(
    steps: tuple[Step, ...], outputs: tuple[int, ...], channels: int, isa: str, size: tuple[int, int] = (6, 8)
) -> None:
    everything, number = list(constants_of(channels).items()), {}
    steps = tuple(renumbered(step, number) for step in steps)
    constants = dict(everything[of] for of in number)
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=channels),),
        constants=tuple(
            ConstSpec(name=name, dtype="bits" if name == "bits" else "f32", shape=tuple(value.shape))
            for name, value in constants.items()
        ),
        steps=steps,
        outputs=outputs,
    )
    stored = {name: pack_bits(value) if name == "bits" else value for name, value in constants.items()}
    blob = make_blob(program, stored)
    x = torch.randint(-8, 9, (2, channels, *size)).float()
    x[0, 0, 0, 0] = torch.nan
    want = run_reference(program, blob, [x])
    plan = Plan(program, blob, isa)
    for threads in (1, 2):
        for ours, theirs in zip(plan.run([x], threads=threads), want, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("post", POSTS)
@pytest.mark.parametrize("channels", [64, 70])
@pytest.mark.parametrize("writer", ["binary", "real"])
def test_what_follows_a_layer(writer: str, channels: int, post: str, isa: str) -> None:
    """Its numbers alone, its signs alone, and both."""
    made = WRITERS[writer](POSTS[post], channels)
    reader = BinaryConv(input=1, weight=BITS)
    for outputs in [(1,), (2,), (1, 2)]:
        run_all((made, reader)[: max(outputs)], outputs, channels, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("post", ["nothing", "rprelu", "two prelus"])
@pytest.mark.parametrize("channels", [64, 70])
@pytest.mark.parametrize("writer", WRITERS)
def test_thresholds(writer: str, channels: int, post: str, isa: str) -> None:
    """As a residual block has them: a shortcut reads the numbers, a layer their signs behind thresholds."""
    made = WRITERS[writer](POSTS[post], channels)
    threshold = Pointwise(input=1, post=(Affine(scale=SCALE, shift=THRESHOLD),))
    block = BinaryConv(
        input=2, weight=BITS, padding=AROUND, post=(Affine(scale=SCALE, shift=SHIFT), Add(value=1))
    )
    run_all((made, threshold, block), (3,), channels, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_signs_of_a_prelu_alone(isa: str) -> None:
    """With a slope below 0 they are not those of what it is given."""
    prelu = Pointwise(input=0, post=(Prelu(slope=SLOPE),))
    for channels in (64, 128):
        run_all((prelu, BinaryConv(input=1, weight=BITS)), (2,), channels, isa)


@pytest.mark.parametrize("isa", ISAS)
def test_thresholds_that_cannot_be_joined(isa: str) -> None:
    """Two readers with thresholds of their own, one with none; a threshold that others read as numbers."""
    made = WRITERS["binary"](POSTS["rprelu"], 64)
    first = Pointwise(input=1, post=(Affine(scale=SCALE, shift=THRESHOLD),))
    second = Pointwise(input=1, post=(Affine(scale=SLOPE, shift=OUTER),))
    nothing = Pointwise(input=1)
    steps = (made, first, second, nothing)
    read = tuple(BinaryConv(input=value, weight=BITS, padding=AROUND) for value in (1, 2, 3, 4))
    run_all((*steps, *read), (5, 6, 7, 8), 64, isa)
    run_all((*steps, *read[1:]), (1, 5, 6, 7), 64, isa)
    run_all((*steps, *read[3:]), (5,), 64, isa)
    run_all((*steps, *read), (2, 3, 4, 5, 6, 7, 8), 64, isa)
    given = Pointwise(input=0, post=(Affine(scale=SCALE, shift=THRESHOLD),))
    run_all((given, BinaryConv(input=1, weight=BITS)), (2,), 64, isa)
    other_border = BinaryConv(input=2, weight=BITS, padding=AROUND, pad_mode="reflect")
    run_all((made, first, BinaryConv(input=2, weight=BITS, padding=AROUND), other_border), (3, 4), 64, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", ["max", "avg"])
def test_thresholds_of_what_is_pooled_behind_a_convolution(kind: str, isa: str) -> None:
    """The convolution, the pooling and the signs are one step; its input is read while they are written."""
    pooling = {"input": 1, "kernel": (2, 2), "stride": (2, 2)}
    steps = (
        WRITERS["real"](POSTS["rprelu"], 64),
        MaxPool(**pooling) if kind == "max" else AvgPool(**pooling),
        Pointwise(input=2, post=(Affine(scale=SCALE, shift=THRESHOLD),)),
        BinaryConv(
            input=3, weight=BITS, padding=AROUND, post=(Affine(scale=SCALE, shift=SHIFT), Add(value=2))
        ),
    )
    run_all(steps, (4,), 64, isa, size=(36, 40))
