"""First layers on integers: how near they are, and that their sums stay in int32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from file_cases import mixed_network
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_cases import packed_of, small_resnet

from irnet_convert.errors import ArgumentError, PackError
from irnet_convert.packed.blob import make_blob, stored
from irnet_convert.packed.stem import quantise, with_integer_stem
from irnet_convert.packed.steps import Program


@given(
    seed=st.integers(0, 2**31), bits=st.sampled_from([8, 16]), fan_in=st.sampled_from([1, 3, 27, 147, 3000]),
    spread=st.sampled_from([1e-30, 1e-3, 1.0, 1e10]),
)  # fmt: skip
@settings(deadline=None, max_examples=80)
def test_weights_are_near_and_sums_stay_in_range(seed: int, bits: int, fan_in: int, spread: float) -> None:
    g = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, fan_in, 1, 1, generator=g) * spread
    weight[1] = 0.0
    weight[2] = weight[2].sign()  # all as large as the largest: the sum is what bounds the factor
    levels, rate = quantise(weight, bits)
    top = 2 ** (bits - 1) - 1
    assert levels.dtype == (torch.int8 if bits == 8 else torch.int16)
    assert int(levels.long().abs().flatten(1).sum(1).max()) * top < 2**31
    error = (levels.double() * rate.double().reshape(-1, 1, 1, 1) - weight.double()).abs().flatten(1)
    # Half a step, and the rounding of the factor to float32.
    bound = rate.double() * (0.5 + top * 2.0**-24)
    assert (error <= bound[:, None]).all()
    assert (levels[1] == 0).all()
    assert rate.isfinite().all()


@pytest.mark.parametrize(("bits", "near"), [(8, 0.02), (16, 3e-4)])
def test_the_stem_is_near_the_real_one(bits: int, near: float) -> None:
    case = small_resnet()
    program = case.program
    stem = Program(
        inputs=program.inputs, steps=program.steps[:1], outputs=(1,),
        constants=(program.constants[0], *program.constants[4:6]),
    )  # fmt: skip
    post = stem.steps[0].post[0]
    stem = replace(stem, steps=(replace(stem.steps[0], post=(replace(post, scale=1, shift=2),)),))
    tensors = {c.name: stored(program, case.blob, i) for i, c in enumerate(program.constants)}
    case = type(case)(stem, make_blob(stem, {c.name: tensors[c.name] for c in stem.constants}), case.inputs)
    real = packed_of(case)
    found, want = (p(case.inputs[0])[0] for p in (with_integer_stem(real, bits), real))
    assert 0 < (found - want).abs().max() <= near * want.abs().max()


def test_only_first_layers_change() -> None:
    packed = packed_of(small_resnet())
    found = with_integer_stem(packed, 8)
    old, new = packed.programs[0], found.programs[0]
    assert [s.kind for s in new.steps] == [s.kind for s in old.steps]
    assert new.steps[0].input_bits == 8
    assert new.constants[new.steps[0].weight].dtype == "i8"
    assert {c.name for c in new.constants if c.dtype == "bits"} == {
        c.name for c in old.constants if c.dtype == "bits"
    }
    assert "conv1.weight" not in {c.name for c in new.constants}
    assert packed.programs[0].steps[0].input_bits is None
    with_integer_stem(mixed_network({}), 16)(small_resnet().inputs[0])


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="8 or 16"):
        with_integer_stem(packed_of(small_resnet()), 4)
    with pytest.raises(PackError, match="no real convolutions"):
        with_integer_stem(with_integer_stem(packed_of(small_resnet()), 8), 8)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_report_tells_integers_from_real_numbers(bits: int) -> None:
    real = packed_of(small_resnet())
    said = f"1 conv on {bits}-bit integers"
    assert said in str(with_integer_stem(real, bits).report())
    assert said not in str(real.report())
