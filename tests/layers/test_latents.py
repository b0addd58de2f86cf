"""Rescaled latents: their deviation, and that the network computes what it did, bit for bit."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from timm.layers.std_conv import ScaledStdConv2d
from torch import Tensor, nn

from irnet_convert.errors import ArgumentError, ModelError
from irnet_convert.layers import (
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLinear,
    BinaryMultiheadAttention,
    BinaryScaledStdConv2d,
    rescale_latents,
)


def deviations(layer: nn.Module) -> Tensor:
    return layer._filters(layer.weight.detach()).flatten(1).double().std(1)


LAYERS = {
    "conv": lambda: BinaryConv2d(4, 6, 3, groups=2),
    "transposed": lambda: BinaryConvTranspose2d(4, 6, 3, groups=2),
    "linear": lambda: BinaryLinear(7, 3, scale=True),
    "attention": lambda: BinaryMultiheadAttention(8, 2),
    "scaled std": lambda: BinaryScaledStdConv2d.from_dense(ScaledStdConv2d(4, 6, 3)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_filter_has_the_deviation_and_the_same_binary_weights(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]().to(dtype)
    with torch.no_grad():
        layer.weight.mul_(
            torch.logspace(-12, 2, len(layer.weight)).reshape(-1, *[1] * (layer.weight.dim() - 1))
        )
    other = copy.deepcopy(layer)
    rescale_latents(nn.Sequential(layer), 0.1)
    assert deviations(layer).tolist() == pytest.approx(
        [0.1] * len(deviations(layer)), rel=1e-2 if dtype == torch.bfloat16 else 1e-6
    )
    assert torch.equal(layer.binary_weight(), other.binary_weight())
    scales = [layer._parameters.get("scale"), other._parameters.get("scale")]
    assert scales[0] is None or torch.equal(*scales)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(-3, 3), min_size=3, max_size=12),
    st.floats(-1000, 1000),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 10),
)
def test_weights_at_the_mean_keep_their_side(
    values: list[int], offset: float, step: float, std: float
) -> None:
    """Few values and an offset: some lie on the mean, or within the rounding of it."""
    layer = BinaryLinear(len(values), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values) * step + offset)
    # Not where rounding alone could have made the deviation, and such a filter count as constant or not.
    latent = layer.weight.detach().clone()
    assume(len(set(values)) == 1 or float(latent.std()) > 1e-4 * float(latent.abs().max()))
    before = layer.binary_weight()
    rescale_latents(layer, std)
    after = layer.binary_weight()
    assert torch.equal(after >= 0, before >= 0)
    wide = latent.double()
    power = ((wide - wide.mean()).abs().mean() / wide.std()).log2()
    if abs(float(power % 1) - 0.5) > 1e-5:  # else rounding decides between two powers of two
        assert torch.equal(after, before)


def test_constant_filters_stay() -> None:
    layer = BinaryLinear(4, 2)
    nn.init.constant_(layer.weight, 3.0)
    rescale_latents(layer, 0.1)
    assert torch.equal(layer.weight, torch.full((2, 4), 3.0))


def test_a_step_moves_the_standardised_weight_by_the_square_of_the_deviation() -> None:
    """SGD's step in ŵ goes as lr/σ², as the docstring derives; independent reference in float64."""
    torch.manual_seed(0)
    x, moved = torch.randn(5, 16, dtype=torch.float64), []
    for std in (0.1, 0.4):
        layer = BinaryLinear(16, 2, bias=False).double()
        torch.manual_seed(1)
        nn.init.normal_(layer.weight)
        rescale_latents(layer, std)
        start = layer.weight.detach().clone()
        layer(x).square().sum().backward()
        end = start - 1e-9 * layer.weight.grad
        normed = [(w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True) for w in (start, end)]
        moved.append((normed[1] - normed[0]).norm())
    assert float(moved[0] / moved[1]) == pytest.approx(16, rel=1e-3)


@pytest.mark.parametrize("std", [0.0, -1.0, float("inf"), float("nan")])
def test_no_such_deviation(std: float) -> None:
    with pytest.raises(ArgumentError, match="above 0"):
        rescale_latents(BinaryLinear(4, 2), std)
    with pytest.raises(ModelError, match="no binary layer"):
        rescale_latents(nn.Linear(4, 2), 0.1)
