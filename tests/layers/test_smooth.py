"""GELU, SiLU and LayerNorm of a compact model: their gradients beside the exact ones, and what is kept."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from compact_cases import gradients, kept_by
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from irnet_convert.errors import ModelError
from irnet_convert.layers import BinaryLinear, set_compact

SMOOTH = {"gelu": lambda: nn.GELU(), "tanh": lambda: nn.GELU("tanh"), "silu": lambda: nn.SiLU()}


def compacted(module: nn.Module) -> nn.Module:
    """A compact copy of a module that has no binary layer of its own."""
    module = copy.deepcopy(module)
    set_compact(nn.ModuleList([module, BinaryLinear(4, 3)]))
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", SMOOTH)
def test_the_derivative_is_off_by_half_a_level_and_exact_where_the_function_ends(
    kind: str, dtype: torch.dtype
) -> None:
    exact = SMOOTH[kind]()
    compact = compacted(exact)
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64).to(dtype).reshape(1, 4001)
    ones = torch.ones_like(x)
    ours, theirs = gradients(compact, x, ones), gradients(exact, x.double(), ones.double())
    assert torch.equal(ours[0], exact(x))
    assert ours[1].dtype is dtype
    # 0.5 / 202, and what half types make of the derivative and of the level.
    assert (ours[1].double() - theirs[1]).abs().max() <= 0.5 / 202 + 2 * torch.finfo(dtype).eps
    assert (ours[1][x < -11] == 0).all()
    assert (ours[1][x > 11] == 1).all()


@pytest.mark.parametrize("kind", SMOOTH)
def test_a_byte_of_each_number_is_kept(kind: str) -> None:
    act, x = compacted(SMOOTH[kind]()), torch.randn(3, 5, 7, requires_grad=True)
    (kept,) = kept_by(lambda: act(x))
    assert (kept.dtype, kept.shape) == (torch.uint8, x.shape)


def test_the_forward_pass_alone_and_inputs_without_a_gradient_keep_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    act, x = compacted(nn.GELU()), torch.randn(3, 5)
    monkeypatch.setattr("irnet_convert.layers.smooth.encode", None)
    assert torch.equal(act(x), F.gelu(x))
    with torch.no_grad():
        assert torch.equal(act(x.requires_grad_()), F.gelu(x))


def test_what_writes_over_its_input_stays_as_it_is() -> None:
    act = compacted(nn.SiLU(inplace=True))
    assert not act._forward_hooks
    assert not act._forward_pre_hooks
    given = torch.randn(3, 5, requires_grad=True) * 1
    assert act(given) is given


def test_the_output_may_be_written_over_and_others_hooks_see_it_with_its_gradient() -> None:
    act, seen = nn.GELU(), []
    act.register_forward_hook(lambda *given: seen.append(given[2].requires_grad))
    act = compacted(act)
    x = torch.randn(3, 5)
    exact = gradients(_Doubled(nn.GELU()), x)
    ours = gradients(_Doubled(act), x)
    assert torch.equal(ours[0], exact[0])
    assert (ours[1] - exact[1]).abs().max() <= 2 * 0.5 / 202 + 1e-6
    assert seen == [True]


class _Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).mul_(2)


def test_the_gradient_of_a_gradient_is_refused_and_an_error_leaves_nothing_behind() -> None:
    act, x = compacted(nn.GELU()), torch.randn(2, 4, requires_grad=True)
    with pytest.raises(ModelError, match=r"(?s)create_graph.*GELU.*set_compact\(model, False\)"):
        torch.autograd.grad(act(x).sum(), x, create_graph=True)
    with pytest.raises(TypeError):
        act("no tensor")
    broken = compacted(nn.GELU("tanh"))
    broken.approximate = "none of these"
    with pytest.raises(RuntimeError):
        broken(x)
    plain = nn.GELU()
    assert torch.equal(gradients(act, x)[0], plain(x))
    set_compact(nn.ModuleList([act, BinaryLinear(4, 3)]), False)
    assert torch.equal(gradients(act, x)[1], gradients(plain, x)[1])


def test_checkpointed_it_gives_the_same_gradients() -> None:
    model = compacted(nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 3)))
    x = torch.randn(3, 5)
    assert all(map(torch.equal, gradients(_Checkpointed(model), x), gradients(model, x)))


class _Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        result = checkpoint(self.inner, x, use_reentrant=False)
        assert isinstance(result, Tensor)
        return result


@pytest.mark.parametrize("size", [1.0, 1e-12, 1e12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["layer_norm", "no affine", "layer_norm_2d"])
def test_a_layer_norm_keeps_its_input_in_float16_whatever_its_size(
    kind: str, dtype: torch.dtype, size: float
) -> None:
    makes = {
        "layer_norm": lambda: nn.LayerNorm(6, eps=0.0),
        "no affine": lambda: nn.LayerNorm((5, 6), eps=0.0, elementwise_affine=False),
        "layer_norm_2d": lambda: LayerNorm2d(4, eps=0.0),
    }
    exact = makes[kind]().to(dtype)
    compact = compacted(exact)
    x = torch.randn(3, 4, 5, 6, dtype=dtype) * size
    ours, theirs = gradients(compact, x), gradients(exact, x)
    assert torch.equal(ours[0], theirs[0])
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert (a - b).norm() <= 2**-9 * b.norm()
        assert not (a == 0).all()
    kept = [t for t in kept_by(lambda: compact(x.requires_grad_())) if t.numel() == x.numel()]
    assert [t.dtype for t in kept] == [torch.float16]


def test_a_layer_norm_of_half_types_and_of_nothing_is_left_alone() -> None:
    norm = compacted(nn.LayerNorm(6).bfloat16())
    x = torch.randn(2, 6).bfloat16()
    assert all(map(torch.equal, gradients(norm, x), gradients(nn.LayerNorm(6).bfloat16(), x)))
    assert gradients(compacted(nn.LayerNorm(6)), torch.zeros(0, 6))[1].shape == (0, 6)


def test_a_layer_norm_s_zeros_and_what_is_not_finite_come_back_as_they_were() -> None:
    x = torch.zeros(3, 6)
    exact, compact = nn.LayerNorm(6), compacted(nn.LayerNorm(6))
    assert all(map(torch.equal, gradients(compact, x), gradients(exact, x)))
    x[1, 2] = torch.inf
    for a, b in zip(gradients(compact, x), gradients(exact, x), strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
