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
from irnet_convert.errors import ModelError

_MOST = 2**15 - 1
"""The largest number that int16 holds."""


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
        even: every weight of one output channel has the same magnitude, a power of two.
    """

    latent: Tensor
    factor: Tensor | None
    make: Make
    even: bool = False


def signed_conv(
    x: Tensor,
    weight: Tensor | MadeWeight,
    bias: Tensor | None,
    state: Tensor,
    method: Method,
    geometry: Geometry,
    *,
    compact: bool = False,
) -> Tensor:
    """The convolution of sign(x) with ``weight``, plus ``bias``.

    Args:
        x: real-valued input, (N, C, ...).
        weight: as PyTorch keeps it.
        bias: (O,).
        state: of the surrogate, (2,).
        method: how activations become signs, and what stands for their gradient.
        geometry: of the convolution.
        compact: keep a byte of each number of x for the backward pass, in place of x.
    """
    latent, factor, make, even = _parts(weight, state)
    in_bits = _keeps_bits(even, make) and not geometry.transposed
    how = _How(method, make, _keeps_bytes(compact), _gives_counts(even, make, bias), in_bits)
    return _SignedConv.apply(x, latent, factor, bias, state, how, geometry)


def signed_linear(
    x: Tensor,
    weight: Tensor | MadeWeight,
    bias: Tensor | None,
    state: Tensor,
    method: Method,
    *,
    compact: bool = False,
) -> Tensor:
    """The linear layer on sign(x); see :func:`signed_conv`. x: (..., I), weight: (O, I), bias: (O,)."""
    latent, factor, make, even = _parts(weight, state)
    counts = _gives_counts(even, make, bias)
    how = _How(method, make, _keeps_bytes(compact), counts, _keeps_bits(even, make))
    return _SignedLinear.apply(x, latent, factor, bias, state, how)


def steps_of(x: Tensor) -> Tensor | None:
    """Of what such a contraction returned, as it returned it: the power of two that x is a multiple of.

    Args:
        x: any tensor.

    Returns:
        Per output channel, in a shape that broadcasts with ``x``; x / steps are integers that fit int16.
        None where that is not known: another tensor, without ``compact``, a bias, a factor, real weights.
    """
    made = x.grad_fn
    if getattr(made, "_forward_cls", None) not in (_SignedConv, _SignedLinear) or x._version:
        return None
    return made.steps  # type: ignore[union-attr]


@dataclass(frozen=True)
class _How:
    method: Method
    make: Make | None
    compact: bool
    counts: bool  # what comes out is multiples of a power of two per output channel
    in_bits: bool  # of a weight that is made already its signs are kept, and its magnitudes

    def steps(self, weight: Tensor, out: Tensor, trailing: int) -> Tensor | None:
        """See :func:`steps_of`. A sum of integers is exact in float32, whatever the order, and up to 2^24."""
        exact = out.dtype in (torch.float32, torch.float64) and out.dtype == weight.dtype
        if not (self.compact and self.counts and exact and weight[0].numel() <= _MOST):
            return None
        return weight.flatten(1)[:, 0].abs().reshape(-1, *[1] * trailing)


def _keeps_bytes(compact: bool) -> bool:
    return compact and torch.is_grad_enabled() and not torch._C._is_tracing()


def _gives_counts(even: bool, make: Make | None, bias: Tensor | None) -> bool:
    return even and make is not None and bias is None


def _keeps_bits(even: bool, make: Make | None) -> bool:
    """Whether a binary weight is kept as its signs, a byte each, and a magnitude of each output channel.

    Code that is being compiled is given a weight that is made already. It would be kept as it is, beside the
    latents: of what a convolution takes backward, a compiler makes nothing again.
    """
    return even and make is None and torch.compiler.is_compiling()


def _parts(weight: Tensor | MadeWeight, state: Tensor) -> tuple[Tensor, Tensor | None, Make | None, bool]:
    if isinstance(weight, Tensor):
        return weight, None, None, False
    if torch.compiler.is_compiling() or torch._C._is_tracing():  # a compiler decides itself what to keep
        return weight.make(weight.latent, weight.factor, state), None, None, weight.even
    return weight.latent, weight.factor, weight.make, weight.even


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
        how: _How,
        geometry: Geometry,
    ) -> Tensor:
        ctx.how, ctx.geometry, ctx.dtype = how, geometry, x.dtype
        ctx.bias_size = None if bias is None else list(bias.shape)
        ctx.save_for_backward(_kept(x, state, how), *_kept_weight(latent, factor, how), state)
        g, dims = geometry, latent.dim() - 2
        weight = latent if how.make is None else how.make(latent, factor, state)
        signs = how.method.signs_for_now(x, state)
        if g.transposed:
            ctx.steps = None
            rest: Any = (g.stride, g.padding, g.output_padding, g.groups, g.dilation)
            return _TRANSPOSED[dims - 1](signs, weight, bias, *rest)
        rest = (g.stride, g.padding, g.dilation, g.groups)
        out = _STRAIGHT[dims - 1](signs, weight, bias, *rest)
        ctx.steps = how.steps(weight, out, dims)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, latent, factor, state = ctx.saved_tensors
        how, g = ctx.how, ctx.geometry
        for_x, for_latent, for_factor, for_bias = ctx.needs_input_grad[:4]
        weight = _Weight(how, latent, factor, state, (for_latent, for_factor))
        # Under autocast the product was made in grad's dtype.
        signs = _signs_again(how, kept, state).to(grad.dtype)
        of_signs, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad, signs, weight.value.to(grad.dtype), ctx.bias_size, g.stride, g.padding, g.dilation,
            g.transposed, g.output_padding, g.groups, [for_x, for_latent or for_factor, for_bias],
        )  # fmt: skip
        return (
            _gradient(how, kept, of_signs, state, ctx.dtype) if for_x else None,
            *weight.gradients(of_weight),
            of_bias if for_bias else None,
            None, None, None,
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
        how: _How,
    ) -> Tensor:
        ctx.how, ctx.dtype = how, x.dtype
        ctx.save_for_backward(_kept(x, state, how), *_kept_weight(latent, factor, how), state)
        weight = latent if how.make is None else how.make(latent, factor, state)
        out = F.linear(how.method.signs_for_now(x, state), weight, bias)
        ctx.steps = how.steps(weight, out, 0)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, latent, factor, state = ctx.saved_tensors
        how = ctx.how
        for_x, for_latent, for_factor, for_bias = ctx.needs_input_grad[:4]
        weight = _Weight(how, latent, factor, state, (for_latent, for_factor))
        rows, of_weight = grad.reshape(-1, grad.shape[-1]), None
        of_signs = grad @ weight.value.to(grad.dtype) if for_x else None
        if for_latent or for_factor:
            signs = _signs_again(how, kept, state).to(grad.dtype)
            of_weight = rows.t() @ signs.reshape(-1, kept.shape[-1])
        return (
            _gradient(how, kept, of_signs, state, ctx.dtype) if of_signs is not None else None,
            *weight.gradients(of_weight),
            rows.sum(0) if for_bias else None,
            None, None,
        )  # fmt: skip


def _kept(x: Tensor, state: Tensor, how: _How) -> Tensor:
    """What is kept of the input."""
    return how.method.encode(x, state) if how.compact else x


def _kept_weight(latent: Tensor, factor: Tensor | None, how: _How) -> tuple[Tensor, Tensor | None]:
    """What is kept of the weight, and of its factor."""
    if not how.in_bits:
        return latent, factor
    return latent >= 0, latent.flatten(1)[:, 0].abs().reshape(-1, *[1] * (latent.dim() - 1))


def _signs_again(how: _How, kept: Tensor, state: Tensor) -> Tensor:
    """The signs, for the backward pass.

    A compiler that recognised them would keep those of the forward pass. −(−x) is x, and hides it.
    """
    if how.compact:
        return how.method.coded_sign(kept)
    if torch.is_grad_enabled():
        return how.method.binarize_activation(kept, state)
    return how.method.signs_for_now(kept.neg().neg() if torch.compiler.is_compiling() else kept, state)


def _gradient(how: _How, kept: Tensor, of_signs: Tensor, state: Tensor, dtype: torch.dtype) -> Tensor:
    """The gradient to the input, from that to its signs."""
    if not how.compact:
        return how.method.surrogate(kept, of_signs, state)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise ModelError(
            "the gradient of a gradient (create_graph=True) of a compact layer, which kept one byte a number",
            expected="first gradients alone while the model is compact",
            mend="call irnet_convert.layers.set_compact(model, False) before the forward pass",
        )
    return how.method.coded_surrogate(kept, of_signs, state).to(dtype)


class _Weight:
    """A weight made again in a backward pass, and the way back from its gradient."""

    def __init__(
        self,
        how: _How,
        latent: Tensor,
        factor: Tensor | None,
        state: Tensor,
        wanted: tuple[bool, bool],
    ) -> None:
        make, self._wanted = how.make, wanted
        self._made = make is not None
        # In a backward pass that is differentiated itself, the weight hangs on the tensors that were kept.
        self._again = torch.is_grad_enabled()
        if make is None:
            self.value = (
                torch.where(latent, factor, -factor) if how.in_bits and factor is not None else latent
            )
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
