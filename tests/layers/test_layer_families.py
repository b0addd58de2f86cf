"""The families that replace timm's own layers, against those layers; and the table that chooses."""

import re

import pytest
import torch
import torch.nn.functional as F
from timm import layers as timm_layers
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrizations, prune
from torchvision.models.video.resnet import Conv3DNoTemporal, Conv3DSimple

from irnet_convert.binary import sign
from irnet_convert.errors import ArgumentError
from irnet_convert.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv2dSame,
    BinaryConv3d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
    BinaryLinear,
    BinaryMultiheadAttention,
    BinaryScaledStdConv2d,
    BinaryScaledStdConv2dSame,
    BinaryStdConv2d,
    BinaryStdConv2dSame,
    SignedLayer,
    binary_class_of,
)
from irnet_convert.layers.table import _table

SAME = {
    timm_layers.Conv2dSame: BinaryConv2dSame,
    timm_layers.StdConv2dSame: BinaryStdConv2dSame,
    timm_layers.ScaledStdConv2dSame: BinaryScaledStdConv2dSame,
}
STD = {
    timm_layers.StdConv2d: BinaryStdConv2d,
    timm_layers.StdConv2dSame: BinaryStdConv2dSame,
    timm_layers.ScaledStdConv2d: BinaryScaledStdConv2d,
    timm_layers.ScaledStdConv2dSame: BinaryScaledStdConv2dSame,
}
PLAIN = {
    nn.Conv1d: BinaryConv1d,
    nn.Conv2d: BinaryConv2d,
    nn.Conv3d: BinaryConv3d,
    nn.ConvTranspose1d: BinaryConvTranspose1d,
    nn.ConvTranspose2d: BinaryConvTranspose2d,
    nn.ConvTranspose3d: BinaryConvTranspose3d,
    Conv3DSimple: BinaryConv3d,
    Conv3DNoTemporal: BinaryConv3d,
    nn.Linear: BinaryLinear,
    timm_layers.Linear: BinaryLinear,
    NonDynamicallyQuantizableLinear: BinaryLinear,
}
ATTENTION = {nn.MultiheadAttention: BinaryMultiheadAttention}


VIDEO = (Conv3DSimple, Conv3DNoTemporal)


@pytest.mark.parametrize(
    ("dense", "binary"), [*PLAIN.items(), *SAME.items(), *STD.items(), *ATTENTION.items()]
)
def test_table(dense, binary):
    args = (6, 3) if dense in ATTENTION else (4, 6)
    layer = dense(*args) if issubclass(dense, nn.Linear) or dense in (*VIDEO, *ATTENTION) else dense(4, 6, 3)
    assert binary_class_of(layer) is binary
    assert type(binary.from_dense(layer)) is binary


def test_the_table_is_tested_whole():
    assert set(_table()) == {*PLAIN, *SAME, *STD, *ATTENTION}


class Odd(nn.Conv2d):
    pass


class OddLinear(nn.Linear):
    pass


class OddTransposed(nn.ConvTranspose3d):
    pass


def _patched():
    layer = nn.Linear(4, 4)
    layer.forward = layer.forward
    return layer


def _with_scale():
    layer = nn.Linear(4, 4)
    layer.scale = 2.0
    return layer


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (Odd(4, 4, 3), "unknown subclass of Conv2d .*Odd"),
        (OddLinear(4, 4), "unknown subclass of Linear .*OddLinear"),
        (OddTransposed(4, 4, 3), "unknown subclass of ConvTranspose3d .*OddTransposed"),
        (timm_layers.CondConv2d(4, 4, 3), "CondConv2d is not a convolution"),
        (nn.Conv2d(4, 4, 1, groups=4), "fan-in 1"),
        (nn.Conv2d(2, 4, 1), "fan-in 2"),
        (nn.Linear(2, 4), "fan-in 2"),
        (prune.identity(nn.Linear(4, 4), "weight"), "not a plain parameter"),
        (parametrizations.weight_norm(nn.Linear(4, 4)), "parametrization"),
        (nn.LazyConv2d(4, 3), "lazy"),
        (nn.LazyLinear(4), "lazy"),
        (BinaryLinear(4, 4), "already binary"),
        (nn.ReLU(), "ReLU is not a convolution"),
        (nn.Linear(4, 4, dtype=torch.complex64), "complex64"),
        (_patched(), "forward was replaced"),
        (_with_scale(), "attribute of its own .* scale"),
    ],
)
def test_reasons(layer, text):
    reason = binary_class_of(layer)
    assert isinstance(reason, str)
    assert re.search(text, reason)


def test_a_lazy_layer_converts_once_it_ran():
    layer = nn.LazyConv2d(4, 3)
    layer(torch.randn(1, 3, 5, 5))
    assert binary_class_of(layer) is BinaryConv2d


@pytest.mark.parametrize("dense", list(SAME))
@pytest.mark.parametrize("kernel", [2, 3, 5])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("size", [(7, 8), (12, 13)])
def test_same_padding_is_timms_after_the_sign(dense, kernel, stride, dilation, size):
    layer = dense(4, 6, kernel, stride=stride, dilation=dilation)
    x = torch.randn(2, 4, *size)
    shape = layer(x).shape
    binary = SAME[dense].from_dense(layer)
    padded = timm_layers.pad_same(sign(x), (kernel, kernel), (stride, stride), (dilation, dilation))
    with torch.no_grad():
        weight = binary._scaled_weight(binary.ede)
    expected = F.conv2d(padded, weight, binary.bias, stride, 0, dilation)
    y = binary(x)
    assert y.shape == shape
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(binary.to_dense()(x), y)


def test_same_with_real_activations_to_dense():
    binary = BinaryConv2dSame(4, 6, 3, stride=2, act_bits=32)
    x = torch.randn(2, 4, 7, 8)
    dense = binary.to_dense()
    assert isinstance(dense, SignedLayer)
    assert dense.sign is None
    torch.testing.assert_close(dense(x), binary(x))


@pytest.mark.parametrize("dense", list(STD))
def test_standardisation_leaves_the_sign_unchanged(dense):
    layer = dense(4, 6, 3)
    with torch.no_grad():
        layer.weight.add_(0.1)
        if hasattr(layer, "gain"):
            layer.gain.uniform_(0.5, 2)
    timms = _effective(layer)
    binary = STD[dense].from_dense(layer)
    assert torch.equal(torch.sign(binary.binary_weight()), torch.sign(timms))


@pytest.mark.parametrize("dense", [timm_layers.StdConv2d, timm_layers.StdConv2dSame])
def test_std_scale_starts_from_the_standardised_weights(dense):
    """The latents' own magnitude never reaches timm's output."""
    layer = dense(4, 6, 3)
    with torch.no_grad():
        layer.weight.mul_(1000)
    expected = _effective(layer).abs().mean((1, 2, 3))
    binary = STD[dense].from_dense(layer, scale=True)
    torch.testing.assert_close(binary.scale.detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        binary.to_dense().layer.weight.abs().mean((1, 2, 3)), expected, rtol=0.5, atol=0
    )


@pytest.mark.parametrize("dense", [timm_layers.ScaledStdConv2d, timm_layers.ScaledStdConv2dSame])
def test_scaled_std_keeps_gain_and_constant(dense):
    layer = dense(4, 6, 3, gamma=1.7)
    with torch.no_grad():
        layer.gain.uniform_(0.5, 2)
    keys, gain, x = list(layer.state_dict()), layer.gain, torch.randn(2, 4, 9, 9)
    binary = STD[dense].from_dense(layer)
    assert list(binary.state_dict()) == keys
    assert binary.gain is gain
    assert binary.scale is None
    factor = gain.detach() * 1.7 * 36**-0.5
    plain = binary.to_dense()
    torch.testing.assert_close(plain.scale, factor)
    assert torch.equal(plain.layer.weight, binary.binary_weight())
    assert torch.equal(plain(x), binary(x))
    binary(x).square().sum().backward()
    assert (binary.gain.grad != 0).all()
    timms = _effective(layer).abs().mean((1, 2, 3))
    weight = binary.binary_weight() * plain.scale
    torch.testing.assert_close(weight.abs().mean((1, 2, 3)), timms, rtol=0.5, atol=0)


def test_scaled_std_takes_no_second_scale():
    with pytest.raises(ArgumentError, match="gain"):
        BinaryScaledStdConv2d.from_dense(timm_layers.ScaledStdConv2d(4, 6, 3), scale=True)


@pytest.mark.parametrize(
    ("binary", "dense"),
    [
        (BinaryScaledStdConv2d(4, 6, 3, gamma=1.7, gain_init=0.5), timm_layers.ScaledStdConv2d),
        (BinaryScaledStdConv2dSame(4, 6, 3, gamma=1.7, gain_init=0.5), timm_layers.ScaledStdConv2dSame),
    ],
)
def test_scaled_std_built_directly(binary, dense):
    timms = dense(4, 6, 3, gamma=1.7, gain_init=0.5)
    assert binary.fan_in_scale == pytest.approx(timms.scale)
    assert torch.equal(binary.gain, timms.gain)
    timms.load_state_dict(binary.state_dict())


def _effective(layer):
    """The weights that timm's layer convolves with, seen through its own forward."""
    out, inner, kernel, _ = layer.weight.shape
    seen = torch.zeros_like(layer.weight)
    bare = type(layer)(inner, out, kernel, padding="valid" if "Same" in type(layer).__name__ else 0)
    bare.load_state_dict(layer.state_dict())
    if hasattr(layer, "gain"):
        bare.scale = layer.scale if hasattr(layer, "scale") else layer.fan_in_scale
    for i in range(inner):
        for r in range(kernel):
            for c in range(kernel):
                x = torch.zeros(1, inner, kernel, kernel)
                x[0, i, r, c] = 1.0
                y = bare(x)[0, :, 0, 0] - (0 if bare.bias is None else bare.bias)
                seen[:, i, r, c].data.copy_(y.detach())
    return seen.detach()
