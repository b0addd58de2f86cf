"""Small networks for the tests of the checks, and what is done to break them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.convert import binarize


class Net(nn.Module):
    """Stem, two convolutions with norms and ReLUs, dropout, head."""

    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act, self.drop = nn.ReLU(), nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm1(self.conv1(x))
        x = self.drop(self.norm2(self.conv2(self.act(x))))
        return self.head(x.mean((2, 3)))


EXAMPLE = torch.ones(2, 3, 8, 8)


def pair(**how: Any) -> tuple[Net, nn.Module]:
    """The network and its conversion, on real weights."""
    torch.manual_seed(0)
    net = Net().eval()
    return net, binarize(net, example_input=EXAMPLE, **how)


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
