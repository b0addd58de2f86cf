"""Saved models and packed files from somebody who means harm: each ends in an error of the project's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hostile_models import CASES, PACKED, SHARDS, good_models, spoiled
from hostile_packed import PACKED_CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from irnet_convert.errors import IrnetError
from irnet_convert.pretrained import from_pretrained
from irnet_convert.pretrained.config import parse_config

ALL = [*CASES, *PACKED_CASES]
SECONDS, BYTES = 2.0, 200e6


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return good_models(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def outcomes(good: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All cases in one process, which imports everything and loads the good ones first."""
    folder, elsewhere = tmp_path_factory.mktemp("spoiled"), tmp_path_factory.mktemp("cwd")
    for case in CASES:
        spoiled(good["shards" if case in SHARDS else "whole"], case, folder)
    for case, spoil in PACKED_CASES.items():
        path = folder / f"{case}.safetensors"
        path.write_bytes((good["whole"] / PACKED).read_bytes())
        spoil(path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", Path(__file__).with_name("hostile_child.py"), folder,
         *good.values(), good["whole"] / PACKED],
        capture_output=True, text=True, cwd=elsewhere, timeout=500,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
             "HF_HOME": str(elsewhere / "hf"),
             "HF_ENDPOINT": "http://127.0.0.1:9", "TMPDIR": str(elsewhere),
             "TORCHINDUCTOR_CACHE_DIR": str(folder.parent),  # made when torch is imported
             "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(elsewhere.iterdir()) == []
    return {one["case"]: one for one in json.loads(done.stdout)}


@pytest.mark.parametrize("case", ALL)
def test_each_is_refused_in_the_projects_own_words(outcomes: dict[str, dict[str, Any]], case: str) -> None:
    one = outcomes[case]
    assert one["outcome"] == "refused", one
    assert "expected: " in one["said"]
    assert "to mend it: " in one["said"]
    assert len(one["said"]) < 6000
    assert one["events"] == []
    assert one["seconds"] < SECONDS, one
    assert one["bytes"] < BYTES, one


def test_the_corpus_is_large_and_each_case_is_an_idea_of_its_own(outcomes: dict[str, dict[str, Any]]) -> None:
    assert len(ALL) == len(outcomes) >= 60
    told = [one["said"].split(" is refused: ")[-1].split("\n")[0] for one in outcomes.values()]
    assert len(set(told)) > 0.7 * len(told)


# -- configs that nobody has thought of


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**9, 65536, -1, "timm/resnet18", "../x", "os.system", "float64"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every path into plain data."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_config_with_anything_in_place_of_anything(
    good: dict[str, Path], tmp_path: Path, data: st.DataObject
) -> None:
    config = json.loads((good["whole"] / "config.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from(places(config)))
        if not place:
            continue
        holder = config
        for part in place[:-1]:
            holder = holder[part]
        if data.draw(st.booleans()):
            holder[place[-1]] = data.draw(values)
        else:
            del holder[place[-1]]
    for name in ("model.safetensors", "packed.safetensors"):
        if not (tmp_path / name).exists():
            (tmp_path / name).hardlink_to(good["whole"] / name)
    (tmp_path / "config.json").write_text(json.dumps(config))
    try:
        model = from_pretrained(tmp_path)
    except IrnetError:
        return
    assert type(model).__name__ == "ResNet"  # what does not matter to the network may be anything


@settings(max_examples=200, deadline=None)
@given(text=st.binary(max_size=200) | values.map(lambda v: json.dumps(v).encode()))
def test_a_config_that_is_any_text(text: bytes) -> None:
    with pytest.raises(IrnetError):
        parse_config(text, where="config.json")
