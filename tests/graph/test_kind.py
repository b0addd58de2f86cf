"""Which modules are of one kind, so that one trace does for all, and what the code of a forward reads."""

import functools
import operator
from typing import Any

import pytest
import timm
import torch
import torchvision
from block_cases import Block, Net, X
from torch import Tensor, nn
from torch.ao.nn.quantized import FloatFunctional

from irnet_convert.graph.kind import kind_of
from irnet_convert.graph.reads import names_read_by
from irnet_convert.graph.survey import survey
from irnet_convert.graph.traced import UntraceableError


class Sized(Block):
    """Asks a child for its width, by way of a function."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / _width(self.conv)


def _width(layer: nn.Conv2d) -> int:
    return layer.out_channels


class ByString(Block):
    """What it reads does not stand in its code as a name."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / getattr(self.conv, "out_" + "channels")


class Walking(Block):
    """Reaches what is inside without its name."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * len(list(self.modules()))


class Weighted(nn.Module):
    """Has a parameter of its own, whose size (or only rank) it may bake in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.width = nn.Parameter(torch.ones(width)), width

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.mean() / self.weight.dim()


class Measured(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.mean() / self.weight.numel()


class Listed(nn.Module):
    """Iterates over what it holds."""

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


class Plain(Block):
    """Calls the built-in float; every module has a method of that name."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * float(x.ndim)


class Importing(Block):
    """What it imports could read anything."""

    def forward(self, x: Tensor) -> Tensor:
        import math

        return self.norm(self.conv(x)) * math.pi


class InAnotherType(Block):
    """Here float is the method, which reaches all that is inside."""

    def forward(self, x: Tensor) -> Tensor:
        self.float()
        return self.norm(self.conv(x))


class Matching(Block):
    """The attribute that it reads stands in a constant of its code."""

    def forward(self, x: Tensor) -> Tensor:
        match self.conv:
            case nn.Conv2d(out_channels=width):
                return self.norm(self.conv(x)) / width
        return x


class Fetching(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) / operator.attrgetter("out_" + "channels")(self.conv)


class ByDefault(Block):
    """A function of which its code knows no name."""

    def forward(self, x: Tensor, read: Any = _width) -> Tensor:
        return self.norm(self.conv(x)) / read(self.conv)


class ByPart(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) / _width_in_part()


class ByOperator(Block):
    """Python itself asks for its length."""

    def __len__(self) -> int:
        return self.conv.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) / len(self)


class Borrowed(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) * len(list(_of_module(self)))


_width_in_part = functools.partial(_width, nn.Conv2d(1, 1, 1))
_of_module = nn.Module.named_parameters


def test_code_that_can_be_followed_is() -> None:
    assert names_read_by(Plain) == {"norm", "conv", "ndim"}
    assert kind_of(Plain(), {"x"}) == kind_of(Plain(width=8), {"x"})


@pytest.mark.parametrize(
    "kind",
    [
        Importing,
        InAnotherType,
        Matching,
        Fetching,
        ByDefault,
        ByPart,
        ByOperator,
        Borrowed,
        ByString,
        Walking,
    ],
)
def test_code_that_cannot_be_followed(kind: type[Block]) -> None:
    assert names_read_by(kind) is None
    assert kind_of(kind(), {"x"}) != kind_of(kind(width=8), {"x"})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Block(), Block(gain=3.0)),
        (Block(), Block().eval()),
        (Block(gain=(1, [2])), Block(gain=(1, [3]))),
        (Sized(), Sized(width=8)),
        (ByString(), ByString(width=8)),
        (Walking(), Walking(width=8)),
        (Measured(6), Measured(8)),
        (Listed(nn.ReLU()), Listed(nn.ReLU(), nn.ReLU())),
        (Listed(nn.ReLU()), Listed(nn.Tanh())),
        (Listed(nn.Dropout(0.5)), Listed(nn.Dropout(0.5).eval())),
        (Listed(Weighted(6)), Listed(nn.Sequential(Weighted(6)))),
    ],
)
def test_what_differs_is_of_another_kind(one: nn.Module, other: nn.Module) -> None:
    assert kind_of(one, {"x"}) is not None
    assert kind_of(one, {"x"}) != kind_of(other, {"x"})
    assert kind_of(one, {"x"}) != kind_of(one, set())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Block(), Block(width=8)),
        (Weighted(6), Weighted(8)),
        (Listed(Weighted(6)), Listed(Weighted(8))),
        (Listed(nn.Conv2d(6, 6, 1)), Listed(nn.Conv2d(6, 8, 3, padding=1))),
    ],
)
def test_a_width_that_no_code_reads_makes_no_other_kind(one: nn.Module, other: nn.Module) -> None:
    assert kind_of(one, {"x"}) == kind_of(other, {"x"}) is not None


@pytest.mark.parametrize("wrapped", [0, 1])
def test_a_forward_of_an_instance_of_its_own_is_no_other_modules(wrapped: int) -> None:
    """Somebody times one block: it keeps that forward, and the other block is converted as ever."""
    net = Net(Block(), Block())
    block, calls = net.blocks[wrapped], []
    before = block.forward
    block.forward = lambda x: calls.append(1) or before(x)
    assert kind_of(block, {"x"}) is None
    found = survey(net, X)
    with pytest.raises(UntraceableError, match="replaced before"):
        found.graphs(f"blocks.{wrapped}")
    assert found.graphs(f"blocks.{1 - wrapped}")
    assert calls


class Adding(Block):
    """Calls a method of a child, whose name is the child's too: all of that child counts, and no other."""

    def __init__(self, width: int = 6) -> None:
        super().__init__(width)
        self.add = FloatFunctional()

    def forward(self, x: Tensor) -> Tensor:
        return self.add.add(self.norm(self.conv(x)), x)


def test_a_child_whose_method_is_called_counts_as_a_whole() -> None:
    one, other = Adding(), Adding(width=8)
    assert kind_of(one, {"x"}) == kind_of(other, {"x"}) is not None
    other.add.eval()
    assert kind_of(one, {"x"}) != kind_of(other, {"x"})


def test_real_blocks_share_their_traces_whatever_their_width() -> None:
    for net, blocks in (
        (timm.create_model("resnet18"), "layer2.1 layer3.1 layer4.1"),
        (timm.create_model("resnetv2_18"), "stages.0.blocks.1 stages.1.blocks.1 stages.2.blocks.1"),
        # Its code calls the built-in float, a name that every module has a method of.
        (timm.create_model("resnetv2_18"), "stages.1.blocks.1.norm1 stages.2.blocks.1.norm1"),
        (torchvision.models.get_model("googlenet", init_weights=False), "conv1 conv2 inception5b.branch1"),
    ):
        kinds = {kind_of(net.get_submodule(path), {"x"}) for path in blocks.split()}
        assert len(kinds) == 1
        assert None not in kinds


def test_an_attribute_that_is_not_plain_has_no_kind() -> None:
    assert kind_of(Block(gain=torch.ones(())), {"x"}) is None
    assert kind_of(Block(gain={"a": 1}), {"x"}) is None
