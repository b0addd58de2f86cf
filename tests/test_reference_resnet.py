"""A converted resnet18 is IR-Net's ImageNet ResNet-18: compared with one written by hand from the equations.

Sources: Qin et al., CVPR 2020, eqs. 2-8 (Libra-PB); Liu et al., ECCV 2018, fig. 3 (a shortcut around every
binary convolution). Nothing here uses the package but for the conversion itself.
"""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from irnet_convert.convert import binarize

State = dict[str, Tensor]
CHANNELS = (64, 128, 256, 512)


def _sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def _libra(w: Tensor) -> Tensor:
    mean, std = w.mean((1, 2, 3), keepdim=True), w.std((1, 2, 3), keepdim=True)
    standard = (w - mean) / std
    shift = standard.abs().mean((1, 2, 3), keepdim=True).log2().round()
    return _sign(standard) * 2**shift


def _norm(s: State, name: str, x: Tensor, training: bool) -> Tensor:
    if training:
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
    else:
        mean, var = s[f"{name}.running_mean"], s[f"{name}.running_var"]
    scale = s[f"{name}.weight"] / (var + 1e-5).sqrt()
    return x * scale.reshape(-1, 1, 1) + (s[f"{name}.bias"] - mean * scale).reshape(-1, 1, 1)


def reference(s: State, x: Tensor, training: bool = False) -> Tensor:
    """IR-Net's ResNet-18 on float64 (N, 3, H, W) images."""
    x = F.conv2d(x, s["conv1.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.hardtanh(_norm(s, "bn1", x, training)), 3, 2, 1)
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            name, skip = f"layer{stage + 1}.{block}", x
            if stride == 2:
                skip = F.conv2d(x, s[f"{name}.downsample.0.weight"], stride=2)
                skip = _norm(s, f"{name}.downsample.1", skip, training)
            h = F.conv2d(_sign(x), _libra(s[f"{name}.conv1.weight"]), stride=stride, padding=1)
            h = F.hardtanh(_norm(s, f"{name}.bn1", h, training) + skip)
            y = F.conv2d(_sign(h), _libra(s[f"{name}.conv2.weight"]), padding=1)
            y = _norm(s, f"{name}.bn2", y, training) + h
            # What comes last feeds the real classifier alone, so its ReLU stays.
            x = F.relu(y) if (stage, block) == (3, 1) else F.hardtanh(y)
    return F.linear(x.mean((2, 3)), s["fc.weight"], s["fc.bias"])


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_converted_resnet18_equals_the_reference(library: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet18") if library == "timm" else torchvision.models.resnet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=2.0)
            nn.init.uniform_(module.running_var, 10.0, 30.0)
    model = model.double().eval()
    student = binarize(model)
    state = model.state_dict()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        plain = model(images)
        got = student(images)
        want = reference(state, images)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(got, plain, rtol=1e-2, atol=1e-2)
        got = copy.deepcopy(student).train()(images)
        torch.testing.assert_close(got, reference(state, images, training=True), rtol=1e-9, atol=1e-9)
        # Another image size, and float32.
        small = torch.randn(1, 3, 40, 48, dtype=torch.float64)
        torch.testing.assert_close(student(small), reference(state, small), rtol=1e-9, atol=1e-9)
