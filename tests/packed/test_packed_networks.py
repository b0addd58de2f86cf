"""Whole networks, packed, against the eager binarized model."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import timm
import torch
from stepwise import steps_alone
from timm.layers import Conv2dSame, ScaledStdConv2dSame, StdConv2dSame
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchvisionBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.vgg import make_layers

import irnet_convert
from irnet_convert.networks.cifar import CifarResNet
from irnet_convert.packed import PackedModel, pack

#: Constructor, image size, and the regions that it becomes: one for each whose parts all fuse.
NETWORKS: dict[str, tuple[Any, int, int]] = {
    "cifar_resnet8": (lambda: CifarResNet(8, head_bn=True), 32, 1),
    "vgg_small": (lambda: timm.create_model("vgg_small"), 32, 1),
    "timm resnet": (lambda: ResNet(BasicBlock, (1, 1, 1, 1), 10), 64, 1),
    "timm bottlenecks": (lambda: bottlenecks(), 64, 1),
    "torchvision resnet": (lambda: TorchvisionResNet(TorchvisionBlock, [1, 1, 1, 1], 10), 64, 1),
    "torchvision vgg": (
        lambda: nn.Sequential(
            make_layers([16, "M", 24, "M", 32, "M"], True), nn.AdaptiveAvgPool2d(7), nn.Flatten(),
            nn.Linear(32 * 49, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 64), nn.ReLU(True),
            nn.Linear(64, 10),
        ), 56, 1,
    ),
    "densenet": (lambda: timm.models.DenseNet(growth_rate=8, block_config=(2, 2), num_classes=10), 64, 1),
    "SAME padding": (lambda: same_network(), 37, 1),
    "convnext": (lambda: convnext(), 64, 3),
    "vit": (
        lambda: timm.models.VisionTransformer(
            img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=2, num_classes=10
        ), 32, 6,
    ),
}  # fmt: skip


def same_network() -> nn.Module:
    """Every kind of convolution whose padding follows the image's size."""
    return nn.Sequential(
        Conv2dSame(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), StdConv2dSame(8, 12, 3), nn.BatchNorm2d(12),
        nn.ReLU(), Conv2dSame(12, 12, 5, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU6(),
        ScaledStdConv2dSame(12, 16, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def bottlenecks() -> nn.Module:
    """The first half of a network with a deep stem: every kind of layer that the whole one has."""
    whole = ResNet(Bottleneck, (1, 1, 1, 1), 10, stem_type="deep", avg_down=True)
    return nn.Sequential(
        whole.conv1, whole.bn1, whole.act1, whole.maxpool, whole.layer1, whole.layer2,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def convnext() -> nn.Module:
    """Likewise."""
    whole = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), num_classes=10)
    return nn.Sequential(
        whole.stem, *list(whole.stages)[:2], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )


def stir(model: nn.Module) -> None:
    """Normalisations as after a training, with gammas below zero and a few that are zero."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
                norm.running_mean.copy_(torch.randn(norm.num_features, generator=g) * 0.3)
                norm.running_var.copy_(torch.rand(norm.num_features, generator=g) + 0.5)
                gamma = torch.randn(norm.num_features, generator=g)
                gamma[torch.rand(norm.num_features, generator=g) < 0.1] = 0
                norm.weight.copy_(gamma)
                norm.bias.copy_(torch.randn(norm.num_features, generator=g) * 0.3)
            elif isinstance(norm, nn.Linear | nn.Conv2d) and norm.bias is not None:
                # Fresh ones are 0, and a sum of ±scale that should be 0 is rounding noise in the eager layer.
                norm.bias.copy_(torch.randn(norm.bias.shape, generator=g) * 0.1)


@functools.cache
def binarized(name: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    make, size, _ = NETWORKS[name]
    x = torch.randn(2, 3, size, size)
    model = irnet_convert.binarize(make().eval(), example_input=x)
    stir(model)
    return model, x


@functools.cache
def packed_of(name: str) -> PackedModel:
    model, x = binarized(name)
    return pack(model, example_input=x)


@pytest.mark.parametrize("name", NETWORKS)
def test_regions(name: str) -> None:
    packed = packed_of(name)
    regions = NETWORKS[name][2]
    assert len(packed.programs) == regions, packed.report()
    if regions == 1:
        assert packed.report().operators == {}, packed.report()


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_network(name: str) -> None:
    model, x = binarized(name)
    torch.manual_seed(2)
    x = torch.randn(12, *x.shape[1:])
    with torch.no_grad():
        want = model(x)
        found = torch.cat([packed_of(name)(x[:1]), packed_of(name)(x[1:6]), packed_of(name)(x[6:])])
    # Where a value lies within a rounding of zero its sign may differ, and in a network that is not trained
    # all that follows; test_every_step_alone is what says that each step is right.
    scale = float(want.abs().max())
    close = (found - want).abs().amax(1) <= 1e-4 * max(scale, 1)
    assert int(close.sum()) >= 9, (found - want).abs().amax(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_step_alone(name: str) -> None:
    model, x = binarized(name)
    checked = steps_alone(model, x)
    assert len(checked) == sum(len(p.steps) for p in packed_of(name).programs)
    for step, found, want in checked:
        worst = float((found - want).abs().max())
        assert worst <= 1e-5 * max(1.0, float(want.abs().max())), step


@pytest.mark.parametrize("name", ["cifar_resnet8", "timm resnet", "densenet", "SAME padding"])
def test_other_image_sizes(name: str) -> None:
    model, x = binarized(name)
    torch.manual_seed(3)
    other = torch.randn(8, 3, x.shape[2] + 9, x.shape[3] + 24)
    with torch.no_grad():
        want, found = model(other), packed_of(name)(other)
    close = (found - want).abs().amax(1) <= 1e-4 * max(float(want.abs().max()), 1)
    assert int(close.sum()) >= 6


def test_the_example_is_the_one_of_the_conversion() -> None:
    model, x = binarized("vgg_small")
    found = pack(model)
    assert found.network == packed_of("vgg_small").network
    assert found.source["architecture"] == "vgg_small"
    assert found.source["input_size"] == (3, 32, 32)
    assert torch.equal(found(x), packed_of("vgg_small")(x))


def test_weights_on_disk_are_bits() -> None:
    model, _ = binarized("timm resnet")
    (program,) = packed_of("timm resnet").programs
    bits = {c.name: c.shape for c in program.constants if c.dtype == "bits"}
    layers = {
        f"{n}.weight": tuple(m.weight.shape) for n, m in model.named_modules() if hasattr(m, "act_bits")
    }
    assert bits == layers
    # Latents of 4 bytes became bits; the stem, three downsamples, the head and affines are real.
    assert packed_of("timm resnet").report().regions[0].bit_bytes == sum(
        s[0] * -(-s[1] * s[2] * s[3] // 8) for s in layers.values()
    )
