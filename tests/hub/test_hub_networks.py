"""Teachers and students by name: saved models on a Hub on loopback, and in directories, in recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_hub import TOKEN, FakeHub
from hub_client import take_in

import irnet_convert
from irnet_convert.errors import CheckpointError, IrnetError, ModelError, RecipeError
from irnet_convert.networks import create_model
from irnet_convert.pretrained.named import architecture_of, model_of, pinned
from irnet_convert.recipe import ModelSpec, Recipe
from irnet_convert.train.result import read_result

SPEC = ModelSpec(name="timm/test_resnet", kwargs={"num_classes": 10})


def recipe(tmp_path: Path, **changes: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "name": "tiny",
            "model": SPEC.model_dump(),
            "data": {
                "name": "builtin/synthetic",
                "num_classes": 10,
                "train_limit": 8,
                "eval_limit": 8,
                "workers": 0,
            },
            "epochs": 1,
            "batch_size": 4,
            "output": str(tmp_path / "run"),
        }
        | changes
    )


@pytest.fixture
def teacher(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A full-precision network under ``org/teacher``, and another in a later commit."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    torch.manual_seed(1)
    made = create_model(SPEC)
    pushed = irnet_convert.push_to_hub(made, "org/teacher")
    irnet_convert.push_to_hub(create_model(SPEC), "org/teacher")
    return made, pushed.commit


def test_a_run_with_a_teacher_and_a_student_by_name(teacher: Any, hub: FakeHub, tmp_path: Path) -> None:
    commit = teacher[1]
    one = recipe(
        tmp_path,
        model={"name": f"hf://org/teacher@{commit}"},
        teacher={"name": f"hf://org/teacher@{commit[:40]}"},
        distill={"weight": 1.0},
        epochs=1,
    )
    result = irnet_convert.finetune(one)
    assert "teacher" in result.metrics
    assert "before" in result.metrics  # the student began from weights
    # The run is loaded without the Hub.
    hub.fails("500", "", None)
    hub.requests.clear()
    again = irnet_convert.load(result.run_dir)
    assert hub.requests == []
    assert irnet_convert.is_binarized(again)
    saved = irnet_convert.save_pretrained(again, tmp_path / "saved")
    config = json.loads((saved / "config.json").read_text())
    assert config["architecture"]["name"] == "timm/test_resnet"
    assert config["images"]["input_size"] == [3, 32, 32]


def test_the_run_keeps_the_commit(teacher: Any, tmp_path: Path) -> None:
    one = recipe(tmp_path, teacher={"name": "hf://org/teacher"}, distill={"weight": 1.0})
    result = irnet_convert.finetune(one)
    kept = Recipe.load(result.run_dir / "recipe.yaml").teacher
    assert isinstance(kept, ModelSpec)
    name, _, revision = kept.name.partition("@")
    assert name == "hf://org/teacher"
    assert len(revision) == 40
    assert revision != teacher[1]  # the newest
    # It is the result of the recipe as it was given, and of no other revision.
    assert read_result(result.run_dir, one).metrics["after"] == result.metrics["after"]
    tagged = one.model_copy(update={"teacher": ModelSpec(name=f"hf://org/teacher@{teacher[1]}")})
    with pytest.raises(CheckpointError, match=r"teacher\.name"):
        read_result(result.run_dir, tagged)


def test_a_branch_that_moved_on_is_told_when_a_run_is_resumed(
    teacher: Any, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    one = recipe(tmp_path, teacher={"name": "hf://org/teacher"}, distill={"weight": 1.0})
    run_dir = irnet_convert.finetune(one).run_dir
    irnet_convert.push_to_hub(create_model(SPEC), "org/teacher", packed=False)
    with pytest.raises(CheckpointError, match="override the name") as error:
        irnet_convert.finetune(one, resume=True)
    before = str(error.value).split("was '")[1].split("'")[0]
    assert Recipe.load(run_dir / "recipe.yaml").teacher == ModelSpec(name=before)
    irnet_convert.finetune(one, overrides=["teacher.name=" + before], resume=True)


def test_of_two_processes_one_fetches_the_teacher(teacher: Any, hub: FakeHub, tmp_path: Path) -> None:
    one = recipe(tmp_path, teacher={"name": "hf://org/teacher"}, distill={"weight": 1.0})
    (tmp_path / "two.yaml").write_text(one.to_yaml())
    hub.requests.clear()
    path = str(tmp_path / "two.yaml")
    assert take_in(2, hub.endpoint, tmp_path / "fresh", path) == [[path], [path]]
    assert len(hub.asked("GET .*/resolve/.*config.json")) == 1
    assert len(hub.asked("GET .*/cdn/")) == 1  # the weights


def test_a_student_that_is_binary_already_goes_on(teacher: Any, tmp_path: Path) -> None:
    student = irnet_convert.binarize(teacher[0], example_input=torch.zeros(2, 3, 32, 32))
    where = irnet_convert.save_pretrained(student, tmp_path / "student", packed=False)
    result = irnet_convert.finetune(recipe(tmp_path, model={"name": str(where)}, policy=None))
    again = irnet_convert.load(result.run_dir)
    assert irnet_convert.plan_of(again).to_dict() == irnet_convert.plan_of(student).to_dict()
    with pytest.raises(ModelError, match="already binary"):
        irnet_convert.finetune(recipe(tmp_path, model={"name": str(where)}, output=str(tmp_path / "other")))


def test_what_a_name_means(teacher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, commit = teacher
    named = model_of(ModelSpec(name=f"hf://org/teacher@{commit}"))
    assert named.training
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in named.state_dict().items())
    assert architecture_of(ModelSpec(name="hf://org/teacher")).kwargs == {"num_classes": 10}
    monkeypatch.chdir(tmp_path)
    irnet_convert.save_pretrained(made, "here")
    assert pinned(ModelSpec(name="./here")).name == "./here"
    assert pinned(SPEC) == SPEC
    assert type(model_of(ModelSpec(name="./here"))) is type(made)


@pytest.mark.parametrize(
    "model",
    [
        {"name": "hf://org/teacher", "kwargs": {"num_classes": 3}},
        {"name": "hf://org/teacher", "pretrained": True},
        {"name": "./here", "checkpoint": "x.safetensors"},
        {"name": "org/teacher"},
        {"name": "https://org/teacher"},
    ],
)
def test_blocks_that_contradict_themselves(tmp_path: Path, model: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="model"):
        recipe(tmp_path, model=model)


@pytest.mark.parametrize(
    "name", ["hf://org/nothing", "hf://org", "hf://datasets/a/b", "./nothing", "hf://a/b/c.yaml"]
)
def test_names_of_nothing_end_before_anything_is_written(hub: FakeHub, tmp_path: Path, name: str) -> None:
    with pytest.raises(IrnetError):
        irnet_convert.finetune(recipe(tmp_path, teacher={"name": name}, distill={"weight": 1.0}))
    assert not (tmp_path / "run").exists()
