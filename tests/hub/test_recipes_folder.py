"""The folder recipes/ as a repository: uploaded as it stands, each recipe comes back as it is bundled."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fake_hub import TOKEN, FakeHub
from huggingface_hub import HfApi

from irnet_convert.hub import check_file_name, parse_name, resolve
from irnet_convert.recipe import Recipe, bundled_recipes


def test_the_folder_can_be_uploaded_as_it_stands(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    folder = Path(__file__).parents[2] / "recipes"
    api = HfApi()
    api.create_repo("org/recipes")
    api.upload_folder(repo_id="org/recipes", folder_path=folder)  # what `hf upload org/recipes recipes` does
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(resolve(parse_name("org/recipes")).files) == {*files, ".gitattributes"}
    for name in files:
        assert check_file_name(name) == name
    for name in bundled_recipes():
        assert Recipe.load(f"hf://org/recipes/{name}.yaml") == Recipe.load(name)
    _, front, _ = (folder / "README.md").read_text().split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["library_name"] == "irnet-convert"
    assert "recipe" in said["tags"]
    named = {Recipe.load(name).data.name for name in bundled_recipes()}
    assert set(said["datasets"]) <= named
