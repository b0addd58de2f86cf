"""The client against a Hub on loopback: commits, files, uploads, and every way in which they fail."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hub_client import environment
from hub_server import MEMBER, TOKEN, FakeHub

from irnet_convert.errors import HubError
from irnet_convert.hub import check_tag, fetch, parse_name, publish, resolve, upload

FILE = b"name: one\n" * 50


def get(name: str, file: str = "recipe.yaml", **keys: bool) -> Path:
    return fetch(resolve(parse_name(name), **keys), file, max_bytes=1 << 20)


# --- commits and files ----------------------------------------------------------------------------------


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


# --- what goes wrong ------------------------------------------------------------------------------------


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


# --- uploads --------------------------------------------------------------------------------------------


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


def test_names_are_imported_without_the_client() -> None:
    code = "import sys, irnet_convert.recipe.find as f; f.find_recipe('digits'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "huggingface_hub" not in done.stdout.split()
