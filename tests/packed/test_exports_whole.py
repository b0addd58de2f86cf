"""A whole binarized network through both exports, against the model in PyTorch."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from file_cases import mixed_network
from torch import Tensor, nn

import irnet_convert
from irnet_convert.errors import ArgumentError, PackError
from irnet_convert.extras import openvino_core
from irnet_convert.networks import create_model
from irnet_convert.packed import export_onnx, export_openvino


@pytest.fixture(scope="module")
def student() -> nn.Module:
    """CIFAR ResNet-20 with statistics as if it had been trained."""
    torch.manual_seed(0)
    model = irnet_convert.binarize(create_model("timm/cifar_resnet20"), inplace=True).train()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
        for _ in range(3):
            model(torch.randn(32, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def assert_near(found: Tensor, want: Tensor) -> None:
    """Equal to rounding, but for the few images of which a value sits on the edge of a sign."""
    near = (found - want).abs().amax(1) <= 1e-4
    assert near.float().mean() >= 0.9
    assert (found.argmax(1) == want.argmax(1)).float().mean() >= 0.95


@torch.no_grad()
def test_openvino(student: nn.Module, images: Tensor, tmp_path: Path) -> None:
    export_openvino(student, tmp_path / "net.xml", batch=48)
    config = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(tmp_path / "net.xml", "CPU", config)
    assert_near(torch.from_numpy(compiled(images.numpy())[0]), student(images))
    kinds = [op.get_type_name() for op in openvino_core().read_model(tmp_path / "net.xml").get_ops()]
    assert kinds.count("BinaryConvolution") == 18


@torch.no_grad()
def test_onnx_runtime(student: nn.Module, images: Tensor, tmp_path: Path) -> None:
    export_onnx(student, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert_near(torch.from_numpy(found), student(images))
    # 265,000 of the 270,000 weights take a bit each.
    assert (tmp_path / "net.onnx").stat().st_size < 90_000


def test_networks_with_parts_in_pytorch_are_refused(tmp_path: Path) -> None:
    mixed = mixed_network({"model": "Mixed"})
    for export, name in ((export_openvino, "net.xml"), (export_onnx, "net.onnx")):
        with pytest.raises(PackError, match=r"export of Mixed.*softmax"):
            export(mixed, tmp_path / name, input_size=(3, 17, 15))
    with pytest.raises(PackError, match="no binary layer"):
        export_onnx(nn.Linear(4, 4), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("export", "name"), [(export_onnx, "net.onnx"), (export_openvino, "net.xml")])
def test_a_size_that_is_no_sequence(student: nn.Module, export, name: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)input_size=32.*\(3, 224, 224\)"):
        export(student, tmp_path / name, input_size=32)
    assert not list(tmp_path.iterdir())
