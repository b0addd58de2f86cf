"""Hardtanh that keeps its output, against PyTorch's, bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.cost.memory import kept_for_backward
from irnet_convert.layers import BinaryConv2d, Hardtanh, hardtanh

VALUES = torch.tensor([-2.0, -1.0, -1 + 2**-24, -0.0, 0.0, 0.3, 1 - 2**-24, 1.0, 1.5, math.inf, -math.inf])


def input_of(leaf: Tensor) -> Tensor:
    return leaf * 1  # not a leaf, so that it may be written to


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (-0.5, 2.0)])
@pytest.mark.parametrize("inplace", [False, True])
def test_values_and_gradients(bounds: tuple[float, float], inplace: bool) -> None:
    found = []
    for function in (hardtanh, F.hardtanh):
        x = VALUES.clone().requires_grad_()
        y = function(input_of(x), *bounds, inplace)
        grad = torch.autograd.grad((y.nan_to_num() * torch.arange(1.0, 12)).sum(), x)[0]
        found.append((y.detach(), grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_nan_goes_through() -> None:
    for function in (hardtanh, F.hardtanh):
        x = torch.tensor([math.nan, 0.5], requires_grad=True)
        y = function(x)
        y.sum().backward()
        assert torch.isnan(y).tolist() == [True, False]
        assert x.grad is not None
        assert x.grad.tolist() == [1.0, 1.0]


def test_gradient_of_the_gradient() -> None:
    x = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: hardtanh(t) * t, (x,))


@pytest.mark.parametrize("inplace", [False, True])
def test_a_network_keeps_what_a_relu_s_would(inplace: bool) -> None:
    x = torch.randn(4, 6, requires_grad=True)
    first, second = nn.Linear(6, 8), nn.Linear(8, 8)
    kept = []
    for act in (nn.ReLU(inplace), Hardtanh(inplace=inplace)):
        net = nn.Sequential(first, act, second)
        kept.append(kept_for_backward(net, lambda net=net: net(x).sum()))
    assert kept[0] == kept[1]


def test_in_place_writes_and_refuses_as_pytorch_does() -> None:
    x = torch.tensor([2.0, 0.5], requires_grad=True)
    y = input_of(x)
    assert hardtanh(y, inplace=True) is y
    assert y.tolist() == [1.0, 0.5]
    with pytest.raises(RuntimeError, match="leaf"):
        hardtanh(x, inplace=True)
    base = input_of(x)
    hardtanh(base[:1], inplace=True)
    base.sum().backward()
    assert base.tolist() == [1.0, 0.5]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0]
    with torch.no_grad():
        assert hardtanh(x).tolist() == [1.0, 0.5]


def test_it_is_pytorch_s_and_compiles_whole() -> None:
    assert isinstance(Hardtanh(), nn.Hardtanh)
    x = torch.randn(8, requires_grad=True)
    for inplace in (False, True):
        act = Hardtanh(inplace=inplace)
        compiled = torch.compile(lambda t, act=act: act(t * 1), fullgraph=True, backend="aot_eager")
        out = compiled(x)
        assert torch.equal(out, F.hardtanh(x))
        grads = [torch.autograd.grad(y.sin().sum(), x)[0] for y in (out, F.hardtanh(x))]
        assert torch.equal(*grads)
    graph = torch.export.export(Hardtanh(), (x,)).graph
    assert [n.target for n in graph.nodes if n.op == "call_function"] == [torch.ops.aten.hardtanh.default]


class _Block(nn.Module):
    def __init__(self, conv: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = conv, nn.BatchNorm2d(4), act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)) + x)


def test_compiled_blocks_keep_no_more_than_full_precision() -> None:
    torch._dynamo.reset()
    x, kept = torch.randn(2, 4, 16, 16, requires_grad=True), []
    for conv, act in ((nn.Conv2d, nn.ReLU), (BinaryConv2d, Hardtanh)):
        net = nn.Sequential(*(_Block(conv(4, 4, 3, padding=1, bias=False), act(inplace=True)) for _ in "ab"))
        compiled = torch.compile(net, fullgraph=True, backend="aot_eager_decomp_partition")
        compiled(x).sum().backward()
        kept.append(kept_for_backward(net, lambda run=compiled: run(x).sum()))
    assert kept[1] <= 1.05 * kept[0]
    torch._dynamo.reset()
