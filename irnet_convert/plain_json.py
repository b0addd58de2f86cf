"""JSON of others, read strictly: what the json module lets pass and RFC 8259 does not, or leaves open."""

from __future__ import annotations

import json
from typing import Any


def load_json(data: str | bytes) -> Any:
    """The value of a JSON text.

    Args:
        data: bytes are read as UTF-8.

    Raises:
        ValueError: it is no JSON or no UTF-8, is nested too deep for Python, has a key twice in one object
            (of which readers take one or the other), or NaN or Infinity.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice[:60]!r} twice in one object")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")
