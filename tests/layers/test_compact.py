"""Compact models: gradients beside those of the exact ones, what is kept, and that nothing is left behind."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
from irnet_convert.layers.signed import steps_of
from irnet_convert.networks import create_model

LAYERS = {
    "conv1d": (lambda: BinaryConv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv2d": (lambda: BinaryConv2d(8, 6, 3, padding=1, groups=2, stride=2, bias=False), (2, 8, 7, 5)),
    "transposed": (lambda: BinaryConvTranspose2d(4, 6, 3), (2, 4, 5, 5)),
    "linear": (lambda: BinaryLinear(9, 6, scale=True), (2, 3, 9)),
    "empty": (lambda: BinaryConv2d(4, 6, 3, bias=False), (0, 4, 5, 5)),
}


def kept_by(forward: Callable[[], Tensor]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: found.setdefault(t.untyped_storage()._cdata, t), lambda t: t
    ):
        forward()
    return list(found.values())


def both(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The model, and a compact copy of it."""
    compact = copy.deepcopy(model)
    set_compact(compact)
    return model, compact


def gradients(model: nn.Module, x: Tensor, weights: Tensor | None = None) -> list[Tensor]:
    """Of the input, and of every parameter; and the output in front."""
    x = x.detach().requires_grad_()
    out = model(x)
    weights = torch.arange(1.0, out.numel() + 1).reshape(out.shape).sin() if weights is None else weights
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    return [out.detach(), *torch.autograd.grad(out, wanted, weights.to(out.dtype))]


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


def normed(norm: nn.Module, conv: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(conv or BinaryConv2d(4, 8, 3, bias=False), norm)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "norm",
    [lambda: nn.BatchNorm2d(8), lambda: BatchNormAct2d(8), lambda: BatchNormAct2d(8, act_layer=nn.Tanh)],
)
def test_a_batch_norm_keeps_counts_and_gives_the_same_gradients(norm, training: bool) -> None:
    exact, compact = both(normed(norm()).train(training))
    with torch.no_grad():  # powers of two of their own
        for model in (exact, compact):
            model[0].weight.mul_(torch.logspace(-20, 20, 8, base=2).reshape(-1, 1, 1, 1))
            model[0].weight[1, 0, 0, 0] = 1e4
    x = torch.randn(3, 4, 9, 8).contiguous(memory_format=torch.channels_last)
    ours, theirs = gradients(compact, x), gradients(exact, x)
    assert all(torch.equal(a, b) for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if i != 1)
    shape = (3, 8, 7, 6)
    assert {t.dtype for t in kept_by(lambda: compact[0](x.requires_grad_())) if t.shape == shape} == set()
    ours_kept = [t.dtype for t in kept_by(lambda: compact(x)) if t.shape == shape]
    assert ours_kept.count(torch.int16) == 1
    if type(compact[1]) is nn.BatchNorm2d:
        assert ours_kept == [torch.int16]
        before = compact[0](x)
        step = steps_of(before)
        assert step is not None
        assert len(step.unique()) > 1
        assert torch.equal(before, (before / step).round() * step)


def test_only_what_is_known_to_be_counts_is_kept_as_counts() -> None:
    x = torch.randn(2, 4, 9, 8, requires_grad=True)
    wide = BinaryConv2d(3641, 8, 3, bias=False)
    set_compact(wide)
    assert steps_of(wide(torch.randn(1, 3641, 3, 3))) is None  # 32,769 weights
    for conv in (
        BinaryConv2d(4, 8, 3), BinaryConv2d(4, 8, 3, bias=False, scale=True), BinaryConvTranspose2d(4, 8, 3),
        BinaryConv2d(4, 8, 3, bias=False, padding=1, padding_mode="reflect"), nn.Conv2d(4, 8, 3),
    ):  # fmt: skip
        model = normed(nn.BatchNorm2d(8), conv)
        set_compact(nn.ModuleList([model, BinaryLinear(4, 3)]))
        assert torch.int16 not in {t.dtype for t in kept_by(lambda model=model: model(x))}
    layer = BinaryConv2d(4, 8, 3, bias=False)
    assert steps_of(layer(x)) is None
    set_compact(layer)
    assert steps_of(layer(x)) is not None
    changed = layer(x)
    with torch.no_grad():
        changed.mul_(0.3)
    assert steps_of(changed) is None
    assert steps_of(layer(x) * 2) is None
    with torch.autocast("cpu", torch.bfloat16):
        assert steps_of(layer(x)) is None
    layer.real_weights = True
    assert steps_of(layer(x)) is None


def test_a_broken_filter_stays_broken() -> None:
    exact, compact = both(normed(nn.BatchNorm2d(8)))
    for model in (exact, compact):
        model[0].weight.data[3, 0, 0, 0] = torch.nan
    x = torch.randn(2, 4, 5, 5)
    ours, theirs = gradients(compact, x), gradients(exact, x)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.isnan(), b.isnan())
    assert ours[0][:, 3].isnan().all()


@pytest.mark.parametrize("size", [(1, 3, 8, 8), (2, 2, 200, 170), (3, 9, 7)])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_a_max_pool_keeps_small_indices_alone(size: tuple[int, ...], format: torch.memory_format) -> None:
    pool = nn.ModuleList([nn.MaxPool2d(3, 2, 1), BinaryLinear(4, 3)])
    x = torch.randn(size)
    if len(size) == 4:
        x = x.contiguous(memory_format=format)
    exact = gradients(pool[0], x)
    set_compact(pool)
    found = gradients(pool[0], x)
    assert all(map(torch.equal, found[:2], exact[:2]))
    (kept,) = kept_by(lambda: pool[0](x.requires_grad_()))
    assert kept.dtype is (torch.int16 if size[-1] < 100 else torch.int32)
    assert kept.shape == exact[0].shape
    pair = nn.MaxPool2d(3, 2, return_indices=True)
    set_compact(nn.ModuleList([pair, pool[1]]))
    assert pair(x)[1].dtype is torch.int64


@pytest.mark.parametrize("size", [(2, 4, 8, 8), (1, 4, 7, 9), (4, 5, 5)])
@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_a_convolution_that_skips_pixels_keeps_the_others(size: tuple[int, ...], stride: int) -> None:
    conv = nn.Conv2d(4, 6, 1, stride)
    both_in = nn.ModuleList([conv, BinaryLinear(4, 3), nn.Conv2d(4, 6, 3, 2), nn.Conv2d(4, 6, 1)])
    x = torch.randn(size)
    x = x.contiguous(memory_format=torch.channels_last) if len(size) == 4 else x
    exact = gradients(conv, x)
    set_compact(both_in)
    assert all(map(torch.equal, gradients(conv, x), exact))
    kept = [t for t in kept_by(lambda: conv(x.requires_grad_())) if t.data_ptr() != conv.weight.data_ptr()]
    if len(size) == 4:  # without a batch PyTorch keeps another tensor than it is given
        assert [t[:, 0].shape for t in kept] == [exact[0][:, 0].shape]
    assert not any(m._forward_hooks for m in both_in[2:])


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


def test_somebody_else_s_hooks_stay() -> None:
    model, seen = normed(nn.BatchNorm2d(8)), []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    set_compact(model)
    set_compact(model, False)
    model(torch.randn(2, 4, 5, 5))
    assert seen == [1]


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


def test_checkpointing_and_hooks_around_hear_of_what_is_kept() -> None:
    _, model = both(nn.Sequential(normed(nn.BatchNorm2d(8)), nn.MaxPool2d(2)))
    x = torch.randn(3, 4, 9, 8, requires_grad=True)
    plain = gradients(model, x)
    found = gradients(_Checkpointed(model), x)
    assert all(map(torch.equal, found, plain))
    assert sum(t.numel() for t in kept_by(lambda: checkpoint(model, x, use_reentrant=False))) <= x.numel()


class _Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


def test_parameters_that_were_written_to_are_noticed_and_errors_leave_no_hook_behind() -> None:
    _, model = both(normed(nn.BatchNorm2d(8)))
    x = torch.randn(3, 4, 9, 8)
    out = model(x).sum()
    with torch.no_grad():
        model[1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.backward()
    broken = nn.Sequential(BinaryConv2d(4, 8, 3, bias=False), nn.BatchNorm2d(7))
    set_compact(broken)
    with pytest.raises(RuntimeError):
        broken(x)
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None  # pyright: ignore


class _Functional(nn.Module):
    """Shares one ReLU, in calls that do not all change: its forward is converted to call hardtanh."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = (nn.Conv2d(i, 8, 3, padding=1, bias=False) for i in (3, 8, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(F.relu(self.stem(x)))
        return self.head(F.relu(self.b(F.relu(x))).mean((2, 3)))


def test_functions_in_a_converted_forward_pass_are_compact_too() -> None:
    exact, compact = both(binarize(_Functional(), example_input=torch.zeros(1, 3, 8, 8)).train())
    assert not any(isinstance(m, Hardtanh) for m in exact.modules())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(gradients(compact, x)[0], gradients(exact, x)[0])
    bits = [t for t in kept_by(lambda: compact(x)) if t.dtype is torch.uint8 and t.shape[-1] == 16]
    assert len(bits) == 2
    assert not [t for t in kept_by(lambda: exact(x)) if t.dtype is torch.uint8]


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
