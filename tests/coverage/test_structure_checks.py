"""Properties 1 to 4: a sound conversion has nothing to report, and every kind of damage is reported."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from broken_models import EXAMPLE, Net, pair
from torch import Tensor, nn

from irnet_convert.convert import plan_of
from irnet_convert.coverage import structure
from irnet_convert.coverage.autograd import run
from irnet_convert.coverage.signs import is_pooled, never_negative
from irnet_convert.graph.example import Example
from irnet_convert.graph.plan import Plan

FED = Example(args=(EXAMPLE,))


def with_decision(plan: Plan, path: str, **changes: object) -> Plan:
    """The plan with fields of one decision changed."""
    return replace(
        plan, decisions=tuple(replace(d, **changes) if d.path == path else d for d in plan.decisions)
    )


def test_a_sound_conversion_has_nothing_to_report() -> None:
    net, student = pair()
    plan, calls = plan_of(student), structure.Calls(student)
    runs = [run(net, example=FED), run(net, example=FED, training=True)]
    with calls.watched():
        after = run(student, example=FED)
    assert list(structure.decisions(net, student, plan)) == []
    assert list(structure.positions(plan, runs)) == []
    assert list(structure.sameness(net, student, plan)) == []
    assert list(structure.outputs(runs[0].output, after.output, mode="evaluation")) == []
    assert structure.disconnected(runs[0], after) == set()
    assert list(calls.problems()) == []


# -- property 1


def test_a_layer_without_a_decision_is_reported() -> None:
    net, student = pair()
    plan = plan_of(student)
    fewer = replace(plan, decisions=tuple(d for d in plan.decisions if d.path != "conv2"))
    found = list(structure.decisions(net, student, fewer))
    assert found == ["conv2 has no decision", "conv2 is binary, without a decision"]


def test_a_layer_decided_twice_and_one_that_is_none_are_reported() -> None:
    net, student = pair()
    plan = plan_of(student)
    first = plan.decisions[0]
    more = replace(plan, decisions=(*plan.decisions, first, replace(first, path="norm1")))
    found = list(structure.decisions(net, student, more))
    assert "stem has 2 decisions" in found
    assert "a decision on norm1, which is no layer" in found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reason": " "}, "conv1 is decided without a reason"),
        ({"aliases": ("conv3",)}, "conv1 is shared as"),
        ({"action": "keep"}, "conv1: the plan says keep, the model holds BinaryConv2d"),
    ],
)
def test_a_wrong_decision_is_reported(changes: dict[str, object], message: str) -> None:
    net, student = pair()
    found = list(structure.decisions(net, student, with_decision(plan_of(student), "conv1", **changes)))
    assert any(f.startswith(message) for f in found)


def test_an_unplanned_alias_is_reported() -> None:
    net, student = pair()
    net.twin = net.conv1
    assert any("conv1 is shared" in f for f in structure.decisions(net, student, plan_of(student)))


# -- property 2


@pytest.mark.parametrize(
    ("path", "positions", "message"),
    [
        ("stem", (), "stem is a first layer, and not planned as one"),
        ("conv1", ("first",), "conv1 is planned as a first layer, and is none"),
        ("head", (), "head is a last layer, and not planned as one"),
        ("conv2", ("last",), "conv2 is planned as a last layer, and is none"),
    ],
)
def test_a_wrong_position_is_reported(path: str, positions: tuple[str, ...], message: str) -> None:
    net, student = pair()
    plan = with_decision(plan_of(student), path, positions=frozenset(positions))
    assert message in list(structure.positions(plan, [run(net, example=FED)]))


class Branches(nn.Module):
    """Two stems, a trunk of two residual branches, two heads of which one runs in training mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem1, self.stem2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.branch1, self.branch2 = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.head, self.aux = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)
        self.position = nn.Linear(2, 8)

    def trunk(self, x: Tensor) -> Tensor:
        x = self.stem1(x) + self.stem2(x)
        x = x + self.branch1(x)
        return x + self.branch2(x) + self.position(torch.ones(2)).mean()

    def forward(self, x: Tensor) -> object:
        x = self.trunk(x)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


def test_first_and_last_by_autograd() -> None:
    net = Branches()
    seen, trained = run(net, example=FED), run(net, example=FED, training=True)
    assert seen.first == {"stem1", "stem2"}  # position's input is no input of the model
    assert seen.tails == seen.ends == {"head"}
    assert trained.ends == {"head", "aux"}
    assert "aux" not in seen.used


def test_ends_of_a_trunk_without_a_head() -> None:
    """Every branch reaches the output through the additions; the last one feeds no other."""
    net = Branches()
    net.forward = net.trunk
    found = run(net, example=FED)
    assert {"branch1", "branch2", "stem1"} <= found.tails
    assert "branch2" in found.ends
    assert "branch1" not in found.ends


# -- property 3


def test_a_changed_class_and_keys_are_reported() -> None:
    net, student = pair()
    plan = plan_of(student)
    other = copy.deepcopy(student)
    other.__class__ = type("Renamed", (Net,), {})
    assert list(structure.sameness(net, other, plan)) == ["its class was Net and is Renamed"]
    other = copy.deepcopy(student)
    other.extra = nn.Parameter(torch.ones(1))
    del other.norm2.running_var
    other.head.weight = nn.Parameter(torch.ones(6, 8))
    found = list(structure.sameness(net, other, plan))
    assert "the key extra is new, and the plan does not say so" in found
    assert "the key norm2.running_var is gone" in found
    assert any(f.startswith("head.weight was (5, 8)") for f in found)
    promised = replace(plan, added_keys=(*plan.added_keys, "stem.weight", "nowhere.scale"))
    found = list(structure.sameness(net, student, promised))
    assert "the plan adds the key nowhere.scale, which is not there" in found
    assert "the plan adds the key stem.weight, which was there" in found


@pytest.mark.parametrize(
    ("after", "boxes", "reported"),
    [
        ({"out": torch.ones(2, 5)}, False, False),
        ({"out": torch.ones(3, 5)}, False, True),
        ({"out": torch.ones(3, 5)}, True, False),
        ({"out": torch.ones(3, 6)}, True, True),
        ({"out": torch.ones(2, 5).half()}, False, True),
        ({"other": torch.ones(2, 5)}, False, True),
        ([torch.ones(2, 5)], False, True),
    ],
)
def test_changed_outputs_are_reported(after: object, boxes: bool, reported: bool) -> None:
    before = {"out": torch.ones(2, 5)}
    assert bool(list(structure.outputs(before, after, mode="training", boxes=boxes))) == reported


# -- properties 4 and 5 by data flow


def test_a_layer_that_is_not_called_is_reported() -> None:
    net, student = pair()
    student.forward = lambda x: student.head(student.conv1(student.stem(x)).mean((2, 3)))
    calls = structure.Calls(student)
    with calls.watched():
        after = run(student, example=FED)
    assert list(calls.problems()) == ["conv2 is binarized and never called"]
    assert structure.disconnected(run(net, example=FED), after) == {"conv2"}


def test_a_relu_in_front_is_reported() -> None:
    _, student = pair()
    student.act = nn.ReLU()  # what the rewrite replaced
    calls = structure.Calls(student)
    with calls.watched():
        run(student, example=FED)
    assert list(calls.problems()) == ["conv2 has an input that cannot be negative"]


X = torch.randn(2, 4, 6, 6, requires_grad=True)


@pytest.mark.parametrize(
    ("value", "certain"),
    [
        (lambda: X.relu(), True),
        (lambda: X, False),
        (lambda: X.relu() - 1, False),
        (lambda: nn.functional.max_pool2d(X.relu(), 2).flatten(1), True),
        (lambda: nn.functional.hardtanh(X), False),
        (lambda: nn.functional.relu6(X), True),
        (lambda: X.relu() + X.sigmoid(), True),
        (lambda: X.relu() + X, False),
        (lambda: torch.cat([X.relu(), X.abs()], 1), True),
        (lambda: X.softmax(1).transpose(1, 2), True),
        (lambda: nn.functional.silu(X), False),
        (lambda: nn.functional.scaled_dot_product_attention(X, X, X.sigmoid()), True),
        (lambda: nn.functional.scaled_dot_product_attention(X.sigmoid(), X, X), False),
    ],
)
def test_signs_by_autograd(value: object, certain: bool) -> None:
    assert never_negative(value().grad_fn) == certain  # type: ignore[operator]


def test_a_maximum_over_windows_is_seen() -> None:
    pooled = nn.functional.max_pool2d(X, 3, 1, 1)
    assert is_pooled(nn.functional.hardtanh(pooled).grad_fn)
    assert not is_pooled(nn.functional.hardtanh(X * 2).grad_fn)
    assert not is_pooled(nn.functional.conv2d(pooled, torch.ones(3, 4, 1, 1)).relu().grad_fn)
