"""Binary forms of timm's weight-standardised convolutions (StdConv2d, StdConv2dSame).

Weight standardisation subtracts a filter's mean and divides by its deviation. Libra-PB does both itself and
keeps only the sign, so the binary weights are those of the latents; nothing of it is left in the forward
pass. Only the magnitude that a scale starts from differs: it is the standardised weights', not the latents'.
"""

from __future__ import annotations

import torch
from torch import Tensor

from irnet_convert.layers.conv import BinaryConv2d
from irnet_convert.layers.same import BinaryConv2dSame


class BinaryStdConv2d(BinaryConv2d):
    """BinaryConv2d in the place of timm's StdConv2d.

    Attributes:
        eps: timm's ε of the standardisation, for the initial scale and for real weights.
    """

    eps: float = 1e-6

    def _initial_scale(self, weight: Tensor) -> Tensor:
        return super()._initial_scale(standardized(weight, self.eps))

    def _real_filters(self, filters: Tensor, *, at_factor: bool) -> Tensor:
        return super()._real_filters(standardized(filters, self.eps), at_factor=at_factor)


class BinaryStdConv2dSame(BinaryConv2dSame):
    """BinaryConv2dSame in the place of timm's StdConv2dSame.

    Attributes:
        eps: timm's ε of the standardisation, for the initial scale and for real weights.
    """

    eps: float = 1e-6

    def _initial_scale(self, weight: Tensor) -> Tensor:
        return super()._initial_scale(standardized(weight, self.eps))

    def _real_filters(self, filters: Tensor, *, at_factor: bool) -> Tensor:
        return super()._real_filters(standardized(filters, self.eps), at_factor=at_factor)


def standardized(weight: Tensor, eps: float) -> Tensor:
    """(w − mean(w)) / sqrt(var(w) + ε) per output channel, var biased: the weights that timm convolves with.

    Args:
        weight: (out, ...).
        eps: ε.

    Returns:
        Shape and dtype of ``weight``.
    """
    rows = weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
    variance, mean = torch.var_mean(rows, 1, correction=0, keepdim=True)
    return ((rows - mean) / (variance + eps).sqrt()).reshape(weight.shape).to(weight.dtype)
