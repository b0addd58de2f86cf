"""A directory that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from irnet_convert.durable import UNFINISHED, sync_directory
from irnet_convert.errors import PretrainedError


@contextmanager
def written_whole(target: Path, allowed: Iterable[str] = ()) -> Iterator[Path]:
    """A new directory to write into, which takes the name ``target`` when the block ends without an error.

    Args:
        target: an existing directory is replaced at the end, and only then.
        allowed: names of files that may be lost with an existing directory.

    Raises:
        PretrainedError: the disk refused it, or the existing directory holds a file that is not ``allowed``;
            nothing is left of what was written, and an existing directory stays as it was.
    """
    target = Path(os.path.abspath(target))  # the name "." has no parent to make something beside it
    check_names(target, allowed)
    aside = target.with_name(f"{UNFINISHED}{os.getpid()}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        yield aside
        sync_directory(aside)
        _put_in_place(aside, target)
    except OSError as error:
        raise PretrainedError(
            f"{target} could not be written ({error.strerror or error})",
            expected="room and permission to write it", mend="make room, or choose another place",
        ) from error  # fmt: skip
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_names(target: Path, allowed: Iterable[str]) -> None:
    """Refuse to replace a directory with a file in it that somebody else put there.

    Raises:
        PretrainedError: with the first such name.
    """
    if foreign := sorted({path.name for path in target.iterdir()} - set(allowed)) if target.is_dir() else []:
        raise _refused(
            f"{target} holds {foreign[0]!r}, which save_pretrained did not write",
            "a new or empty directory, or one that holds a saved model alone",
        )


def _put_in_place(aside: Path, target: Path) -> None:
    """Rename; what stood there before goes only once the new one has its name."""
    old = aside.with_name(f"{UNFINISHED}old-{os.getpid()}-{target.name}")
    if target.is_dir():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        aside.rename(target)
    except OSError:
        with suppress(OSError):
            old.rename(target)
        raise
    sync_directory(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _refused(what: str, expected: str) -> PretrainedError:
    return PretrainedError(what, expected=expected, mend="choose another place, or empty it first")
