"""One bit for each number of a tensor: whether it lies between two bounds; and a gradient where it does.

In every block of 128 numbers, number i is bit i // 16 of byte i % 16: vectors of a processor are put
together without a bit that changes its lane. The numbers are taken in the order of their dimensions, those of
images in channels_last in the order of memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from irnet_convert.binary.passes import call, operator

_BLOCK, _BYTES = 128, 16


def inside(x: Tensor, low: float, high: float) -> Tensor:
    """Bits that say where ``not (x <= low or x >= high)``, so at NaN too.

    Args:
        x: any shape, memory format and floating dtype.
        low: lower bound.
        high: upper bound.

    Returns:
        uint8, 16 bytes for every 128 numbers: (blocks, 16), or (blocks, 1, 16) for channels_last.
    """
    last = _channels_last(x)
    bits = _inside(_flat(x, last), float(low), float(high))
    return bits.unsqueeze(1) if last else bits


def where_inside(bits: Tensor, grad: Tensor) -> Tensor:
    """``grad`` where the bit of :func:`inside` is set, 0 elsewhere.

    Args:
        bits: of a tensor of the shape of ``grad``.
        grad: any memory format and floating dtype.

    Returns:
        Shape and dtype of ``grad``.
    """
    last = bits.dim() == 3
    run = _where_by_tensors if torch.is_grad_enabled() else _where_inside
    found = run(bits.flatten(), _flat(grad, last))
    if not last:
        return found.view(grad.shape)
    images, channels, height, width = grad.shape
    return found.view(images, height, width, channels).permute(0, 3, 1, 2)


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def _flat(x: Tensor, channels_last: bool) -> Tensor:
    return (x.permute(0, 2, 3, 1) if channels_last else x).reshape(-1).contiguous()


def _inside_by_tensors(x: Tensor, low: float, high: float) -> Tensor:
    found = ~((x <= low) | (x >= high))
    bits = F.pad(found, (0, -x.numel() % _BLOCK)).view(-1, 8, _BYTES).to(torch.uint8)
    return (bits << _shifts(x)).sum(1, dtype=torch.uint8)


def _where_by_tensors(bits: Tensor, grad: Tensor) -> Tensor:
    found = (bits.view(-1, 1, _BYTES) >> _shifts(bits)) & 1
    return torch.where(found.view(-1)[: grad.numel()] != 0, grad, 0.0)


def _shifts(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device).view(8, 1)


def _inside_natively(x: Tensor, low: float, high: float) -> Tensor | None:
    if x.dtype is not torch.float32:
        return None
    bits = x.new_empty(-(-x.numel() // _BLOCK), _BYTES, dtype=torch.uint8)
    return bits if call("inside", (x, bits), x.numel(), low, high) else None


def _where_natively(bits: Tensor, grad: Tensor) -> Tensor | None:
    if grad.dtype is not torch.float32:
        return None
    out = torch.empty_like(grad)
    return out if call("where_inside", (bits, grad, out), grad.numel()) else None


_inside = operator("inside(Tensor x, float low, float high) -> Tensor", _inside_by_tensors, _inside_natively)
_where_inside = operator(
    "where_inside(Tensor bits, Tensor grad) -> Tensor", _where_by_tensors, _where_natively
)
