"""What OpenVINO itself computes of an export, against the reference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from chosen_cases import assert_same, decided, pooling_cases
from hypothesis import assume, given, reject, settings
from openvino import opset14
from packed_cases import packed_of, small_resnet
from program_cases import Case, Made, case_of, programs
from torch import Tensor

from irnet_convert.errors import ArgumentError, MissingExtraError, PackedFileError, PackError
from irnet_convert.extras import openvino_core
from irnet_convert.packed import export_openvino
from irnet_convert.packed.openvino_steps import Operators
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.steps import BinaryConv, ConstSpec, MaxPool, Program, ValueSpec

CORE = openvino_core()
CONFIG = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}


def run(network: ov.Model | Path, inputs: list[Tensor]) -> list[Tensor]:
    compiled = CORE.compile_model(network, "CPU", CONFIG)
    found = compiled([x.numpy() for x in inputs])
    return [torch.from_numpy(found[i].copy()) for i in range(len(compiled.outputs))]


def network_of(case: Case) -> ov.Model:
    inputs = [opset14.parameter(list(x.shape), ov.Type.f32) for x in case.inputs]
    made = Operators(case.program, case.blob, inputs, [tuple(x.shape) for x in case.inputs])
    return ov.Model([opset14.result(node) for node in made.outputs], inputs)


def _reject_what_is_refused(case: Case) -> None:
    try:
        network_of(case)
    except PackError as error:
        if "covers one place" not in str(error):
            raise
        reject()


def test_padding_of_a_kernel_of_one_place_is_refused() -> None:
    program = Program(
        inputs=(ValueSpec(layout="map", channels=3, rank=4),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(2, 3, 3, 1)),),
        steps=(BinaryConv(input=0, weight=0, padding=(1, 0, 0, 0)),),
        outputs=(1,),
    )
    with pytest.raises(PackError, match="covers one place"):
        network_of(case_of(program, [(1, 3, 4, 4)]))


@given(made=programs(exact=True))
@settings(deadline=None, max_examples=60)
def test_binary_programs(made: Made) -> None:
    case = case_of(*made, special=False)
    _reject_what_is_refused(case)
    # An affine is a multiplication and an addition there, or one of both: within a rounding of the reference.
    assert_same(
        run(network_of(case), case.inputs), run_reference(case.program, case.blob, case.inputs), exact=False
    )


@given(made=programs())
@settings(deadline=None, max_examples=40)
def test_programs_with_real_steps(made: Made) -> None:
    case = case_of(*made, special=False)
    assume(decided(case))
    _reject_what_is_refused(case)
    assert_same(
        run(network_of(case), case.inputs), run_reference(case.program, case.blob, case.inputs), exact=False
    )


@pytest.mark.parametrize("channels", [8, 32, 33, 64])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3), "same"])
def test_accumulators_are_exact_for_every_input(channels: int, padding) -> None:
    """±0 and infinities in the input, padding that contributes 0; 64 channels go by bits, 33 do not."""
    program = Program(
        inputs=(ValueSpec(layout="map", channels=channels, rank=4),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(24, channels, 3, 3)),),
        steps=(BinaryConv(input=0, weight=0, padding=padding),), outputs=(1,),
    )  # fmt: skip
    case = case_of(program, [(2, channels, 9, 7)], special=False)
    case.inputs[0][0, :, 0] = torch.tensor([-1e-45, 1e-45, -0.0, 0.0, 1.0, torch.inf, -torch.inf])
    want = run_reference(program, case.blob, case.inputs)
    assert_same(run(network_of(case), case.inputs), want, exact=True)


@pytest.mark.parametrize("channels", [32, 33])
def test_sign_of_nan_is_one_of_the_two(channels: int) -> None:
    """−1 with OpenVINO's kernels for AVX2, as in PyTorch, +1 with those for AVX-512; the rest is exact."""
    program = Program(
        inputs=(ValueSpec(layout="map", channels=channels, rank=4),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(24, channels, 1, 1)),),
        steps=(BinaryConv(input=0, weight=0),), outputs=(1,),
    )  # fmt: skip
    case = case_of(program, [(1, channels, 5, 5)], special=False)
    case.inputs[0][0, :, 2, 3] = torch.nan
    (found,) = run(network_of(case), case.inputs)
    either = []
    for sign in (-1.0, 1.0):
        (want,) = run_reference(program, case.blob, [case.inputs[0].nan_to_num(sign)])
        either.append(torch.equal(found, want))
    assert sum(either) == 1


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 0, 0, 1), (1, 1, 1, 1)])
def test_other_padding_between_a_pooling_and_bits(mode: Any, padding: Any) -> None:
    program = Program(
        inputs=(ValueSpec(layout="map", channels=64, rank=4),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(8, 64, 3, 3)),),
        steps=(
            MaxPool(input=0, kernel=(2, 2), stride=(1, 1)),
            BinaryConv(input=1, weight=0, pad_mode=mode, padding=padding),
        ),
        outputs=(2,),
    )
    case = case_of(program, [(1, 64, 5, 5)], special=False)
    want = run_reference(program, case.blob, case.inputs)
    assert_same(run(network_of(case), case.inputs), want, exact=True)


@pytest.mark.parametrize("case", pooling_cases())
def test_pooling_windows_that_reach_over_the_end(case: Case) -> None:
    want = run_reference(case.program, case.blob, case.inputs)
    assert_same(run(network_of(case), case.inputs), want, exact=False)


def kinds_of(path: Path) -> list[str]:
    return [op.get_type_name() for op in CORE.read_model(path).get_ops()]


def test_export_writes_bits_that_openvino_runs(tmp_path: Path) -> None:
    case = small_resnet()
    export_openvino(packed_of(case), tmp_path / "net.xml", input_size=(3, 17, 15), batch=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert kinds_of(tmp_path / "net.xml").count("BinaryConvolution") == 2
    # float32 for what is real, one bit for what is not.
    real = sum(np.prod(c.shape) for c in case.program.constants if c.dtype == "f32")
    bits = sum(np.prod(c.shape) for c in case.program.constants if c.dtype == "bits")
    assert (tmp_path / "net.bin").stat().st_size < 4 * real + bits / 8 + 1500
    want = run_reference(case.program, case.blob, case.inputs)
    assert_same(run(tmp_path / "net.xml", case.inputs), want, exact=False)
    assert CORE.read_model(tmp_path / "net.xml").inputs[0].get_any_name() == "x0"


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed_of(small_resnet())
    with pytest.raises(ArgumentError, match=r"net\.xml"):
        export_openvino(packed, tmp_path / "net.onnx")
    with pytest.raises(ArgumentError, match="input_size"):
        export_openvino(packed, tmp_path / "net.xml")
    with pytest.raises(ArgumentError, match="input_size"):
        export_openvino(packed, tmp_path / "net.xml", input_size=(4, 17, 15))
    with pytest.raises(PackedFileError, match="cannot be written"):
        export_openvino(packed, tmp_path / "none" / "net.xml", input_size=(3, 17, 15))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"irnet-convert\[openvino\]"):
        export_openvino(packed, tmp_path / "net.xml", input_size=(3, 17, 15))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 0)])
@pytest.mark.parametrize("side", [(5, 3), (5, 4), (4, 3), (5, 5)])
@pytest.mark.parametrize("stride", [(1, 2), (1, 3), (2, 3)])
def test_a_column_of_one_channel(
    stride: tuple[int, int], side: tuple[int, int], padding: tuple[int, int, int, int]
) -> None:
    """Its plugin reads past such a map where the horizontal stride is larger than the vertical one."""
    program = Program(
        inputs=(ValueSpec(layout="map", channels=1, rank=4),),
        constants=(ConstSpec(name="w", dtype="bits", shape=(3, 1, 3, 3)),),
        steps=(BinaryConv(input=0, weight=0, stride=stride, padding=padding),),
        outputs=(1,),
    )
    case = case_of(program, [(2, 1, *side)], special=False)
    want = run_reference(case.program, case.blob, case.inputs)
    assert_same(run(network_of(case), case.inputs), want, exact=True)
