"""Names on the Hub: ``hf://org/name@revision/path``, and names of files that are safe on every system."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from irnet_convert.errors import HubError

MAX_NAME = 400  # characters of a whole name

RepoType = Literal["model", "dataset"]

# A revision becomes the name of a file in huggingface_hub's cache.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# ASCII letters and digits only: nothing that looks like something else, no separator, no hidden file.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*")
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: with any extension, in any case.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))]
)

_FORMS = "org/name, org/name@REVISION or hf://org/name@REVISION/FILE (hf://datasets/... for a dataset repo)"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A repository on the Hub, perhaps a revision, perhaps a file; ``str()`` gives the ``hf://`` form.

    Args:
        repo_id: ``org/name``.
        revision: branch, tag or commit; None is the default branch.
        path: of a file in the repository, with ``/``; None leaves the choice to the caller.
        repo_type: None tries a model repository, then a dataset repository.
    """

    repo_id: str
    revision: str | None = None
    path: str | None = None
    repo_type: RepoType | None = None

    def __str__(self) -> str:
        kind = "datasets/" if self.repo_type == "dataset" else ""
        revision = f"@{self.revision.replace('/', '%2F')}" if self.revision is not None else ""
        return f"hf://{kind}{self.repo_id}{revision}" + (f"/{self.path}" if self.path is not None else "")

    @property
    def pinned(self) -> bool:
        """Whether the revision is a whole commit hash, which names one content for ever."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def file(self, path: str) -> HubName:
        """The same repository and revision with another file.

        Raises:
            HubError: ``path`` is no safe file name.
        """
        return replace(self, path=check_file_name(path))


def parse_name(text: str) -> HubName:
    """What a name on the Hub means.

    Args:
        text: ``org/name``, ``org/name@revision``, or ``hf://[datasets/]org/name[@revision][/path]``; a ``/``
            in a revision is written ``%2F``.

    Raises:
        HubError: it is none of these, or holds characters that have no place in one.
    """
    from huggingface_hub import parse_hf_uri  # slow to import, and bundled names need none of it
    from huggingface_hub.errors import HfUriError

    if (
        not isinstance(text, str)
        or not 0 < len(text) <= MAX_NAME
        or not text.isascii()
        or not text.isprintable()
    ):
        raise _no_name(text, "a name holds printable ASCII characters, 400 at most")
    if "://" not in text and text.partition("@")[0].count("/") != 1:
        raise _no_name(text, "without hf:// there is exactly one slash before the revision")
    whole = text if "://" in text else f"hf://{text}"
    if not whole.startswith("hf://"):
        raise _no_name(text, "the only scheme is hf://")
    try:
        uri = parse_hf_uri(whole)
    except (HfUriError, ValueError) as error:
        raise _no_name(text, getattr(error, "msg", str(error))) from error
    if uri.type not in ("model", "dataset"):
        raise _no_name(text, f"it is a {uri.type}; recipes and models lie in model or dataset repositories")
    if uri.revision is not None:
        check_revision(uri.revision)
    return HubName(
        repo_id=uri.id,
        revision=uri.revision,
        path=check_file_name(uri.path_in_repo) if uri.path_in_repo else None,
        repo_type="dataset"
        if uri.type == "dataset"
        else "model"
        if whole.startswith("hf://models/")
        else None,
    )


def is_on_hub(dataset: str) -> bool:
    """Whether a data set's name is one on the Hub, and no directory, path or built-in data."""
    return "/" in dataset and not dataset.startswith((".", "/", "~", "builtin/")) and "\\" not in dataset


def check_revision(revision: str) -> str:
    """``revision``, if it can be a branch, a tag or a commit and is safe as a file's name.

    Raises:
        HubError: it is not.
    """
    parts = revision.split("/")
    if len(revision) > 200 or not _REVISION.fullmatch(revision) or any(_odd_part(part) for part in parts):
        raise HubError(
            f"the revision {revision[:MAX_NAME]!r}",
            expected="a branch, a tag or a commit: letters, digits, '.', '_', '+', '-', parts joined by '/'",
            mend="copy it from the repository's page on the Hub",
        )
    return revision


def check_file_name(name: str) -> str:
    """``name``, if it is a relative path that means the same file on POSIX and on Windows, inside its folder.

    Refused are absolute paths, ``..``, backslashes, drive letters and streams, device names (``CON``,
    ``nul.txt``), parts that begin with a dot or end in one, spaces, control characters and whatever is not
    ASCII, and paths too long for some system.

    Raises:
        HubError: it is not.
    """
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 200
        or len(parts := name.split("/")) > 8
        or any(not _PART.fullmatch(part) or _odd_part(part) for part in parts)
    ):
        raise HubError(
            f"the file name {name[:MAX_NAME] if isinstance(name, str) else name!r}".encode(
                "ascii", "backslashreplace"
            ).decode(),
            expected="a relative path of letters, digits and _.+=@-, safe on every system",
            mend="rename the file in its repository",
        )
    return name


def _odd_part(part: str) -> bool:
    """Whether Windows would take the part for a device, or for a name without its end."""
    return part.endswith(".") or part.partition(".")[0].lower() in _DEVICES


def _no_name(text: object, problem: str) -> HubError:
    shown = repr(text[:MAX_NAME] if isinstance(text, str) else text)
    return HubError(
        f"{shown} is no name on the Hugging Face Hub: {problem}",
        expected=_FORMS,
        mend="copy org/name from the repository's page",
    )
