"""Recipes by name: a bundled one, a path or a repository on the Hub, and what those may name."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import FakeHub
from hub_cases import BASE, text

from irnet_convert.errors import HubError, IrnetError, RecipeError, UnknownNameError
from irnet_convert.recipe import Recipe, find_recipe


def test_a_bundled_name_then_a_path_then_the_hub(hub: FakeHub, here: Path) -> None:
    repo = hub.repo("org/name")
    commit = repo.commit(
        {"recipe.yaml": text(**BASE), "other.yaml": text(**{**BASE, "name": "other"})}, tag="v1"
    )
    found = find_recipe("org/name@v1")
    assert found.kind == "hub"
    assert str(found) == f"recipe on the Hub (v1): hf://org/name@{commit}/recipe.yaml"
    assert str(find_recipe(f"org/name@{commit}")) == f"recipe on the Hub: hf://org/name@{commit}/recipe.yaml"
    assert Recipe.load("org/name").name == "base"
    assert Recipe.load("hf://org/name/other.yaml", ["seed=3"]).name == "other"
    (here / "org").mkdir()
    (here / "org" / "name").write_bytes(text(**{**BASE, "name": "mine"}))
    assert Recipe.load("org/name").name == "mine"
    assert Recipe.load("hf://org/name").name == "base"
    assert find_recipe("digits").kind == "bundled"
    (here / "org" / "name").unlink()
    (here / "org" / "name").mkdir()
    with pytest.raises(RecipeError, match=r"(?s)is a directory.*hf://org/name"):
        find_recipe("org/name")


def test_loading_by_a_name_prints_what_it_was_taken_for(
    hub: FakeHub, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = hub.repo("org/name").commit({"recipe.yaml": text(**BASE)}, tag="v1")
    Recipe.load("org/name@v1")
    assert capsys.readouterr().err == f"Recipe: recipe on the Hub (v1): hf://org/name@{commit}/recipe.yaml\n"
    Recipe.load("digits")
    assert capsys.readouterr().err.startswith("Recipe: bundled recipe 'digits': ")
    (here / "mine.yaml").write_text("name: mine\nextends: digits\n")
    Recipe.load("mine.yaml")
    said = capsys.readouterr().err
    assert said.startswith("Recipe: recipe file: ")
    assert "\n  extends bundled recipe 'digits': " in said
    Recipe.load(here / "mine.yaml")
    assert capsys.readouterr().err == ""


def test_names_that_mean_files_never_ask_the_hub(hub: FakeHub, here: Path) -> None:
    for name in ("my/recipe.yaml", "./org/name", "org/name/", Path("org/name"), "org/na\0me" + "x" * 300):
        with pytest.raises(IrnetError):
            find_recipe(name)
    assert hub.requests == []


def test_a_repository_without_recipe_yaml_says_what_it_has(hub: FakeHub) -> None:
    hub.repo("org/many").commit({"a.yaml": text(**BASE), "b.yml": text(**BASE), "README.md": b""})
    with pytest.raises(
        UnknownNameError, match=r"(?s)has no recipe.yaml.*'a.yaml', 'b.yml'.*hf://org/many/NAME.yaml"
    ):
        find_recipe("org/many")
    assert Recipe.load("hf://org/many/b.yml").name == "base"
    hub.repo("org/none").commit({"README.md": b""})
    with pytest.raises(HubError, match="no file hf://org/none@"):
        find_recipe("org/none")


def test_offline_uses_the_cache(hub: FakeHub) -> None:
    hub.repo("org/name").commit({"recipe.yaml": text(**BASE)})
    with pytest.raises(HubError, match="not in the cache"):
        Recipe.load("org/name", offline=True)
    online = Recipe.load("org/name")
    hub.requests.clear()
    assert Recipe.load("org/name", offline=True) == online
    assert hub.requests == []


def test_a_recipe_of_others_stays_below_the_current_directory(hub: FakeHub) -> None:
    for number, keys in enumerate(
        (
            {"output": "/etc/x"},
            {"output": "../x"},
            {"output": "C:\\x"},
            {"output": "~/x"},
            {"model": {**BASE["model"], "checkpoint": "/secret.safetensors"}},
            {"teacher": {"name": "timm/x", "checkpoint": "a/../../x"}, "distill": {}},
        )
    ):
        repo = f"org/name{number}"
        hub.repo(repo).commit({"recipe.yaml": text(**{**BASE, **keys})})
        with pytest.raises(RecipeError, match="outside the current directory"):
            Recipe.load(repo)
    hub.repo("org/good").commit({"recipe.yaml": text(**BASE, output="runs/there")})
    assert Recipe.load("org/good", ["output=/tmp/x"]).output == "/tmp/x", "the user may"
