"""GELU and SiLU that keep a byte of each number for the backward pass: their derivative there.

Both derivatives lie between −0.1292 (GELU's, at x = −√2) and 1.1292, whatever x is. So a byte that counts
202nds from −26/202 = −0.1287 up holds one within 0.5/202 = 0.0025, and 0 and 1, where both functions end,
exactly. As hooks around the module: it computes its output itself, of its input without a gradient.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.errors import ModelError

_aten = torch.ops.aten

#: Codes from one to the next whole number of the derivative, and the code of 0.
LEVELS, ZERO = 202, 26


def of_gelu(gelu: nn.GELU, x: Tensor) -> Tensor:
    """GELU's derivative at x."""
    return _aten.gelu_backward(x.new_ones(()).expand_as(x), x, approximate=gelu.approximate)


def of_silu(silu: nn.SiLU, x: Tensor) -> Tensor:
    """SiLU's derivative at x."""
    return _aten.silu_backward(x.new_ones(()).expand_as(x), x)


def derivative_of(module: nn.Module) -> Callable[[Any, Tensor], Tensor] | None:
    """(module, x) → its derivative at x; None where the module is another, or writes over its input."""
    if isinstance(module, nn.GELU):
        return of_gelu
    return of_silu if isinstance(module, nn.SiLU) and not module.inplace else None


class _Here(threading.local):
    def __init__(self) -> None:
        self.open: list[tuple[nn.Module, Tensor, Tensor]] = []


_here = _Here()


@dataclass(frozen=True)
class Encodes:
    """A forward pre-hook: makes the byte of each number; the module gets its input without a gradient."""

    derivative: Callable[[Any, Tensor], Tensor]
    wanted: Callable[[tuple[Any, ...]], bool]

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor] | None:
        if len(inputs) != 1 or not self.wanted(inputs) or not inputs[0].requires_grad:
            return None
        with torch.no_grad():
            codes = encode(self.derivative(module, inputs[0].detach()))
        _here.open.append((module, inputs[0], codes))
        return (inputs[0].detach(),)


@dataclass(frozen=True)
class Derives:
    """A forward hook, called whatever happens: the output hangs on the input by the bytes."""

    def __call__(self, module: nn.Module, inputs: object, output: object) -> Tensor | None:
        if torch.compiler.is_compiling() or not _here.open or _here.open[-1][0] is not module:
            return None
        _, x, codes = _here.open.pop()
        return _Derived.apply(x, output, codes) if isinstance(output, Tensor) else None


class _Derived(torch.autograd.Function):
    """``output``, which is some f(x), with a gradient to x by the codes of f'(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: Tensor, codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        ctx.mark_dirty(output)  # or it would be a view, which nobody may write over
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise ModelError(
                "the gradient of a gradient (create_graph=True) of a compact model's GELU or SiLU, which "
                "kept one byte a number",
                expected="first gradients alone while the model is compact",
                mend="call irnet_convert.layers.set_compact(model, False) before the forward pass",
            )
        (codes,) = ctx.saved_tensors
        return decode(codes, grad.dtype).mul_(grad), None, None


def encode(derivative: Tensor) -> Tensor:
    """A derivative as round(202·f') + 26, uint8. Writes over its argument, any shape and floating dtype."""
    return derivative.float().mul_(LEVELS).add_(ZERO).round_().clamp_(0, 255).to(torch.uint8)


def decode(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """The derivative within 0.5/202, of the shape of ``codes``."""
    return codes.to(dtype).sub_(ZERO).div_(LEVELS)
