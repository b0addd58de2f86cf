"""What ONNX Runtime itself computes of an export, against the reference."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from chosen_cases import assert_same, decided, pooling_cases
from hypothesis import assume, given, settings
from onnx.reference import ReferenceEvaluator
from packed_cases import packed_of, small_resnet
from program_cases import Case, Made, case_of, programs
from torch import Tensor

from irnet_convert.errors import ArgumentError, MissingExtraError, PackedFileError
from irnet_convert.packed import export_onnx
from irnet_convert.packed.blob import constant
from irnet_convert.packed.onnx import onnx_model
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.shapes import infer_shapes
from irnet_convert.packed.steps import Affine, BinaryConv, ConstSpec, Program, ValueSpec
from irnet_convert.packed.whole import Whole


def run(network: onnx.ModelProto | Path, inputs: list[Tensor]) -> list[Tensor]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    model = str(network) if isinstance(network, Path) else network.SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, given)]


def network_of(case: Case) -> onnx.ModelProto:
    shapes = [tuple(x.shape) for x in case.inputs]
    values = infer_shapes(case.program, shapes)
    return onnx_model(
        Whole(
            program=case.program, blob=case.blob, name="case", inputs=[f"x{i}" for i in range(len(shapes))],
            shapes=[*shapes], outputs=[values[i] for i in case.program.outputs],
        )
    )  # fmt: skip


@given(made=programs(exact=True))
@settings(deadline=None, max_examples=80)
def test_binary_programs(made: Made) -> None:
    case = case_of(*made, special=False)
    want = run_reference(case.program, case.blob, case.inputs)
    assert_same(run(network_of(case), case.inputs), want, exact=False)


@given(made=programs())
@settings(deadline=None, max_examples=60)
def test_programs_with_real_steps(made: Made) -> None:
    case = case_of(*made, special=False)
    assume(decided(case))
    want = run_reference(case.program, case.blob, case.inputs)
    assert_same(run(network_of(case), case.inputs), want, exact=False)


@pytest.mark.parametrize("case", pooling_cases())
def test_pooling_windows_that_reach_over_the_end(case: Case) -> None:
    """ONNX's rounding up counts windows that PyTorch leaves out, and its runtimes divide by other counts."""
    assert_same(
        run(network_of(case), case.inputs), run_reference(case.program, case.blob, case.inputs), exact=False
    )


@pytest.mark.parametrize("channels", [1, 8, 33, 64])
@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (3, 3, 3, 3), "same"])
def test_accumulators_are_exact_for_every_input(channels: int, padding) -> None:
    """±0, NaN and infinities in the input, padding that contributes 0, and scales that must not be folded."""
    program = Program(
        inputs=(ValueSpec(layout="map", channels=channels, rank=4),),
        constants=(
            ConstSpec(name="w", dtype="bits", shape=(24, channels, 3, 3)),
            ConstSpec(name="scale", dtype="f32", shape=(24,)),
            ConstSpec(name="shift", dtype="f32", shape=(24,)),
        ),
        steps=(
            BinaryConv(input=0, weight=0, padding=padding),
            BinaryConv(input=0, weight=0, padding=padding, post=(Affine(scale=1, shift=2),)),
        ),
        outputs=(1, 2),
    )  # fmt: skip
    case = case_of(program, [(2, channels, 9, 7)])
    case.inputs[0][0, :, 0] = torch.tensor([-1e-45, 1e-45, -0.0, 0.0, torch.nan, torch.inf, -torch.inf])
    found, want = run(network_of(case), case.inputs), run_reference(program, case.blob, case.inputs)
    assert_same(found[:1], want[:1], exact=True)
    scale, shift = (constant(program, case.blob, i).double().reshape(-1, 1, 1) for i in (1, 2))
    # One rounding of the product and one of the sum, from the exact sum of ±1.
    bound = 2.0**-23 * ((want[0] * scale).abs() + shift.abs())
    assert ((found[1].double() - (want[0] * scale + shift)).abs() <= bound).all()


def test_export_keeps_weights_packed_and_the_batch_free(tmp_path: Path) -> None:
    case = small_resnet(batch=3)
    export_onnx(packed_of(case), tmp_path / "net.onnx", input_size=(3, 17, 15))
    model = onnx.load(tmp_path / "net.onnx")
    stored = {c.name: onnx.numpy_helper.to_array(c) for c in model.graph.initializer}
    for spec in case.program.constants:
        if spec.dtype == "bits":
            assert stored[spec.name].dtype == np.uint8
            assert stored[spec.name].size == spec.shape[0] * -(-int(np.prod(spec.shape[1:])) // 8)
    assert model.opset_import[0].domain == ""
    assert {n.domain for n in model.graph.node} == {""}
    want = run_reference(case.program, case.blob, case.inputs)
    assert_same(run(tmp_path / "net.onnx", case.inputs), want, exact=False)
    assert_same(run(tmp_path / "net.onnx", [case.inputs[0][:1]]), [want[0][:1]], exact=False)


def test_onnx_s_own_reference_agrees(tmp_path: Path) -> None:
    """Another implementation of the standard, so that the export is no dialect of one runtime."""
    case = small_resnet(batch=1)
    found = ReferenceEvaluator(network_of(case)).run(None, {"x0": case.inputs[0].numpy()})
    want = run_reference(case.program, case.blob, case.inputs)
    assert_same([torch.from_numpy(y) for y in found], want, exact=False)


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = packed_of(small_resnet())
    with pytest.raises(ArgumentError, match=r"net\.onnx"):
        export_onnx(packed, tmp_path / "net.pt")
    with pytest.raises(ArgumentError, match="input_size"):
        export_onnx(packed, tmp_path / "net.onnx")
    with pytest.raises(PackedFileError, match="cannot be written"):
        export_onnx(packed, tmp_path / "none" / "net.onnx", input_size=(3, 17, 15))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"irnet-convert\[onnx\]"):
        export_onnx(packed, tmp_path / "net.onnx", input_size=(3, 17, 15))
    assert list(tmp_path.iterdir()) == []
