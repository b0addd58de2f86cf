"""``irnet-convert recipe ...``: what is checked, shown and asked before an upload."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_hub import TOKEN, FakeHub
from hub_cases import run, runner, text

from irnet_convert import cli
from irnet_convert.errors import (
    CheckpointError,
    HubError,
    IrnetError,
    ModelError,
    PolicyError,
    RecipeError,
    RecordError,
    UnknownNameError,
)
from irnet_convert.recipe import Recipe
from irnet_convert.recipe.differences import ABSENT, differences

TINY: dict[str, Any] = {
    "name": "tiny",
    "description": "a tiny one",
    "model": {"name": "timm/cifar_resnet20", "kwargs": {"num_classes": 10}},
    "data": {"name": "builtin/synthetic", "workers": 0, "train_limit": 4, "eval_limit": 4},
    "transforms": {"input_size": [3, 8, 8]},
    "epochs": 1,
    "batch_size": 4,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with ``tiny.yaml``; a writer is logged in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    (folder / "tiny.yaml").write_bytes(text(**TINY))
    return folder


@pytest.fixture
def login(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """The Hub, with a token that may write."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


# --- list, show, validate, diff -------------------------------------------------------------------------


def test_list_and_show(hub: FakeHub, here: Path) -> None:
    assert "cifar10_resnet20_paper" in run("list")
    commit = hub.repo("org/many").commit({"a.yaml": text(**TINY), "b.yml": b"- no recipe", "README.md": b""})
    said = run("list", "org/many")
    assert f"# hf://org/many@{commit}" in said
    assert "a tiny one" in said
    # The console is as wide as it was when it was made, so lines may be folded.
    assert "norecipe:hf://org/many@" in re.sub(r"[\s│]", "", said)
    shown = run("show", "hf://org/many/a.yaml", "epochs=7")
    assert f"# recipe on the Hub: hf://org/many@{commit}/a.yaml" in shown
    assert "epochs: 7" in shown
    (here / "mine.yaml").write_bytes(text(name="mine", extends="tiny.yaml"))
    assert f"# extends recipe file: {here / 'tiny.yaml'}" in run("show", "mine.yaml")


def test_validate_builds_without_memory_and_training(here: Path) -> None:
    large = ("model.name=timm/vit_huge_patch14_224", "model.kwargs={}", "transforms.input_size=[3, 224, 224]")
    said = run("validate", "tiny.yaml", *large)
    assert "model: timm/vit_huge_patch14_224, 630,764,800 parameters" in said
    assert "tiny: valid" in said
    assert "conversion: 18 of 20 layers become binary" in run("validate", "tiny.yaml")
    for override, error, message in (
        ("epochs=0", RecipeError, "epochs is 0"),
        ("policy=irnt", RecipeError, "'irnet'"),
        ("model.name=timm/cifar_resnet21", UnknownNameError, "cifar_resnet20"),
        ("model.kwargs={num_clases: 3}", ModelError, "num_clases"),
        ("rewrites=[activaton]", RecipeError, "'activation'"),
        ("policy=[{action: keep, name: layer9.*}, {preset: irnet}]", PolicyError, "matches no layer"),
        ("transforms={input_size: [1, 8, 8], mean: [0.5], std: [0.5]}", RecordError, "did not run"),
    ):
        with pytest.raises(error, match=message):
            run("validate", "tiny.yaml", override)


def test_diff_is_of_resolved_recipes(here: Path) -> None:
    assert "No key differs" in run("diff", "tiny.yaml", "./tiny.yaml")
    other = {**TINY, "model": {"name": "timm/cifar_resnet20"}, "epochs": 2, "teacher": None}
    (here / "other.yaml").write_bytes(text(**other))
    done = runner.invoke(cli.app, ["recipe", "diff", "tiny.yaml", "other.yaml", "--json"])
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found == [
        {"key": "model.kwargs.num_classes", "one": 10, "other": ABSENT},
        {"key": "epochs", "one": 1, "other": 2},
        {"key": "model.kwargs", "one": ABSENT, "other": {}},
    ]
    assert "epochs" in run("diff", "tiny.yaml", "other.yaml", code=1)
    one, two = (
        Recipe.load("tiny.yaml"),
        Recipe.load("other.yaml", ["model.kwargs.num_classes=10", "epochs=1"]),
    )
    assert differences(one, two) == []


# --- push -----------------------------------------------------------------------------------------------


def test_push_shows_asks_and_uploads(login: FakeHub, here: Path) -> None:
    said = run("push", "tiny.yaml", "org/tiny", code=1, answer="n\n")
    for shown in ("recipe.yaml", "README.md", "org/tiny", "tells no result", "Upload these? [y/N]"):
        assert shown in said
    assert login.repos == {}
    assert run("push", "tiny.yaml", "org/tiny", code=1, answer=None)  # nobody there to ask
    assert login.repos == {}
    said = run("push", "tiny.yaml", "org/tiny", "--private", answer="y\n")
    repo = login.repos[("model", "org/tiny")]
    commit, files = repo.commits[-1]
    assert repo.private
    assert f"{login.endpoint}/org/tiny/commit/{commit}" in said
    assert f"irnet-convert train org/tiny@{commit}" in said
    assert files["recipe.yaml"] == text(**TINY)
    assert Recipe.load("org/tiny") == Recipe.load("tiny.yaml")
    said = run("push", "tiny.yaml", "org/data", "--yes", "--dataset", "--as", "two.yaml")
    named = said.split("irnet-convert train ")[1].strip()
    assert re.fullmatch(r"hf://datasets/org/data@[0-9a-f]{40}/two.yaml", named)
    assert Recipe.load(named).name == "tiny"
    assert set(login.repos[("dataset", "org/data")].commits[-1][1]) >= {"two.yaml", "README.md"}


def test_the_card_tells_what_it_is(login: FakeHub, here: Path) -> None:
    odd = {**TINY, "description": "pipes | and\nlines", "data": {**TINY["data"], "name": "uoft-cs/cifar10"}}
    (here / "odd.yaml").write_bytes(text(**odd))
    run("push", "odd.yaml", "org/odd", "--yes", "--license", "apache-2.0")
    card = login.repos[("model", "org/odd")].commits[-1][1]["README.md"].decode()
    _, front, body = card.split("---\n", 2)
    said = yaml.safe_load(front)
    assert said["library_name"] == "irnet-convert"
    assert said["tags"] == ["irnet-convert", "recipe", "binary-neural-network"]
    assert said["datasets"] == ["uoft-cs/cifar10"]
    assert said["license"] == "apache-2.0"
    assert "model-index" not in said
    assert "irnet-convert train org/odd" in body
    assert "| model | timm/cifar_resnet20 |" in body
    (here / "card.md").write_text("---\ntags: [mine]\n---\nMy own.")
    run("push", "odd.yaml", "org/odd", "--yes", "--card", "card.md")
    assert login.repos[("model", "org/odd")].commits[-1][1]["README.md"] == (here / "card.md").read_bytes()


def test_what_it_extends_goes_along(login: FakeHub, here: Path) -> None:
    (here / "sub").mkdir()
    (here / "sub" / "base.yaml").write_bytes(text(extends="digits", epochs=2))
    (here / "mine.yaml").write_bytes(text(name="mine", extends="sub/base.yaml"))
    said = run("push", "mine.yaml", "org/mine", "--yes")
    assert "model.checkpoint is runs/digits_teacher/model.safetensors" in said
    assert Recipe.load("org/mine") == Recipe.load("mine.yaml")
    (here / "recipe.yaml").write_bytes(text(**TINY))
    (here / "clash.yaml").write_bytes(text(name="clash", extends="recipe.yaml"))
    with pytest.raises(RecipeError, match="--as"):
        run("push", "clash.yaml", "org/mine", "--yes")


def test_push_refuses_before_it_uploads(login: FakeHub, here: Path) -> None:
    (here / "bad.yaml").write_bytes(text(**{**TINY, "epochs": 0}))
    (here / "out.yaml").write_bytes(text(**TINY, output="/somewhere"))
    for arguments, message in (
        (["bad.yaml", "org/x"], "epochs is 0"),
        (["out.yaml", "org/x"], "output is '/somewhere', outside"),
        (["tiny.yaml", "name"], "no name on the Hugging Face Hub"),
        (["tiny.yaml", "org/x@v1"], "org/name alone"),
        (["tiny.yaml", "org/x", "--as", "../x.yaml"], "one name that ends in .yaml"),
        (["tiny.yaml", "org/x", "--as", "README.md"], "one name that ends in .yaml"),
        (["tiny.yaml", "hf://datasets/org/x"], "one kind of repository"),
        (["nothing.yaml", "org/x"], "neither a bundled recipe nor an existing file"),
        (["tiny.yaml", "org/x", "--card", "nothing.md"], "the card nothing.md"),
        (["tiny.yaml", "org/x", "--run", "runs/nothing"], "does not exist"),
    ):
        with pytest.raises(IrnetError, match=message):
            run("push", *arguments, "--yes")
    assert login.repos == {}
    with pytest.raises(HubError, match="answered 403"):
        run("push", "tiny.yaml", "others/x", "--yes")


def test_the_result_of_a_run_is_in_the_card_and_its_log_beside_it(login: FakeHub, here: Path) -> None:
    from irnet_convert.train import finetune

    finetune("tiny.yaml")
    said = run("push", "tiny.yaml", "org/tiny", "--run", "runs/tiny", "--yes")
    assert "tells no result" not in said
    _, files = login.repos[("model", "org/tiny")].commits[-1]
    assert set(files) == {".gitattributes", "README.md", "metrics.jsonl", "plan.json", "recipe.yaml"}
    assert files["metrics.jsonl"] == Path("runs/tiny/metrics.jsonl").read_bytes()
    after = json.loads(files["metrics.jsonl"].splitlines()[-1])["after"]
    _, front, body = files["README.md"].decode().split("---\n", 2)
    (index,) = yaml.safe_load(front)["model-index"]
    (result,) = index["results"]
    assert index["name"] == "tiny"
    assert result["metrics"][0] == {
        "type": "accuracy",
        "value": after["top1"] / 100,
        "name": "Top-1 accuracy",
    }
    assert f"| trained | {after['top1']:.2f} | {after['top5']:.2f} | 4 |" in body
    assert str(here) not in files["README.md"].decode()
    (here / "more.yaml").write_bytes(text(**{**TINY, "epochs": 2}))
    with pytest.raises(CheckpointError, match="trained another recipe: epochs is 1, was 2"):
        run("push", "more.yaml", "org/tiny", "--run", "runs/tiny", "--yes")
    log = Path("runs/tiny/metrics.jsonl")
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(CheckpointError, match="has no result"):
        run("push", "tiny.yaml", "org/tiny", "--run", "runs/tiny", "--yes")
