"""Contractions of signs that keep one tensor of each input for the backward pass.

A sign followed by a convolution would keep the input twice: once for the surrogate's gradient, and its signs
for the gradient of the weights. The signs are one pass over the input, so here they are computed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from irnet_convert.binary import Method


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """What a convolution does, as ``aten::convolution`` takes it; zeros are the only padding."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int


def signed_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, method: Method, geometry: Geometry
) -> Tensor:
    """The convolution of sign(x) with ``weight``, plus ``bias``.

    Args:
        x: real-valued input, (N, C, ...).
        weight: as PyTorch keeps it.
        bias: (O,).
        state: of the surrogate, (2,).
        method: how activations become signs, and what stands for their gradient.
        geometry: of the convolution.
    """
    return _SignedConv.apply(x, weight, bias, state, method, geometry)


def signed_linear(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, method: Method) -> Tensor:
    """The linear layer on sign(x); see :func:`signed_conv`. x: (..., I), weight: (O, I), bias: (O,)."""
    return _SignedLinear.apply(x, weight, bias, state, method)


class _SignedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        state: Tensor,
        method: Method,
        geometry: Geometry,
    ) -> Tensor:
        how, dims = geometry, weight.dim() - 2
        if how.transposed:
            rest: Any = (how.stride, how.padding, how.output_padding, how.groups, how.dilation)
            return _TRANSPOSED[dims - 1](method.binarize_activation(x, state), weight, bias, *rest)
        rest = (how.stride, how.padding, how.dilation, how.groups)
        return _STRAIGHT[dims - 1](method.binarize_activation(x, state), weight, bias, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, state, ctx.method, ctx.geometry = inputs
        ctx.bias_size = None if bias is None else list(bias.shape)
        ctx.save_for_backward(x, weight, state)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, state = ctx.saved_tensors
        how: Geometry = ctx.geometry
        wanted = list(ctx.needs_input_grad[:3])
        # Under autocast the product was made in grad's dtype.
        signs = ctx.method.binarize_activation(x, state).to(grad.dtype)
        factor = weight.to(grad.dtype)
        of_signs, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad, signs, factor, ctx.bias_size, how.stride, how.padding, how.dilation, how.transposed,
            how.output_padding, how.groups, wanted,
        )  # fmt: skip
        return (
            ctx.method.surrogate(x, of_signs, state) if wanted[0] else None,
            of_weight.to(weight.dtype) if wanted[1] else None,
            of_bias if wanted[2] else None,
            None, None, None,
        )  # fmt: skip


class _SignedLinear(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, state: Tensor, method: Method) -> Tensor:
        return F.linear(method.binarize_activation(x, state), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, state, ctx.method = inputs
        ctx.save_for_backward(x, weight, state)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight, state = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        rows = grad.reshape(-1, grad.shape[-1])
        of_signs = grad @ weight.to(grad.dtype) if for_x else None
        signs = ctx.method.binarize_activation(x, state).to(grad.dtype) if for_weight else None
        return (
            ctx.method.surrogate(x, of_signs, state) if of_signs is not None else None,
            (rows.t() @ signs.reshape(-1, x.shape[-1])).to(weight.dtype) if signs is not None else None,
            rows.sum(0) if for_bias else None,
            None, None,
        )  # fmt: skip


_STRAIGHT = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
