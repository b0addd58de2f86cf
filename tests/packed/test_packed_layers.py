"""From layers to steps: every layer family alone, with every padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from irnet_convert import BinaryConv2d, BinaryLinear
from irnet_convert.errors import PackError
from irnet_convert.layers import (
    BinaryConv1d,
    BinaryConv2dSame,
    BinaryConv3d,
    BinaryLayer,
    BinaryScaledStdConv2d,
    BinaryScaledStdConv2dSame,
    BinaryStdConv2d,
    BinaryStdConv2dSame,
)
from irnet_convert.packed import pack


def special(*shape: int) -> Tensor:
    """Zeros of both signs, NaN and infinities among numbers."""
    x = torch.randn(shape)
    for value in (0.0, -0.0, torch.nan, torch.inf, -torch.inf):
        x[torch.rand(shape) < 0.05] = value
    return x


LAYERS: dict[str, Any] = {
    "plain": lambda **k: BinaryConv2d(5, 7, 3, bias=False, **k),
    "geometry": lambda **k: BinaryConv2d(6, 9, (3, 2), (2, 1), (2, 0), (1, 2), 3, **k),
    "same string": lambda **k: BinaryConv2d(4, 4, (5, 3), padding="same", dilation=(1, 2), **k),
    "valid string": lambda **k: BinaryConv2d(4, 4, 3, padding="valid", **k),
    "reflect": lambda **k: BinaryConv2d(4, 4, 3, padding=(1, 2), padding_mode="reflect", **k),
    "replicate": lambda **k: BinaryConv2d(4, 4, 5, padding=2, padding_mode="replicate", **k),
    "circular": lambda **k: BinaryConv2d(4, 4, 3, 2, padding=1, padding_mode="circular", **k),
    "depthwise": lambda **k: BinaryConv2d(6, 6, 5, padding=2, groups=6, **k),
    "scaled": lambda **k: BinaryConv2d(5, 7, 3, padding=1, scale=True, **k),
    "same": lambda **k: BinaryConv2dSame(5, 7, 3, 2, **k),
    "std": lambda **k: BinaryStdConv2d(5, 7, 3, 2, 1, **k),
    "std same": lambda **k: BinaryStdConv2dSame(5, 7, 3, 2, **k),
    "scaled std": lambda **k: BinaryScaledStdConv2d(5, 7, 3, 1, 1, **k),
    "scaled std same": lambda **k: BinaryScaledStdConv2dSame(5, 7, 3, 2, **k),
    "linear": lambda **k: BinaryLinear(11, 7, **k),
    "linear scaled": lambda **k: BinaryLinear(11, 7, bias=False, scale=True, **k),
}


def stirred(layer: BinaryLayer) -> BinaryLayer:
    """Factors per channel that are negative, zero and anything else; a filter that is constant."""
    with torch.no_grad():
        for name in ("scale", "gain", "bias"):
            if (p := layer._parameters.get(name)) is not None:
                p.copy_(torch.randn(p.shape))
                p[0], p[1] = 0.0, -1.5
        layer.weight[2] = 0.25
        layer.weight[3] *= 1000
    return layer


@pytest.mark.parametrize("act_bits", [1, 32])
@pytest.mark.parametrize("kind", LAYERS)
def test_each_family_of_layers(kind: str, act_bits: int) -> None:
    torch.manual_seed(len(kind))
    layer = stirred(LAYERS[kind](act_bits=act_bits))
    shape = (2, 3, layer.in_features) if isinstance(layer, BinaryLinear) else (2, layer.in_channels, 9, 8)
    x = special(*shape) if act_bits == 1 else torch.randn(shape)
    packed = pack(layer, example_input=x)
    assert [len(p.steps) for p in packed.programs] == [1]
    assert packed.report().operators == {}
    assert packed.programs[0].constants[0].dtype == "bits"
    with torch.no_grad():
        want = layer.double()(x.double()).float()
    torch.testing.assert_close(packed(x), want, rtol=2e-6, atol=2e-6 if act_bits == 1 else 1e-5)
    if len(shape) == 4:
        x = torch.randn(1, shape[1], 12, 7)
        with torch.no_grad():
            torch.testing.assert_close(packed(x), layer(x.double()).float(), rtol=2e-6, atol=1e-5)


def test_integers_are_exact() -> None:
    layer = BinaryConv2d(33, 8, 3, padding=1, bias=False)
    packed = pack(layer, example_input=torch.zeros(1, 33, 6, 6))
    x = special(3, 33, 6, 6)
    with torch.no_grad():
        want = layer.double()(x.double())
    assert torch.equal(packed(x).double(), want)


class Padded(nn.Module):
    def __init__(self, layer: nn.Module, amounts: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.amounts = layer, amounts

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, zero_pad=self.amounts)


@pytest.mark.parametrize("amounts", [(1, 2, 0, 3), (2, 1)])
def test_zeros_that_the_caller_adds_behind_the_sign(amounts: tuple[int, ...]) -> None:
    model = Padded(BinaryConv2d(5, 4, 3, padding=1, bias=False), amounts)
    x = special(2, 5, 6, 6)
    packed = pack(model, example_input=x)
    with torch.no_grad():
        assert torch.equal(packed(x), model(x))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Padded(BinaryConv2dSame(5, 4, 3), (1, 1, 1, 1)), "SAME"),
        (Padded(BinaryConv2d(5, 4, 3, padding=1, padding_mode="reflect"), (1, 1, 1, 1)), "reflect"),
        (Padded(BinaryConv2d(5, 4, 3), (-1, 0, 0, 0)), "-1"),
        (Padded(BinaryConv2d(5, 4, 3), (0, 0, 0, 0, 1, 1)), "zero_pad"),
    ],
)
def test_paddings_that_no_step_has(model: nn.Module, says: str) -> None:
    with pytest.raises(PackError, match=says):
        pack(model, example_input=torch.zeros(1, 5, 8, 8))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(BinaryConv1d(4, 5, 3, padding=1), (2, 4, 9)), (BinaryConv3d(2, 3, 3), (2, 2, 5, 5, 5))],
)
def test_other_dimensions_run_in_pytorch(layer: BinaryLayer, shape: tuple[int, ...]) -> None:
    x = special(*shape)
    model = nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(6), BinaryLinear(6, 3))
    model(torch.zeros(shape))
    packed = pack(model, example_input=x)
    assert packed.source["notes"] == [
        f"0: {type(layer).__name__} runs in PyTorch on ±1 weights stored as real numbers"
    ]
    assert [[s.kind for s in p.steps] for p in packed.programs] == [["linear", "binary_linear"]]
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-5, atol=1e-5)
