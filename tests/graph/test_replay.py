"""A saved plan on a fresh model, and that what fails leaves nothing half-changed."""

from __future__ import annotations

import copy
import dataclasses
import json
from typing import Any

import pytest
import timm
import torch
from torch import nn

from irnet_convert.convert import binarize, is_binarized, plan, plan_of
from irnet_convert.errors import IrnetError, PolicyError, RewriteError
from irnet_convert.graph import apply as apply_module
from irnet_convert.graph import prove as prove_module
from irnet_convert.graph.plan import PLAN_VERSION, Plan
from irnet_convert.graph.replay import replay

IMAGES = (2, 3, 32, 32)


def resnet(name: str = "resnet10t", **kwargs: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=10, **kwargs).eval()


def snapshot(model: nn.Module) -> list[object]:
    """Identity of every module, parameter and replaced forward, their order, and all other attributes."""
    found: list[object] = []
    for name, module in model.named_modules(remove_duplicate=False):
        values = {
            k: id(v) for k, v in vars(module).items() if k not in ("_modules", "_parameters", "_buffers")
        }
        inside = [
            (k, id(v)) for d in (module._modules, module._parameters, module._buffers) for k, v in d.items()
        ]
        found.append((name, id(module), type(module), values, inside))
    found.append([(k, v._version, v.double().sum().item()) for k, v in model.state_dict().items()])
    return found


@pytest.mark.parametrize("name", ["resnet10t", "test_byobnet", "test_vit"])
def test_a_plan_written_as_json_converts_a_fresh_model_to_the_same(name: str) -> None:
    kwargs = {"img_size": 32} if name == "test_vit" else {}
    images = torch.randn(IMAGES)
    student = binarize(resnet(name, **kwargs))
    text = json.dumps(plan_of(student).to_dict())
    saved = Plan.from_dict(json.loads(text))
    assert saved == plan_of(student)
    assert json.dumps(saved.to_dict()) == text
    rebuilt = replay(resnet(name, **kwargs), saved)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), student(images))
        rebuilt.train()
        student.train()
        assert torch.equal(rebuilt(images), student(images))
    assert plan_of(rebuilt) == saved
    assert list(rebuilt.state_dict()) == list(student.state_dict())


@pytest.mark.parametrize("other", ["resnet14t", "resnet18", "test_byobnet", "test_vit"])
def test_a_plan_does_not_fit_another_model(other: str) -> None:
    """resnet14t holds resnet10t's layers and more: it must not be converted in part."""
    with torch.device("meta"):
        saved = plan(timm.create_model("resnet10t"))
    model = timm.create_model(other, num_classes=10)
    before = snapshot(model)
    with pytest.raises(PolicyError, match="the plan"):
        replay(model, saved)
    assert snapshot(model) == before


def test_a_plan_does_not_fit_what_is_converted_already() -> None:
    student = binarize(resnet())
    before = snapshot(student)
    with pytest.raises(PolicyError, match="BinaryConv2d"):
        replay(student, plan_of(student))
    assert snapshot(student) == before


@pytest.mark.parametrize("change", [{"owner": "nowhere"}, {"form": "nonsense"}, {"rewrite": "nonsense"},
                                    {"owner": "layer1"}])  # fmt: skip
@pytest.mark.parametrize("which", [0, -1])
def test_an_edit_without_its_place_changes_nothing(change: dict[str, str], which: int) -> None:
    model = resnet()
    made = plan(model)
    edits = list(made.edits)
    edits[which] = dataclasses.replace(edits[which], **change)
    before = snapshot(model)
    with pytest.raises(IrnetError):
        replay(model, dataclasses.replace(made, edits=tuple(edits)))
    assert snapshot(model) == before


def _without(data: dict[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in data.items() if k != key}


def test_malformed_plans_are_refused() -> None:
    with torch.device("meta"):
        data = plan(timm.create_model("resnet10t")).to_dict()
    bad: list[Any] = [None, [], "plan", {}, {**data, "version": PLAN_VERSION + 1}]
    bad += [_without(data, key) for key in data]
    bad += [{**data, "decisions": [{}]}, {**data, "decisions": None}, {**data, "edits": [{"rewrite": "x"}]}]
    bad += [{**data, "decisions": [{**data["decisions"][0], "surprise": 1}]}]
    for case in bad:
        with pytest.raises(PolicyError, match="malformed"):
            Plan.from_dict(case)


class Boom(Exception):
    """Stands for any failure."""


@pytest.mark.parametrize("after", [0, 1, 3, 7])
@pytest.mark.parametrize("what", ["layer", "edit", "install", "prove"])
def test_a_failure_midway_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch, what: str, after: int
) -> None:
    model = resnet("resnet10t")
    images = torch.randn(IMAGES)
    with torch.no_grad():
        output = model(images)
    hook = model.layer1[0].conv1.register_forward_hook(lambda *_: None)
    before = snapshot(model)
    calls = iter(range(100))

    def failing(real: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if next(calls) >= after:
                raise Boom
            return real(*args, **kwargs)

        return wrapped

    if what == "layer":
        monkeypatch.setattr(apply_module, "_binary_for", failing(apply_module._binary_for))
    elif what == "edit":
        rewrite = apply_module.REWRITES["activation" if after < 2 else "shortcut"]
        monkeypatch.setattr(rewrite, "apply", failing(rewrite.apply) if after < 3 else lambda *_: _raise())
    elif what == "install":
        if after > 3:
            pytest.skip("there are not so many rewritten forwards")
        monkeypatch.setattr(apply_module, "install", failing(apply_module.install))
    else:
        monkeypatch.setattr(prove_module, "never_negative", lambda *_: _raise())
        monkeypatch.setattr(prove_module, "distrust_wrong_traces", lambda *_: False)
        monkeypatch.setattr("irnet_convert.graph.decide.distrust_wrong_traces", lambda *_: False)
    with pytest.raises(Boom):
        binarize(model, inplace=True)
    assert snapshot(model) == before
    assert not is_binarized(model)
    with torch.no_grad():
        assert torch.equal(model(images), output)
    hook.remove()
    assert not model.layer1[0].conv1._forward_hooks
    monkeypatch.undo()
    assert is_binarized(binarize(model, inplace=True))  # nothing is left that would be in the way


def _raise() -> None:
    raise Boom


def test_a_conversion_that_fails_its_proof_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shortcut is applied, the activations are not: the proof must see it by itself."""
    model = resnet()
    before = snapshot(model)
    rewrite = apply_module.REWRITES["activation"]
    monkeypatch.setattr(rewrite, "apply", lambda editor, edit: None)
    with pytest.raises(RewriteError, match="cannot be negative"):
        binarize(model, inplace=True)
    assert snapshot(model) == before


def test_a_copy_shares_nothing_with_its_original() -> None:
    student = binarize(resnet())
    twin = copy.deepcopy(student)
    ids = {id(m) for m in student.modules()} | {id(p) for p in student.parameters()}
    assert not ids & ({id(m) for m in twin.modules()} | {id(p) for p in twin.parameters()})
    twin.layer1[0].conv1.weight.data.neg_()
    images = torch.randn(IMAGES)
    with torch.no_grad():
        assert not torch.equal(twin(images), student(images))
