"""Files that last: on the disk before they have their name, whole or absent after a crash."""

from __future__ import annotations

import os
from pathlib import Path

#: What a name begins with as long as its content is not whole.
UNFINISHED = ".unfinished-"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that its name never holds half of it, also after a power failure.

    Args:
        path: where to; an existing file is replaced once the new one is whole and on the disk.
        data: its whole content.

    Raises:
        OSError: the disk refused it; an existing file is untouched and nothing else is left.
    """
    aside = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        write_synced(aside, data)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until its content is on the disk; its name needs :func:`sync_directory`.

    Raises:
        OSError: the disk refused it; the name may hold a part.
    """
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append_synced(path: Path, data: bytes) -> None:
    """Append to a file and wait until it is on the disk.

    Raises:
        OSError: the disk refused it; a part may have been appended.
    """
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Wait until a file that something else wrote is on the disk.

    Raises:
        OSError: the disk refused it.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk: made, renamed or removed ones.

    Raises:
        OSError: the disk refused it.
    """
    # A rename lasts only once its directory is synced; Windows neither needs nor allows it.
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
