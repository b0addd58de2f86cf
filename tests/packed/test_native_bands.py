"""Stems: minimal filtering along rows, and bands that pooling follows."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from irnet_convert.packed import engine
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.engine import Plan
from irnet_convert.packed.steps import (
    Add,
    Affine,
    AvgPool,
    Clamp,
    ConstSpec,
    Conv,
    MaxPool,
    Pointwise,
    Prelu,
    Program,
    Step,
    ValueSpec,
)

ISAS = engine.available_isas()
#: ResNet's first layer.
STEM = {"channels": 64, "kernel": (7, 7), "stride": (2, 2), "padding": (3, 3, 3, 3)}
#: in channels, height, width, batch, and the convolution; some leave a rest in a tile or a band.
FILTERED = [
    (3, 224, 224, 1, STEM),
    (3, 65, 71, 3, STEM),
    (3, 15, 15, 2, STEM),
    (1, 40, 37, 1, {**STEM, "padding": (0, 0, 0, 0)}),
    (3, 33, 50, 1, {**STEM, "padding": (5, 2, 1, 4)}),
    (5, 19, 23, 2, {"channels": 128, "kernel": (4, 4), "stride": (1, 1), "padding": (1, 2, 2, 1)}),
    (20, 12, 30, 1, {"channels": 64, "kernel": (1, 4), "stride": (3, 1), "padding": (0, 0, 0, 0)}),
]


def weights_of(in_channels: int, conv: dict) -> Tensor:
    return torch.randn(conv["channels"], in_channels, *conv["kernel"])


def program_of(
    weight: Tensor,
    conv: dict,
    *after: Step,
    outputs: tuple[int, ...] | None = None,
    shift: bool = True,
    **more,
) -> Program:
    post = (Affine(scale=1, shift=2),) if shift else ()
    step = Conv(input=0, weight=0, stride=conv["stride"], padding=conv["padding"], post=post, **more)
    dtype = {torch.float32: "f32", torch.int8: "i8"}[weight.dtype]
    return Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=weight.shape[1]),),
        constants=(
            ConstSpec(name="w", dtype=dtype, shape=tuple(weight.shape)),
            *(
                ConstSpec(name=name, dtype="f32", shape=(len(weight),))
                for name in ("scale", "shift")
                if shift
            ),
        ),
        steps=(step, *after),
        outputs=outputs or (1 + len(after),),
    )


def ran(program: Program, weight: Tensor, x: Tensor, isa: str, threads: int = 1) -> list[Tensor]:
    """With a scale of 1 and a shift of 2**-30, which is lost beside any sum."""
    constants = {"w": weight, "scale": torch.ones(len(weight)), "shift": torch.full((len(weight),), 2.0**-30)}
    blob = make_blob(program, {c.name: constants[c.name] for c in program.constants})
    return Plan(program, blob, isa).run([x], threads=threads)


def conv64(x: Tensor, weight: Tensor, conv: dict) -> Tensor:
    return F.conv2d(F.pad(x.double(), conv["padding"]), weight.double(), stride=conv["stride"])


def deviation(found: Tensor, want: Tensor) -> float:
    return float((found - want).square().mean().sqrt() / want.std())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("inner", "height", "width", "n", "conv"), FILTERED)
def test_filtering_is_near_the_sum_in_float64(
    isa: str, inner: int, height: int, width: int, n: int, conv: dict
) -> None:
    torch.manual_seed(0)
    weight, x = weights_of(inner, conv), torch.randn(n, inner, height, width)
    want = conv64(x, weight, conv)
    plain = F.conv2d(F.pad(x, conv["padding"]), weight, stride=conv["stride"])
    (found,) = ran(program_of(weight, conv), weight, x, isa)
    assert found.shape == want.shape
    assert deviation(found, want) < 4 * deviation(plain, want) < 2e-6
    assert (found - want).abs().max() < 2e-5 * want.std()


@pytest.mark.parametrize("isa", ISAS)
def test_a_stem_is_filtered(isa: str) -> None:
    """Else the tests around this one would hold for the plain sum alone, which is exact on small integers."""
    torch.manual_seed(0)
    weight, x = torch.randint(-4, 5, (64, 3, 7, 7)).float(), torch.randint(-4, 5, (1, 3, 64, 64)).float()
    found = ran(program_of(weight, STEM), weight, x, isa)[0]
    assert not torch.equal(found.double(), conv64(x, weight, STEM))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "x", [torch.randn(1, 3, 33, 50), torch.full((1, 3, 33, 50), torch.nan)], ids=["", "nan"]
)
def test_a_clamp_behind_a_filtered_stem(x: Tensor, isa: str) -> None:
    """Cuts what comes out without it; NaN stays."""
    torch.manual_seed(0)
    weight = weights_of(3, STEM)
    program = program_of(weight, STEM)
    clamped = replace(program.steps[0], post=(*program.steps[0].post, Clamp(min=-3.0, max=5.0)))
    cut = replace(program, steps=(clamped,))
    (plain,) = ran(program, weight, x, isa)
    (found,) = ran(cut, weight, x, isa)
    torch.testing.assert_close(found, plain.clamp(-3, 5), rtol=0, atol=0, equal_nan=True)
    assert found.isnan().all() or ((found == -3).any() and (found == 5).any())


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 66000.0, 1e14, 1e30, -3e38])
def test_what_no_number_can_stand_for_stays_where_it_is(isa: str, value: float) -> None:
    """B'd mixes a window with its neighbours: in the plain sum they know nothing of it."""
    torch.manual_seed(0)
    weight, x = weights_of(3, STEM), torch.randn(2, 3, 64, 48)
    x[1, 2, 33, 17] = value
    want = F.conv2d(x, weight, stride=2, padding=3)
    (found,) = ran(program_of(weight, STEM), weight, x, isa)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-3, equal_nan=True)
    near = conv64(x, weight, STEM)
    untouched = near.abs() < 1e3  # windows without that number
    assert untouched.float().mean() > 0.9
    assert (found - near)[untouched].abs().max() < 1e-3


@pytest.mark.parametrize("isa", ISAS)
def test_windows_of_zeros_give_zeros_where_no_shift_follows(isa: str) -> None:
    """Of either sign is what minimal filtering makes of them: a sign behind it would be left to chance."""
    torch.manual_seed(0)
    weight, x = weights_of(3, STEM), torch.zeros(1, 3, 64, 64)
    x[:, :, 20:40, 20:40] = torch.randn(1, 3, 20, 20)
    want = conv64(x, weight, STEM)
    assert (want == 0).float().mean() > 0.5
    (found,) = ran(program_of(weight, STEM, shift=False), weight, x, isa)
    assert (found[want == 0] == 0).all()
    program = program_of(weight, STEM)
    no_shift = make_blob(program, {"w": weight, "scale": torch.ones(64), "shift": torch.zeros(64)})
    assert torch.equal(Plan(program, no_shift, isa).run([x])[0], found)


@pytest.mark.parametrize("isa", ISAS)
def test_threads_agree_on_an_image_that_is_not_finite(isa: str) -> None:
    torch.manual_seed(0)
    weight, x = weights_of(3, STEM), torch.randn(1, 3, 120, 90)
    x[0, 1, 50, 30] = float("inf")
    program = program_of(weight, STEM, MaxPool(input=1, kernel=(3, 3), stride=(2, 2), padding=(1, 1)))
    one = ran(program, weight, x, isa)[0]
    for threads in (2, 3, 4):
        torch.testing.assert_close(
            ran(program, weight, x, isa, threads)[0], one, rtol=0, atol=0, equal_nan=True
        )


def test_a_small_stack_is_enough() -> None:
    program = program_of(torch.randn(64, 3, 7, 7), STEM)
    before = threading.stack_size(256 << 10)
    try:
        found: list[Tensor] = []
        x = torch.randn(1, 3, 224, 224)
        thread = threading.Thread(
            target=lambda: found.extend(ran(program, torch.randn(64, 3, 7, 7), x, ISAS[0]))
        )
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert found[0].shape == (1, 64, 112, 112)


@pytest.mark.parametrize("isa", ISAS)
def test_weights_that_are_too_large_are_not_filtered(isa: str) -> None:
    torch.manual_seed(0)
    weight, x = weights_of(3, STEM) * 1e30, torch.randn(1, 3, 32, 32) * 1e-20
    weight[0, 0, 0, 0] = 3e38
    (found,) = ran(program_of(weight, STEM), weight, x, isa)
    torch.testing.assert_close(found, F.conv2d(x, weight, stride=2, padding=3), rtol=1e-3, atol=1e7)


POOLS = [
    MaxPool(input=1, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
    MaxPool(input=1, kernel=(2, 3), stride=(5, 1), padding=(1, 0)),
    MaxPool(input=1, kernel=(9, 1), stride=(1, 1), padding=(2, 0)),
    MaxPool(input=1, kernel=(3, 3), stride=(2, 2), padding=(0, 0), ceil_mode=True),
    MaxPool(input=1, kernel=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(2, 2)),
    AvgPool(input=1, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("kind", ["filtered", "plain", "i8"])
def test_pooling_in_bands_is_pooling(isa: str, pool: Step, kind: str) -> None:
    """Bit for bit, with any threads, what it is where the map is an output too, and both are steps."""
    torch.manual_seed(0)
    conv = STEM if kind != "plain" else {**STEM, "channels": 20, "kernel": (3, 3), "padding": (1, 1, 1, 1)}
    more = {"input_bits": 8} if kind == "i8" else {}
    weight, x = weights_of(3, conv), torch.randn(2, 3, 75, 62)
    if kind == "i8":
        weight = torch.randint(-128, 128, weight.shape, dtype=torch.int8)
    apart = ran(program_of(weight, conv, pool, outputs=(1, 2), **more), weight, x, isa)
    for threads in (1, 2, 3, 7):
        (together,) = ran(program_of(weight, conv, pool, **more), weight, x, isa, threads)
        assert torch.equal(together, apart[1])


@pytest.mark.parametrize("isa", ISAS)
def test_pooling_that_is_not_the_only_reader(isa: str) -> None:
    """Its own posts read the map as well."""
    torch.manual_seed(0)
    conv = {**STEM, "stride": (1, 1), "kernel": (4, 4), "padding": (1, 2, 1, 2)}
    weight, x = weights_of(3, conv), torch.randn(1, 3, 40, 24)
    pool = MaxPool(input=1, kernel=(3, 3), stride=(1, 1), padding=(1, 1), post=(Add(value=1),))
    (found,) = ran(program_of(weight, conv, pool), weight, x, isa)
    map64 = conv64(x, weight, conv)
    torch.testing.assert_close(found.double(), F.max_pool2d(map64, 3, 1, 1) + map64, rtol=0, atol=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "conv", [{"kernel": (4, 4), "padding": (1, 2, 1, 2)}, {"kernel": (1, 1), "padding": (0,) * 4}]
)
def test_a_shortcut_added_before_pooling(isa: str, conv: dict) -> None:
    """The sum may not take the shortcut's place: in bands its rows lie elsewhere than they are read."""
    torch.manual_seed(0)
    weight = torch.randint(-4, 5, (64, 64, *conv["kernel"])).float()
    x = torch.randint(-4, 5, (1, 64, 60, 24)).float()
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=64),),
        constants=(
            ConstSpec(name="w", dtype="f32", shape=tuple(weight.shape)),
            *(ConstSpec(name=name, dtype="f32", shape=(64,)) for name in ("scale", "shift")),
        ),
        steps=(
            Conv(input=0, weight=0, padding=conv["padding"]),
            Conv(input=0, weight=0, padding=conv["padding"], post=(Affine(scale=1, shift=2), Add(value=1))),
            MaxPool(input=2, kernel=(3, 3), stride=(2, 2), padding=(1, 1)),
        ),
        outputs=(3,),
    )
    for threads in (1, 2, 3):
        (found,) = ran(program, weight, x, isa, threads)
        map64 = 2 * conv64(x, weight, {**conv, "stride": (1, 1)})
        torch.testing.assert_close(found.double(), F.max_pool2d(map64, 3, 2, 1), rtol=0, atol=2e-2)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("size", [(33, 50), (64, 64)])
def test_rprelu_behind_a_filtered_convolution(size: tuple[int, int], pooled: bool, isa: str) -> None:
    """The same numbers as in a step of its own: nothing but the sums is rounded otherwise."""
    torch.manual_seed(0)
    weight = weights_of(3, STEM)
    x = torch.randn(2, 3, *size)
    bend = (Prelu(slope=3), Affine(scale=4, shift=5), Clamp(min=-2.0, max=3.0))
    plain = program_of(weight, STEM)
    more = tuple(ConstSpec(name=name, dtype="f32", shape=(64,)) for name in ("slope", "outer", "added"))
    values = {
        "w": weight,
        **{name: torch.randn(64) for name in ("scale", "shift", "slope", "outer", "added")},
    }
    conv = plain.steps[0]
    assert isinstance(conv, Conv)
    inside, apart = (replace(conv, post=(*conv.post, *bend)),), (conv, Pointwise(input=1, post=bend))
    found = []
    for steps in (inside, apart):
        if pooled:
            steps = (*steps, MaxPool(input=len(steps), kernel=(3, 3), stride=(2, 2), padding=(1, 1)))
        program = replace(plain, constants=(*plain.constants, *more), steps=steps, outputs=(len(steps),))
        found += Plan(program, make_blob(program, values), isa).run([x])
    assert torch.equal(*found)
    assert (found[0] < 0).any()
