"""Binary forms of timm's ScaledStdConv2d and ScaledStdConv2dSame (normaliser-free networks).

timm convolves with gain·γ·n^-½·ŵ: a learnable gain per output channel times a constant. Standardisation
leaves the sign unchanged (see ``std.py``), so the binary form has gain·γ·n^-½ times the sums of ±2^s. The
gain keeps its key, and is the layer's factor per output channel; there is no further scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from irnet_convert.layers.conv import BinaryConv2d
from irnet_convert.layers.same import BinaryConv2dSame
from irnet_convert.layers.std import standardized


class BinaryScaledStdConv2d(BinaryConv2d):
    """BinaryConv2d in the place of timm's ScaledStdConv2d.

    Attributes:
        gain: learnable, (out, 1, 1, 1).
        fan_in_scale: the constant γ·n^-½, which timm's layer calls ``scale``.
        eps: timm's ε of the standardisation, for real weights.
    """

    takes_scale = False
    eps: float = 1e-6
    gain: nn.Parameter
    fan_in_scale: float

    def __init__(self, *args: Any, gamma: float = 1.0, gain_init: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fan_in_scale, self.gain_init = gamma * self.weight[0].numel() ** -0.5, gain_init
        self.gain = nn.Parameter(self.weight.new_full((self.out_channels, 1, 1, 1), gain_init))

    def _adopted(self) -> None:
        # The plain attribute would hide the parameter of that name.
        self.fan_in_scale = self.__dict__.pop("scale")

    def _factor(self) -> Tensor:
        # The product is taken in float32 where the gain is half.
        return self.gain.to(torch.promote_types(self.gain.dtype, torch.float32)) * self.fan_in_scale

    def _real_filters(self, filters: Tensor, *, at_factor: bool) -> Tensor:
        return super()._real_filters(standardized(filters, self.eps), at_factor=at_factor)

    def reset_parameters(self) -> None:
        """Latents and bias as nn.Conv2d, the gain to its initial value."""
        super().reset_parameters()
        if "gain" in self._parameters:
            nn.init.constant_(self.gain, self.gain_init)


class BinaryScaledStdConv2dSame(BinaryScaledStdConv2d, BinaryConv2dSame):
    """BinaryScaledStdConv2d with SAME padding, in the place of timm's ScaledStdConv2dSame."""
