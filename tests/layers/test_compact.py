"""Compact models: gradients beside those of the exact ones, what is kept, and that nothing is left behind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from compact_cases import both, gradients, kept_by
from torch import Tensor, nn

from irnet_convert import binarize
from irnet_convert.cost.memory import kept_for_backward
from irnet_convert.errors import ModelError
from irnet_convert.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLinear,
    Hardtanh,
    hardtanh,
    set_compact,
    set_progress,
)
from irnet_convert.networks import create_model

LAYERS = {
    "conv1d": (lambda: BinaryConv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv2d": (lambda: BinaryConv2d(8, 6, 3, padding=1, groups=2, stride=2, bias=False), (2, 8, 7, 5)),
    "transposed": (lambda: BinaryConvTranspose2d(4, 6, 3), (2, 4, 5, 5)),
    "linear": (lambda: BinaryLinear(9, 6, scale=True), (2, 3, 9)),
    "empty": (lambda: BinaryConv2d(4, 6, 3, bias=False), (0, 4, 5, 5)),
}


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_s_own_gradients_are_exact_and_its_input_s_within_half_a_level(
    kind: str, dtype: torch.dtype, format: torch.memory_format
) -> None:
    make, shape = LAYERS[kind]
    exact, compact = both(make().to(dtype))
    x = torch.randn(shape, dtype=dtype)
    if len(shape) == 4:
        x = x.contiguous(memory_format=format)
    for fraction in (0.0, 0.5, 1.0):
        set_progress(exact, fraction)
        set_progress(compact, fraction)
        ours, theirs = gradients(compact, x), gradients(exact, x)
        assert torch.equal(ours[0], theirs[0])
        assert all(map(torch.equal, ours[2:], theirs[2:]))
        assert ours[1].dtype is dtype
        # What comes to the signs: the exact gradient without the surrogate.
        k, t = exact.ede.double()
        slope = k * t / torch.cosh(t * x.double()).square()
        of_signs = theirs[1].double() / slope
        rounding = torch.finfo(dtype).eps * of_signs.abs() * k * t
        assert (
            (ours[1].double() - theirs[1].double()).abs() <= of_signs.abs() * k * t * 0.00395 + rounding
        ).all()
        if x.numel():
            assert not torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize("kind", [k for k in LAYERS if k != "empty"])
def test_a_layer_keeps_a_byte_of_each_number(kind: str) -> None:
    make, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape, requires_grad=True)
    set_compact(layer)
    kept = kept_by(lambda: layer(x))
    assert [t.dtype for t in kept if t.shape == x.shape] == [torch.uint8]
    own = {p.data_ptr() for p in layer.parameters()}
    assert sum(t.numel() for t in kept if t.data_ptr() not in own) <= x.numel() + 16


def test_the_gradient_of_a_gradient_is_refused_by_a_layer_and_given_by_hardtanh() -> None:
    layer, x = BinaryLinear(4, 3), torch.randn(2, 4, requires_grad=True)
    set_compact(layer)
    with pytest.raises(ModelError, match=r"(?s)create_graph.*set_compact\(model, False\)"):
        torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    y = torch.randn(20, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda t: hardtanh(t, compact=True) * t, (y,))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_hardtanh_s_gradients_are_the_same_and_it_keeps_bits(dtype: torch.dtype, inplace: bool) -> None:
    leaf = torch.tensor([-2, -1, -0.5, -0.0, 0, 1, 1.5, torch.inf, -torch.inf, 0.3] * 40, dtype=dtype)
    for shape in ((400,), (1, 10, 8, 5)):
        x = leaf.reshape(shape).requires_grad_()
        if len(shape) == 4:
            x = leaf.reshape(shape).contiguous(memory_format=torch.channels_last).requires_grad_()
        weights = torch.randn(shape, dtype=dtype)
        found = []
        for act in (Hardtanh(inplace=inplace), Hardtanh(inplace=inplace), F.hardtanh):
            if isinstance(act, Hardtanh) and not found:
                act.compact = True
            found.append(torch.autograd.grad(act(x * 1), x, weights)[0])
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])
        (kept,) = (t for t in kept_by(lambda x=x: hardtanh(x * 1, compact=True)) if t.dim())
        assert kept.numel() * kept.element_size() == 64  # 400 bits in blocks of 128


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    student = binarize(create_model("timm/cifar_resnet20")).train()
    set_progress(student, 0.3)
    return student


def test_a_network_keeps_less_than_half_and_its_loss_is_the_same(network: nn.Module) -> None:
    exact, compact = both(network)
    models = [create_model("timm/cifar_resnet20").train(), exact, compact]
    x = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for model in models:
        model.to(memory_format=torch.channels_last)
    kept = [kept_for_backward(model, lambda model=model: model(x).sum()) for model in models]
    assert kept[1] >= kept[0]
    assert kept[2] <= 0.45 * kept[0]
    exact, compact = both(network)
    ours, theirs = gradients(compact, x), gradients(exact, x)
    assert torch.equal(ours[0], theirs[0])
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= 0.05 * b.norm()
    assert torch.equal(ours[-1], theirs[-1])


def test_a_vision_transformer_keeps_half() -> None:
    torch.manual_seed(0)
    full = create_model("timm/vit_tiny_patch16_224").train()
    exact, compact = both(binarize(full, example_input=torch.zeros(1, 3, 224, 224)).train())
    x = torch.randn(1, 3, 224, 224)
    kept = [kept_for_backward(model, lambda model=model: model(x).sum()) for model in (full, exact, compact)]
    assert kept[1] <= 1.05 * kept[0]
    assert kept[2] <= 0.5 * kept[0]
    ours, theirs = gradients(compact, x), gradients(exact, x)
    assert torch.equal(ours[0], theirs[0])
    assert all((a - b).norm() <= 0.02 * b.norm() + 1e-6 for a, b in zip(ours, theirs, strict=True))


def test_switched_off_nothing_is_left(network: nn.Module) -> None:
    def state(model: nn.Module) -> list[object]:
        kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
        return [(sorted(vars(m)), *(list(getattr(m, kind)) for kind in kinds)) for m in model.modules()]

    model = copy.deepcopy(network)
    before, keys, text = state(model), list(model.state_dict()), repr(model)
    for _ in range(2):  # once on is as good as twice
        set_compact(model)
    on = state(model)
    set_compact(model)
    assert [len(m[1]) for m in state(model)] == [len(m[1]) for m in on]  # type: ignore[index, arg-type]
    assert list(model.state_dict()) == keys
    assert "compact=True" in repr(model)
    set_compact(model, False)
    assert state(model) == before
    assert repr(model) == text
    with pytest.raises(ModelError, match="no binary layer"):
        set_compact(nn.Linear(3, 4))


def test_copies_and_saved_states_of_a_compact_model(network: nn.Module, tmp_path) -> None:
    x = torch.randn(2, 3, 16, 16)
    _, compact = both(network)
    again = copy.deepcopy(compact)
    torch.save(compact.state_dict(), tmp_path / "state.pt")
    fresh = copy.deepcopy(network)
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    set_compact(fresh)
    first, *others = (gradients(m, x) for m in (compact, again, fresh))
    for other in others:
        assert all(map(torch.equal, other, first))


def test_gradients_add_up_over_two_passes_before_one_backward(network: nn.Module) -> None:
    _, one = both(network)
    two = copy.deepcopy(one)
    parts = torch.randn(2, 4, 3, 16, 16)
    for part in parts:
        one(part).square().mean().backward()
    sum(two(part).square().mean() for part in parts).backward()  # type: ignore[union-attr]
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad)


def test_the_forward_pass_alone_encodes_nothing(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, compact = both(copy.deepcopy(network).eval())
    x = torch.randn(2, 3, 16, 16)
    monkeypatch.setattr("irnet_convert.binary.codes._encode", None)
    with torch.no_grad():
        assert torch.equal(compact(x), exact(x))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = (
            BinaryConv2d(4, 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(4),
            Hardtanh(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)) + x)


def test_it_compiles_whole_and_gives_the_same_gradients() -> None:
    torch._dynamo.reset()
    exact, compact = both(
        nn.Sequential(_Block(), nn.MaxPool2d(2), _Block(), nn.Flatten(), BinaryLinear(64, 3))
    )
    x = torch.randn(2, 4, 8, 8)
    eager, kept = gradients(compact, x), []
    for model in (exact, compact):
        run = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager_decomp_partition")
        found = gradients(run, x)
        kept.append(kept_for_backward(run, lambda run=run: run(x.requires_grad_()).sum()))
    for a, b in zip(found, eager, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert kept[1] < 0.75 * kept[0]
    set_compact(run, False)  # on what is compiled already
    assert kept_for_backward(run, lambda: run(x).sum()) == kept[0]
    torch._dynamo.reset()
