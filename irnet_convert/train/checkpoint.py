"""Checkpoints on disk: whole or absent, in safetensors and JSON.

A checkpoint is a directory ``step-000000123`` with any number of ``NAME.safetensors``, one ``state.json``,
and a ``manifest.json`` that gives size and SHA-256 of each of them. It is written under another name,
synced, and renamed, so that a directory of that name is whole unless the disk damaged it; older ones go
only after that, and lose their name before their files. A process may be killed between any two operations:
what is then left under other names is put back or removed by the next save.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from irnet_convert.durable import UNFINISHED, sync_directory, write_synced
from irnet_convert.errors import CheckpointError
from irnet_convert.train.trees import own_copy

FORMAT = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{9})")
_REPLACED = f"{UNFINISHED}old-"  # one that is whole, while another takes its name


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        state: plain JSON data.
        tensors: file name without suffix → name → tensor.
        path: where it lies, None before it is saved.
    """

    state: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]
    path: Path | None = None


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint, *, keep: int = 2) -> Path:
    """Write ``folder/step-NNNNNNNNN``, then remove all but the ``keep`` newest.

    Raises:
        CheckpointError: the disk refused it; nothing of it is left and the older ones are untouched.
    """
    target = folder / f"step-{step:09d}"
    unfinished = folder / f"{UNFINISHED}{target.name}"
    try:
        _make_folder(folder)
        _tidy(folder)
        unfinished.mkdir()
        _write_files(unfinished, checkpoint)
        _replace(unfinished, target)
    except OSError as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint {target} could not be written ({error.strerror or error})",
            expected="room and permission to write it",
            mend=f"{_last_good(folder)}; make room, then go on with --resume",
        ) from error
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for old in list_checkpoints(folder)[:-keep]:
        _remove(old)
    return target


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_directory(folder.parent)


def _tidy(folder: Path) -> None:
    """Put back or remove what a process that was killed left under other names."""
    _put_back(folder)
    for leftover in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(leftover)


def _put_back(folder: Path) -> None:
    """Give a checkpoint its name again that was being replaced when the process was killed."""
    for old in folder.glob(f"{_REPLACED}*"):
        target = folder / old.name.removeprefix(_REPLACED)
        if not target.exists():
            with contextlib.suppress(FileNotFoundError):  # another process of this run was faster
                old.rename(target)


def _write_files(directory: Path, checkpoint: Checkpoint) -> None:
    contents = {f"{name}.safetensors": encode_tensors(each) for name, each in checkpoint.tensors.items()}
    contents["state.json"] = _json(checkpoint.state)
    files = {name: {"size": len(data), "sha256": _hash(data)} for name, data in contents.items()}
    contents[MANIFEST] = _json({"format": FORMAT, "files": files})
    for name, data in contents.items():
        write_synced(directory / name, data)
    sync_directory(directory)


def _replace(source: Path, target: Path) -> None:
    """Rename a directory onto a name that may be taken (by a run resumed from before it)."""
    aside = target.with_name(f"{_REPLACED}{target.name}")
    if target.exists():
        target.rename(aside)
    try:
        source.rename(target)
    except OSError:
        _put_back(target.parent)
        raise
    sync_directory(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    """Take the name away first: half a checkpoint must never have it."""
    gone = path.with_name(f"{UNFINISHED}gone-{path.name}")
    with contextlib.suppress(OSError):  # it is in nobody's way, and the next save tries again
        path.rename(gone)
        shutil.rmtree(gone)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking every file against its manifest.

    Raises:
        CheckpointError: it is missing, of another format, or damaged; the message names the file.
    """
    manifest = _read_manifest(path)
    contents: dict[str, bytes] = {}
    for name, facts in manifest["files"].items():
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise _damaged(path, f"{name} cannot be read ({error.strerror})") from error
        if len(data) != facts["size"] or _hash(data) != facts["sha256"]:
            raise _damaged(path, f"{name} is not what was written")
        contents[name] = data
    try:
        state = json.loads(contents.pop("state.json"))
        tensors = {Path(name).stem: safetensors.torch.load(data) for name, data in contents.items()}
    except (KeyError, ValueError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error
    return Checkpoint(state=state, tensors=tensors, path=path)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = manifest["files"]
        whole = manifest["format"] == FORMAT and all(
            Path(name).name == name and {"size", "sha256"} <= facts.keys() for name, facts in files.items()
        )
    except OSError as error:
        raise _damaged(path, f"{MANIFEST} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"{MANIFEST} is malformed") from error
    if not whole:
        raise _damaged(path, f"{MANIFEST} is of another format")
    return manifest


def newest_whole(folder: Path, say: Callable[[str], None] = print) -> Checkpoint | None:
    """The newest checkpoint that its manifest confirms; damaged ones are passed over aloud.

    Returns:
        None where there is no checkpoint at all.

    Raises:
        CheckpointError: there are some and none is whole.
    """
    _put_back(folder)
    found = list_checkpoints(folder)
    for path in reversed(found):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            say(f"WARNING: {error.given}; going back to the checkpoint before it")
    if found:
        raise CheckpointError(
            f"none of the {len(found)} checkpoints in {folder} is whole",
            expected="at least one that agrees with its manifest",
            mend="restore one from a copy, or start again in another directory with output=DIRECTORY",
        )
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """All checkpoint directories, oldest first, by their names alone."""
    return sorted(path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir())


def set_aside_after(folder: Path, step: int) -> None:
    """Rename checkpoints newer than ``step`` so that a run resumed there is not mixed up with them."""
    for path in list_checkpoints(folder):
        if int(path.name.removeprefix("step-")) > step:
            aside = path.with_name(f"damaged-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file's bytes; tensors that share memory are written once each."""
    return safetensors.torch.save({key: own_copy(value) for key, value in tensors.items()}, {"format": "pt"})


def _json(data: Any) -> bytes:
    return (json.dumps(data, indent=1) + "\n").encode()


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _last_good(folder: Path) -> str:
    found = list_checkpoints(folder)
    return f"the last one, {found[-1].name}, is intact" if found else "there is none before it"


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {path} is damaged: {why}",
        expected="files that agree with its manifest.json",
        mend="remove it; --resume then uses the one before it",
    )
