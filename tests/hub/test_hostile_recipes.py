"""Recipes from somebody who means harm: each ends in an error of the project's own and touches nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_hub import FakeHub
from hostile_recipes import BASE, FILES, NAMES, REPOS, START, write_all
from hub_client import environment
from hub_server import running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watched import foreign

from irnet_convert.errors import IrnetError
from irnet_convert.recipe import Recipe

ALL = [*FILES, *REPOS, *NAMES]
SECONDS, BYTES = 2.0, 200e6


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """All cases in one process, which imports everything and takes good recipes first."""
    folder, here = tmp_path_factory.mktemp("evil"), tmp_path_factory.mktemp("here")
    home, temporary = tmp_path_factory.mktemp("home") / "hf", tmp_path_factory.mktemp("temporary")
    (here / "good.yaml").write_text(START)
    (here / "secret.yaml").write_text(START)
    with running(FakeHub()) as hub:
        cases = write_all(folder, hub)
        orders = {"good": ["good.yaml", "org/good"], "cases": cases}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", str(Path(__file__).with_name("recipe_child.py"))],
            input=json.dumps(orders),
            capture_output=True,
            text=True,
            cwd=here,
            timeout=500,
            env={
                **os.environ,
                **environment(hub.endpoint, home),
                "OMP_NUM_THREADS": "1",
                "PYTHONDONTWRITEBYTECODE": "1",  # of modules that no earlier test imported
                "TMPDIR": str(temporary),
                "TORCHINDUCTOR_CACHE_DIR": str(home.parent),  # made when torch is imported
                "PYTHONPATH": str(Path(__file__).parents[1]),
            },
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert sorted(path.name for path in here.iterdir()) == ["good.yaml", "secret.yaml"]
        assert list(temporary.iterdir()) == []
        port = int(hub.endpoint.rpartition(":")[2])
        yield {"home": str(home), "port": port, **json.loads(done.stdout)}


@pytest.mark.parametrize("case", ALL)
def test_each_is_refused_in_the_projects_own_words(outcomes: dict[str, Any], case: str) -> None:
    one = outcomes[case]
    assert one["outcome"] == "refused", one
    assert "expected: " in one["said"]
    assert "to mend it: " in one["said"]
    assert len(one["said"]) < 6000
    assert all(line.isprintable() for line in one["said"].splitlines())
    assert one["seconds"] < SECONDS, one
    assert one["bytes"] < BYTES, one
    asks = case in REPOS or "extends" in case
    assert foreign(one["events"], cache=outcomes["home"], port=outcomes["port"] if asks else None) == []


def test_what_repositories_do_was_watched(outcomes: dict[str, Any]) -> None:
    seen = [event for case in REPOS for event in outcomes[case]["events"]]
    assert any(name == "open" and path.startswith(outcomes["home"]) for name, path, *_ in seen)


def test_there_are_enough_of_them() -> None:
    assert len(ALL) == len(set(ALL)) >= 60


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["same", "irnet", "hf://a/b@v1", "../x.yaml", "x.yaml", "1e3", "~"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
KEYS = st.sampled_from(sorted({*Recipe.model_fields, "extends"}))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, JUNK, max_size=4))
def test_any_values_are_a_recipe_or_the_project_s_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**BASE, **keys}))
    with suppress(IrnetError):
        recipe = Recipe.load(path, offline=True)
        assert Recipe.from_dict(recipe.to_dict()) == recipe


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_a_recipe_with_a_few_bytes_changed_is_one_or_the_project_s_error(data: st.DataObject) -> None:
    text = bytearray(yaml.safe_dump(BASE).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    from irnet_convert.plain_yaml import load_yaml

    with suppress(IrnetError):
        Recipe.from_dict(load_yaml(bytes(text), source="a recipe"))
