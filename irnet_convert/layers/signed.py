"""Contractions of signs that keep one tensor of each input for the backward pass, and no binary weight.

A sign followed by a convolution would keep the input twice: once for the surrogate's gradient, and its signs
for the gradient of the weights; and of the weights it would keep the binary ones beside the latents. Signs
and binary weights are a pass or two over what is kept anyway, so here they are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


Make = Callable[[Tensor, Tensor | None, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class MadeWeight:
    """A weight by what it is made of.

    Attributes:
        latent: real-valued weights.
        factor: per output channel, (O,) in any shape, or None.
        make: (latent, factor, state of the surrogate) → the weight; differentiable in the first two.
    """

    latent: Tensor
    factor: Tensor | None
    make: Make


def signed_conv(
    x: Tensor,
    weight: Tensor | MadeWeight,
    bias: Tensor | None,
    state: Tensor,
    method: Method,
    geometry: Geometry,
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
    latent, factor, make = _parts(weight, state)
    return _SignedConv.apply(x, latent, factor, bias, state, make, method, geometry)


def signed_linear(
    x: Tensor, weight: Tensor | MadeWeight, bias: Tensor | None, state: Tensor, method: Method
) -> Tensor:
    """The linear layer on sign(x); see :func:`signed_conv`. x: (..., I), weight: (O, I), bias: (O,)."""
    latent, factor, make = _parts(weight, state)
    return _SignedLinear.apply(x, latent, factor, bias, state, make, method)


def _parts(weight: Tensor | MadeWeight, state: Tensor) -> tuple[Tensor, Tensor | None, Make | None]:
    if isinstance(weight, Tensor):
        return weight, None, None
    if torch.compiler.is_compiling() or torch._C._is_tracing():  # a compiler decides itself what to keep
        return weight.make(weight.latent, weight.factor, state), None, None
    return weight.latent, weight.factor, weight.make


# With a setup_context, PyTorch would inspect the signature of forward in every call: here and in binary/ that
# is half of a small layer's time.
class _SignedConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        latent: Tensor,
        factor: Tensor | None,
        bias: Tensor | None,
        state: Tensor,
        make: Make | None,
        method: Method,
        geometry: Geometry,
    ) -> Tensor:
        ctx.make, ctx.method, ctx.geometry = make, method, geometry
        ctx.bias_size = None if bias is None else list(bias.shape)
        ctx.save_for_backward(x, latent, factor, state)
        how, dims = geometry, latent.dim() - 2
        weight = latent if make is None else make(latent, factor, state)
        if how.transposed:
            rest: Any = (how.stride, how.padding, how.output_padding, how.groups, how.dilation)
            return _TRANSPOSED[dims - 1](method.binarize_activation(x, state), weight, bias, *rest)
        rest = (how.stride, how.padding, how.dilation, how.groups)
        return _STRAIGHT[dims - 1](method.binarize_activation(x, state), weight, bias, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, latent, factor, state = ctx.saved_tensors
        how: Geometry = ctx.geometry
        for_x, for_latent, for_factor, for_bias = ctx.needs_input_grad[:4]
        weight = _Weight(ctx.make, latent, factor, state, (for_latent, for_factor))
        # Under autocast the product was made in grad's dtype.
        signs = _signs_again(ctx.method, x, state).to(grad.dtype)
        of_signs, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad, signs, weight.value.to(grad.dtype), ctx.bias_size, how.stride, how.padding, how.dilation,
            how.transposed, how.output_padding, how.groups, [for_x, for_latent or for_factor, for_bias],
        )  # fmt: skip
        return (
            ctx.method.surrogate(x, of_signs, state) if for_x else None,
            *weight.gradients(of_weight),
            of_bias if for_bias else None,
            None, None, None, None,
        )  # fmt: skip


class _SignedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        latent: Tensor,
        factor: Tensor | None,
        bias: Tensor | None,
        state: Tensor,
        make: Make | None,
        method: Method,
    ) -> Tensor:
        ctx.make, ctx.method = make, method
        ctx.save_for_backward(x, latent, factor, state)
        weight = latent if make is None else make(latent, factor, state)
        return F.linear(method.binarize_activation(x, state), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, latent, factor, state = ctx.saved_tensors
        for_x, for_latent, for_factor, for_bias = ctx.needs_input_grad[:4]
        weight = _Weight(ctx.make, latent, factor, state, (for_latent, for_factor))
        rows, of_weight = grad.reshape(-1, grad.shape[-1]), None
        of_signs = grad @ weight.value.to(grad.dtype) if for_x else None
        if for_latent or for_factor:
            signs = _signs_again(ctx.method, x, state).to(grad.dtype)
            of_weight = rows.t() @ signs.reshape(-1, x.shape[-1])
        return (
            ctx.method.surrogate(x, of_signs, state) if of_signs is not None else None,
            *weight.gradients(of_weight),
            rows.sum(0) if for_bias else None,
            None, None, None,
        )  # fmt: skip


def _signs_again(method: Method, x: Tensor, state: Tensor) -> Tensor:
    """The signs, for the backward pass.

    A compiler that recognised them would keep those of the forward pass. −(−x) is x, and hides it.
    """
    return method.binarize_activation(x.neg().neg() if torch.compiler.is_compiling() else x, state)


class _Weight:
    """A weight made again in a backward pass, and the way back from its gradient."""

    def __init__(
        self,
        make: Make | None,
        latent: Tensor,
        factor: Tensor | None,
        state: Tensor,
        wanted: tuple[bool, bool],
    ) -> None:
        self._made, self._wanted = make is not None, wanted
        # In a backward pass that is differentiated itself, the weight hangs on the tensors that were kept.
        self._again = torch.is_grad_enabled()
        if make is None:
            self.value = latent
            return
        if not self._again:
            latent = latent.detach().requires_grad_(wanted[0])
            factor = None if factor is None else factor.detach().requires_grad_(wanted[1])
        self._parts = latent, factor
        with torch.enable_grad():
            self._weight = make(latent, factor, state)
        self.value = self._weight if self._again else self._weight.detach()

    def gradients(self, of_weight: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The gradients to the latents and the factor, from that of the weight in any dtype."""
        if of_weight is None or not any(self._wanted):
            return None, None
        of_weight = of_weight.to(self.value.dtype)
        if not self._made:
            return of_weight, None
        wanted = [t for t, wish in zip(self._parts, self._wanted, strict=True) if t is not None and wish]
        found = iter(torch.autograd.grad(self._weight, wanted, of_weight, create_graph=self._again))
        return next(found) if self._wanted[0] else None, next(found) if self._wanted[1] else None


_STRAIGHT = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
