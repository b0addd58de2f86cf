"""docs/accuracy.md says what the logs beside it say, and every run that it lists can be trained."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from irnet_convert.recipe import Recipe

DOCS = Path(__file__).parent.parent / "docs"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy", DOCS / "accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOGS = sorted((DOCS / "accuracy").glob("*.jsonl"))
LISTED = [run for runs in script().listed().values() for run in runs]


@pytest.mark.parametrize("run", LISTED, ids=lambda run: run["name"])
def test_every_listed_run_is_a_recipe(run: dict) -> None:
    recipe = Recipe.load(run["recipe"], run["set"])
    assert run["name"].endswith(f"_{recipe.epochs}")


def test_names_are_unique() -> None:
    assert len({run["name"] for run in LISTED}) == len(LISTED)


def test_the_tables_are_those_of_the_logs() -> None:
    page = (DOCS / "accuracy.md").read_text()
    assert script().written(page) == page


def events_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.stem)
def test_a_log_is_of_a_whole_run_of_what_is_listed(log: Path) -> None:
    said, *events = events_of(log)
    name, _, seed = log.stem.rpartition("-")
    listed = next(run for run in LISTED if run["name"] == name)
    recipe = Recipe.load(listed["recipe"], listed["set"])
    assert script().completed(said["recipe"]) == script().resolved(recipe.to_dict()), (
        "the recipe has changed since: train it anew"
    )
    assert said["seed"] == int(seed)
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == list(range(1, recipe.epochs + 1))
    assert events[-1]["event"] == "final"
    assert events[-1]["after"]["count"] == said["data"]["eval"]["rows"] == 10_000
    assert not any(sign in log.read_text() for sign in ('"/', "../", "\\\\")), "a path of some machine"


def test_all_logs_are_of_the_same_images_and_each_network_has_one_teacher() -> None:
    all_events = [events_of(log) for log in LOGS]
    # Not the revision: that of files in a directory counts times and paths, which no two machines share.
    seen = [{split: events[0]["data"][split] for split in ("train", "eval")} for events in all_events]
    assert all(data == seen[0] for data in seen)
    teachers = {
        (e[0]["recipe"]["model"]["name"], e[-1]["teacher"]["top1"])
        for e in all_events
        if e[-1].get("teacher")
    }
    assert len(teachers) == len({network for network, _ in teachers})
    for _, top1 in teachers:
        assert f"{top1:.2f} %" in (DOCS / "accuracy.md").read_text()


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    run = next(run for run in LISTED if run["name"] == "own_20")

    def trained(*more: str) -> None:
        (tmp_path / "recipe.yaml").write_text(Recipe.load(run["recipe"], [*run["set"], *more]).to_yaml())

    trained("data.name=/x", "seed=3", "data.workers=2", "model.checkpoint=/y/z.safetensors")
    script().check(run, tmp_path)
    for other, said in (
        ("batch_size=32", "batch_size is 64, was 32"),
        ("model.checkpoint=null", "checkpoint is"),
    ):
        trained(other)
        with pytest.raises(SystemExit, match=said):
            script().check(run, tmp_path)
