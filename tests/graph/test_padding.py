"""An explicit zero padding in front of a binarized layer contributes exactly 0, in exact integers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.convert import binarize, plan, plan_of

X = torch.randn(2, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ALL = ["activation", "shortcut"]


class Net(nn.Module):
    """Padding, then a layer of which the output is returned beside the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.pad = nn.ZeroPad2d((1, 2, 0, 1))
        self.middle = nn.Conv2d(6, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 2)

    def padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 2, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.middle(self.padded(self.stem(x)))).mean((2, 3)))


class Module(Net):
    def padded(self, x: Tensor) -> Tensor:
        return self.pad(x)


class Keywords(Net):
    def padded(self, x: Tensor) -> Tensor:
        return F.pad(input=x, pad=[1, 2, 0, 1], mode="constant", value=0.0)


class Dynamic(Net):
    """Amounts that follow from the size of the image."""

    def padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, x.shape[-1] % 4, 0, 1))


def padded_signs(model: Net, x: Tensor, amounts: tuple[int, ...]) -> Tensor:
    h = model.stem(x)
    return F.pad(torch.where(h >= 0, 1.0, -1.0).to(x.dtype), amounts)


@pytest.mark.parametrize("kind", [Net, Module, Keywords, Dynamic])
@pytest.mark.parametrize("size", [9, 10])
@pytest.mark.parametrize("training", [False, True])
def test_padding_moves_behind_the_sign(kind: type[Net], size: int, training: bool) -> None:
    torch.manual_seed(0)
    student: Any = binarize(kind().double().train(training), example_input=X)
    assert [(e.rewrite, e.form) for e in plan_of(student).edits] == [
        ("padding", "module" if kind is Module else "function")
    ]
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    got: list[Tensor] = []
    student.middle.register_forward_hook(lambda _, args, output: got.append(output))
    student(x)
    amounts = (1, size % 4, 0, 1) if kind is Dynamic else (1, 2, 0, 1)
    signs, weight = padded_signs(student, x, amounts), student.middle.binary_weight()
    scale = weight.abs().amax((1, 2, 3), keepdim=True)
    integers = F.conv2d(signs, weight / scale)
    assert torch.equal(got[0], integers * scale.reshape(1, -1, 1, 1))
    assert torch.equal(integers, integers.round())


def test_a_padding_in_another_module_keeps_the_layer() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.pad(x, (1, 1, 1, 1))

    class Across(Net):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def padded(self, x: Tensor) -> Tensor:
            return self.inner(x)

    (middle,) = (d for d in plan(Across().double().eval(), example_input=X).decisions if d.path == "middle")
    assert middle.action == "keep"
    assert "padded with zeros in inner" in middle.reason


def test_a_padding_with_something_between_keeps_the_layer() -> None:
    class Between(Net):
        def padded(self, x: Tensor) -> Tensor:
            return F.pad(x, (1, 1, 1, 1)).transpose(2, 3)

    (middle,) = (d for d in plan(Between().double().eval(), example_input=X).decisions if d.path == "middle")
    assert (middle.action, "padded" in middle.reason) == ("keep", True)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "ones"])
def test_other_paddings_are_values_like_any(mode: str) -> None:
    class Other(Net):
        def padded(self, x: Tensor) -> Tensor:
            return F.pad(x, (1, 1, 1, 1), value=1.0) if mode == "ones" else F.pad(x, (1, 1, 1, 1), mode=mode)

    student: Any = binarize(Other().double().eval(), example_input=X)
    assert plan_of(student).edits == ()
    got: list[Tensor] = []
    student.middle.register_forward_hook(lambda _, args, output: got.append((args[0], output)))
    student(X)
    signs = torch.where(got[0][0] >= 0, 1.0, -1.0).double()
    assert torch.equal(got[0][1], F.conv2d(signs, student.middle.binary_weight()))


def test_real_activations_are_padded_as_before() -> None:
    student: Any = binarize(Net().double().eval(), "irnet_w1a32", example_input=X)
    assert plan_of(student).edits == ()


def test_a_padding_that_others_read_too_stays_for_them() -> None:
    class Shared(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.padded(self.stem(x))
            return self.head(self.norm(self.middle(y)).mean((2, 3))) + y.sum()

    torch.manual_seed(0)
    model = Shared().double().eval()
    student: Any = binarize(model, example_input=X)
    got: list[Tensor] = []
    student.middle.register_forward_hook(lambda _, args, output: got.append(output))
    student(X)
    signs = padded_signs(student, X, (1, 2, 0, 1))
    assert torch.equal(got[0], F.conv2d(signs, student.middle.binary_weight()))


@pytest.mark.parametrize("dims", [1, 3])
@pytest.mark.parametrize("transposed", [False, True])
def test_every_dimension(dims: int, transposed: bool) -> None:
    plain: Any = {1: nn.Conv1d, 3: nn.Conv3d}[dims]
    kind: Any = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[dims] if transposed else plain
    pad: Any = {1: nn.ConstantPad1d, 3: nn.ConstantPad3d}[dims]
    model = nn.Sequential(
        plain(3, 4, 1), nn.Tanh(), pad(1, 0.0), kind(4, 4, 3, stride=2, bias=False), nn.Tanh(), plain(4, 2, 1)
    ).double()
    x = torch.randn(2, 3, *[5] * dims, dtype=torch.float64)
    student: Any = binarize(model, example_input=x, rewrites=[])
    assert [(e.rewrite, e.form) for e in plan_of(student).edits] == [("padding", "module")]
    student[3].scale.data.fill_(1.0)
    got: list[Tensor] = []
    student[3].register_forward_hook(lambda _, args, output: got.append(output))
    student(x)
    signs = F.pad(torch.where(student[1](student[0](x)) >= 0, 1.0, -1.0).double(), [1] * 2 * dims)
    name = f"conv_transpose{dims}d" if transposed else f"conv{dims}d"
    assert torch.equal(got[0], getattr(F, name)(signs, student[3].binary_weight(), stride=2))
