"""A block, and a network of such blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

X = torch.zeros(2, 6, 8, 8)


class Block(nn.Module):
    def __init__(self, width: int = 6, gain: Any = 2.0) -> None:
        super().__init__()
        self.conv, self.norm, self.gain = nn.Conv2d(6, width, 3, padding=1), nn.BatchNorm2d(width), gain

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * self.gain


class Net(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(6, 6, 1), nn.Sequential(*blocks), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))
