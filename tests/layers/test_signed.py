"""Contractions that compute signs anew for the backward pass, against a sign and then the contraction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.binary import METHODS
from irnet_convert.binary.sign import ede_sign
from irnet_convert.layers import BinaryConv2d, BinaryLinear, BinaryScaledStdConv2d
from irnet_convert.layers.signed import Geometry, signed_conv, signed_linear

EDE = torch.tensor([1.0, 2.5], dtype=torch.float64)


def geometry(dims: int, **changes: Any) -> Geometry:
    ones, zeros = (1,) * dims, (0,) * dims
    plain = {"stride": ones, "padding": zeros, "dilation": ones, "transposed": False, "groups": 1}
    return Geometry(**{**plain, "output_padding": zeros, **changes})


CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], Geometry]] = {
    "1d": ((2, 4, 9), (6, 4, 3), geometry(1, padding=(1,))),
    "2d": ((2, 4, 7, 8), (6, 2, 3, 3), geometry(2, padding=(1, 0), stride=(2, 1), groups=2)),
    "2d dilated": ((2, 4, 9, 9), (3, 4, 3, 2), geometry(2, dilation=(2, 3))),
    "3d": ((1, 3, 4, 5, 4), (2, 3, 2, 2, 2), geometry(3, stride=(1, 2, 1))),
    "transposed 1d": ((2, 4, 5), (4, 3, 3), geometry(1, transposed=True, stride=(2,), output_padding=(1,))),
    "transposed 2d": (
        (2, 4, 5, 5), (4, 3, 3, 3), geometry(2, transposed=True, groups=2, padding=(1, 1), dilation=(1, 2)),
    ),
    "linear": ((2, 3, 8), (5, 8), geometry(0)),
}  # fmt: skip


def ours(how: Geometry) -> Callable[..., Tensor]:
    if not how.stride:
        return lambda x, w, b: signed_linear(x, w, b, EDE, METHODS["irnet"])
    return lambda x, w, b: signed_conv(x, w, b, EDE, METHODS["irnet"], how)


def plain(how: Geometry) -> Callable[..., Tensor]:
    if not how.stride:
        return lambda x, w, b: F.linear(ede_sign(x, EDE), w, b)
    return lambda x, w, b: torch.convolution(
        ede_sign(x, EDE), w, b, how.stride, how.padding, how.dilation, how.transposed, how.output_padding,
        how.groups,
    )  # fmt: skip


def tensors(case: str, bias: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    shape, weight, how = CASES[case]
    random = torch.Generator().manual_seed(0)
    out = weight[1] * how.groups if how.transposed else weight[0]
    x, w, b = (
        torch.randn(s, generator=random, dtype=torch.float64).requires_grad_()
        for s in (shape, weight, (out,))
    )
    return x, w, b if bias else None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_values_gradients_and_their_gradients(case: str, bias: bool) -> None:
    how = CASES[case][2]
    found = []
    for function in (ours(how), plain(how)):
        leaves = [t for t in tensors(case, bias) if t is not None]
        y = function(*leaves, *([] if bias else [None]))
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves, allow_unused=True)
        found.append([y, *first, *(s for s in second if s is not None)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)])
@pytest.mark.parametrize("case", ["2d", "linear"])
def test_only_the_gradients_that_are_wanted(case: str, wanted: tuple[int, ...]) -> None:
    leaves = tensors(case, bias=True)
    every = torch.autograd.grad(ours(CASES[case][2])(*leaves).sin().sum(), leaves)  # type: ignore[arg-type]
    for i, leaf in enumerate(leaves):
        assert leaf is not None
        leaf.requires_grad_(i in wanted)
    some = torch.autograd.grad(ours(CASES[case][2])(*leaves).sin().sum(), [leaves[i] for i in wanted])  # type: ignore[misc]
    assert all(torch.equal(g, every[i]) for g, i in zip(some, wanted, strict=True))


KEEPING = [
    BinaryConv2d(8, 8, 3, padding=1, bias=False), BinaryLinear(8, 16), BinaryLinear(8, 16, scale=True),
    BinaryScaledStdConv2d(8, 8, 3, padding=1),
]  # fmt: skip


@pytest.mark.parametrize("layer", KEEPING)
def test_one_tensor_of_the_input_s_size_is_kept_and_no_weight_but_the_latents(layer: nn.Module) -> None:
    x = torch.randn((2, 8, 7, 7) if isinstance(layer, nn.Conv2d) else (2, 5, 8), requires_grad=True)
    kept: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.untyped_storage()._cdata, t), lambda t: t
    ):
        layer(x)
    assert [t.numel() for t in kept.values()].count(x.numel()) == 1
    assert any(t.data_ptr() == x.data_ptr() for t in kept.values())
    own = {t.data_ptr() for t in (x, *layer.parameters())}
    assert sum(t.numel() for t in kept.values() if t.data_ptr() not in own) <= 16


@pytest.mark.parametrize("scale", [False, True])
@pytest.mark.parametrize("frozen", [(), ("weight",), ("scale",), ("weight", "scale")])
def test_a_weight_made_again_has_the_gradients_of_one_that_was_kept(scale: bool, frozen: tuple[str]) -> None:
    torch.manual_seed(0)
    layer = BinaryLinear(8, 6, scale=scale).double()
    layer.requires_grad_(True)
    for name in frozen:
        if name != "scale" or scale:
            layer.get_parameter(name).requires_grad_(False)
    x = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]
    found = []
    for y in (layer(x), F.linear(ede_sign(x, layer.ede), layer._scaled_weight(layer.ede), layer.bias)):
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        found.append([y, *first, *second])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_latents_that_were_written_to_are_noticed() -> None:
    layer, x = BinaryLinear(8, 6), torch.randn(3, 8, requires_grad=True)
    y = layer(x).sum()
    with torch.no_grad():
        layer.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@pytest.mark.parametrize("layer", [BinaryConv2d(8, 4, 3), BinaryLinear(8, 4)])
def test_under_autocast(layer: nn.Module) -> None:
    x = torch.randn((2, 8, 6, 6) if isinstance(layer, nn.Conv2d) else (2, 5, 8), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    y.float().square().mean().backward()
    assert y.dtype is torch.bfloat16
    assert x.grad is not None
    assert {p.grad.dtype for p in (x, *layer.parameters()) if p.grad is not None} == {torch.float32}


def test_an_image_without_a_batch() -> None:
    layer, x = BinaryConv2d(8, 4, 3), torch.randn(8, 6, 6)
    assert torch.equal(layer(x), layer(x[None])[0])


@pytest.mark.parametrize("kind", ["conv", "conv with bias", "linear", "scaled", "scaled conv"])
def test_compiled_a_binary_weight_is_kept_in_bytes(kind: str) -> None:
    """Beside the latents, which are there anyway; and the gradients are those of the eager layer."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    layer, x = {
        "conv": (BinaryConv2d(8, 12, 3, groups=2, bias=False), torch.randn(2, 8, 6, 6)),
        "conv with bias": (BinaryConv2d(8, 12, 3), torch.randn(2, 8, 6, 6)),
        "linear": (BinaryLinear(40, 12), torch.randn(3, 40)),
        "scaled": (BinaryLinear(40, 12, scale=True), torch.randn(3, 40)),
        "scaled conv": (BinaryConv2d(8, 12, 3, groups=2, scale=True), torch.randn(2, 8, 6, 6)),
    }[kind]
    with torch.no_grad():
        layer.weight[1] = 0.25  # constant: all signs +1, no gradient
    x.requires_grad_()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager_decomp_partition")
    wanted = [x, *layer.parameters()]
    out = layer(x)
    weights = torch.arange(1.0, out.numel() + 1).reshape(out.shape).sin()
    eager = torch.autograd.grad(out, wanted, weights)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = run(x)
    for ours, theirs in zip(torch.autograd.grad(out, wanted, weights), eager, strict=True):
        torch.testing.assert_close(ours, theirs)
    others = {t.data_ptr() for t in wanted}
    dtypes = {t.dtype for t in kept if t.shape == layer.weight.shape and t.data_ptr() not in others}
    assert dtypes == ({torch.float32} if kind.startswith("scaled") else {torch.bool})
    assert not kind.startswith("scaled") or not any(t.shape == out.shape for t in kept)
    torch._dynamo.reset()
