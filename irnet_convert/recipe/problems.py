"""What pydantic says of a recipe, in the project's words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from irnet_convert.errors import RecipeError, shown
from irnet_convert.recipe.stages import is_inherited

_WORDS = {
    "model_type": "a block of keys",
    "string_type": "a string",
    "tuple_type": "a list",
    "dict_type": "a mapping",
}


def recipe_error(
    error: ValidationError, raw: dict[str, Any], source: str, overrides: Iterable[str] = ()
) -> RecipeError:
    """Pydantic's errors as one of the project's: each with its path, its value and what was expected.

    Args:
        error: what validation raised.
        raw: the recipe as it was given.
        source: what the recipe is called: a file's name.
        overrides: ``"key=value"`` strings that were applied to it.
    """
    keys = [".".join(part.strip() for part in one.partition("=")[0].split(".")) for one in overrides]
    given, expected, overridden = [], [], set[bool]()
    for item in error.errors(include_url=False):
        if is_inherited(item["loc"], raw):
            continue
        context = item.get("ctx", {})
        path, value = _locate((*item["loc"], *filter(None, [context.get("path")])), raw)
        path = path or "the recipe"
        if item["type"] == "refused":
            problem = f"{path} {context['problem']}"
            wanted = context["expected"]
        elif item["type"] == "missing":
            problem = f"{path} is missing"
            wanted = f"a value for {path}"
        else:
            problem = f"{path} is {shown(value)}"
            wanted = _WORDS.get(item["type"], item["msg"].removeprefix("Input should be "))
        by_override = any(  # what is wrong may be a block that an override has made
            f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for key in keys
        )
        given.append(f"{problem}, by an override" if by_override else problem)
        expected.append((path, wanted))
        overridden.add(by_override)
    places = " and the ".join(
        place for place, there in (("recipe", False), ("override", True)) if there in overridden
    )
    return RecipeError(
        f"{source}: {'; '.join(given)}",
        expected="; ".join(f"{path}: {wanted}" if len(expected) > 1 else wanted for path, wanted in expected),
        mend=f"correct the {places}; docs/recipes.md lists every key",
    )


def _locate(location: tuple[int | str, ...], raw: Any) -> tuple[str, Any]:
    """Pydantic's location as a dotted path of the recipe, and the value there.

    Locations inside a union also hold the names of its members, which are no part of the path: a part
    that the data does not have is left out unless it is the last.
    """
    parts: list[str] = []
    for number, part in enumerate(location):
        items: Any = raw if isinstance(raw, dict) else dict(enumerate(raw)) if isinstance(raw, list) else {}
        if part in items:
            raw = items[part]
        elif number < len(location) - 1 or not isinstance(raw, dict | list):
            continue
        else:
            raw = None
        parts.append("".join(char if char.isprintable() else "?" for char in str(part)[:100]))
    return ".".join(parts), raw
