"""docs/accuracy.md says what the logs beside it say, and every run that it lists can be trained."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

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


@pytest.mark.parametrize("log", sorted((DOCS / "accuracy").glob("*.jsonl")), ids=lambda log: log.stem)
def test_a_log_is_of_a_whole_run(log: Path) -> None:
    text = log.read_text()
    said, *events = map(json.loads, text.splitlines())
    listed = next(run for run in LISTED if run["name"] == log.stem.rpartition("-")[0])
    assert (said["recipe"], said["overrides"]) == (listed["recipe"], listed["set"])
    epochs = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert epochs == list(range(1, Recipe.load(said["recipe"], said["overrides"]).epochs + 1))
    assert events[-1]["event"] == "final"
    assert events[-1]["after"]["count"] == said["data"]["eval"]["rows"] == 10_000
    assert not any(sign in text for sign in ('"/', "../", "\\\\")), "a path of some machine"


def test_a_log_of_something_else_is_refused(tmp_path: Path) -> None:
    run = next(run for run in LISTED if run["name"] == "own_20")
    trained = Recipe.load(run["recipe"], [*run["set"], "data.name=/x", "seed=3", "data.workers=2"])
    (tmp_path / "recipe.yaml").write_text(trained.to_yaml())
    script().check(run, tmp_path)
    other = Recipe.load(run["recipe"], [*run["set"], "batch_size=32"])
    (tmp_path / "recipe.yaml").write_text(other.to_yaml())
    with pytest.raises(SystemExit, match="batch_size is 64, was 32"):
        script().check(run, tmp_path)
