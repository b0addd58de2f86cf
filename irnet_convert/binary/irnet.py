"""IR-Net: Libra parameter binarization (forward) and the error decay estimator's schedule (backward).

Source: Qin et al., Forward and Backward Information Retention for Accurate Binary Neural Networks, CVPR
2020 (arXiv 1909.10788). Written from the paper's equations; ``docs/method.md`` lists what differs from the
code that its authors published.
"""

from __future__ import annotations

import contextlib
import math

import torch
from torch import Tensor

from irnet_convert.binary.sign import ede_sign, shape_only
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
        normed, flat = standardize(latent)
        with torch.no_grad():
            s = _rows(normed).abs().mean(1).log2().round()
            step = torch.exp2(s).reshape(flat.shape).masked_fill(flat, 1.0)
        return ede_sign(normed, ede) * step


def standardize(latent: Tensor) -> tuple[Tensor, Tensor]:
    """ŵ = (w − mean(w)) / std(w) per output channel, std unbiased, and zero where std is zero.

    Args:
        latent: (O, ...), any memory format, any float dtype.

    Returns:
        ŵ with the shape of ``latent`` and gradients to it, of the wider of float32 and its dtype; and a
        boolean tensor (O, 1, ...) that says which filters are constant. Their ŵ and gradient are zero.
    """
    w = latent.to(torch.promote_types(latent.dtype, torch.float32))
    per_filter = (w.shape[0],) + (1,) * (w.dim() - 1)
    # ŵ does not depend on the magnitude of w. Dividing by the largest |w| first (a constant to the gradient,
    # for the same reason) keeps the squares of dead filters (1e-20 and less are met in pretrained networks)
    # from underflowing to σ = 0, and those of large ones from overflowing.
    largest = _rows(w.detach()).abs().amax(1).reshape(per_filter)
    w = w / largest.masked_fill(largest == 0, 1.0)
    rows = _rows(w)
    variance, mean = torch.var_mean(rows, 1, correction=min(1, rows.shape[1] - 1))
    variance, mean = variance.reshape(per_filter), mean.reshape(per_filter)
    flat = variance.detach() <= (FLAT * torch.finfo(w.dtype).eps) ** 2
    # The square root's slope at 0 is infinite, so the zero is taken away before it and not after.
    normed = (w - mean) / variance.masked_fill(flat, 1.0).sqrt()
    # Not masked_fill, whose result is never channels_last.
    return torch.where(flat, 0.0, normed), flat


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
