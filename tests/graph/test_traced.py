"""Traced forwards do what the originals do, in both modes, or are refused with a reason."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from irnet_convert.convert import binarize, plan, plan_of
from irnet_convert.errors import RewriteError
from irnet_convert.graph.traced import UntraceableError, install, trace

X = torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(0))


class Dropped(nn.Module):
    """Functional drop-out, batch statistics by flag, and a branch on the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.weight = nn.Parameter(torch.ones(6))
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, gain: float | Tensor = 1.0, *, offset: float = 0.0) -> Tensor:
        y = F.dropout(self.conv(x), 0.5, self.training)
        if self.training:
            self.count.add_(1)
            y = y * 2
        return F.batch_norm(y, self.mean, self.var, self.weight, None, self.training) * gain + offset


def traced(module: nn.Module, passed: set[str] | None = None) -> nn.Module:
    twin = copy.deepcopy(module)
    install(twin, trace(twin, passed or {"x"}))
    return twin


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("make", [Dropped, lambda: BatchNormAct2d(6)])
def test_both_modes_with_state(make: Any, training: bool) -> None:
    one = make()
    two = traced(one)
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), two.buffers(), strict=True))
    for module in (one, two):
        module.train(training)
    for _ in range(3):  # the mode may change any time
        torch.manual_seed(1)
        want = one(X)
        torch.manual_seed(1)
        assert torch.equal(two(X), want)
        for module in (one, two):
            module.train(not module.training)
    for (name, a), (_, b) in zip(one.state_dict().items(), two.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_tracing_leaves_no_trace() -> None:
    module = Dropped()
    before, state = dict(vars(module)), torch.get_rng_state()
    trace(module, {"x"})
    assert vars(module) == before
    assert module.count == 0
    assert torch.equal(torch.get_rng_state(), state)


def test_calls_by_position_and_by_keyword() -> None:
    module = traced(Dropped().eval())
    want = module(X)
    assert torch.equal(module(x=X), want)
    assert torch.equal(module(X, 1.0), want)
    assert torch.equal(module(X, gain=1.0, offset=0.0), want)
    gains = traced(Dropped().eval(), {"x", "gain"})
    gains.load_state_dict(module.state_dict())
    assert torch.equal(gains(X, 3.0), module(X) * 3)
    assert torch.equal(gains(X, gain=3.0), module(X) * 3)
    assert torch.equal(gains(X), module(X))


@pytest.mark.parametrize("call", [{"gain": 2.0}, {"offset": 1.0}, {"gain": torch.ones(())}])
def test_an_argument_that_was_not_recorded_is_refused(call: dict[str, Any]) -> None:
    module = traced(Dropped().eval())
    with pytest.raises(RewriteError, match=next(iter(call))):
        module(X, **call)
    with pytest.raises(TypeError):
        module(X, 1.0, 2.0, 3.0)
    with pytest.raises(TypeError):
        module(nonsense=X)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_run_on_their_own_parameters(how: Any) -> None:
    module = traced(Dropped().eval())
    twin = how(module)
    assert torch.equal(twin(X), module(X))
    twin.weight.data.mul_(2)
    assert torch.equal(twin(X), module(X) * 2)
    assert twin.forward.owner is twin
    torch.manual_seed(2)
    want = module.train()(X)
    torch.manual_seed(2)
    assert torch.equal(twin.train()(X), want * 2)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Remembering(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.last = x
        return x + 1


class Variadic(nn.Module):
    def forward(self, *x: Tensor) -> Tensor:
        return x[0] + 1


class KeywordOnly(nn.Module):
    def forward(self, *, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize("kind", [Branching, Remembering, Variadic, KeywordOnly])
def test_what_cannot_be_traced_says_so(kind: type[nn.Module]) -> None:
    module = kind()
    before = dict(vars(module))
    with pytest.raises(UntraceableError, match=r"\w"):
        trace(module, {"x"})
    assert vars(module) == before


def test_a_forward_that_was_replaced_is_not_traced() -> None:
    module = traced(Dropped())
    with pytest.raises(UntraceableError, match="replaced"):
        trace(module, {"x"})


class Wrong(nn.Module):
    """A block of which fx follows a branch that the model does not take."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)


class OnNone(Wrong):
    """Traced rightly where every caller leaves the mask out, or gives None; not where only some do."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.norm(self.conv(x))
        return y if mask is None else y * mask


class OnType(Wrong):
    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y.tanh() if isinstance(x, Tensor) else y


class OnRandomness(Wrong):
    """Wrong in training mode alone: the random number would be the same for ever."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return y * torch.rand(1) if self.training else y


def network(block: nn.Module, call: Any) -> nn.Module:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Conv2d(6, 6, 1), block, nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(call(self.block, self.stem(x)).mean((2, 3)))

    torch.manual_seed(0)
    return Network().eval()


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (OnNone, lambda b, x: b(b(x, x.sign()), None)),
        (OnType, lambda b, x: b(x)),
        (OnRandomness, lambda b, x: b(x)),
    ],
)
def test_a_wrong_graph_is_not_used(kind: type[nn.Module], call: Any) -> None:
    model = network(kind(), call)
    made = plan(model, example_input=X)
    assert made.edits == ()
    assert any("no shortcut around block.conv" in note for note in made.notes)
    student: Any = binarize(model, example_input=X)
    x = student.stem(X)
    y = student.block.norm(student.block.conv(x))
    assert torch.equal(student.block(x), y.tanh() if kind is OnType else y)


def test_none_given_by_position_is_a_default() -> None:
    student: Any = binarize(network(OnNone(), lambda b, x: b(x, None)), example_input=X)
    assert [e.owner for e in plan_of(student).edits] == ["block"]
    x = student.stem(X)
    assert torch.equal(student.block(x, None), student.block.norm(student.block.conv(x)) + x)


def test_an_argument_that_callers_give_or_leave_out() -> None:
    masks = network(OnNone(), lambda b, x: b(x, x.sign()))
    assert [e.owner for e in plan(masks, example_input=X).edits] == ["block"]
    none = network(OnNone(), lambda b, x: b(x))
    student: Any = binarize(none, example_input=X)
    assert [e.owner for e in plan_of(student).edits] == ["block"]
    x = student.stem(X)
    assert torch.equal(student.block(x), student.block.norm(student.block.conv(x)) + x)
    assert torch.equal(student.block(x, mask=None), student.block(x))
    with pytest.raises(RewriteError, match="mask"):
        student.block(x, mask=x)
