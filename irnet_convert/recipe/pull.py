"""A recipe's repository on the Hub → a directory: its texts, nothing outside, nothing overwritten unasked."""

from __future__ import annotations

from pathlib import Path

from irnet_convert import hub
from irnet_convert.durable import write_whole
from irnet_convert.errors import RecipeError

#: What belongs to a recipe: YAML, its card, the log of its result.
SUFFIXES = (".yaml", ".yml", ".md", ".json", ".jsonl", ".txt")
MAX_FILES = 200
MAX_FILE = 16 * 1024 * 1024  # bytes of one file: a long log
MAX_ALL = 64 * 1024 * 1024  # bytes of all files together


def pull(repo: hub.Resolved, folder: Path, *, force: bool = False) -> list[Path]:
    """Copy the texts of a repository at a commit into a directory.

    Everything is fetched and checked before the first file is written.

    Args:
        repo: the commit.
        folder: made if it is missing.
        force: replace files that are there.

    Returns:
        The files written, in alphabetical order.

    Raises:
        HubError: a file's name is not safe on every system, a file is too large, or cannot be fetched.
        RecipeError: there is nothing to pull, too much of it, or something stands in the way.
    """
    names = sorted(name for name in repo.files if name.endswith(SUFFIXES) and not _hidden(name))
    if not 0 < len(names) <= MAX_FILES:
        raise RecipeError(
            f"{repo.at()} has {len(names)} files that belong to a recipe ({', '.join(SUFFIXES)})",
            expected=f"1 to {MAX_FILES}",
            mend="name a repository of recipes",
        )
    if sum(repo.files[name] for name in names) > MAX_ALL:
        raise RecipeError(
            f"{repo.at()} has {sum(repo.files[name] for name in names):,} bytes of texts",
            expected=f"at most {MAX_ALL:,}",
            mend="name a repository of recipes",
        )
    targets = {hub.check_file_name(name): folder / name for name in names}
    _check_apart(names)
    for target in targets.values():
        _check_target(target, folder, force=force)
    contents = {
        target: hub.fetch(repo, name, max_bytes=MAX_FILE).read_bytes() for name, target in targets.items()
    }
    for target, content in contents.items():
        _write(target, content)
    return list(contents)


def _hidden(name: str) -> bool:
    """Whether a name belongs to tools, as ``.github/x.yml`` does: such files stay where they are."""
    return any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))


def _check_apart(names: list[str]) -> None:
    """Refuse names that are one file, or a file and a directory, where case does not count."""
    seen: dict[str, str] = {}
    for name in names:
        parts = name.lower().split("/")
        for depth in range(1, len(parts) + 1):
            key, whole = "/".join(parts[:depth]), "/".join(name.split("/")[:depth])
            kind = whole + ("/" if depth < len(parts) else "")
            if seen.setdefault(key, kind) != kind:
                raise RecipeError(
                    f"the repository has both {seen[key]} and {kind}",
                    expected="names that differ by more than upper and lower case",
                    mend="rename one of them there",
                )


def _check_target(target: Path, folder: Path, *, force: bool) -> None:
    inside = target.parent.resolve().is_relative_to(folder.resolve())  # not by a link that lies in folder
    if not inside:
        raise RecipeError(
            f"{target} would be written outside {folder}, by a link",
            expected="a directory without links that lead out of it",
            mend="choose another directory",
        )
    parents = (p for p in target.parents if p.is_relative_to(folder))
    blocking = next((p for p in parents if p.exists() and not p.is_dir()), None)
    if blocking is not None:
        raise RecipeError(
            f"{blocking} is a file where {target} needs a directory",
            expected="a directory, or nothing",
            mend="choose another directory",
        )
    if (target.exists() or target.is_symlink()) and not (force and not target.is_dir()):
        raise RecipeError(
            f"{target} is there already",
            expected="a directory without it",
            mend="choose another directory, or replace it with --force",
        )


def _write(target: Path, content: bytes) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, content)
    except OSError as error:
        raise RecipeError(
            f"{target} could not be written ({error.strerror or error})",
            expected="room and permission to write it",
            mend="choose another directory",
        ) from error
