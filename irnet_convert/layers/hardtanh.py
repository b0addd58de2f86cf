"""Hardtanh that keeps its output for the backward pass, which the layer that it feeds keeps too.

PyTorch's keeps its input; done in place, a copy of it. Beside a binary layer's own input that would be a
second tensor. The output tells as much: the gradient is zero where it is at a bound, which is where the input
is at the bound or beyond.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hardtanh(nn.Hardtanh):
    """nn.Hardtanh with the same values and gradients; see the module's text."""

    def forward(self, input: Tensor) -> Tensor:
        return hardtanh(input, self.min_val, self.max_val, self.inplace)


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """F.hardtanh with the same values and gradients, that keeps its output for the backward pass.

    Args:
        x: any shape and floating dtype.
        min_val: lower bound.
        max_val: upper bound.
        inplace: write the result into ``x``.
    """
    spelled = torch.compiler.is_exporting() or torch._C._is_tracing()
    if spelled or not (torch.is_grad_enabled() and x.requires_grad):
        return F.hardtanh(x, min_val, max_val, inplace)
    if torch.compiler.is_compiling():
        out = _Hardtanh.apply(x, min_val, max_val, False)
        if inplace:
            x.copy_(out)
        return out  # not x: a compiler would keep both, as two tensors
    if inplace and x._is_view():  # its base would have to be told of what is written into it
        return F.hardtanh(x, min_val, max_val, inplace)
    return _Hardtanh.apply(x, min_val, max_val, inplace)


class _Hardtanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float, inplace: bool) -> Tensor:
        ctx.bounds = low, high
        if inplace:
            ctx.mark_dirty(x)
        output = F.hardtanh(x, low, high, inplace)
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (out,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, out, *ctx.bounds), None, None, None
