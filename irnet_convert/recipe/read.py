"""A recipe's file → plain data, with the bases that it extends merged below it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from irnet_convert import hub
from irnet_convert.errors import RecipeError, nearest
from irnet_convert.plain_yaml import load_yaml
from irnet_convert.recipe.find import (
    MAX_BYTES,
    FoundRecipe,
    bundled_recipes,
    fetch_recipe,
    find_recipe,
    means_hub,
)
from irnet_convert.recipe.stages import with_epochs_shared

#: How many recipes may stand below one another, the first included.
MAX_DEPTH = 4

#: These say which recipe it is and what it was measured to reach: a base's are not those of what extends it.
NOT_INHERITED = ("name", "description", "expect")

# Where a recipe would write or read a file of this machine.
_PATHS = (
    ("output",),
    ("init",),
    ("data", "name"),
    *((role, key) for role in ("model", "teacher") for key in ("name", "checkpoint")),
)


@dataclass(frozen=True, kw_only=True)
class ReadRecipe:
    """A recipe as its file says it, before defaults and overrides.

    Args:
        found: its file.
        text: the file's content.
        data: plain data, with its bases merged in.
        bases: what it extends, the nearest first.
    """

    found: FoundRecipe
    text: bytes
    data: dict[str, Any]
    bases: tuple[FoundRecipe, ...] = ()

    def __str__(self) -> str:
        """What to print: its file and those that it extends."""
        return "\n  extends ".join(map(str, (self.found, *self.bases)))


def read_recipe(name: str | Path | FoundRecipe, *, offline: bool | None = None) -> ReadRecipe:
    """Read a recipe and what it extends.

    ``extends: NAME`` names one base: a bundled recipe, a path relative to the file and inside its folder (of
    a recipe on the Hub: inside its repository, at its commit), or a recipe on the Hub that is pinned by a
    commit or a tag. Mappings are merged key by key; everything else, lists too, replaces the base's.
    ``epochs`` without ``stages`` is shared out among the base's stages, if it has any.

    Raises:
        IrnetError: a file is missing, malformed, or extends what it must not.
    """
    found = name if isinstance(name, FoundRecipe) else find_recipe(name, offline=offline)
    return _read(found, (), offline)


def merge(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``base``: mappings key by key, everything else replaced."""
    merged = dict(base)
    for key, value in above.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            value = merge(below, value)
        merged[key] = value
    return merged


def _read(found: FoundRecipe, above: tuple[FoundRecipe, ...], offline: bool | None) -> ReadRecipe:
    chain = (*above, found)
    if any(_place(found) == _place(each) for each in above):
        raise _extends_error(
            above[-1], "extends a recipe that extends it: " + " -> ".join(each.where for each in chain)
        )
    if len(chain) > MAX_DEPTH:
        raise _extends_error(above[-1], f"is the {len(chain)}th of a chain: {MAX_DEPTH} recipes at most")
    text = _bytes_of(found)
    data = load_yaml(text, source=found.where)
    if not isinstance(data, dict):
        raise not_a_mapping(found.where, data)
    if found.kind == "hub":
        check_paths(data, found.where)
    base = data.pop("extends", None)
    if base is None:
        return ReadRecipe(found=found, text=text, data=data)
    below = _read(_find_base(base, found, offline), chain, offline)
    inherited = {key: value for key, value in below.data.items() if key not in NOT_INHERITED}
    merged = merge(inherited, data)
    if "epochs" in data and "stages" not in data:
        merged = with_epochs_shared(merged)
    return ReadRecipe(found=found, text=text, data=merged, bases=(below.found, *below.bases))


def _place(found: FoundRecipe) -> str:
    return found.where if found.repo is not None else str(found.path.resolve())


def _bytes_of(found: FoundRecipe) -> bytes:
    try:
        with found.path.open("rb") as file:
            return file.read(MAX_BYTES + 1)  # one more than load_yaml takes
    except OSError as error:
        raise RecipeError(
            f"{found.where} cannot be read ({error.strerror})",
            expected="a readable file",
            mend="check its permissions",
        ) from error


def not_a_mapping(source: str, data: Any) -> RecipeError:
    """The error for a file that holds something else than a recipe."""
    return RecipeError(
        f"{source} holds {'nothing' if data is None else f'a {type(data).__name__}'}",
        expected="a mapping of a recipe's keys",
        mend="start from a bundled recipe; docs/recipes.md lists every key",
    )


def _find_base(name: Any, found: FoundRecipe, offline: bool | None) -> FoundRecipe:
    """The recipe that ``extends: name`` in ``found`` means."""
    if not isinstance(name, str) or not 0 < len(name) <= 400 or not name.isprintable():
        raise _extends_error(found, f"extends {str(name)[:100]!r}, which is no name")
    bundled = bundled_recipes()
    if name in bundled:
        return FoundRecipe(path=bundled[name], kind="bundled")
    if means_hub(name):
        pinned = hub.parse_name(name)
        _check_pinned(pinned, found)
        repo = hub.resolve(pinned, offline=offline)
        if not pinned.pinned:
            hub.check_tag(repo)
        return fetch_recipe(repo, pinned.path)
    if not name.endswith((".yaml", ".yml")):
        raise _extends_error(
            found, f"extends {name[:200]!r}, which is no bundled recipe; {nearest(name[:200], bundled)}"
        )
    return _find_beside(name, found)


def _find_beside(name: str, found: FoundRecipe) -> FoundRecipe:
    """A relative path: below the folder of the file that names it, and, on the Hub, in the same commit."""
    name = name.removeprefix("./")
    if leaves(name):
        raise _extends_error(found, f"extends {name[:200]!r}, which lies outside its folder")
    if found.repo is not None:
        folder = PurePosixPath(found.file or "").parent
        return fetch_recipe(found.repo, str(folder / name))
    folder = found.path.resolve().parent
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):  # by a link
        raise _extends_error(found, f"extends {name[:200]!r}, which lies outside its folder")
    if not path.is_file():
        raise _extends_error(found, f"extends {name[:200]!r}, and there is no file {path}")
    return FoundRecipe(path=path, kind=found.kind)


def leaves(path: str) -> bool:
    """Whether a path names something outside the folder that it is relative to, on any system."""
    windows = PureWindowsPath(path)  # knows both kinds of slashes
    return bool(windows.drive or windows.root) or ".." in windows.parts or path.startswith("~")


def _check_pinned(name: hub.HubName, found: FoundRecipe) -> None:
    if name.revision is None or name.revision.startswith("refs/"):
        raise RecipeError(
            f"{found.where} extends {name}, which is not pinned",
            expected="a base that stays what it is: a commit or a tag",
            mend=f"write extends: hf://{name.repo_id}@COMMIT{f'/{name.path}' if name.path else ''}",
        )


def check_paths(data: Mapping[str, Any], where: str) -> None:
    """A recipe on the Hub reads and writes below the current directory, if anywhere.

    Args:
        data: as its file says it.
        where: what to call it in an error.

    Raises:
        RecipeError: it names a path outside.
    """
    for keys in _PATHS:
        value: Any = data
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str) and leaves(value):
            key = ".".join(keys)
            raise RecipeError(
                f"{where}: {key} is {value[:200]!r}, outside the current directory",
                expected="a relative path in a recipe on the Hub",
                mend=f"leave {key} out there; who trains it sets it in a copy (irnet-convert recipe pull)",
            )


def _extends_error(found: FoundRecipe, problem: str) -> RecipeError:
    return RecipeError(
        f"{found.where} {problem}",
        expected="extends: a bundled recipe, a file in the same folder, or hf://org/name@COMMIT/FILE",
        mend="correct extends in that file",
    )
