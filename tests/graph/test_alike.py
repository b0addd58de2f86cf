"""Traced forwards against the forwards themselves, run alone; and which modules share one trace."""

import copy
from typing import Any

import pytest
import torch
from block_cases import Block, Net, X
from torch import Tensor, nn

from irnet_convert import binarize, plan
from irnet_convert.graph.alike import does_the_same
from irnet_convert.graph.example import example_of
from irnet_convert.graph.prove import distrust_wrong_traces
from irnet_convert.graph.record import record
from irnet_convert.graph.survey import survey
from irnet_convert.graph.traced import UntraceableError, distinct, trace


class Cached(Block):
    """Keeps something in a dict in evaluation mode, as LeViT's attention keeps its biases."""

    def __init__(self) -> None:
        super().__init__()
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if not self.training:
            y = y + self.cache.setdefault("bias", y.mean())
        return y


def alone(block: nn.Module, *, of: nn.Module | None = None, training_only: bool = False) -> bool:
    """Whether the graphs of ``of`` do what ``block`` does, by its call in a recording."""
    net = Net(block)
    rec = record(net, example_of(net, X))
    paths = {module: path for path, module in net.named_modules()}
    graphs = trace(of or block, {"x"})
    if training_only:
        graphs[False] = trace(block, {"x"})[False]
    return does_the_same(block, graphs, rec.first_calls["blocks.0"], paths)


def test_a_true_graph_does_the_same() -> None:
    assert alone(Block())


@pytest.mark.parametrize("training_only", [False, True])
def test_another_number_in_the_graph_is_seen_in_either_mode(training_only: bool) -> None:
    assert not alone(Block(), of=Block(gain=3.0), training_only=training_only)


def test_running_alone_leaves_the_module_as_it_was() -> None:
    block = Block()
    before, state = dict(vars(block)), {k: v.clone() for k, v in block.state_dict().items()}
    assert alone(block)
    assert vars(block) == before
    assert all(torch.equal(v, state[k]) for k, v in block.state_dict().items())


def test_the_recorded_calls_hold_no_values() -> None:
    net = Net(Block())
    calls = record(net, example_of(net, X)).first_calls
    assert calls["blocks.0"].args[0].is_meta
    assert not calls["blocks.0"].varied
    assert {name for name, _ in calls["blocks.0"].returned} == {"blocks.0.conv", "blocks.0.norm"}


class Masked(Block):
    """Takes a branch that fx takes too, without a word: a proxy is not None."""

    def forward(self, x: Tensor, scale: Any = None) -> Tensor:
        y = super().forward(x)
        return y if scale is None else y * scale


class Typed(Block):
    """Takes a branch that fx cannot take: a proxy is no tensor."""

    def forward(self, x: Tensor, scale: Any = 1.0) -> Tensor:
        y = super().forward(x)
        return y + scale if isinstance(scale, Tensor) else y * scale


class Calling(nn.Module):
    """Calls two blocks of one kind, one with a number and one with a tensor."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x, 2.0) + self.other(x, x.mean())


class Repeating(nn.Module):
    """Calls one block twice, as heads of detectors are for every level."""

    def __init__(self, block: nn.Module, *second: Any, size: int = 8) -> None:
        super().__init__()
        self.block, self.second, self.size = block, second, size

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x).mean(-1) + self.block(x[..., : self.size], *self.second).mean(-1)


@pytest.mark.parametrize(
    ("second", "varied"), [((), False), ((None,), True), ((2.0,), True), ((torch.ones(()),), True)]
)
@pytest.mark.parametrize("size", [8, 4])
def test_other_sizes_are_no_other_kind_of_call(size: int, second: tuple[Any, ...], varied: bool) -> None:
    net = Repeating(Masked(), *second, size=size)
    assert record(net, example_of(net, X)).first_calls["block"].varied == varied


@pytest.mark.parametrize("scale", [None, 2.0])
def test_a_second_call_that_takes_another_branch_is_found_out(scale: float | None) -> None:
    """The graph that has the scale as an input multiplies by it, the first call does not."""
    found = survey(Repeating(Masked(), scale), X)
    assert distrust_wrong_traces(found, ["block"]) == (scale is not None)


def test_modules_of_one_kind_are_traced_once() -> None:
    found = survey(Net(Block(), Block(), Block(gain=3.0)), X)
    graphs = [found.graphs(f"blocks.{i}") for i in range(3)]
    assert graphs[0] is graphs[1]
    assert graphs[0] is not graphs[2]


def test_one_trace_called_in_another_way_is_compared_again() -> None:
    """The graph multiplies, as the first does; the second adds."""
    net = Calling(Typed(), Typed())
    found = survey(net, X)
    assert found.graphs("one") is found.graphs("other")
    assert distrust_wrong_traces(found, ["one", "other"])
    with pytest.raises(UntraceableError, match="branch"):
        found.graphs("other")


def test_a_shared_trace_is_edited_for_each_module_alone() -> None:
    student: Any = binarize(Net(Block(), Block(gain=3.0), Block()), example_input=X).eval()
    x = student.stem(torch.randn(2, 6, 8, 8))
    for block in student.blocks:
        assert torch.equal(block(x), (block.norm(block.conv(x)) + x) * block.gain)


def test_a_forward_that_fills_a_dict_is_not_traced_and_stays_as_it_was() -> None:
    block = Cached().eval()
    with pytest.raises(UntraceableError, match="cache"):
        trace(block, {"x"})
    assert block.cache == {}
    net = Net(Cached())
    assert any("it keeps something in cache" in note for note in plan(net, example_input=X).notes)
    student: Any = binarize(net, example_input=X).eval()
    assert student.blocks[0].cache == {}
    assert student(torch.randn(2, 6, 8, 8)).shape == (2, 2)


def _in_mode(x: Tensor, module: nn.Module) -> Tensor:
    return x * 2 if module.training else x


class BehindItsBack(Block):
    """Its mode is read by a function that is given the module."""

    def forward(self, x: Tensor) -> Tensor:
        return _in_mode(super().forward(x), self)


def test_a_mode_that_is_read_elsewhere_is_seen_and_not_traced() -> None:
    assert [n.op for n in trace(BehindItsBack(), {"x"})[True].nodes].count("call_function") == 1
    assert not alone(BehindItsBack())
    found = survey(Net(BehindItsBack(), Block()), X)
    found.graphs("blocks.0"), found.graphs("blocks.1")
    assert distrust_wrong_traces(found, ["blocks.0", "blocks.1"])
    with pytest.raises(UntraceableError, match="does not do what its forward does"):
        found.graphs("blocks.0")
    found.graphs("blocks.1")


class Moded(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1 if self.training else super().forward(x)


def test_a_forward_that_reads_its_mode_has_a_graph_for_each() -> None:
    graphs = trace(Block(), {"x"})
    assert distinct(graphs) == [graphs[False]] == [graphs[True]]
    graphs = trace(Moded(), {"x"})
    assert distinct(graphs) == [graphs[False], graphs[True]]
    graphs[False].erase_node(graphs[False].output_node())
    graphs[True].lint()
    assert any(n.op == "output" for n in graphs[True].nodes)


@pytest.mark.parametrize("kind", [Block, Moded])
def test_an_edit_is_made_once_in_each_mode(kind: type[nn.Module]) -> None:
    student: Any = binarize(Net(kind()), example_input=X)
    block = student.blocks[0]
    for mode in (False, True):
        student.train(mode)
        norm = copy.deepcopy(block.norm)
        x = student.stem(torch.randn(2, 6, 8, 8))
        want = (norm(block.conv(x)) + x) * block.gain + (1 if mode and kind is Moded else 0)
        assert torch.equal(block(x), want)
