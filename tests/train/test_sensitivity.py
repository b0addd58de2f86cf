"""Sensitivity of layers: the switches of each measurement, the suggestion, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import RESNET, TINY
from typer.testing import CliRunner

from irnet_convert.cli import app
from irnet_convert.convert import plan
from irnet_convert.errors import ArgumentError, RecipeError
from irnet_convert.layers import binary_layers
from irnet_convert.networks import create_model
from irnet_convert.policy import Policy
from irnet_convert.train import evaluate_run, finetune, load
from irnet_convert.train import sensitivity as module
from irnet_convert.train.sensitivity import LayerSensitivity, Sensitivity, sensitivity

NAMES = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]


def test_each_measurement_binarizes_what_it_says(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy is replaced by a number that says which layers were binary."""
    seen: list[set[str]] = []

    def top1(self: Any) -> float:
        layers = dict(binary_layers(self.model))
        binary = {p for p, layer in layers.items() if not layer.real_weights}
        assert binary == {p for p, layer in layers.items() if not layer.real_activations}
        seen.append(binary)
        return float(len(seen))

    monkeypatch.setattr(module._Measuring, "top1", top1)
    found = sensitivity(tiny())
    assert seen[:2] == [set(), set(NAMES)]
    assert [sorted(each) for each in seen[2::2]] == [[name] for name in NAMES]
    assert [set(NAMES) - each for each in seen[3::2]] == [{name} for name in NAMES]
    assert (found.real, found.binary) == (1, 2)
    assert [(each.path, each.only, each.without) for each in found.layers] == [
        (name, 3 + 2 * i, 4 + 2 * i) for i, name in enumerate(NAMES)
    ]


def test_of_a_run_it_is_the_trained_network(tiny: Any) -> None:
    run_dir = finetune(tiny(epochs=1, optimizer={"lr": 0.02})).run_dir
    found = sensitivity(run_dir, images=21)
    assert found.images == 21
    assert found.binary == evaluate_run(run_dir)["top1"]
    model = load(run_dir)
    for path, layer in binary_layers(model):
        layer.real_weights = layer.real_activations = path != NAMES[0]
    from irnet_convert.data import make_eval_loader
    from irnet_convert.train.evaluate import evaluate

    loader, _ = make_eval_loader(tiny(), processes=1, process_index=0)
    assert found.layers[0].only == evaluate(model, loader)["top1"]
    assert sensitivity(run_dir, images=5).images == 5


def test_statistics_are_made_for_each_and_put_back(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny(model=RESNET, policy=[{"action": "binarize", "name": "layer1.0.*"}])
    models: list[Any] = []
    build = module.build_networks
    monkeypatch.setattr(module, "build_networks", lambda r: models.append(build(r)) or models[0])
    means: list[torch.Tensor] = []
    measure = module._Measuring.top1

    def top1(self: Any) -> float:
        found = measure(self)
        means.append(self.model.get_submodule("layer1.0.bn2").running_mean.clone())
        return found

    monkeypatch.setattr(module._Measuring, "top1", top1)
    found = sensitivity(recipe, bn_batches=2)
    assert [layer.path for layer in found.layers] == ["layer1.0.conv1", "layer1.0.conv2"]
    assert not any(torch.equal(a, b) for i, a in enumerate(means[:4]) for b in means[:i])
    model = models[0][0]
    assert torch.equal(model.get_submodule("layer1.0.bn2").running_mean, torch.zeros(16))
    assert not any(layer.real_weights or layer.real_activations for _, layer in binary_layers(model))


FOUND = Sensitivity(
    real=90.0, binary=20.0, images=10, rules=tuple(Policy.preset("irnet").to_dict()),
    layers=(
        LayerSensitivity(path="layer1.0.conv1", only=80.0, without=25.0),
        LayerSensitivity(path="layer1.0.conv2", only=50.0, without=22.0),
        LayerSensitivity(path="layer2.0.conv1", only=70.0, without=60.0),
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("by", "kept"),
    [("only", ["layer1.0.conv2", "layer2.0.conv1"]), ("without", ["layer1.0.conv1", "layer2.0.conv1"])],
)
def test_the_suggestion_keeps_the_costliest(by: Any, kept: list[str]) -> None:
    suggested = Policy.from_dict(FOUND.suggestion(2, by))
    model = create_model(create_spec())
    made = {
        d.path: d.action for d in plan(model, suggested, example_input=torch.zeros(1, 3, 16, 16)).decisions
    }
    before = {d.path: d.action for d in plan(model, example_input=torch.zeros(1, 3, 16, 16)).decisions}
    assert {path for path in made if made[path] != before[path]} == set(kept)


def create_spec() -> Any:
    from irnet_convert.recipe import ModelSpec

    return ModelSpec(**RESNET)


def test_what_cannot_be_is_refused(tiny: Any) -> None:
    for keep in (0, 3):
        with pytest.raises(ArgumentError, match=f"keep={keep} of 3"):
            FOUND.suggestion(keep)
    with pytest.raises(ArgumentError, match="images=0"):
        sensitivity(tiny(), images=0)
    with pytest.raises(RecipeError, match="policy: null"):
        sensitivity(tiny(policy=None))


def test_the_command(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps(TINY))
    said = CliRunner().invoke(
        app,
        ["sensitivity", str(recipe), "--images", "8", "--keep", "2", "--policy", str(tmp_path / "keep.yaml")],
    )
    assert said.exit_code == 0, said.output
    assert "blocks.0.attn.qkv" in said.output
    rules = Policy.load(tmp_path / "keep.yaml").to_dict()
    assert [rule["action"] for rule in rules[:2]] == ["keep", "keep"]
    assert rules[2:] == Policy.preset("irnet").to_dict()
    plain = CliRunner().invoke(app, ["sensitivity", str(recipe), "--images", "8", "--json"])
    assert json.loads(plain.stdout)["images"] == 8


def test_a_policy_that_exists_is_not_written_over(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("- preset: interior\n")
    with pytest.raises(ArgumentError, match="which exists"):
        CliRunner().invoke(
            app,
            ["sensitivity", "digits", "--policy", str(mine)],
            catch_exceptions=False,
            standalone_mode=False,
        )
    assert mine.read_text() == "- preset: interior\n"
