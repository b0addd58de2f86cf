"""Stages in a recipe's raw data: what one leaves out is the recipe's own."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from irnet_convert.errors import RecipeError

#: Blocks of the recipe that a stage may have of its own.
INHERITED = ("optimizer", "schedule", "distill", "ede")


def with_stages_filled(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe as plain data whose stages say everything, and whose ``epochs`` are theirs together.

    A stage's block replaces the recipe's key by key; keys inside of a key (``optimizer.kwargs``) are not
    mixed, or there would be no way to be rid of one.

    Args:
        data: of any shape; what is not as it should be is left for the schema to say.

    Returns:
        ``data``, or a copy with ``stages`` and ``epochs`` filled in.
    """
    stages = data.get("stages")
    if not isinstance(stages, list | tuple) or not stages:
        return data
    plain = {**data, **{name: _plain(data[name]) for name in INHERITED if name in data}}
    filled = [_filled(s, plain) if isinstance(s := _plain(stage), dict) else s for stage in stages]
    counts = [s.get("epochs") if isinstance(s, dict) else None for s in filled]
    known = [count for count in counts if type(count) is int]
    epochs = {"epochs": sum(known)} if len(known) == len(counts) and "epochs" not in data else {}
    return {**data, "stages": filled, **epochs}


def with_epochs_shared(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe whose ``epochs`` are given anew: its stages get them in the proportion of their own.

    What does not divide goes to where most of a stage's share is missing, to the later stage where that is
    the same; each keeps one epoch at least.

    Args:
        data: of any shape; what is not as it should be is left for the schema to say.

    Returns:
        ``data``, or a copy whose stages have ``epochs`` together.

    Raises:
        RecipeError: fewer epochs than stages.
    """
    stages, epochs = data.get("stages"), data.get("epochs")
    own = (
        [s.get("epochs") if isinstance(s, dict) else None for s in stages] if isinstance(stages, list) else []
    )
    counts = [count for count in own if type(count) is int and count > 0]
    if not counts or len(counts) < len(own) or type(epochs) is not int or epochs < 1:
        return data
    if epochs < len(counts):
        raise RecipeError(
            f"epochs={epochs} for a recipe of {len(counts)} stages",
            expected=f"at least {len(counts)}, one for each stage",
            mend=f"epochs={len(counts)}, or stages=[...] as a whole",
        )
    total = sum(counts)  # in integers: what others wrote may ask for more epochs than a float can count
    shared = [max(1, epochs * count // total) for count in counts]
    while (missing := epochs - sum(shared)) != 0:
        step = 1 if missing > 0 else -1
        places = [i for i, count in enumerate(shared) if count + step >= 1]
        place = max(places, key=lambda i: (step * (epochs * counts[i] - shared[i] * total), i))
        shared[place] += step
    return {**data, "stages": [{**s, "epochs": n} for s, n in zip(data["stages"], shared, strict=True)]}


def _plain(value: Any) -> Any:
    """Blocks that were given as objects, as the data that was given with them."""
    return value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value


def _filled(stage: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    blocks = {}
    for name in INHERITED:
        own, inherited = stage.get(name), data.get(name)
        if name not in stage and name in data:
            blocks[name] = inherited
        elif isinstance(own, dict) and isinstance(inherited, dict):
            blocks[name] = {**inherited, **own}
    return {**stage, **blocks}


def is_inherited(location: tuple[int | str, ...], data: Any) -> bool:
    """Whether pydantic's location lies in a block that a stage has from the recipe alone.

    What is wrong there is wrong, and reported, at the recipe's own.
    """
    if len(location) < 3 or location[0] != "stages" or not isinstance(location[1], int):
        return False
    stages = data.get("stages") if isinstance(data, dict) else None
    stage = stages[location[1]] if isinstance(stages, list | tuple) and location[1] < len(stages) else None
    return isinstance(stage, dict) and location[2] in INHERITED and location[2] not in stage
