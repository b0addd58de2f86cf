"""Files → one commit of a repository on the Hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from irnet_convert.errors import HubError
from irnet_convert.hub.client import is_offline
from irnet_convert.hub.names import RepoType, check_file_name, parse_name

#: Seconds without a byte after which an upload is given up: the Hub takes its time over a large commit.
SILENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """A commit that was made.

    Args:
        repo_id: ``org/name``.
        commit: 40 hexadecimal digits; where nothing had changed, the commit that was there.
        url: of the commit, for people.
    """

    repo_id: str
    commit: str
    url: str


def upload(
    repo_id: str,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    private: bool | None = None,
    create: bool = True,
    repo_type: RepoType = "model",
) -> Uploaded:
    """Upload files as one commit: all of them or none.

    Args:
        repo_id: ``org/name``, without a revision.
        files: path in the repository → a local file, or the content itself.
        message: the commit's first line.
        private: of a repository that is made; None is the account's default.
        create: make the repository where it does not exist.
        repo_type: ``"model"`` or ``"dataset"``.

    Raises:
        HubError: a name is malformed, a file cannot be read, not allowed, unreachable, ...
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    from irnet_convert.hub.problems import told
    from irnet_convert.hub.waiting import answered_within

    name = parse_name(repo_id)
    if name.path is not None or name.revision is not None:
        raise HubError(
            f"{repo_id!r} as a place to upload to", expected="org/name alone", mend=f"name {name.repo_id}"
        )
    if name.repo_type not in (None, repo_type):
        raise HubError(
            f"{repo_id!r} as a {repo_type} repository", expected="one kind of repository",
            mend=f"name {name.repo_id}, and say --dataset where there is such an option",
        )  # fmt: skip
    for path, content in files.items():
        check_file_name(path)
        _check_readable(content)
    asked = f"the upload to {name}"
    if is_offline():
        raise HubError(
            f"{asked}: HF_HUB_OFFLINE is set", expected="a connection to the Hub", mend="unset HF_HUB_OFFLINE"
        )
    with told(asked, again=False), answered_within(SILENCE):
        api = HfApi()
        if create:
            api.create_repo(name.repo_id, repo_type=repo_type, private=private, exist_ok=True)
        commit = api.create_commit(
            name.repo_id,
            [CommitOperationAdd(path, content) for path, content in sorted(files.items())],
            commit_message=message,
            repo_type=repo_type,
        )
        return Uploaded(repo_id=name.repo_id, commit=commit.oid, url=commit.commit_url)


def _check_readable(content: Path | bytes) -> None:
    if isinstance(content, Path) and not (content.is_file() and os.access(content, os.R_OK)):
        raise HubError(
            f"{content} cannot be read", expected="a readable file to upload", mend="check its path"
        )
