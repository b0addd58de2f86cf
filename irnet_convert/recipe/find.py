"""Where a recipe is: a bundled name first, then an existing path."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from irnet_convert.errors import RecipeError, UnknownNameError, nearest


class FoundRecipe(NamedTuple):
    """A recipe's file and how it was found; ``str()`` of it is what to print.

    Args:
        path: the YAML file.
        kind: ``"bundled"``, a recipe that ships with the package, or ``"path"``, a file of the user's.
    """

    path: Path
    kind: Literal["bundled", "path"]

    def __str__(self) -> str:
        what = f"bundled recipe {self.path.stem!r}" if self.kind == "bundled" else "recipe file"
        return f"{what}: {self.path}"


def bundled_recipes() -> dict[str, Path]:
    """Name → file of every recipe that ships with the package, in alphabetical order."""
    package = Path(__file__).resolve().parent.parent
    installed, checkout = package / "_recipes", package.parent / "recipes"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name_or_path: str | Path) -> FoundRecipe:
    """The recipe that a name or a path means.

    A bundled name wins over a file of that name in the current directory; ``./NAME`` reaches the file.

    Raises:
        UnknownNameError: it is neither, with the nearest bundled names.
        RecipeError: it is a directory.
    """
    bundled = bundled_recipes()
    if str(name_or_path) in bundled:
        return FoundRecipe(bundled[str(name_or_path)], "bundled")
    path = Path(name_or_path)
    if path.is_dir():
        raise RecipeError(
            f"the recipe {str(name_or_path)!r} is a directory",
            expected="a bundled recipe's name or a YAML file",
            mend=f"name the file, as in {path / 'recipe.yaml'}",
        )
    if path.is_file():
        return FoundRecipe(path, "path")
    raise UnknownNameError(
        f"the recipe {str(name_or_path)!r} is neither a bundled recipe nor an existing file",
        expected="a bundled recipe's name or the path of a YAML file",
        mend=nearest(path.stem, bundled),
    )
