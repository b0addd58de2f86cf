"""Packed networks of one region, made by hand from a program."""

from __future__ import annotations

import torch
from program_cases import Case, case_of

from irnet_convert.packed.model import PackedModel
from irnet_convert.packed.network import InputArg, InputSpec, ListArg, Network, NodeArg, RegionNode
from irnet_convert.packed.steps import (
    Add,
    Affine,
    BinaryConv,
    Clamp,
    ConstSpec,
    Conv,
    GlobalAvgPool,
    Linear,
    MaxPool,
    Program,
    Subsample,
    ValueSpec,
)


def packed_of(case: Case, name: str = "case") -> PackedModel:
    """A network that is the program of a case, and returns its outputs as a list."""
    inputs = tuple(
        InputSpec(name=f"x{i}", shape=_free(s.channels, s.rank, 1 if s.layout == "map" else s.rank - 1))
        for i, s in enumerate(case.program.inputs)
    )
    region = RegionNode(program=0, args=tuple(InputArg(index=i) for i in range(len(inputs))))
    output = ListArg(items=tuple(NodeArg(node=0, item=i) for i in range(len(case.program.outputs))))
    network = Network(programs=1, inputs=inputs, constants=(), nodes=(region,), output=output)
    return PackedModel(network, [case.program], [case.blob], {}, {"name": name})


def _free(channels: int, rank: int, axis: int) -> tuple[int | None, ...]:
    return tuple(channels if a == axis else None for a in range(rank))


def small_resnet(seed: int = 0, batch: int = 2) -> Case:
    """A stem, two binary layers with a parameter-free shortcut, and a head, at 3×17×15."""
    constants = [
        ConstSpec(name="conv1.weight", dtype="f32", shape=(16, 3, 3, 3)),
        ConstSpec(name="block.conv1.weight", dtype="bits", shape=(16, 16, 3, 3)),
        ConstSpec(name="block.conv2.weight", dtype="bits", shape=(32, 16, 3, 3)),
        ConstSpec(name="fc.weight", dtype="f32", shape=(10, 32)),
        *(ConstSpec(name=f"affine{i}.{which}", dtype="f32", shape=(channels,))
          for i, channels in enumerate((16, 16, 32, 10)) for which in ("scale", "shift")),
    ]  # fmt: skip
    affine = [Affine(scale=4 + 2 * i, shift=5 + 2 * i) for i in range(4)]
    clamp, one = Clamp(min=-1.0, max=1.0), (1, 1, 1, 1)
    steps = (
        Conv(input=0, weight=0, padding=one, post=(affine[0],)),
        MaxPool(input=1, kernel=(3, 3), stride=(2, 2), padding=(1, 1), post=(clamp,)),
        BinaryConv(input=2, weight=1, padding=one, post=(affine[1], Add(value=2), clamp)),
        Subsample(input=3, stride=(2, 2), before=8, after=8),
        BinaryConv(input=3, weight=2, stride=(2, 2), padding=one, post=(affine[2], Add(value=4), clamp)),
        GlobalAvgPool(input=5),
        Linear(input=6, weight=3, post=(affine[3],)),
    )
    spec = ValueSpec(layout="map", channels=3, rank=4)
    program = Program(inputs=(spec,), constants=tuple(constants), steps=steps, outputs=(7,))
    torch.manual_seed(seed)
    return case_of(program, [(batch, 3, 17, 15)], seed, special=False)
