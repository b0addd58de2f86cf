"""What a result came from: versions, machine, seed, commits, data, and the recipe as it was given."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from irnet_convert.recipe import Recipe

_PACKAGES = (
    "irnet-convert", "torch", "torchvision", "timm", "accelerate", "datasets", "safetensors", "numpy",
    "pillow", "pydantic", "scikit-learn",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Given:
    """A recipe as it was handed over, before its defaults were filled in.

    Args:
        file: where it was read from, ``hf://org/name@COMMIT/FILE`` for the Hub; None for a recipe made in
            Python.
        text: the file's content.
        overrides: in the order given.
        revision: of a recipe on the Hub, the branch or tag that was asked for.
        extends: what it extends, the nearest first, as ``file``.
    """

    file: str | None = None
    text: bytes | None = None
    overrides: tuple[str, ...] = ()
    revision: str | None = None
    extends: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All but the text, as plain data; what there is nothing to say of is left out."""
        said: dict[str, Any] = {"file": self.file, "overrides": list(self.overrides)}
        if self.revision is not None:
            said["revision"] = self.revision
        return said | ({"extends": list(self.extends)} if self.extends else {})


def environment(accelerator: Accelerator, recipe: Recipe, how: Given, data: dict[str, Any]) -> dict[str, Any]:
    """Everything beside the resolved recipe that the numbers depend on, as plain data.

    Args:
        accelerator: of the run.
        recipe: resolved.
        how: as it was given.
        data: what :func:`irnet_convert.data.revision.describe_data` says.
    """
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": versions,
        "device": _device(accelerator.device),
        "processes": accelerator.num_processes,
        "distributed": accelerator.distributed_type.value,
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "recipe": how.to_dict(),
        "data": data,
        # The code's own, and that of the place where it was started: recipes, notes, a fork of both.
        "git": {"irnet_convert": commit_of(Path(__file__)), "directory": commit_of(Path.cwd())},
    }


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def commit_of(path: Path) -> dict[str, Any] | None:
    """The commit of the git repository that a directory lies in, or that a file belongs to.

    Returns:
        ``commit``, and ``changed``: whether tracked files differ from it; None where there is no
        repository, no git, or the file is not tracked (a package installed below somebody's repository).
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file() and _git(folder, "ls-files", "--error-unmatch", path.name) is None:
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": status is None or bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
