"""Contractions of signs that keep one tensor of each input for the backward pass, and no binary weight.

A sign followed by a convolution would keep the input twice: once for the surrogate's gradient, and its signs
for the gradient of the weights; and of the weights it would keep the binary ones beside the latents. Signs
and binary weights are a pass or two over what is kept anyway, so here they are computed again.

A factor per output channel is multiplied with the sums, not with the weights, which keeps the sums exact in
float32 and float64, whatever their order (half types round them as they round everything). Its
gradient does not need them: with b the ±2^s of a channel, f its factor and G the gradient that f·b would get
as a weight, which b's own gradient f·G takes anyway, d/df Σ grad·(b∗x) = Σ b·G.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from irnet_convert.binary import Method
from irnet_convert.binary.sign import nobody_watches
from irnet_convert.errors import ModelError
from irnet_convert.layers.made import Again, How, MadeWeight, parts_of

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


def signed_conv(
    x: Tensor,
    weight: Tensor | MadeWeight,
    bias: Tensor | None,
    state: Tensor,
    method: Method,
    geometry: Geometry,
    extra: Sequence[int] = (),
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
        extra: zeros around the signs on top of its own padding, amounts as for ``F.pad``.
        compact: keep a byte of each number of x for the backward pass, in place of x.
    """
    latent, factor, made = parts_of(weight, state)
    how = _How(method, made, _keeps_bytes(compact), tuple(extra) if any(extra) else ())
    if not geometry.transposed:
        return _SignedConv.apply(x, latent, factor, bias, state, how, geometry)
    # A made weight's output channels are in its second dimension here, and in groups in the first as well.
    how = replace(how, made=replace(made, in_bits=False))
    if made.make is not None or factor is None:
        return _SignedConv.apply(x, latent, factor, bias, state, how, geometry)
    sums = _SignedConv.apply(x, latent, None, None, state, how, geometry)
    return scale_sums(sums, factor, bias, latent.dim() - 2)


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
    latent, factor, made = parts_of(weight, state)
    how = _How(method, made, _keeps_bytes(compact))
    return _SignedLinear.apply(x, latent, factor, bias, state, how)


def scale_sums(
    sums: Tensor, factor: Tensor, bias: Tensor | None, trailing: int, *, in_place: bool = False
) -> Tensor:
    """sums·factor + bias, in the dtype of the sums.

    Args:
        sums: output channels in front of ``trailing`` dimensions.
        factor: per output channel, (O,) in any shape.
        bias: (O,), or None.
        trailing: dimensions behind the channels.
        in_place: write over the sums, unless a compiler or a tracer watches.
    """
    shape = (-1, *[1] * trailing)
    # addcmul rounds once where the processor can, as the packed network does; mul and add would round twice.
    scale, out = factor.reshape(shape).to(sums.dtype), sums if in_place and nobody_watches() else None
    if bias is None:
        return torch.mul(sums, scale, out=out)
    return torch.addcmul(bias.reshape(shape).to(sums.dtype), sums, scale, out=out)


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
    made: How
    compact: bool
    pad: tuple[int, ...] = ()  # zeros around the signs, as for F.pad

    def padded(self, signs: Tensor) -> Tensor:
        return F.pad(signs, self.pad) if self.pad else signs

    def cropped(self, of_signs: Tensor) -> Tensor:
        """The gradient to what was padded."""
        return F.pad(of_signs, [-amount for amount in self.pad]) if self.pad else of_signs

    def steps(self, weight: Tensor, out: Tensor, trailing: int) -> Tensor | None:
        """See :func:`steps_of`, of sums alone. They are exact in float32, whatever the order, up to 2^24."""
        exact = out.dtype in (torch.float32, torch.float64) and out.dtype == weight.dtype
        counts = self.compact and self.made.even and self.made.make is not None
        if not (counts and exact and weight[0].numel() <= _MOST):
            return None
        return weight.flatten(1)[:, 0].abs().reshape(-1, *[1] * trailing)


def _keeps_bytes(compact: bool) -> bool:
    return compact and torch.is_grad_enabled() and not torch._C._is_tracing()


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
        ctx.save_for_backward(_kept(x, state, how), *how.made.kept(latent, factor), state)
        g, dims = geometry, latent.dim() - 2
        weight = how.made.weight(latent, factor, state)
        signs = how.padded(how.method.signs_for_now(x, state))
        rest: Any = (g.stride, g.padding, g.dilation, g.groups)
        if g.transposed:
            rest = (g.stride, g.padding, g.output_padding, g.groups, g.dilation)
        convolution = (_TRANSPOSED if g.transposed else _STRAIGHT)[dims - 1]
        if how.made.even and factor is not None:
            ctx.steps = None
            return scale_sums(convolution(signs, weight, None, *rest), factor, bias, dims, in_place=True)
        out = convolution(signs, weight, bias, *rest)
        ctx.steps = how.steps(weight, out, dims) if bias is None and not g.transposed else None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, latent, factor, state = ctx.saved_tensors
        how, g = ctx.how, ctx.geometry
        for_x, for_latent, for_factor, for_bias = ctx.needs_input_grad[:4]
        weight = Again(how.made, latent, factor, state, (for_latent, for_factor))
        # Under autocast the product was made in grad's dtype.
        signs = how.padded(_signs_again(how, kept, state)).to(grad.dtype)
        of_signs, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad, signs, weight.value.to(grad.dtype), ctx.bias_size, g.stride, g.padding, g.dilation,
            g.transposed, g.output_padding, g.groups, [for_x, for_latent or for_factor, for_bias],
        )  # fmt: skip
        return (
            _gradient(how, kept, how.cropped(of_signs), state, ctx.dtype) if for_x else None,
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
        ctx.save_for_backward(_kept(x, state, how), *how.made.kept(latent, factor), state)
        weight = how.made.weight(latent, factor, state)
        signs = how.method.signs_for_now(x, state)
        if how.made.even and factor is not None:
            ctx.steps = None
            return scale_sums(F.linear(signs, weight), factor, bias, 0, in_place=True)
        out = F.linear(signs, weight, bias)
        ctx.steps = how.steps(weight, out, 0) if bias is None else None
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        kept, latent, factor, state = ctx.saved_tensors
        how = ctx.how
        for_x, for_latent, for_factor, for_bias = ctx.needs_input_grad[:4]
        weight = Again(how.made, latent, factor, state, (for_latent, for_factor))
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


_STRAIGHT = (F.conv1d, F.conv2d, F.conv3d)
_TRANSPOSED = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
