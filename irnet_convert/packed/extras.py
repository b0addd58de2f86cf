"""Packages that only exports and comparisons need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
