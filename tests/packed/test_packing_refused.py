"""Models that cannot be packed: what is said of each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from irnet_convert import BinaryConv2d, BinaryLinear
from irnet_convert.errors import ArgumentError, PackError
from irnet_convert.packed import pack

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), BinaryConv2d(8, 8, 3)).eval()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: m[0], "no binary layer"),
        (lambda m: "resnet18", "a str"),
        (lambda m: copy.deepcopy(m).to("meta"), "meta"),
        (lambda m: pack(m, example_input=EXAMPLE), "packed already"),
    ],
)
def test_what_is_no_model_with_weights_and_binary_layers(model: nn.Sequential, make: Any, says: str) -> None:
    with pytest.raises(PackError, match=says):
        pack(make(model), example_input=EXAMPLE)


def test_real_weights_in_double_precision(model: nn.Sequential) -> None:
    with pytest.raises(ArgumentError, match="float64"):
        pack(model, example_input=EXAMPLE, real_dtype=torch.float64)


def test_weights_that_are_not_finite(model: nn.Sequential) -> None:
    with torch.no_grad():
        model.get_parameter("1.weight")[0, 0, 0, 0] = torch.nan
    with pytest.raises(PackError, match="the weights of 1 are not finite"):
        pack(model, example_input=EXAMPLE)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = BinaryLinear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum() > 0 else x


def test_a_forward_that_export_cannot_follow() -> None:
    with pytest.raises(PackError, match="cannot follow Branching"):
        pack(Branching(), example_input=torch.ones(2, 8))


class Decomposing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = BinaryLinear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(self.layer(x))


def test_an_operator_outside_of_the_table() -> None:
    with pytest.raises(PackError, match="svd"):
        pack(Decomposing(), example_input=torch.ones(8, 8))
