"""How long each step of a packed network takes, and how near the binary ones come to the machine's limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from irnet_convert.packed import engine, ops
from irnet_convert.packed.model import PackedModel
from irnet_convert.packed.shapes import infer_shapes
from irnet_convert.packed.steps import BinaryConv, BinaryLinear, Conv, Linear, Program

_ROUNDS = 15


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """One step of a region.

    Attributes:
        kind: of the step; "inputs" and "outputs" are what a region does before and after its steps.
        name: of its weight, or "".
        shape: of its output.
        seconds: median.
        macs: multiply-adds, padded places included; 0 for steps without weights.
        joined: done with a step before it, whose time holds both: a pooling, or a threshold whose signs are
            read.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    seconds: float
    macs: int
    joined: bool = False


def step_times(packed: PackedModel, images: Tensor) -> list[StepTime]:
    """The steps of every region in execution order; none where the reference runs.

    Args:
        packed: on the CPU.
        images: float32, (N, C, H, W).
    """
    if engine.isa_in_use() == "reference":
        return []
    recorder = _Recorder(packed.body)
    with torch.inference_mode():
        recorder.run(images)
    found: list[StepTime] = []
    for inputs, blob, text, *_ in recorder.calls:
        found += _region(ops.program_of(text), engine.plan_for(text, blob), inputs)
    return found


def binary_share(times: Sequence[StepTime], threads: int, limit: float) -> float | None:
    """The share of the popcount limit that the binary steps reach together, 0 to 1.

    Args:
        times: of :func:`step_times`.
        threads: that they used.
        limit: binary multiply-adds a second of one core.

    Returns:
        None where there is no limit to compare with, or no binary step.
    """
    binary = [t for t in times if t.kind.startswith("binary")]
    seconds = sum(t.seconds for t in binary)
    if not limit or not seconds:
        return None
    return sum(t.macs for t in binary) / seconds / (limit * threads)


class _Recorder(fx.Interpreter):
    """Runs the graph and keeps what each region is called with."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.calls: list[tuple[Any, ...]] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is ops.run_program:
            self.calls.append(args)
        return super().call_function(target, args, kwargs)


def _region(program: Program, plan: engine.Plan, inputs: list[Tensor]) -> list[StepTime]:
    rounds = []
    for _ in range(_ROUNDS):
        times = torch.zeros(len(program.steps) + 2, dtype=torch.float64)
        plan.run(inputs, times=times)
        rounds.append(times)
    median = torch.stack(rounds).median(0).values.tolist()
    shapes = infer_shapes(program, [x.shape for x in inputs])[len(inputs) :]
    first, last = ((kind, "", (), 0) for kind in ("inputs", "outputs"))
    rows = [
        first,
        *map(lambda s, o: (s.kind, _name(program, s), o, _macs(program, s, o)), program.steps, shapes),
        last,
    ]
    return [
        StepTime(
            kind=kind,
            name=name,
            shape=shape,
            seconds=seconds,
            macs=macs,
            joined=seconds == 0,  # exactly: the native code says so
        )
        for (kind, name, shape, macs), seconds in zip(rows, median, strict=True)
    ]


def _name(program: Program, step: Any) -> str:
    weighted = isinstance(step, BinaryConv | BinaryLinear | Conv | Linear)
    return (
        program.constants[step.weight].name.removesuffix(".levels").removesuffix(".weight")
        if weighted
        else ""
    )


def _macs(program: Program, step: Any, shape: tuple[int, ...]) -> int:
    if not isinstance(step, BinaryConv | BinaryLinear | Conv | Linear):
        return 0
    return math.prod(shape) * math.prod(program.constants[step.weight].shape[1:])
