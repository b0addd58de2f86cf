"""Bi-Real shortcuts: what a rewritten block computes, written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from irnet_convert.convert import binarize, plan_of

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def conv(inside: int = 6, out: int = 6, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, out, 3, stride, 1, bias=False)


class Basic(nn.Module):
    """A basic block; ``down`` is a branch, or None for the identity."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(stride=stride), conv()
        self.bn1, self.bn2, self.act = nn.BatchNorm2d(6), nn.BatchNorm2d(6), nn.Hardtanh()
        self.down = nn.Conv2d(6, 6, 1, stride) if stride > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.down is None else self.down(x)
        return self.act(y)


def student_of(*inner: nn.Module, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *inner, nn.Flatten(1), nn.LazyLinear(2))
    model.double()(X)
    return binarize(model.eval(), example_input=X, **kwargs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_basic_block(stride: int, training: bool) -> None:
    student = student_of(Basic(stride)).train(training)
    assert [(e.form, e.owner) for e in plan_of(student).edits] == [("basic", "1")]
    block = student[1]
    x = student[0](X)
    skip = x if stride == 1 else block.down(x)
    h = F.hardtanh(block.bn1(block.conv1(x)) + skip)
    want = F.hardtanh(block.bn2(block.conv2(h)) + h)
    assert torch.equal(block(x), want)
    assert isinstance(block, Basic)


def test_identity_with_a_plain_norm() -> None:
    student = student_of(nn.Sequential(conv(), nn.BatchNorm2d(6), nn.Hardtanh()))
    assert [(e.form, e.owner, e.target) for e in plan_of(student).edits] == [("identity_norm", "1", "1.0")]
    x, block = student[0](X), student[1]
    assert torch.equal(block(x), F.hardtanh(block[1](block[0](x)) + x))
    assert type(block) is nn.Sequential


def test_identity_between_a_norm_and_its_own_activation() -> None:
    student = student_of(nn.Sequential(conv(), BatchNormAct2d(6)), nn.Sequential(conv(), nn.BatchNorm2d(6)))
    assert [(e.form, e.owner) for e in plan_of(student).edits if e.rewrite == "shortcut"] == [
        ("identity_norm_act", "1"), ("identity_norm", "2"),
    ]  # fmt: skip
    x, block = student[0](X), student[1]
    norm = block[1]
    plain = F.batch_norm(
        block[0](x), norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    assert torch.equal(block(x), F.hardtanh(plain + x))
    assert isinstance(norm, BatchNormAct2d)
    # Called by somebody else without a shortcut, the norm does what it did.
    assert torch.equal(norm(x), F.hardtanh(F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight,
                                                       norm.bias, eps=norm.eps)))  # fmt: skip


def test_identity_without_a_norm() -> None:
    student = student_of(nn.Sequential(conv(), nn.Hardtanh()))
    assert [(e.form, e.owner) for e in plan_of(student).edits] == [("identity", "1")]
    x, block = student[0](X), student[1]
    assert block[0].scale is not None
    assert torch.equal(block(x), F.hardtanh(block[0](x) + x))


def test_the_outer_skip_stays_around_a_bottleneck() -> None:
    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(6, 4, 1), conv(4, 4), nn.Conv2d(4, 6, 1)
            self.n = nn.ModuleList(nn.BatchNorm2d(c) for c in (4, 4, 6))

        def forward(self, x: Tensor) -> Tensor:
            y = F.hardtanh(self.n[0](self.a(x)))
            y = F.hardtanh(self.n[1](self.b(y)))
            return F.hardtanh(self.n[2](self.c(y)) + x)

    student = student_of(Bottleneck())
    assert [(e.form, e.target) for e in plan_of(student).edits] == [("identity_norm", "1.b")]
    block, x = student[1], student[0](X)
    y = F.hardtanh(block.n[0](block.a(x)))
    y = F.hardtanh(block.n[1](block.b(y)) + y)
    assert torch.equal(block(x), F.hardtanh(block.n[2](block.c(y)) + x))


def test_a_layer_that_changes_its_shape_gains_nothing() -> None:
    student = student_of(conv(stride=2), nn.BatchNorm2d(6))
    assert len(plan_of(student).binarized) == 1
    assert plan_of(student).edits == ()


def test_a_block_that_cannot_be_traced_is_noted() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = conv(), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[0] > 10**6:
                return x
            return self.norm(self.conv(x))

    student = student_of(Branching())
    (note,) = plan_of(student).notes
    assert note.startswith("no shortcut around 1.conv")
    assert "no shortcut around 1.conv" in str(plan_of(student))
    assert len(plan_of(student).binarized) == 1


def test_left_out_on_request() -> None:
    student = student_of(Basic(), rewrites=["activation"])
    assert plan_of(student).edits == ()
    assert plan_of(student).rewrites == ("activation", "padding", "projection")
    block, x = student[1], student[0](X)
    want = F.hardtanh(block.bn2(block.conv2(F.hardtanh(block.bn1(block.conv1(x))))) + x)
    assert torch.equal(block(x), want)


def test_gradients_flow_through_both_shortcuts() -> None:
    student = student_of(Basic(2)).train()
    x = X.clone().requires_grad_()
    student(x).square().sum().backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
