"""``irnet-convert recipe pull``: what it may write, and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import FakeHub
from hub_cases import TINY, run, text

from irnet_convert.errors import (
    HubError,
    RecipeError,
)
from irnet_convert.hub import parse_name, resolve
from irnet_convert.recipe.pull import pull


def test_pull_writes_texts_into_one_directory(hub: FakeHub, here: Path) -> None:
    repo = hub.repo("org/name", lfs={"model.safetensors"})
    files = {"recipe.yaml": text(**TINY), "sub/b.yaml": b"b", "README.md": b"card", "metrics.jsonl": b"{}\n"}
    others = {"model.safetensors": b"x" * 1000, ".gitattributes": b"x", ".github/x.yml": b"x", "run.py": b"x"}
    commit = repo.commit({**files, **others}, tag="v1")
    repo.commit({"recipe.yaml": b"newer"})
    said = run("pull", "org/name@v1")
    assert f"# hf://org/name@{commit}" in said
    there = {p.relative_to("name").as_posix(): p.read_bytes() for p in Path("name").rglob("*") if p.is_file()}
    assert there == files
    with pytest.raises(RecipeError, match="is there already"):
        run("pull", "org/name")
    assert Path("name/recipe.yaml").read_bytes() == text(**TINY)
    run("pull", "org/name", "name", "--force")
    assert Path("name/recipe.yaml").read_bytes() == b"newer"
    run("pull", "org/name", "other/place")
    hub.requests.clear()
    run("pull", "org/name", "third", "--offline")
    assert hub.requests == []


@pytest.mark.parametrize(
    "name",
    [
        "../x.yaml",
        "a/../../x.yaml",
        "/etc/x.yaml",
        "C:x.yaml",
        "a\\..\\..\\x.yaml",
        "con.yaml",
        "a\0.yaml",
        "~/x.yaml",
    ],
)
def test_names_that_lead_out_are_refused_before_anything_is_written(
    hub: FakeHub, here: Path, name: str
) -> None:
    hub.repo("org/evil").commit({"a.yaml": b"a", name: b"evil"})
    before = sorted(here.parent.rglob("*.yaml"))
    with pytest.raises(HubError, match="safe on every system"):
        run("pull", "org/evil", "there")
    assert sorted(here.parent.rglob("*.yaml")) == before
    assert not Path("there").exists()


def test_links_and_names_that_are_one_are_refused(hub: FakeHub, here: Path) -> None:
    hub.repo("org/name").commit({"sub/a.yaml": b"new", "b.yaml": b"new"})
    (here / "outside").mkdir()
    (here / "there").mkdir()
    (here / "there" / "sub").symlink_to(here / "outside")
    with pytest.raises(RecipeError, match="by a link"):
        run("pull", "org/name", "there", "--force")
    (here / "there" / "sub").unlink()
    (here / "there" / "sub").write_text("a file")
    with pytest.raises(RecipeError, match="needs a directory"):
        run("pull", "org/name", "there", "--force")
    assert not (here / "there" / "b.yaml").exists()
    (here / "there" / "sub").unlink()
    (here / "secret").write_text("old")
    (here / "there" / "b.yaml").symlink_to(here / "secret")
    with pytest.raises(RecipeError, match="is there already"):
        run("pull", "org/name", "there")
    run("pull", "org/name", "there", "--force")
    assert (here / "secret").read_text() == "old", "the link is replaced, not followed"
    assert (here / "there" / "b.yaml").read_text() == "new"
    for files in ({"A.yaml": b"", "a.yaml": b""}, {"a.md": b"", "A.MD/b.yaml": b""}):
        hub.repo("org/twice").commit(files)
        with pytest.raises(RecipeError, match="upper and lower case"):
            pull(resolve(parse_name("org/twice")), here / "twice")


def test_too_much_and_nothing(hub: FakeHub, here: Path) -> None:
    hub.repo("org/many").commit({f"{number}.yaml": b"" for number in range(201)})
    hub.repo("org/none").commit({"model.bin": b""})
    for name in ("org/many", "org/none"):
        with pytest.raises(RecipeError, match="1 to 200"):
            run("pull", name)
    repo = hub.repo("org/large")
    repo.commit({"a.yaml": b"a", "log.jsonl": b"x"})
    repo.claims["log.jsonl"] = 10**12
    with pytest.raises(RecipeError, match=r"1,000,000,000,001 bytes"):
        run("pull", "org/large")
    repo.claims["log.jsonl"] = 20 * 1024 * 1024
    with pytest.raises(HubError, match=r"20,971,520 bytes"):
        run("pull", "org/large")
    assert not Path("large").exists()
    assert not hub.asked("/resolve/.*log")
