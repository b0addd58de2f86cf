"""``key.sub=value`` on the command line, applied to a recipe's raw mapping before it is validated."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from irnet_convert.errors import RecipeError
from irnet_convert.plain_yaml import load_yaml
from irnet_convert.recipe.stages import with_epochs_shared


def apply_overrides(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``raw`` in which each override has been set, in the order given.

    Args:
        raw: a recipe as plain data; it is not changed.
        overrides: ``"a.b=c"``; the value is read as YAML, so ``optimizer.lr=1e-3`` is a number,
            ``teacher=null`` is null and ``rewrites=[activation]`` a list. A part of the key that is a
            number indexes a list that is there: ``distill.features.0.weight=2``. A block that is missing or
            null is made; whether its keys exist is for the schema to say. ``epochs=N`` is shared out among
            the recipe's stages, if it has any and no override is about them.

    Raises:
        RecipeError: no ``=``, an empty key, a value that is not YAML, an index outside its list or of a list
            that is not there, a key below something that is not a block, or fewer epochs than stages.
    """
    result, keys = copy.deepcopy(raw), set()
    for override in overrides:
        key, equals, text = override.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise RecipeError(
                f"the override {override!r}",
                expected="KEY=VALUE with a dotted key",
                mend="as in optimizer.lr=1e-3",
            )
        value = load_yaml(text, source=f"the override {override!r}")
        _set(result, parts, value, override)
        keys.add(key.strip() if len(parts) == 1 else parts[0] + ".")
    return with_epochs_shared(result) if "epochs" in keys and not keys & {"stages", "stages."} else result


def _set(raw: dict[str, Any], parts: list[str], value: Any, override: str) -> None:
    here: Any = raw
    for depth, part in enumerate(parts[:-1]):
        slot = _slot(here, part, parts[:depth], override)
        if isinstance(here, dict) and here.get(slot) is None:
            if parts[depth + 1].isdecimal():
                where, item = ".".join(parts[: depth + 1]), parts[depth + 1]
                raise RecipeError(
                    f"the override {override!r}: the recipe has no {where} to take item {item} of",
                    expected="an item of a list that is there",
                    mend=f"set {where} as a whole, as in {where}=[...]",
                )
            here[slot] = {}
        here = here[slot]
    here[_slot(here, parts[-1], parts[:-1], override)] = value


def _slot(here: Any, part: str, above: list[str], override: str) -> Any:
    """The key or index that ``part`` means inside ``here``."""
    where = ".".join(above)
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise RecipeError(
            f"the override {override!r}: {where} is {here!r}",
            expected=f"a block, to set {part!r} in it",
            mend=f"set {where} as a whole, as in {where}={{{part}: ...}}",
        )
    if not part.isdecimal() or int(part) >= len(here):
        raise RecipeError(
            f"the override {override!r}: {where} is a list of {len(here)}, which has no {part!r}",
            expected=f"an index below {len(here)}",
            mend=f"set {where} as a whole, as in {where}=[...]",
        )
    return int(part)
