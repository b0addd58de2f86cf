"""Packed files that somebody has prepared: each case is one idea of how to make loading them go wrong.

A case is a function that spoils a good file. The seal is made right again, for a checksum finds damage, not
malice.
"""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from irnet_convert.packed.container import read_sealed, write_sealed


def _json(key: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """One of the file's JSON texts, changed as somebody wants it."""

    def spoil(path: Path) -> None:
        tensors, texts = read_sealed(path)
        data = json.loads(texts[key])
        change(data)
        write_sealed(path, tensors, {**texts, key: json.dumps(data)})

    return spoil


_network = functools.partial(_json, "network")
_program = functools.partial(_json, "program0")


def _many_steps(program: dict[str, Any]) -> None:
    """As many as the file may describe; that the last is wrong is found last."""
    program["steps"] = [*program["steps"] * 500, {**program["steps"][-1], "input": -1}]


def _text(key: str, value: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors, texts = read_sealed(path)
        write_sealed(path, tensors, {**texts, key: value})

    return spoil


def _head(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


PACKED_CASES: dict[str, Callable[[Path], None]] = {
    "packed_empty": _head(b""),
    "packed_pickle": _head(pickle.dumps({"a": 1})),
    "packed_header_of_an_exabyte": _head((2**60).to_bytes(8, "little") + b"{}"),
    "packed_header_nested": _head((600_000).to_bytes(8, "little") + b'{"a":' * 120_000),
    "packed_without_a_seal": lambda path: save_file(
        {"a": torch.zeros(1)}, path, {"format": "irnet-convert packed network"}
    ),
    "packed_network_nested": _text("network", "[" * 1_000_000),
    "packed_network_of_nothing": _text("network", "{}"),
    "packed_labels_without_end": _text("source", json.dumps({"labels": ["n"] * 200_000, "x": 1})),
    "packed_labels_that_end_in_a_list": _text("source", json.dumps({"labels": ["n"] * 200_000 + [[]]})),
    "packed_source_of_notes_without_end": _text("source", json.dumps({"notes": ["n"] * 200_000, "x": 1})),
    "packed_more_programs": _network(lambda n: n.update(programs=10**9)),
    "packed_inputs_without_end": _network(lambda n: n.update(inputs=n["inputs"] * 15_000)),
    "packed_step_to_import": _program(lambda p: p["steps"][0].update(kind="os.system")),
    "packed_register_outside": _program(lambda p: p["steps"][0].update(input=-1)),
    "packed_constants_of_a_terabyte": _program(lambda p: p["constants"][0].update(shape=[10**6, 10**6])),
    "packed_steps_without_end": _program(_many_steps),
}
