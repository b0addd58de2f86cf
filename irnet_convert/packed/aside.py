"""Exports are written into a folder aside and take their names when they are whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from irnet_convert.durable import UNFINISHED, sync_directory, sync_file
from irnet_convert.errors import PackedFileError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A place for a file (and others beside it) that become ``path`` and its neighbours at the end.

    Args:
        path: the name to be. The file of that name takes it last, so that it never names half an export.

    Yields:
        A path of the same file name in a new folder on the same disk.

    Raises:
        PackedFileError: the place cannot be written to. Nothing is left of the attempt.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
            aside = Path(folder) / path.name
            yield aside
            for file in sorted(Path(folder).iterdir(), key=lambda p: p == aside):
                sync_file(file)
                file.replace(path.with_name(file.name))
        sync_directory(path.parent)
    except OSError as error:
        raise PackedFileError(
            f"{path} cannot be written: {error}", expected="a file in an existing, writable directory",
            mend="name another place, or make the directory",
        ) from error  # fmt: skip
