"""The client against a Hub on loopback: commits, files, and two processes at once."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub
from hub_client import FILE, environment, get

from irnet_convert.errors import HubError
from irnet_convert.hub import check_tag, fetch, parse_name, resolve, upload


def test_a_revision_is_a_commit_once_and_its_files_stay(hub: FakeHub) -> None:
    repo = hub.repo("org/name")
    first = repo.commit({"recipe.yaml": b"first", "sub/b.yaml": b"b"}, tag="v1")
    found = resolve(parse_name("org/name"))
    second = repo.commit({"recipe.yaml": b"second"})
    assert (found.commit, found.repo_type, found.files) == (
        first,
        "model",
        {"recipe.yaml": 5, "sub/b.yaml": 1},
    )
    assert fetch(found, "recipe.yaml", max_bytes=10).read_bytes() == b"first"
    assert fetch(found, "sub/b.yaml", max_bytes=10).read_bytes() == b"b"
    assert resolve(parse_name("org/name")).commit == second
    assert resolve(parse_name("org/name@v1")).commit == first
    assert resolve(parse_name(f"org/name@{first}")).commit == first
    assert str(found.at("recipe.yaml")) == f"hf://org/name@{first}/recipe.yaml"
    assert parse_name(str(found.at("recipe.yaml"))).revision == first
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_dataset_repository_is_tried_where_there_is_no_model_repository(hub: FakeHub) -> None:
    hub.repo("org/data", "dataset").commit({"recipe.yaml": FILE})
    found = resolve(parse_name("org/data"))
    assert found.repo_type == "dataset"
    assert str(found.at()).startswith("hf://datasets/org/data@")
    assert fetch(found, "recipe.yaml", max_bytes=1000).read_bytes() == FILE
    assert resolve(parse_name("hf://datasets/org/data")) == found
    with pytest.raises(HubError, match="no such repository"):
        resolve(parse_name("hf://models/org/data"))


def test_a_large_file_comes_from_another_origin_without_the_token(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repo("org/name", private=True, lfs={"model.safetensors"}).commit({"model.safetensors": FILE})
    assert get("org/name", "model.safetensors").read_bytes() == FILE
    assert {header for _, _, header in hub.asked("resolve")} == {f"Bearer {TOKEN}"}
    assert [header for _, _, header in hub.asked("/cdn/")] == [None]


def test_offline_is_what_the_cache_holds(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = hub.repo("org/name")
    first = repo.commit({"recipe.yaml": FILE, "other.yaml": FILE}, tag="v1")
    online = get("org/name")
    repo.commit({"recipe.yaml": b"newer"})
    hub.requests.clear()
    found = resolve(parse_name("org/name"), offline=True)
    assert (found.commit, dict(found.files)) == (first, {"recipe.yaml": len(FILE)})
    assert fetch(found, "recipe.yaml", max_bytes=1000) == online
    assert get(f"org/name@{first}", offline=True) == online
    with pytest.raises(HubError, match=r"other.yaml is not in the cache.*offline"):
        fetch(found, "other.yaml", max_bytes=1000)
    for unknown in ("org/name@v1", "org/unknown", f"org/name@{'0' * 40}"):
        with pytest.raises(HubError, match=r"(?s)not in the cache, and the Hub must not.*without --offline"):
            resolve(parse_name(unknown), offline=True)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as by HF_HUB_OFFLINE=1
    assert resolve(parse_name("org/name")) == found
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        upload("org/name", {"a.txt": b"a"}, message="no")
    assert hub.requests == []


def test_a_tag_is_told_from_a_branch(hub: FakeHub) -> None:
    repo = hub.repo("org/name")
    repo.commit({"recipe.yaml": FILE}, tag="v1")
    check_tag(resolve(parse_name("org/name@v1")))
    with pytest.raises(HubError, match=r"(?s)'main' of org/name is no tag.*pin the commit.*@[0-9a-f]{40}"):
        check_tag(resolve(parse_name("org/name@main")))


def test_two_processes_download_at_once(hub: FakeHub, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    hub.repo("org/name", lfs={"model.safetensors"}).commit({"model.safetensors": content})
    hub.meet("HEAD .*/resolve/", 2)  # neither is answered before both have come to ask
    code = (
        "from irnet_convert.hub import *; import sys; sys.stdin.read(1);"
        "print(fetch(resolve(parse_name('org/name')), 'model.safetensors', max_bytes=1 << 30))"
    )
    home = tmp_path / "shared"
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env={**os.environ, **environment(hub.endpoint, home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("x")
        child.stdin.flush()
    paths = [child.communicate(timeout=250)[0].strip() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert paths[0] == paths[1]
    assert Path(paths[0]).read_bytes() == content
    assert not list(home.rglob("*.incomplete"))
    hub.requests.clear()
    alone = {**os.environ, **environment(hub.endpoint, home), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=alone, input="x", capture_output=True, text=True
    )
    assert (done.stdout.strip(), hub.requests) == (paths[0], []), done.stderr


def test_names_are_imported_without_the_client() -> None:
    code = "import sys, irnet_convert.recipe.find as f; f.find_recipe('digits'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "huggingface_hub" not in done.stdout.split()
