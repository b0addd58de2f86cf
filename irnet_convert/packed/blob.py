"""Where a program's constants lie in memory: one uint8 tensor, each constant at a multiple of 64 bytes.

Offsets follow from the table of constants; they are computed and never stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from irnet_convert.packed.bits import check_padding, row_bytes, unpack_bits
from irnet_convert.packed.steps import BinaryConv, BinaryLinear, ConstSpec, Conv, Linear, Program
from irnet_convert.packed.strict import malformed

ALIGNMENT = 64

#: Element types in storage; "bits" are bytes.
TORCH_DTYPES: dict[str, torch.dtype] = {
    "bits": torch.uint8,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "i16": torch.int16,
}


def stored_shape(spec: ConstSpec) -> tuple[int, ...]:
    """The shape of a constant's tensor in storage: the logical one, or (O, bytes a row) for bits."""
    return (spec.shape[0], row_bytes(spec.shape)) if spec.dtype == "bits" else spec.shape


def stored_bytes(spec: ConstSpec) -> int:
    """Bytes of a constant in storage, without alignment."""
    return math.prod(stored_shape(spec)) * TORCH_DTYPES[spec.dtype].itemsize


def offsets(program: Program) -> tuple[list[int], int]:
    """The byte offset of each constant in the blob, and the size of the blob in bytes."""
    found, end = [], 0
    for spec in program.constants:
        found.append(end)
        end += -(-stored_bytes(spec) // ALIGNMENT) * ALIGNMENT
    return found, end


def make_blob(program: Program, tensors: Mapping[str, Tensor]) -> Tensor:
    """The blob of a program, validated.

    Args:
        program: validated.
        tensors: each constant by name, as stored: exactly its dtype and stored shape.

    Returns:
        uint8, (size,), on the CPU; its address is a multiple of 64.

    Raises:
        ProgramError: a constant is missing, of another dtype or shape, or holds what it must not.
    """
    places, size = offsets(program)
    blob = torch.zeros(size, dtype=torch.uint8)
    for spec, place in zip(program.constants, places, strict=True):
        tensor = tensors.get(spec.name)
        if tensor is None:
            raise malformed(f"the constant {spec.name} is missing", "every constant of the program")
        if tensor.dtype != TORCH_DTYPES[spec.dtype] or tuple(tensor.shape) != stored_shape(spec):
            raise malformed(
                f"the constant {spec.name} is {tensor.dtype} of shape {tuple(tensor.shape)}",
                f"{TORCH_DTYPES[spec.dtype]} of shape {stored_shape(spec)}",
            )
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        blob[place : place + raw.numel()] = raw
    check_blob(program, blob)
    return blob


def stored(program: Program, blob: Tensor, index: int, places: list[int] | None = None) -> Tensor:
    """A constant as stored: a view into the blob. Who reads many gives the ``places`` of :func:`offsets`."""
    spec = program.constants[index]
    place = (places or offsets(program)[0])[index]
    raw = blob[place : place + stored_bytes(spec)]
    return raw.view(TORCH_DTYPES[spec.dtype]).reshape(stored_shape(spec))


def constant(program: Program, blob: Tensor, index: int) -> Tensor:
    """A constant as the reference computes with it: ±1 and reals as float32, integers as they are."""
    spec = program.constants[index]
    raw = stored(program, blob, index)
    if spec.dtype == "bits":
        return unpack_bits(raw, spec.shape)
    return raw if spec.dtype in ("i8", "i16") else raw.float()


def check_blob(program: Program, blob: Tensor) -> None:
    """Validate the constants' values: no bit behind a row's end, no integer sum that could overflow int32.

    Raises:
        ProgramError: a blob of the wrong kind or size, or a value out of range.
    """
    places, size = offsets(program)
    if blob.dtype != torch.uint8 or blob.dim() != 1 or blob.numel() != size or not blob.is_contiguous():
        raise malformed(
            f"a blob of {blob.dtype}, shape {tuple(blob.shape)}", f"{size} contiguous bytes (uint8)"
        )
    for step in program.steps:
        if not isinstance(step, BinaryConv | Conv | BinaryLinear | Linear):
            continue
        spec = program.constants[step.weight]
        raw = stored(program, blob, step.weight, places)
        if spec.dtype == "bits":
            check_padding(raw, spec.shape, spec.name)
        elif isinstance(step, Conv) and step.input_bits is not None:
            largest = int(raw.to(torch.int64).abs().flatten(1).sum(1).max()) * (
                (1 << (step.input_bits - 1)) - 1
            )
            if largest >= 1 << 31:
                raise malformed(
                    f"{spec.name} with {step.input_bits}-bit inputs sums up to {largest}", "less than 2^31"
                )
