"""Names on the Hub, and names of files that mean one file inside one folder on every system."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from irnet_convert.errors import HubError, IrnetError
from irnet_convert.hub import HubName, check_file_name, is_on_hub, parse_name
from irnet_convert.recipe.find import means_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("org/name", HubName(repo_id="org/name")),
        ("org/name@v1.0", HubName(repo_id="org/name", revision="v1.0")),
        ("org/name@v1/a.yaml", HubName(repo_id="org/name", revision="v1", path="a.yaml")),
        ("hf://org/name", HubName(repo_id="org/name")),
        (f"hf://org/na.me_x-1@{COMMIT}", HubName(repo_id="org/na.me_x-1", revision=COMMIT)),
        ("hf://org/name/sub/a.yaml", HubName(repo_id="org/name", path="sub/a.yaml")),
        ("hf://org/name@a%2Fb/c", HubName(repo_id="org/name", revision="a/b", path="c")),
        ("hf://org/name@refs/pr/3/c", HubName(repo_id="org/name", revision="refs/pr/3", path="c")),
        ("hf://datasets/org/name@v1", HubName(repo_id="org/name", revision="v1", repo_type="dataset")),
        ("hf://models/org/name", HubName(repo_id="org/name", repo_type="model")),
    ],
)
def test_names(text: str, expected: HubName) -> None:
    name = parse_name(text)
    assert name == expected
    assert parse_name(str(name)).repo_id == expected.repo_id
    assert (parse_name(str(name)).revision, parse_name(str(name)).path) == (expected.revision, expected.path)
    assert name.pinned == (expected.revision == COMMIT)


@pytest.mark.parametrize(
    "text",
    [
        "", "name", "a/b/c", "hf://", "hf://name", "hf://a//b", "hf://spaces/a/b", "hf://buckets/a/b",
        "http://a/b", "https://huggingface.co/a/b", "org/na me", "org/näme", "org/name@", "org/name@..",
        "hf://org/name@..%2F..%2Fx", "hf://org/name@%2Fetc%2Fx", "hf://org/name@a%00b", "hf://org/name@-rf",
        "hf://org/name@a%5Cb", "hf://org/name@CON", "hf://org/name/../x", "hf://org/name//x", "hf://org/name/C:x",
        "hf://org/name/a\\b", "hf://../name", "hf://org/..", "org/" + "a" * 97, "hf://org/name/" + "a/" * 300,
        "org/name\n", "org/name.git", "org/a--b", 3, None,
    ],
)  # fmt: skip
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(HubError):
        parse_name(text)


ODD = [
    "../x", "a/../x", "/x", "a//b", "a/", "./a", "a/.", "~/x", "~", ".", "..", "", "C:/x", "c:x",
    "\\\\server\\x", "a\\b", "a:stream", "CON", "con.txt", "a/NUL", "Aux.yaml", "com1", "COM0.x",
    "LPT9.yaml", "prn.", "a.", "a /b", " a", "a ", "a\tb", "a\nb", "a\u0000b", "\u202egpj.exe", "\uff43on",
    "COM\u00b9", "\u00e9", ".git/config", ".ssh/keys", "a?", "a*", "<a>", "a|b", '"a"', "$a", "%2e%2e",
    "-rf", "a" * 201, "a/" * 9 + "b",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_file_names_that_some_system_would_take_for_something_else(name: str) -> None:
    with pytest.raises(HubError, match="safe on every system"):
        check_file_name(name)


ALPHABET = st.text(st.sampled_from("abcCONcon.0123/\\:~ -_\0\n%\u202e\u00b9é*"), max_size=12)


@settings(deadline=None, max_examples=400)
@given(ALPHABET | st.sampled_from(ODD))
@example("recipe.yaml")
@example("sub/model-00001-of-00002.safetensors")
def test_a_name_that_passes_is_the_same_file_below_its_folder_everywhere(name: str) -> None:
    try:
        checked = check_file_name(name)
    except HubError:
        return
    posix, windows = PurePosixPath(checked), PureWindowsPath(checked)
    assert posix.parts == windows.parts == tuple(checked.split("/"))
    assert not any((posix.is_absolute(), windows.is_absolute(), windows.drive, windows.root))
    assert ".." not in posix.parts
    assert not windows.is_reserved()
    assert all(part == part.strip(" .") for part in posix.parts)
    assert (Path("/folder") / checked).resolve().is_relative_to("/folder")


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=40) | st.from_regex(r"(hf://)?[a-z/@%.2F]{1,20}", fullmatch=True))
def test_any_text_is_a_name_or_the_project_s_error(text: str) -> None:
    with suppress(IrnetError):
        assert parse_name(text).repo_id.count("/") == 1


def test_what_means_a_file_and_what_the_hub() -> None:
    for text in ("org/name", "org/name@v1", "hf://org/name", "hf://org/x.yaml", "org/name@v1/sub/a"):
        assert means_hub(text)
    for text in (
        "digits",
        "./a/b",
        "../b",
        "/a/b",
        "~/b",
        "my/recipe.yaml",
        "my/recipe.yml",
        "a/b/c",
        "a\\b/c",
        "a/",
    ):
        assert not means_hub(text)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("uoft-cs/cifar10", True), ("org/builtin-things", True), ("builtin/digits", False),
        ("/home/me/x", False),
        ("./x", False), ("../x/y", False), ("~/x", False), ("C:\\data/x", False), ("cifar10", False),
    ],
)  # fmt: skip
def test_a_directory_is_no_data_set_of_the_hub(name: str, known: bool) -> None:
    assert is_on_hub(name) == known
