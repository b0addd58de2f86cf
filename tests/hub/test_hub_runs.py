"""Runs of recipes from the Hub: what they keep of where they came from, and who asks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_hub import FakeHub
from hub_cases import TINY, text
from hub_client import take_in

from irnet_convert.errors import ModelError
from irnet_convert.recipe import Recipe


def test_a_run_keeps_the_commit_and_needs_the_hub_no_more(hub: FakeHub, here: Path) -> None:
    base = hub.repo("org/base")
    first = base.commit({"recipe.yaml": text(**TINY)}, tag="v1")
    mine = hub.repo("org/tiny")
    commit = mine.commit({"recipe.yaml": text(name="mine", extends="hf://org/base@v1", seed=4)}, tag="v2")
    from irnet_convert.train import finetune

    run_dir = finetune("org/tiny@v2", overrides=["seed=5"]).run_dir
    assert run_dir == Path("runs/mine")
    assert json.loads((run_dir / "environment.json").read_text())["recipe"] == {
        "file": f"hf://org/tiny@{commit}/recipe.yaml",
        "overrides": ["seed=5"],
        "revision": "v2",
        "extends": [f"hf://org/base@{first}/recipe.yaml"],
    }
    assert (run_dir / "recipe.given.yaml").read_bytes() == text(
        name="mine", extends="hf://org/base@v1", seed=4
    )
    hub.repos.clear()
    hub.requests.clear()
    assert Recipe.load(run_dir / "recipe.yaml").seed == 5
    again = finetune(run_dir / "recipe.yaml", overrides=["output=again"]).run_dir
    assert (again / "model.safetensors").read_bytes() == (run_dir / "model.safetensors").read_bytes()
    assert finetune("org/tiny@v2", overrides=["output=third"], offline=True).steps == 2
    assert hub.requests == []


def test_an_absurd_network_of_others_is_refused_before_memory_is_spent(hub: FakeHub, here: Path) -> None:
    from irnet_convert.train.taken import take

    wide = {"img_size": 8, "patch_size": 4, "embed_dim": 65536, "depth": 4, "num_heads": 2}
    model = {"name": "timm/vit_tiny_patch16_224", "kwargs": wide}
    hub.repo("org/wide").commit({"recipe.yaml": text(**{**TINY, "model": model})})
    with pytest.raises(ModelError, match=r"(?s)more than 10,000,000,000 elements.*model\.kwargs"):
        take("org/wide")


def test_of_two_processes_the_main_one_asks_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    repo = hub.repo("org/tiny")
    commit = repo.commit({"recipe.yaml": text(**TINY), "mine.yaml": text(name="mine", extends="recipe.yaml")})
    names = ("org/tiny", "org/nothing", "hf://org/tiny/mine.yaml", "digits")
    one, other = take_in(2, hub.endpoint, tmp_path / "both", *names)
    assert one == other
    assert one[0] == f"hf://org/tiny@{commit}/recipe.yaml"
    assert one[1].startswith("error: the repository hf://org/nothing: the Hub answered 401")
    assert one[2] == f"hf://org/tiny@{commit}/mine.yaml"
    assert one[3].endswith("digits.yaml")
    for asked, times in (
        ("GET /org/tiny/resolve", 2),
        ("GET /api/models/org/tiny$", 2),
        ("models/org/no", 1),
    ):
        assert len(hub.asked(asked)) == times


def test_the_choice_is_printed_and_offline_is_the_cache_alone(
    hub: FakeHub, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    from irnet_convert.train.__main__ import main

    (here / "base.yaml").write_bytes(text(**TINY))
    (here / "mine.yaml").write_bytes(text(name="mine", extends="base.yaml"))
    assert main(["mine.yaml"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"Recipe: recipe file: mine.yaml\n  extends recipe file: {here / 'base.yaml'}\n")
    hub.repo("org/tiny").commit({"recipe.yaml": text(**TINY)})
    assert main(["org/tiny", "--offline"]) == 2
    assert "not in the cache, and the Hub must not be asked (offline)" in capsys.readouterr().err
    assert hub.requests == []
    assert constants.HF_HUB_OFFLINE, "for everything else in this process too"
