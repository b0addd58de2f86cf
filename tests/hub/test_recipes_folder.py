"""The folder recipes/ as a repository: uploaded as it stands, each recipe comes back as it is bundled."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hub_server import TOKEN, FakeHub

from irnet_convert.hub import upload
from irnet_convert.recipe import Recipe, bundled_recipes


def test_the_folder_can_be_uploaded_as_it_stands(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = Path(__file__).parents[2] / "recipes"
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }
    upload("org/recipes", files, message="Recipes")
    for name in bundled_recipes():
        assert Recipe.load(f"hf://org/recipes/{name}.yaml") == Recipe.load(name)
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["library_name"] == "irnet-convert"
    assert "recipe" in said["tags"]
    named = {Recipe.load(name).data.name for name in bundled_recipes()}
    assert set(said["datasets"]) <= named
