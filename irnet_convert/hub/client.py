"""A name → a commit, once; files of that commit → paths in huggingface_hub's cache."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irnet_convert.errors import HubError, nearest
from irnet_convert.hub.names import HubName, RepoType

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A repository at one commit.

    Args:
        repo_id: ``org/name``.
        repo_type: ``"model"`` or ``"dataset"``.
        revision: that was asked for; None was the default branch.
        commit: 40 hexadecimal digits.
        files: every file of that commit → its size in bytes; offline, those that the cache holds. The names
            are as the repository has them: only :func:`fetch` and ``check_file_name`` make them safe.
        offline: whether the cache alone was asked.
    """

    repo_id: str
    repo_type: RepoType
    revision: str | None
    commit: str
    files: Mapping[str, int] = field(repr=False)
    offline: bool = False

    def at(self, path: str | None = None) -> HubName:
        """The name, pinned to the commit, of the repository or of a file in it; ``str()`` of it is a name."""
        name = HubName(repo_id=self.repo_id, revision=self.commit, repo_type=self.repo_type)
        return name if path is None else name.file(path)


def is_offline() -> bool:
    """Whether huggingface_hub has been told to use the cache alone."""
    from huggingface_hub import constants

    return constants.is_offline_mode()


def go_offline() -> None:
    """Use the cache alone from here on, as ``HF_HUB_OFFLINE=1`` would, in this process and its children."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"
    constants.HF_HUB_OFFLINE = True


def resolve(name: HubName, *, offline: bool | None = None) -> Resolved:
    """Find out which commit a name means, and which files it has.

    A broken connection and a server's error are tried three times.

    Args:
        name: its ``path`` plays no part.
        offline: ask the cache alone; None does so where ``HF_HUB_OFFLINE`` is set.

    Raises:
        HubError: missing, private, gated, not in the cache, unreachable, ...
    """
    offline = is_offline() if offline is None else offline or is_offline()
    types: tuple[RepoType, ...] = (name.repo_type,) if name.repo_type else ("model", "dataset")
    first: HubError | None = None
    for repo_type in types:
        try:
            return _resolve(name, repo_type, offline)
        except HubError as error:
            # Only "there is none of this type" goes on to the next one, and the first is what is told.
            if not _none_of_this_type(error):
                raise
            first = first or error
    assert first is not None
    raise first


def fetch(resolved: Resolved, filename: str, *, max_bytes: int) -> Path:
    """The path in the cache of one file, downloaded where it is not there yet.

    Args:
        resolved: the commit.
        filename: with ``/``; checked as a name on POSIX and on Windows.
        max_bytes: refuse a larger file before anything is downloaded.

    Raises:
        HubError: no such file, too large, not in the cache, unreachable, no room, ...
    """
    from huggingface_hub import hf_hub_download

    from irnet_convert.hub.problems import patiently, told

    where = resolved.at(filename)
    size = resolved.files.get(filename)
    if size is None:
        raise _no_such_file(resolved, where)
    if size > max_bytes:
        raise HubError(
            f"the file {where} has {size:,} bytes",
            expected=f"at most {max_bytes:,}",
            mend="look at the repository's page: is it the file you mean?",
        )
    with told(f"the file {where}"):
        path = patiently(
            lambda: Path(
                hf_hub_download(
                    resolved.repo_id,
                    filename,
                    repo_type=resolved.repo_type,
                    revision=resolved.commit,
                    local_files_only=resolved.offline,
                )
            )
        )
        found = path.stat().st_size
    if found != size:
        raise HubError(
            f"the file {where} has {found:,} bytes in the cache ({path})",
            expected=f"the {size:,} that the Hub lists",
            mend="delete it there and fetch it again",
        )
    return path


def check_tag(resolved: Resolved) -> None:
    """Refuse a revision that is not a tag (a branch moves). Offline there is nobody to ask: it passes.

    Raises:
        HubError: it is no tag of the repository, or the Hub cannot be asked.
    """
    from huggingface_hub import HfApi, constants

    from irnet_convert.hub.problems import patiently, told
    from irnet_convert.hub.waiting import answered_within

    if resolved.offline:
        return
    with told(f"the tags of {resolved.at()}"), answered_within(constants.HF_HUB_ETAG_TIMEOUT):
        refs = patiently(lambda: HfApi().list_repo_refs(resolved.repo_id, repo_type=resolved.repo_type))
        tags = [tag.name for tag in refs.tags]
    if resolved.revision not in tags:
        raise HubError(
            f"the revision {resolved.revision!r} of {resolved.repo_id} is no tag",
            expected="a tag or a whole commit, which stay what they are",
            mend=f"pin the commit that it is now: {resolved.at()}",
        )


def _resolve(name: HubName, repo_type: RepoType, offline: bool) -> Resolved:
    from irnet_convert.hub.problems import patiently, told

    api = _api()
    asked = HubName(repo_id=name.repo_id, revision=name.revision, repo_type=repo_type)
    with told(f"the repository {asked}"):
        where = {"repo_id": name.repo_id, "repo_type": repo_type}
        # Keeps branch → commit in the cache, for offline; it falls back on the cache where the Hub cannot be
        # reached, and then the next call says so.
        found = patiently(
            lambda: api.resolve_revision(**where, revision=name.revision, local_files_only=offline)
        )
        commit = found.resolved
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise ValueError(f"the commit {str(commit)[:60]!r}")
        if offline:
            files = _cached_files(name.repo_id, repo_type, commit)
        else:
            info = patiently(lambda: api.repo_info(**where, revision=commit, files_metadata=True))
            files = {each.rfilename: int(each.size) for each in info.siblings or ()}
    return Resolved(
        repo_id=name.repo_id,
        repo_type=repo_type,
        revision=name.revision,
        commit=commit,
        files=files,
        offline=offline,
    )


def _api() -> Any:
    """huggingface_hub's client, which waits for ever for a repository's info unless it is told not to."""
    from huggingface_hub import HfApi, constants

    class Api(HfApi):
        def repo_info(self, *args: Any, timeout: float | None = None, **keys: Any) -> Any:
            return super().repo_info(*args, timeout=timeout or constants.HF_HUB_ETAG_TIMEOUT, **keys)

    return Api()


def _cached_files(repo_id: str, repo_type: RepoType, commit: str) -> dict[str, int]:
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type=repo_type))
    snapshot = folder / "snapshots" / commit
    if not snapshot.is_dir():
        raise LocalEntryNotFoundError(f"no snapshot of {commit}")
    return {
        path.relative_to(snapshot).as_posix(): path.stat().st_size
        for path in sorted(snapshot.rglob("*"))
        if path.is_file()
    }


def _none_of_this_type(error: HubError) -> bool:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionResolutionError,
    )

    cause = error.__cause__
    if isinstance(cause, LocalEntryNotFoundError | RevisionResolutionError):
        return cause.__cause__ is None  # otherwise the Hub was asked, and could not be reached
    return isinstance(cause, RepositoryNotFoundError) and not isinstance(cause, GatedRepoError)


def _no_such_file(resolved: Resolved, where: HubName) -> HubError:
    known = [name for name in resolved.files if name.isascii() and name.isprintable()]
    if resolved.offline:
        return HubError(
            f"the file {where} is not in the cache, and the Hub must not be asked (offline)",
            expected="a file that was fetched before"
            + (f"; {nearest(where.path or '', known)}" if known else ""),
            mend="fetch it once without --offline and HF_HUB_OFFLINE",
        )
    return HubError(
        f"there is no file {where}",
        expected="a file of that commit"
        + (f"; {nearest(where.path or '', known)}" if known else ": it has none"),
        mend="name another with hf://ORG/NAME/FILE",
    )
