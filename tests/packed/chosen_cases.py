"""Programs that are not left to chance, and what an implementation's outputs are held to.

``assert_same`` compares them with the reference's; ``decided`` says whether they can be compared at all.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from program_cases import Case, case_of
from torch import Tensor

from irnet_convert.packed.blob import constant
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.steps import (
    Activation,
    Add,
    Affine,
    AvgPool,
    BinaryConv,
    BinaryLinear,
    Clamp,
    ConstSpec,
    Conv,
    MaxPool,
    Program,
    ValueSpec,
)


def chained_case(channels: int) -> Case:
    """Three layers that hand on bits alone, the first of real inputs (small integers: exact), the others of
    signs: whatever bits of ``channels`` channels are not written, or too many, is counted by the next.
    """
    c = channels
    shapes = [(c, 9, 1, 1), (c, c, 3, 3), (5, c, 1, 1)]
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=9),),
        constants=tuple(ConstSpec(name=f"w{i}", dtype="bits", shape=shape) for i, shape in enumerate(shapes)),
        steps=(
            Conv(input=0, weight=0),
            BinaryConv(input=1, weight=1, padding=(1, 1, 1, 1)),
            BinaryConv(input=2, weight=2),
        ),
        outputs=(3,),
    )
    case = case_of(program, [(2, 9, 5, 4)], seed=channels, special=False)
    case.inputs[0].copy_((case.inputs[0] * 3).round())
    return case


def stem_cases() -> list[Case]:
    """First layers that pooling follows in bands: wide kernels (minimal filtering), 8 and 16 bits; then a
    residual block of whole tiles, whose sum takes the shortcut's place.
    """
    cases = []
    for number, bits in enumerate((None, 8, 16)):
        shapes = [(64, 3, 7, 7), (64, 64, 3, 3)]
        dtype: Any = {None: "f32", 8: "i8", 16: "i16"}[bits]
        program = Program(
            inputs=(ValueSpec(layout="map", rank=4, channels=3),),
            constants=(
                ConstSpec(name="w0", dtype=dtype, shape=shapes[0]),
                ConstSpec(name="w1", dtype="bits", shape=shapes[1]),
                *(ConstSpec(name=n, dtype="f32", shape=(64,)) for n in ("scale", "shift", "one", "small")),
            ),
            steps=(
                Conv(
                    input=0, weight=0, stride=(2, 2), padding=(3, 3, 3, 3), input_bits=bits,
                    post=(Affine(scale=4, shift=5),),
                ),
                MaxPool(input=1, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
                BinaryConv(
                    input=2, weight=1, padding=(1, 1, 1, 1),
                    post=(Affine(scale=2, shift=3), Add(value=2), Clamp(min=-1.0, max=1.0)),
                ),
            ),
            outputs=(3,),
        )  # fmt: skip
        case = case_of(program, [(2, 3, 37, 45)], seed=number, special=False)
        constant(program, case.blob, 4).fill_(1.0)
        constant(program, case.blob, 5).fill_(2.0**-20)  # a shift: without one nothing is filtered
        cases.append(case)
    return cases


def pooling_cases() -> list[Case]:
    """Max and average pooling in every way in which the last window can lie at the input's end."""
    cases = []
    for size, kernel, stride, padding in itertools.product((2, 3, 4, 5, 7), (2, 3), (1, 2, 3), (0, 1)):
        if padding > kernel // 2 or size < kernel:
            continue
        for ceil_mode in (False, True):
            more: dict[str, Any] = {
                "input": 0, "kernel": (kernel, kernel), "stride": (stride, stride), "ceil_mode": ceil_mode,
                "padding": (padding, padding),
            }  # fmt: skip
            steps = (MaxPool(**more), *(AvgPool(**more, count_include_pad=c) for c in (False, True)))
            program = Program(
                inputs=(ValueSpec(layout="map", rank=4, channels=3),), constants=(), steps=steps,
                outputs=(1, 2, 3),
            )  # fmt: skip
            cases.append(case_of(program, [(2, 3, size, size + 1)], special=False))
    return cases


def decided(case: Case) -> bool:
    """Whether neither a binary step's sign nor an 8-bit input hangs on how a real sum or an activation before
    it is rounded.
    """
    program, inputs = case.program, len(case.inputs)
    everything = tuple(range(inputs, inputs + len(program.steps)))
    values = run_reference(replace(program, outputs=everything), case.blob, case.inputs)
    for step in program.steps:
        if isinstance(step, Conv) and step.input_bits == 8 and step.input >= inputs:
            value = values[step.input - inputs]
            levels = value.abs() / (value.abs().amax((1, 2, 3), keepdim=True) / 127)
            if ((levels % 1 - 0.5).abs() < 1e-3).any():
                return False
        if not isinstance(step, BinaryConv | BinaryLinear) or step.input < inputs:
            continue
        value = values[step.input - inputs]
        near = value.abs() < 1e-4
        if not any(isinstance(p, Activation) for p in program.steps[step.input - inputs].post):
            near &= value != 0  # clamps make zeros; the tail of an activation may be 0 or next to it
        if near.any():
            return False
    return True


def assert_same(found: list[Tensor], want: list[Tensor], *, exact: bool) -> None:
    """Equal to the last bit (NaN equals NaN, −0 equals 0), or close as sums in another order are."""
    assert len(found) == len(want)
    for one, other in zip(found, want, strict=True):
        if exact:
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3, equal_nan=True)
