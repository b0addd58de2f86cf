"""Two recipes, compared key by key."""

from __future__ import annotations

from typing import Any, NamedTuple

from irnet_convert.recipe.schema import Recipe

ABSENT = "(not there)"


class Difference(NamedTuple):
    """One key whose values differ; a value that only the other recipe has is :data:`ABSENT`."""

    key: str
    one: Any
    other: Any


def differences(one: Recipe, other: Recipe) -> list[Difference]:
    """Every key of the two resolved recipes whose values differ, in the order of the schema.

    Mappings are compared key by key; lists are compared as a whole.
    """
    flat = [flatten(recipe.to_dict()) for recipe in (one, other)]
    keys = [*flat[0], *(key for key in flat[1] if key not in flat[0])]
    pairs = (Difference(key, flat[0].get(key, ABSENT), flat[1].get(key, ABSENT)) for key in keys)
    return [each for each in pairs if each.one != each.other]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` → ``{"a.b": 1}``; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        whole = f"{prefix}{key}"
        flat.update(flatten(value, f"{whole}.") if isinstance(value, dict) and value else {whole: value})
    return flat
