"""Layers whose weight their owner applies itself: converted they are called, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from projection_cases import KINDS, REAL, E, Own, SelfAttention, network
from torch import Tensor, nn

from irnet_convert.convert import binarize, plan, plan_of, to_dense
from irnet_convert.errors import RewriteError
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.replay import replay
from irnet_convert.graph.rewrites import REWRITES
from irnet_convert.layers import binary_layers
from irnet_convert.policy import Policy, Rule


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_with_the_same_weights_the_owner_computes_the_same(kind: str, training: bool) -> None:
    """Real activations, weights that are ±1 already: equal in both modes, drop-out and gradients included."""
    model, x, names = network(kind)
    student: Any = binarize(model, REAL, example_input=x)
    bypassed = {e.target for e in plan_of(student).edits if e.rewrite == "projection"}
    assert bypassed == {name for name in names if not name.startswith("1.attn")}  # it calls its own
    assert names <= {d.path for d in plan_of(student).binarized}
    model.train(training)
    student.train(training)
    for _, layer in binary_layers(student):
        if layer.scale is not None:
            layer.scale.data.fill_(1.0)
    made = []
    for one in (model, student):
        torch.manual_seed(1)
        made.append(one(x))
        made[-1].square().sum().backward()
    torch.testing.assert_close(made[1], made[0])
    with torch.no_grad():  # where PyTorch would take its fused path
        torch.manual_seed(1)
        torch.testing.assert_close(student(x), made[0])
    latents = {id(layer.weight) for _, layer in binary_layers(student)}
    now = dict(student.named_parameters())
    for name, a in model.named_parameters():
        if id(b := now[name]) not in latents and a.grad is not None:
            torch.testing.assert_close(
                b.grad, a.grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.parametrize("kind", KINDS)
def test_every_projection_is_called_and_binary(kind: str) -> None:
    model, x, names = network(kind)
    student: Any = binarize(model, example_input=x)
    reasons = {d.path: d.reason for d in plan_of(student).binarized}
    assert names <= set(reasons)
    own = {"1.attn": "packed input projection"}
    assert all(own.get(name, "applied its weight") in reasons[name] for name in names)
    times = {"1.attn": {"cross attention": 2, "attention apart": 3}.get(kind, 1)}
    called: dict[str, int] = {}

    def check(operator: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
        layer, name = at[operator], paths[at[operator]]
        called[name] = called.get(name, 0) + 1
        signs = torch.where(args[0] >= 0, 1.0, -1.0)
        weight = layer.binary_weight() * (1.0 if layer.scale is None else layer.scale[:, None])
        bias, rows = kwargs.get("bias", layer.bias), kwargs.get("rows") or slice(None)
        torch.testing.assert_close(
            output, F.linear(signs, weight[rows], bias if bias is None else bias[rows])
        )

    paths = {layer: name for name, layer in binary_layers(student)}
    at = {layer.operator: layer for layer in paths}
    for operator in at:
        operator.register_forward_hook(check, with_kwargs=True)
    for training in (True, False):
        student.train(training)
        called.clear()
        student(x).square().sum().backward()
        assert called == {path: times.get(path, 1) for path in paths.values()}
    for layer, name in paths.items():
        assert layer.weight.grad.abs().max() > 0, name
    with torch.no_grad():
        called.clear()
        student(x)
        assert called == {path: times.get(path, 1) for path in paths.values()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("act_bits", [1, 32])
def test_copies_plans_checkpoints_and_dense_form(kind: str, act_bits: int) -> None:
    model, x, _ = network(kind)
    torch.manual_seed(2)
    student: Any = binarize(model, None if act_bits == 1 else REAL, example_input=x)
    made = plan_of(student)
    rebuilt = replay(copy.deepcopy(model), Plan.from_dict(made.to_dict()))
    loaded = copy.deepcopy(student)
    for tensor in loaded.state_dict().values():
        tensor.data.mul_(0)
    loaded.load_state_dict(model.state_dict(), strict=True)
    assert set(student.state_dict()) - set(model.state_dict()) == set(made.added_keys)
    with torch.no_grad():
        want = student(x)
        for other in (copy.deepcopy(student), pickle.loads(pickle.dumps(student)), rebuilt, loaded):
            assert torch.equal(other(x), want)
        dense = to_dense(student)
        assert not list(binary_layers(dense))
        torch.testing.assert_close(dense(x), want)


@pytest.mark.parametrize("kind", ["own", "beit", "swin v2", "attention", "attention apart"])
def test_compiled_and_exported(kind: str) -> None:
    model, x, _ = network(kind)
    student: Any = binarize(model, example_input=x)
    torch._dynamo.reset()
    compiled = torch.compile(student, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), student(x))
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(student, (x,)).module()(x), student(x))


@pytest.mark.parametrize("mask", [False, True])
def test_encoders_leave_their_fused_path(mask: bool) -> None:
    """In evaluation PyTorch's encoders would give the latents to one fused operator, as weights."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(E, 2, 16, batch_first=True, activation="gelu")
    model = nn.Sequential(nn.Linear(E, E), nn.TransformerEncoder(layer, 2), nn.Linear(E, E)).eval()
    x = torch.randn(2, 5, E)
    student: Any = binarize(model, example_input=x)
    assert len(plan_of(student).binarized) == 8
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2]) if mask else None

    def run() -> Tensor:
        return student[2](student[1](student[0](x), src_key_padding_mask=padding))

    with_gradients = run()
    with torch.no_grad():
        torch.testing.assert_close(run(), with_gradients)
        called = []
        layers = [m.operator for _, m in binary_layers(student)]
        hooks = [m.register_forward_hook(lambda m, *_: called.append(m)) for m in layers]
        run()
        assert len(called) == len(hooks) == 8


def test_a_bypassed_layer_that_stays_bypassed_fails_the_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(REWRITES["projection"], "apply", lambda editor, edit: None)
    model, x, _ = network("own")
    with pytest.raises(RewriteError, match="never called"):
        binarize(model, example_input=x)


class Elsewhere(Own):
    """Another arithmetic than a linear layer's on the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + (x @ self.bare.weight.t())


class Outside(nn.Module):
    """The weight of a layer that is not below."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layers = (layer,)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layers[0].weight)


@pytest.mark.parametrize("kind", ["transposed", "outside"])
def test_what_cannot_be_called_is_kept_with_the_reason(kind: str) -> None:
    torch.manual_seed(0)
    inner = Elsewhere() if kind == "transposed" else nn.Linear(E, E)
    last = nn.Linear(E, E) if kind == "transposed" else nn.Sequential(Outside(inner), nn.Linear(E, E))
    model = nn.Sequential(nn.Linear(E, E), inner, last)
    made = {d.path: d for d in plan(model, example_input=torch.randn(2, 5, E)).decisions}
    decision = made["1.bare" if kind == "transposed" else "1"]
    assert decision.action == "keep"
    assert "its weight is also read by" in decision.reason


@pytest.mark.parametrize("kind", ["swin", "swin v2"])
def test_windows_that_are_filled_with_zeros_keep_their_projection(kind: str) -> None:
    model, _, _ = network(kind)
    made = {d.path: d for d in plan(model, example_input=torch.randn(2, 6, 6, E)).decisions}
    assert (made["1.qkv"].action, made["1.proj"].action) == ("keep", "binarize")
    assert "padded with zeros" in made["1.qkv"].reason


class Narrow(SelfAttention):
    """Keys and values of another width: three weights, none of them packed."""

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, x[..., :4], x[..., :4])[0]


def test_weights_outside_of_layers_are_in_the_notes() -> None:
    model, x, _ = network("attention")
    model[1] = Narrow(kdim=4, vdim=4)
    made = plan(model.eval(), example_input=x)
    assert made.notes == (
        "weights that MultiheadAttention applies and no layer holds stay real: "
        "1.attn.q_proj_weight and 2 more",
    )
    assert [d.path for d in made.decisions] == ["0", "1.attn.out_proj", "3"]
    for kind in ("attention", "attention apart", "beit"):
        model, x, _ = network(kind)
        assert plan(model, example_input=x).notes == ()


@pytest.mark.parametrize("kind", ["attention", "cross attention", "attention apart"])
@pytest.mark.parametrize("kept", ["1.attn", "1.attn.out_proj"])
def test_either_projection_alone(kind: str, kept: str) -> None:
    model, x, names = network(kind)
    rules = [Rule(action="keep", name=kept), *REAL.rules]
    student: Any = binarize(model, Policy(rules), example_input=x)
    assert {path for path, _ in binary_layers(student)} == names - {kept}
    for _, layer in binary_layers(student):
        if layer.scale is not None:
            layer.scale.data.fill_(1.0)
    torch.testing.assert_close(student(x), model(x))
    torch.testing.assert_close(to_dense(student)(x), student(x))


class Reads(SelfAttention):
    """Somebody else applies the packed weight too, or a part of it."""

    def __init__(self, part: bool) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        weight = self.attn.in_proj_weight
        weight = weight.chunk(3)[0] if self.part else weight
        return super().forward(x) + F.linear(x, weight)[..., :E]


def test_a_conversion_that_fails_leaves_an_attention_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers are replaced in the attention that took its place, which is taken out again."""
    model, x, _ = network("attention")
    before, modules = model(x), dict(model.named_modules())
    monkeypatch.setattr("irnet_convert.graph.apply.Editor.finish", lambda editor: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        binarize(model, example_input=x, inplace=True)
    assert dict(model.named_modules()) == modules
    assert torch.equal(model(x), before)


class Other(nn.MultiheadAttention):
    """Who knows what it computes."""


@pytest.mark.parametrize("part", [True, False])
def test_an_attention_whose_weight_is_read_elsewhere_is_kept(part: bool) -> None:
    model, x, _ = network("attention")
    model[1] = Reads(part)
    made = {d.path: d for d in plan(model.eval(), example_input=x).decisions}
    assert made["1.attn"].action == "keep"
    assert "its weight is also read by linear in 1" in made["1.attn"].reason
    assert made["1.attn.out_proj"].action == "binarize"


def test_an_unknown_attention_is_kept() -> None:
    model, x, _ = network("attention")
    model[1].attn = Other(E, 2, batch_first=True).eval()
    made = {d.path: d for d in plan(model, example_input=x).decisions}
    assert made["1.attn"].action == "keep"
    assert "an unknown subclass of MultiheadAttention" in made["1.attn"].reason


def test_an_attention_fed_by_relu_gets_a_hardtanh_or_is_kept() -> None:
    model, x, _ = network("attention")
    model[0] = nn.Sequential(nn.Linear(E, E), nn.ReLU())
    student: Any = binarize(model, example_input=x)
    assert isinstance(student[0][1], nn.Hardtanh)
    made = {d.path: d for d in plan(model, example_input=x, rewrites=()).decisions}
    assert "its input cannot be negative (relu in 0.1)" in made["1.attn"].reason


def test_an_edit_whose_layer_is_elsewhere_is_refused() -> None:
    model, x, _ = network("own")
    data = plan(model, example_input=x).to_dict()
    for edit in data["edits"]:
        edit["owner"] = "0"
    with pytest.raises(RewriteError):
        replay(model, Plan.from_dict(data))
    assert not any("forward" in vars(m) for m in model.modules())
