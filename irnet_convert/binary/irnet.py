"""IR-Net: Libra parameter binarization (forward) and the error decay estimator's schedule (backward).

Source: Qin et al., Forward and Backward Information Retention for Accurate Binary Neural Networks, CVPR
2020 (arXiv 1909.10788). Written from the paper's equations; ``docs/method.md`` lists what differs from the
code that its authors published.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from irnet_convert.binary.passes import call, dense_float, laid_out_like, operator
from irnet_convert.binary.sign import ede_derivative, ede_sign, shape_only
from irnet_convert.errors import ArgumentError

FLAT = 16
"""A filter whose σ is at most this many machine epsilons of its largest |w| counts as constant: rounding
alone makes such a σ from n equal values."""


def libra_pb(latent: Tensor, ede: Tensor) -> Tensor:
    """Libra-PB: latent weights to sign(ŵ)·2^s, with EDE's gradient.

    Per output channel, with n latents w: ŵ = (w − mean(w)) / std(w), std unbiased; s = round(log2(mean|ŵ|)),
    a constant to the gradient. With g = grad·2^s·k·t·(1 − tanh²(t·ŵ)) the gradient to the latents is that of
    the standardisation, (1/σ)·[g_i − mean(g) − ŵ_i·Σ_j g_j·ŵ_j/(n − 1)], orthogonal to 1 and to w − mean(w).

    A constant filter (σ = 0) becomes +1 with a gradient of exactly zero. A NaN or an infinity in a filter
    makes that whole filter NaN, so that it is seen. Computed in float32 at least, under autocast too.

    Args:
        latent: real-valued weights, (O, ...), any memory format, any float dtype.
        ede: ``[k, t]``, shape (2,), on the device of ``latent``.

    Returns:
        ±2^s, shape and memory format of ``latent``, of the wider of float32 and its dtype. Every value is
        exact in float16 and bfloat16.
    """
    if shape_only(latent):
        return latent.to(torch.promote_types(latent.dtype, torch.float32), copy=True)
    with _no_autocast(latent.device.type):
        return _LibraPB.apply(latent, ede) if torch.is_grad_enabled() else _libra(latent)[0]


class _LibraPB(torch.autograd.Function):
    """Keeps the latents and three numbers a filter for the backward pass: nothing else of their size."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, ede: Tensor) -> Tensor:
        binary, filters = _libra(latent)
        ctx.save_for_backward(latent, ede, filters)
        return binary

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        latent, ede, filters = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # Somebody wants the gradient of this gradient: by the operations that the formula comes from.
            binary = ede_sign(standardize(latent)[0], ede) * _per_filter(filters[:, 2], latent)
            return torch.autograd.grad(binary, latent, grad.to(binary.dtype), create_graph=True)[0], None
        return _libra_gradient(latent, grad, filters, ede), None


def _libra_by_tensors(latent: Tensor) -> tuple[Tensor, Tensor]:
    """The binary weights; and of each filter mean, 1/σ (0 if it is constant) and 2^s, (O, 3)."""
    f = _filters(latent)
    s = (_rows(f.shares).abs().mean(1, dtype=_wide(f.shares)).reshape(f.flat.shape) / f.spread).log2().round()
    step = torch.exp2(s).to(f.shares.dtype).masked_fill(f.flat, 1.0)
    scale = (1 / (f.spread.to(step.dtype) * f.unit)).masked_fill(f.flat, 0.0)
    return torch.where(f.shares >= 0, step, -step), torch.stack(
        [f.mean.flatten(), scale.flatten(), step.flatten()], 1
    )


def _libra_natively(latent: Tensor) -> tuple[Tensor, Tensor] | None:
    if not dense_float(latent):
        return None
    out, filters = torch.empty_like(latent), latent.new_empty(len(latent), 3)
    done = call("libra", (latent, out, filters), len(latent), latent[0].numel() if len(latent) else 0)
    return (out, filters) if done else None


def _libra_gradient_by_tensors(latent: Tensor, grad: Tensor, filters: Tensor, ede: Tensor) -> Tensor:
    """(1/σ)·[g − mean(g) − ŵ·Σ g·ŵ/(n − 1)] with g = grad·2^s·k·t·(1 − tanh²(t·ŵ)); as ``latent``."""
    w = latent.to(filters.dtype)
    mean, scale, step = (_per_filter(column, w) for column in filters.unbind(1))
    normed = (w - mean) * scale
    g = grad.to(w.dtype) * step * ede_derivative(normed, ede)
    along = _rows(g * normed).sum(1) / max(w[0].numel() - 1, 1)
    back = scale * (g - _per_filter(_rows(g).mean(1), w) - normed * _per_filter(along, w))
    return torch.where(scale == 0, 0.0, back).to(latent.dtype)


def _libra_gradient_natively(latent: Tensor, grad: Tensor, filters: Tensor, ede: Tensor) -> Tensor | None:
    if not dense_float(latent):
        return None
    out, (k, t) = torch.empty_like(latent), ede.tolist()
    tensors = (latent, laid_out_like(grad, latent), filters, out)
    sizes = len(latent), latent[0].numel() if len(latent) else 0
    return out if call("libra_gradient", tensors, *sizes, k, t) else None


_libra = operator(
    "libra(Tensor latent) -> (Tensor, Tensor)", _libra_by_tensors, _libra_natively, native_in_compiled=True
)
_libra_gradient = operator(
    "libra_gradient(Tensor latent, Tensor grad, Tensor filters, Tensor ede) -> Tensor",
    _libra_gradient_by_tensors,
    _libra_gradient_natively,
    native_in_compiled=True,
)


def _per_filter(values: Tensor, w: Tensor) -> Tensor:
    """(O,) as (O, 1, ...)."""
    return values.reshape(-1, *[1] * (w.dim() - 1))


def standardize(latent: Tensor) -> tuple[Tensor, Tensor]:
    """ŵ = (w − mean(w)) / std(w) per output channel, std unbiased, and zero where std is zero.

    Args:
        latent: (O, ...), any memory format, any float dtype.

    Returns:
        ŵ with the shape of ``latent`` and gradients to it, of the wider of float32 and its dtype; and a
        boolean tensor (O, 1, ...) that says which filters are constant. Their ŵ and gradient are zero.
    """
    f = _filters(latent)
    return f.shares / f.spread.to(f.shares.dtype), f.flat


class _Filters(NamedTuple):
    """What the formulas of a weight are made of; all but ``shares`` are (O, 1, ...)."""

    mean: Tensor
    unit: Tensor
    """The largest distance from the mean, 1 where there is none."""
    shares: Tensor
    """(w − mean) / unit, shape of the weight; zero in constant filters."""
    spread: Tensor
    """σ / unit, 1 in constant filters; float64 where the device has it."""
    flat: Tensor
    """Whether the filter is constant."""


def _filters(latent: Tensor) -> _Filters:
    """The sign hangs on w − mean alone, which is exact where it matters, near 0 (Sterbenz).

    The mean is a sum in float64, rounded once: the same in every memory format, on every device and in the
    native passes, where a sum in another order could flip a weight that is at the mean.
    """
    w = latent.to(torch.promote_types(latent.dtype, torch.float32))
    wide = _wide(w)
    mean = _per_filter(_rows(w).mean(1, dtype=wide).to(w.dtype), w)
    distance = w - mean
    # ŵ does not depend on the magnitude of w. Dividing by the largest distance first (a constant to the
    # gradient, for the same reason) keeps the squares of dead filters (1e-20 and less are met in pretrained
    # networks) from underflowing to σ = 0, and those of large ones from overflowing.
    far = _per_filter(_rows(distance.detach()).abs().amax(1), w)
    unit = far.masked_fill(far == 0, 1.0)
    shares = distance / unit
    rows = _rows(shares).to(wide)
    variance = _per_filter(rows.var(1, correction=min(1, rows.shape[1] - 1)), w)
    largest = _per_filter(_rows(w.detach()).abs().amax(1), w)
    limits = torch.finfo(w.dtype)
    sigma = variance.detach().sqrt().to(w.dtype) * unit
    flat = (sigma <= FLAT * limits.eps * largest) | (sigma < limits.tiny)  # 1/σ would be infinite below it
    # The square root's slope at 0 is infinite, so the zero is taken away before it and not after.
    spread = variance.masked_fill(flat, 1.0).sqrt()
    # Not masked_fill, whose result is never channels_last.
    return _Filters(mean, unit, torch.where(flat, 0.0, shares), spread, flat)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


def ede_schedule(fraction: float, t_min: float = 0.1, t_max: float = 10.0) -> tuple[float, float]:
    """EDE's k and t after a fraction of the training: t = T_min·10^(f·log10(T_max/T_min)), k = max(1/t, 1).

    Args:
        fraction: i/N of the paper, from 0 to 1.
        t_min: t at the start, above 0. The paper: 0.1.
        t_max: t at the end, at least ``t_min``. The paper: 10.

    Returns:
        ``(k, t)``.

    Raises:
        ArgumentError: a fraction outside [0, 1], or bounds that are not 0 < t_min <= t_max < inf.
    """
    if not 0 < t_min <= t_max < math.inf:
        raise ArgumentError(
            f"EDE bounds t_min={t_min!r}, t_max={t_max!r}",
            expected="0 < t_min <= t_max, both finite",
            mend="the paper's are t_min=0.1, t_max=10",
        )
    if not 0 <= fraction <= 1:
        raise ArgumentError(
            f"training progress {fraction!r}",
            expected="a fraction from 0 (start) to 1 (end)",
            mend="pass step / total_steps, or epoch / epochs",
        )
    t = t_min * (t_max / t_min) ** fraction
    return max(1 / t, 1.0), t


def _rows(w: Tensor) -> Tensor:
    """(O, n), contiguous: sums over it run in the same order, so round alike, in every memory format."""
    return w.flatten(1).contiguous()


def _no_autocast(device_type: str) -> contextlib.AbstractContextManager[object]:
    """Autocast off, where the device knows autocast (meta does not)."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return contextlib.nullcontext()
