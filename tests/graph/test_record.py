"""A recording leaves the model, its surroundings and its mode as they were, on the meta device or not."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from irnet_convert.errors import RecordError
from irnet_convert.graph import record as record_module
from irnet_convert.graph.alike import what_happened
from irnet_convert.graph.example import example_of
from irnet_convert.graph.record import Twin, meta_twin, record


class Noisy(nn.Module):
    """Draws numbers, keeps statistics, and, if told so, cannot run on the meta device."""

    def __init__(self, real: bool) -> None:
        super().__init__()
        self.real, self.layer, self.norm = real, nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(1) + random.random()
        self.seen += 1
        y = self.norm(self.layer(x))
        if self.real and bool(y.sum() > 1e9):
            return y
        return y + noise.to(y.device) * 0


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(real: bool, training: bool) -> None:
    model = Noisy(real).train(not training)
    model.norm.eval()
    flags = [m.training for m in model.modules()]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    rec = record(model, example_of(model, torch.randn(3, 4, generator=torch.Generator())), training=training)
    assert list(rec.calls) == ["layer"]
    assert rec.training == training
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


def test_a_failing_run_leaves_nothing_either() -> None:
    model = Noisy(True).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    torch_state = torch.get_rng_state()
    with pytest.raises(RecordError, match="4x4"):
        record(model, example_of(model, torch.randn(3, 5, generator=torch.Generator())))
    assert model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_the_twin_holds_no_weights_and_shares_none() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[0].extra = torch.ones(3)
    model.append(model[0])
    twin = meta_twin(model)
    assert all(t.is_meta for t in (*twin.parameters(), *twin.buffers(), twin[0].extra))
    assert twin[2] is twin[0]
    assert not model[0].weight.is_meta
    assert [n for n, _ in twin.named_parameters()] == [n for n, _ in model.named_parameters()]


class Twice(nn.Module):
    """Its second run fails, as one may that keeps something from the first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.runs = nn.Linear(4, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        assert self.runs == 1
        return self.layer(x) * (2 if self.training else 3)


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), Twice()])
def test_one_twin_serves_every_recording(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[nn.Module] = []
    monkeypatch.setattr(record_module, "meta_twin", lambda m: made.append(meta_twin(m)) or made[-1])
    example, twin = example_of(model, torch.randn(3, 4)), Twin(model)
    found = [record(model, example, training=t, twin=twin) for t in (False, True, False)]
    assert len(made) == (3 if isinstance(model, Twice) else 1)
    alone = [record(model, example, training=t) for t in (False, True, False)]
    assert [what_happened(r, "") for r in found] == [what_happened(r, "") for r in alone]
    assert [r.training for r in found] == [False, True, False]
    assert getattr(model, "runs", 0) == 0


def test_shapes_params_and_arguments() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.gain = nn.Linear(4, 6), nn.Parameter(torch.ones(6))

        def forward(self, x: Tensor, *, twice: bool = False) -> Tensor:
            return self.layer(x) * self.gain

    rec = record(Net(), example_of(Net(), {"x": torch.zeros(3, 4)}))
    assert rec.passed[""] == {"x"}
    assert list(rec.params.values()) == ["gain"]
    layer, product = rec.nodes
    assert (layer.layer, product.op) == ("layer", "mul")
    assert rec.shapes[layer.inputs[0]] == (3, 4)
    assert [rec.shapes[v] for v in rec.outputs] == [(3, 6)]


class Choosing(nn.Module):
    """Needs values: how many rows it takes hangs on them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x[x.sum(1).nonzero()[:, 0]])


def test_a_recording_with_values_keeps_none() -> None:
    rec = record(Choosing(), example_of(Choosing(), torch.ones(3, 4)))
    assert rec.by_value
    kept = [
        leaf
        for call in rec.first_calls.values()
        for leaf in tree_leaves((call.args, call.kwargs, call.returned))
        if isinstance(leaf, Tensor)
    ]
    assert kept
    assert all(leaf.is_meta for leaf in kept)
