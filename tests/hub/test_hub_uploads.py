"""Uploads to a Hub on loopback, and how they fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_hub import TOKEN, FakeHub
from hub_client import FILE, get

from irnet_convert.errors import HubError
from irnet_convert.hub import fetch, parse_name, resolve, upload


def test_what_is_uploaded_comes_back(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "w").write_bytes(os.urandom(1000))
    files = {"recipe.yaml": FILE, "model.safetensors": tmp_path / "w", "README.md": b"---\ntags: []\n---\n"}
    done = upload("org/new", files, message="First", private=True)
    assert hub.repos[("model", "org/new")].private
    assert done.url == f"{hub.endpoint}/org/new/commit/{done.commit}"
    found = resolve(parse_name("org/new"))
    assert found.commit == done.commit
    assert set(found.files) == {*files, ".gitattributes"}
    assert fetch(found, "model.safetensors", max_bytes=1000).read_bytes() == (tmp_path / "w").read_bytes()
    again = upload("org/new", {"recipe.yaml": b"other"}, message="Second", create=False)
    assert (
        fetch(resolve(parse_name(f"org/new@{done.commit}")), "recipe.yaml", max_bytes=1000).read_bytes()
        == FILE
    )
    assert get("org/new").read_bytes() == b"other"
    assert upload("org/new", {"recipe.yaml": b"other"}, message="Nothing").commit == again.commit


@pytest.mark.parametrize(
    ("repo_id", "token", "fault", "message"),
    [
        ("org/new", None, None, "answered 401.*hf auth login"),
        ("others/new", TOKEN, None, "answered 403.*rights to create"),
        ("org/new", TOKEN, ("500", "POST .*/commit/"), "answered 500"),
        ("org/new", TOKEN, ("refuse", "POST .*/commit/"), "connection broke"),
        ("org/new", TOKEN, ("503", "POST /api/repos/create"), "answered 503"),
        ("org/new@v1", TOKEN, None, "org/name alone"),
    ],
)
def test_an_upload_that_fails(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch,
    repo_id: str, token: str | None, fault: tuple[str, str] | None, message: str,
) -> None:  # fmt: skip
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if fault:
        hub.fails(*fault, None)
    with pytest.raises(HubError, match=f"(?s){message}"):
        upload(repo_id, {"recipe.yaml": FILE}, message="No")


def test_a_card_that_the_hub_refuses(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    card = b"---\nlicense: unheard-of\n---\n"
    with pytest.raises(HubError, match=r"(?s)Invalid metadata in README.md.*license must be one of"):
        upload("org/new", {"README.md": card}, message="No")
    with pytest.raises(HubError, match="cannot be read"):
        upload("org/new", {"a.txt": Path("nowhere")}, message="No")
