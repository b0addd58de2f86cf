"""The benchmark of training: what it counts is counted right, what it times is what it says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from irnet_convert.cost import Case, Request, measure
from irnet_convert.cost.authors import AuthorsLayer, with_authors_layers
from irnet_convert.cost.feed import waiting_share
from irnet_convert.cost.memory import kept_for_backward
from irnet_convert.cost.run import AUTHORS, BINARY, COMPACT, FULL
from irnet_convert.cost.steps import Contestant, Step, time_in_turns
from irnet_convert.errors import ArgumentError, UnknownNameError
from irnet_convert.layers import BinaryConv2d, BinaryLinear, Hardtanh, set_progress

TINY = Case(network="timm/cifar_resnet20", batch=2, size=(3, 8, 8))


def test_kept_memory_counts_storages_once_and_no_parameters() -> None:
    first, second = nn.Linear(5, 7, bias=False), nn.Linear(7, 3, bias=False)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = torch.randn(4, 5)
    # The input, and the ReLU's output, which the ReLU and the second layer both keep.
    assert kept_for_backward(model, lambda: model(x).sum()) == 4 * (4 * 5 + 4 * 7)
    assert kept_for_backward(model, lambda: model(x[:2]).sum()) == 4 * (4 * 5 + 2 * 7)
    with torch.no_grad():
        assert kept_for_backward(model, lambda: model(x).sum()) == 0


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_authors_layer_is_the_same_layer(kind: str) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 6, 3, padding=1, groups=2, bias=True) if kind == "conv" else BinaryLinear(9, 6)
    x = torch.randn(3, 4, 5, 5) if kind == "conv" else torch.randn(3, 9)
    set_progress(layer, 0.4)
    found = []
    for one in (layer, AuthorsLayer(layer)):
        input = x.clone().requires_grad_()
        layer.zero_grad()
        out = one(input)
        out.square().sum().backward()
        found.append((out.detach(), input.grad, layer.weight.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_authors_layers_take_the_place_of_all_and_fail_on_channels_last() -> None:
    student = nn.Sequential(BinaryConv2d(4, 4, 3), Hardtanh(), nn.Flatten(), BinaryLinear(36, 3))
    theirs = with_authors_layers(student)
    assert [type(m) for m in theirs] == [AuthorsLayer, nn.Hardtanh, nn.Flatten, AuthorsLayer]
    assert type(student[0]) is BinaryConv2d
    x = torch.randn(2, 4, 5, 5)
    assert theirs(x).shape == (2, 3)
    with pytest.raises(RuntimeError, match="view"):
        theirs.to(memory_format=torch.channels_last)(x)


def test_a_step_trains() -> None:
    torch.manual_seed(0)
    model, images, labels = nn.Linear(4, 3), torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])
    before, step = model.weight.detach().clone(), Step(model, images, labels)
    gradient = torch.autograd.grad(F.cross_entropy(model(images), labels), model.weight)[0]
    step()
    torch.testing.assert_close(model.weight.grad, gradient)
    torch.testing.assert_close(model.weight.detach(), before - 1e-6 * gradient, rtol=0, atol=1e-9)
    assert step.kept() > 0


def test_turns_are_taken_by_all_in_every_round() -> None:
    calls: list[str] = []
    names = ["a", "b", "c"]
    steps = [Contestant(name=n, against="a", step=lambda n=n: calls.append(n)) for n in names]
    rounds = 0

    def progress() -> None:
        nonlocal rounds
        rounds += 1

    found = time_in_turns(steps, 5, progress)
    assert rounds == 5
    assert [sorted(calls[i : i + 3]) for i in range(0, 15, 3)] == [names] * 5
    assert len({tuple(calls[i : i + 3]) for i in range(0, 15, 3)}) > 1
    assert {name: len(times) for name, times in found.items()} == dict.fromkeys(names, 5)


def test_measure_says_what_it_measured() -> None:
    before = torch.get_num_threads()
    done: list[int] = []
    request = Request(cases=[TINY], rounds=2, threads=1, workers=0)
    cost = measure(request, "a machine", lambda text, steps: done.append(steps))
    assert torch.get_num_threads() == before
    assert sum(done) == request.work
    assert [row.name for row in cost.rows] == [FULL, BINARY, AUTHORS]
    full, binary, authors = cost.rows
    assert (full.time_ratio, full.memory_ratio) == (1.0, 1.0)
    assert all(row.against == FULL and row.size == (3, 8, 8) and row.seconds > 0 for row in cost.rows)
    # The labels' loss aside, a binary network keeps what full precision does: 13 tensors a stage and three
    # numbers a channel; the authors' formulation keeps each layer's input twice, and weights.
    assert full.kept <= binary.kept < 1.05 * full.kept
    assert authors.kept > 1.4 * full.kept
    assert cost.to_dict()["rows"][1]["memory_ratio"] == binary.kept / full.kept


class Fed(Step):
    """A step that only notes what it is fed."""

    def __init__(self, form: torch.memory_format) -> None:
        super().__init__(
            nn.Linear(1, 1), torch.zeros(2, 3, 8, 8).contiguous(memory_format=form), torch.zeros(2)
        )
        self.fed: list[torch.Tensor] = []

    def __call__(self) -> None:
        self.fed.append(self._images)


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_a_step_that_takes_no_time_waits_all_of_it(form: torch.memory_format) -> None:
    step = Fed(form)
    share = waiting_share(step, "timm/cifar_resnet20", 2, (3, 8, 8), workers=0)
    assert 0.5 < share <= 1
    assert all(x.shape == (2, 3, 8, 8) and x.is_contiguous(memory_format=form) for x in step.fed)
    assert len({x.sum().item() for x in step.fed}) > 1
    # What was prepared beforehand does not count: that many steps more are run than are timed.
    assert len(step.fed) == 9


def test_the_compact_network_is_measured_where_it_is_asked_for() -> None:
    done: list[int] = []
    request = Request(cases=[TINY], rounds=1, threads=1, authors=False, compact=True, workers=0)
    rows = measure(request, "", lambda text, steps: done.append(steps)).rows
    assert sum(done) == request.work
    assert [row.name for row in rows] == [FULL, BINARY, COMPACT]
    assert rows[2].against == FULL
    assert rows[2].waiting is None
    assert rows[1].memory_ratio >= 1
    assert 0.3 < rows[2].memory_ratio < 0.5


def test_waiting_is_told_of_the_binarized_network_alone() -> None:
    request = Request(cases=[TINY], rounds=1, threads=1, authors=False, workers=0)
    full, binary = measure(request, "").rows
    assert full.waiting is None
    assert binary.waiting is not None
    assert 0 < binary.waiting < 1


def test_errors_come_early() -> None:
    with pytest.raises(UnknownNameError, match="resnet18"):
        measure(Request(cases=[Case(network="timm/resnet19", batch=1)]), "")
    if not torch.cuda.is_available():
        with pytest.raises(ArgumentError, match="CUDA"):
            measure(Request(cases=[TINY], device="cuda"), "")
