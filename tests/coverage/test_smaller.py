"""Smaller forms of a model: what is left out, what stays, and what is the same afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from irnet_convert.coverage.smaller import Skipped, narrow, shorten


class Block(nn.Module):
    """Two convolutions beside a shortcut, which keeps the shape unless it strides."""

    def __init__(self, wide: int, *, out: int | None = None, dilation: int = 1, stride: int = 1) -> None:
        super().__init__()
        out = out or wide
        self.conv1 = nn.Conv2d(wide, out, 3, stride, dilation, dilation)
        self.conv2 = nn.Conv2d(out, out, 1)
        self.short = nn.Conv2d(wide, out, 1, stride) if out != wide else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()) + self.short(x)


def _skipped(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, Skipped)]


def test_the_third_of_a_kind_is_skipped_whatever_its_width() -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 1), *[Block(8) for _ in range(4)]),
        nn.Sequential(Block(8, out=16), Block(16), Block(16, dilation=2), Block(16)),
    )
    x = torch.randn(2, 3, 8, 8)
    paths = shorten(model, (x,))
    assert paths == _skipped(model) == ["0.3", "0.4", "1.1", "1.3"]
    assert model(x).shape == (2, 16, 8, 8)


def test_what_changes_the_shape_is_never_skipped() -> None:
    model = nn.Sequential(Block(4, out=8), Block(8, out=12), Block(12, out=16), Block(16, out=20))
    assert shorten(model, (torch.randn(1, 4, 8, 8),), keep=1) == []


def test_single_layers_shared_blocks_and_parts_that_are_joined_stay() -> None:
    class Joined(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return torch.stack([part(x) for part in self]).sum(0)

    shared = Block(4)
    model = nn.Sequential(
        *[nn.Conv2d(4, 4, 1) for _ in range(3)], *[shared] * 3, Joined(*[Block(4) for _ in range(3)])
    )
    assert shorten(model, (torch.randn(1, 4, 8, 8),), keep=1) == []


def test_the_forward_pass_that_tells_the_shapes_leaves_nothing_behind() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(nn.BatchNorm2d(4), Block(4), Block(4))
            self.side: int | None = None

        def forward(self, x: Tensor) -> Tensor:
            self.side = x.shape[-1]
            return self.blocks(x)

    model = Caching().train()
    assert shorten(model, (torch.randn(1, 4, 8, 8),), keep=1) == ["blocks.2"]
    assert model.side is None
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_a_skipped_block_returns_the_argument_that_it_stands_for() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    assert Skipped()(one, two, mask=None) is one
    assert Skipped(-1)(one, two) is two


def test_channels_are_divided_and_layers_still_fit() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.PReLU(16),
        nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 32, 1, groups=4), nn.GroupNorm(4, 32),
        nn.ConvTranspose2d(32, 24, 2, groups=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(24, 40), nn.LayerNorm(40), nn.Linear(40, 10),
    )  # fmt: skip
    narrow(model, 4)
    shapes = [tuple(w.shape) for m in model if isinstance(w := getattr(m, "weight", None), Tensor)]
    assert shapes == [
        (4, 3, 3, 3), (4,), (4,), (4, 1, 3, 3), (8, 1, 1, 1), (8,), (8, 3, 2, 2), (10, 6), (10,), (10, 10)
    ]  # fmt: skip
    assert model[3].groups == 4
    assert model(torch.randn(2, 3, 9, 9)).shape == (2, 10)


def test_weights_keep_the_variance_of_their_sums_and_stay_parameters() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4096, 64)
    whole = layer.weight.detach().clone()
    narrow(layer, 16)
    assert isinstance(layer.weight, nn.Parameter)
    assert layer.weight.requires_grad
    torch.testing.assert_close(layer.weight.detach(), whole[:4, :256] * 4)


def test_small_numbers_and_named_widths() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.heads = 64, 8
            self.proj = nn.Linear(64, 12)

    head = Head()
    narrow(head, 4, least=16, widths=("wide",))
    assert (head.wide, head.heads) == (16, 8)
    assert head.proj.weight.shape == (12, 16)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_narrow_residual_network_runs_forward_and_backward(factor: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 1), Block(16), Block(16, out=32, stride=2))
    narrow(model, factor)
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
