"""GELU, SiLU and LayerNorm of a compact model: their gradients beside the exact ones, and what is kept."""

from __future__ import annotations

import copy
import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from compact_cases import gradients, kept_by
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

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


@pytest.mark.parametrize("switched", [False, True])
def test_what_writes_over_its_input_stays_as_it_is(switched: bool) -> None:
    act = compacted(nn.SiLU(inplace=not switched))
    act.inplace = True
    given = torch.randn(3, 5, requires_grad=True) * 1
    assert act(given) is given


class _Quick(nn.SiLU):
    def forward(self, input: Tensor) -> Tensor:
        return input * torch.sigmoid(1.702 * input)


def test_other_forwards_and_what_hooks_change_keep_their_gradients() -> None:
    x = torch.randn(3, 5)
    assert all(map(torch.equal, gradients(compacted(_Quick()), x), gradients(_Quick(), x)))
    changed = nn.GELU()
    changed.forward = F.relu
    assert all(map(torch.equal, gradients(compacted(changed), x), gradients(nn.ReLU(), x)))
    act, exact = compacted(nn.GELU()), nn.GELU()
    for each in (act, exact):
        each.register_forward_pre_hook(lambda module, args: (3 * args[0],))
        each.register_forward_hook(lambda module, args, out: 2 * out, prepend=True)
    ours, theirs = gradients(act, x), gradients(exact, x)
    assert torch.equal(ours[0], theirs[0])
    assert (ours[1] - theirs[1]).abs().max() <= 6 * 0.5 / 202 + 1e-6


def test_hooks_of_others_see_gradients_of_what_goes_in_and_out() -> None:
    act, seen = nn.GELU(), []
    act.register_forward_hook(
        lambda module, args, out: seen.extend((args[0].requires_grad, out.requires_grad))
    )
    act = compacted(act)
    act.register_full_backward_hook(lambda module, given, out: (2 * given[0],))
    x = torch.randn(3, 5)
    ours, theirs = gradients(act, x), gradients(nn.GELU(), x)
    assert (ours[1] / 2 - theirs[1]).abs().max() <= 0.5 / 202 + 1e-6
    assert seen == [True, True]


def test_the_output_may_be_written_over() -> None:
    x = torch.randn(3, 5)
    exact, ours = gradients(_Doubled(nn.GELU()), x), gradients(_Doubled(compacted(nn.GELU())), x)
    assert torch.equal(ours[0], exact[0])
    assert (ours[1] - exact[1]).abs().max() <= 2 * 0.5 / 202 + 1e-6


class _Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).mul_(2)


def test_the_gradient_of_a_gradient_is_refused_and_switched_off_all_is_exact() -> None:
    act, x = compacted(nn.GELU()), torch.randn(2, 4, requires_grad=True)
    with pytest.raises(ModelError, match=r"(?s)create_graph.*GELU.*set_compact\(model, False\)"):
        torch.autograd.grad(act(x).sum(), x, create_graph=True)
    with pytest.raises(TypeError):
        act("no tensor")
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
def test_a_layer_norm_keeps_its_input_in_float16_whatever_its_size_and_mean(
    kind: str, dtype: torch.dtype, size: float
) -> None:
    makes = {
        "layer_norm": lambda: nn.LayerNorm(6, eps=0.0),
        "no affine": lambda: nn.LayerNorm((5, 6), eps=0.0, elementwise_affine=False),
        "layer_norm_2d": lambda: LayerNorm2d(4, eps=0.0),
    }
    exact = makes[kind]().to(dtype)
    compact = compacted(exact)
    for mean in (0.0, 100.0):
        x = (torch.randn(3, 4, 5, 6, dtype=dtype) + mean) * size
        x[1] *= 1e4  # what is large elsewhere costs others nothing
        ours, theirs = gradients(compact, x), gradients(exact, x)
        assert torch.equal(ours[0], theirs[0])
        for a, b in zip(ours[1:], theirs[1:], strict=True):
            for part in range(3):
                one, other = (a[part], b[part]) if a.shape == x.shape else (a, b)
                assert (one - other).norm() <= 2**-9 * other.norm()
                assert not (one == 0).all()
    kept = [t for t in kept_by(lambda: compact(x.requires_grad_())) if t.numel() == x.numel()]
    assert [t.dtype for t in kept] == [torch.float16]


def test_a_layer_norm_of_half_types_and_of_nothing_is_left_alone() -> None:
    norm = compacted(nn.LayerNorm(6).bfloat16())
    x = torch.randn(2, 6).bfloat16()
    assert all(map(torch.equal, gradients(norm, x), gradients(nn.LayerNorm(6).bfloat16(), x)))
    assert gradients(compacted(nn.LayerNorm(6)), torch.zeros(0, 6))[1].shape == (0, 6)
    row = torch.randn(1, 6).requires_grad_()
    assert torch.float16 not in {
        t.dtype for t in kept_by(lambda: compacted(nn.LayerNorm(6))(row.expand(9, 6)))
    }


def test_transforms_of_functions_run() -> None:
    model = compacted(nn.Sequential(nn.GELU(), nn.LayerNorm(6)))
    x = torch.randn(4, 3, 6)
    torch.testing.assert_close(torch.func.vmap(model)(x), model(x))
    slopes = torch.func.vmap(torch.func.grad(lambda row: model(row).square().sum()))(x)
    assert slopes.shape == x.shape
    y = x.clone().requires_grad_()
    weights = torch.randn(5, 4, 3, 6)
    batched = torch.autograd.grad(model[0](y), y, weights, is_grads_batched=True)[0]
    for one, weight in zip(batched, weights, strict=True):
        assert torch.equal(one, torch.autograd.grad(model[0](y), y, weight)[0])


def test_a_layer_norm_s_zeros_and_what_is_not_finite_come_back_as_they_were() -> None:
    x = torch.zeros(3, 6)
    exact, compact = nn.LayerNorm(6), compacted(nn.LayerNorm(6))
    assert all(map(torch.equal, gradients(compact, x), gradients(exact, x)))
    x[1, 2] = torch.inf
    for a, b in zip(gradients(compact, x), gradients(exact, x), strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())


def test_selective_checkpointing_of_the_function_itself() -> None:
    model, x = compacted(nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 3))), torch.randn(3, 5)
    save = [torch.ops.aten.gelu.default]
    context = functools.partial(create_selective_checkpoint_contexts, save)

    class Checkpointed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            result = checkpoint(model, x, use_reentrant=False, context_fn=context)
            assert isinstance(result, Tensor)
            return result

    assert all(map(torch.equal, gradients(Checkpointed(), x), gradients(model, x)[:2]))


def test_compiled_and_copied_it_is_what_it_was(tmp_path: Path) -> None:
    torch._dynamo.reset()
    plain = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.LayerNorm(4), nn.SiLU(), nn.Linear(4, 3))
    model, x = compacted(plain), torch.randn(3, 5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for ours, theirs in zip(gradients(compiled, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(ours, theirs)  # a compiler chooses itself what it keeps
    torch._dynamo.reset()
    other = copy.deepcopy(model)
    torch.save(other, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    want = gradients(model, x)
    for each in (other, again):
        assert each[1].forward.module is each[1]
        assert all(map(torch.equal, gradients(each, x), want))
    assert other[1].forward.module is not model[1]
