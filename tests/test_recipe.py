"""Recipes: every error names its path, overrides, plain YAML, round trips, the bundled files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from irnet_convert.errors import IrnetError, RecipeError, UnknownNameError
from irnet_convert.plain_yaml import load_yaml
from irnet_convert.recipe import Recipe, bundled_recipes, find_recipe
from irnet_convert.recipe.overrides import apply_overrides

BASE: dict[str, Any] = {
    "name": "small",
    "model": {"name": "timm/cifar_resnet20"},
    "data": {"name": "builtin/synthetic"},
    "epochs": 2,
}
DISTILLED = {"teacher": "same", "distill": {"features": [{"student": "layer3", "teacher": "layer3"}]}}


def make(**changes: Any) -> Recipe:
    return Recipe.from_dict({**BASE, **changes})


# --- schema ---------------------------------------------------------------------------------------------


def test_defaults_are_the_papers():
    recipe = make()
    assert recipe.policy == "irnet"
    assert (recipe.ede.t_min, recipe.ede.t_max) == (0.1, 10.0)
    assert recipe.teacher is None
    assert recipe.distill is None
    assert recipe.run_dir == Path("runs/small")
    assert make(output="elsewhere").run_dir == Path("elsewhere")


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"eopchs": 3}, "eopchs is not a key", "'epochs'"),
        ({"optimizer": {"lrr": 1}}, "optimizer.lrr is not a key", "'lr'"),
        (
            {"teacher": {"name": "timm/x", "pretraned": True}},
            "teacher.pretraned is not a key",
            "'pretrained'",
        ),
        ({"transforms": {"crop": {"paddin": 4}}}, "transforms.crop.paddin is not a key", "'padding'"),
        ({"epochs": 0}, "epochs is 0", "greater than or equal to 1"),
        ({"epochs": "ten"}, "epochs is 'ten'", "a valid integer"),
        ({"epochs": 2.5}, "epochs is 2.5", "integer"),
        ({"seed": True}, "seed is True", "a valid integer"),
        ({"model": "timm/resnet18"}, "model is 'timm/resnet18'", "a block of keys"),
        (
            {"model": {"name": "resnet18"}},
            "model.name is 'resnet18'",
            "timm/NAME, torchvision/NAME, hf://org/name",
        ),
        ({"model": {}}, "model.name is missing", "model.name"),
        ({"teacher": "sam"}, "teacher is 'sam'", "'same'"),
        ({"policy": 3}, "policy is 3", "a string"),
        ({"policy": [3]}, "policy.0 is 3", "a mapping"),
        ({"optimizer": {"name": "adamm"}}, "optimizer.name is 'adamm'", "'adam'"),
        ({"optimizer": {"lr": -1.0}}, "optimizer.lr is -1.0", "greater than 0"),
        ({"schedule": {"name": "linear"}}, "schedule.name is 'linear'", "'cosine'"),
        ({"schedule": {"name": "multistep"}}, "schedule.milestones is []", "epochs for multistep"),
        ({"schedule": {"name": "multistep", "milestones": [3, 2]}}, "schedule.milestones", "increase"),
        ({"ede": {"t_min": 3.0, "t_max": 1.0}}, "ede.t_min is 3.0", "t_min below t_max"),
        ({"transforms": {"crop": {}}}, "transforms.crop has both or neither", "padding: 4"),
        ({"transforms": {"crop": {"scale": [0.5, 0.1]}}}, "transforms.crop.scale", "low <= high"),
        ({"transforms": {"input_size": [3, 32]}}, "transforms.input_size.2 is missing", "input_size.2"),
        ({"transforms": {"mean": [0.5]}}, "transforms.mean has 1 values", "3, one for each channel"),
        ({"transforms": {"input_size": [4, 8, 8]}}, "transforms.input_size has 4 channels", "3 (RGB)"),
        ({"tracking": ["wandb"]}, "tracking.0 is 'wandb'", "'tensorboard'"),
        ({"distill": {}}, "distill is set, but teacher is null", "distill: null"),
        ({"teacher": "same"}, "teacher is set, but no distill block", "a distill block"),
        ({"teacher": "same", "distill": {"weight": 0.0}}, "distill.weight is 0", "features"),
        ({"policy": None, "rewrites": ["activation"]}, "rewrites is set, but policy is null", "null"),
        ({"mixup": {}, "batch_size": 7}, "batch_size is 7", "even"),
        (
            {"model": {"name": "timm/x", "pretrained": True, "checkpoint": "y"}},
            "model.checkpoint",
            "one source",
        ),
        ({"model": {"name": "timm/x", "kwargs": {"a": object()}}}, "model.kwargs.a is a object", "a mapping"),
        ({"clip_grad": float("nan")}, "clip_grad is nan", "finite"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(changes: dict[str, Any], path: str, expected: str):
    with pytest.raises(RecipeError) as caught:
        make(**changes)
    assert path in caught.value.given
    assert expected in caught.value.expected


def test_every_error_is_reported_at_once():
    with pytest.raises(RecipeError) as caught:
        make(
            epochs=0, batch_size="x", optimizer={"lr": 0, "lrr": 1, "name": 3}, sed=1,
            policy=[{"preset": "i"}], rewrites=["rprelu", "shortcutt"],
        )  # fmt: skip
    for path in ("epochs", "batch_size", "optimizer.lr", "optimizer.name"):
        assert f"{path} is" in caught.value.given
    for problem in (
        "sed is not a key", "optimizer.lrr is not a key", "policy is malformed: item 0: policy preset 'i'",
        "rewrites is malformed: rewrite 'shortcutt'",
    ):  # fmt: skip
        assert problem in caught.value.given
    assert "did you mean 'seed'" in caught.value.expected
    assert "did you mean 'shortcut'" in caught.value.expected


def test_rewrites_are_checked_at_once() -> None:
    with pytest.raises(RecipeError, match="one of them"):
        make(rewrites=["activation", "rprelu"])
    assert make(rewrites=[]).rewrites == ()
    assert make(rewrites=["shortcut"]).rewrites == ("shortcut",)


def test_policy_is_checked_at_once():
    with pytest.raises(RecipeError, match=r"policy is malformed: .*'irnt'(.|\n)*'irnet'"):
        make(policy="irnt")
    with pytest.raises(RecipeError, match=r"policy is malformed: item 1: rule key 'acton'(.|\n)*'action'"):
        make(policy=[{"action": "keep"}, {"acton": "keep"}])
    assert make(policy=None).build_policy() is None
    assert len(list(make(policy=[{"action": "keep", "position": "first"}]).build_policy())) == 1


def test_a_recipe_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        make().epochs = 3  # type: ignore[misc]
    with pytest.raises(RecipeError, match="a mapping"):
        Recipe.from_dict([1])  # type: ignore[arg-type]


# --- overrides ------------------------------------------------------------------------------------------


def test_overrides_are_yaml_values_at_dotted_keys():
    raw = {**BASE, **DISTILLED}
    overrides = [
        "optimizer.lr=1e-3",
        "distill.features.0.weight=2",
        "rewrites=[activation]",
        "ema.decay=0.9",
        "output=",
    ]
    recipe = Recipe.from_dict(raw, overrides=overrides)
    assert recipe.optimizer.lr == 0.001
    assert recipe.distill is not None
    assert recipe.distill.features[0].weight == 2
    assert recipe.rewrites == ("activation",)
    assert recipe.ema is not None
    assert recipe.ema.decay == 0.9
    assert recipe.output is None
    assert raw == {**BASE, **DISTILLED}
    assert apply_overrides({}, ["a=b=c", "d.e=1", "d.e=2"]) == {"a": "b=c", "d": {"e": 2}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "'epochs'"),
        ("=3", "'=3'"),
        ("a..b=3", "'a..b=3'"),
        ("epochs=[1", "the override 'epochs=[1'"),
        ("teacher.name=x", "teacher is 'same'"),
        ("distill.features.1.weight=2", "a list of 1, which has no '1'"),
        ("distill.features.x=2", "has no 'x'"),
        ("stages.0.epochs=2", "no stages to take item 0 of"),
        ("optimzer.lr=1", "optimzer is not a key"),
        ("optimizer.rl=1", "optimizer.rl is not a key"),
    ],
)
def test_overrides_that_are_refused(override: str, message: str):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({**BASE, **DISTILLED}, overrides=[override])
    assert message in caught.value.given


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("optimizer. lr=fast", "optimizer.lr is 'fast'"),
        ("ema={decay: slow}", "ema.decay is 'slow'"),
        ("epoch=1", "epoch is not a key of this block"),
        ("datum.name=a", "datum is not a key of this block"),
    ],
)
def test_a_wrong_value_is_said_to_be_of_an_override(override: str, problem: str):
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({**BASE, "batch_size": "many"}, source="a.yaml", overrides=[override])
    problems = set(caught.value.given.removeprefix("a.yaml: ").split("; "))
    assert problems == {f"{problem}, by an override", "batch_size is 'many'"}


@pytest.mark.parametrize("overrides", [(), ("epochs=2",)])
def test_what_cannot_be_copied_is_refused_as_what_it_is(overrides: tuple[str, ...]):
    with pytest.raises(RecipeError, match="generator"):
        Recipe.from_dict({**BASE, "description": (i for i in ())}, overrides=overrides)


def test_overrides_nest_no_deeper_than_files():
    with pytest.raises(RecipeError, match="deep"):
        Recipe.from_dict(BASE, overrides=[".".join("a" * 1000) + "=1"])


def test_expectations_are_paired_with_what_is_wrong():
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict({**BASE, "batch_size": "many"}, overrides=["optimizer.lr=fast"])
    assert "batch_size: a valid integer" in caught.value.expected
    assert "optimizer.lr: a valid number" in caught.value.expected
    assert caught.value.mend.startswith("correct the recipe and the override;")
    with pytest.raises(RecipeError) as caught:
        Recipe.from_dict(BASE, overrides=["optimizer.lr=fast"])
    assert caught.value.expected == "a valid number"
    assert caught.value.mend.startswith("correct the override;")


# --- files ----------------------------------------------------------------------------------------------


def test_a_recipe_round_trips_fully_resolved(tmp_path: Path):
    recipe = make(
        **DISTILLED,
        policy=[{"action": "binarize", "name": "1e-3"}],
        mixup={"mixup_alpha": 0.8},
        model={
            "name": "timm/cifar_resnet20",
            "kwargs": {"num_classes": 10, "note": "no", "sizes": [1, [2, 3]]},
        },
        schedule={"name": "multistep", "milestones": [1, 2]},
        transforms={"crop": {"scale": [0.08, 1]}},
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    again = Recipe.load(path)
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()
    assert set(load_yaml(path.read_bytes(), source="test")) == set(Recipe.model_fields)


def test_bundled_names_come_before_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text("name: mine")
    Path("own.yaml").write_text(make(name="own").to_yaml())
    assert find_recipe("digits").kind == "bundled"
    assert str(find_recipe("digits")).startswith("bundled recipe 'digits': ")
    assert find_recipe("./digits").kind == "path"
    assert find_recipe("own.yaml").kind == "path"
    assert Recipe.load("own.yaml").name == "own"
    with pytest.raises(UnknownNameError, match="'digits'"):
        find_recipe("digts")
    with pytest.raises(RecipeError, match="directory"):
        find_recipe(tmp_path)


def test_files_that_hold_no_recipe(tmp_path: Path):
    path = tmp_path / "r.yaml"
    for text, message in (("", "holds nothing"), ("[1]", "holds a list"), ("name: [", "line 1")):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            Recipe.load(path)


def test_the_issue_s_recipes_are_bundled():
    assert set(bundled_recipes()) >= {
        "digits",
        "cifar10_resnet20",
        "cifar10_resnet20_strict",
        "cifar10_resnet20_paper",
        "cifar10_resnet20_w1a32_paper",
        "cifar10_resnet18_paper",
        "cifar10_vgg_small_paper",
        "imagenet_resnet18_paper",
        "imagenet_resnet34_paper",
    }


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_every_bundled_recipe_loads_and_says_what_it_is(name: str):
    recipe = Recipe.load(name, ["seed=3"])
    assert (recipe.name, recipe.seed) == (name, 3)
    assert recipe.description
    assert "\n" not in recipe.description
    assert Recipe.from_dict(load_yaml(recipe.to_yaml(), source=name)) == recipe
    cards = (bundled_recipes()[name].parent / "README.md").read_text()
    assert f"## {name}\n" in cards, "every recipe has a card"


def test_the_imagenet_schedule_is_the_papers_in_iterations():
    for name in ("imagenet_resnet18_paper", "imagenet_resnet34_paper"):
        recipe = Recipe.load(name)
        steps = 1_281_167 // recipe.batch_size
        assert recipe.epochs * steps == 62_500
        assert [each * steps for each in recipe.schedule.milestones] == [18_750, 37_500, 56_250]
        assert recipe.schedule.warmup_epochs * steps == 2_500


def test_errors_are_the_project_s_own():
    with pytest.raises(IrnetError) as caught:
        make(epochs=0)
    assert "expected:" in str(caught.value)
    assert "to mend it:" in str(caught.value)


def test_a_run_keeps_two_checkpoints_at_least() -> None:
    with pytest.raises(RecipeError, match=r"(?s)checkpoint\.keep is 1.*greater than or equal to 2"):
        Recipe.load("digits", ["checkpoint.keep=1"])
    assert Recipe.load("digits", ["checkpoint.keep=3"]).checkpoint.keep == 3
