"""``torch.ops.irnet_convert.run_program``: a program as one operator that PyTorch's tools understand.

    run_program(Tensor[] inputs, Tensor blob, str program, bool keep_format=False) -> Tensor[]

It is functional: it writes to none of its arguments and its results are new. On the CPU the native kernels
run it where there are any, else, and on other devices, the reference. Half inputs are computed in float32 and
the results are of the first input's dtype. They are contiguous; with ``keep_format`` maps lie channels last
where the first input does, as PyTorch's convolutions have it, and no copy is made to bring them there.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from irnet_convert.errors import ArgumentError, NativeError
from irnet_convert.packed.check import maps_among_outputs
from irnet_convert.packed.reference import run_reference
from irnet_convert.packed.shapes import infer_shapes
from irnet_convert.packed.steps import Program, parse_program

#: What inputs may be.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)

#: The program of a text, parsed once.
program_of: Callable[[str], Program] = functools.lru_cache(maxsize=256)(parse_program)

_library = torch.library.Library("irnet_convert", "FRAGMENT")
_library.define(
    "run_program(Tensor[] inputs, Tensor blob, str program, bool keep_format=False) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@functools.cache
def engine() -> Any:
    """The module of the native kernels, or None where this installation has none."""
    name = "irnet_convert.packed.engine"
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        return None


def _run(inputs: Sequence[Tensor], blob: Tensor, program: str, keep_format: bool = False) -> list[Tensor]:
    _check(inputs, blob)
    native = engine() if blob.is_cpu else None
    isa = native.isa_in_use() if native is not None else "reference"
    if native is None or isa == "reference":
        return run_in_reference(inputs, blob, program, keep_format)
    try:
        plan = native.plan_for(program, blob, isa)
    except NativeError:  # the engine warns of it, once
        return run_in_reference(inputs, blob, program, keep_format)
    found = plan.run(inputs, maps=_format(inputs, keep_format))
    dtype = inputs[0].dtype
    return found if dtype == torch.float32 else [y.to(dtype) for y in found]


def run_in_reference(
    inputs: Sequence[Tensor], blob: Tensor, program: str, keep_format: bool = False
) -> list[Tensor]:
    """What the operator computes, by the reference alone, whatever kernels there are."""
    parsed, maps = program_of(program), _format(inputs, keep_format)
    found = run_reference(parsed, blob, [x.float() for x in inputs])
    return [
        (y.contiguous(memory_format=maps) if is_map else y).to(inputs[0].dtype)
        for y, is_map in zip(found, maps_among_outputs(parsed), strict=True)
    ]


def _format(inputs: Sequence[Tensor], keep: bool) -> torch.memory_format:
    """Of the maps among the outputs."""
    x = inputs[0]
    last = (
        keep and x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    )
    return torch.channels_last if last else torch.contiguous_format


def _fake(inputs: Sequence[Tensor], blob: Tensor, program: str, keep_format: bool = False) -> list[Tensor]:
    _check(inputs, blob)
    parsed = program_of(program)
    shapes = infer_shapes(parsed, [x.shape for x in inputs])
    maps = _format(inputs, keep_format)
    made = [inputs[0].new_empty(shapes[i]) for i in parsed.outputs]
    return [
        y.to(memory_format=maps) if is_map else y
        for y, is_map in zip(made, maps_among_outputs(parsed), strict=True)
    ]


def _check(inputs: Sequence[Tensor], blob: Tensor) -> None:
    for x in inputs:
        if x.device != blob.device:
            raise ArgumentError(
                f"an input on {x.device} for constants on {blob.device}",
                expected="one device",
                mend=f"packed.to({str(x.device)!r}), or input.to({str(blob.device)!r})",
            )
        if x.dtype not in DTYPES or x.dtype != inputs[0].dtype:
            raise ArgumentError(
                f"inputs of {', '.join(str(one.dtype) for one in inputs)}",
                expected="one of float32, float16 and bfloat16, the same for all",
                mend="convert them: input.float()",
            )


_library.impl("run_program", _run, "CompositeExplicitAutograd")
torch.library.register_fake("irnet_convert::run_program", _fake, lib=_library)
run_program: Any = torch.ops.irnet_convert.run_program.default
