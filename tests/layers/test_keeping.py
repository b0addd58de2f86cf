"""Modules of PyTorch that keep less, by hooks: the same gradients, and what is kept."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from compact_cases import both, gradients, kept_by, normed
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from irnet_convert import binarize
from irnet_convert.layers import (
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLinear,
    Hardtanh,
    set_compact,
)
from irnet_convert.layers.signed import steps_of


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


def test_somebody_else_s_hooks_stay() -> None:
    model, seen = normed(nn.BatchNorm2d(8)), []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    set_compact(model)
    set_compact(model, False)
    model(torch.randn(2, 4, 5, 5))
    assert seen == [1]


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


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (lambda: nn.LayerNorm(6), (2, 4, 6)),
        (lambda: nn.GELU(), (2, 4, 6)),
        (lambda: nn.MaxPool2d(2), (2, 4, 6, 6)),
        (lambda: nn.Conv2d(4, 3, 1, 2), (2, 4, 6, 6)),
        (lambda: normed(nn.BatchNorm2d(8))[1], None),
    ],
)
def test_nothing_else_holds_on_to_the_input(module, size: tuple[int, ...] | None) -> None:
    """PyTorch keeps the hooks for as long as what they packed, with all that they refer to."""
    module, conv = module(), BinaryConv2d(4, 8, 3, bias=False)
    set_compact(nn.ModuleList([module, conv]))
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    given = conv(x) if size is None else torch.randn(size, requires_grad=True) * 1
    storage = StorageWeakRef(given.untyped_storage())
    out = module(given)
    del given
    gc.collect()
    assert storage.expired()
    out.sum().backward()


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
