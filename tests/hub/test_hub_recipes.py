"""Recipes by name: which one is meant, what it extends, and what a run keeps of where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_client import take_in
from hub_server import FakeHub
from hypothesis import given, settings
from hypothesis import strategies as st

from irnet_convert.errors import HubError, IrnetError, ModelError, RecipeError, UnknownNameError
from irnet_convert.recipe import Recipe, find_recipe
from irnet_convert.recipe.read import merge, read_recipe

BASE: dict[str, Any] = {
    "name": "base",
    "description": "the base",
    "model": {"name": "timm/cifar_resnet20", "kwargs": {"num_classes": 10}},
    "data": {"name": "builtin/synthetic", "workers": 0},
    "optimizer": {"name": "adam", "lr": 0.1},
    "epochs": 2,
    "rewrites": ["activation"],
    "expect": {"metric": "top1", "value": 50.0, "tolerance": 1.0, "note": "measured"},
}


def text(**keys: Any) -> bytes:
    return yaml.safe_dump(keys).encode()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


# --- names ----------------------------------------------------------------------------------------------


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


# --- extends --------------------------------------------------------------------------------------------


def test_mappings_merge_and_everything_else_replaces(here: Path) -> None:
    (here / "base.yaml").write_bytes(text(**BASE))
    (here / "sub").mkdir()
    (here / "sub" / "own.yaml").write_bytes(text(name="own", extends="bundled.yaml"))
    (here / "mine.yaml").write_bytes(
        text(name="mine", extends="base.yaml", optimizer={"lr": 0.2}, rewrites=["shortcut"], epochs=None)
    )
    read = read_recipe("mine.yaml")
    assert read.data == {
        "name": "mine",
        "model": BASE["model"],
        "data": BASE["data"],
        "optimizer": {"name": "adam", "lr": 0.2},
        "rewrites": ["shortcut"],
        "epochs": None,
    }, "name, description and expect are the base's own"
    assert [base.path for base in read.bases] == [here / "base.yaml"]
    assert Recipe.load("mine.yaml", ["epochs=3"]).optimizer.lr == 0.2
    (here / "digits2.yaml").write_bytes(text(name="digits2", extends="digits", epochs=3))
    assert Recipe.load("digits2.yaml").model == Recipe.load("digits").model


PLAIN = st.recursive(
    st.integers() | st.none() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
MAPPING = st.dictionaries(st.sampled_from("abc"), PLAIN, max_size=3)


def leaves_of(data: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(data, dict) or not data:
        return {path: data}
    return {k: v for key, item in data.items() for k, v in leaves_of(item, (*path, key)).items()}


@settings(deadline=None, max_examples=200)
@given(MAPPING, MAPPING)
def test_every_leaf_of_what_stands_above_is_in_the_result(
    base: dict[str, Any], above: dict[str, Any]
) -> None:
    merged = merge(base, above)
    found, wanted = leaves_of(merged), leaves_of(above)
    for path, value in wanted.items():
        if value != {}:
            assert found[path] == value
    for path, value in leaves_of(base).items():
        hidden = any(other[: len(path)] == path or path[: len(other)] == other for other in wanted)
        if not hidden:
            assert found[path] == value
    assert merge(merged, above) == merged
    assert merge(base, {}) == base


def test_what_a_recipe_on_the_hub_extends_is_pinned_or_in_its_repository(hub: FakeHub, here: Path) -> None:
    base = hub.repo("org/base")
    first = base.commit({"recipe.yaml": text(**BASE), "deep/b.yaml": text(extends="c.yaml")}, tag="v1")
    base.commit({"recipe.yaml": text(**{**BASE, "epochs": 9}), "deep/c.yaml": text(**BASE)}, tag="v2")
    mine = hub.repo("me/mine")

    def extending(name: Any) -> Recipe:
        mine.commit(
            {"recipe.yaml": text(name="mine", extends=name), "sub/x.yaml": text(extends="../recipe.yaml")}
        )
        return Recipe.load("me/mine")

    assert extending("hf://org/base@v1").epochs == 2
    assert extending("org/base@v2").epochs == 9
    assert extending(f"hf://org/base@{first}/recipe.yaml").epochs == 2
    assert extending("hf://org/base@v2/deep/b.yaml").epochs == 2
    with pytest.raises(HubError, match=r"no file hf://org/base@[0-9a-f]+/deep/c.yaml"):
        extending("hf://org/base@v1/deep/b.yaml")
    with pytest.raises(HubError, match="'main' of org/base is no tag"):
        extending("hf://org/base@main")
    with pytest.raises(RecipeError, match="not pinned"):
        extending("org/base")
    (here / "local.yaml").write_bytes(text(**BASE))
    for outside in (
        "/etc/passwd.yaml",
        "../x.yaml",
        str(here / "local.yaml"),
        "sub/x.yaml",
        "C:/x.yaml",
        "~/x.yaml",
    ):
        with pytest.raises(IrnetError):
            extending(outside)
    with pytest.raises(HubError, match="no file"):
        extending("local.yaml")


def test_cycles_and_long_chains_are_refused(hub: FakeHub, here: Path) -> None:
    (here / "a.yaml").write_bytes(text(extends="b.yaml"))
    (here / "b.yaml").write_bytes(text(extends="./a.yaml"))
    with pytest.raises(RecipeError, match="extends a recipe that extends it"):
        Recipe.load("a.yaml")
    (here / "a.yaml").write_bytes(text(extends="a.yaml"))
    with pytest.raises(RecipeError, match="extends a recipe that extends it"):
        Recipe.load("./a.yaml")
    for number in range(5):
        (here / f"{number}.yaml").write_bytes(
            text(**BASE) if number == 0 else text(extends=f"{number - 1}.yaml")
        )
    assert len(read_recipe("3.yaml").bases) == 3
    with pytest.raises(RecipeError, match="4 recipes at most"):
        Recipe.load("4.yaml")
    one, other = hub.repo("org/one"), hub.repo("org/other")
    one.commit({"recipe.yaml": text(extends="hf://org/other@v1")}, tag="v1")
    other.commit({"recipe.yaml": text(extends="hf://org/one@v1")}, tag="v1")
    with pytest.raises(RecipeError, match="extends a recipe that extends it: hf://org/one@"):
        Recipe.load("org/one@v1")


def test_what_a_file_of_the_user_s_must_not_extend(here: Path) -> None:
    (here / "sub").mkdir()
    (here / "outside.yaml").write_bytes(text(**BASE))
    (here / "sub" / "link.yaml").symlink_to(here / "outside.yaml")
    for name, message in (
        ("../outside.yaml", "outside its folder"),
        (str(here / "outside.yaml"), "outside its folder"),
        ("link.yaml", "outside its folder"),
        ("nothing.yaml", "there is no file"),
        ("digts", "'digits'"),
        ("org/base", "not pinned"),
        (["digits"], "no name"),
        ("", "no name"),
        ("a\0.yaml", "no name"),
        (3, "no name"),
    ):
        (here / "sub" / "mine.yaml").write_bytes(text(extends=name))
        with pytest.raises(IrnetError, match=message):
            Recipe.load("sub/mine.yaml")
    with pytest.raises(RecipeError, match="has the key extends"):
        Recipe.from_dict({**BASE, "extends": "digits"})
    with pytest.raises(RecipeError, match="has the key extends"):
        Recipe.load("digits", ["extends=digits_teacher"])


# --- runs -----------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "name": "timm/vit_tiny_patch16_224",
        "kwargs": {
            "img_size": 8,
            "patch_size": 4,
            "embed_dim": 16,
            "depth": 1,
            "num_heads": 2,
            "num_classes": 10,
        },
    },
    "data": {"name": "builtin/synthetic", "workers": 0, "train_limit": 16, "eval_limit": 8},
    "transforms": {"input_size": [3, 8, 8]},
    "epochs": 1,
    "batch_size": 8,
}


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
