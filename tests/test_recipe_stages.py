"""Stages in a recipe: what they inherit, what their errors name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from irnet_convert.errors import RecipeError
from irnet_convert.plain_yaml import load_yaml
from irnet_convert.recipe import DistillSpec, OptimizerSpec, Recipe, StageSpec
from irnet_convert.recipe.stages import with_epochs_shared

BASE: dict[str, Any] = {
    "name": "small",
    "model": {"name": "timm/cifar_resnet20"},
    "data": {"name": "builtin/synthetic"},
}
OWN = {
    "optimizer": {"name": "momentum", "lr": 0.1, "kwargs": {"momentum": 0.9}},
    "schedule": {"name": "multistep", "milestones": [2]},
    "teacher": "same",
    "distill": {"temperature": 4.0, "task_weight": 0.1},
    "ede": {"t_min": 0.01},
}


def make(**changes: Any) -> Recipe:
    return Recipe.from_dict({**BASE, **changes})


def test_a_stage_says_what_differs_and_has_the_rest_from_the_recipe() -> None:
    first = {"epochs": 3, "binarize": "activations", "schedule": {"milestones": [1]}, "ede": {"t_max": 2.0}}
    second = {"epochs": 4, "optimizer": {"name": "adam", "lr": 1e-3, "kwargs": {}}, "distill": None}
    recipe = make(stages=[first, second], **OWN)
    assert recipe.epochs == 7
    a, b = recipe.stages
    assert (a.optimizer, a.distill, b.schedule, b.ede) == (
        recipe.optimizer, recipe.distill, recipe.schedule, recipe.ede,
    )  # fmt: skip
    assert (a.schedule.name, a.schedule.milestones) == ("multistep", (1,))
    assert (a.ede.t_min, a.ede.t_max) == (0.01, 2.0)
    assert (b.optimizer.name, b.optimizer.kwargs, b.distill, b.binarize) == ("adam", {}, None, "both")
    assert recipe.whole_stages() == recipe.stages


def test_what_is_resolved_loads_as_the_same_recipe() -> None:
    recipe = make(stages=[{"epochs": 1, "binarize": "weights"}, {"epochs": 2, "distill": None}], **OWN)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Recipe.from_dict(load_yaml(recipe.to_yaml(), source="it")) == recipe


def test_a_recipe_without_stages_is_one_stage() -> None:
    recipe = make(epochs=5, **OWN)
    assert recipe.stages == ()
    (only,) = recipe.whole_stages()
    assert (only.epochs, only.binarize) == (5, "both")
    assert (only.optimizer, only.schedule, only.distill, only.ede) == (
        recipe.optimizer, recipe.schedule, recipe.distill, recipe.ede,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "path", "expected"),
    [
        ({"stages": [{"epochs": 0}]}, "stages.0.epochs is 0", "greater than or equal to 1"),
        ({"stages": [{"epochs": 1, "optimiser": {}}]}, "stages.0.optimiser is not a key", "'optimizer'"),
        ({"stages": [{"epochs": 1, "optimizer": {"lrr": 1}}]}, "stages.0.optimizer.lrr", "'lr'"),
        ({"stages": [{"epochs": 1, "binarize": "weight"}]}, "stages.0.binarize is 'weight'", "'weights'"),
        ({"stages": [{"epochs": 1, "binarize": "weights"}]}, "stages.0.binarize", "what is trained is what"),
        ({"stages": [{"epochs": 1}], "epochs": 2}, "epochs is 2", "1, that of all stages"),
        (
            {"stages": [{"epochs": 1, "distill": {}}]},
            "stages.0.distill is set, but teacher is null",
            "teacher",
        ),
        ({"stages": 3}, "stages is 3", "a list"),
        ({"stages": [3], "epochs": 1}, "stages.0 is 3", "a block of keys"),
        (
            {"stages": [{"epochs": 1, "binarize": "none"}, {"epochs": 1}], "policy": None},
            "stages.0.binarize is set, but policy is null",
            "no such key",
        ),
        (
            {"teacher": "same", "stages": [{"epochs": 1}]},
            "teacher is set, but no distill block uses it",
            "a distill block",
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(
    changes: dict[str, Any], path: str, expected: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        make(**changes)
    assert path in caught.value.given
    assert expected in caught.value.expected


def test_what_the_recipe_says_wrongly_is_reported_once() -> None:
    with pytest.raises(RecipeError) as caught:
        make(optimizer={"lrr": 1}, stages=[{"epochs": 1}, {"epochs": 1}])
    assert caught.value.given == "the recipe: optimizer.lrr is not a key of this block"


def test_a_teacher_for_one_stage_alone() -> None:
    recipe = make(teacher="same", stages=[{"epochs": 1, "distill": {}}, {"epochs": 1}])
    assert [stage.distill is None for stage in recipe.stages] == [False, True]


def test_latents_are_those_of_binary_layers() -> None:
    assert make(epochs=1, latents={"std": 0.1}).latents.std == 0.1
    with pytest.raises(RecipeError, match=r"latents\.std is 0"):
        make(epochs=1, latents={"std": 0.0})
    with pytest.raises(RecipeError, match="latents is set, but policy is null"):
        make(epochs=1, latents={"std": 0.1}, policy=None)


def test_stages_as_objects_have_what_they_leave_out_from_the_recipe() -> None:
    blocks = {"optimizer": OptimizerSpec(name="momentum", lr=0.1), "distill": DistillSpec(temperature=3.0)}
    recipe = Recipe.model_validate(
        {
            **BASE, "teacher": "same", **blocks,
            "stages": (
                StageSpec(epochs=2, binarize="activations"),
                StageSpec(epochs=3, optimizer=OptimizerSpec(lr=0.5)),
                {"epochs": 1, "optimizer": {"lr": 0.2}},
            ),
        }
    )  # fmt: skip
    assert recipe.epochs == 6
    assert [s.optimizer.lr for s in recipe.stages] == [0.1, 0.5, 0.2]
    assert {s.optimizer.name for s in recipe.stages} == {"momentum"}
    assert {s.distill for s in recipe.stages} == {DistillSpec(temperature=3.0)}


def test_a_saved_student_may_be_binary_without_a_policy() -> None:
    saved = {**BASE, "model": {"name": "hf://org/name"}, "policy": None}
    recipe = Recipe.from_dict(
        {
            **saved,
            "latents": {"std": 0.1},
            "stages": [{"epochs": 1, "binarize": "activations"}, {"epochs": 1}],
        }
    )
    assert recipe.latents is not None


@pytest.mark.parametrize(
    ("counts", "epochs", "shared"),
    [
        ([10, 10], 5, [2, 3]),
        ([10, 10], 40, [20, 20]),
        ([8, 12], 5, [2, 3]),
        ([1, 30], 2, [1, 1]),
        ([1, 1, 30], 5, [1, 1, 3]),
        ([3, 3, 3], 10, [3, 3, 4]),
        ([7], 3, [3]),
    ],
)
def test_epochs_as_an_override_are_shared_out(
    counts: list[int], epochs: int, shared: list[int], tmp_path: Path
) -> None:
    path = tmp_path / "staged.yaml"
    stages = [{"epochs": count, "binarize": "activations"} for count in counts[:-1]] + [
        {"epochs": counts[-1]}
    ]
    path.write_text(yaml.safe_dump({**BASE, "stages": stages}))
    recipe = Recipe.load(path, [f"epochs={epochs}"])
    assert [stage.epochs for stage in recipe.stages] == shared
    assert recipe.epochs == epochs
    assert [stage.binarize for stage in recipe.stages][-1] == "both"
    with pytest.raises(RecipeError, match="that of all stages"):
        Recipe.load(path, [f"epochs={sum(counts) + 1}", f"stages.0.epochs={counts[0]}"])
    if len(counts) > 1:
        with pytest.raises(
            RecipeError, match=rf"(?s)epochs=1 for a recipe of {len(counts)} stages.*at least"
        ):
            Recipe.load(path, ["epochs=1"])
    for wrong in ("0", "-3", "many", "2.5", "true"):
        with pytest.raises(RecipeError, match="epochs is"):
            Recipe.load(path, [f"epochs={wrong}"])


def test_no_number_of_epochs_takes_long_to_share_out() -> None:
    """Others' recipes may say any; floats would be off by more steps than can be counted."""
    shared = with_epochs_shared({"epochs": 10**30, "stages": [{"epochs": 1}, {"epochs": 2}, {"epochs": 4}]})
    counts = [stage["epochs"] for stage in shared["stages"]]
    assert sum(counts) == 10**30
    assert all(abs(7 * count - share * 10**30) < 7 for count, share in zip(counts, (1, 2, 4), strict=True))


def test_epochs_of_a_file_that_extends_are_shared_out(tmp_path: Path) -> None:
    stages = [{"epochs": 20, "binarize": "activations"}, {"epochs": 20}]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({**BASE, "stages": stages}))
    above, own = tmp_path / "above.yaml", [{"epochs": 1, "binarize": "activations"}, {"epochs": 3}]
    for changes, want in (({"epochs": 10}, [5, 5]), ({"epochs": 4, "stages": own}, [1, 3]), ({}, [20, 20])):
        above.write_text(yaml.safe_dump({"name": "above", "extends": "base.yaml", **changes}))
        assert [stage.epochs for stage in Recipe.load(above).stages] == want
