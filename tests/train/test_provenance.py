"""What a result came from lies beside it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import TINY
from datasets import ClassLabel, Dataset, Features, Image

from irnet_convert.networks.origin import origin_of
from irnet_convert.recipe import Recipe
from irnet_convert.train import finetune, load
from irnet_convert.train import provenance as module
from irnet_convert.train.__main__ import main
from irnet_convert.train.provenance import commit_of
from irnet_convert.train.rundir import _with_history


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "recipe.yaml").write_text(f"# mine\n{yaml.safe_dump({**TINY, 'epochs': 9})}")
    git(folder, "add", "recipe.yaml")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_everything_lies_beside_the_result(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    overrides = ["epochs=1", f"output={tmp_path / 'run'}", "seed=7"]
    run_dir = finetune("./recipe.yaml", overrides=overrides).run_dir
    assert (run_dir / "recipe.given.yaml").read_text() == (repository / "recipe.yaml").read_text()
    assert Recipe.load(run_dir / "recipe.yaml") == Recipe.load(repository / "recipe.yaml", overrides)
    found = json.loads((run_dir / "environment.json").read_text())
    assert found["seed"] == 7
    assert found["recipe"] == {"file": str(repository / "recipe.yaml"), "overrides": overrides}
    assert found["versions"]["torch"] == metadata.version("torch")
    assert found["versions"]["irnet-convert"] == metadata.version("irnet-convert")
    assert found["threads"] == 1
    assert found["git"]["directory"] == {"commit": git(repository, "rev-parse", "HEAD"), "changed": False}
    assert found["data"]["revision"] == f"irnet-convert {metadata.version('irnet-convert')}"
    assert (found["data"]["train"]["rows"], found["data"]["eval"]["rows"]) == (32, 21)

    # The resolved recipe alone gives the same numbers again.
    again = finetune(run_dir / "recipe.yaml", overrides=[f"output={tmp_path / 'again'}"]).run_dir
    assert (again / "model.safetensors").read_bytes() == (run_dir / "model.safetensors").read_bytes()


def test_a_file_that_is_named_like_a_bundled_recipe_is_the_one_that_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text(yaml.safe_dump({**TINY, "output": "run"}))
    assert main(["./digits", "epochs=1"]) == 0
    assert Recipe.load(tmp_path / "run" / "recipe.yaml").data.name == "builtin/synthetic"
    found = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert found["recipe"] == {"file": str(tmp_path / "digits"), "overrides": ["epochs=1"]}


def test_the_revision_and_the_labels_of_a_data_set_are_told(tmp_path: Path, tiny: Any) -> None:
    labels = [number % 3 for number in range(40)]
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b", "c"])})
    rows = {"image": [np.full((8, 8, 3), number, np.uint8) for number in range(40)], "label": labels}
    for split in ("train", "test"):
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    model = {**TINY["model"], "kwargs": {**TINY["model"]["kwargs"], "num_classes": 3}}
    data = {"name": str(tmp_path / "data"), "workers": 0}
    run_dir = finetune(tiny(data=data, model=model, epochs=1)).run_dir
    found = json.loads((run_dir / "environment.json").read_text())["data"]
    digest = hashlib.sha256(np.asarray(labels, "<i8").tobytes()).hexdigest()
    assert found["train"] == found["eval"] == {"rows": 40, "labels_sha256": digest}
    assert found["revision"]
    streamed = {**data, "streaming": True, "train_limit": 33}
    other = finetune(tiny(data=streamed, model=model, epochs=1, output=str(tmp_path / "other"))).run_dir
    again = json.loads((other / "environment.json").read_text())["data"]
    assert again["revision"] == found["revision"]
    assert again["train"] == {"rows": 32}
    assert again["labels"] == found["labels"] == ["a", "b", "c"]
    origin = origin_of(load(run_dir))
    assert origin is not None
    assert origin.labels == ("a", "b", "c")
    (run_dir / "environment.json").unlink()
    assert origin_of(load(run_dir)).labels is None  # type: ignore[union-attr]


def test_a_commit_is_that_of_the_code_and_says_whether_it_was_changed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = git(repository, "rev-parse", "HEAD")
    (repository / "installed.py").write_text("")  # below a repository, and no part of it
    assert commit_of(repository / "installed.py") is None
    assert commit_of(repository / "recipe.yaml") == {"commit": head, "changed": False}
    (repository / "recipe.yaml").write_text("name: other")
    assert commit_of(repository) == {"commit": head, "changed": True}
    assert commit_of(tmp_path) is None
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    assert commit_of(repository) is None


def test_what_it_was_made_with_before_is_not_forgotten(tmp_path: Path) -> None:
    path, first, second = tmp_path / "environment.json", {"torch": 1}, {"torch": 2}
    assert _with_history(path, first) == first
    path.write_text(json.dumps(first))
    assert _with_history(path, first) == first
    both = _with_history(path, second)
    assert both == {"torch": 2, "before": [{"torch": 1}]}
    path.write_text(json.dumps(both))
    assert _with_history(path, second) == both
    assert _with_history(path, {"torch": 3})["before"] == [{"torch": 1}, {"torch": 2}]
