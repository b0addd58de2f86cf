"""Hardtanh that keeps its output for the backward pass, which the layer that it feeds keeps too.

PyTorch's keeps its input; done in place, a copy of it. Beside a binary layer's own input that would be a
second tensor. The output tells as much: the gradient is zero where it is at a bound, which is where the input
is at the bound or beyond. Where the layer that it feeds does not keep its input, one bit a number is enough.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.layers.inside import inside, where_inside
from irnet_convert.layers.keeping import functions_are_compact


class Hardtanh(nn.Hardtanh):
    """nn.Hardtanh with the same values and gradients; see the module's text.

    Attributes:
        compact: keep one bit a number for the backward pass: see ``set_compact``.
    """

    compact: bool = False

    def forward(self, input: Tensor) -> Tensor:
        return hardtanh(input, self.min_val, self.max_val, self.inplace, compact=self.compact)


def hardtanh(
    x: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
    *,
    compact: bool | None = None,
) -> Tensor:
    """F.hardtanh with the same values and gradients, that keeps its output for the backward pass, or bits.

    Args:
        x: any shape and floating dtype.
        min_val: lower bound.
        max_val: upper bound.
        inplace: write the result into ``x``.
        compact: keep one bit a number in place of the output; if None, where a module with a converted
            forward pass calls it to which ``set_compact`` was applied.
    """
    spelled = torch.compiler.is_exporting() or torch._C._is_tracing()
    if spelled or not (torch.is_grad_enabled() and x.requires_grad):
        return F.hardtanh(x, min_val, max_val, inplace)
    if torch.compiler.is_compiling():
        out = _Hardtanh.apply(x, min_val, max_val, False, bool(compact))
        if inplace:
            x.copy_(out)
        return out  # not x: a compiler would keep both, as two tensors
    if inplace and x._is_view():  # its base would have to be told of what is written into it
        return F.hardtanh(x, min_val, max_val, inplace)
    if compact is None:
        compact = functions_are_compact()
    return _Hardtanh.apply(x, min_val, max_val, inplace, compact)


class _Hardtanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, inplace: bool, compact: bool) -> Tensor:
        ctx.bounds, ctx.compact = (low, high), compact
        if inplace:
            ctx.mark_dirty(x)
        output = F.hardtanh(x, low, high, inplace)
        ctx.save_for_backward(inside(output, low, high) if compact else output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        if ctx.compact:
            return where_inside(kept, grad), None, None, None, None
        return torch.ops.aten.hardtanh_backward(grad, kept, *ctx.bounds), None, None, None, None
