"""The shapes of programs: what is fused into one step, and what splits regions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stepwise import steps_alone
from timm.layers import Conv2dSame
from torch import Tensor, nn

from irnet_convert import BinaryConv2d, BinaryLinear
from irnet_convert.errors import ArgumentError
from irnet_convert.packed import pack
from irnet_convert.packed.steps import Add, Affine, BinaryConv, Clamp, Conv


class Block(nn.Module):
    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, bias=False)
        self.conv = BinaryConv2d(6, 6, 3, padding=1, bias=True, scale=True)
        self.norm = nn.BatchNorm2d(6)
        self.act, self.drop = act, nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.act(self.drop(self.norm(self.conv(x))) + x)


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        (nn.ReLU(inplace=True), "clamp"), (nn.ReLU6(), "clamp"),
        (nn.Hardtanh(-2, 0.5), "clamp"),
        (nn.PReLU(6), "prelu"), (nn.PReLU(), "prelu"), (nn.LeakyReLU(0.2), "prelu"),
        (nn.SiLU(), "activation"), (nn.GELU(), "activation"), (nn.GELU("tanh"), "activation"),
        (nn.Hardswish(inplace=True), "activation"),
        (nn.Sigmoid(), "activation"), (nn.Tanh(), "activation"), (nn.Hardsigmoid(), "activation"),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_what_follows_a_convolution_is_part_of_its_step(act: nn.Module, kind: str) -> None:
    torch.manual_seed(3)
    model = Block(act).eval()
    stir_norms(model)
    with torch.no_grad():
        for name, p in act.named_parameters():
            p.copy_(torch.randn(p.shape) if name else p)
    x = torch.randn(2, 3, 8, 8)
    packed = pack(model, example_input=x)
    (program,) = packed.programs
    stem, conv = program.steps
    assert isinstance(stem, Conv)
    assert isinstance(conv, BinaryConv)
    assert [p.kind for p in stem.post] == []
    # 2^s, scale, bias and normalisation: one multiply-add.
    assert [p.kind for p in conv.post] == ["affine", "add", kind]
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-5, atol=1e-5)


def stir_norms(model: nn.Module, seed: int = 0) -> None:
    """Statistics and parameters of trained normalisations, negative and zero gammas among them."""
    g = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d | nn.BatchNorm1d):
            with torch.no_grad():
                norm.running_mean.copy_(torch.randn(norm.num_features, generator=g) * 0.3)
                norm.running_var.copy_(torch.rand(norm.num_features, generator=g) + 0.5)
                if norm.affine:
                    norm.weight.copy_(torch.randn(norm.num_features, generator=g))
                    norm.bias.copy_(torch.randn(norm.num_features, generator=g) * 0.3)
                    norm.weight[torch.rand(norm.num_features, generator=g) < 0.2] = 0


class Function(nn.Module):
    """A binary convolution, some function of its result, and another one."""

    def __init__(self, function: Any, channels: int = 6) -> None:
        super().__init__()
        self.first = BinaryConv2d(4, 6, 3, padding=1, bias=False)
        self.function = function
        self.last = BinaryConv2d(channels, 5, 1, bias=False)
        self.shift = nn.Parameter(torch.randn(1, 6, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x), self))


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        (lambda y, m: y + m.shift, [["binary_conv", "binary_conv"]]),
        (lambda y, m: m.shift - y, [["binary_conv", "binary_conv"]]),
        (lambda y, m: y - m.shift, [["binary_conv", "binary_conv"]]),
        (lambda y, m: -y * 0.5 + 3, [["binary_conv", "binary_conv"]]),
        (lambda y, m: (y / m.shift).clamp(max=2), [["binary_conv", "binary_conv"]]),
        (lambda y, m: F.max_pool2d(y, 3, 2, 1, ceil_mode=True), [["binary_conv", "max_pool", "binary_conv"]]),
        (lambda y, m: F.avg_pool2d(y, 2) - 1, [["binary_conv", "avg_pool", "binary_conv"]]),
        (lambda y, m: F.adaptive_avg_pool2d(y, 1), [["binary_conv", "global_avg_pool", "binary_conv"]]),
        (lambda y, m: F.adaptive_avg_pool2d(y, 4), [["binary_conv", "avg_pool", "binary_conv"]]),
        (lambda y, m: y[:, :, ::2, ::2] + 0, [["binary_conv", "subsample", "binary_conv"]]),
        (lambda y, m: y + y, [["binary_conv", "pointwise", "binary_conv"]]),
        (lambda y, m: F.relu(y) + y, [["binary_conv", "pointwise", "binary_conv"]]),
        (lambda y, m: y.add_(1).relu_(), [["binary_conv", "binary_conv"]]),
        (lambda y, m: y.cos(), [["binary_conv"], ["binary_conv"]]),
        (lambda y, m: y.cos() + y, [["binary_conv"], ["pointwise", "binary_conv"]]),
        (lambda y, m: y.permute(0, 1, 3, 2), [["binary_conv"], ["binary_conv"]]),
        (lambda y, m: y[:, :, 1:], [["binary_conv"], ["binary_conv"]]),
        (lambda y, m: y * y, [["binary_conv"], ["binary_conv"]]),
        (lambda y, m: y + y.mean((2, 3), True), [["binary_conv", "global_avg_pool"], ["binary_conv"]]),
        (lambda y, m: torch.where(y > 0, y, 2.0), [["binary_conv"], ["binary_conv"]]),
        (lambda y, m: y + torch.ones(8), [["binary_conv"], ["binary_conv"]]),
    ],
)  # fmt: skip
def test_what_is_fused_and_what_is_not(function: Any, steps: list[list[str]]) -> None:
    torch.manual_seed(0)
    model = Function(function)
    x = torch.randn(2, 4, 8, 8)
    packed = pack(model, example_input=x)
    assert [[s.kind for s in p.steps] for p in packed.programs] == steps
    with torch.no_grad():
        assert torch.equal(packed(x), model(x))
        assert torch.equal(packed(x[:1]), model(x[:1]))


@pytest.mark.parametrize(
    ("function", "channels", "steps"),
    [
        (
            lambda y, m: torch.cat([y, y.relu(), y], 1),
            18,
            ["binary_conv", "pointwise", "concat", "binary_conv"],
        ),
        (
            lambda y, m: F.pad(y[:, :, ::2, ::2], (0, 0, 0, 0, 1, 2)),
            9,
            ["binary_conv", "subsample", "binary_conv"],
        ),
        (lambda y, m: F.pixel_unshuffle(y, 2), 24, None),
    ],
)
def test_what_changes_channels(function: Any, channels: int, steps: list[str] | None) -> None:
    torch.manual_seed(0)
    model = Function(function, channels)
    x = torch.randn(2, 4, 8, 8)
    packed = pack(model, example_input=x)
    kinds = [[s.kind for s in p.steps] for p in packed.programs]
    assert kinds == ([["binary_conv"], ["binary_conv"]] if steps is None else [steps])
    with torch.no_grad():
        assert torch.equal(packed(x), model(x))


class Shared(nn.Module):
    """One layer called twice, whose first result two others read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = BinaryConv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.norm(self.conv(x))
        return first, self.norm(self.conv(first)) + first


def test_a_layer_called_twice_is_stored_once() -> None:
    model = Shared().eval()
    stir_norms(model)
    packed = pack(model, example_input=torch.zeros(2, 4, 6, 6))
    (program,) = packed.programs
    assert [c.name for c in program.constants if c.dtype == "bits"] == ["conv.weight"]
    assert [s.weight for s in program.steps if isinstance(s, BinaryConv)] == [0, 0]
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-5, atol=1e-5)


class TwoLayouts(nn.Module):
    """A map that a linear layer reads as rows, as some transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = BinaryConv2d(8, 8, 3, padding=1), BinaryLinear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.linear(x) + x


def test_one_value_in_two_layouts() -> None:
    model, x = TwoLayouts(), torch.randn(2, 8, 5, 8)
    packed = pack(model, example_input=x)
    assert [[s.kind for s in p.steps] for p in packed.programs] == [["binary_conv"], ["binary_linear"]]
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-6, atol=1e-6)


def test_a_real_convolution_with_same_padding_far_from_binary_layers() -> None:
    """It is an operator of its own in the exported graph, which only a program can run."""
    model = nn.Sequential(Conv2dSame(3, 4, 3, 2), nn.GroupNorm(1, 4), BinaryConv2d(4, 4, 3))
    packed = pack(model, example_input=torch.zeros(1, 3, 9, 9))
    assert [[s.kind for s in p.steps] for p in packed.programs] == [["conv"], ["binary_conv"]]
    x = torch.randn(3, 3, 9, 9)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-5, atol=1e-5)


def test_the_binary_convolution_takes_the_addition() -> None:
    class Down(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.down = BinaryConv2d(4, 6, 3, 2, 1), nn.Conv2d(4, 6, 1, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x) + self.down(x))

    packed = pack(Down(), example_input=torch.zeros(1, 4, 8, 8))
    real, binary = packed.programs[0].steps
    assert isinstance(real, Conv)
    assert isinstance(binary, BinaryConv)
    assert [type(p) for p in binary.post] == [Affine, Add, Clamp]


def test_another_size_where_the_size_is_fixed() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = BinaryConv2d(3, 4, 3), BinaryLinear(4 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(x).flatten(1))

    packed = pack(Fixed(), example_input=torch.zeros(1, 3, 8, 8))
    assert [[s.kind for s in p.steps] for p in packed.programs] == [
        ["binary_conv", "flatten", "binary_linear"]
    ]
    with pytest.raises(ArgumentError, match="size"):
        packed(torch.zeros(1, 3, 9, 8))


class Branching(nn.Module):
    """Takes another way for small images, as some models do."""

    def __init__(self, asserts: bool) -> None:
        super().__init__()
        self.conv, self.asserts = BinaryConv2d(3, 4, 3), asserts

    def forward(self, x: Tensor) -> Tensor:
        if self.asserts:
            assert x.shape[2] == 40
            assert x.shape[3] == 40
        elif x.shape[2] % 4:
            return self.conv(x)
        return -self.conv(x)


@pytest.mark.parametrize("asserts", [True, False])
def test_a_model_whose_forward_asks_for_the_size(asserts: bool) -> None:
    model, x = Branching(asserts), torch.randn(2, 3, 40, 40)
    packed = pack(model, example_input=x)
    assert packed.network.inputs[0].shape == (None, 3, 40, 40)
    assert packed.report().image_size == "40×40"
    with torch.no_grad():
        torch.testing.assert_close(packed(x), model(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(ArgumentError, match=r"\(2, 3, 43, 40\)"):
        packed(torch.randn(2, 3, 43, 40))


def test_a_step_alone_sees_a_wrong_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool that the networks are tested with notices a wrong affine."""
    from irnet_convert.packed import emit

    model = Block(nn.ReLU()).eval()
    x = torch.randn(2, 3, 8, 8)
    worst = max(float((a - b).abs().max()) for _, a, b in steps_alone(model, x))
    assert worst < 1e-5
    real = emit._merged
    monkeypatch.setattr(emit, "_merged", lambda posts: real(posts)[1:] or real(posts))
    worst = max(float((a - b).abs().max()) for _, a, b in steps_alone(model, x))
    assert worst > 1e-2
