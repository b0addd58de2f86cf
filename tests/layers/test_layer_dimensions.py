"""Convolutions and transposed convolutions of every dimension: values, gradients, state, dense form."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from irnet_convert.binary import sign
from irnet_convert.errors import ArgumentError
from irnet_convert.layers import (
    BinaryConv1d,
    BinaryConv3d,
    BinaryConvTranspose1d,
    BinaryConvTranspose2d,
    BinaryConvTranspose3d,
    BinaryLayer,
    binary_class_of,
)

CONVS = {nn.Conv1d: BinaryConv1d, nn.Conv3d: BinaryConv3d}
TRANSPOSED = {
    nn.ConvTranspose1d: BinaryConvTranspose1d,
    nn.ConvTranspose2d: BinaryConvTranspose2d,
    nn.ConvTranspose3d: BinaryConvTranspose3d,
}
ALL = {**CONVS, **TRANSPOSED}


def image(layer: nn.Module, side: int = 5, batch: int = 2) -> Tensor:
    return torch.randn(batch, layer.in_channels, *(side + i for i in range(len(layer.kernel_size))))


def filters_of(layer: nn.Module, weight: Tensor) -> list[np.ndarray]:
    """One array per output channel, in order, gathered by plain indices."""
    w = weight.detach().double().numpy()
    if not isinstance(layer, tuple(TRANSPOSED)):
        return list(w)
    inner, outer = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    return [w[g * inner : (g + 1) * inner, j] for g in range(layer.groups) for j in range(outer)]


def libra(row: np.ndarray) -> np.ndarray:
    """Libra-PB of one filter in float64, by the paper's equations."""
    normed = (row - row.mean()) / row.std(ddof=1)
    return np.where(normed >= 0, 1.0, -1.0) * 2.0 ** np.round(np.log2(np.abs(normed).mean()))


def loops(layer: nn.Module, x: Tensor) -> np.ndarray:
    """The convolution (or its transpose) of sign(x) with Libra-PB's weights, by loops, without bias."""
    signs = np.where(x.numpy() >= 0, 1.0, -1.0)
    filters = [libra(row) for row in filters_of(layer, layer.weight)]
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation
    inner, per_group = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    size_in, dims = x.shape[2:], range(len(layer.kernel_size))
    taps = list(itertools.product(*(range(k) for k in layer.kernel_size)))
    if isinstance(layer, tuple(TRANSPOSED)):
        size = [(size_in[d] - 1) * stride[d] - 2 * padding[d] + dilation[d] * (layer.kernel_size[d] - 1)
                + layer.output_padding[d] + 1 for d in dims]  # fmt: skip
    else:
        size = [(size_in[d] + 2 * padding[d] - dilation[d] * (layer.kernel_size[d] - 1) - 1) // stride[d] + 1
                for d in dims]  # fmt: skip
    y = np.zeros((len(x), layer.out_channels, *size))
    for o, tap in itertools.product(range(layer.out_channels), taps):
        first = o // per_group * inner
        weights = filters[o][(slice(None), *tap)]
        small, large = (size_in, size) if isinstance(layer, tuple(TRANSPOSED)) else (size, size_in)
        for place in itertools.product(*(range(n) for n in small)):
            other = tuple(place[d] * stride[d] + tap[d] * dilation[d] - padding[d] for d in dims)
            if not all(0 <= other[d] < large[d] for d in dims):
                continue
            source, target = (place, other) if isinstance(layer, tuple(TRANSPOSED)) else (other, place)
            values = signs[(slice(None), slice(first, first + inner), *source)]
            y[(slice(None), o, *target)] += (values * weights).sum(1)
    return y


@settings(deadline=None, max_examples=30)
@given(
    kind=st.sampled_from(list(ALL)),
    groups=st.sampled_from([1, 2]),
    inner=st.integers(1, 2),
    outer=st.integers(1, 3),
    kernel=st.integers(2, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    dilation=st.integers(1, 2),
    data=st.data(),
)
def test_values_are_exact(kind, groups, inner, outer, kernel, stride, padding, dilation, data):
    dims = int(kind.__name__[-2])
    if inner * kernel**dims < 3:
        inner = 3
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": False}
    if kind in TRANSPOSED:
        geometry["output_padding"] = data.draw(st.integers(0, max(stride, dilation) - 1))
    layer = ALL[kind].from_dense(kind(groups * inner, groups * outer, kernel, **geometry))
    x = image(layer)
    x[0, 0, :1] = 0.0
    assert np.array_equal(layer(x).detach().double().numpy(), loops(layer, x))


@pytest.mark.parametrize("kind", list(ALL))
@pytest.mark.parametrize("groups", [1, 2])
def test_one_scale_for_each_output_channel(kind, groups):
    layer = ALL[kind].from_dense(kind(6, 4, 3, groups=groups), scale=True)
    rows = filters_of(layer, layer.weight)
    expected = [np.abs(row - row.mean()).mean() for row in rows]
    assert layer.scale.shape == (4,)
    np.testing.assert_allclose(layer.scale.detach().numpy(), expected, rtol=1e-5)
    x = image(layer)
    with torch.no_grad():
        before = layer(x) - layer.bias.reshape(-1, *[1] * len(layer.kernel_size))
        layer.scale[1] *= 2
        after = layer(x) - layer.bias.reshape(-1, *[1] * len(layer.kernel_size))
    torch.testing.assert_close(after[:, 1], 2 * before[:, 1])
    assert torch.equal(after[:, [0, 2, 3]], before[:, [0, 2, 3]])


@pytest.mark.parametrize("kind", list(ALL))
def test_gradients_are_those_of_the_standardisation(kind):
    """To each filter's latents: orthogonal to 1 and to the latents themselves, and none is missing."""
    layer = ALL[kind].from_dense(kind(4, 6, 3, groups=2).double())
    x = image(layer).double().requires_grad_()
    y = layer(x)
    (y * torch.randn_like(y)).sum().backward()
    assert (layer.weight.grad != 0).all()
    assert (x.grad != 0).all()
    for row, grad in zip(filters_of(layer, layer.weight), filters_of(layer, layer.weight.grad), strict=True):
        assert abs(grad.sum()) < 1e-12 * np.abs(grad).sum()
        assert abs((grad * (row - row.mean())).sum()) < 1e-12 * np.abs(grad).sum()


@pytest.mark.parametrize("kind", list(ALL))
@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("act_bits", [1, 32])
def test_state_copies_and_dense_form(kind, scale, act_bits):
    dense = kind(4, 6, 3, stride=2, padding=1, groups=2).eval()
    keys, weight = list(dense.state_dict()), dense.weight
    layer = ALL[kind].from_dense(dense, scale=scale, act_bits=act_bits)
    assert isinstance(layer, kind)
    assert layer.weight is weight
    assert list(layer.state_dict()) == [*keys, *["scale"] * scale]
    x = image(layer)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), layer.to_dense()):
        assert torch.equal(other(x), y)
    fresh = ALL[kind](4, 6, 3, stride=2, padding=1, groups=2, scale=scale, act_bits=act_bits)
    fresh.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "scale"})
    assert torch.equal(fresh(x), y)
    assert type(layer.to_dense()) is (kind if act_bits == 32 else type(layer.to_dense()))
    assert f"act_bits={act_bits}" in repr(layer)


@pytest.mark.parametrize("kind", list(ALL))
def test_unbatched_and_half(kind):
    layer = ALL[kind](4, 6, 3, bias=False)
    x = image(layer)
    assert torch.equal(layer(x[0]), layer(x)[0])
    assert torch.equal(layer.bfloat16()(x.bfloat16()).float(), layer.float()(x.bfloat16().float()))


@pytest.mark.parametrize("kind", list(CONVS))
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "zeros"])
def test_padding_modes(kind, mode):
    layer = CONVS[kind](3, 4, 3, padding=1, padding_mode=mode)
    x = image(layer)
    pad = [1] * 2 * len(layer.kernel_size)
    padded = F.pad(sign(x), pad, mode="constant" if mode == "zeros" else mode)
    conv = F.conv1d if kind is nn.Conv1d else F.conv3d
    torch.testing.assert_close(layer(x), conv(padded, layer.binary_weight(), layer.bias))


@pytest.mark.parametrize("kind", list(ALL))
def test_zero_pad_contributes_exactly_zero(kind):
    layer = ALL[kind](3, 4, 3, bias=False)
    x = image(layer)
    dims = len(layer.kernel_size)
    pad = list(range(1, 2 * dims + 1))
    plain = copy.deepcopy(layer)
    plain.act_bits = 32
    assert torch.equal(layer(x, zero_pad=pad), plain(F.pad(sign(x), pad)))
    assert torch.equal(layer.to_dense()(x, zero_pad=pad), layer(x, zero_pad=pad))


@pytest.mark.parametrize("kind", list(TRANSPOSED))
def test_output_size(kind):
    """Given by position or by name, in the binary layer and in its dense form."""
    layer = TRANSPOSED[kind](3, 4, 3, stride=3, bias=False)
    x = image(layer)
    dims = len(layer.kernel_size)
    smallest = [3 * n for n in x.shape[2:]]
    for extra in range(3):
        size = [n + extra for n in smallest]
        layer.output_padding = (extra,) * dims
        expected = torch.from_numpy(loops(layer, x)).float()
        layer.output_padding = (0,) * dims
        for made in (layer(x, size), layer(x, output_size=size), layer.to_dense()(x, size)):
            assert torch.equal(made, expected)


@pytest.mark.parametrize("kind", list(ALL))
def test_too_small_a_fan_in(kind):
    """Counted for an output channel: in / groups · kernel."""
    binary = ALL[kind]
    with pytest.raises(ArgumentError, match="2 weight"):
        binary(2, 8, 1)
    reason = binary_class_of(kind(2, 8, 1))
    assert isinstance(reason, str)
    assert "fan-in 2" in reason
    assert binary_class_of(kind(3, 2, 1)) is binary
    assert issubclass(binary, BinaryLayer)


@pytest.mark.parametrize("kind", list(ALL))
def test_direct_construction_takes_the_dense_arguments(kind):
    """In the dense layer's own order."""
    extra = [1, 2, False, 2] if kind in TRANSPOSED else [2, 2, False, "zeros"]
    args = [4, 6, 3, 2, 1, *extra]
    dense, binary = kind(*args), ALL[kind](*args)
    for name in ("stride", "padding", "output_padding", "groups", "dilation", "padding_mode", "bias"):
        assert getattr(dense, name) == getattr(binary, name), name
    assert dense.weight.shape == binary.weight.shape
