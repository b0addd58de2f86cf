"""What BinaryConv2d and BinaryLinear compute, against integer arithmetic and the dense layers."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from irnet_convert.binary import sign
from irnet_convert.errors import ArgumentError, UnknownNameError
from irnet_convert.layers import BinaryConv2d, BinaryLinear


def integer_conv(x, w, stride, padding, dilation, groups):
    """Plain loops over ±1 integers; a padded place is 0."""
    (n, _, height, width), (out, inner, kh, kw) = x.shape, w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    rows = (height + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    columns = (width + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, out, rows, columns), dtype=np.int64)
    for o, r, c, i, j in itertools.product(range(out), range(rows), range(columns), range(kh), range(kw)):
        first = o // (out // groups) * inner
        place = padded[
            :, first : first + inner, r * stride[0] + i * dilation[0], c * stride[1] + j * dilation[1]
        ]
        y[:, o, r, c] += (place * w[o, :, i, j]).sum(1)
    return y


@settings(deadline=None, max_examples=25)
@given(
    groups=st.sampled_from([1, 2, 3]),
    inner=st.integers(1, 3),
    kernel=st.tuples(st.integers(2, 3), st.integers(2, 4)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    bias=st.booleans(),
    channels_last=st.booleans(),
)
def test_conv_is_integer_arithmetic(groups, inner, kernel, stride, padding, dilation, bias, channels_last):
    conv = BinaryConv2d(groups * inner, groups * 2, kernel, stride, padding, dilation, groups, bias)
    x = torch.randn(2, groups * inner, 7, 8)
    x[0, 0, :2] = 0.0
    if channels_last:
        conv, x = conv.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    binary = conv.binary_weight()
    power = binary[:, :1, :1, :1].abs()
    y = integer_conv(
        np.where(x.numpy() >= 0, 1, -1),
        (binary / power).to(torch.int64).numpy(),
        stride,
        padding,
        dilation,
        groups,
    )
    expected = torch.from_numpy(y).float() * power.reshape(1, -1, 1, 1)
    if bias:
        expected = expected + conv.bias.reshape(1, -1, 1, 1)
        torch.testing.assert_close(conv(x), expected)
    else:
        assert torch.equal(conv(x), expected)


def test_zero_padding_contributes_exactly_zero():
    """Sign after padding would make +1 of the zeros: a corner would count 9 taps and not 4."""
    conv = BinaryConv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(0.3)  # constant, so +1
    y = conv(torch.full((1, 1, 4, 4), 5.0))[0, 0]
    assert y.tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, "same"])
def test_other_padding_modes_repeat_signs(mode, padding):
    conv = BinaryConv2d(3, 4, 3, padding=padding, padding_mode=mode)
    x = torch.randn(2, 3, 5, 6)
    expected = F.conv2d(F.pad(sign(x), (1, 1, 1, 1), mode=mode), conv.binary_weight(), conv.bias)
    torch.testing.assert_close(conv(x), expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (4, 1), ((2, 3), (3, 2))])
def test_same_as_a_string(kernel, dilation):
    dense = nn.Conv2d(3, 4, kernel, padding="same", dilation=dilation)
    x = torch.randn(2, 3, 9, 8)
    shape = dense(x).shape
    conv = BinaryConv2d.from_dense(dense)
    expected = F.conv2d(sign(x), conv.binary_weight(), conv.bias, padding="same", dilation=dilation)
    assert conv(x).shape == shape
    torch.testing.assert_close(conv(x), expected)


def test_zero_pad_comes_after_the_sign():
    conv = BinaryConv2d(3, 4, 3, stride=2, padding=(0, 1))
    x = torch.randn(2, 3, 6, 6)
    pad = (0, 1, 2, 1)
    expected = F.conv2d(F.pad(sign(x), pad), conv.binary_weight(), conv.bias, 2, (0, 1))
    assert torch.equal(conv(x, zero_pad=pad), expected)
    assert not torch.equal(conv(F.pad(x, pad)), expected)
    linear = BinaryLinear(7, 2)
    rows = torch.randn(3, 5)
    padded = F.linear(F.pad(sign(rows), (1, 1)), linear.binary_weight(), linear.bias)
    assert torch.equal(linear(rows, (1, 1)), padded)


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4, 6)])
def test_linear(shape):
    linear = BinaryLinear(6, 5)
    x = torch.randn(shape)
    expected = sign(x) @ linear.binary_weight().t() + linear.bias
    torch.testing.assert_close(linear(x), expected)


def test_real_activations():
    conv = BinaryConv2d(3, 4, 3, padding=1, act_bits=32)
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(conv(x), F.conv2d(x, conv.binary_weight(), conv.bias, padding=1))


@pytest.mark.parametrize(
    "build", [lambda: BinaryConv2d(3, 4, 3, scale=True), lambda: BinaryLinear(9, 4, scale=True)]
)
def test_scale(build):
    """It starts from the magnitude that binarization takes away, and leaves the bias alone."""
    layer = build()
    w = layer.weight.detach().double().flatten(1)
    expected = (w - w.mean(1, keepdim=True)).abs().mean(1)
    torch.testing.assert_close(layer.scale.detach().double(), expected, rtol=1e-6, atol=0)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias", "scale"]
    x = torch.randn(2, 3, 5, 5) if isinstance(layer, BinaryConv2d) else torch.randn(2, 9)
    y = layer(x)
    with torch.no_grad():
        layer.scale.zero_()
    channel = (1, -1, 1, 1) if y.dim() == 4 else (1, -1)
    assert torch.equal(layer(x), layer.bias.reshape(channel).expand_as(y))
    (layer(x) * torch.randn_like(y)).sum().backward()
    assert (layer.scale.grad != 0).all()


def test_reset_parameters_resets_the_scale():
    layer = BinaryLinear(64, 4, scale=True)
    before = layer.scale.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.scale)
    torch.testing.assert_close(layer.scale.detach(), layer._initial_scale(layer.weight))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [False, True])
def test_every_float_type_agrees(dtype, scale):
    torch.manual_seed(0)
    conv = BinaryConv2d(4, 6, 3, padding=1, bias=False, scale=scale).to(dtype)
    x = torch.randn(2, 4, 5, 5).to(dtype)
    y = conv(x)
    assert y.dtype == dtype
    assert conv.binary_weight().dtype == dtype
    wide = conv.float() if dtype != torch.float64 else conv
    reference = wide(x.to(wide.weight.dtype))
    if scale:
        # Rounding of the scale is common to all taps of a channel; of the sum, relative to 36 of them.
        bound = 4 * torch.finfo(dtype).eps * 36 * conv.scale.max().item()
        torch.testing.assert_close(y.to(reference.dtype), reference, rtol=0.0, atol=bound)
    else:
        assert torch.equal(y.to(reference.dtype), reference)


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_autocast_train_eval_and_channels_last_agree(kind):
    layer = BinaryConv2d(4, 6, 3, padding=1, bias=False) if kind == "conv" else BinaryLinear(4, 6, False)
    x = torch.randn(2, 4, 4, 4)
    y = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer(x)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half.float(), y), "sums of ±2^s below 256 are exact in bfloat16"
    assert torch.equal(layer.eval()(x), y)
    with torch.no_grad():
        assert torch.equal(layer(x), y)
    assert torch.equal(layer(x.to(memory_format=torch.channels_last)), y)
    if isinstance(layer, BinaryConv2d):
        layer = layer.to(memory_format=torch.channels_last)
        assert torch.equal(layer(x.to(memory_format=torch.channels_last)), y)


def test_gradients_under_autocast_stay_close():
    torch.manual_seed(0)
    conv = BinaryConv2d(8, 6, 3, padding=1)
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    grads = []
    for enabled in (False, True):
        conv.zero_grad()
        x.grad = None
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = conv(x)
        y.float().square().mean().backward()
        grads.append((conv.weight.grad.clone(), x.grad.clone()))
    for exact, half in zip(*grads, strict=True):
        assert half.dtype == torch.float32
        assert (exact - half).abs().max() < 0.03 * exact.abs().max()


def test_nan_activations_count_as_minus_one():
    linear = BinaryLinear(3, 1, False)
    nan, minus = torch.full((1, 3), float("nan")), torch.full((1, 3), -1.0)
    assert torch.equal(linear(nan), linear(minus))


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: BinaryConv2d(2, 2, 1), ArgumentError, "2 weight"),
        (lambda: BinaryConv2d(8, 8, 1, groups=8), ArgumentError, "1 weight"),
        (lambda: BinaryLinear(2, 9), ArgumentError, "2 weight"),
        (lambda: BinaryLinear(9, 9, act_bits=2), ArgumentError, "act_bits=2"),
        (lambda: BinaryLinear(9, 9, t_min=0.0), ArgumentError, "t_min=0.0"),
        (lambda: BinaryLinear(9, 9, method="irnett"), UnknownNameError, "did you mean 'irnet'"),
        (lambda: BinaryConv2d.from_dense(nn.Linear(9, 9)), ArgumentError, "a Linear for BinaryConv2d"),
        (lambda: BinaryLinear.from_dense(BinaryLinear(9, 9)), ArgumentError, "not binary yet"),
    ],
)
def test_bad_arguments(build, error, text):
    with pytest.raises(error, match=text):
        build()
