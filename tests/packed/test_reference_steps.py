"""The reference against independent arithmetic: float64 layers, exact rationals, the eager binary layers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from chosen_cases import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from program_cases import case_of, programs

from irnet_convert import BinaryConv2d, BinaryLinear
from irnet_convert.errors import ArgumentError
from irnet_convert.packed.bits import pack_bits
from irnet_convert.packed.blob import make_blob
from irnet_convert.packed.reference import fma, run_reference
from irnet_convert.packed.shapes import infer_shapes
from irnet_convert.packed.steps import (
    Affine,
    BinaryConv,
    ConstSpec,
    Conv,
    Pointwise,
    Program,
    ValueSpec,
    parse_program,
)
from irnet_convert.packed.steps import (
    BinaryLinear as BinaryLinearStep,
)

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(a=FLOATS, b=FLOATS, c=FLOATS)
@settings(deadline=None, max_examples=300)
def test_fma_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    found = fma(*(torch.tensor([v], dtype=torch.float32) for v in (a, b, c))).item()
    limit = Fraction(float(np.finfo(np.float32).max))
    if abs(exact) > limit or found in (float("inf"), float("-inf")):
        assert abs(exact) >= limit
        return
    with np.errstate(all="ignore"):
        near = [np.nextafter(np.float32(found), np.float32(d)) for d in (-np.inf, np.inf)]
    distances = [abs(Fraction(float(v)) - exact) for v in near if np.isfinite(v)]
    assert all(abs(Fraction(found) - exact) <= d for d in distances)


def test_fma_where_rounding_twice_differs() -> None:
    # 1 + 2^-24 is half-way between two float32; the tail decides, and float64 rounds it away.
    a, b, c = torch.tensor([1.0]), torch.tensor([1.0 * 2**-24]), torch.tensor([1.0])
    assert fma(a, b, c).item() == 1.0
    product = torch.tensor([2**-24 * (1 + 2**-23)]), torch.tensor([1.0])
    tail = fma(product[0], product[1], torch.tensor([1.0])).item()
    assert tail == 1.0 + 2**-23
    # (1 + 2^-12)² · 2^-24 − … : a product with bits below float64's reach of the sum.
    x = torch.tensor([1 + 2**-20]) * 2**-12
    big = torch.tensor([float(2**18)])
    exact = Fraction(x.item()) * Fraction(x.item()) + Fraction(big.item())
    assert abs(Fraction(fma(x, x, big).item()) - exact) <= Fraction(1, 2**6)


def test_fma_of_what_is_not_finite() -> None:
    inf, nan = torch.inf, torch.nan
    a, b, c = (
        torch.tensor([inf, 1.0, inf, nan, 0.0]),
        torch.tensor([2.0, 1, 0, 1, 1]),
        torch.tensor([1, -inf, 1, 1, -0.0]),
    )
    torch.testing.assert_close(fma(a, b, c), torch.tensor([inf, -inf, nan, nan, 0.0]), equal_nan=True)


@given(made=programs(), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_shapes_are_those_inferred_and_json_returns(made, seed: int) -> None:
    program, shapes = made
    case = case_of(program, shapes, seed)
    found = run_reference(program, case.blob, case.inputs)
    inferred = infer_shapes(program, shapes)
    assert [tuple(f.shape) for f in found] == [inferred[i] for i in program.outputs]
    assert all(f.dtype == torch.float32 and f.is_contiguous() for f in found)
    again = parse_program(program.to_json())
    assert again == program
    assert_same(run_reference(again, case.blob, case.inputs), found, exact=True)


@given(made=programs(exact=True, max_steps=1), seed=st.integers(0, 3))
@settings(deadline=None, max_examples=80)
def test_a_binary_convolution_is_the_eager_layer(made, seed: int) -> None:
    program, shapes = made
    step = program.steps[0]
    if not isinstance(step, BinaryConv):
        return
    case = case_of(program, shapes, seed)
    weight = torch.randn(program.constants[step.weight].shape)
    if weight[0].numel() < 3:
        return
    bare = Program(
        inputs=program.inputs, constants=(program.constants[step.weight],),
        steps=(BinaryConv(**{**vars(step), "weight": 0, "post": ()}),), outputs=(len(shapes),),
    )  # fmt: skip
    out, per_group, *kernel = weight.shape
    mode = step.pad_mode
    zero_pad = None
    padding = 0
    if step.padding == "same":
        from irnet_convert.layers.same import BinaryConv2dSame

        layer = BinaryConv2dSame(per_group * step.groups, out, tuple(kernel), step.stride, step.dilation,
                                 step.groups, bias=False)  # fmt: skip
    else:
        left, right, top, bottom = step.padding
        if mode == "zeros":
            zero_pad = step.padding
        else:
            padding = (top, left)
            assert (left, top) == (right, bottom)
        layer = BinaryConv2d(per_group * step.groups, out, tuple(kernel), step.stride, padding, step.dilation,
                             step.groups, bias=False, padding_mode=mode)  # fmt: skip
    layer.weight.data = weight
    binary = layer.binary_weight().detach()
    blob = make_blob(bare, {bare.constants[0].name: pack_bits(binary)})
    (found,) = run_reference(bare, blob, case.inputs)
    want = layer.double()(case.inputs[step.input].double(), zero_pad=zero_pad).detach()
    want = want / binary.abs().flatten(1)[:, 0].double().reshape(-1, 1, 1)
    assert torch.equal(found.double(), want)
    assert torch.equal(found, found.round())


@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_one_channel_with_one_window_in_a_row(kernel: int) -> None:
    # Marked as channels last it is what oneDNN of torch 2.15 gets wrong, and contiguous() does not unmark it.
    x = torch.randn(2, 1, 7, kernel).to(memory_format=torch.channels_last)
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=1),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(2, 1, kernel, kernel)),),
        steps=(BinaryConv(input=0, weight=0, stride=(1, 2)),), outputs=(1,),
    )  # fmt: skip
    weight = torch.randn(2, 1, kernel, kernel)
    (found,) = run_reference(program, make_blob(program, {"w": pack_bits(weight)}), [x])
    signs = [torch.where(t >= 0, 1.0, -1.0).double() for t in (x, weight)]
    assert torch.equal(found.double(), F.conv2d(*signs, stride=(1, 2)))


@pytest.mark.parametrize("features", [3, 8, 33, 100])
def test_a_binary_linear_layer_is_the_eager_layer(features: int) -> None:
    layer = BinaryLinear(features, 5, bias=False)
    x = torch.randn(2, 4, features)
    x[0, 0, :3] = torch.tensor([torch.nan, -0.0, -torch.inf])
    program = Program(
        inputs=(ValueSpec(layout="rows", rank=3, channels=features),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(5, features)),),
        steps=(BinaryLinearStep(input=0, weight=0),), outputs=(1,),
    )  # fmt: skip
    (found,) = run_reference(
        program, make_blob(program, {"w": pack_bits(layer.weight - layer.weight.mean(1, True))}), [x]
    )
    scale = layer.binary_weight().detach().abs()[:, 0]
    assert torch.equal(found * scale, layer(x).detach())


def _affine(channels: int, scale: torch.Tensor, shift: torch.Tensor, layout: str, rank: int):
    program = Program(
        inputs=(ValueSpec(layout=layout, rank=rank, channels=channels),),
        constants=tuple(ConstSpec(name=n, dtype="f32", shape=(channels,)) for n in "sb"),
        steps=(Pointwise(input=0, post=(Affine(scale=0, shift=1),)),), outputs=(1,),
    )  # fmt: skip
    return program, make_blob(program, {"s": scale, "b": shift})


@pytest.mark.parametrize(
    ("layout", "shape"), [("map", (2, 3, 3, 3)), ("rows", (2, 5, 4, 3)), ("rows", (3, 3))]
)
def test_channels_are_where_the_layout_says(layout: str, shape: tuple[int, ...]) -> None:
    scale, shift = torch.tensor([1.0, -2.0, 0.0]), torch.tensor([0.5, 0.25, -3.0])
    program, blob = _affine(3, scale, shift, layout, len(shape))
    x = torch.randn(shape)
    want = (x.movedim(1, -1) if layout == "map" else x) * scale + shift
    want = want.movedim(-1, 1) if layout == "map" else want
    torch.testing.assert_close(run_reference(program, blob, [x])[0], want)


def test_outputs_are_the_callers_own() -> None:
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=1),), constants=(),
        steps=(Pointwise(input=0),), outputs=(1, 1, 0),
    )  # fmt: skip
    x = torch.randn(1, 1, 2, 2)
    found = run_reference(program, torch.zeros(0, dtype=torch.uint8), [x])
    assert len({f.data_ptr() for f in (*found, x)}) == 4


@pytest.mark.parametrize("bits", [8, 12])
def test_quantised_convolution(bits: int) -> None:
    torch.manual_seed(0)
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=3),),
        constants=(ConstSpec(name="w", dtype="i8", shape=(4, 3, 3, 3)),),
        steps=(Conv(input=0, weight=0, input_bits=bits, padding=(1, 1, 1, 1), stride=(2, 2)),), outputs=(1,),
    )  # fmt: skip
    weight = torch.randint(-127, 128, (4, 3, 3, 3), dtype=torch.int8)
    blob = make_blob(program, {"w": weight})
    x = torch.randn(4, 3, 6, 7) * torch.tensor([1.0, 100.0, 0.0, 1.0]).reshape(4, 1, 1, 1)
    x[3, 0, 0, 0] = torch.nan
    (found,) = run_reference(program, blob, [x])
    want = F.conv2d(x, weight.float(), None, 2, 1)
    assert found[3].isnan().all()
    assert (found[2] == 0).all()
    for i in (0, 1):
        step = x[i].abs().max() / (2 ** (bits - 1) - 1)
        assert (found[i] - want[i]).abs().max() <= step / 2 * weight.float().abs().flatten(1).sum(1).max()
    # Each image by itself: the batch changes nothing.
    assert torch.equal(run_reference(program, blob, [x[1:2]])[0][0], found[1])


@pytest.mark.parametrize("shape", [(1, 4, 5, 5), (4, 5, 5), (1, 3, 1, 5)])
def test_inputs_that_do_not_fit(shape: tuple[int, ...]) -> None:
    program = Program(
        inputs=(ValueSpec(layout="map", rank=4, channels=3),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(4, 3, 3, 3)),),
        steps=(BinaryConv(input=0, weight=0),), outputs=(1,),
    )  # fmt: skip
    blob = make_blob(program, {"w": torch.zeros(4, 4, dtype=torch.uint8)})
    with pytest.raises(ArgumentError):
        run_reference(program, blob, [torch.zeros(shape)])
