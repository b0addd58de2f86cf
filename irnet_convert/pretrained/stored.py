"""The weights of a saved model: a safetensors file, or shards with an index; checked before they are read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from irnet_convert.errors import PretrainedError
from irnet_convert.plain_json import load_json
from irnet_convert.pretrained.config import FileData
from irnet_convert.pretrained.limits import MAX_HEADER

WEIGHTS, INDEX, PACKED = "model.safetensors", "model.safetensors.index.json", "packed.safetensors"
_SHARD = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")

#: safetensors' names of the dtypes that a saved model's tensors may have.
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip

_MEND = "get the file anew, or save the model again with irnet_convert.save_pretrained"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of the weights, as the header of its file declares it."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    file: str


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The weights that lie beside a config.

    Attributes:
        paths: file name → where it lies.
        files: file name → its size and hash, as config.json says.
        entries: state-dict key → dtype, shape and file.
    """

    paths: Mapping[str, Path]
    files: Mapping[str, FileData]
    entries: Mapping[str, Entry]

    @property
    def elements(self) -> int:
        """Of all tensors together."""
        return sum(prod(entry.shape) for entry in self.entries.values())

    def read(self) -> dict[str, Tensor]:
        """All tensors, on the CPU, once the hashes of the files are found right.

        Raises:
            PretrainedError: a file was altered, or cannot be read any more.
        """
        found: dict[str, Tensor] = {}
        for name, path in self.paths.items():
            _check_hash(path, name, self.files[name])
            try:
                found.update(load_file(path))
            except (SafetensorError, OSError, KeyError) as error:
                raise _damaged(name, f"cannot be read: {error}") from error
        return found


def open_weights(files: Mapping[str, FileData], get: Callable[[str], Path]) -> Stored:
    """Find and check the weights: names, sizes, headers. No tensor is read, and nothing as large as one.

    Args:
        files: of the config: the files that belong to the model.
        get: the local path of a file of the model, by its name; called with checked names only.

    Raises:
        PretrainedError: a file is missing, altered or malformed, or the index and the files disagree.
    """
    names = _weight_files(files)
    paths = {name: get(name) for name in [*([INDEX] if len(names) > 1 or INDEX in files else []), *names]}
    for name, path in paths.items():
        _check_size(path, name, files[name])
    entries: dict[str, Entry] = {}
    for name in names:
        for key, entry in read_header(paths[name], name).items():
            if key in entries:
                raise _damaged(name, f"holds {key[:80]!r}, which {entries[key].file} holds too")
            entries[key] = entry
    if INDEX in paths:
        _check_index(paths.pop(INDEX), files[INDEX], entries)
    return Stored(paths=paths, files=files, entries=entries)


def _weight_files(files: Mapping[str, FileData]) -> list[str]:
    """The names of the files that hold weights; every other name is refused before it is looked for."""
    shards = sorted(name for name in files if _SHARD.fullmatch(name))
    if unknown := sorted(files.keys() - {WEIGHTS, INDEX, PACKED, *shards}):
        raise PretrainedError(
            f"config.json names the file {unknown[0][:80]!r}",
            expected=f"{WEIGHTS}, {PACKED}, or {INDEX} and model-00001-of-0000N.safetensors",
            mend=_MEND,
        )
    whole = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if shards != whole or (bool(shards) == (WEIGHTS in files)) or (INDEX in files) != bool(shards):
        raise PretrainedError(
            f"config.json names the files {', '.join(sorted(files))[:200] or 'none'}",
            expected=f"either {WEIGHTS}, or {INDEX} and every one of its shards",
            mend=_MEND,
        )
    return shards or [WEIGHTS]


def describe_file(path: Path) -> dict[str, int | str]:
    """A file's size and SHA-256, as config.json holds them.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_size(path: Path, name: str, expected: FileData) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _damaged(name, f"cannot be read: {error.strerror or error}") from error
    if not path.is_file() or size != expected.size:
        raise _damaged(name, f"has {size:,} bytes", f"the {expected.size:,} that config.json says")


def _check_hash(path: Path, name: str, expected: FileData) -> None:
    try:
        digest = str(describe_file(path)["sha256"])
    except OSError as error:
        raise _damaged(name, f"cannot be read: {error.strerror or error}") from error
    if digest != expected.sha256:
        raise _damaged(
            name, f"has the SHA-256 {digest[:16]}...", f"{expected.sha256[:16]}..., as config.json says"
        )


def read_header(path: Path, name: str) -> dict[str, Entry]:
    """Dtypes and shapes of the tensors in a safetensors file.

    Raises:
        PretrainedError: it is no safetensors file, is damaged, or has a header or a dtype that is refused.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise _damaged(name, f"has a header of {length:,} bytes", f"at most {MAX_HEADER:,}")
        with safe_open(path, framework="pt") as opened:
            found = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118  it is no mapping
            declared = {key: (each.get_dtype(), tuple(each.get_shape())) for key, each in found.items()}
    except (SafetensorError, OSError, ValueError, OverflowError) as error:
        raise _damaged(name, f"cannot be read as safetensors: {str(error)[:200]}") from error
    for key, (dtype, _) in declared.items():
        if dtype not in DTYPES:
            raise _damaged(name, f"holds {key[:80]!r} as {dtype}", "one of " + ", ".join(DTYPES))
    return {
        key: Entry(dtype=DTYPES[dtype], shape=shape, file=name) for key, (dtype, shape) in declared.items()
    }


def _check_index(path: Path, file: FileData, entries: Mapping[str, Entry]) -> None:
    """The index must say of every tensor in which shard it lies, and nothing else."""
    if file.size > MAX_HEADER:
        raise _damaged(INDEX, f"has {file.size:,} bytes", f"at most {MAX_HEADER:,}")
    _check_hash(path, INDEX, file)
    try:
        data = load_json(path.read_bytes())
        places = data["weight_map"]
        same = places == {key: entry.file for key, entry in entries.items()}
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise _damaged(INDEX, f"is no index of shards ({type(error).__name__}: {str(error)[:80]})") from error
    if not same:
        raise _damaged(
            INDEX, "does not say what lies in the shards", "the shard of every tensor, and no more"
        )


def index_of(split: Mapping[str, Iterable[str]], tensors: Mapping[str, Tensor]) -> bytes:
    """The text of an index of shards, as the Hub's other libraries read it."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    places = {key: name for name, keys in split.items() for key in keys}
    return (json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=1) + "\n").encode()


def _damaged(
    name: str, what: str, expected: str = "the file as irnet_convert.save_pretrained wrote it"
) -> PretrainedError:
    return PretrainedError(f"{name} {what}", expected=expected, mend=_MEND)
