"""Where a recipe is: a bundled name first, then an existing path, then the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from irnet_convert import hub
from irnet_convert.errors import RecipeError, UnknownNameError, nearest

#: The file that a recipe repository on the Hub holds where no other is named.
RECIPE_FILE = "recipe.yaml"

MAX_BYTES = 256 * 1024  # of a recipe's file, as plain_yaml reads them
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class FoundRecipe:
    """A recipe's file and how it was found; ``str()`` of it is what to print.

    Args:
        path: the YAML file; of a recipe on the Hub, its copy in the cache.
        kind: ``"bundled"``, a recipe that ships with the package, ``"path"``, a file of the user's, or
            ``"hub"``.
        file: of a recipe on the Hub, its name in the repository.
        repo: of a recipe on the Hub, the repository at the commit that was taken.
    """

    path: Path
    kind: Literal["bundled", "path", "hub"]
    file: str | None = None
    repo: hub.Resolved | None = None

    def __str__(self) -> str:
        if self.repo is not None:
            asked = f" ({self.repo.revision})" if self.repo.revision not in (None, self.repo.commit) else ""
            return f"recipe on the Hub{asked}: {self.where}"
        what = f"bundled recipe {self.path.stem!r}" if self.kind == "bundled" else "recipe file"
        return f"{what}: {self.path}"

    @property
    def where(self) -> str:
        """What names this very content again: ``hf://org/name@COMMIT/FILE``, or the path."""
        return str(self.repo.at(self.file)) if self.repo is not None else str(self.path)


def bundled_recipes() -> dict[str, Path]:
    """Name → file of every recipe that ships with the package, in alphabetical order."""
    package = Path(__file__).resolve().parent.parent
    installed, checkout = package / "_recipes", package.parent / "recipes"
    folder = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name_or_path: str | Path, *, offline: bool | None = None) -> FoundRecipe:
    """The recipe that a name or a path means.

    A bundled name wins over a file of that name in the current directory (``./NAME`` reaches the file), and
    an existing file or directory over a repository of that name (``hf://org/name`` reaches the repository).
    On the Hub the revision is resolved to a commit once, and the file of that commit is fetched.

    Args:
        name_or_path: ``digits``, ``my/recipe.yaml``, ``org/name``, ``hf://org/name@v1/other.yaml``, ...
        offline: take a recipe of the Hub from the cache; None does so where ``HF_HUB_OFFLINE`` is set.

    Raises:
        UnknownNameError: it is none of these, with the nearest bundled names.
        RecipeError: it is a directory.
        HubError: the Hub has no such recipe, or it cannot be fetched.
    """
    bundled, text = bundled_recipes(), str(name_or_path)
    if text in bundled:
        return FoundRecipe(path=bundled[text], kind="bundled")
    if text.startswith("hf://") and isinstance(name_or_path, str):
        return find_on_hub(hub.parse_name(text), offline=offline)
    path = Path(name_or_path)
    if _is(path, Path.is_dir):
        raise RecipeError(
            f"the recipe {text!r} is a directory",
            expected="a bundled recipe's name, a YAML file, or a name on the Hub",
            mend=f"name the file, as in {path / RECIPE_FILE}"
            + (f", or the repository as hf://{text}" if means_hub(text) else ""),
        )
    if _is(path, Path.is_file):
        return FoundRecipe(path=path, kind="path")
    if isinstance(name_or_path, str) and means_hub(text):
        return find_on_hub(hub.parse_name(text), offline=offline)
    raise UnknownNameError(
        f"the recipe {text[:200]!r} is neither a bundled recipe nor an existing file",
        expected="a bundled recipe's name, the path of a YAML file, or org/name on the Hub",
        mend=nearest(path.stem[:200], bundled),
    )


def means_hub(text: str) -> bool:
    """Whether a name that is no bundled one and no existing path is meant for the Hub.

    Either it says so (``hf://``), or it has exactly one slash before the revision, and neither begins nor
    ends like a file's path.
    """
    if text.startswith("hf://"):
        return True
    repo = text.partition("@")[0]
    return (
        repo.count("/") == 1
        and not text.startswith((".", "/", "~"))
        and not text.endswith((*_SUFFIXES, "/"))
        and "\\" not in text
    )


def find_on_hub(name: hub.HubName, *, offline: bool | None = None) -> FoundRecipe:
    """The recipe that a name on the Hub means; ``recipe.yaml`` where no file is named.

    Raises:
        HubError: there is no such repository, revision or file, or it cannot be fetched.
    """
    return fetch_recipe(hub.resolve(name, offline=offline), name.path)


def fetch_recipe(repo: hub.Resolved, file: str | None = None) -> FoundRecipe:
    """A recipe of a repository at a commit.

    Raises:
        HubError: it has no such file, or it cannot be fetched.
    """
    known = sorted(name for name in repo.files if name.endswith(_SUFFIXES))
    if file is None and RECIPE_FILE not in repo.files and known:
        shown = ", ".join(ascii(name) for name in known[:20])
        raise UnknownNameError(
            f"{repo.at()} has no {RECIPE_FILE}",
            expected=f"a recipe of that repository: {shown}",
            mend=f"name one, as in hf://{repo.repo_id}/NAME.yaml",
        )
    file = file or RECIPE_FILE
    path = hub.fetch(repo, file, max_bytes=MAX_BYTES)
    return FoundRecipe(path=path, kind="hub", file=file, repo=repo)


def _is(path: Path, test: Callable[[Path], bool]) -> bool:
    """``path.is_dir()`` and its like, where a name that no file can have is no file."""
    try:
        return test(path)
    except (OSError, ValueError):  # too long, a NUL byte
        return False
