"""Multiples of a power of two, as integers of 2 bytes and back."""

from __future__ import annotations

import torch
from torch import Tensor

from irnet_convert.binary.passes import call, operator, rows_a_part, rows_of_channels


def counts(x: Tensor, steps: Tensor) -> Tensor:
    """By how many steps x is a multiple of them, in int16.

    Args:
        x: multiples that fit, (N, C, ...), float32 or float64. Where an algorithm of convolution
            rounded on its way (Winograd's), the integer is what it meant.
        steps: a power of two per channel, (C, 1, ...).

    Returns:
        Shape and memory format of ``x``. NaN, which a broken filter gives, becomes any integer.
    """
    return _counts(x, steps)


def from_counts(counts: Tensor, steps: Tensor) -> Tensor:
    """What :func:`counts` was given, bit for bit (but for the sign of a zero), in the dtype of ``steps``."""
    return _from_counts(counts, steps)


def _by_tensors(x: Tensor, steps: Tensor) -> Tensor:
    return x.mul(1 / steps).round_().to(torch.int16)  # the reciprocal of a power of two is exact


def _natively(x: Tensor, steps: Tensor) -> Tensor | None:
    rows = rows_of_channels(x, steps) if x.dtype is torch.float32 else 0
    return _run("counts", x, steps, torch.int16, rows) if rows else None


def _back_by_tensors(counts: Tensor, steps: Tensor) -> Tensor:
    return counts * steps


def _back_natively(counts: Tensor, steps: Tensor) -> Tensor | None:
    rows = rows_of_channels(counts, steps)
    return _run("from_counts", counts, steps, torch.float32, rows) if rows else None


def _run(name: str, x: Tensor, steps: Tensor, dtype: torch.dtype, rows: int) -> Tensor | None:
    out, channels = torch.empty_like(x, dtype=dtype), x.shape[1]
    return out if call(name, (x, steps, out), rows, channels, rows_a_part(channels)) else None


_counts = operator("counts(Tensor x, Tensor steps) -> Tensor", _by_tensors, _natively)
_from_counts = operator(
    "from_counts(Tensor counts, Tensor steps) -> Tensor", _back_by_tensors, _back_natively
)
