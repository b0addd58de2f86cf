"""ReActNet's RSign and RPReLU, and the BatchNorm before the classifier, as rewrites."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from irnet_convert.binary import sign
from irnet_convert.convert import binarize, plan, plan_of, to_dense
from irnet_convert.errors import ArgumentError, PolicyError, UnknownNameError
from irnet_convert.graph.plan import Plan
from irnet_convert.graph.replay import replay
from irnet_convert.layers import (
    BinaryConv2d,
    BinaryLinear,
    BinaryMultiheadAttention,
    Hardtanh,
    NormedLinear,
    RPReLU,
    binary_layers,
)
from irnet_convert.networks import cifar  # noqa: F401
from irnet_convert.packed import load_packed, pack, save_packed

CONV = "it is a Conv2d, no nn.Linear"
ALL = ("rprelu", "shortcut", "rsign", "head_norm")


def stir(model: nn.Module) -> nn.Module:
    """Move everything that a rewrite added, and the statistics, from where they begin."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.rpartition(".")[2] in ("threshold", "shift_in", "shift_out", "slope", "running_mean"):
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    return model


def edits(model: nn.Module) -> list[tuple[str, str, str]]:
    return [(e.rewrite, e.form, e.owner) for e in plan_of(model).edits]


def test_rprelu_is_the_papers_function() -> None:
    layer = RPReLU(3).double()
    x = torch.randn(5, 3, 4, 2, dtype=torch.float64)
    torch.testing.assert_close(layer(x), F.prelu(x, torch.full((3,), 0.25, dtype=torch.float64)))
    stir(layer)
    gamma, beta, zeta = (
        p.detach().reshape(1, 3, 1, 1) for p in (layer.shift_in, layer.slope, layer.shift_out)
    )
    wanted = torch.where(x > gamma, x - gamma + zeta, beta * (x - gamma) + zeta)
    torch.testing.assert_close(layer(x), wanted)
    torch.testing.assert_close(layer(x[:, :, 0, 0]), wanted[:, :, 0, 0])
    assert torch.autograd.gradcheck(layer, (x.requires_grad_(),))


LAYERS: dict[str, Any] = {
    "conv": (lambda: BinaryConv2d(4, 6, 3, padding=1), (2, 4, 5, 5), (1, 4, 1, 1)),
    "linear": (lambda: BinaryLinear(4, 6), (2, 3, 4), (4,)),
    "attention": (lambda: BinaryMultiheadAttention(4, 2), (2, 3, 4), (4,)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_a_threshold_is_where_the_sign_turns(kind: str) -> None:
    make, shape, along = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(*shape, dtype=torch.float64)
    plain = copy.deepcopy(layer)
    layer.add_threshold()

    def call(module: nn.Module, x: Tensor) -> Tensor:
        return module.project(x) if kind == "attention" else module(x)

    assert torch.equal(call(layer, x), call(plain, x))
    stir(layer)
    threshold = layer.threshold.detach().reshape(along)
    assert torch.equal(call(layer, x), call(plain, sign(x - threshold)))
    assert torch.equal(call(layer, x - x + threshold), call(plain, torch.ones_like(x)))  # at it: +1
    assert torch.equal(call(layer.to_dense(), x), call(layer, x))
    call(layer, x).sum().backward()
    assert layer.threshold.grad.abs().sum() > 0
    # The sign moves with x as it does against the threshold.
    again = x.clone().requires_grad_()
    call(layer, again).sum().backward()
    axes = [i for i in range(x.dim()) if i != (1 if kind == "conv" else x.dim() - 1)]
    torch.testing.assert_close(layer.threshold.grad / 2, -again.grad.sum(axes))
    fresh = make().double()
    fresh.add_threshold()
    fresh.load_state_dict(plain.state_dict())  # of a network without: 0
    assert torch.equal(call(fresh, x), call(plain, x))


class Functional(nn.Module):
    """ReLUs as functions, one of them in place and its result not taken."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.first(x)
        F.relu(x, inplace=True)
        x = torch.relu(self.second(x))
        return self.head(x.mean((2, 3)))


def networks() -> dict[str, tuple[nn.Module, int]]:
    torch.manual_seed(0)
    return {
        "cifar_resnet20": (timm.create_model("cifar_resnet20"), 16),  # modules
        "torchvision resnet18": (torchvision.models.resnet18(num_classes=10), 32),  # one module, called twice
        "resnetv2": (timm.create_model("resnetv2_18", num_classes=10), 32),  # inside of norms
        "functional": (Functional(), 8),
    }


@pytest.mark.parametrize("name", networks())
def test_all_of_them_survive_planning_replay_training_saving_and_packing(name: str, tmp_path: Any) -> None:
    model, size = networks()[name]
    x = torch.randn(4, 3, size, size)
    student = binarize(model.eval(), example_input=x, rewrites=ALL)
    made = plan_of(student)
    assert set(made.added_keys) == student.state_dict().keys() - model.state_dict().keys()
    assert plan(model, example_input=x, rewrites=ALL) == made
    wanted = {"rprelu", "rsign", *(["head_norm"] if name != "resnetv2" else [])}
    assert {edit.rewrite for edit in made.edits} >= wanted
    assert made.notes == (() if name != "resnetv2" else (f"no BatchNorm before head.fc: {CONV}",))
    assert not any(isinstance(m, Hardtanh) for m in student.modules())
    assert sum(isinstance(m, RPReLU) for m in student.modules()) == sum(
        edit.rewrite == "rprelu" for edit in made.edits
    )
    # Every parameter learns.
    student.train()(x).square().sum().backward()
    assert [n for n, p in student.named_parameters() if p.grad is None] == []
    student.zero_grad()
    stir(student).eval()
    with torch.no_grad():
        wanted = student(x)
        again = replay(copy.deepcopy(model), Plan.from_dict(json.loads(json.dumps(made.to_dict()))))
        again.load_state_dict(student.state_dict())
        assert torch.equal(again.eval()(x), wanted)
        assert torch.equal(copy.deepcopy(student)(x), wanted)
        torch.testing.assert_close(to_dense(student)(x), wanted)
    path = tmp_path / "packed.safetensors"
    save_packed(pack(student, example_input=x), path)
    torch.testing.assert_close(load_packed(path)(x), wanted, rtol=1e-3, atol=1e-3)


def test_in_the_graph_it_is_what_the_places_say() -> None:
    model = Functional().eval()
    x = torch.randn(2, 3, 8, 8)
    student = stir(binarize(model, example_input=x, rewrites=["rprelu"]))
    # Ordinals count what is called alike: torch.relu in front of the head feeds no binary layer and stays.
    assert [name for name, m in student.named_modules() if isinstance(m, RPReLU)] == [
        "relu_rprelu1", "relu_rprelu0",
    ]  # fmt: skip
    h = student.relu_rprelu0(student.stem(x))
    h = student.relu_rprelu1(student.first(h))
    torch.testing.assert_close(student(x), student.head(torch.relu(student.second(h)).mean((2, 3))))


def test_a_module_keeps_its_hooks_and_attributes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    calls: list[int] = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    model[1].note = "mine"
    student = binarize(model.eval(), example_input=torch.zeros(1, 3, 8, 8), rewrites=["rprelu"])
    calls.clear()
    student(torch.zeros(1, 3, 8, 8))
    assert (len(calls), student[1].note, type(student[1])) == (1, "mine", RPReLU)
    assert edits(student) == [("rprelu", "module", "1")]


def test_where_channels_come_last_it_is_hardtanh() -> None:
    tokens = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 4))
    student = binarize(tokens.eval(), example_input=torch.zeros(2, 5, 8), rewrites=["rprelu", "rsign"])
    assert [e[:2] for e in edits(student)] == [("activation", "module"), ("rsign", "layer")]
    # A map that is flattened in front of a linear layer had its channels first.
    flat = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 8), nn.Linear(8, 4)
    ).eval()
    student = binarize(flat, example_input=torch.zeros(2, 3, 8, 8), rewrites=["rprelu"])
    assert isinstance(student[1], RPReLU)
    assert len(student[1].slope) == 8


def test_layers_with_real_activations_have_neither() -> None:
    model = timm.create_model("cifar_resnet20").eval()
    student = binarize(model, "irnet_w1a32", example_input=torch.zeros(1, 3, 16, 16), rewrites=ALL)
    assert edits(student) == [("head_norm", "layer", "linear")]
    assert all(layer.threshold is None for _, layer in binary_layers(student))


def test_the_norm_before_the_classifier_changes_nothing_at_first_and_is_put_once() -> None:
    model = timm.create_model("cifar_resnet20").eval()
    x = torch.randn(2, 3, 16, 16)
    student, plain = (
        binarize(model, example_input=x, rewrites=["activation", *more]) for more in (["head_norm"], [])
    )
    assert type(student.linear) is NormedLinear
    torch.testing.assert_close(student(x), plain(x), rtol=1e-4, atol=1e-4)
    assert plan_of(student).added_keys == tuple(
        f"linear.norm.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    )
    normed = timm.create_model("cifar_resnet20", head_bn=True).eval()
    found = plan(normed, example_input=x, rewrites=["head_norm"])
    assert (found.edits, found.notes) == (
        (),
        ("no BatchNorm before linear: its input is normalised already",),
    )


def test_names_that_do_not_go_together_or_are_not_known() -> None:
    model, x = timm.create_model("cifar_resnet20"), torch.zeros(1, 3, 16, 16)
    with pytest.raises(ArgumentError, match="rewrites activation, rprelu"):
        plan(model, example_input=x, rewrites=["rprelu", "activation"])
    with pytest.raises(UnknownNameError, match="'rprelu'"):
        plan(model, example_input=x, rewrites=["prelu"])
    made = plan(model, example_input=x, rewrites=["activation", "rsign"]).to_dict()
    made["edits"][-1]["form"] = "call"
    with pytest.raises(PolicyError, match="form 'call'"):
        replay(model, Plan.from_dict(made))
