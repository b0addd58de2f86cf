"""Packed networks as files: one safetensors file holds the graph, the programs and every constant.

The metadata holds the network and its programs as strict JSON (``network.py``, ``steps.py``) and what is
known of the source model; each constant is a tensor of its own, as it is stored in a program's blob. The
container's rules, checksum and refusals are those of ``container.py``.

Everything is validated before a tensor reaches native code. A file holds no code: operators that stay in
PyTorch are names out of a literal table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from irnet_convert import __version__
from irnet_convert.errors import ArgumentError, PackedFileError, ProgramError
from irnet_convert.packed.blob import TORCH_DTYPES, make_blob, offsets, stored, stored_shape
from irnet_convert.packed.container import damaged, read_sealed, write_sealed
from irnet_convert.packed.model import PackedModel
from irnet_convert.packed.network import Network, parse_network
from irnet_convert.packed.source import read_source
from irnet_convert.packed.steps import Program, parse_program

_NETWORK, _SOURCE, _WRITER = "network", "source", "irnet_convert_version"


def save_packed(packed: PackedModel, path: str | Path) -> None:
    """Write a packed network to one ``.safetensors`` file, whole or not at all.

    Args:
        packed: of :func:`irnet_convert.pack` or :func:`load_packed`.
        path: where to; an existing file is replaced.

    Raises:
        ArgumentError: ``packed`` is no packed network.
        PackedFileError: the place cannot be written to.
    """
    if not isinstance(packed, PackedModel):
        raise ArgumentError(
            f"save_packed of a {type(packed).__name__}", expected="a packed network",
            mend="pack it first: save_packed(irnet_convert.pack(model), path)",
        )  # fmt: skip
    tensors = {_torch_key(name): tensor.cpu().contiguous() for name, tensor in packed.constants.items()}
    texts = {
        _NETWORK: packed.network.to_json(),
        _SOURCE: json.dumps(packed.source, separators=(",", ":"), allow_nan=False),
        _WRITER: __version__,
    }
    for number, (program, blob) in enumerate(zip(packed.programs, packed.blobs, strict=True)):
        texts[_program_key(number)], places = program.to_json(), offsets(program)[0]
        for index, spec in enumerate(program.constants):
            tensors[_region_key(number, spec.name)] = stored(program, blob.cpu(), index, places).clone()
    write_sealed(path, tensors, texts)


def load_packed(path: str | Path) -> PackedModel:
    """A packed network from its file, on the CPU. It needs neither timm nor the model's own code.

    Args:
        path: of a file that :func:`save_packed` wrote. It may come from anybody: nothing in it is executed,
            and what is wrong with it is found before native code sees it.

    Raises:
        PackedFileError: missing, cut short, altered, of another version, or contradicting itself; the
            message says which.
    """
    try:
        tensors, texts = read_sealed(path)
        return _model_of(tensors, texts)
    except (PackedFileError, ProgramError) as error:
        raise PackedFileError(
            f"the packed file {path} is refused: {error.given}", expected=error.expected, mend=error.mend
        ) from error


def _model_of(tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> PackedModel:
    network = parse_network(_text(texts, _NETWORK))
    expected = {_NETWORK, _SOURCE, _WRITER, *(_program_key(i) for i in range(network.programs))}
    if unknown := sorted(texts.keys() - expected):
        raise damaged(f"its metadata has the unknown key {unknown[0][:60]!r}")
    programs = [parse_program(_text(texts, _program_key(i))) for i in range(network.programs)]
    _check_tensors(network, programs, tensors)
    blobs = [
        make_blob(program, {c.name: tensors[_region_key(i, c.name)] for c in program.constants})
        for i, program in enumerate(programs)
    ]
    constants = {spec.name: tensors[_torch_key(spec.name)] for spec in network.constants}
    return PackedModel(network, programs, blobs, constants, read_source(_text(texts, _SOURCE)))


def _check_tensors(network: Network, programs: list[Program], tensors: Mapping[str, Tensor]) -> None:
    """Refuse a table of tensors that is not exactly the one that the graph asks for.

    Before anything is allocated by the sizes that a program states: those are then the file's own.
    """
    wanted: dict[str, tuple[str, tuple[int, ...]]] = {}
    for number, program in enumerate(programs):
        for c in program.constants:
            dtype = str(TORCH_DTYPES[c.dtype]).removeprefix("torch.")
            wanted[_region_key(number, c.name)] = (dtype, stored_shape(c))
    for spec in network.constants:
        wanted[_torch_key(spec.name)] = (spec.dtype, spec.shape)
    for name, (dtype, shape) in wanted.items():
        if name not in tensors:
            raise damaged(f"the tensor {name} is missing", f"{dtype} of shape {list(shape)}")
        found = tensors[name]
        if str(found.dtype) != f"torch.{dtype}" or tuple(found.shape) != shape:
            raise damaged(
                f"the tensor {name} is {found.dtype} of shape {list(found.shape)}",
                f"{dtype} of shape {list(shape)}",
            )
    if unknown := sorted(tensors.keys() - wanted.keys()):
        raise damaged(f"the tensor {unknown[0][:120]} is no part of its network")


def _text(texts: Mapping[str, str], key: str) -> str:
    if key not in texts:
        raise damaged(f"its metadata has no {key!r}")
    return texts[key]


def _program_key(number: int) -> str:
    return f"program{number}"


def _region_key(number: int, name: str) -> str:
    return f"region{number}.{name}"


def _torch_key(name: str) -> str:
    return f"torch.{name}"
