"""A safetensors file with a seal: read strictly, written whole or not at all.

Nothing in here knows what a network is. The header is read twice: by this file, which refuses what the
library is lenient about (keys that occur twice, metadata of a foreign format, a version it does not know),
and by safetensors, which checks sizes, dtypes and that the tensors cover the file without gap or overlap.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, uint8

from irnet_convert.durable import write_whole
from irnet_convert.errors import PackedFileError
from irnet_convert.plain_json import load_json

#: Version of the file's layout: what the metadata's keys mean. A reader refuses every other.
FORMAT_VERSION = 1
#: Conventions that every packed file of this version follows; the values are compared word by word.
RULES = {
    "format": "irnet-convert packed network",
    "format_version": str(FORMAT_VERSION),
    "bits": "1 is +1 and 0 is -1; rows in the order (kH, kW, C), lowest bit of a byte first, "
    "filled up with zero bits to whole bytes",
    "zero_padding": "a padded place contributes exactly 0",
    "sign": "+1 where x >= 0, -1 elsewhere and for NaN",
}
#: Longest header that is written or read, in bytes: a step of a network has 700; a MB is checked in half a
#: second.
MAX_HEADER = 1 << 21
_SEAL = "sha256"
_ENTRY = {"dtype", "shape", "data_offsets"}


def write_sealed(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata under the rules and a checksum; the name never holds half a file.

    Args:
        path: where to; an existing file is replaced once the new one is whole and on the disk.
        tensors: by name, contiguous.
        metadata: further text, under keys that are not those of :data:`RULES`.

    Raises:
        PackedFileError: the place cannot be written to.
    """
    path = Path(path)
    data = sealed(tensors, metadata)
    try:
        write_whole(path, data)
    except OSError as error:
        raise PackedFileError(
            f"{path} cannot be written: {error}", expected="a file in an existing, writable directory",
            mend="name another place, or make the directory",
        ) from error  # fmt: skip


def read_sealed(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that :func:`write_sealed` wrote.

    Returns:
        Tensors by name, on the CPU, and the metadata without rules and checksum.

    Raises:
        PackedFileError: missing, no such file, of another version, cut short or altered; the message says
            which.
    """
    return unsealed(_bytes_of(Path(path)))


def sealed(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """What :func:`write_sealed` writes."""
    texts = {**metadata, **RULES}
    data = save(dict(tensors), {**texts, _SEAL: _seal(tensors, texts)})
    if (length := int.from_bytes(data[:8], "little")) > MAX_HEADER:
        raise PackedFileError(
            f"the network's description takes {length:,} bytes",
            expected=f"at most {MAX_HEADER:,}", mend="keep the model as it is: it is too deep to be packed",
        )  # fmt: skip
    return data


def unsealed(data: bytes) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What :func:`read_sealed` reads.

    Raises:
        PackedFileError: as there.
    """
    texts = _metadata(data)
    _check_rules(texts)
    try:
        tensors = load(data)
        seal = _seal(tensors, texts)
    # Beside its own error the library lets through those of what it calls, for dtypes it half knows.
    except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise damaged(f"its tensors cannot be read ({error})") from error
    if texts.pop(_SEAL, None) != seal:
        raise damaged("its content does not fit its checksum: it was altered or damaged on its way")
    return tensors, {key: value for key, value in texts.items() if key not in RULES}


def damaged(what: str, expected: str = "a file as irnet_convert.save_packed wrote it") -> PackedFileError:
    """The error of everything that is wrong with a file's content."""
    return PackedFileError(
        what,
        expected=expected,
        mend="copy the file again, or pack the model again with irnet_convert.pack",
    )


def _bytes_of(path: Path) -> bytes:
    # Read once: what was checked cannot change afterwards, as a mapped file could.
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise PackedFileError(
            "it is a directory", expected="a file that irnet_convert.save_packed wrote",
            mend=f"name the file in it: {path / 'packed.safetensors'}"
            if (path / "packed.safetensors").is_file()
            else "name a file, or make it: irnet-convert pack RUN_DIR OUT.safetensors",
        ) from error  # fmt: skip
    except OSError as error:
        raise PackedFileError(
            f"it cannot be read: {error.strerror or error}",
            expected="a file that irnet_convert.save_packed wrote",
            mend="correct the path, or make the file: irnet-convert pack RUN_DIR OUT.safetensors",
        ) from error


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata of a safetensors file: 8 bytes of length, little-endian, then a JSON object."""
    if len(data) < 8:
        raise damaged(f"it has {len(data)} bytes")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise damaged(f"its header should have {length} bytes, and it has {len(data) - 8} in all")
    try:
        header = load_json(data[8 : 8 + length])
    except ValueError as error:
        raise damaged(f"its header is no JSON ({str(error)[:120]})") from error
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(texts, dict) or not all(isinstance(value, str) for value in texts.values()):
        raise damaged("it has no metadata", "a packed file; other safetensors files hold weights alone")
    for name, entry in header.items():
        if name != "__metadata__" and (not isinstance(entry, dict) or entry.keys() != _ENTRY):
            keys = sorted(entry) if isinstance(entry, dict) else type(entry).__name__
            raise damaged(f"its tensor {name[:60]!r} has the keys {_short(keys)}", f"{sorted(_ENTRY)}")
    return texts


def _check_rules(texts: Mapping[str, str]) -> None:
    if texts.get("format") != RULES["format"]:
        raise damaged(f"its format is {_short(texts.get('format'))}", f"format {RULES['format']!r}")
    if (found := texts.get("format_version")) != RULES["format_version"]:
        raise PackedFileError(
            f"it is of format version {_short(found)}",
            expected=f"version {FORMAT_VERSION}",
            mend="install the irnet-convert that wrote it, or pack the model again with this one",
        )
    for key, rule in RULES.items():
        if texts.get(key) != rule:
            raise damaged(f"its rule {key!r} is {_short(texts.get(key))}", repr(rule))


def _seal(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """SHA-256 over everything but itself, in an order that does not depend on the file's.

    It finds damage, not forgery: whoever can alter the file can compute it anew.
    """
    found = hashlib.sha256()
    names = sorted(tensors)
    table = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    kept = sorted((key, value) for key, value in texts.items() if key != _SEAL)
    found.update(json.dumps([table, kept]).encode())
    for name in names:
        raw = tensors[name].detach().cpu().contiguous().flatten().view(uint8)
        found.update(raw.numpy().data)
    return found.hexdigest()


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."
