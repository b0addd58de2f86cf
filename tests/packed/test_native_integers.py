"""Convolutions of quantised images: every window, and every way in which sums end, is the reference's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from irnet_convert.packed import engine
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.engine import Plan
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.steps import (
    Add,
    Affine,
    BinaryConv,
    Clamp,
    ConstSpec,
    Conv,
    Prelu,
    Program,
    Step,
    ValueSpec,
)

ISAS = engine.available_isas()
#: Channels, kernel, stride, dilation. In the first eight the rows' ends are taken together (8 bits): rows of
#: bytes that are not whole fours, where that saves a step.
WINDOWS = [
    (3, (7, 7), (2, 2), (1, 1)),
    (3, (5, 5), (1, 2), (1, 1)),
    (3, (3, 3), (1, 1), (1, 1)),
    (3, (3, 3), (2, 2), (3, 1)),
    (2, (3, 3), (1, 1), (1, 1)),
    (1, (4, 6), (2, 1), (2, 1)),
    (5, (5, 1), (1, 1), (1, 1)),
    (3, (16, 3), (1, 1), (1, 1)),  # as many as are taken together at most
    (5, (3, 3), (1, 1), (1, 1)),
    (3, (1, 7), (1, 1), (1, 1)),
    (1, (3, 3), (1, 1), (1, 1)),
    (3, (17, 3), (1, 1), (1, 1)),  # more than are taken together
    (3, (3, 3), (1, 1), (1, 2)),  # columns that do not lie side by side
    (4, (3, 3), (1, 1), (1, 1)),
]
#: What follows a sum.
ENDINGS = {
    "nothing": (),
    "a multiply-add": (Affine(scale=1, shift=2),),
    "and a clamp": (Affine(scale=1, shift=2), Clamp(min=-1.0, max=2.0)),
    "and a slope": (Affine(scale=1, shift=2), Prelu(slope=2)),
    "a clamp alone": (Clamp(min=-1.0, max=2.0),),
}


def same(bits: int, out: int, window: tuple, post: tuple, *after: Step, isa: str, outputs=(1,)) -> None:
    """Whether kernels and reference give the same numbers, to the last bit."""
    torch.manual_seed(0)
    inner, kernel, stride, dilation = window
    dtype = torch.int8 if bits == 8 else torch.int16
    constants = {"w": torch.randint(-128, 128, (out, inner, *kernel)).to(dtype)}
    specs = [ConstSpec(name="w", dtype=f"i{bits}", shape=(out, inner, *kernel))]
    if any(isinstance(p, Affine) for step in (Conv(input=0, weight=0, post=post), *after) for p in step.post):
        constants |= {"scale": torch.randn(out).exp2(), "shift": torch.randn(out)}
        specs += [ConstSpec(name=name, dtype="f32", shape=(out,)) for name in ("scale", "shift")]
    if any(isinstance(step, BinaryConv) for step in after):
        constants["binary"] = torch.randint(0, 256, (8, -(-out // 8)), dtype=torch.uint8)
        constants["binary"][:, -1] &= 2 ** ((out - 1) % 8 + 1) - 1
        specs.append(ConstSpec(name="binary", dtype="bits", shape=(8, out, 1, 1)))
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=inner),),
        constants=tuple(specs),
        steps=(
            Conv(input=0, weight=0, stride=stride, dilation=dilation, padding=(2, 1, 1, 2), input_bits=bits,
                 post=post), *after,
        ),
        outputs=outputs,
    )  # fmt: skip
    blob = make_blob(program, constants)
    for width, threads in itertools.product((23, 27), (1, 2)):
        x = torch.randn(2, inner, 19, width)
        found = Plan(program, blob, isa).run([x], threads=threads)
        for ours, theirs in zip(found, run_reference(program, blob, [x]), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("out", [64, 40])
def test_windows(out: int, window: tuple, bits: int, isa: str) -> None:
    same(bits, out, window, ENDINGS["a multiply-add"], isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("out", [64, 32, 16, 96, 48, 128, 150, 7])
def test_endings(out: int, ending: str, bits: int, isa: str) -> None:
    same(bits, out, WINDOWS[0], ENDINGS[ending], isa=isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("out", [64, 32, 16, 48, 150])
@pytest.mark.parametrize("outputs", [(2,), (1, 2)])
def test_signs(outputs: tuple[int, ...], out: int, bits: int, isa: str) -> None:
    """Read as signs, alone or beside the numbers."""
    binary = BinaryConv(input=1, weight=3)
    same(bits, out, WINDOWS[0], ENDINGS["and a clamp"], binary, isa=isa, outputs=outputs)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_sum_with_a_shortcut(bits: int, isa: str) -> None:
    """A second convolution of the same image is added before the clamp."""
    post = (Affine(scale=1, shift=2), Add(value=1), Clamp(min=-1.0, max=2.0))
    same(bits, 64, WINDOWS[2], (), Conv(input=0, weight=0, padding=(2, 1, 1, 2), input_bits=bits, post=post),
         isa=isa, outputs=(2,))  # fmt: skip


def alone(weight: Tensor, **more: Any) -> Program:
    """A convolution of int8 weights and nothing behind it."""
    return Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=weight.shape[1]),),
        constants=(ConstSpec(name="w", dtype="i8", shape=tuple(weight.shape)),),
        steps=(Conv(input=0, weight=0, **more),),
        outputs=(1,),
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pad_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("bits", [2, 7, 8, 9])
def test_bytes_are_exact(isa: str, pad_mode: str, bits: int) -> None:
    """Whatever lies on the border, and at the ends of what eight bits hold."""
    torch.manual_seed(0)
    weight = torch.randint(-128, 128, (80, 5, 3, 3), dtype=torch.int8)
    weight[0], weight[1] = -128, 127
    x = torch.randn(3, 5, 17, 14)
    x[1] = x[1].sign()
    x[2] = 0
    program = alone(weight, stride=(2, 1), padding=(1, 1, 1, 1), pad_mode=pad_mode, input_bits=bits)
    blob = make_blob(program, {"w": weight})
    (found,) = Plan(program, blob, isa).run([x], threads=2)
    assert torch.equal(found, run_reference(program, blob, [x])[0])


@pytest.mark.parametrize("isa", ISAS)
def test_bytes_do_not_wrap_where_the_scale_is_rounded(isa: str) -> None:
    """A 127th of 190 steps of a subnormal number is rounded to one step, of which there are 190."""
    weight = torch.ones(16, 3, 1, 1, dtype=torch.int8)
    program = alone(weight, input_bits=8)
    x = torch.full((1, 3, 4, 4), 190 * 2.0**-149)
    (found,) = Plan(program, make_blob(program, {"w": weight}), isa).run([x])
    assert (found > 0).all()
