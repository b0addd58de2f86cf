"""Packages that optional extras install, imported where they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from irnet_convert.errors import MissingExtraError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Imports that an extra of this package installs.

    Args:
        extra: its name in pyproject.toml.

    Raises:
        MissingExtraError: a module imported inside is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"the package {error.name} is not installed", expected=f"the extra {extra!r}",
            mend=f"pip install 'irnet-convert[{extra}]'",
        ) from error  # fmt: skip


@cache
def openvino_core() -> Any:
    """The one ``openvino.Core`` of this process.

    One, because its CPU plugin moves the main thread's alternate signal stack to memory of its own and puts
    the former one back when it is destroyed. Two plugins that do not end in the reverse order of their
    beginning leave it in memory that is gone, and the next signal (that of a child process that ended, say)
    kills the process. Seen with openvino 2026.4.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    with needs("openvino"):
        import openvino
    return openvino.Core()
