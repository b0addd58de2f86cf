"""Native kernels against the reference, for every instruction set that this processor has."""

from __future__ import annotations

import pytest
import torch
from chosen_cases import assert_same, chained_case, decided
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from program_cases import Made, case_of, programs

from irnet_convert.packed import engine
from irnet_convert.packed.bits import pack_bits
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.engine import Plan
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.steps import (
    Add,
    Affine,
    BinaryConv,
    BinaryLinear,
    Clamp,
    ConstSpec,
    Program,
    ValueSpec,
)

ISAS = engine.available_isas()
RELAXED = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def compare(made: Made, seed: int, isa: str, *, exact: bool) -> None:
    program, shapes = made
    case = case_of(program, shapes, seed)
    assume(exact or decided(case))
    found = Plan(program, case.blob, isa).run(case.inputs, threads=1 + seed % 2)
    assert_same(found, run_reference(program, case.blob, case.inputs), exact=exact)


def test_there_are_kernels() -> None:
    assert "portable" in ISAS, "no native library: the tests of this file tested nothing"
    assert engine.isa_in_use() in (*ISAS, "reference")


@pytest.mark.parametrize("isa", ISAS)
@RELAXED
@given(made=programs(exact=True), seed=st.integers(0, 1000))
def test_integers_and_affines_are_exact(isa: str, made: Made, seed: int) -> None:
    compare(made, seed, isa, exact=True)


@pytest.mark.parametrize("isa", ISAS)
@RELAXED
@given(made=programs(), seed=st.integers(0, 1000))
def test_all_steps(isa: str, made: Made, seed: int) -> None:
    compare(made, seed, isa, exact=False)


def conv_program(in_channels: int, out_channels: int, kernel: int, **more) -> Program:
    shape = (out_channels, in_channels // more.get("groups", 1), kernel, kernel)
    return Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=in_channels),),
        constants=(ConstSpec(name="w", dtype="bits", shape=shape),),
        steps=(BinaryConv(input=0, weight=0, **more),),
        outputs=(1,),
    )


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("outputs", [(2,), (1, 2), (1,)])
@pytest.mark.parametrize("out", [64, 32, 16, 96, 70, 192])
@pytest.mark.parametrize("width", [5, 6, 12, 23])
def test_layers_with_what_follows_them_are_exact(
    width: int, out: int, outputs: tuple[int, ...], isa: str
) -> None:
    """A multiply-add, a shortcut and, in odd widths, a clamp, read as signs, as numbers and both."""
    torch.manual_seed(0)
    constants = {
        "w": torch.randn(out, out, 3, 3), "scale": torch.randn(out), "shift": torch.randn(out),
        "next": torch.randn(8, out, 1, 1),
    }  # fmt: skip
    if outputs == (1,):
        del constants["next"]
    post = (Affine(scale=1, shift=2), Add(value=0), Clamp(min=-4.0, max=8.0))[: 2 + width % 2]
    steps = (BinaryConv(input=0, weight=0, padding=(1, 1, 1, 1), post=post), BinaryConv(input=1, weight=3))
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=out),),
        constants=tuple(
            ConstSpec(name=name, dtype="bits" if value.ndim == 4 else "f32", shape=tuple(value.shape))
            for name, value in constants.items()
        ),
        steps=steps[: len(constants) - 2],
        outputs=outputs,
    )
    packed = {name: pack_bits(value) if value.ndim == 4 else value for name, value in constants.items()}
    blob = make_blob(program, packed)
    x = torch.randn(2, out, 7, width)
    want = run_reference(program, blob, [x])
    for threads in (1, 2):
        for ours, theirs in zip(Plan(program, blob, isa).run([x], threads=threads), want, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("isa", ISAS)
def test_scales_at_the_end_of_float32(isa: str) -> None:
    """-2 scale is infinite where scale is not: the sum must not begin elsewhere then."""
    torch.manual_seed(0)
    weight = torch.randint(0, 256, (64, 36), dtype=torch.uint8)
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=32),),
        constants=(
            ConstSpec(name="w", dtype="bits", shape=(64, 32, 3, 3)),
            ConstSpec(name="scale", dtype="f32", shape=(64,)),
            ConstSpec(name="shift", dtype="f32", shape=(64,)),
        ),
        steps=(BinaryConv(input=0, weight=0, padding=(1, 1, 1, 1), post=(Affine(scale=1, shift=2),)),),
        outputs=(1,),
    )
    scale = torch.full((64,), 1e-38)
    scale[3], scale[40] = 3e38, -2e38
    blob = make_blob(program, {"w": weight, "scale": scale, "shift": torch.randn(64)})
    x = torch.randn(1, 32, 9, 11)
    assert torch.equal(Plan(program, blob, isa).run([x])[0], run_reference(program, blob, [x])[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("channels", "out", "kernel", "size", "more"),
    [
        (64, 64, 3, 14, {"padding": (1, 1, 1, 1)}),
        (256, 130, 3, 7, {"padding": (1, 1, 1, 1), "stride": (2, 2)}),
        (36, 70, 7, 9, {"padding": (3, 3, 3, 3)}),
        (192, 192, 3, 6, {"padding": (1, 1, 1, 1), "groups": 3}),
        (64, 64, 3, 9, {"padding": (1, 1, 1, 1), "groups": 64}),
        (40, 33, 3, 9, {"padding": "same", "stride": (2, 2), "dilation": (2, 2)}),
        (33, 5, 5, 8, {"padding": (2, 2, 2, 2), "pad_mode": "reflect"}),
    ],
)
def test_layers_are_exact(isa: str, channels: int, out: int, kernel: int, size: int, more: dict) -> None:
    program = conv_program(channels, out, kernel, **more)
    weight = torch.randn(program.constants[0].shape)
    blob = make_blob(program, {"w": pack_bits(weight)})
    x = torch.randn(2, channels, size, size + 1)
    want = run_reference(program, blob, [x])
    for memory_format in (torch.contiguous_format, torch.channels_last):
        found = Plan(program, blob, isa).run([x.contiguous(memory_format=memory_format)])
        assert_same(found, want, exact=True)


@pytest.mark.parametrize("isa", ISAS)
def test_bits_of_every_number_of_channels(isa: str) -> None:
    for channels in range(1, 130):
        case = chained_case(channels)
        want = run_reference(case.program, case.blob, case.inputs)
        plan = Plan(case.program, case.blob, isa)
        for _ in range(2):  # the second time memory is not empty
            assert_same(plan.run(case.inputs), want, exact=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("fan_in", [65532, 65536, 70001, 200_000])
def test_sums_longer_than_16_bits(isa: str, fan_in: int) -> None:
    program = Program(
        inputs=(ValueSpec(layout="rows", rank=2, channels=fan_in),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(3, fan_in)),),
        steps=(BinaryLinear(input=0, weight=0),),
        outputs=(1,),
    )
    # All products −1: the largest counts that there are.
    blob = make_blob(program, {"w": pack_bits(torch.ones(3, fan_in))})
    (found,) = Plan(program, blob, isa).run([torch.full((1, fan_in), -1.0)])
    assert found.tolist() == [[-fan_in] * 3]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("channels", [3, 33, 70])
@pytest.mark.parametrize("fan_in", [4, 252, 256, 260, 1000, 16384, 16388])
def test_the_largest_counts_beside_the_smallest(isa: str, channels: int, fan_in: int) -> None:
    # Pixels are counted together: neither may overflow into its neighbour.
    program = Program(
        inputs=(ValueSpec(layout="rows", rank=2, channels=fan_in),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(channels, fan_in)),),
        steps=(BinaryLinear(input=0, weight=0),),
        outputs=(1,),
    )
    blob = make_blob(program, {"w": pack_bits(torch.ones(channels, fan_in))})
    signs = torch.tensor([-1.0, 1, -1, -1, 1, 1, 1, -1, -1])
    (found,) = Plan(program, blob, isa).run([signs[:, None].expand(9, fan_in)])
    assert torch.equal(found, (signs * fan_in)[:, None].expand(9, channels))
