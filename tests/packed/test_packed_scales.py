"""Fresh networks with scales: nothing is added behind their sums, so that a rounding would flip signs."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from irnet_convert import binarize, load_packed, pack, save_packed, to_dense
from irnet_convert.layers import BinaryConv1d, BinaryConvTranspose2d, BinaryLayer, BinaryLinear, binary_layers


def _agree(model: nn.Module, size: int) -> None:
    torch.manual_seed(0)
    example = torch.zeros(2, 3, size, size)
    student = binarize(model, example_input=example).eval()
    assert any(layer.scales_sums for _, layer in binary_layers(student))
    packed, plain, x = pack(student, example_input=example), to_dense(student), torch.randn(64, 3, size, size)
    with torch.no_grad():
        ours, theirs = packed(x), student(x)
        assert torch.equal(plain(x), theirs)
    assert theirs.abs().amax(1).min() > 1e-3
    # Real parts may round otherwise, and one of millions lie that near to 0; with inexact sums none agrees.
    near = (ours - theirs).abs().amax(1) < 1e-5
    assert near.sum() >= len(x) - 1


def test_a_vit_of_timm() -> None:
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3, num_classes=10)
    assert not vit.blocks[0].mlp.fc1.bias.any()
    _agree(vit, 32)


def test_a_vit_of_torchvision() -> None:
    torch.manual_seed(0)
    vit = torchvision.models.VisionTransformer(32, 8, 3, 4, 64, 128, num_classes=10)
    nn.init.normal_(vit.heads.head.weight)
    _agree(vit, 32)


def test_convolutions_without_bias_and_normalisation() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3), nn.Hardtanh()]
    for kernel in (3, 1, 3, 2):
        layers += [nn.Conv2d(16, 16, kernel, padding=kernel // 2, bias=False), nn.Hardtanh()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    _agree(model, 16)


@pytest.mark.parametrize("act_bits", [1, 32])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["transposed", "conv1d"])
def test_layers_that_no_step_stands_for(kind: str, bias: bool, act_bits: int, tmp_path: Path) -> None:
    """Packed, saved and loaded, bit for bit: they run in PyTorch, on ±2^s and the scale apart (W1A1)."""
    torch.manual_seed(0)
    layer: BinaryLayer = {
        "transposed": BinaryConvTranspose2d(
            40, 12, 3, stride=2, groups=2, bias=bias, scale=True, act_bits=act_bits
        ),
        "conv1d": BinaryConv1d(40, 12, 3, bias=bias, scale=True, act_bits=act_bits),
    }[kind]  # fmt: skip
    shape = (2, 40, 9, 8) if kind == "transposed" else (2, 40, 9)
    x = torch.randn(shape)
    size = layer(x)[0].numel()
    model = nn.Sequential(layer, nn.Hardtanh(), nn.Flatten(), BinaryLinear(size, 4, scale=True)).eval()
    packed = pack(model, example_input=x)
    save_packed(packed, tmp_path / "layer.safetensors")
    with torch.no_grad():
        wanted = model(x)
        assert torch.equal(packed(x), wanted)
        assert torch.equal(load_packed(tmp_path / "layer.safetensors")(x), wanted)
