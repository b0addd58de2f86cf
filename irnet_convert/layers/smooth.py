"""GELU and SiLU that keep a byte of each number for the backward pass: their derivative there.

Both derivatives lie between −0.1292 (GELU's, at x = −√2) and 1.1292, whatever x is. So a byte that counts
202nds from −26/202 = −0.1287 up holds one within 0.5/202 = 0.0025, and 0 and 1, where both functions end,
exactly. The output is that of the module's class, of its input without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.errors import ModelError

_aten = torch.ops.aten

#: Codes from one to the next whole number of the derivative, and the code of 0.
LEVELS, ZERO = 202, 26


def is_smooth(module: nn.Module) -> bool:
    """Whether it is one of the two. A subclass with a forward of its own is not, nor a changed instance."""
    forward = type(module).forward
    return (forward is nn.GELU.forward or forward is nn.SiLU.forward) and "forward" not in vars(module)


@dataclass(frozen=True)
class KeepsBytes:
    """Takes the place of a module's forward, on the instance: hooks see what they always saw.

    Attributes:
        module: a GELU or SiLU.
        wanted: whether a backward pass may follow that keeps less, by the inputs.
    """

    module: Any
    wanted: Callable[[tuple[Any, ...]], bool]

    def __call__(self, input: Tensor) -> Tensor:
        module: Any = self.module
        forward: Any = type(module).forward
        in_place = getattr(module, "inplace", False)
        if torch.compiler.is_compiling() or in_place or not self.wanted((input,)) or not input.requires_grad:
            return forward(module, input)
        x = input.detach()
        codes = encode(_derivative(module, x))
        # In a list, for as an argument it would be an input, and what is returned a view of that.
        return _Derived.apply(input, [forward(module, x)], codes)


def _derivative(module: nn.Module, x: Tensor) -> Tensor:
    ones = x.new_ones(()).expand_as(x)
    if isinstance(module, nn.GELU):
        return _aten.gelu_backward(ones, x, approximate=module.approximate)
    return _aten.silu_backward(ones, x)


class _Derived(torch.autograd.Function):
    """An f(x) that is given, with a gradient to x by the codes of f'(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, output: list[Tensor], codes: Tensor) -> Tensor:
        ctx.save_for_backward(codes)
        return output[0]

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
        return decode(codes, grad.dtype) * grad, None, None


def encode(derivative: Tensor) -> Tensor:
    """A derivative as round(202·f') + 26, uint8. Writes over its argument, any shape and floating dtype."""
    return derivative.float().mul_(LEVELS).add_(ZERO).round_().clamp_(0, 255).to(torch.uint8)


def decode(codes: Tensor, dtype: torch.dtype) -> Tensor:
    """The derivative within 0.5/202, of the shape of ``codes``."""
    return codes.to(dtype).sub_(ZERO).div_(LEVELS)
