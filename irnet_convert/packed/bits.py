"""±1 ↔ bits, in plain PyTorch: one bit a weight, 1 for +1 and 0 for −1.

A weight (O, I, kH, kW) becomes O rows of K = kH·kW·I bits in the order (kH, kW, I), I fastest; (O, I) becomes
rows of I bits. The first bit of a row is the lowest bit of its first byte. Each row is filled up with zero
bits to whole bytes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from irnet_convert.packed.strict import malformed


def row_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of one output channel's bits, for a weight of this logical shape (O, I, ...)."""
    return (math.prod(shape[1:]) + 7) // 8


def pack_bits(weight: Tensor) -> Tensor:
    """The signs of a weight as bits.

    Args:
        weight: (O, I, kH, kW) or (O, I), any real dtype or bool; what is above 0 (True) becomes bit 1.

    Returns:
        uint8, (O, ⌈K/8⌉), on the weight's device.
    """
    rows = (weight.movedim(1, -1) > 0).reshape(weight.shape[0], -1)
    k = rows.shape[1]
    padded = rows.new_zeros(rows.shape[0], -(-k // 8) * 8)
    padded[:, :k] = rows
    places = torch.arange(8, dtype=torch.uint8, device=weight.device)
    shifted = padded.reshape(rows.shape[0], -1, 8).to(torch.uint8) << places
    return shifted.sum(-1, dtype=torch.int32).to(torch.uint8)


def unpack_bits(packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    """The ±1 weight that :func:`pack_bits` packed.

    Args:
        packed: uint8, (O, ⌈K/8⌉).
        shape: the logical shape, (O, I, kH, kW) or (O, I).
        dtype: of the result.

    Returns:
        ±1, contiguous, of that shape and dtype.
    """
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    bits = ((packed.unsqueeze(-1) >> places) & 1).reshape(shape[0], -1)
    rows = bits[:, : math.prod(shape[1:])].to(dtype) * 2 - 1
    if len(shape) == 2:
        return rows
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1).contiguous()


def check_padding(packed: Tensor, shape: tuple[int, ...], name: str) -> None:
    """Refuse bits behind the end of a row that are not zero.

    Args:
        packed: uint8, (O, ⌈K/8⌉).
        shape: the logical shape.
        name: of the constant, for the error.

    Raises:
        ProgramError: a nonzero padding bit.
    """
    used = math.prod(shape[1:]) % 8
    if used and bool((packed[:, -1] >> used).any()):
        raise malformed(f"{name} has nonzero bits behind the end of a row", "zeros there")
