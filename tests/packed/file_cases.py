"""Parts of packed files, and ways to spoil them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from packed_cases import small_resnet
from torch import Tensor

from irnet_convert.packed.bits import pack_bits
from irnet_convert.packed.blob import make_blob, stored
from irnet_convert.packed.container import read_sealed, write_sealed
from irnet_convert.packed.model import PackedModel
from irnet_convert.packed.network import (
    ConstantArg,
    DictArg,
    InputArg,
    InputSpec,
    ListArg,
    Network,
    NodeArg,
    OpNode,
    RegionNode,
    TensorSpec,
)
from irnet_convert.packed.steps import BinaryLinear, ConstSpec, Program


@dataclass
class Parts:
    """What a packed file holds behind its seal."""

    tensors: dict[str, Tensor]
    texts: dict[str, str]

    def copy(self) -> Parts:
        return Parts({k: v.clone() for k, v in self.tensors.items()}, dict(self.texts))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Parts)
            and self.texts == other.texts
            and self.tensors.keys() == other.tensors.keys()
            and all(
                t.dtype == other.tensors[k].dtype and torch.equal(t, other.tensors[k])
                for k, t in self.tensors.items()
            )
        )


def saved_parts(path: Path) -> Parts:
    """The parts of a file."""
    return Parts(*read_sealed(path))


def write_parts(parts: Parts, path: Path) -> None:
    """A file of these parts, with a right seal."""
    write_sealed(path, parts.tensors, parts.texts)


def mixed_network(source: Mapping[str, Any]) -> PackedModel:
    """The small ResNet with a binary head of 20 inputs (a row that ends inside a byte), then PyTorch.

    A softmax over its logits, and a product with a float16 constant, stay in PyTorch.
    """
    case = small_resnet()
    program = case.program
    tensors = {c.name: stored(program, case.blob, i) for i, c in enumerate(program.constants)}
    torch.manual_seed(1)
    tensors["odd.weight"] = pack_bits(torch.randn(4, 10))
    steps = (*program.steps, BinaryLinear(input=7, weight=len(program.constants)))
    odd = ConstSpec(name="odd.weight", dtype="bits", shape=(4, 10))
    program = Program(inputs=program.inputs, constants=(*program.constants, odd), steps=steps, outputs=(7, 8))
    # Twelve rows of bits fill whole bytes; rows of ten leave six bits that must be zero.
    network = Network(
        programs=1,
        inputs=(InputSpec(name="x", shape=(None, 3, None, None)),),
        constants=(TensorSpec(name="head.weight", dtype="float16", shape=(10, 2)),),
        nodes=(
            RegionNode(program=0, args=(InputArg(index=0),)),
            OpNode(op="aten.softmax.int", args=(NodeArg(node=0, item=0), 1)),
            OpNode(op="aten.matmul.default", args=(NodeArg(node=1), ConstantArg(index=0))),
        ),
        output=DictArg(
            keys=("logits", "both"),
            items=(NodeArg(node=0, item=0), ListArg(items=(NodeArg(node=2), NodeArg(node=0, item=1)))),
        ),
    )
    constants = {"head.weight": torch.randn(10, 2).half()}
    return PackedModel(network, [program], [make_blob(program, tensors)], constants, source)


_VALUES = [
    0, 1, -1, 2, 3, 7, 255, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, -(1 << 63), 1 << 70, 0.5, -0.0,
    1e308, True, False, None, "", "x", "same", "bits", "f32", "i8", "zeros", "reflect", [], {}, [0], [1, 1],
    [0, 0, 0, 0], {"kind": "input", "index": 0}, {"kind": "node", "node": 0}, "aten.relu.default",
    "aten.reshape.default",
]  # fmt: skip


def mutated(good: Parts, seed: int, count: int) -> Parts:
    """A copy with ``count`` changes: values of the JSON texts, their structure, or tensors."""
    draw, parts = random.Random(seed), good.copy()
    for _ in range(count):
        if draw.random() < 0.8:
            key = draw.choice(["network", "program0", "program0", "source"])
            try:
                data = json.loads(parts.texts[key])
            except (KeyError, ValueError):
                continue
            parts.texts[key] = json.dumps(_changed(data, draw))
        else:
            _change_tensor(parts.tensors, draw)
    return parts


def _changed(data: Any, draw: random.Random) -> Any:
    data = copy.deepcopy(data)
    places = list(_places(data))
    if not places:
        return data
    holder, key = draw.choice(places)
    how = draw.random()
    if how < 0.6:
        holder[key] = copy.deepcopy(draw.choice(_VALUES))
    elif how < 0.75 and isinstance(holder[key], int) and not isinstance(holder[key], bool):
        holder[key] += draw.choice([-1, 1])
    elif how < 0.85:
        del holder[key]
    else:
        other, name = draw.choice(places)
        holder[key] = copy.deepcopy(other[name]) if _has(other, name) else None
    return data


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(data: Any) -> Any:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(items):
        yield data, key
        yield from _places(value)


def _change_tensor(tensors: dict[str, Tensor], draw: random.Random) -> None:
    name = draw.choice(sorted(tensors))
    how, tensor = draw.random(), tensors[name]
    if how < 0.2:
        del tensors[name]
    elif how < 0.4:
        tensors[name] = tensor.flatten()[: draw.randint(0, tensor.numel())].clone()
    elif how < 0.6:
        tensors[name] = tensor.to(
            draw.choice([torch.uint8, torch.int8, torch.float16, torch.float32, torch.int64])
        )
    elif tensor.numel():
        raw = tensor.flatten().view(torch.uint8)
        raw[draw.randrange(raw.numel())] ^= 1 << draw.randrange(8)
