"""RPReLU's own passes against PyTorch's operations in float64, for every instruction set."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from irnet_convert import native
from irnet_convert.binary import passes
from irnet_convert.layers import rprelu as module
from irnet_convert.layers.rprelu import RPReLU, rprelu

FILE = native.library_file()
LIBRARY = ctypes.CDLL(str(FILE)) if FILE else None
WAYS: tuple[str | None, ...] = (None, *(native.usable_isas(LIBRARY) if LIBRARY else ()))


def computed_by(patch: pytest.MonkeyPatch, isa: str | None) -> None:
    found = native.Passes(LIBRARY, isa) if LIBRARY and isa else None
    patch.setattr(passes, "passes", lambda: found)


def by_autograd(x: Tensor, shift_in: Tensor, slope: Tensor, shift_out: Tensor) -> Tensor:
    along = (-1, *[1] * (x.dim() - 2))
    return F.prelu(x - shift_in.reshape(along), slope) + shift_out.reshape(along)


def drawn(data: st.DataObject) -> tuple[list[Tensor], Tensor]:
    """Values, parameters, and a gradient of another layout."""
    channels = data.draw(st.sampled_from([1, 2, 7, 8, 9, 16, 33, 64]))
    sizes = data.draw(st.sampled_from([(), (5,), (3, 4), (1, 1), (70, 50), (2, 3, 2), (0, 2)]))
    batch = data.draw(st.integers(1, 3))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    x = torch.randn(batch, channels, *sizes)
    if len(sizes) == 2 and data.draw(st.booleans()):
        x = x.contiguous(memory_format=torch.channels_last)
    parameters = [torch.randn(channels) for _ in range(3)]
    grad = torch.randn(x.shape)
    return [x, *parameters], grad


@settings(deadline=None, max_examples=120)
@given(data=st.data())
def test_values_and_gradients_are_those_of_the_operations(data: st.DataObject) -> None:
    inputs, grad = drawn(data)
    with pytest.MonkeyPatch.context() as patch:
        computed_by(patch, data.draw(st.sampled_from(WAYS)))
        given_ = [each.requires_grad_() for each in inputs]
        out = rprelu(*given_)
        assert out.stride() == inputs[0].stride()
        assert torch.equal(out, by_autograd(*given_))
        found = torch.autograd.grad(out, given_, grad)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    expected = torch.autograd.grad(by_autograd(*exact), exact, grad.double())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6 * max(1, grad.numel() ** 0.5))


@pytest.mark.parametrize("isa", WAYS)
def test_special_values_are_treated_as_prelu_treats_them(isa: str | None, monkeypatch) -> None:
    computed_by(monkeypatch, isa)
    x = torch.tensor([0.0, -0.0, math.nan, math.inf, -math.inf, 1.0, -1.0]).reshape(-1, 1).requires_grad_()
    parameters = [torch.tensor([value]).requires_grad_() for value in (0.0, 0.5, 0.25)]
    out, plain = rprelu(x, *parameters), by_autograd(x, *parameters)
    assert torch.equal(out.nan_to_num(7.0), plain.nan_to_num(7.0))
    keep = torch.tensor([1, 1, 0, 1, 0, 1, 1]).reshape(-1, 1).bool()
    for end in (out, plain):
        end[keep].sum().backward(retain_graph=True)
    # Twice: once by each.
    assert x.grad is not None
    assert torch.equal(x.grad[keep], 2 * torch.tensor([0.5, 0.5, 1.0, 1.0, 0.5]))


def test_the_number_of_threads_changes_nothing() -> None:
    x = torch.randn(4, 16, 50, 50).contiguous(memory_format=torch.channels_last).requires_grad_()
    inputs, threads = [x, *RPReLU(16).parameters()], torch.get_num_threads()
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        try:
            results.append(torch.autograd.grad(rprelu(*inputs), inputs, torch.ones_like(x)))
        finally:
            torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def test_x_alone_is_kept_for_the_backward_pass() -> None:
    x, layer, kept = torch.randn(2, 8, 5, 5).requires_grad_(), RPReLU(8), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        layer(x * 1.0)
    assert sum(each.numel() for each in kept if each.numel() > 8) == x.numel()


@pytest.mark.skipif(len(WAYS) == 1, reason="the native library was not built")
def test_native_passes_are_taken_where_channels_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    real = module.call
    monkeypatch.setattr(module, "call", lambda name, *rest: (called.append(name), real(name, *rest))[1])
    layer, x = RPReLU(4), torch.randn(2, 4, 3, 3)
    for other in (x, x.double(), x.bfloat16(), torch.randn(2, 4, 3, 3, 3), x.transpose(2, 3)[..., ::2]):
        layer.to(other.dtype if other.dtype is torch.float64 else torch.float32)(other).sum().backward()
    assert called == []
    layer.float()(x.contiguous(memory_format=torch.channels_last)).sum().backward()
    layer(torch.randn(5, 4)).sum().backward()
    assert called == ["rprelu", "rprelu_gradient"] * 2


def test_the_gradient_of_the_gradient() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64).requires_grad_()
    parameters = [torch.randn(2, dtype=torch.float64).requires_grad_() for _ in range(3)]
    assert torch.autograd.gradcheck(rprelu, (x, *parameters))
    assert torch.autograd.gradgradcheck(rprelu, (x, *parameters))


def test_frozen_parameters_and_inputs_are_left_out() -> None:
    layer, x = RPReLU(3).requires_grad_(False), torch.randn(2, 3, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert all(each.grad is None for each in layer.parameters())
    assert not layer(x.detach()).requires_grad
