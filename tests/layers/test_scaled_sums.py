"""A factor per output channel is multiplied with exact sums, in every family, by every way to its product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from compact_cases import kept_by
from torch import Tensor, nn

from irnet_convert.binary import sign
from irnet_convert.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv2dSame,
    BinaryConvTranspose2d,
    BinaryLayer,
    BinaryLinear,
    BinaryMultiheadAttention,
    BinaryScaledStdConv2dSame,
    binary_layers,
    set_binarized,
    set_compact,
)

# PyTorch copies the input of "same" with an even kernel, and says so.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

WIDE = (40, 9, 8)

#: How to make a layer of a bias or none, the shape of its input, and what else it is called with.
CASES: dict[str, tuple[Callable[[bool], Any], tuple[int, ...], dict[str, Any]]] = {
    "conv": (lambda b: BinaryConv2d(40, 12, 3, padding=1, bias=b, scale=True), (2, *WIDE), {}),
    "conv1d": (lambda b: BinaryConv1d(40, 12, 3, stride=2, bias=b, scale=True), (2, 40, 9), {}),
    "groups": (lambda b: BinaryConv2d(40, 12, 3, groups=4, dilation=2, bias=b, scale=True), (2, *WIDE), {}),
    "zeros in front": (
        lambda b: BinaryConv2d(40, 12, 3, bias=b, scale=True), (2, *WIDE), {"zero_pad": [0, 1, 2, 1]},
    ),
    "cropped in front": (
        lambda b: BinaryConv2d(40, 12, 3, padding=1, bias=b, scale=True), (2, *WIDE), {"zero_pad": [-1, 1]},
    ),
    "same": (lambda b: BinaryConv2d(40, 12, 3, padding="same", bias=b, scale=True), (2, *WIDE), {}),
    "same of 3×5": (
        lambda b: BinaryConv2d(40, 12, (3, 5), padding="same", bias=b, scale=True), (2, *WIDE), {},
    ),
    "SAME of one stride": (lambda b: BinaryConv2dSame(40, 12, (3, 5), bias=b, scale=True), (2, *WIDE), {}),
    "uneven same": (
        lambda b: BinaryConv2d(40, 12, (4, 3), padding="same", bias=b, scale=True), (2, *WIDE), {},
    ),
    "valid": (lambda b: BinaryConv2d(40, 12, 3, padding="valid", bias=b, scale=True), (2, *WIDE), {}),
    "SAME": (lambda b: BinaryConv2dSame(40, 12, 3, stride=2, bias=b, scale=True), (2, *WIDE), {}),
    "SAME behind zeros": (
        lambda b: BinaryConv2dSame(40, 12, 3, stride=2, bias=b, scale=True), (2, *WIDE), {"zero_pad": [1, 0]},
    ),
    "scaled std": (lambda b: BinaryScaledStdConv2dSame(40, 12, 3, bias=b, gamma=1.7), (2, *WIDE), {}),
    "circular": (
        lambda b: BinaryConv2d(40, 12, 3, padding=1, padding_mode="circular", bias=b, scale=True),
        (2, *WIDE), {},
    ),
    "no batch": (lambda b: BinaryConv2d(40, 12, 3, bias=b, scale=True), WIDE, {}),
    "transposed": (
        lambda b: BinaryConvTranspose2d(40, 12, 3, stride=2, groups=2, bias=b, scale=True), (2, *WIDE), {},
    ),
    "linear": (lambda b: BinaryLinear(360, 12, bias=b, scale=True), (5, 3, 360), {}),
    "linear with zeros": (
        lambda b: BinaryLinear(360, 12, bias=b, scale=True), (5, 3, 350), {"zero_pad": [5, 5]},
    ),
    "projection": (lambda b: BinaryMultiheadAttention(360, 4, bias=b, scale=True).in_proj, (5, 3, 360), {}),
    "rows of it": (
        lambda b: BinaryMultiheadAttention(360, 4, bias=b, scale=True).in_proj, (5, 3, 360),
        {"rows": slice(360, 1080)},
    ),
}  # fmt: skip


def made(case: str, bias: bool) -> tuple[nn.Module, BinaryLayer, Tensor, dict[str, Any]]:
    """What is called, the layer it belongs to, an input of many ties and arguments."""
    torch.manual_seed(0)
    make, shape, how = CASES[case]
    called = make(bias)
    layer = called if isinstance(called, BinaryLayer) else called.owner[0]
    with torch.no_grad():
        for parameter in (layer._factor(), layer.bias):
            if isinstance(parameter, nn.Parameter):
                parameter.uniform_(-1, 1)
        layer._filters(layer.weight)[:3].copy_(layer._filters(layer.weight)[:3] ** 15)  # 2^s is 1/2 or less
    if isinstance(gain := getattr(layer, "gain", None), nn.Parameter):
        gain.data.uniform_(-1, 1)
    return called, layer, torch.randn(shape), how


@pytest.mark.parametrize("case", CASES)
def test_sums_are_exact_and_rounded_once(case: str) -> None:
    """Float64's to the last bit: ±scale summed in float32 would be near, and seldom 0 where those are."""
    called, layer, x, how = made(case, bias=False)
    got = called(x, **how)
    rows = how.get("rows", slice(None))
    factor = layer._factor()
    assert factor is not None
    factor = factor.detach().flatten()[rows]
    layer.double()
    with torch.no_grad():  # a factor of 1 leaves the sums
        for one in (layer.scale, getattr(layer, "gain", None)):
            if one is not None:
                one.fill_(1 / getattr(layer, "fan_in_scale", 1))
    sums = called(x.double(), **how)
    assert bool((8 * sums == (8 * sums).round()).all()), "2^s is 1/8 at least"
    wanted = sums * factor.double().reshape(-1, *[1] * layer.trailing)
    assert torch.equal(got, wanted.float())
    assert bool((sums == 0).any())


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_plain_tensor_operations(
    case: str, bias: bool, compiled: bool
) -> None:
    called, layer, x, how = made(case, bias)
    x.requires_grad_()
    wanted = [x, *(p for name, p in layer.named_parameters() if "out_proj" not in name)]
    theirs = BinaryLayer._contract_signs(layer, x, layer.ede, layer.bias, how.get("zero_pad"))
    theirs = theirs[..., how.get("rows", slice(None))]
    run = torch.compile(called, fullgraph=True, backend="aot_eager") if compiled else called
    torch._dynamo.reset()
    ours = run(x, **how)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    weights = torch.arange(1.0, ours.numel() + 1).reshape(ours.shape).sin()
    for one, other in zip(
        torch.autograd.grad(ours, wanted, weights), torch.autograd.grad(theirs, wanted, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_its_input_is_all_that_is_kept(case: str, compact: bool) -> None:
    """Neither the sums, for the factor's gradient, nor the signs, nor the binary weights."""
    called, layer, x, how = made(case, bias=True)
    apart = {"SAME behind zeros", "circular", "no batch", "linear with zeros"}
    set_compact(layer, compact)
    x.requires_grad_()
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept = kept_by(lambda: called(x, **how))
    kept = [t for t in kept if t.untyped_storage().data_ptr() not in own and t.numel() > 360]
    if case in apart:
        assert kept
        return
    dtype = torch.uint8 if compact else torch.float32
    assert [(t.shape, t.dtype) for t in kept] == [(x.shape, dtype)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["conv", "linear", "SAME", "scaled std"])
def test_in_half_precision(case: str, dtype: torch.dtype) -> None:
    called, layer, x, how = made(case, bias=True)
    wanted = called(x, **how)
    with torch.autocast("cpu", dtype):
        got = called(x, **how)
    assert got.dtype is dtype
    torch.testing.assert_close(got.float(), wanted, rtol=3 * torch.finfo(dtype).eps, atol=0.1)
    layer.to(dtype)
    assert called(x.to(dtype), **how).dtype is dtype


def test_the_gradient_of_a_gradient() -> None:
    for case in ("conv", "linear", "uneven same"):
        called, layer, x, how = made(case, bias=True)
        layer.double()
        x = x.double().requires_grad_()
        scale = layer.scale
        assert scale is not None

        def penalty(y: Tensor, x: Tensor = x, scale: Tensor = scale) -> list[Tensor]:
            first = torch.autograd.grad(y.square().sum(), [x, scale], create_graph=True)
            return list(torch.autograd.grad(sum(g.square().sum() for g in first), [x, scale]))

        ours = penalty(called(x, **how))
        theirs = penalty(BinaryLayer._contract_signs(layer, x, layer.ede, layer.bias, None))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other)


def test_the_plain_form_of_all_computes_the_same() -> None:
    for case in CASES:
        called, layer, x, how = made(case, bias=True)
        plain = layer.to_dense()
        assert not list(binary_layers(plain)) or case in ("projection", "rows of it")
        run = plain.in_proj if isinstance(layer, BinaryMultiheadAttention) else plain
        assert torch.equal(run(x, **how), called(x, **how)), case
        if not isinstance(layer, BinaryMultiheadAttention):
            assert torch.equal(plain.bias, layer.bias)
            with torch.no_grad():
                before = run(x, **how)
                for parameter in layer.parameters():
                    parameter.zero_()
                assert torch.equal(run(x, **how), before), "a copy"


@pytest.mark.parametrize("case", CASES)
def test_exported_while_gradients_are_on(case: str) -> None:
    called, _, x, how = made(case, bias=True)
    exported = torch.export.export(_Called(called, how), (x,)).module()
    torch.testing.assert_close(exported(x), called(x, **how), rtol=1e-6, atol=1e-6)


class _Called(nn.Module):
    def __init__(self, called: nn.Module, how: dict[str, Any]) -> None:
        super().__init__()
        self.called, self.how = called, how
        if not isinstance(called, BinaryLayer):
            self.owner = called.owner[0]  # whose parameters are not its child's

    def forward(self, x: Tensor) -> Tensor:
        return self.called(x, **self.how)


@pytest.mark.parametrize("case", ["SAME", "scaled std", "zeros in front", "SAME behind zeros", "transposed"])
def test_compiled_for_sizes_that_vary(case: str) -> None:
    called, _, x, how = made(case, bias=True)
    torch._dynamo.reset()
    run = torch.compile(called, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (9, 11, 12):
        x = torch.randn(2, 40, size, size - 1)
        torch.testing.assert_close(run(x, **how), called(x, **how), rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["conv", "SAME", "scaled std", "transposed", "linear"])
def test_traced(case: str) -> None:
    """TorchScript follows sizes, and sees nothing that is written over."""
    called, _, x, _ = made(case, bias=True)
    called.eval()
    with torch.no_grad():
        traced = torch.jit.trace(called, (x,))
        for other in (x, torch.randn(1, 40, 12, 11) if x.dim() == 4 else torch.randn(2, 360)):
            torch.testing.assert_close(traced(other), called(other), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("case", ["conv", "linear", "SAME", "transposed", "projection"])
def test_while_weights_are_real_the_factor_is_theirs(case: str, compiled: bool) -> None:
    called, layer, x, _ = made(case, bias=True)
    set_binarized(layer, "activations")
    assert not layer.scales_sums
    torch._dynamo.reset()
    run = torch.compile(called, fullgraph=True, backend="aot_eager") if compiled else called
    ours = run(x)
    weight = layer._scaled_weight(layer.ede)
    theirs = layer._contract(sign(x), weight, layer.bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    wanted = [layer.weight, layer.scale]
    weights = torch.arange(1.0, ours.numel() + 1).reshape(ours.shape).sin()
    for one, other in zip(
        torch.autograd.grad(ours, wanted, weights), torch.autograd.grad(theirs, wanted, weights), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("case", ["conv", "linear"])
def test_compiled_in_half_precision(case: str) -> None:
    """Gradients come in the dtypes of what they are of, and near those of the layer that is not compiled."""
    called, layer, x, _ = made(case, bias=True)
    x.requires_grad_()
    wanted = [x, *layer.parameters()]
    torch._dynamo.reset()
    run = torch.compile(called, fullgraph=True, backend="aot_eager")
    found = []
    for one in (run, called):
        with torch.autocast("cpu", torch.bfloat16):
            y = one(x)
        found.append(torch.autograd.grad(y.float().square().mean(), wanted))
    for ours, theirs in zip(*found, strict=True):
        assert ours.dtype is theirs.dtype is torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05 * float(theirs.abs().max()))
    layer.to(torch.bfloat16)
    y = run(x.detach().to(torch.bfloat16).requires_grad_())
    grads = torch.autograd.grad(y.float().square().mean(), list(layer.parameters()))
    assert {grad.dtype for grad in grads} == {torch.bfloat16}


def test_compiled_a_transposed_layer_without_a_factor() -> None:
    torch.manual_seed(0)
    layer, x = BinaryConvTranspose2d(8, 6, 3), torch.randn(2, 8, 4, 5, requires_grad=True)
    layer.weight.data[:, 0] **= 15  # another power of two
    assert len(layer.binary_weight().abs().unique()) == 2
    torch._dynamo.reset()
    ours, theirs = torch.compile(layer, fullgraph=True, backend="aot_eager")(x), layer(x)
    wanted = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(ours.square().sum(), wanted),
        torch.autograd.grad(theirs.square().sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
