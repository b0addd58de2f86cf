"""RPReLU: PReLU with a learnable shift before and behind it, per channel; one pass forward, one backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irnet_convert.binary.passes import call, laid_out_like, operator, rows_a_part, rows_of_channels

#: PyTorch's initial slope of a PReLU, and ReActNet's.
SLOPE = 0.25


class RPReLU(nn.Module):
    """f(x) = prelu(x − γ) + ζ: x − γ + ζ where x > γ, β·(x − γ) + ζ elsewhere.

    γ (``shift_in``) and ζ (``shift_out``) begin at 0, β (``slope``) at 0.25.

    Args:
        channels: size of dimension 1.
        device: of the parameters.
        dtype: of the parameters.

    Source:
        Liu et al., ReActNet: Towards Precise Binary Neural Network with Generalized Activation Functions,
        ECCV 2020, equation (4).
    """

    def __init__(self, channels: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        how: dict[str, Any] = {"device": device, "dtype": dtype}
        self.shift_in = nn.Parameter(torch.zeros(channels, **how))
        self.slope = nn.Parameter(torch.full((channels,), SLOPE, **how))
        self.shift_out = nn.Parameter(torch.zeros(channels, **how))

    def forward(self, x: Tensor) -> Tensor:
        """(N, ``channels``, ...), any float dtype."""
        return rprelu(x, self.shift_in, self.slope, self.shift_out)

    def extra_repr(self) -> str:
        """The channels."""
        return str(len(self.slope))


def rprelu(x: Tensor, shift_in: Tensor, slope: Tensor, shift_out: Tensor) -> Tensor:
    """What :class:`RPReLU` computes. While training it keeps ``x`` alone for the backward pass.

    Args:
        x: (N, C, ...), any float dtype.
        shift_in: γ, shape (C,).
        slope: β, shape (C,).
        shift_out: ζ, shape (C,).

    Returns:
        Shape and dtype of ``x``.
    """
    trains = torch.is_grad_enabled() and any(each.requires_grad for each in (x, shift_in, slope, shift_out))
    # A compiler fuses the operations and their gradients by itself; a trace shows what they are.
    if not trains or torch.compiler.is_compiling() or torch._C._is_tracing():
        return _by_tensors(x, shift_in, slope, shift_out)
    return _RPReLU.apply(x, shift_in, slope, shift_out)


class _RPReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift_in: Tensor, slope: Tensor, shift_out: Tensor) -> Tensor:
        ctx.save_for_backward(x, shift_in, slope)
        ctx.behind = shift_out.dtype
        return _forward(x, shift_in, slope, shift_out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        x, shift_in, slope = ctx.saved_tensors
        # Somebody who wants the gradient of this gradient gets operations that have one.
        gradient = _gradient_by_tensors if torch.is_grad_enabled() else _gradient
        down, sums = gradient(x, grad, shift_in, slope)
        shifted, sloped, whole = sums
        return down, shifted.to(shift_in.dtype), sloped.to(slope.dtype), whole.to(ctx.behind)


def _along(parameter: Tensor, x: Tensor) -> Tensor:
    return parameter.reshape(-1, *[1] * (x.dim() - 2)).to(x.dtype)


def _by_tensors(x: Tensor, shift_in: Tensor, slope: Tensor, shift_out: Tensor) -> Tensor:
    return F.prelu(x - _along(shift_in, x), slope.to(x.dtype)) + _along(shift_out, x)


def _gradient_by_tensors(x: Tensor, grad: Tensor, shift_in: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
    """With z = x − γ: f' = 1 where z > 0, else β; of γ it is −f', of β z where z ≤ 0, of ζ 1.

    Returns:
        The gradient of ``x``, and those of γ, β and ζ, shape (3, C), in float32 at least.
    """
    z = x - _along(shift_in, x)
    down = torch.where(z > 0, grad, _along(slope, x) * grad)
    wide = torch.promote_types(x.dtype, torch.float32)
    others = [d for d in range(x.dim()) if d != 1]
    products = torch.where(z > 0, 0, grad.to(wide) * z.to(wide))
    return down, torch.stack([each.to(wide).sum(others) for each in (-down, products, grad)])


def _rows(x: Tensor, *parameters: Tensor) -> int:
    return rows_of_channels(x, *parameters) if x.dtype is torch.float32 else 0


def _natively(x: Tensor, shift_in: Tensor, slope: Tensor, shift_out: Tensor) -> Tensor | None:
    rows, channels, out = _rows(x, shift_in, slope, shift_out), x.shape[1], torch.empty_like(x)
    if not rows:
        return None
    done = call("rprelu", (x, shift_in, slope, shift_out, out), rows, channels, rows_a_part(channels))
    return out if done else None


def _gradient_natively(
    x: Tensor, grad: Tensor, shift_in: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor] | None:
    rows, channels, part = _rows(x, shift_in, slope), x.shape[1], rows_a_part(x.shape[1])
    if not rows:
        return None
    out, sums = torch.empty_like(x), torch.empty(-(-rows // part), 3, channels, dtype=torch.float64)
    arrays = (x, laid_out_like(grad, x), shift_in, slope, out, sums)
    # Parts of one size and their sums in one order: the result does not depend on the number of threads.
    return (out, sums.sum(0)) if call("rprelu_gradient", arrays, rows, channels, part) else None


_forward = operator(
    "rprelu(Tensor x, Tensor shift_in, Tensor slope, Tensor shift_out) -> Tensor", _by_tensors, _natively
)
_gradient = operator(
    "rprelu_gradient(Tensor x, Tensor grad, Tensor shift_in, Tensor slope) -> (Tensor, Tensor)",
    _gradient_by_tensors,
    _gradient_natively,
)
