"""A recipe, taken once: found, read and validated, with what is to be remembered of where it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from irnet_convert.pretrained.dry import check_networks
from irnet_convert.pretrained.named import pinned
from irnet_convert.recipe import FoundRecipe, ModelSpec, Recipe
from irnet_convert.recipe.read import ReadRecipe, read_recipe
from irnet_convert.train.launch import in_main_process
from irnet_convert.train.provenance import Given


@dataclass(frozen=True, kw_only=True)
class TakenRecipe:
    """A recipe that is ready to be trained; it needs neither its file nor the Hub again.

    Args:
        recipe: resolved, with overrides.
        given: what the run writes down of where it came from.
        found: the files that it was read from, itself first, then what it extends; none for a recipe made in
            Python.
    """

    recipe: Recipe
    given: Given
    found: tuple[FoundRecipe, ...] = ()

    def __str__(self) -> str:
        """What to print: the files that it was read from."""
        return "\n  extends ".join(map(str, self.found))


def take(
    recipe: Recipe | str | Path | FoundRecipe, overrides: Iterable[str] = (), *, offline: bool | None = None
) -> TakenRecipe:
    """The recipe that ``finetune`` was handed.

    Of several processes the main one reads files and asks the Hub, and the others get what it read. The
    networks of a recipe from the Hub are built once without memory, so that an absurd one is refused.

    Args:
        recipe: a recipe, or what names one (see :func:`irnet_convert.recipe.find_recipe`).
        overrides: ``"key.sub=value"`` strings.
        offline: take what lies on the Hub from the cache; None does so where ``HF_HUB_OFFLINE`` is set.

    Raises:
        IrnetError: there is no such recipe, or it is malformed.
    """
    overrides = tuple(overrides)
    if isinstance(recipe, Recipe):
        changed = Recipe.from_dict(recipe.to_dict(), overrides=overrides) if overrides else recipe
        return TakenRecipe(recipe=_pinned(changed, offline), given=Given(overrides=overrides))
    name = recipe
    read = in_main_process(lambda: read_recipe(name, offline=offline))
    whole = Recipe.from_dict(read.data, source=read.found.where, overrides=overrides)
    found = (read.found, *read.bases)
    if any(each.repo is not None for each in found):
        check_networks(whole)  # what others wrote may ask for anything: before memory is spent
    return TakenRecipe(recipe=_pinned(whole, offline), given=_given(read, overrides), found=found)


def _pinned(recipe: Recipe, offline: bool | None) -> Recipe:
    """The recipe with each saved model on the Hub at its commit, and fetched: by the main process, once."""
    specs = {"model": recipe.model, "teacher": recipe.teacher}
    saved = {key: spec for key, spec in specs.items() if isinstance(spec, ModelSpec) and spec.is_saved}
    if not saved:
        return recipe
    found = in_main_process(lambda: {key: pinned(spec, offline=offline) for key, spec in saved.items()})
    return recipe.model_copy(update=found)


def _given(read: ReadRecipe, overrides: tuple[str, ...]) -> Given:
    found = read.found
    return Given(
        file=found.where if found.repo is not None else str(found.path.absolute()),
        text=read.text,
        overrides=overrides,
        revision=found.repo.revision if found.repo is not None else None,
        extends=tuple(base.where for base in read.bases),
    )
