"""Images as integers: rounded as a division is, whatever their scale is and wherever their numbers lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irnet_convert.packed import engine
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.engine import Plan
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.steps import ConstSpec, Conv, Program, ValueSpec

ISAS = engine.available_isas()
LIES = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "columns apart": lambda x: x.repeat_interleave(2, 3)[..., ::2],
    "rows and columns change places": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "one row again and again": lambda x: x[:, :, :1].expand(x.shape),
    "some channels of more": lambda x: torch.cat([x, x], 1).contiguous(memory_format=torch.channels_last)[
        :, : x.shape[1]
    ],
    "a part of a larger one": lambda x: torch.nn.functional.pad(x, (3, 2, 1, 4))[..., 1:-4, 3:-2],
}


def identity(
    channels: int, bits: int, *, twice: bool = False, padding: tuple[int, ...] = (0, 0, 0, 0)
) -> tuple[Program, Tensor]:
    """Integers times their scale come out; with ``twice`` real numbers are read of the input too."""
    eye = torch.eye(channels, dtype=torch.int8).reshape(channels, channels, 1, 1)
    constants = (ConstSpec(name="w", dtype="i8", shape=tuple(eye.shape)),)
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=channels),),
        constants=constants,
        steps=(Conv(input=0, weight=0, input_bits=bits, padding=padding),),
        outputs=(0, 1) if twice else (1,),
    )
    return program, make_blob(program, {"w": eye})


def agree(program: Program, blob: Tensor, x: Tensor, isa: str, threads: int = 1) -> None:
    found = Plan(program, blob, isa).run([x], threads=threads)
    for ours, theirs in zip(found, run_reference(program, blob, [x]), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("lies", LIES)
@pytest.mark.parametrize("size", [(3, 5, 600), (1, 3, 20), (2, 4, 257), (4, 1, 1), (16, 2, 30), (17, 3, 40)])
def test_wherever_the_numbers_lie(size: tuple[int, int, int], lies: str, bits: int, isa: str) -> None:
    torch.manual_seed(0)
    x = LIES[lies](torch.randn(2, *size))
    for twice in (False, True):
        agree(*identity(size[0], bits, twice=twice), x, isa, threads=2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [8, 16])
def test_quotients_are_rounded_as_divisions_are(bits: int, isa: str) -> None:
    """At and next to halves, where a quotient that is off by its last bit becomes another integer."""
    torch.manual_seed(0)
    program, blob = identity(1, bits)
    top = 2 ** (bits - 1) - 1
    for exponent in (-147, -140, -126, -110, -60, -54, -53, -46, -45, 0, 20, 60, 67, 68, 75, 76, 100, 120):
        largest = (torch.rand(40) + 1) * 2.0**exponent
        s = largest / top
        halves = torch.randint(-top, top, (40, 500)) + 0.5
        near = (halves.double() * s[:, None].double()).float()
        x = torch.cat(
            [near, near.nextafter(torch.tensor(torch.inf)), near.nextafter(torch.tensor(-torch.inf))], 1
        )
        x = torch.cat([x.clamp(-largest[:, None], largest[:, None]), largest[:, None]], 1)
        agree(program, blob, x.reshape(40, 1, 1, -1), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [(2, 3, 0, 5), (2, 3, 5, 0), (0, 3, 5, 5)])
def test_an_image_without_pixels_is_zeros_behind_one_that_was_nan(
    size: tuple[int, ...], bits: int, isa: str
) -> None:
    program, blob = identity(3, bits, padding=(2, 2, 2, 2))
    plan = Plan(program, blob, isa)
    plan.run([torch.full((2, 3, 64, 64), torch.nan)])
    (found,) = plan.run([torch.zeros(size)])
    assert torch.equal(found, run_reference(program, blob, [torch.zeros(size)])[0])
    assert (found == 0).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("where", [0, 17, 300, -1])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_an_image_that_is_not_finite_is_nan_and_the_others_are_not(
    value: float, where: int, isa: str
) -> None:
    program, blob = identity(3, 8)
    x = torch.randn(3, 3, 7, 45)
    x[1].view(-1)[where] = value
    for given in (x, x.contiguous(memory_format=torch.channels_last)):
        (found,) = Plan(program, blob, isa).run([given])
        assert found[1].isnan().all()
        assert torch.equal(found[::2], run_reference(program, blob, [x])[0][::2])
