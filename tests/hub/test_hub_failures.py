"""Every way in which a Hub on loopback can fail, and what is said of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from fake_hub import MEMBER, TOKEN, FakeHub
from hub_client import FILE, get

from irnet_convert.errors import HubError
from irnet_convert.hub import check_tag, fetch, parse_name, publish, resolve, upload


def test_what_is_missing_is_named(hub: FakeHub) -> None:
    hub.repo("org/name").commit({"recipe.yaml": FILE})
    with pytest.raises(HubError) as caught:
        resolve(parse_name("org/nmae"))
    assert "hf://org/nmae: the Hub answered 401" in caught.value.given
    assert "no such repository, or it is private" in caught.value.given
    assert "hf auth login" in caught.value.mend
    with pytest.raises(HubError, match=r"hf://org/name@v9: the Hub answered 404.*no such revision"):
        resolve(parse_name("org/name@v9"))
    with pytest.raises(
        HubError, match=r"(?s)no file hf://org/name@[0-9a-f]{40}/recip.yaml.*did you mean 'recipe.y"
    ):
        get("org/name", "recip.yaml")
    with pytest.raises(HubError, match=r"has 500 bytes\n  expected: at most 400"):
        fetch(resolve(parse_name("org/name")), "recipe.yaml", max_bytes=400)
    assert not hub.asked("HEAD")


def test_private_and_gated_repositories(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repo("org/secret", private=True).commit({"recipe.yaml": FILE})
    hub.repo("org/gated", gated=True).commit({"recipe.yaml": FILE})
    hub.repo("org/closed", gated_info=True).commit({"recipe.yaml": FILE})
    with pytest.raises(HubError, match="is gated"):
        resolve(parse_name("org/closed"))
    assert not hub.asked("datasets"), "it is there: nothing else is looked for"
    with pytest.raises(HubError, match="no such repository, or it is private"):
        get("org/secret")
    for status, token in ((401, None), (403, TOKEN)):
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=rf"(?s)answered {status}.*is gated.*accept its terms"):
            get("org/gated")
    assert get("org/secret").read_bytes() == FILE
    monkeypatch.setenv("HF_TOKEN", MEMBER)
    assert get("org/gated").read_bytes() == FILE
    monkeypatch.setenv("HF_TOKEN", "hf_forged")
    with pytest.raises(HubError, match=r"(?s)answered 401.*your token does not allow it.*hf auth login"):
        resolve(parse_name("org/secret"))


def test_the_token_file_of_hf_auth_login_is_used(hub: FakeHub, tmp_path: Path) -> None:
    hub.repo("org/secret", private=True).commit({"recipe.yaml": FILE})
    (tmp_path / "hf").mkdir(exist_ok=True)
    (tmp_path / "hf" / "token").write_text(TOKEN)
    assert get("org/secret").read_bytes() == FILE


@pytest.mark.parametrize("kind", ["500", "503", "429", "refuse", "drop", "reset"])
@pytest.mark.parametrize("where", ["GET /api/", "HEAD /org", "GET /org"])
def test_a_failure_that_passes_is_outlasted(hub: FakeHub, kind: str, where: str) -> None:
    hub.repo("org/name").commit({"recipe.yaml": FILE})
    hub.fails(kind, where)
    assert get("org/name").read_bytes() == FILE


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        ("500", "GET /api/", "answered 500.*also when asked again"),
        ("503", "HEAD /org", "answered 503.*also when asked again"),
        ("500", "GET /org", "answered 500.*also when asked again"),
        ("refuse", "GET /api/", "the connection broke, also when tried again"),
        ("refuse", "HEAD /org", "the connection broke, also when tried again"),
        ("reset", "GET /org", "the connection broke, also when tried again"),
        ("drop", "GET /api/", "the connection broke"),
        ("429", "GET /api/", "too many requests"),
        ("html", "GET /api/", "no answer of the Hub"),
        ("html", "HEAD /org", "no answer of the Hub"),
        ("lie", "GET /org", "should be of size"),
    ],
)
def test_a_failure_that_stays_is_told(hub: FakeHub, kind: str, where: str, message: str) -> None:
    hub.repo("org/name").commit({"recipe.yaml": FILE})
    hub.fails(kind, where, None)
    with pytest.raises(HubError, match=f"(?s)hf://org/name.*{message}"):
        get("org/name")
    assert not hub.asked("datasets"), "nobody said that there is no such model"
    hub.faults.clear()
    assert get("org/name").read_bytes() == FILE, "nothing broken is left in the cache"


def test_a_download_that_breaks_in_the_middle_goes_on_there(hub: FakeHub) -> None:
    content = os.urandom(25 << 20)  # the client writes what it has in pieces of 10 MiB
    hub.repo("org/name", lfs={"model.safetensors"}).commit({"model.safetensors": content})
    hub.fails("drop", "GET /cdn/")
    path = fetch(resolve(parse_name("org/name")), "model.safetensors", max_bytes=1 << 30)
    assert path.read_bytes() == content
    assert hub.ranges == [None, "bytes=10485760-"]


def test_a_server_that_says_nothing(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.repo("org/name").commit({"recipe.yaml": FILE})
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    hub.fails("slow", "GET /api/", None)
    with pytest.raises(HubError, match=r"the connection broke, also when tried again \(ReadTimeout"):
        resolve(parse_name("org/name"))


@pytest.mark.parametrize(
    "where",
    ["GET .*/refs", "POST /api/repos/create", "POST .*/preupload/", "POST .*/batch", "PUT /lfs/",
     "POST .*/commit/"],
)  # fmt: skip
def test_a_server_that_falls_silent_while_asked_for_more(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from huggingface_hub import constants, get_session

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repo("org/name").commit({"recipe.yaml": FILE}, tag="v1")
    found = resolve(parse_name("org/name@v1"))
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.05)
    monkeypatch.setattr(publish, "SILENCE", 0.05)
    hub.fails("silence", where, None)
    before = get_session().timeout

    def ask() -> None:
        if "refs" in where:
            check_tag(found)
        else:
            upload("org/name", {"model.safetensors": FILE}, message="No")

    with pytest.raises(HubError, match=r"the connection broke.*\(ReadTimeout"):
        ask()
    assert get_session().timeout == before, "other users of the client have their own limits"
    assert hub.asked(where)


def test_no_server_at_all(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    hub.repo("org/name").commit({"recipe.yaml": FILE})
    get("org/name")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"(?s)cannot be reached.*--offline uses what was fetched before"):
        resolve(parse_name("org/name"))  # never the cache in silence


def test_a_disk_that_is_full_and_one_that_is_read_only(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import file_download

    hub.repo("org/name").commit({"recipe.yaml": FILE})
    found = resolve(parse_name("org/name"))
    for number, message in ((errno.ENOSPC, "is full"), (errno.EROFS, "cannot be written to")):
        with monkeypatch.context() as patch:

            def fail(*_: object, number: int = number, **__: object) -> None:
                raise OSError(number, os.strerror(number))

            patch.setattr(file_download, "_chmod_and_move", fail)
            with pytest.raises(HubError, match=f"(?s){message}.*HF_HOME"):
                fetch(found, "recipe.yaml", max_bytes=1000)
    assert fetch(found, "recipe.yaml", max_bytes=1000).read_bytes() == FILE


def test_a_file_that_was_damaged_in_the_cache(hub: FakeHub) -> None:
    hub.repo("org/name").commit({"recipe.yaml": FILE})
    path = get("org/name")
    path.resolve().write_bytes(FILE[:-1])
    with pytest.raises(HubError, match=r"(?s)has 499 bytes in the cache.*the 500 that the Hub lists"):
        get("org/name")
