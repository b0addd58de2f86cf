"""What a recipe extends: how the two are merged, where the base may lie, and how long a chain may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from hub_cases import BASE, text
from hypothesis import given, settings
from hypothesis import strategies as st

from irnet_convert.errors import HubError, IrnetError, RecipeError
from irnet_convert.recipe import Recipe
from irnet_convert.recipe.read import merge, read_recipe


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
